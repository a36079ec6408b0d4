"""bitsandbytes: NF4 and FP4 (with plain or quantized absmax), and LLM.int8().

Four-bit: ``weight`` is a run of bytes with two codes each, the first one in the high bits; blocks of neighbours share
an ``absmax``; ``quant_map`` are the sixteen numbers that codes mean; ``quant_state.bitsandbytes__nf4`` (or ``fp4``) is
JSON in bytes with the block size and the weight's shape. ``w = quant_map[code] * absmax``. With double quantization
``absmax`` are bytes: ``nested_quant_map[byte] * nested_absmax + nested_offset``. Eight-bit: ``weight`` int8
``(out, in)`` and ``SCB`` ``(out,)``, ``w = code * SCB / 127``. Source: ``QuantState`` and ``int8_vectorwise_dequant``
of the bitsandbytes library.
"""

from __future__ import annotations

import math
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.parts import Checkpoint, Part, PartsDecoder, damaged, whole_number, widened
from converter.sources.files import parse_json

if TYPE_CHECKING:
    import numpy.typing as npt

_KINDS = ("nf4", "fp4")
_STATE = "quant_state.bitsandbytes__"
_STATE_LIMIT = 1 << 16
_LARGEST_BLOCK = 1 << 16
_RECIPROCAL = np.float32(7.874015718698502e-3)


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    for kind in _KINDS:
        for weight in checkpoint.ending(f".{_STATE}{kind}"):
            checkpoint.put(weight, _four_bit(checkpoint, weight, kind))
    for module in checkpoint.ending(".SCB"):
        checkpoint.put(f"{module}.weight", _eight_bit(checkpoint, module))


def _eight_bit(checkpoint: Checkpoint, module: str) -> PartsDecoder:
    weight = checkpoint.take(f"{module}.weight").of("I8")
    scales = checkpoint.take(f"{module}.SCB").of("F32", "F16", "BF16")
    layout = checkpoint.take_if_there(f"{module}.weight_format")
    if len(weight.shape) != 2 or scales.size != weight.n_rows:
        raise damaged(module, f"weight has the shape {list(weight.shape)} and SCB {list(scales.shape)}")
    if layout is not None and (layout.size != 1 or int(layout.whole().reshape(-1)[0])):
        raise damaged(module, "its rows are arranged for a graphics card")
    return _Int8(module, weight, scales)


class _Int8(PartsDecoder):
    bits = 8

    def __init__(self, name: str, weight: Part, scales: Part) -> None:
        super().__init__(name, weight.shape, (weight, scales))
        self._weight, self._scales = weight, scales

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        scales = widened(self._scales.flat(start, stop), self._scales.dtype)
        np.multiply(self._weight.rows(start, stop), scales[:, None], out=out)
        out *= _RECIPROCAL


