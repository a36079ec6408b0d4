"""One model in several GGUF files: names, keys and the division as llama.cpp's ``llama-gguf-split`` makes them.

A split output is one file to everybody else: a :class:`SplitLayout` has one run of offsets through all its files, and
:class:`SplitFiles` sends each write to the file that it falls into.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from converter.sources.base import MetaEntry
from converter.sources.gguf_parts import part_name
from converter.spec import QuenchError
from converter.writer import Layout, PartFile, TensorPlace, layout, pack_metadata, row_bytes

MAX_FILES = 99_999
"""What five digits in a name can count."""


@dataclass(frozen=True, slots=True)
class SplitLayout(Layout):
    """A layout whose offsets run through ``files`` as if they stood behind each other."""

    files: tuple[tuple[Path, Layout], ...]

    @property
    def starts(self) -> list[int]:
        starts = [0]
        for _, file in self.files[:-1]:
            starts.append(starts[-1] + file.size)
        return starts


def by_size(sizes: Sequence[int], limit: int) -> list[int]:
    """The file of each tensor so that no file has more than ``limit`` bytes of them (one tensor may), in order."""
    numbers: list[int] = []
    number = used = 0
    for size in sizes:
        if used and used + size > limit:
            number, used = number + 1, 0
        used += size
        numbers.append(number)
    return numbers


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a model: ``keys`` pairs of metadata in ``packed``, tensors as (name, shape, type)."""

    packed: Sequence[bytes]
    keys: int
    tensors: Sequence[tuple[str, tuple[int, ...], str]]
    alignment: int


def sizes(contents: Contents) -> list[int]:
    """Padded bytes of the tensors."""
    found = []
    for _, shape, kind in contents.tensors:
        rows = prod(shape[:-1])
        found.append(-(-rows * row_bytes(kind, shape[-1]) // contents.alignment) * contents.alignment)
    return found


def split_layout(path: Path, contents: Contents, numbers: Sequence[int]) -> Layout:
    """Lays out a model over files; ``numbers`` says for each tensor which one. A plain layout if there is but one.

    The first file has all metadata, each has ``split.no``, ``split.count`` and ``split.tensors.count``.
    """
    packed, tensors, alignment = contents.packed, contents.tensors, contents.alignment
    count = max(numbers, default=0) + 1
    if count == 1:
        return layout(packed, contents.keys, tensors, alignment)
    if count > MAX_FILES:
        raise QuenchError(
            "bad_size", "These would be too many files.", f"{count} files.", "Choose a larger size.", exit_status=2
        )
    files = []
    for number in range(count):
        own = pack_metadata(
            [
                MetaEntry("split.no", number, "UINT16"),
                MetaEntry("split.tensors.count", len(tensors), "INT32"),
                MetaEntry("split.count", count, "UINT16"),
            ]
        )
        mine = [tensor for tensor, home in zip(tensors, numbers, strict=True) if home == number]
        pieces, total = ((*packed, own), contents.keys + 3) if number == 0 else ((own,), 3)
        files.append((part_name(path, number, count), layout(pieces, total, mine, alignment)))
    return _joined(files, numbers)


def _joined(files: Sequence[tuple[Path, Layout]], numbers: Sequence[int]) -> SplitLayout:
    """One run of offsets through all files; the tensors in the order of ``numbers``."""
    starts, total = [], 0
    for _, file in files:
        starts.append(total)
        total += file.size
    left = [iter(file.tensors) for _, file in files]
    places = []
    for number in numbers:
        place = next(left[number])
        places.append(TensorPlace(place.name, place.shape, place.type, starts[number] + place.offset, place.bytes))
    header = tuple(piece for _, file in files for piece in file.header)
    return SplitLayout(header, tuple(places), total, tuple(files))


def files_of(path: Path, plan: Layout) -> list[tuple[Path, Layout]]:
    """The files that a layout for ``path`` makes, each with its own layout."""
    return list(plan.files) if isinstance(plan, SplitLayout) else [(path, plan)]


class JoinedReader:
    """The half-written files of a split output, read as one. A read never goes on into the next file."""

    def __init__(self, paths: Sequence[Path], starts: Sequence[int]) -> None:
        self._starts = starts
        self._stack = ExitStack()
        with ExitStack() as opened:
            self._files = [opened.enter_context(path.open("rb", buffering=0)) for path in paths]
            self._stack = opened.pop_all()
        self._current = self._files[0]

    def seek(self, offset: int) -> None:
        number = bisect_right(self._starts, offset) - 1
        self._current = self._files[number]
        self._current.seek(offset - self._starts[number])

    def readinto(self, view: memoryview) -> int:
        return self._current.readinto(view) or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class SplitFiles:
    """The ``.part`` files of a split output, written as one. ``files`` are sealed and published each by itself.

    What else there is means what it does of a :class:`PartFile`; ``target`` is the first file's.
    """

    def __init__(self, plan: SplitLayout, *, resume: bool = False) -> None:
        self.plan = plan
        self.target = plan.files[0][0]
        self._starts = plan.starts
        self._stack = ExitStack()
        self.files: list[PartFile] = []
        try:
            for path, file in plan.files:
                self.files.append(self._stack.enter_context(PartFile(path, file, resume=resume)))
        except BaseException:
            self._stack.close()
            raise

    @property
    def kept(self) -> bool:
        return all(file.kept for file in self.files)

    @kept.setter
    def kept(self, stay: bool) -> None:
        for file in self.files:
            file.kept = stay

    def write(self, offset: int, data: Any) -> None:
        """Puts bytes of one tensor at an offset of the joined layout. Safe from several threads."""
        number = bisect_right(self._starts, offset) - 1
        self.files[number].write(offset - self._starts[number], data)

    def hurry(self, offset: int, count: int) -> None:
        number = bisect_right(self._starts, offset) - 1
        self.files[number].hurry(offset - self._starts[number], count)

    def flush(self) -> None:
        for file in self.files:
            file.flush()

    def reader(self) -> JoinedReader:
        return JoinedReader([file.part for file in self.files], self._starts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def open_output(stack: ExitStack, path: Path, plan: Layout, *, resume: bool) -> PartFile | SplitFiles:
    """The file, or the files, of one output; ``stack`` closes them."""
    if isinstance(plan, SplitLayout):
        return stack.enter_context(SplitFiles(plan, resume=resume))
    return stack.enter_context(PartFile(path, plan, resume=resume))
