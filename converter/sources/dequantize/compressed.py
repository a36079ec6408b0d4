"""compressed-tensors: integers in words, plain integers, or 8-bit floats, with scales for rows, groups or blocks.

Packed: ``weight_packed`` int32 ``(out, words)``, codes less half their range, from the lowest bit on without gaps (or,
as older versions did, as many as fit into a word whole); ``weight_shape`` ``(2,)``; ``weight_scale`` ``(out, groups)``;
perhaps ``weight_zero_point``, packed along the rows, and ``weight_g_idx`` ``(in,)``. Plain: ``weight`` int8 or FP8 with
``weight_scale`` and perhaps ``weight_zero_point`` int8. ``w = (code - zero) * scale``. Which weights are quantized, and
how, is taken from the tensors that are there; the groups of config.json tell the numbers of bits. Source: the
``compressed_tensors`` library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize import fp8
from converter.sources.dequantize.parts import (
    FLOATS,
    Checkpoint,
    Part,
    PartsDecoder,
    as_bytes,
    damaged,
    grouped,
    unpack,
)
from converter.sources.dequantize.scaled import FLOAT8, SCALES, Cut, ScaledDecoder, scale_numbers

if TYPE_CHECKING:
    import numpy.typing as npt

_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense",
    "mxfp8-quantized",
)  # fmt: skip
_GROUPS_LIMIT = 1024


def unsupported(settings: dict[str, Any]) -> str:
    """The name of a form that is not read; empty if all are."""
    formats = [settings.get("format"), *(group.get("format") for group in _groups(settings))]
    for each in formats:
        if each is not None and str(each).lower() not in _FORMATS:
            return f"compressed-tensors in the format {str(each)[:40]!r}"
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense"):
        return f"compressed-tensors with the sparsity {str(sparsity.get('format'))[:40]!r}"
    transforms = settings.get("transform_config")
    if isinstance(transforms, dict) and transforms.get("config_groups"):
        return "compressed-tensors with rotations of the activations"
    return ""


def _groups(settings: dict[str, Any]) -> list[dict[str, Any]]:
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or len(groups) > _GROUPS_LIMIT:
        return []
    return [group for group in groups.values() if isinstance(group, dict)]


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    schemes = [scheme for group in _groups(settings) if isinstance(scheme := group.get("weights"), dict)]
    bits = _bits(schemes)
    blocks = {tuple(b) for s in schemes if isinstance(b := s.get("block_structure"), list) and _is_pair(b)}
    block = blocks.pop() if len(blocks) == 1 else None
    for module in checkpoint.ending(".weight_packed"):
        checkpoint.put(f"{module}.weight", _packed(checkpoint, module, bits))
    for name in checkpoint.of_kind("I8", *FLOAT8):
        if name.endswith("weight"):
            checkpoint.put(name, _plain(checkpoint, name, block))
    fp8.drop_activations(checkpoint)


def _bits(schemes: list[dict[str, Any]]) -> list[int]:
    bits = {scheme.get("num_bits", 8) for scheme in schemes}
    if not all(type(number) is int and 1 <= number <= 8 for number in bits):
        raise damaged("config.json", f"a group has {', '.join(str(number)[:20] for number in bits)} bits, not 1 to 8")
    return sorted(bits)


def _is_pair(sizes: list[Any]) -> bool:
    return len(sizes) == 2 and all(type(size) is int and 0 < size <= 1 << 20 for size in sizes)


def _plain(checkpoint: Checkpoint, name: str, block: tuple[int, ...] | None) -> PartsDecoder:
    weight = checkpoint.take(name)
    if len(weight.shape) < 2:
        raise damaged(name, f"it has the shape {list(weight.shape)}")
    scales = checkpoint.take(f"{name}_scale").of(*SCALES)
    zeros = checkpoint.take_if_there(f"{name}_zero_point")
    checkpoint.drop(f"{name}_shape")
    order = checkpoint.take_if_there(f"{name}_g_idx")
    if order is not None and int(order.of("I32", "I64").whole().max()) >= 0:
        raise damaged(order.name, "plain integers with an order of groups are not known")
    in_blocks = block and scales.shape[-2:] == tuple(-(-n // b) for n, b in zip(weight.shape[-2:], block, strict=True))
    cut = Cut(scales, weight.shape, (block[0], block[1]) if block and in_blocks else None)
    if zeros is None:
        return ScaledDecoder(name, weight, cut)
    return ScaledDecoder(name, weight, cut, Cut(zeros.of("I8", "I32", "I64"), weight.shape))


def _packed(checkpoint: Checkpoint, module: str, known: list[int]) -> _Packed:
    packed = checkpoint.take(f"{module}.weight_packed").of("I32")
    size = checkpoint.take(f"{module}.weight_shape").of("I64", "I32")
    scales = checkpoint.take(f"{module}.weight_scale").of(*FLOATS)
    zeros = checkpoint.take_if_there(f"{module}.weight_zero_point")
    order = checkpoint.take_if_there(f"{module}.weight_g_idx")
    if size.size > 3:
        raise damaged(size.name, f"it has {size.size} numbers")
    shape = tuple(int(number) for number in size.flat(0, size.size))
    if len(shape) != len(packed.shape) or shape[:-1] != packed.shape[:-1] or shape[-1] < 1:
        raise damaged(module, f"weight_shape is {list(shape)} and weight_packed has the shape {list(packed.shape)}")
    choices = [
        (bits, dense)
        for dense in (True, False)
        for bits in known
        if packed.n_cols == _words(shape[-1], bits, dense=dense)
    ]
    if not choices:
        shown = ", ".join(map(str, known)) or "no known number of"
        raise damaged(module, f"{packed.n_cols} words hold no {shape[-1]} codes of {shown} bits")
    bits, dense = choices[0]
    if scales.size == 1 or scales.shape == shape[:-1]:
        groups = 1
    elif scales.shape[:-1] == shape[:-1]:
        groups = scales.n_cols
    else:
        raise damaged(scales.name, f"its shape is {list(scales.shape)} for a weight of {list(shape)}")
    if shape[-1] % groups:
        raise damaged(module, f"{groups} groups do not divide its {shape[-1]} columns")
    return _Packed(module, shape, (packed, scales, zeros), order, bits=bits, dense=dense, groups=groups)


def _words(count: int, bits: int, *, dense: bool) -> int:
    """Words that some codes take, without gaps or with whole codes only."""
    return -(-count * bits // 32) if dense else -(-count // (32 // bits))


class _Packed(PartsDecoder):
    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        parts: tuple[Part, Part, Part | None],
        order: Part | None,
        *,
        bits: int,
        dense: bool,
        groups: int,
    ) -> None:
        packed, scales, zeros = parts
        super().__init__(name, shape, (packed, scales) if zeros is None else (packed, scales, zeros))
        self.bits, self._dense, self._groups = bits, dense, groups
        self._packed, self._scales, self._zeros = packed, scales, zeros
        self._order = order
        if order is not None:
            order.of("I32", "I64").shaped(self.n_cols)
        if zeros is not None and zeros.dtype == "I32":
            self._check_zeros(zeros)
        elif zeros is not None and (zeros.dtype != "I8" or zeros.size != scales.size):
            raise damaged(zeros.name, f"it is {zeros.dtype} of the shape {list(zeros.shape)}")

    def _check_zeros(self, zeros: Part) -> None:
        rows = self.shape[-2]
        wanted = [(*self.shape[:-2], _words(rows, self.bits, dense=dense), self._groups) for dense in (True, False)]
        if zeros.shape not in wanted:
            raise damaged(zeros.name, f"its shape is {list(zeros.shape)}, not {list(wanted[0])}")
        self._dense_zeros = zeros.shape == wanted[0]

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        codes = self._codes(self._packed.rows(start, stop), self.n_cols, dense=self._dense)
        scales = self._read_scales(start, stop)
        zeros = self._read_zeros(start, stop)
        order = None if self._order is None else self._read_order(self._order)
        if order is None:
            grouped(codes, scales, zeros, self.n_cols // self._groups, out)
            return
        np.subtract(codes, zeros if np.isscalar(zeros) else zeros[:, order], out=out, casting="unsafe")  # type: ignore[index]
        out *= scales[:, order]

    def _codes(self, words: npt.NDArray[Any], count: int, *, dense: bool) -> npt.NDArray[np.uint8]:
        if dense:
            return unpack(as_bytes(words), self.bits, count)
        per = 32 // self.bits
        shifts = np.arange(per, dtype=np.uint32) * np.uint32(self.bits)
        codes = words.view(np.uint32)[..., None] >> shifts & np.uint32((1 << self.bits) - 1)
        return codes.astype(np.uint8).reshape(len(words), -1)[:, :count]

    def _read_scales(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        if self._scales.size == 1:
            return np.broadcast_to(scale_numbers(self._scales.flat(0, 1), self._scales.dtype), (stop - start, 1))
        stored = self._scales.flat(start * self._groups, stop * self._groups).reshape(-1, self._groups)
        return scale_numbers(stored, self._scales.dtype)

    def _read_zeros(self, start: int, stop: int) -> npt.NDArray[Any] | float:
        """Zeros as codes: both are stored less half their range, which cancels out."""
        half = 1 << (self.bits - 1)
        if self._zeros is None:
            return float(half)
        if self._zeros.dtype == "I8":
            if self._zeros.size == 1:
                return float(self._zeros.flat(0, 1)[0]) + half
            stored = self._zeros.flat(start * self._groups, stop * self._groups).reshape(-1, self._groups)
            return stored.astype(np.float32) + half
        # Packed along the rows of each matrix; the words of one matrix are small.
        rows, words = self.shape[-2], self._zeros.shape[-2]
        found = []
        for matrix in range(start // rows, -(-stop // rows)):
            first, last = max(start - matrix * rows, 0), min(stop - matrix * rows, rows)
            packed = self._zeros.rows(matrix * words, (matrix + 1) * words)
            codes = self._codes(np.ascontiguousarray(packed.T), rows, dense=self._dense_zeros)
            found.append(codes[:, first:last].T)
        return np.concatenate(found)

    def _read_order(self, part: Part) -> npt.NDArray[np.int64] | None:
        """The group of every column; None where it is not used (minus ones)."""
        order = part.whole().astype(np.int64)
        if (order == -1).all():
            return None
        if order.min() < 0 or order.max() >= self._groups:
            raise damaged(part.name, f"it names group {int(order.max())} of {self._groups}")
        return order
