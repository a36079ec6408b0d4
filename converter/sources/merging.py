"""Rows of stored weights with an adapter's matrices added: ``W + s B A``, in float32, where the checkpoint has them.

The sum stands in the checkpoint's place of ``W``, in its shape, before an architecture stacks, splits, transposes or
reorders anything: what becomes of the weights then becomes of the sum.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from converter.sources.dequantize.parts import Bands
from converter.sources.gathered import file_tensor
from converter.sources.stored import RowReader, StoredTensor
from converter.sources.views import View, contiguous_strides

if TYPE_CHECKING:
    import numpy.typing as npt

_TILE = 16
"""Rows of a product. Always as many, from multiples of it on, so that no bit depends on how the rows were asked for."""
_PASS = 1 << 20
"""Elements that are looked at in one go where a whole weight has to be measured."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices of an update: ``left`` is ``(rows, r)``, ``right`` ``(r, columns)``."""

    left: StoredTensor
    right: StoredTensor

    @property
    def transposed(self) -> Pair:
        return Pair(transposed(self.right), transposed(self.left))

    @property
    def n_bytes(self) -> int:
        """What both take as float32."""
        return 4 * (prod(self.left.shape) + prod(self.right.shape))


class MergedReader:
    """Rows of ``base + scale * left @ right``; a base of three dimensions has a pair for each of its matrices.

    With ``lengths``, stored float ``(n,)``, every row (or column, as ``lengths_of_columns`` has it) of a single matrix
    is then brought to its length: DoRA. ``bands`` keeps the right halves that were used last, for all readers of a
    model.
    """

    def __init__(
        self,
        base: StoredTensor,
        pairs: Sequence[Pair],
        scale: float,
        bands: Bands,
        lengths: StoredTensor | None = None,
        *,
        lengths_of_columns: bool = False,
    ) -> None:
        self._base, self._pairs, self._scale, self._bands = base, tuple(pairs), np.float32(scale), bands
        self._tensor = file_tensor(base, base.name)
        self._lefts = [file_tensor(pair.left, base.name) for pair in pairs]
        self._rights = [file_tensor(pair.right, base.name) for pair in pairs]
        self._height = self._tensor.n_rows // len(self._pairs)
        self._added = sum(left.n_bytes + right.n_bytes for left, right in zip(self._lefts, self._rights, strict=True))
        self._lengths = None if lengths is None else _Lengths(lengths, self, lengths_of_columns)
        self._other: MergedReader | None = None

    @property
    def working_bytes(self) -> int:
        """Memory that the largest right half takes, and what its base takes."""
        return 4 * max(right.n_elements for right in self._rights) + getattr(self._base.reader, "working_bytes", 0)

    def transposed(self) -> MergedReader:
        """The rows of the transposed weight (of each of its matrices)."""
        if self._other is None:
            pairs = [pair.transposed for pair in self._pairs]
            self._other = MergedReader(transposed(self._base), pairs, float(self._scale), self._bands)
            self._other._lengths = None if self._lengths is None else self._lengths.turned()
            self._other._other = self
        return self._other

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows as the bytes of float32. No bit of a row depends on which rows are asked for together."""
        out = self.sums(start, stop)
        if self._lengths is not None:
            self._lengths.bring(out, start)
        return out.view(np.uint8)

    def read_bytes(self, start: int, stop: int) -> int:
        """The base's bytes, and of the adapter's the part that falls to these rows."""
        rows = self._tensor.n_rows
        return self._tensor.read_bytes(start, stop) + self._added * stop // rows - self._added * start // rows

    def sums(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """The rows before they are brought to a length."""
        out = self._tensor.rows(start, stop)
        for number, first, last in self._matrices(start, stop):
            at = number * self._height - start
            self._add(number, first, last, out[at + first : at + last])
        return out

    def _matrices(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Which matrices these rows are in, and which of their rows they are."""
        while start < stop:
            number, first = divmod(start, self._height)
            last = min(self._height, first + stop - start)
            yield number, first, last
            start += last - first

    def _add(self, number: int, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        source = self._rights[number]
        right = self._bands.get((id(self), number), lambda: source.rows(0, source.n_rows), lambda kept: kept.nbytes)
        begin, end = start // _TILE * _TILE, -(-stop // _TILE) * _TILE
        left = np.zeros((end - begin, len(right)), np.float32)
        until = min(end, self._height)
        left[: until - begin] = self._lefts[number].rows(begin, until)
        for tile in range(begin, end, _TILE):
            first, last = max(start, tile), min(stop, tile + _TILE)
            with np.errstate(all="ignore"):  # what becomes infinite is refused where it is written, by name
                update = left[tile - begin : tile - begin + _TILE] @ right
                update *= self._scale
                out[first - start : last - start] += update[first - tile : last - tile]


class _Lengths:
    """The lengths that the rows (or columns) of a weight are brought to."""

    def __init__(self, stored: StoredTensor, reader: MergedReader, of_columns: bool) -> None:
        self._stored, self._reader, self._of_columns = stored, reader, of_columns
        self._lock = threading.Lock()
        self._factors: npt.NDArray[np.float32] | None = None
        self._kept: npt.NDArray[np.float32] | None = None

    def bring(self, rows: npt.NDArray[np.float32], start: int) -> None:
        """Changes rows from ``start`` on in place."""
        with np.errstate(all="ignore"):
            if self._of_columns:
                rows *= self.factors()
                return
            wanted = self._wanted()[start : start + len(rows)]
            rows *= (wanted / np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))).astype(np.float32)[:, None]

    def factors(self) -> npt.NDArray[np.float32]:
        """What every row or column is multiplied with: known once the whole weight was looked at."""
        with self._lock:
            if self._factors is None:
                with np.errstate(all="ignore"):
                    self._factors = (self._wanted() / np.sqrt(self._squares())).astype(np.float32)
            return self._factors

    def turned(self) -> _Turned:
        """The same for the transposed weight."""
        return _Turned(self, not self._of_columns)

    def _wanted(self) -> npt.NDArray[np.float32]:
        if self._kept is None:  # twice at once by two threads does no harm
            self._kept = file_tensor(self._stored, self._stored.name).rows(0, 1)[0]
        return self._kept

    def _squares(self) -> npt.NDArray[np.float64]:
        height, width = self._reader._tensor.n_rows, self._reader._tensor.n_cols
        step = max(1, _PASS // width)
        sums = np.zeros(width if self._of_columns else height, np.float64)
        for first in range(0, height, step):
            squares = np.square(self._reader.sums(first, min(first + step, height)), dtype=np.float64)
            if self._of_columns:
                sums += squares.sum(axis=0)
            else:
                sums[first : first + step] = squares.sum(axis=1)
        return sums


class _Turned(_Lengths):
    """Lengths that were measured in the other order."""

    def __init__(self, lengths: _Lengths, of_columns: bool) -> None:
        self._lengths, self._of_columns = lengths, of_columns

    def bring(self, rows: npt.NDArray[np.float32], start: int) -> None:
        factors = self._lengths.factors()
        with np.errstate(all="ignore"):
            rows *= factors if self._of_columns else factors[start : start + len(rows), None]


class _Gathered:
    """The columns of what a reader gives as rows, for readers that have no other way to them."""

    def __init__(self, stored: StoredTensor) -> None:
        outer = "e " if len(stored.shape) == 3 else ""
        self._stored = stored
        self._tensor = file_tensor(stored, stored.name, View(f"{outer}a b -> {outer}b a"))

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._tensor.raw(start, stop)

    def read_bytes(self, start: int, stop: int) -> int:
        return self._tensor.read_bytes(start, stop)

    def transposed(self) -> RowReader:
        assert self._stored.reader is not None
        return self._stored.reader


def merged_tensor(base: StoredTensor, reader: MergedReader) -> StoredTensor:
    """``base`` with the reader's rows, float32."""
    return replace(base, dtype="F32", strides=None, reader=reader)


def transposed(stored: StoredTensor) -> StoredTensor:
    """A tensor with its last two dimensions exchanged: other steps, or a reader's transposed one."""
    *leading, rows, columns = stored.shape
    shape = (*leading, columns, rows)
    if stored.reader is not None:
        turn = getattr(stored.reader, "transposed", None)
        return replace(stored, shape=shape, reader=turn() if turn is not None else _Gathered(stored))
    *outer, down, along = stored.strides or contiguous_strides(stored.shape)
    return replace(stored, shape=shape, strides=(*outer, along, down))


def matrix_of(stored: StoredTensor, number: int, of: int, *, by_rows: bool) -> StoredTensor:
    """One of ``of`` matrices that lie in ``stored`` ``(a, b)``: a run of its rows, or every ``of``-th column."""
    rows, columns = stored.shape
    down, along = stored.strides or contiguous_strides(stored.shape)
    if by_rows:
        shape, steps, first = (rows // of, columns), (down, along), number * (rows // of) * down
    else:
        shape, steps, first = (rows, columns // of), (down, along * of), number * along
    return _part(stored, shape, steps, first)


def rows_of(stored: StoredTensor, start: int, stop: int) -> StoredTensor:
    """Some rows of a matrix."""
    down, along = stored.strides or contiguous_strides(stored.shape)
    return _part(stored, (stop - start, stored.shape[1]), (down, along), start * down)


def _part(stored: StoredTensor, shape: tuple[int, ...], steps: tuple[int, ...], first: int) -> StoredTensor:
    item = {"F64": 8, "F32": 4}.get(stored.dtype, 2)
    return replace(stored, offset=stored.offset + first * item, shape=shape, strides=steps)
