"""One pass over a source, any number of outputs: read a slab of rows, quantize it into every type, write it in place.

Slabs are taken by Python threads (the kernels and the disk release the interpreter's lock). Equal types of several
outputs are made once and written many times. Memory is a slab a thread, never a tensor. Rows are independent of each
other, so the bytes depend neither on the number of threads nor on the slab size. A slab that needs no rearranging is
a view of the mapped source all the way into the kernels.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

import kernels
from converter import journal as journals
from converter import ready
from converter.check import compare_rows
from converter.crew import Crew
from converter.encode import encode, energy, load, measure
from converter.planning import Prepared, plan, preflight, prepare, refuse_taken
from converter.sources import lora, open_model
from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import (
    Cancelled,
    Checked,
    ConversionEvent,
    ConversionResult,
    ConversionSpec,
    OutputDone,
    Paused,
    Planned,
    Progress,
    QuenchError,
    TensorDone,
)
from converter.splitting import SplitFiles, open_output
from converter.writer import Layout, PartFile, TensorPlace

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.journal import Journal, Kept
    from converter.sources.base import SourceTensor

__all__ = ["convert", "plan"]

Emit = Callable[[ConversionEvent], None]
Stopped = Callable[[], bool]
Finish = Callable[[ConversionResult], ConversionResult]

_POLL = 0.05
"""Seconds between looks at ``stopped``."""
_RELEASE = 8 << 20
"""Bytes of a mapped source that stay in memory after their use."""
_SLAB_SECONDS = 0.03
"""What a slab should take: long against the steps around it, short against a cancel and the wait for the last one."""
_FIRST_SLAB, _SMALLEST_SLAB = 1 << 18, 1 << 16
"""Weights of a slab while nothing is known, and at least."""
_REPORT = 0.1
_RATE_WINDOW = 3.0


def convert(
    spec: ConversionSpec,
    emit: Emit = lambda event: None,
    stopped: Stopped = lambda: False,
    *,
    paused: Stopped = lambda: False,
    written: Callable[[], None] = lambda: None,
    finish: Finish = lambda result: result,
    journal_every: float = journals.EVERY_SECONDS,
) -> ConversionResult:
    """Makes every output of ``spec`` and returns what was made.

    ``emit`` is called from the calling thread: :class:`Planned` once, :class:`TensorDone` for each tensor of each
    output, :class:`Progress` at most ten a second, and the returned :class:`ConversionResult` last. ``stopped`` is
    polled; true ends the run with ``converter.spec.Cancelled`` within a fifth of a second of work, and nothing is left.
    ``paused`` is polled likewise and ends it with ``Paused``; what is finished stays for a run with ``spec.resume``, as
    after an error that need not come again (``QuenchError``; its hint says so) or the death of the process. Outputs
    appear under their names only when all are complete, flushed and verified. ``written`` is called before that, when
    the last tensor has been given to the system, and should return soon. ``finish`` then gets the result and returns
    what becomes of it: as long as it has not, a run with ``resume`` still takes over what was made.

    ``journal_every`` is how many seconds of work a death may cost; 0 makes every tensor safe before its event.
    """
    started = time.perf_counter()
    peak = _PeakMemory()
    with (
        open_model(Path(spec.source), spec.pre_tokenizer) as source,
        lora.merged(source, spec.lora) as model,
        ready.opened(spec.blocks) as blocks,
    ):
        prepared = prepare(model, spec)
        ready.check(blocks, prepared.targets)
        kept = journals.find(prepared)
        resumed = kept if spec.resume else None
        if resumed is not None:
            journals.adopt(resumed, prepared.targets)
        preflight(prepared)
        emit(Planned(prepared.plan, kept.fraction if kept is not None else 0.0))
        halt = _Halt(stopped, paused)
        halt.look()
        with ExitStack() as stack:
            _make_folder(prepared.folder, stack)
            parts = [open_output(stack, t.path, t.layout, resume=resumed is not None) for t in prepared.targets]
            refuse_taken(prepared)  # again, now that nobody else can: a run that has just ended may have put one there
            journal = stack.enter_context(journals.Journal(prepared, parts, journal_every))
            run = _Run(prepared, parts, emit, halt, peak, journal, blocks)
            if resumed is not None:
                run.take_over(resumed)
            run.all_tensors()
            written()
            journal.complete()
            files = [file for part in parts for file in part.files]
            for file in files:
                run.report(f"Checking {file.target.name}")
                halt.look()
                file.seal(verify)
                run.check(file)
            _publish(files)
            result = finish(
                ConversionResult(
                    outputs=tuple(run.output(index) for index in range(len(parts))),
                    read_bytes=run.read_bytes,
                    seconds=time.perf_counter() - started,
                    peak_rss=peak.bytes(),
                    kernels=kernels.active(),
                )
            )
            stack.pop_all().close()
    emit(result)
    return result


def verify(path: Path, layout: Layout) -> None:
    """Re-opens a written file and compares its header with the plan; ``QuenchError`` ``output_differs`` if so."""
    file = ByteFile(path)
    try:
        header = read_header(file)
    finally:
        file.close()
    found = [(tensor.name, tensor.shape, tensor.type, tensor.offset) for tensor in header.tensors]
    planned = [(place.name, place.shape, place.type, place.offset) for place in layout.tensors]
    if found != planned:
        odd = next(
            (pair for pair in zip(found, planned, strict=False) if pair[0] != pair[1]), (len(found), len(planned))
        )
        raise QuenchError(
            "output_differs",
            "The written file does not read back as planned.",
            f"{path.name}: found {odd[0]}, planned {odd[1]}.",
            "Check the disk and try again. Nothing was kept.",
        )


@dataclass(frozen=True)
class _Halt:
    """What the caller may want: an end, or a pause."""

    stopped: Stopped
    paused: Stopped

    def look(self) -> None:
        if self.paused():
            raise Paused
        if self.stopped():
            raise Cancelled


def _make_folder(folder: Path, stack: ExitStack) -> None:
    """Makes the output folder if need be; takes it away again if nothing came of it."""
    if folder.is_dir():
        return
    try:
        folder.mkdir()
    except OSError as error:
        raise QuenchError(
            "read_only", "The output folder cannot be made.", f"{folder}: {error.strerror}.", "Choose another folder."
        ) from error
    stack.callback(_remove_if_empty, folder)


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _publish(parts: list[PartFile]) -> None:
    """Renames all files into place; if one cannot be, those that were new are taken back."""
    fresh: list[PartFile] = []
    for part in parts:
        new = not part.target.exists()
        try:
            part.publish()
        except QuenchError:
            for done in fresh:
                done.unpublish()
            raise
        if new:
            fresh.append(part)


@dataclass
class _Variant:
    """One type that a tensor becomes: where its bytes go, and its squared error row by row.

    ``weighted`` is the same with importance; the same array where there is none.
    """

    kind: str
    homes: list[tuple[int, int]]
    errors: npt.NDArray[np.float64]
    weighted: npt.NDArray[np.float64]

    def relative(self, energy: npt.NDArray[np.float64]) -> float:
        """The weighted error of the tensor as a part of the weighted size of its numbers."""
        error, whole = float(self.weighted.sum()), float(energy.sum())
        return sqrt(error / whole) if error and whole else 0.0


@dataclass
class _TensorJob:
    """A tensor on its way. ``left`` counts the slabs that are not written yet."""

    tensor: SourceTensor
    index: int
    variants: list[_Variant]
    importance: npt.NDArray[np.float32] | None
    energy: npt.NDArray[np.float64]
    step: int
    left: int = 0
    _behind: dict[int, int] = field(default_factory=dict)
    """Slabs that were used: first row to end, none beginning before ``_released``."""
    _released: int = 0

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Row ranges of at most ``step`` rows that do not cross from one expert's matrix into the next."""
        rows = self.tensor.n_rows
        matrix = self.tensor.shape[-2] if len(self.tensor.shape) > 2 else rows
        for first in range(0, rows, matrix):
            for start in range(first, first + matrix, self.step):
                yield start, min(start + self.step, first + matrix)

    def used(self, start: int, stop: int) -> tuple[int, int] | None:
        """Notes a slab that is written. Rows whose memory can go back to the source now, if they are many.

        A piece a slab would cost a round through all cores each time (their address translations are dropped).
        """
        self._behind[start] = stop
        begin = end = self._released
        while end in self._behind:
            end = self._behind[end]
        if self.left and (end - begin) * self.tensor.row_bytes < _RELEASE:
            return None
        self._behind = {first: last for first, last in self._behind.items() if first >= end}
        self._released = end
        return begin, end


