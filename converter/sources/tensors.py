"""Tensors that lie in a file in one piece, or that are computed, read in slabs of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from converter.sources.base import SourceTensor
from converter.sources.types import BY_NAME
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.files import ByteFile

# Stored bytes that are looked at in one go while widening: what is resident of the source does not grow beyond it.
PIECE = 1 << 20
ALIGNMENT = {"F32": 4, "F64": 8}
"""Bytes to whose multiples the kernels and numpy want an element aligned; 2 for every other type."""
_PLAIN = frozenset({"F32", "F64"})


class FileTensor(SourceTensor):
    """A tensor whose bytes lie at ``offset`` of ``file``, stored as ``stored`` (a GGML type name, or ``F64``)."""

    def __init__(
        self,
        file: ByteFile,
        offset: int,
        *,
        name: str,
        source_name: str,
        shape: tuple[int, ...],
        stored: str,
    ) -> None:
        self.name = name
        self.source_name = source_name
        self.source_file = file.path.name
        self.shape = shape
        self.type = counted_as(stored)
        self._file = file
        self._offset = offset
        self._stored = stored
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
        out = np.empty((stop - start, self.n_cols), np.float32)
        if not out.size:
            return out
        step = max(1, PIECE // self._stored_row_bytes)
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

    def release(self, start: int, stop: int) -> None:
        self._file.release(*self._range(start, stop))

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        """Stored rows as ``(offset, bytes)`` of the file."""
        return self._offset + start * self._stored_row_bytes, (stop - start) * self._stored_row_bytes

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Stored rows as they lie in the file: a view of its map, copied only if the file put them at an odd place."""
        found = self._file.view(*self._range(start, stop)).reshape(stop - start, self._stored_row_bytes)
        return found.copy() if self._offset % ALIGNMENT.get(self._stored, 2) else found


def counted_as(stored: str) -> str:
    """GGML has an F64 too, but nothing reads it in a model: such weights count as float32 from the source on."""
    return "F32" if stored == "F64" else stored


def widen(tensor: SourceTensor, stored: str, blocks: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
    """Rows as they are stored, ``(rows, row bytes)``, as float32 into ``out``. ``tensor`` is named in errors."""
    if stored in _PLAIN:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as in any cast
            out[:] = blocks.view("<f8" if stored == "F64" else "<f4")
        return
    import kernels

    if stored not in kernels.READABLE:
        raise QuenchError(
            "unsupported_type",
            "These weights are stored in a type that Quench cannot read as numbers.",
            f"{tensor.source_name} in {tensor.source_file} is {stored}.",
            "Start from a full-precision model (F16, BF16 or F32) instead.",
        )
    try:
        kernels.dequantize(stored, blocks, tensor.n_cols, out=out)
    except kernels.KernelError as error:
        raise QuenchError(
            "kernels_failed",
            "The bundled library for reading weights does not work.",
            f"{tensor.source_name} in {tensor.source_file}: {error}",
            "Run 'quench kernels selftest', or install Quench again.",
        ) from error


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
