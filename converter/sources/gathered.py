"""Tensors put together from others: views of a stored one, several stacked, numbers changed on the way.

Nothing is ever gathered as a whole: rows come in the slabs that are asked for, and a view that jumps through its file
is read in pieces of a megabyte. Where the rows asked for lie in one piece, they are a view of the file's map.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from converter.sources.base import SourceTensor
from converter.sources.stored import TurnedReader
from converter.sources.tensors import ALIGNMENT, PIECE, FileTensor, counted_as, widen
from converter.sources.types import BY_NAME
from converter.sources.views import Dims, Placed, View, boxes, placed

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.files import ByteFile
    from converter.sources.stored import RowReader, StoredTensor

_Items = Any
"""An array of unsigned integers of an element's size: bytes that are moved and not looked into."""


_T = TypeVar("_T", np.float32, np.uint8)
_Change = Callable[["npt.NDArray[np.float32]"], "npt.NDArray[np.float32]"]


class _Elements(Protocol):
    """A stored tensor's elements by their row-major numbers."""

    def piece(self, element: int, count: int) -> npt.NDArray[np.uint8] | None:
        """A run of elements as bytes without a copy; None where there is none."""
        ...

    def copy(self, element: int, dims: Dims, out: _Items) -> None:
        """Elements in a box from ``element`` on into ``out``, whose shape is the box's."""
        ...

    def release(self, element: int, count: int) -> None: ...

    def read_bytes(self, element: int, dims: Dims) -> int: ...


