"""AQLM: every group of neighbouring weights is a sum of vectors from codebooks, times a scale for each row of groups.

``codes`` are signed integers ``(out_groups, in_groups, codebooks)``, taken modulo the codebook's size; ``codebooks``
``(codebooks, size, out_group_size, in_group_size)``; ``scales`` ``(out_groups, 1, 1, 1)``. Source:
``_dequantize_weight`` of the aqlm library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.parts import FLOATS, Bands, Checkpoint, Part, PartsDecoder, damaged, widened

if TYPE_CHECKING:
    import numpy.typing as npt

_CODES = ("I8", "I16", "I32", "I64")
_LARGEST_BOOK = 1 << 16


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    for module in checkpoint.ending(".codebooks"):
        codes = checkpoint.take(f"{module}.codes").of(*_CODES)
        books = checkpoint.take(f"{module}.codebooks").of(*FLOATS)
        scales = checkpoint.take(f"{module}.scales").of(*FLOATS)
        if len(codes.shape) != 3 or len(books.shape) != 4 or codes.shape[2] != books.shape[0]:
            raise damaged(module, f"codes have the shape {list(codes.shape)} and codebooks {list(books.shape)}")
        size = books.shape[1]
        if size & (size - 1) or size > _LARGEST_BOOK:
            raise damaged(books.name, f"its codebooks have {size} vectors, no power of two up to {_LARGEST_BOOK}")
        if scales.size != codes.shape[0]:
            raise damaged(scales.name, f"it has {scales.size} scales for {codes.shape[0]} rows of groups")
        checkpoint.put(f"{module}.weight", _Aqlm(module, codes, books, scales, checkpoint.bands))


class _Aqlm(PartsDecoder):
    def __init__(self, name: str, codes: Part, books: Part, scales: Part, bands: Bands) -> None:
        rows, columns, self._count = codes.shape
        _, self._size, self._height, self._width = books.shape
        super().__init__(name, (rows * self._height, columns * self._width), (codes, books, scales))
        self._codes, self._books, self._scales, self._bands = codes, books, scales, bands
        self._columns = columns
        self.working_bytes = bands.working_bytes + 4 * books.size

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        books = self._bands.get((id(self), "books"), self._read_books, lambda kept: kept.nbytes)
        first, last = start // self._height, -(-stop // self._height)
        # (rows of groups, groups in a row, codebooks)
        stored = self._codes.rows(first * self._columns, last * self._columns)
        codes = stored.astype(np.int64) & (self._size - 1)
        total = books[0][codes[:, 0]]
        for number in range(1, self._count):
            total += books[number][codes[:, number]]
        groups = total.reshape(last - first, self._columns, self._height, self._width)
        groups *= widened(self._scales.flat(first, last), self._scales.dtype)[:, None, None, None]
        rows = groups.swapaxes(1, 2).reshape(-1, self.n_cols)
        out[:] = rows[start - first * self._height : stop - first * self._height]

    def _read_books(self) -> npt.NDArray[np.float32]:
        """All vectors as float32, ``(codebooks, size, out_group_size * in_group_size)``."""
        return widened(self._books.whole(), self._books.dtype).reshape(self._count, self._size, -1)
