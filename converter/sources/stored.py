"""A tensor as a checkpoint's file lists it, whatever the file's format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from converter.sources.files import ByteFile

MAX_DIMENSIONS = 8
READABLE_DTYPES = frozenset({"F32", "F16", "BF16", "F64"})


class RowReader(Protocol):
    """Makes the rows of a tensor that no file holds as such: numbers decoded from codes and scales.

    A row is the last dimension; rows count through all leading dimensions. Any thread may ask for any rows.
    """

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows as bytes of the tensor's ``dtype``, uint8 ``(stop - start, row bytes)``, C-contiguous."""
        ...

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes of the files that these rows cost."""
        ...


@runtime_checkable
class TurnedReader(RowReader, Protocol):
    """A reader that can be asked for columns as well."""

    def transposed(self) -> RowReader:
        """Gives the columns (of each matrix) as rows."""
        ...


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: ``offset`` counts from the start of ``file``; ``dtype`` is named as safetensors does.

    ``n_bytes`` is what it spans in the file. ``strides`` are the steps of each dimension in elements, None for a tensor
    whose rows follow each other without gaps. With a ``reader`` the rows come from it, row-major and in ``dtype``
    (one of :data:`READABLE_DTYPES`), and ``offset`` and ``n_bytes`` only say where its codes lie.
    """

    name: str
    file: ByteFile
    offset: int
    n_bytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    reader: RowReader | None = None


def some(names: list[str]) -> str:
    """The first three names, and how many there are beyond."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