class _InFile:
    """Elements that lie in a file, ``item`` bytes each."""

    def __init__(self, file: ByteFile, offset: int, item: int, alignment: int) -> None:
        self._file, self._offset, self._item = file, offset, item
        self._aligned = offset % alignment == 0

    def piece(self, element: int, count: int) -> npt.NDArray[np.uint8] | None:
        return self._file.view(*self._range(element, count)) if self._aligned else None

    def copy(self, element: int, dims: Dims, out: _Items) -> None:
        span = 1 + sum((n - 1) * step for n, step in dims)
        if span * self._item <= PIECE or not dims:
            where = self._range(element, span)
            piece = self._file.view(*where).view(out.dtype)
            steps = tuple(step * self._item for _, step in dims)
            out[...] = np.lib.stride_tricks.as_strided(piece, out.shape, steps, writeable=False)
            self._file.release(*where)
            return
        # The axis that reaches farthest is cut until a piece of the file is small; the others stay whole.
        axis = max(range(len(dims)), key=lambda at: (dims[at][0] - 1) * dims[at][1])
        length, step = dims[axis]
        others = span - (length - 1) * step
        many = max(1, min(length - 1, (PIECE // self._item - others) // step + 1))
        for first in range(0, length, many):
            last = min(first + many, length)
            box = tuple((last - first, step) if at == axis else dim for at, dim in enumerate(dims))
            part = (slice(None),) * axis + (slice(first, last),)
            if last - first == 1:  # an axis of one index goes, so that another one is cut next
                box = tuple(dim for at, dim in enumerate(box) if at != axis)
                part = (slice(None),) * axis + (first,)
            self.copy(element + first * step, box, out[(*part, ...)])

    def release(self, element: int, count: int) -> None:
        self._file.release(*self._range(element, count))

    def read_bytes(self, element: int, dims: Dims) -> int:
        return prod(n for n, _ in dims) * self._item

    def _range(self, element: int, count: int) -> tuple[int, int]:
        return self._offset + element * self._item, count * self._item


class _InRows:
    """Elements that a reader makes, whole rows of ``width`` at a time."""

    def __init__(self, reader: RowReader, width: int, item: int) -> None:
        self._reader, self._width, self._item = reader, max(width, 1), item

    def piece(self, element: int, count: int) -> npt.NDArray[np.uint8] | None:
        if element % self._width or count % self._width:
            return None
        return self._reader.read(element // self._width, (element + count) // self._width).reshape(-1)

    def copy(self, element: int, dims: Dims, out: _Items) -> None:
        down, along = self._sorted(dims)
        rows, columns = self._numbers(element, dims)
        target = out.transpose(*down, *along) if down else out.transpose(along)[None]
        leading = target.shape[: max(len(down), 1)]
        order = np.argsort(rows, kind="stable")
        inorder = rows[order]
        step = max(1, PIECE // (self._width * self._item))
        begin = 0
        while begin < len(order):
            first = int(inorder[begin])
            end = int(np.searchsorted(inorder, first + step))
            block = self._reader.read(first, int(inorder[end - 1]) + 1).view(out.dtype)
            chosen = block[inorder[begin:end] - first][:, columns.reshape(-1)]
            target[np.unravel_index(order[begin:end], leading)] = chosen.reshape(-1, *columns.shape)
            begin = end

    def release(self, element: int, count: int) -> None:
        """Nothing: what was read is the reader's own."""

    def read_bytes(self, element: int, dims: Dims) -> int:
        rows, columns = self._numbers(element, dims)
        found, times = np.unique(rows, return_counts=True)
        if columns.size < self._width or times.max() > 1:  # a part of each row, which so costs a part of it
            return sum(
                many * (self._reader.read_bytes(row, row + 1) * columns.size // self._width)
                for row, many in zip(found.tolist(), times.tolist(), strict=True)
            )
        ends = np.flatnonzero(np.diff(found) != 1)
        firsts, lasts = found[np.append(0, ends + 1)], found[np.append(ends, len(found) - 1)]
        runs = zip(firsts.tolist(), lasts.tolist(), strict=True)
        return sum(self._reader.read_bytes(first, last + 1) for first, last in runs)

    def _sorted(self, dims: Dims) -> tuple[list[int], list[int]]:
        """The axes that go from row to row, and those that stay within one."""
        down = [at for at, (_, step) in enumerate(dims) if step % self._width == 0]
        return down, [at for at in range(len(dims)) if at not in down]

    def _numbers(self, element: int, dims: Dims) -> tuple[Any, Any]:
        """The stored rows of a box (flat), and its stored columns (an axis for each of its own)."""
        down, along = self._sorted(dims)
        first, column = divmod(element, self._width)
        rows = _sums([(dims[at][0], dims[at][1] // self._width) for at in down], first)
        return rows.reshape(-1), _sums([dims[at] for at in along], column)


def _sums(dims: Sequence[tuple[int, int]], start: int) -> Any:
    """``start`` plus every sum of steps, one axis for each of ``dims``."""
    total: Any = np.array(start)
    for length, step in dims:
        total = total[..., None] + step * np.arange(length)
    return total


def _goes_down(shape: tuple[int, ...], where: Placed) -> bool:
    """Whether a row of the view is (a part of) a column of what is stored, of one matrix."""
    if len(shape) < 2 or min(shape[-2:]) < 2 or not where.columns:
        return False
    matrix, dims = shape[-2] * shape[-1], (*where.rows, *where.columns)
    within = all(step >= matrix or length * step <= matrix for length, step in dims)
    return within and all(step % shape[-1] == 0 for _, step in where.columns)


def _turned(shape: tuple[int, ...], where: Placed) -> Placed:
    """The same elements where the last two dimensions of what is stored are exchanged."""
    *_, rows, width = shape

    def turned(step: int) -> int:
        matrix, rest = divmod(step, rows * width)
        row, column = divmod(rest, width)
        return matrix * rows * width + column * rows + row

    def axes(dims: Dims) -> Dims:
        return tuple((length, turned(step)) for length, step in dims)

    return Placed(where.shape, axes(where.rows), axes(where.columns), turned(where.offset))


class ViewTensor(SourceTensor):
    """A stored tensor's elements in another order, some of them, or from a reader."""

    def __init__(self, stored: StoredTensor, name: str, view: View | None, where: Placed) -> None:
        self.name, self.source_name = name, stored.name
        self.source_file = stored.file.path.name
        self.shape = where.shape
        self.type = counted_as(stored.dtype)
        self.view = view
        self._stored = stored.dtype
        self._item = BY_NAME[stored.dtype].bytes
        self._where = where
        self._elements: _Elements
        if stored.reader is None:
            self._elements = _InFile(stored.file, stored.offset, self._item, ALIGNMENT.get(stored.dtype, 2))
        elif _goes_down(stored.shape, where) and isinstance(stored.reader, TurnedReader):
            self._where = _turned(stored.shape, where)
            self._elements = _InRows(stored.reader.transposed(), stored.shape[-2], self._item)
        else:
            self._elements = _InRows(stored.reader, stored.shape[-1] if stored.shape else 1, self._item)

    @property
    def row_bytes(self) -> int:
        return BY_NAME[self.type].row_bytes(self.n_cols)

    @property
    def readable(self) -> bool:
        return True

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        self._check(start, stop)
        out = np.empty((stop - start, self.n_cols), np.float32)
        step = max(1, PIECE // max(self.n_cols * self._item, 1))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            widen(self, self._stored, self._bytes(first, last), out[first - start : last - start])
            self.release(first, last)
        return out

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if self._stored == "F64":
            return self.rows(start, stop).view(np.uint8)
        self._check(start, stop)
        return self._bytes(start, stop)

    def read_bytes(self, start: int, stop: int) -> int:
        where = self._where
        return sum(
            self._elements.read_bytes(where.offset + offset, (*dims, *where.columns))
            for _, offset, dims in boxes(where.rows, start, stop)
        )

    def release(self, start: int, stop: int) -> None:
        # What was gathered is a copy, and its source was given back. What lies in one piece was a view.
        for _, offset, dims in boxes(self._where.rows, start, stop):
            if self._one_piece(dims):
                count = prod(n for n, _ in dims) * self.n_cols
                self._elements.release(self._where.offset + offset, count)

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")

    def _one_piece(self, dims: Dims) -> bool:
        """Whether a box's rows follow each other where they are stored."""
        width = self.n_cols
        return self._where.columns in (((width, 1),), ()) and (not dims or (len(dims) == 1 and dims[0][1] == width))

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        width, where = self.n_cols, self._where
        found = list(boxes(where.rows, start, stop))
        if len(found) == 1 and self._one_piece(found[0][2]):
            piece = self._elements.piece(where.offset + found[0][1], (stop - start) * width)
            if piece is not None:
                return piece.reshape(stop - start, width * self._item)
        out = np.empty((stop - start, width), np.dtype(f"<u{self._item}"))
        if out.size:
            for first, offset, dims in found:
                count = prod(n for n, _ in dims)
                box = out[first - start : first - start + count]
                shape = (*(n for n, _ in dims), *(n for n, _ in where.columns))
                self._elements.copy(where.offset + offset, (*dims, *where.columns), box.reshape(shape))
        return out.view(np.uint8).reshape(stop - start, width * self._item)


class StackedTensor(SourceTensor):
    """Tensors one under the other: experts' matrices as one of three dimensions, or parts of a fused matrix.

    Each of ``parts`` has the same columns; ``shape`` holds all their rows.
    """

    def __init__(self, name: str, shape: tuple[int, ...], parts: Sequence[SourceTensor]) -> None:
        self.name, self.shape = name, shape
        self.parts = tuple(parts)
        self.source_name, self.source_file = parts[0].source_name, parts[0].source_file
        types = {part.type for part in parts}
        self.type = types.pop() if len(types) == 1 else "F32"
        self._ends = list(accumulate(part.n_rows for part in parts))

    @property
    def row_bytes(self) -> int:
        return BY_NAME[self.type].row_bytes(self.n_cols)

    @property
    def readable(self) -> bool:
        return all(part.readable for part in self.parts)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._joined(start, stop, lambda part, first, last: part.rows(first, last))

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if any(part.type != self.type for part in self.parts):
            return self.rows(start, stop).view(np.uint8)
        return self._joined(start, stop, lambda part, first, last: part.raw(first, last))

    def place(self, row: int) -> tuple[str, str, int]:
        part, first, _ = next(self._touched(row, row + 1))
        return part.place(first)

    def read_bytes(self, start: int, stop: int) -> int:
        return sum(part.read_bytes(first, last) for part, first, last in self._touched(start, stop))

    def release(self, start: int, stop: int) -> None:
        for part, first, last in self._touched(start, stop):
            part.release(first, last)

    def _touched(self, start: int, stop: int) -> Iterator[tuple[SourceTensor, int, int]]:
        """Parts with rows between these, and which of their own."""
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")
        at = bisect_right(self._ends, start)
        while start < stop:
            part, base = self.parts[at], self._ends[at] - self.parts[at].n_rows
            last = min(stop, self._ends[at])
            yield part, start - base, last - base
            start, at = last, at + 1

    def _joined(
        self, start: int, stop: int, read: Callable[[SourceTensor, int, int], npt.NDArray[_T]]
    ) -> npt.NDArray[_T]:
        found = [read(*touched) for touched in self._touched(start, stop)]
        if not found:
            return read(self.parts[0], 0, 0)
        return found[0] if len(found) == 1 else np.concatenate(found)


class ChangedTensor(SourceTensor):
    """``change`` of every number of ``base``, in float32. ``change`` works row by row and may write into its input."""

    type = "F32"

    def __init__(self, base: SourceTensor, change: _Change) -> None:
        self.name, self.shape, self.view = base.name, base.shape, base.view
        self.source_name, self.source_file = base.source_name, base.source_file
        self._base, self._change = base, change

    @property
    def row_bytes(self) -> int:
        return 4 * self.n_cols

    @property
    def readable(self) -> bool:
        return self._base.readable

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._change(self._base.rows(start, stop))

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self.rows(start, stop).view(np.uint8)

    def place(self, row: int) -> tuple[str, str, int]:
        return self._base.place(row)

    def read_bytes(self, start: int, stop: int) -> int:
        return self._base.read_bytes(start, stop)


def file_tensor(stored: StoredTensor, name: str, view: View | None = None) -> SourceTensor:
    """The stored tensor under its GGUF name, as ``view`` (bound) has it. ``ValueError`` where the view does not fit."""
    where = placed(view, stored.shape, stored.strides)
    if stored.reader is not None or not where.contiguous:
        return ViewTensor(stored, name, view, where)
    tensor = FileTensor(
        stored.file,
        stored.offset + where.offset * BY_NAME[stored.dtype].bytes,
        name=name,
        source_name=stored.name,
        shape=where.shape,
        stored=stored.dtype,
    )
    tensor.view = view
    return tensor
