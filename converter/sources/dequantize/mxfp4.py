"""MXFP4 as gpt-oss stores it: blocks of 32 four-bit floats with an exponent each.

``<name>_blocks`` is uint8 ``(experts, rows, groups, 16)``, two codes a byte, the first one in the low bits;
``<name>_scales`` uint8 ``(experts, rows, groups)``, exponents with bias 127. ``w = E2M1[code] * 2^(scale - 127)``
(Open Compute Project, microscaling formats). An unquantized checkpoint holds the transposed matrices,
``(experts, columns, rows)``, under ``<name>``. Here the weight is called ``<name>_blocks`` and stays as it is stored,
``(experts, rows, columns)``: so GGUF wants it, and :class:`Mxfp4Tensor` can hand it over without loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from converter.sources.base import SourceTensor
from converter.sources.dequantize.parts import Checkpoint, Part, PartsDecoder, damaged
from converter.sources.dequantize.scaled import exponent_table

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from converter.sources.stored import StoredTensor

T = TypeVar("T", np.float32, np.uint8)

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""What the sixteen codes mean: a sign, two bits of exponent, one of fraction."""

GGUF_BLOCK = 17
"""Bytes of a block of 32 in GGUF's MXFP4: the exponent, then 16 bytes of codes."""


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Puts a weight named ``<name>_blocks`` in the place of each pair of blocks and scales."""
    for name in checkpoint.ending("_blocks"):
        blocks = checkpoint.take(f"{name}_blocks").of("U8")
        scales = checkpoint.take(f"{name}_scales").of("U8", "F8_E8M0")
        if len(blocks.shape) < 3 or blocks.shape[-1] != 16 or scales.shape != blocks.shape[:-1]:
            raise damaged(name, f"blocks have the shape {list(blocks.shape)} and scales {list(scales.shape)}")
        checkpoint.put(f"{name}_blocks", Mxfp4Decoder(name, blocks, scales))


class Mxfp4Decoder(PartsDecoder):
    """Rows of a stack of matrices in MXFP4, as numbers or, without loss, as GGUF's own blocks."""

    bits = 4

    def __init__(self, name: str, blocks: Part, scales: Part) -> None:
        super().__init__(name, (*blocks.shape[:-2], 32 * blocks.shape[-2]), (blocks, scales))
        self._blocks, self._scales = blocks, scales
        self._groups = blocks.shape[-2]

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        codes = self._bytes(start, stop)
        groups = out.reshape(-1, 16, 2)
        np.take(E2M1, codes & 15, out=groups[..., 0], mode="clip")
        np.take(E2M1, codes >> 4, out=groups[..., 1], mode="clip")
        groups *= exponent_table()[self._exponents(start, stop)][:, None, None]

    def gguf_rows(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows as GGUF stores MXFP4, uint8 ``(stop - start, groups * 17)``.

        A block is the exponent, then byte ``j`` with code ``j`` in its low and code ``j + 16`` in its high bits. The
        numbers are the same to the last bit.
        """
        codes = self._bytes(start, stop)
        apart = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1, 32)
        out = np.empty((len(codes), GGUF_BLOCK), np.uint8)
        out[:, 0] = self._exponents(start, stop)
        out[:, 1:] = apart[:, :16] | apart[:, 16:] << 4
        return out.reshape(stop - start, -1)

    def _bytes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Pairs of codes, one block a row: ``(rows * groups, 16)``."""
        return self._blocks.rows(start * self._groups, stop * self._groups)

    def _exponents(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._scales.rows(start, stop).reshape(-1)


class Mxfp4Tensor(SourceTensor):
    """A tensor of GGUF type MXFP4: rows ``first``, ``first + step`` ... of every matrix of a stored ``<name>_blocks``.

    gpt-oss interleaves the rows of gate and up: its gate is ``first=0, step=2``, its up ``first=1, step=2``. ``raw``
    are GGUF's blocks, the same numbers as the checkpoint's; ``rows`` are float32.
    """

    type = "MXFP4"

    def __init__(self, stored: StoredTensor, name: str, first: int = 0, step: int = 1) -> None:
        if not isinstance(stored.reader, Mxfp4Decoder):
            raise damaged(stored.name, "it is not stored as MXFP4")
        self.name, self.source_name, self.source_file = name, stored.name, stored.file.path.name
        *leading, rows, columns = stored.shape
        if rows % step:
            raise damaged(stored.name, f"{rows} rows are not {step} interleaved matrices")
        self.shape = (*leading, rows // step, columns)
        self._decoder, self._first, self._step = stored.reader, first, step

    @property
    def row_bytes(self) -> int:
        return self.n_cols // 32 * GGUF_BLOCK

    @property
    def readable(self) -> bool:
        return True

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._every(start, stop, self._decoder.rows)

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._every(start, stop, self._decoder.gguf_rows)

    def _every(self, start: int, stop: int, read: Callable[[int, int], npt.NDArray[T]]) -> npt.NDArray[T]:
        """Experts have whole multiples of ``step`` rows, so that the stack is interleaved as each of them is."""
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.name}, which has {self.n_rows}")
        return np.ascontiguousarray(read(start * self._step, stop * self._step)[self._first :: self._step])
