"""Two models against each other: metadata key by key, weights tensor by tensor, in slabs, on all cores.

Either side is anything that :func:`converter.open_model` opens. Weights are told apart twice: by their bytes, and,
where those differ, by the numbers that they stand for, with differences and sums in float64. Sums are added up in the
order of the rows, so that the figures depend neither on the number of threads nor on who was first.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import kernels
from converter.crew import Crew
from converter.difference import (
    ADDED,
    CHANGED,
    DIFFERENT,
    NOT_COMPARED,
    ONLY_FIRST,
    ONLY_SECOND,
    REMOVED,
    SAME,
    SAME_VALUES,
    SHAPE,
    Compared,
    ComparisonDone,
    ComparisonEvent,
    MetadataDifference,
    MetadataValue,
    TensorDifference,
)
from converter.planning import cores
from converter.sources import open_model
from converter.sources.gguf_header import STRING, VALUE_TYPES, Header, read_header
from converter.sources.tensors import widen
from converter.sources.types import BY_NAME
from converter.spec import Cancelled, Progress, QuenchError
from converter.writer import pack_metadata

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.base import MetaEntry, SourceModel, SourceTensor

PREVIEW_ITEMS, PREVIEW_CHARACTERS = 8, 200
_SLAB = 1 << 22
"""Weights that a thread takes at a time."""
_PIECE = 1 << 17
"""Weights of it that are numbers at the same time: what they take stays in the processor's caches."""
_POLL = 0.05
_REPORT = 0.1
_BATCH = 2000
"""Differences in one event."""
_NUMBERS = {name: number for number, (name, _) in VALUE_TYPES.items()}
_UNITS = {number: struct.calcsize("<" + code) for number, (_, code) in VALUE_TYPES.items() if code}


def compare(
    first: str | Path,
    second: str | Path,
    emit: Callable[[ComparisonEvent | Progress], None] = lambda event: None,
    stopped: Callable[[], bool] = lambda: False,
    *,
    threads: int = 0,
) -> ComparisonDone:
    """Compares two models. ``emit`` is called from this thread: ``Compared`` as things are found, ``Progress`` at most
    ten a second, ``ComparisonDone`` last, which is also returned.

    ``stopped`` is polled; true raises ``converter.spec.Cancelled`` within some tens of milliseconds. ``threads`` 0: all
    cores. Raises ``QuenchError`` as :func:`open_model` and reading do.
    """
    began = time.perf_counter()
    with open_model(Path(first)) as a, open_model(Path(second)) as b:
        differences, same = metadata_differences(a, b)
        for at in range(0, len(differences), _BATCH):
            emit(Compared(metadata=tuple(differences[at : at + _BATCH])))
        run = _Run(a, b, emit, stopped)
        run.all_tensors(threads or cores())
        done = ComparisonDone(
            first=a.info.path,
            second=b.info.path,
            keys_same=same,
            tensors=len(run.pairs),
            bytes=run.done,
            seconds=time.perf_counter() - began,
            notes=tuple(dict.fromkeys(filter(None, (a.incomplete, b.incomplete)))),
        )
    emit(done)
    return done


# ---- metadata ----


@dataclass(frozen=True, slots=True)
class _Value:
    """A metadata value as its bytes in a file, without the head of an array. Text has no length in front."""

    type: int
    item_type: int | None
    items: int
    data: memoryview
    preview: Any

    @property
    def shown(self) -> MetadataValue:
        kind = VALUE_TYPES[self.type][0]
        name = kind if self.item_type is None else f"{kind} {VALUE_TYPES[self.item_type][0]}"
        return MetadataValue(name, self.items, _plain(self.preview))


def metadata_differences(first: SourceModel, second: SourceModel) -> tuple[list[MetadataDifference], int]:
    """What differs, in the order of the first's keys and then of the second's, and how many keys are the same.

    Values are compared as bytes: 0.1 as FLOAT32 and as FLOAT64 are different, and so are 1 as UINT32 and as INT32.
    """
    before, after = _values(first), _values(second)
    found = []
    same = 0
    for key, old in before.items():
        new = after.get(key)
        if new is None:
            found.append(MetadataDifference(key, REMOVED, old.shown))
        elif (old.type, old.item_type, old.items) == (new.type, new.item_type, new.items) and old.data == new.data:
            same += 1
        else:
            found.append(MetadataDifference(key, CHANGED, old.shown, new.shown, _parting(old, new)))
    found += [MetadataDifference(key, ADDED, None, new.shown) for key, new in after.items() if key not in before]
    return found, same


