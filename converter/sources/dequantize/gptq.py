"""GPTQ: codes packed along the input features, in columns of 32-bit words.

``qweight`` is ``(in * bits / 32, out)``, ``qzeros`` ``(groups, out * bits / 32)``, ``scales`` ``(groups, out)``; the
optional ``g_idx`` ``(in,)`` says which group an input belongs to (act-order). Codes fill the words from the lowest bit
on; three-bit codes cross from one word into the next. ``w = scale * (code - zero)``. Format 1 (``gptq``) stores each
zero less one, format 2 (``gptq_v2``) as it is. Source: AutoGPTQ's ``QuantLinear``, GPTQModel's ``dequantize_weight``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.parts import (
    FLOATS,
    WORDS,
    BandedDecoder,
    Bands,
    Checkpoint,
    Part,
    as_bytes,
    damaged,
    grouped,
    unpack,
    whole_number,
)

if TYPE_CHECKING:
    import numpy.typing as npt

BITS = (2, 3, 4, 8)
_FORMATS = {"gptq": 1, "gptq_v2": 0}
"""What has to be added to a stored zero."""


def unsupported(settings: dict[str, Any]) -> str:
    """The name of a form of GPTQ that is not read; empty if it is."""
    layout = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    if settings.get("is_marlin_format"):
        layout = "marlin"
    return "" if layout in _FORMATS else f"GPTQ in the layout {layout[:40]!r}"


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    layout = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    bits = whole_number(settings, "bits", None, 1, 64)
    if bits not in BITS:
        raise damaged("config.json", f"GPTQ has 2, 3, 4 or 8 bits, not {bits}")
    whole_number(settings, "group_size", -1, -1, 1 << 30)
    plus_one = _FORMATS[layout]
    for module in checkpoint.ending(".qweight"):
        checkpoint.put(
            f"{module}.weight", _module(checkpoint, module, bits, plus_one, plus_one == 1 and _by_words(settings))
        )


def _by_words(settings: dict[str, Any]) -> bool:
    """Whether one was subtracted from whole words, with a borrow where a zero was 0: GPTQModel writes so."""
    meta = settings.get("meta")
    made_by = meta.get("quantizer") if isinstance(meta, dict) else None
    return "gptqmodel" in str(made_by)[:200].lower()


def _module(checkpoint: Checkpoint, module: str, bits: int, plus_one: int, by_words: bool) -> _Gptq:
    weight = checkpoint.take(f"{module}.qweight").of(*WORDS)
    zeros = checkpoint.take(f"{module}.qzeros").of(*WORDS)
    scales = checkpoint.take(f"{module}.scales").of(*FLOATS)
    order = checkpoint.take_if_there(f"{module}.g_idx")
    if len(weight.shape) != 2 or len(scales.shape) != 2:
        raise damaged(module, f"qweight has the shape {list(weight.shape)} and scales {list(scales.shape)}")
    if order is not None:
        # Layers may differ in their bits (GPTQModel's "dynamic" rules); the lengths say how many they have.
        bits = next((b for b in BITS if order.size * b == weight.n_rows * 32), bits)
    columns = weight.n_rows * 32 // bits
    if columns * bits != weight.n_rows * 32:
        raise damaged(module, f"{weight.n_rows} words hold no whole number of {bits}-bit codes")
    groups, rows = scales.shape
    weight.shaped(weight.n_rows, rows)
    zeros.shaped(groups, -(-rows * bits // 32))
    if order is not None:
        order.of("I32", "I64").shaped(columns)
    if groups > columns:
        raise damaged(module, f"it has {groups} groups for {columns} columns")
    return _Gptq(
        module,
        (rows, columns),
        (weight, zeros, scales),
        order,
        bits=bits,
        plus_one=plus_one,
        by_words=by_words,
        bands=checkpoint.bands,
    )


class _Gptq(BandedDecoder):
    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        parts: tuple[Part, Part, Part],
        order: Part | None,
        *,
        bits: int,
        plus_one: int,
        by_words: bool,
        bands: Bands,
    ) -> None:
        self._weight, self._zeros, self._scales = parts
        groups = self._scales.n_rows
        super().__init__(name, shape, parts, bands=bands, row_bytes=self._weight.n_rows * 4 + groups * 8, align=32)
        self.bits = bits
        self._order, self._plus_one, self._by_words = order, plus_one, by_words
        self._group_size = -(-self.n_cols // groups)

    def gather(self, first: int, last: int) -> tuple[npt.NDArray[Any], ...]:
        """Codes as bytes ``(rows, bytes)``, zeros and scales ``(rows, groups)``."""
        words = self._weight.columns(first, last)
        return as_bytes(words), self._read_zeros(first, last), self._scales.float_columns(first, last)

    def _read_zeros(self, first: int, last: int) -> npt.NDArray[np.float32]:
        """Bands begin at multiples of 32 rows, where also three-bit codes begin a word."""
        begin, end = first * self.bits // 32, -(-last * self.bits // 32)
        words = np.ascontiguousarray(self._zeros.columns(begin, end).T).view(np.uint32)
        if self._by_words:
            words = words + _ones(self.bits, words.shape[1])
        codes = unpack(as_bytes(words), self.bits, last - first)
        return np.ascontiguousarray(codes.T).astype(np.float32) + (0 if self._by_words else self._plus_one)

    def decode_band(
        self, band: tuple[npt.NDArray[Any], ...], start: int, stop: int, out: npt.NDArray[np.float32]
    ) -> None:
        packed, zeros, scales = (each[start:stop] for each in band)
        codes = unpack(packed, self.bits, self.n_cols)
        order = self._read_order()
        if order is None:
            grouped(codes, scales, zeros, self._group_size, out)
        else:
            np.subtract(codes, zeros[:, order], out=out, dtype=np.float32, casting="unsafe")
            out *= scales[:, order]

    def _read_order(self) -> npt.NDArray[np.int64] | None:
        """The group of every column; None where they follow each other."""
        if self._order is None:
            return None
        part = self._order
        (found,) = self.bands.get((id(self), "order"), lambda: (self._checked(part),), lambda kept: kept[0].nbytes)
        return found if len(found) else None

    def _checked(self, part: Part) -> npt.NDArray[np.int64]:
        order = part.whole().astype(np.int64)
        groups = self._scales.n_rows
        order = np.where(order < 0, order + groups, order)  # as torch counts from the end
        if order.min() < 0 or order.max() >= groups:
            raise damaged(part.name, f"it names group {int(part.whole().max())} of {groups}")
        if np.array_equal(order, np.arange(self.n_cols) // self._group_size):
            return order[:0]
        return order


def _ones(bits: int, words: int) -> npt.NDArray[np.uint32]:
    """One in every code of some words."""
    values = np.zeros(words, np.uint32)
    for code in range(words * 32 // bits):
        values[code * bits // 32] += np.uint32(1 << code * bits % 32)
    return values
