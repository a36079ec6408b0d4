"""A tensor as a checkpoint's file lists it, whatever the file's format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from converter.sources.files import ByteFile

MAX_DIMENSIONS = 8
READABLE_DTYPES = frozenset({"F32", "F16", "BF16", "F64"})


class Decoder(ABC):
    """Makes the rows of a weight that a checkpoint stores in parts (codes, scales ...) and not as plain numbers.

    A row is the last dimension; the leading ones are counted through. Called from several threads at once.
    ``n_bytes`` is what all parts span in their files, ``working_bytes`` memory that is held beside the rows.
    """

    n_bytes: int
    working_bytes: int = 0

    @abstractmethod
    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start`` to ``stop``, float32, C-contiguous, owned by the caller. ``QuenchError`` for damaged parts.

        No bit of a row depends on which rows are asked for together.
        """

    @abstractmethod
    def release(self, start: int, stop: int) -> None:
        """Says that what these rows were made of was used and can leave the resident memory."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: ``offset`` counts from the start of ``file``; ``dtype`` is named as safetensors does.

    ``n_bytes`` is what it spans in the file. ``strides`` are the steps of each dimension in elements, None for a tensor
    whose rows follow each other without gaps. With a ``decoder`` its numbers come from there, as float32 (``dtype`` is
    ``F32``), and ``file`` and ``offset`` only tell where the largest of its parts lies.
    """

    name: str
    file: ByteFile
    offset: int
    n_bytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    decoder: Decoder | None = None


def some(names: list[str]) -> str:
    """The first three names, and how many there are beyond."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
