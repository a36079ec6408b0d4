"""A tensor as a checkpoint's file lists it, whatever the file's format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.sources.files import ByteFile

MAX_DIMENSIONS = 8
READABLE_DTYPES = frozenset({"F32", "F16", "BF16", "F64"})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: ``offset`` counts from the start of ``file``; ``dtype`` is named as safetensors does.

    ``n_bytes`` is what it spans in the file. ``strides`` are the steps of each dimension in elements, None for a tensor
    whose rows follow each other without gaps.
    """

    name: str
    file: ByteFile
    offset: int
    n_bytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None


def some(names: list[str]) -> str:
    """The first three names, and how many there are beyond."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
