"""Codes that are numbers themselves (8-bit floats, integers) times a scale for a tensor, a row, a group or a block."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.parts import Part, PartsDecoder, damaged, grouped, widened

if TYPE_CHECKING:
    import numpy.typing as npt

FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SCALES = ("F32", "BF16", "F16", "F8_E8M0", "U8")
"""What scales are stored as. Bytes are exponents of two, as in the Open Compute Project's microscaling formats."""


@cache
def float8_table(dtype: str) -> npt.NDArray[np.float32]:
    """What each byte of an 8-bit float means, ``(256,)``.

    Open Compute Project's OFP8: E4M3 (bias 7, no infinities, NaN where all bits but the sign are set) and E5M2 (the
    upper half of a float16). The FNUZ kinds of Graphcore and AMD: bias one more, no negative zero, NaN in its place.
    """
    codes = np.arange(256)
    if dtype == "F8_E5M2":
        halves: npt.NDArray[np.float32] = (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
        return halves
    digits = 2 if dtype == "F8_E5M2FNUZ" else 3
    bias = {"F8_E4M3": 7, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 16}[dtype]
    exponent, fraction = (codes & 127) >> digits, codes & ((1 << digits) - 1)
    normal = exponent > 0
    value = np.ldexp((normal << digits) + fraction, np.maximum(exponent, 1) - bias - digits)
    signed: npt.NDArray[np.float32] = np.where(codes & 128, -value, value).astype(np.float32)
    if dtype == "F8_E4M3":
        signed[[127, 255]] = np.nan
    else:
        signed[128] = np.nan
    return signed


@cache
def exponent_table() -> npt.NDArray[np.float32]:
    """E8M0: a byte is the exponent of a power of two, with bias 127; 255 is NaN."""
    table: npt.NDArray[np.float32] = np.ldexp(np.float32(1), np.arange(256) - 127).astype(np.float32)
    table[255] = np.nan
    return table


def scale_numbers(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Stored scales as float32."""
    if dtype in ("F8_E8M0", "U8"):
        powers: npt.NDArray[np.float32] = exponent_table()[values]
        return powers
    return widened(values, dtype)


class Cut:
    """A part with one element for each block that the last two dimensions of a weight are cut into.

    ``block`` is what config.json says of the blocks' size; None where the shapes say it: one element for all, for each
    row, or for equal parts of rows and columns. ``width`` is how many columns share an element.
    """

    def __init__(self, part: Part, shape: tuple[int, ...], block: tuple[int, int] | None = None) -> None:
        self.part = part
        rows, columns = shape[-2] if len(shape) > 1 else 1, shape[-1]
        found, leading = part.shape, shape[:-2]
        height, width = rows, columns
        if part.size == 1:
            found, rows, height = (1, 1), prod(shape[:-1]), prod(shape[:-1])
        elif found in (shape[:-1], (*shape[:-1], 1)):
            found, height = (*shape[:-1], 1), 1
        elif leading and found in (leading, (*leading, 1, 1)):
            found = (*leading, 1, 1)
        elif len(found) == len(shape) and found[:-2] == leading:
            if block is None and (rows % found[-2] or columns % found[-1]):
                raise damaged(
                    part.name, f"its shape {list(part.shape)} does not divide {list(shape)} into equal blocks"
                )
            height, width = block or (rows // found[-2], columns // found[-1])
        if found[-2:] != (-(-rows // height), -(-columns // width)):
            raise damaged(part.name, f"its shape is {list(part.shape)} for a weight of {list(shape)}")
        self._rows, self._height, self.width = rows, height, width
        self._per_matrix, self._columns = found[-2], found[-1]

    @property
    def in_blocks(self) -> bool:
        """Whether an element belongs to a part of a row, or to some rows of several such parts."""
        return self._columns > 1 or self._height not in (1, self._rows)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """What belongs to rows ``start`` to ``stop``, as it is stored: ``(stop - start, groups)``."""
        row = np.arange(start, stop)
        index = row // self._rows * self._per_matrix + row % self._rows // self._height
        first, last = int(index[0]), int(index[-1]) + 1
        stored = self.part.flat(first * self._columns, last * self._columns).reshape(-1, self._columns)
        found: npt.NDArray[Any] = stored[index - first]
        return found


class ScaledDecoder(PartsDecoder):
    """``w = (code - zero) * scale``, codes being integers or 8-bit floats."""

    bits = 8

    def __init__(self, name: str, weight: Part, scales: Cut | None, zeros: Cut | None = None) -> None:
        cuts = tuple(cut.part for cut in (scales, zeros) if cut is not None)
        super().__init__(name, weight.shape, (weight, *cuts))
        self._weight, self._scales, self._zeros = weight, scales, zeros
        if scales is not None and zeros is not None and zeros.width not in (scales.width, weight.n_cols):
            raise damaged(zeros.part.name, f"its shape is {list(zeros.part.shape)}, and the scales' is another")

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        codes = self._weight.rows(start, stop)
        if self._weight.dtype in FLOAT8:
            np.take(float8_table(self._weight.dtype), codes, out=out, mode="clip")
            codes = out
        if self._scales is None:
            out[:] = codes
            return
        scales = scale_numbers(self._scales.read(start, stop), self._scales.part.dtype)
        zeros: npt.NDArray[Any] | float = 0.0
        if self._zeros is not None:
            zeros = self._zeros.read(start, stop)
            if self._zeros.width != self._scales.width:
                zeros = np.broadcast_to(zeros, scales.shape)
        grouped(codes, scales, zeros, self._scales.width, out)
