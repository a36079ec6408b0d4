"""Tensors that lie in a file, or that are computed, read in slabs of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from converter.sources.base import SourceTensor
from converter.sources.types import BY_NAME
from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from converter.sources.files import ByteFile
    from converter.sources.stored import Decoder, StoredTensor

# Stored bytes that are looked at in one go while widening: what is resident of the source does not grow beyond it.
_PIECE = 1 << 20
_ALIGNMENT = {"F32": 4, "F64": 8}
"""Bytes to whose multiples the kernels and numpy want an element aligned; 2 for every other type."""
_PLAIN = frozenset({"F32", "F64"})

T = TypeVar("T", np.float32, np.uint8)


class FileTensor(SourceTensor):
    """A tensor whose bytes lie at ``offset`` of ``file``, stored as ``stored`` (a GGML type name, or ``F64``).

    ``heads`` > 0 undoes the rotary row order of Hugging Face's Llama: within each of ``heads`` heads of ``d`` rows,
    output row ``2 j + p`` is stored row ``p d / 2 + j`` (GGML rotates neighbouring pairs, Hugging Face halves).
    A one-dimensional tensor (a bias) is permuted along its only dimension.
    """

    def __init__(
        self,
        file: ByteFile,
        offset: int,
        *,
        name: str,
        source_name: str,
        shape: tuple[int, ...],
        stored: str,
        heads: int = 0,
    ) -> None:
        self.name = name
        self.source_name = source_name
        self.source_file = file.path.name
        self.shape = shape
        # GGML has an F64 too, but nothing reads it in a model: such weights count as float32 from here on.
        self.type = "F32" if stored == "F64" else stored
        self._file = file
        self._offset = offset
        self._stored = stored
        self.heads = heads
        self._stored_row_bytes = BY_NAME[stored].row_bytes(self.n_cols)

    @property
    def row_bytes(self) -> int:
        return BY_NAME[self.type].row_bytes(self.n_cols)

    @property
    def readable(self) -> bool:
        if self._stored in _PLAIN:
            return True
        import kernels

        return self._stored in kernels.READABLE

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        self._check(start, stop)
        if not self.heads:
            return self._widened(start, stop)
        if len(self.shape) == 1:
            return self._paired_elements(self._widened(0, 1).reshape(-1, 1)).reshape(1, -1)[start:stop]
        return self._paired_rows(start, stop, self._widened, np.float32, self.n_cols)

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if self._stored == "F64":
            return self.rows(start, stop).view(np.uint8)
        self._check(start, stop)
        if not self.heads:
            return self._bytes(start, stop)
        if len(self.shape) == 1:
            items = self._bytes(0, 1).reshape(self.n_cols, -1)
            return self._paired_elements(items).reshape(1, -1)[start:stop]
        return self._paired_rows(start, stop, self._bytes, np.uint8, self._stored_row_bytes)

    def release(self, start: int, stop: int) -> None:
        if not self.heads:
            self._release_stored(start, stop)

    def _release_stored(self, start: int, stop: int) -> None:
        self._file.release(*self._range(start, stop))

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        """Stored rows as ``(offset, bytes)`` of the file."""
        return self._offset + start * self._stored_row_bytes, (stop - start) * self._stored_row_bytes

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")

    def _paired_elements(self, items: npt.NDArray[T]) -> npt.NDArray[T]:
        """A bias, one element a row, from halves to pairs."""
        halves = items.reshape(self.heads, 2, self.n_cols // self.heads // 2, -1)
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(items.shape)

    def _paired_rows(
        self, start: int, stop: int, read: Callable[[int, int], npt.NDArray[T]], dtype: type[T], width: int
    ) -> npt.NDArray[T]:
        """Output rows ``start`` to ``stop``: in each head that they touch, two runs of stored rows, interleaved."""
        per_head = self.n_rows // self.heads
        # Whole pairs, of which the first and the last may be asked for by half.
        begin, end = start // 2 * 2, -(-stop // 2) * 2
        out = np.empty((end - begin, width), dtype)
        position = begin
        while position < end:
            head, inside = divmod(position, per_head)
            until = min(end, (head + 1) * per_head)
            pairs = (until - position) // 2
            target = out[position - begin : until - begin].reshape(pairs, 2, width)
            for half in (0, 1):
                first = head * per_head + half * (per_head // 2) + inside // 2
                target[:, half] = read(first, first + pairs)
            position = until
        self._release_stored(begin // per_head * per_head, -(-end // per_head) * per_head)
        return out[start - begin : stop - begin]

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Stored rows as they lie in the file: a view of its map, copied only if the file put them at an odd place."""
        found = self._file.view(*self._range(start, stop)).reshape(stop - start, self._stored_row_bytes)
        return found.copy() if self._offset % _ALIGNMENT.get(self._stored, 2) else found

    def _widened(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Stored rows as float32, piece by piece."""
        out = np.empty((stop - start, self.n_cols), np.float32)
        if not out.size:
            return out
        step = max(1, _PIECE // self._stored_row_bytes)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self._widen(self._bytes(first, last), out[first - start : last - start])
            self._release_stored(first, last)
        return out

    def _widen(self, blocks: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
        if self._stored in _PLAIN:
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as in any cast
                out[:] = blocks.view("<f8" if self._stored == "F64" else "<f4")
        else:
            self._dequantize(blocks, out)

    def _dequantize(self, blocks: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
        import kernels

        if self._stored not in kernels.READABLE:
            raise QuenchError(
                "unsupported_type",
                "These weights are stored in a type that Quench cannot read as numbers.",
                f"{self.source_name} in {self.source_file} is {self._stored}.",
                "Start from a full-precision model (F16, BF16 or F32) instead.",
            )
        try:
            kernels.dequantize(self._stored, blocks, self.n_cols, out=out)
        except kernels.KernelError as error:
            raise QuenchError(
                "kernels_failed",
                "The bundled library for reading weights does not work.",
                f"{self.source_name} in {self.source_file}: {error}",
                "Run 'quench kernels selftest', or install Quench again.",
            ) from error


class StridedTensor(FileTensor):
    """A tensor whose elements lie apart: a transposed matrix, some columns of a wider one, one row for all.

    ``strides`` are in elements, none negative, for each dimension of ``shape``. Rows are gathered from the map in
    pieces, so that also a matrix that lies column by column never is in memory as a whole.
    """

    def __init__(
        self,
        file: ByteFile,
        offset: int,
        *,
        name: str,
        source_name: str,
        shape: tuple[int, ...],
        stored: str,
        strides: tuple[int, ...],
        heads: int = 0,
    ) -> None:
        super().__init__(file, offset, name=name, source_name=source_name, shape=shape, stored=stored, heads=heads)
        self._leading = tuple(zip(shape, strides, strict=True))[:-1]
        self._stride = strides[-1] if strides else 1
        self._item = self._stored_row_bytes // max(self.n_cols, 1)

    def _release_stored(self, start: int, stop: int) -> None:
        """Nothing: what was gathered is a copy, and its source was given back."""

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        out = np.empty((stop - start, self.n_cols), np.dtype(f"<u{self._item}"))
        if out.size:
            matrix = self._leading[-1][0] if self._leading else 1
            row = start
            while row < stop:
                until = min(stop, (row // matrix + 1) * matrix)
                self._gather(row, out[row - start : until - start])
                row = until
        return out.view(np.uint8).reshape(stop - start, self._stored_row_bytes)

    def _gather(self, first: int, out: npt.NDArray[np.unsignedinteger]) -> None:
        """Rows of one matrix from row ``first`` on, whose places are one stride apart."""
        start, rest = 0, first
        for size, stride in reversed(self._leading):
            rest, index = divmod(rest, size)
            start += index * stride
        step = self._leading[-1][1] if self._leading else 0
        rows, columns = out.shape
        # The dimension with the larger steps is cut until a piece of the file is small; the other one stays whole.
        room = _PIECE // self._item
        if step >= self._stride:
            height, width = max(1, (room - columns * self._stride) // max(step, 1)), columns
        else:
            height, width = rows, max(1, (room - rows * step) // self._stride)
        for row in range(0, rows, height):
            for column in range(0, columns, width):
                part = out[row : row + height, column : column + width]
                self._copy(start + row * step + column * self._stride, step, part)

    def _copy(self, element: int, step: int, out: npt.NDArray[np.unsignedinteger]) -> None:
        rows, columns = out.shape
        where = self._offset + element * self._item
        size = ((rows - 1) * step + (columns - 1) * self._stride + 1) * self._item
        piece = self._file.view(where, size).view(out.dtype)
        strides = (step * self._item, self._stride * self._item)
        out[:] = np.lib.stride_tricks.as_strided(piece, out.shape, strides, writeable=False)
        self._file.release(where, size)


class DecodedTensor(FileTensor):
    """A tensor whose rows a decoder makes of a quantized checkpoint's parts, slab by slab. Counts as float32."""

    def __init__(self, stored: StoredTensor, decoder: Decoder, *, name: str, heads: int = 0) -> None:
        super().__init__(
            stored.file,
            stored.offset,
            name=name,
            source_name=stored.name,
            shape=stored.shape,
            stored="F32",
            heads=heads,
        )
        self._decoder = decoder

    @property
    def working_bytes(self) -> int:
        return self._decoder.working_bytes

    def read_bytes(self, start: int, stop: int) -> int:
        def until(row: int) -> int:
            return self._decoder.n_bytes * row // self.n_rows

        return until(stop) - until(start)

    def _release_stored(self, start: int, stop: int) -> None:
        self._decoder.release(start, stop)

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._decoder.rows(start, stop).view(np.uint8)

    def _widened(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._decoder.rows(start, stop)


def file_tensor(stored: StoredTensor, name: str, heads: int = 0) -> FileTensor:
    """The stored tensor under its GGUF name, with the rotary row order of ``heads`` heads undone."""
    if stored.decoder is not None:
        return DecodedTensor(stored, stored.decoder, name=name, heads=heads)
    if stored.strides is None:
        return FileTensor(
            stored.file,
            stored.offset,
            name=name,
            source_name=stored.name,
            shape=stored.shape,
            stored=stored.dtype,
            heads=heads,
        )
    return StridedTensor(
        stored.file,
        stored.offset,
        name=name,
        source_name=stored.name,
        shape=stored.shape,
        stored=stored.dtype,
        strides=stored.strides,
        heads=heads,
    )


class ComputedTensor(SourceTensor):
    """A small float32 tensor that the architecture adds itself, such as rotary frequency factors."""

    def __init__(self, name: str, values: npt.NDArray[np.float32]) -> None:
        self.name = name
        self.source_name = name
        self.source_file = "config.json"
        self.shape = values.shape
        self.type = "F32"
        self._values = values.reshape(self.n_rows, self.n_cols)

    @property
    def row_bytes(self) -> int:
        return 4 * self.n_cols

    @property
    def readable(self) -> bool:
        return True

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")
        return self._values[start:stop].copy()

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self.rows(start, stop).view(np.uint8)
