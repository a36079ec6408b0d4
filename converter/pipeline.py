"""One pass over a source, any number of outputs: read a slab of rows, quantize it into every type, write it in place.

Slabs are split over Python threads (the kernels and the disk release the interpreter's lock). Equal types of several
outputs are made once and written many times. Memory is a slab a thread, never a tensor. Rows are independent of each
other, so the bytes depend neither on the number of threads nor on the slab size. A slab that needs no rearranging is
a view of the mapped source all the way into the kernels.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

import kernels
from converter.encode import encode, energy, load
from converter.planning import Prepared, plan, preflight, prepare
from converter.sources import open_model
from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import (
    Cancelled,
    ConversionEvent,
    ConversionResult,
    ConversionSpec,
    OutputDone,
    Planned,
    Progress,
    QuenchError,
    TensorDone,
)
from converter.splitting import SplitFiles, open_output
from converter.writer import Layout, PartFile

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.base import SourceTensor

__all__ = ["convert", "plan"]

Emit = Callable[[ConversionEvent], None]
Stopped = Callable[[], bool]

_POLL = 0.05
"""Seconds between looks at ``stopped``."""
_RELEASE = 8 << 20
"""Bytes of a mapped source that stay in memory after their use."""
_REPORT = 0.1
_RATE_WINDOW = 3.0


def convert(
    spec: ConversionSpec, emit: Emit = lambda event: None, stopped: Stopped = lambda: False
) -> ConversionResult:
    """Makes every output of ``spec`` and returns what was made.

    ``emit`` is called from the calling thread: :class:`Planned` once, :class:`TensorDone` for each tensor of each
    output, :class:`Progress` at most ten a second, and the returned :class:`ConversionResult` last. ``stopped`` is
    polled; true ends the run with ``converter.spec.Cancelled`` within a fifth of a second of work. Outputs appear
    under their names only when all are complete, flushed and verified; after an error or a cancel nothing is left.
    Raises ``QuenchError``.
    """
    started = time.perf_counter()
    peak = _PeakMemory()
    with open_model(Path(spec.source)) as model:
        prepared = prepare(model, spec)
        preflight(prepared)
        emit(Planned(prepared.plan))
        _halt_if(stopped)
        with ExitStack() as stack:
            _make_folder(prepared.folder, stack)
            parts = [open_output(stack, t.path, t.layout) for t in prepared.targets]
            run = _Run(prepared, parts, emit, stopped, peak)
            run.all_tensors()
            files = [file for part in parts for file in part.files]
            for file in files:
                run.report(f"Checking {file.target.name}")
                _halt_if(stopped)
                file.seal(verify)
            _publish(files)
            stack.pop_all().close()
    result = ConversionResult(
        outputs=tuple(run.output(index) for index in range(len(parts))),
        read_bytes=run.read_bytes,
        seconds=time.perf_counter() - started,
        peak_rss=peak.bytes(),
        kernels=kernels.active(),
    )
    emit(result)
    return result


def verify(path: Path, layout: Layout) -> None:
    """Re-opens a written file and compares its header with the plan; ``QuenchError`` ``write_failed`` if it differs."""
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
            "write_failed",
            "The written file does not read back as planned.",
            f"{path.name}: found {odd[0]}, planned {odd[1]}.",
            "Check the disk and try again.",
        )


def _halt_if(stopped: Stopped) -> None:
    if stopped():
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
                done.target.unlink(missing_ok=True)
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

    def used(self, start: int, stop: int) -> None:
        """Notes a slab that nobody looks at any more, and gives the source's memory back in large pieces.

        A piece a slab would cost a round through all cores each time (their address translations are dropped).
        """
        self._behind[start] = stop
        end = self._released
        while end in self._behind:
            end = self._behind[end]
        if self.left == 0 or (end - self._released) * self.tensor.row_bytes >= _RELEASE:
            self.tensor.release(self._released, end)
            self._behind = {first: last for first, last in self._behind.items() if first >= end}
            self._released = end


_Running = dict[Future[None], tuple[_TensorJob, int, int]]
"""Slabs under way: tensor, first row, end."""


@dataclass
class _Run:
    """The work of one conversion: hands slabs to threads, counts what came back, tells the caller."""

    prepared: Prepared
    parts: list[PartFile | SplitFiles]
    emit: Emit
    stopped: Stopped
    peak: _PeakMemory
    read_bytes: int = 0
    rmse: list[dict[str, float]] = field(default_factory=list)
    relative: list[dict[str, float]] = field(default_factory=list)
    _halt: threading.Event = field(default_factory=threading.Event)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _reported: float = 0.0
    _began: float = 0.0

    def all_tensors(self) -> None:
        self.rmse = [{} for _ in self.parts]
        self.relative = [{} for _ in self.parts]
        self._began = time.perf_counter()
        threads = self.prepared.threads
        with ThreadPoolExecutor(threads, thread_name_prefix="quantize") as pool:
            try:
                self._feed(pool, 2 * threads)
            except MemoryError as error:
                raise QuenchError(
                    "no_memory",
                    "There is not enough memory.",
                    "The system refused memory for the next rows.",
                    "Close other programs, or set a lower memory limit.",
                    exit_status=4,
                ) from error
            finally:
                self._halt.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _feed(self, pool: ThreadPoolExecutor, ahead: int) -> None:
        """Keeps ``ahead`` slabs under way until all are done. The first error ends it."""
        running: _Running = {}
        label = ""
        for job in map(self._job, range(len(self.prepared.model.tensors))):
            slabs = list(job.slabs())
            job.left = len(slabs)
            label = job.tensor.name
            for start, stop in slabs:
                while len(running) >= ahead:
                    self._collect(running, label)
                running[pool.submit(self._slab, job, start, stop)] = (job, start, stop)
            if not slabs:
                self._finish(job)
        while running:
            self._collect(running, label)

    def _collect(self, running: _Running, label: str) -> None:
        done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
        _halt_if(self.stopped)
        for future in done:
            job, start, stop = running.pop(future)
            future.result()
            self.read_bytes += (stop - start) * job.tensor.row_bytes
            job.left -= 1
            job.used(start, stop)
            if job.left == 0:
                self._finish(job)
        self.report(label)

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
        step = max(1, self.prepared.chunk_weights // max(tensor.n_cols, 1))
        return _TensorJob(tensor, index, list(variants.values()), weights, np.zeros(tensor.n_rows), step)

    def _slab(self, job: _TensorJob, start: int, stop: int) -> None:
        """One slab of one tensor into every output. Runs in a thread of the pool."""
        tensor = job.tensor
        numbers = None
        for variant in job.variants:
            if self._halt.is_set():
                return
            if variant.kind == tensor.type and tensor.type not in {"F32", "F16", "BF16"}:
                data = tensor.raw(start, stop)
            else:
                importance = None if job.importance is None else job.importance[start // tensor.shape[-2]]
                if numbers is None:
                    numbers = load(tensor, start, stop)
                    energy(numbers, importance, job.energy[start:stop])
                data = encode(
                    variant.kind,
                    numbers,
                    tensor,
                    start,
                    importance=importance,
                    refined=self.prepared.spec.refined,
                    errors=variant.errors[start:stop],
                    weighted=None if importance is None else variant.weighted[start:stop],
                )
            for output, offset in variant.homes:
                self.parts[output].write(offset + start * data.shape[1], data)

    def _finish(self, job: _TensorJob) -> None:
        name, weights = job.tensor.name, max(job.tensor.n_elements, 1)
        for variant in job.variants:
            rmse, relative = sqrt(float(variant.errors.sum()) / weights), variant.relative(job.energy)
            for output, _ in variant.homes:
                self.rmse[output][name] = rmse
                self.relative[output][name] = relative
                size = self.prepared.targets[output].layout.tensors[job.index].bytes
                self.emit(TensorDone(output, name, variant.kind, size, rmse, relative))

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
        left = (now - self._began) * (total - self.read_bytes) / self.read_bytes if self.read_bytes else None
        self.emit(Progress(self.read_bytes, total, rate, left, self.peak.look(), label))

    def output(self, index: int) -> OutputDone:
        planned = self.prepared.plan.outputs[index]
        types = {tensor.name: tensor.type for tensor in planned.tensors}
        errors = {name: self.rmse[index][name] for name in types}  # in the file's order, not that of the threads
        relative = {name: self.relative[index][name] for name in types}
        return OutputDone(
            planned.path, planned.type, planned.bytes, planned.bpw, types, errors, planned.files, relative
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
