"""Tensors that lie in a file, or that are computed, read in slabs of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from converter.sources.base import SourceTensor
from converter.sources.types import BY_NAME
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.files import ByteFile

# Bytes read at once while widening: stays in the second-level cache between the read and the conversion.
_PIECE = 1 << 20
_PLAIN = {"F32", "F16", "BF16", "F64"}


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
        self._heads = heads
        self._stored_row_bytes = BY_NAME[stored].row_bytes(self.n_cols)

    @property
    def row_bytes(self) -> int:
        return BY_NAME[self.type].row_bytes(self.n_cols)

    @property
    def readable(self) -> bool:
        if self._stored in _PLAIN:
            return True
        import kernels

        return self._stored in kernels.TYPES

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        self._check(start, stop)
        if self._heads and len(self.shape) == 1:
            return self._widened(0, 1)[:, self._row_order(0, self.n_cols, self.n_cols)]
        if self._heads:
            first, last, order = self._head_blocks(start, stop)
            return self._widened(first, last)[order - first]
        return self._widened(start, stop)

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if self._stored == "F64":
            return self.rows(start, stop).view(np.uint8)
        self._check(start, stop)
        if self._heads and len(self.shape) == 1:
            item = BY_NAME[self._stored].bytes
            order = self._row_order(0, self.n_cols, self.n_cols)
            return self._bytes(0, 1).reshape(self.n_cols, item)[order].reshape(1, -1)
        if self._heads:
            first, last, order = self._head_blocks(start, stop)
            return self._bytes(first, last)[order - first]
        return self._bytes(start, stop)

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")

    def _row_order(self, start: int, stop: int, total: int) -> npt.NDArray[np.int64]:
        """Stored index for each output index ``start`` to ``stop`` of ``total``."""
        per_head = total // self._heads
        index = np.arange(start, stop)
        head, inside = np.divmod(index, per_head)
        pair, half = np.divmod(inside, 2)
        order: npt.NDArray[np.int64] = head * per_head + half * (per_head // 2) + pair
        return order

    def _head_blocks(self, start: int, stop: int) -> tuple[int, int, npt.NDArray[np.int64]]:
        """The whole heads that hold output rows ``start`` to ``stop``, and where in them."""
        per_head = self.n_rows // self._heads
        first = start // per_head * per_head
        last = -(-stop // per_head) * per_head
        return first, last, self._row_order(start, stop, self.n_rows)

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        out = np.empty((stop - start, self._stored_row_bytes), np.uint8)
        if out.size:
            self._file.read_into(self._offset + start * self._stored_row_bytes, out.data.cast("B"))
        return out

    def _widened(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Stored rows as float32, piece by piece, so that the narrow copy never grows beyond ``_PIECE``."""
        out = np.empty((stop - start, self.n_cols), np.float32)
        if not out.size:
            return out
        if self._stored == "F32":
            view = out.data.cast("B")
            self._file.read_into(self._offset + start * self._stored_row_bytes, view)
            return out
        step = max(1, _PIECE // self._stored_row_bytes)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self._widen(self._bytes(first, last), out[first - start : last - start])
        return out

    def _widen(self, blocks: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
        if self._stored == "BF16":
            # A bfloat16 is the upper half of a float32.
            np.left_shift(blocks.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)
        elif self._stored == "F16":
            out[:] = blocks.view("<f2")
        elif self._stored == "F64":
            with np.errstate(over="ignore"):  # beyond float32 becomes infinite, as in any cast
                out[:] = blocks.view("<f8")
        else:
            self._dequantize(blocks, out)

    def _dequantize(self, blocks: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
        import kernels

        if self._stored not in kernels.TYPES:
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
                "bad_weights",
                "The weights cannot be read as numbers.",
                f"{self.source_name} in {self.source_file}: {error}",
                "Download or convert the file again.",
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
