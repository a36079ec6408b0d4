"""A look at a finished file before anybody else gets it: rows of it, read back and compared with the source's.

What is compared is the way there and the way back: bytes from the disk with those that the row becomes again, and the
numbers that they stand for with the source's.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import kernels
from converter.encode import encode, load
from converter.sources.files import ByteFile
from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from converter.imatrix import Imatrix
    from converter.ready import Blocks
    from converter.sources.base import SourceTensor
    from converter.writer import Layout, TensorPlace

ROWS = 64
"""Rows of a file that are looked at, at least one of each type."""
_SECONDS = 3.0
_SEED = 4
_SMALLEST = 1e-3
"""Rows with no larger weight are not held against their error: scales of 16 bits have no room for them."""
_WORST = {"F32": 1e-6, "F16": 1e-2, "BF16": 1e-2, "Q8_0": 0.1, "Q6_K": 0.3, "Q5_K": 0.5, "Q4_K": 0.7, "Q2_K": 4.0}
"""Length of a row's error as a part of the row's length, far beyond what the type does to any row; 1 is a row of
zeros, which only Q2_K is seen to be worse than: by 65 % on rows that are nearly all zero."""
_FEWEST = 1 / 32
"""The part of the columns that must share the importance for a row to be held against its error. Where fewer have it,
the search may let go of all others, and rounds even those few to the scale of their neighbours."""


def compare_rows(
    path: Path,
    layout: Layout,
    tensors: Sequence[SourceTensor],
    importance: Imatrix | None,
    *,
    refined: bool,
    blocks: Blocks,
) -> int:
    """Compares a sample of the rows of ``path`` with the source's ``tensors`` and returns how many they were.

    Rows of ``blocks`` (:mod:`converter.ready`) were not made but taken.

    The sample is the same for the same layout, and of every type in it; it ends early, but not before one row of each
    type, when reading takes seconds. Raises ``QuenchError`` ``output_differs`` with the place of the first difference,
    and what reading the source raises.
    """
    sources = {tensor.name: tensor for tensor in tensors}
    sample = _sample([place for place in layout.tensors if place.name in sources and place.bytes])
    started = time.monotonic()
    file = ByteFile(path)
    try:
        comparison = _Comparison(file, importance, refined, blocks)
        seen: set[str] = set()
        count = 0
        for place, row in sample:
            if place.type in seen and time.monotonic() - started > _SECONDS:
                continue
            seen.add(place.type)
            comparison.look_at(place, row, sources[place.name])
            count += 1
        return count
    finally:
        file.close()


def _sample(places: list[TensorPlace]) -> list[tuple[TensorPlace, int]]:
    """Tensors and rows, drawn from each type in turn."""
    draw = random.Random(_SEED)
    by_type: dict[str, list[TensorPlace]] = {}
    for place in places:
        by_type.setdefault(place.type, []).append(place)
    for same in by_type.values():
        draw.shuffle(same)
    chosen: dict[tuple[str, int], tuple[TensorPlace, int]] = {}
    for turn in range(ROWS):
        for same in by_type.values():
            if len(chosen) < max(ROWS, len(by_type)):
                place = same[turn % len(same)]
                row = draw.randrange(_rows(place))
                chosen[place.name, row] = (place, row)
    return list(chosen.values())


def _rows(place: TensorPlace) -> int:
    rows = 1
    for size in place.shape[:-1]:
        rows *= size
    return rows


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A file, and how its rows were made."""

    file: ByteFile
    importance: Imatrix | None
    refined: bool
    blocks: Blocks

    def look_at(self, place: TensorPlace, row: int, tensor: SourceTensor) -> None:
        """Raises ``QuenchError`` for a row that is not what the source's row becomes."""
        size = place.bytes // _rows(place)
        offset = place.offset + row * size
        _forget(self.file.path, offset, size)
        found = np.frombuffer(self.file.read(offset, size), np.uint8)
        weights = self.importance.for_tensor(tensor.name, tensor.shape) if self.importance else None
        columns = None if weights is None else weights[row // tensor.shape[-2]]
        different = np.flatnonzero(found != self._made_again(place.type, tensor, row, columns))
        if different.size:
            at = offset + int(different[0])
            raise _wrong(self.file.path, place, row, f"{different.size} of {size} bytes differ, the first at {at}")
        if tensor.readable and tensor.type != place.type and place.type in kernels.READABLE:
            numbers = kernels.dequantize(place.type, found.reshape(1, -1), tensor.n_cols)[0]
            error = _relative_error(tensor.rows(row, row + 1)[0], numbers, columns)
            if not error <= _WORST.get(place.type, 1.0):  # written so that NaN fails too
                raise _wrong(self.file.path, place, row, f"it is off by {error:.0%} of its length")
        tensor.release(row, row + 1)

    def _made_again(
        self, kind: str, tensor: SourceTensor, row: int, columns: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.uint8]:
        if tensor.name in self.blocks:
            return self.blocks[tensor.name].raw(row, row + 1).reshape(-1)
        if kind == tensor.type and kind not in {"F32", "F16", "BF16"}:
            return tensor.raw(row, row + 1).reshape(-1)
        blocks = encode(
            kind,
            load(tensor, row, row + 1),
            tensor,
            row,
            importance=columns,
            refined=self.refined,
            errors=np.empty(1),
        )
        return blocks.reshape(-1)


def _relative_error(
    source: npt.NDArray[np.float32], numbers: npt.NDArray[np.float32], columns: npt.NDArray[np.float32] | None
) -> float:
    """Length of ``numbers - source`` as a part of the length of ``source``, all float32 ``(columns,)``.

    ``columns`` are the importance that the numbers were made with: each square counts by it, and the length is at least
    that of a row whose numbers are as large where it is high as elsewhere. 0 where a row cannot be held against its
    error: it is too small, or its importance is zero or in few columns.
    """
    if not source.size or np.abs(source).max() < _SMALLEST:
        return 0.0
    weights = np.ones(len(source)) if columns is None else columns.astype(np.float64)
    weights /= max(weights.max(), np.finfo(np.float64).tiny)
    if weights.sum() ** 2 <= _FEWEST * len(weights) * (weights**2).sum():
        return 0.0
    squares = source.astype(np.float64) ** 2
    whole = max(float(weights @ squares), float(weights.mean() * squares.sum()))
    return float(np.sqrt(weights @ (numbers.astype(np.float64) - source) ** 2 / whole))


def _forget(path: Path, offset: int, size: int) -> None:
    """Asks the system to take the bytes from the disk and not from its memory. They were flushed before."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, offset, size, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _wrong(path: Path, place: TensorPlace, row: int, reason: str) -> QuenchError:
    return QuenchError(
        "output_differs",
        "The written file does not read back as the source.",
        f"{path.name}: {place.name} ({place.type}), row {row}: {reason}.",
        "Check the disk and the memory, run “quench kernels selftest”, and try again. Nothing was kept.",
    )