_Slab = tuple[_TensorJob, int, int]
"""Tensor, first row, end."""


@dataclass
class _Run:
    """The work of one conversion: slabs for a crew of threads to take, what they have done, what the caller is told."""

    prepared: Prepared
    parts: list[PartFile | SplitFiles]
    emit: Emit
    halt: _Halt
    peak: _PeakMemory
    journal: Journal
    blocks: ready.Blocks
    read_bytes: int = 0
    kept_bytes: int = 0
    rmse: list[dict[str, float]] = field(default_factory=list)
    relative: list[dict[str, float]] = field(default_factory=list)
    label: str = ""
    _pace: int = _FIRST_SLAB
    """Weights that a slab of the next tensor has, if the memory allows."""
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _finished: deque[_TensorJob] = field(default_factory=deque)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    checked: dict[Path, int] = field(default_factory=dict)
    """Rows of each finished file that were compared with the source's."""
    _reported: float = 0.0
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.rmse = [{} for _ in self.parts]
        self.relative = [{} for _ in self.parts]

    def take_over(self, kept: Kept) -> None:
        """Checks what an interrupted run has finished, and tells of it as if it were done now."""

        def look(done: int, total: int) -> None:
            self.halt.look()
            self.report(f"Checking what is there, {done} of {total}")

        self.journal.resume(kept, look)
        for entry in kept.entries:
            self.kept_bytes += entry.read
            for output, target in enumerate(self.prepared.targets):
                errors = entry.rmse[output], entry.relative[output]
                self._tell(output, target.layout.tensors[entry.tensor], *errors)

    def all_tensors(self) -> None:
        self._began = time.perf_counter()
        try:
            with Crew(self.prepared.threads, self._slabs(), self._work) as crew:
                while crew.watch(_POLL):
                    self._look()
        except MemoryError as error:
            raise QuenchError(
                "no_memory",
                "There is not enough memory.",
                "The system refused memory for the next rows.",
                "Close other programs, or set a lower memory limit.",
                exit_status=4,
            ) from error
        self._look()

    def _slabs(self) -> Iterator[_Slab]:
        """What there is to do. Advanced by the crew, so that what it makes ready is one tensor and not all."""
        kept = {entry.tensor for entry in self.journal.entries}
        for index in range(len(self.prepared.model.tensors)):
            if index in kept:
                continue
            job = self._job(index)
            slabs = list(job.slabs())
            job.left = len(slabs)
            self.label = job.tensor.name
            if not slabs:
                self._finished.append(job)
            for start, stop in slabs:
                yield job, start, stop

    def _work(self, slab: _Slab, crew: Crew[_Slab]) -> None:
        """One slab, from the source to the outputs. Runs in a thread of the crew."""
        job, start, stop = slab
        began = time.perf_counter()
        self._write(job, start, stop, crew)
        if crew.stopping:
            return  # it may be half written
        weights = (stop - start) * job.tensor.n_cols
        pace = int(weights * _SLAB_SECONDS / max(time.perf_counter() - began, 1e-6))
        with self._counting:
            if weights >= _SMALLEST_SLAB:
                self._pace = max(_SMALLEST_SLAB, min(pace, 2 * self._pace))
            self.read_bytes += job.tensor.read_bytes(start, stop)
            job.left -= 1
            used = job.used(start, stop)
            finished = job.left == 0
        if used is not None:
            job.tensor.release(*used)
        if finished:
            self._finished.append(job)
            crew.call()

    def _look(self) -> None:
        """What the calling thread does while the crew works."""
        self.halt.look()
        self.journal.keep_up()
        while self._finished:
            self._finish(self._finished.popleft())
        self.report(self.label)

    def _job(self, index: int) -> _TensorJob:
        tensor = self.prepared.model.tensors[index]
        importance = self.prepared.importance
        weights = importance.for_tensor(tensor.name, tensor.shape) if importance else None
        variants: dict[str, _Variant] = {}
        for output, target in enumerate(self.prepared.targets):
            place = target.layout.tensors[index]
            if place.type not in variants:
                plain = np.zeros(tensor.n_rows)
                weighted = plain if weights is None else np.zeros(tensor.n_rows)
                variants[place.type] = _Variant(place.type, [], plain, weighted)
            variants[place.type].homes.append((output, place.offset))
        step = max(1, min(self._pace, self.prepared.chunk_weights) // max(tensor.n_cols, 1))
        return _TensorJob(tensor, index, list(variants.values()), weights, np.zeros(tensor.n_rows), step)

    def _write(self, job: _TensorJob, start: int, stop: int, crew: Crew[_Slab]) -> None:
        """One slab of one tensor into every output."""
        tensor = job.tensor
        numbers = None
        for variant in job.variants:
            if crew.stopping:
                return
            if variant.kind == tensor.type and tensor.type not in {"F32", "F16", "BF16"}:
                data = tensor.raw(start, stop)
            else:
                importance = None if job.importance is None else job.importance[start // tensor.shape[-2]]
                if numbers is None:
                    numbers = load(tensor, start, stop)
                    energy(numbers, importance, job.energy[start:stop])
                errors = variant.errors[start:stop]
                weighted = None if importance is None else variant.weighted[start:stop]
                if tensor.name in self.blocks:
                    data = self.blocks[tensor.name].raw(start, stop)
                    exact = tensor.rows(start, stop)
                    measure(variant.kind, data, exact, importance=importance, errors=errors, weighted=weighted)
                else:
                    data = encode(
                        variant.kind,
                        numbers,
                        tensor,
                        start,
                        importance=importance,
                        refined=self.prepared.spec.refined,
                        errors=errors,
                        weighted=weighted,
                    )
            for output, offset in variant.homes:
                self.parts[output].write(offset + start * data.shape[1], data)
            self.journal.wrote(job.index, (output for output, _ in variant.homes), start * data.shape[1], data)

    def _finish(self, job: _TensorJob) -> None:
        weights = max(job.tensor.n_elements, 1)
        found = {
            output: (sqrt(float(variant.errors.sum()) / weights), variant.relative(job.energy))
            for variant in job.variants
            for output, _ in variant.homes
        }
        for output in found:
            place = self.prepared.targets[output].layout.tensors[job.index]
            self.parts[output].hurry(place.offset, place.bytes)
        self.journal.done(job.index, [found[output] for output in range(len(self.parts))])
        for output, errors in found.items():
            self._tell(output, self.prepared.targets[output].layout.tensors[job.index], *errors)

    def _tell(self, output: int, place: TensorPlace, rmse: float, relative: float) -> None:
        self.rmse[output][place.name] = rmse
        self.relative[output][place.name] = relative
        self.emit(TensorDone(output, place.name, place.type, place.bytes, rmse, relative))

    def report(self, label: str) -> None:
        """Progress, unless the last one was less than a tenth of a second ago."""
        now = time.perf_counter()
        if now - self._reported < _REPORT:
            return
        self._reported = now
        self._recent.append((now, self.read_bytes))
        while now - self._recent[0][0] > _RATE_WINDOW and len(self._recent) > 2:
            self._recent.popleft()
        past, bytes_then = self._recent[0] if len(self._recent) > 1 else (self._began, 0)
        rate = (self.read_bytes - bytes_then) / max(now - past, 1e-6)
        total = self.prepared.plan.read_bytes
        done = self.kept_bytes + self.read_bytes
        left = (now - self._began) * (total - done) / self.read_bytes if self.read_bytes else None
        self.emit(Progress(done, total, rate, left, self.peak.look(), label))

    def check(self, file: PartFile) -> None:
        """Compares a sample of a sealed file's rows with the source."""
        prepared = self.prepared
        if prepared.spec.check:
            tensors, importance = prepared.model.tensors, prepared.importance
            refined = prepared.spec.refined
            rows = compare_rows(file.part, file.plan, tensors, importance, refined=refined, blocks=self.blocks)
            self.checked[file.target] = rows

    def output(self, index: int) -> OutputDone:
        planned = self.prepared.plan.outputs[index]
        types = {tensor.name: tensor.type for tensor in planned.tensors}
        errors = {name: self.rmse[index][name] for name in types}  # in the file's order, not that of the threads
        relative = {name: self.relative[index][name] for name in types}
        rows = sum(self.checked.get(file.target, 0) for file in self.parts[index].files)
        return OutputDone(
            path=planned.path,
            type=planned.type,
            bytes=planned.bytes,
            bpw=planned.bpw,
            tensors=types,
            error=errors,
            files=planned.files,
            relative_error=relative,
            checked=Checked(rows) if self.prepared.spec.check else None,
        )


class _PeakMemory:
    """The most memory this process held during a run, in bytes.

    Linux keeps the true peak (VmHWM) for the whole life of the process; it is this run's own if it rose meanwhile.
    Otherwise, and on other systems, it is the largest of the sizes seen at every progress report.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = _status("VmHWM")
        self._seen = self._process.memory_info().rss

    def look(self) -> int:
        """Anonymous memory now (resident size where the system does not tell them apart)."""
        resident = self._process.memory_info().rss
        self._seen = max(self._seen, resident)
        return _status("RssAnon") or resident

    def bytes(self) -> int:
        self.look()
        after = _status("VmHWM")
        return after if after > self._before else self._seen


def _status(key: str) -> int:
    """A size of ``/proc/self/status`` in bytes; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