def _four_bit(checkpoint: Checkpoint, weight: str, kind: str) -> PartsDecoder:
    state = _read_state(checkpoint.take(f"{weight}.{_STATE}{kind}"))
    shape = state.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2, 3)
        or not all(type(n) is int and 0 < n < 1 << 32 for n in shape)
    ):
        raise damaged(weight, f"its quant_state gives the shape {str(shape)[:80]}")
    block = whole_number(state, "blocksize", None, 2, _LARGEST_BLOCK)
    packed = checkpoint.take(weight)
    count = prod(shape)
    if block % 2 or count > 2 * packed.n_bytes or packed.n_bytes > count // 2 + 2:
        raise damaged(weight, f"{packed.n_bytes} bytes hold no {count} codes in blocks of {block}")
    codes = checkpoint.take(f"{weight}.quant_map").of("F32")
    if codes.size != 16:
        raise damaged(codes.name, f"it has {codes.size} numbers, not 16")
    scales = checkpoint.take(f"{weight}.absmax")
    blocks = -(-count // block)
    if scales.size != blocks:
        raise damaged(scales.name, f"it has {scales.size} numbers for {blocks} blocks")
    nested = _nested(checkpoint, weight, state, scales) if scales.dtype == "U8" else None
    if nested is None:
        scales.of("F32", "F16", "BF16")
    parts = (packed, codes, scales)
    return _FourBit(weight, tuple(shape), parts, block=block, nested=nested, signed=kind == "fp4")


def _read_state(part: Part) -> dict[str, Any]:
    if part.of("U8").size > _STATE_LIMIT:
        raise damaged(part.name, f"it has {part.size} bytes; at most {_STATE_LIMIT} are read")
    return parse_json(part.flat(0, part.size).tobytes(), part.name[-120:], "bad_quantization")


def _nested(checkpoint: Checkpoint, weight: str, state: dict[str, Any], scales: Part) -> _Nested:
    size = whole_number(state, "nested_blocksize", None, 1, _LARGEST_BLOCK)
    offset: Any = state.get("nested_offset")
    if type(offset) not in (int, float) or not math.isfinite(offset):
        raise damaged(weight, f"its nested_offset is {str(offset)[:40]!r}")
    codes = checkpoint.take(f"{weight}.nested_quant_map").of("F32")
    largest = checkpoint.take(f"{weight}.nested_absmax").of("F32")
    if codes.size != 256 or largest.size != -(-scales.size // size):
        raise damaged(weight, f"it has {codes.size} nested codes, and {largest.size} blocks for {scales.size} absmax")
    return _Nested(scales, codes, largest, size, float(offset))


class _Nested:
    """``absmax`` that were quantized themselves."""

    def __init__(self, scales: Part, codes: Part, largest: Part, size: int, offset: float) -> None:
        self._scales, self._codes, self._largest = scales, codes, largest
        self._size, self._offset = size, np.float32(offset)

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        numbers: npt.NDArray[np.float32] = self._codes.flat(0, 256)[self._scales.flat(start, stop)]
        first = start // self._size
        largest = self._largest.flat(first, -(-stop // self._size))
        numbers *= largest[np.arange(start, stop) // self._size - first]
        numbers += self._offset
        return numbers


class _FourBit(PartsDecoder):
    bits = 4

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        parts: tuple[Part, Part, Part],
        *,
        block: int,
        nested: _Nested | None,
        signed: bool,
    ) -> None:
        super().__init__(name, shape, parts)
        self._signed = signed
        self._packed, self._codes, self._scales = parts
        self._block, self._nested = block, nested

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        """Whole blocks, of which the first and the last may be wanted by a part."""
        count = self.n_rows * self.n_cols
        begin, end = start * self.n_cols, stop * self.n_cols
        first, last = begin // self._block, -(-end // self._block)
        low, high = first * self._block, min(last * self._block, count)
        pairs = np.take(self._pairs(), self._byte_range(low // 2, -(-high // 2)), mode="clip")
        numbers = pairs.view(np.float32)[: high - low]
        scales = self._read_scales(first, last)
        if len(numbers) == len(scales) * self._block:
            blocks = numbers.reshape(-1, self._block)
            blocks *= scales[:, None]
        else:
            numbers *= np.repeat(scales, self._block)[: len(numbers)]
        out[:] = numbers[begin - low : end - low].reshape(out.shape)

    def _pairs(self) -> npt.NDArray[np.uint64]:
        """The two numbers that each byte stands for, as the bits of both together: ``(256,)``."""
        codes = self._codes.flat(0, 16)
        if self._signed:
            codes = codes.copy()
            codes[8] = -codes[0]  # the library's kernels give FP4's negative zero its sign, its table has none
        both = np.stack([np.repeat(codes, 16), np.tile(codes, 16)], axis=1)
        return np.ascontiguousarray(both, np.float32).view(np.uint64).reshape(-1)

    def _byte_range(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        # Newer versions may store the bytes as 16 or 32 bits at a time.
        stored = self._packed.stored
        if stored.strides is not None:
            raise damaged(self.name, "its bytes lie apart in the file")
        return stored.file.view(stored.offset + start, stop - start)

    def _read_scales(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        if self._nested is not None:
            return self._nested.read(start, stop)
        return widened(self._scales.flat(start, stop), self._scales.dtype)