def _values(model: SourceModel) -> dict[str, _Value]:
    if model.info.kind == "gguf":
        header = read_header(model.files[0])
        return {key: _header_value(header, key) for key in header.values}
    return {entry.key: _entry_value(entry) for entry in model.metadata}


def _header_value(header: Header, key: str) -> _Value:
    entry = header.values[key]
    data = memoryview(header.data)[entry.start : entry.stop]
    preview = header.preview(key, PREVIEW_ITEMS, PREVIEW_CHARACTERS)
    return _Value(entry.type, entry.item_type, entry.count, data, preview)


def _entry_value(entry: MetaEntry) -> _Value:
    """Of a key that no file has yet: its bytes as they would be written."""
    is_array = entry.item_type is not None
    kind, item = _NUMBERS[entry.type], _NUMBERS[str(entry.item_type)] if is_array else None
    head = 12 + len(entry.key.encode()) + (12 if is_array else 8 if kind == STRING else 0)
    data = memoryview(pack_metadata([entry]))[head:]
    if is_array:
        return _Value(kind, item, len(entry.value), data, list(entry.value[:PREVIEW_ITEMS]))
    return _Value(kind, item, 1, data, entry.value)


def _plain(value: Any) -> Any:
    """A preview that JSON can carry: bytes that are no text with U+FFFD, long items cut, no infinite numbers."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value[:PREVIEW_CHARACTERS] if isinstance(value, str) else value


def _parting(old: _Value, new: _Value) -> int:
    """The first item in which two arrays of one type part; the length of the shorter if it is the other's beginning."""
    if old.item_type is None or old.item_type != new.item_type:
        return -1
    common = _common(old.data, new.data)
    items = min(old.items, new.items)
    if old.item_type != STRING:
        return min(common // _UNITS[old.item_type], items)
    at = number = 0
    while number < items:
        at += 8 + int.from_bytes(old.data[at : at + 8], "little")
        if at > common:
            return number
        number += 1
    return number


def _common(first: memoryview, second: memoryview) -> int:
    """How many bytes both begin with."""
    size = min(len(first), len(second))
    step = 1 << 20
    for at in range(0, size, step):
        ours, theirs = (np.frombuffer(data[at : min(at + step, size)], np.uint8) for data in (first, second))
        if len(unequal := np.flatnonzero(ours != theirs)):
            return at + int(unequal[0])
    return size


# ---- weights ----


@dataclass(slots=True)
class _Part:
    """What one slab has added: numbers that differ, squares of differences and of the first's weights.

    ``same`` bytes are not turned into numbers until it is known that the tensor differs elsewhere.
    """

    same: bool = False
    unequal: int = 0
    not_finite: int = 0
    squares: float = 0.0
    energy: float = 0.0
    largest: float = 0.0


@dataclass
class _Pair:
    """Two tensors of one name and shape on their way. ``left`` counts the slabs that are not done."""

    index: int
    first: SourceTensor
    second: SourceTensor
    by_bytes: bool
    by_values: bool
    left: int = 0
    parts: dict[tuple[int, int], _Part] = field(default_factory=dict)

    def slabs(self) -> list[tuple[int, int]]:
        step = max(1, _SLAB // max(self.first.n_cols, 1))
        return [(start, min(start + step, self.first.n_rows)) for start in range(0, self.first.n_rows, step)]

    def slab_bytes(self, start: int, stop: int) -> int:
        return self.first.read_bytes(start, stop) + self.second.read_bytes(start, stop)


_Task = tuple[_Pair, int, int]


class _Buffers(threading.local):
    """Numbers of a piece of either side and their difference, a set for each thread."""

    def __init__(self) -> None:
        self.first = np.empty(_PIECE, np.float32)
        self.second = np.empty(_PIECE, np.float32)
        self.difference = np.empty(_PIECE, np.float64)


class _Run:
    """The weights of one comparison. ``pairs`` has a row for every tensor of either side; None: not yet known."""

    def __init__(
        self,
        first: SourceModel,
        second: SourceModel,
        emit: Callable[[ComparisonEvent | Progress], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._emit, self._stopped = emit, stopped
        self._buffers = _Buffers()
        self._lock = threading.Lock()
        self._label = ""
        self._reported = self._began = time.perf_counter()
        self._sent = 0
        self.done = 0
        self.pairs: list[TensorDifference | None] = []
        self._work: list[_Pair] = []
        others = {tensor.name: tensor for tensor in second.tensors}
        for tensor in first.tensors:
            self._add(tensor, others.pop(tensor.name, None))
        for tensor in others.values():
            self.pairs.append(
                TensorDifference(tensor.name, ONLY_SECOND, second_type=tensor.type, second_shape=tensor.shape)
            )
        self._total = sum(pair.slab_bytes(0, pair.first.n_rows) for pair in self._work)

    def _add(self, first: SourceTensor, second: SourceTensor | None) -> None:
        if second is None:
            self.pairs.append(TensorDifference(first.name, ONLY_FIRST, first_type=first.type, first_shape=first.shape))
            return
        if first.shape != second.shape:
            self.pairs.append(self._told(first, second, SHAPE))
            return
        by_bytes, by_values = first.type == second.type, first.readable and second.readable
        if not by_bytes and not by_values:
            self.pairs.append(self._told(first, second, NOT_COMPARED, note=_unreadable(first, second)))
            return
        self._work.append(_Pair(len(self.pairs), first, second, by_bytes, by_values))
        self.pairs.append(None)

    @staticmethod
    def _told(first: SourceTensor, second: SourceTensor, change: str, **more: Any) -> TensorDifference:
        return TensorDifference(
            first.name, change, first.type, second.type, tuple(first.shape), tuple(second.shape), **more
        )

    def all_tensors(self, threads: int) -> None:
        try:
            with Crew(threads, self._tasks(), self._compare) as crew:
                while crew.watch(_POLL):
                    self._look()
        except MemoryError as error:
            raise QuenchError(
                "no_memory",
                "There is not enough memory.",
                "The system refused memory for the next rows.",
                "Close other programs.",
                exit_status=4,
            ) from error
        self._look(last=True)

    def _tasks(self) -> Iterator[_Task]:
        for pair in self._work:
            slabs = pair.slabs()
            pair.left = len(slabs)
            self._label = pair.first.name
            for start, stop in slabs:
                yield pair, start, stop

    def _compare(self, task: _Task, crew: Crew[_Task]) -> None:
        """One slab. The thread that does a tensor's last one also says what became of the tensor."""
        pair, start, stop = task
        part = self._slab(pair, start, stop, crew)
        with self._lock:
            pair.parts[start, stop] = part
            pair.left -= 1
            self.done += pair.slab_bytes(start, stop)
            last = pair.left == 0
        if last and not crew.stopping:
            self.pairs[pair.index] = self._verdict(pair, crew)

    def _slab(self, pair: _Pair, start: int, stop: int, crew: Crew[_Task], *, energy: bool = False) -> _Part:
        """``energy``: the bytes are known to be the same, and the squares of the weights are wanted after all."""
        part = _Part()
        ours = pair.first.raw(start, stop)
        theirs = ours if energy else pair.second.raw(start, stop)
        if not energy and pair.by_bytes and _same_bytes(ours, theirs):
            part.same = True
        elif pair.by_values:
            for place in _pieces(len(ours), pair.first.n_cols):
                if crew.stopping:
                    break
                self._piece(pair, (ours, theirs), place, part)
        pair.first.release(start, stop)
        if not energy:
            pair.second.release(start, stop)
        return part

    def _piece(
        self,
        pair: _Pair,
        raw: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
        place: tuple[slice, slice],
        part: _Part,
    ) -> None:
        """Adds some columns of some rows, whose bytes are ``raw``, to ``part``."""
        shape = tuple(side.stop - side.start for side in place)
        count = shape[0] * shape[1]
        first, second = self._buffers.first[:count], self._buffers.second[:count]
        difference = self._buffers.difference[:count]
        for tensor, blocks, numbers in zip((pair.first, pair.second), raw, (first, second), strict=True):
            widen(tensor, tensor.type, _cut(tensor, blocks, *place), numbers.reshape(shape))
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(first, second, out=difference, dtype=np.float64)
            squares = float(np.dot(difference, difference))
            if not isfinite(squares):
                difference[:] = self._finite(first, second, difference, part)
                squares = float(np.dot(difference, difference))
            part.unequal += int(np.count_nonzero(difference))
            part.squares += squares
            part.largest = max(part.largest, float(difference.max()), -float(difference.min()))
            energy = float(kernels.energy(first.reshape(1, -1))[0])
            if not isfinite(energy):
                good = np.where(np.isfinite(first), first, 0).astype(np.float64)
                energy = float(np.dot(good, good))
            part.energy += energy

    @staticmethod
    def _finite(
        first: npt.NDArray[np.float32],
        second: npt.NDArray[np.float32],
        difference: npt.NDArray[np.float64],
        part: _Part,
    ) -> npt.NDArray[np.float64]:
        """Differences with 0 where there is none that is a number; counts those that are not the same."""
        odd = ~np.isfinite(difference)
        a, b = first[odd], second[odd]
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        part.not_finite += int(np.count_nonzero(~alike))
        return np.where(odd, 0.0, difference)

    def _verdict(self, pair: _Pair, crew: Crew[_Task]) -> TensorDifference:
        parts = [pair.parts[slab] for slab in sorted(pair.parts)]
        if all(part.same for part in parts):
            return self._told(pair.first, pair.second, SAME)
        if not pair.by_values:
            note = "Its bytes differ. " + _unreadable(pair.first, pair.second)
            return self._told(pair.first, pair.second, NOT_COMPARED, note=note)
        unequal, not_finite = sum(part.unequal for part in parts), sum(part.not_finite for part in parts)
        if not unequal and not not_finite:
            return self._told(pair.first, pair.second, SAME_VALUES)
        for slab in sorted(pair.parts):
            if pair.parts[slab].same and not crew.stopping:
                pair.parts[slab] = self._slab(pair, *slab, crew, energy=True)
        parts = [pair.parts[slab] for slab in sorted(pair.parts)]
        squares, energy = sum(part.squares for part in parts), sum(part.energy for part in parts)
        count = pair.first.n_elements - not_finite
        return self._told(
            pair.first,
            pair.second,
            DIFFERENT,
            rmse=sqrt(squares / count) if count else 0.0,
            largest=max(part.largest for part in parts),
            relative=sqrt(squares / energy) if energy else None,
            unequal=unequal + not_finite,
            not_finite=not_finite,
        )

    def _look(self, *, last: bool = False) -> None:
        """What the calling thread does: sends what is known up to the first gap, and how far it is."""
        if self._stopped():
            raise Cancelled
        now = time.perf_counter()
        if now - self._reported < _REPORT and not last:
            return
        self._reported = now
        while ready := self._ready():
            self._emit(Compared(tensors=tuple(ready)))
        if self._total and not last:
            rate = self.done / max(now - self._began, 1e-6)
            left = (self._total - self.done) / rate if self.done else None
            self._emit(Progress(self.done, self._total, rate, left, 0, self._label))

    def _ready(self) -> list[TensorDifference]:
        ready: list[TensorDifference] = []
        while self._sent < len(self.pairs) and len(ready) < _BATCH:
            known = self.pairs[self._sent]
            if known is None:
                break
            ready.append(known)
            self._sent += 1
        return ready


def _unreadable(first: SourceTensor, second: SourceTensor) -> str:
    kinds = sorted({tensor.type for tensor in (first, second) if not tensor.readable})
    return f"{' and '.join(kinds)} cannot be read as numbers."


def _same_bytes(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> bool:
    """In pieces, so that a slab that differs early costs little and none much memory."""
    ours, theirs = first.reshape(-1), second.reshape(-1)
    return all(np.array_equal(ours[at : at + _PIECE], theirs[at : at + _PIECE]) for at in range(0, len(ours), _PIECE))


def _pieces(n_rows: int, n_cols: int) -> Iterator[tuple[slice, slice]]:
    """Whole rows, or parts of one where it is longer than a piece; every block of every type is a part of a piece."""
    step = max(1, _PIECE // max(n_cols, 1))
    for row in range(0, n_rows, step):
        rows = slice(row, min(row + step, n_rows))
        for column in range(0, n_cols, _PIECE):
            yield rows, slice(column, min(column + _PIECE, n_cols))


def _cut(tensor: SourceTensor, raw: npt.NDArray[np.uint8], rows: slice, columns: slice) -> npt.NDArray[np.uint8]:
    """The bytes of some columns of some rows, which are one row if the columns are not all."""
    kind = BY_NAME[tensor.type]
    return raw[rows, kind.row_bytes(columns.start) : kind.row_bytes(columns.stop)]
