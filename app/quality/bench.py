"""Speed and memory of models, one after another: loading, first token, prompt and writing by depth and threads.

Every point is measured ``repeat`` times after a warm-up and given as median, 10th and 90th percentile. Memory is what
the model added to the process. Without a given number of threads each model takes its own, found as Chat finds it
(``LoadOptions(threads=0)``); the points say which. The roofline says what share of this machine's memory bandwidth,
measured here before the first model is loaded, the writing of tokens used: each new token reads all weights it needs
once, and the cache.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from app import hardware
from app.engine.loading import check_file
from app.engine.model import Model
from app.fit_speed import share
from app.measure_messages import (
    BenchMemory,
    BenchResult,
    BenchUpdate,
    MeasureBench,
    ModelBench,
    Roofline,
    SpeedPoint,
    Spread,
)
from app.protocol import Event, LoadOptions, Sampling, Status
from app.quality.footprint import Footprint
from app.quality.subject import read_header
from converter.identity import content_id
from converter.spec import Cancelled, ModelInfo, QuenchError

Emit = Callable[[Event], None]
Stopped = Callable[[], bool]

STATUS_SECONDS = 0.15

RESIDENT_AT_MOST = 0.05
"""Share of a file that may be left in memory for its loading to count as cold."""


class BenchRun:
    """Runs one :class:`MeasureBench`; parameters as for ``QualityRun``."""

    def __init__(
        self,
        command: MeasureBench,
        emit: Emit,
        stopped: Stopped,
        on_model: Callable[[Model], None] = lambda model: None,
    ) -> None:
        check(command)
        self._command = command
        self._emit = emit
        self._stopped = stopped
        self._on_model = on_model
        self._start = time.monotonic()
        points = max(1, len(command.threads)) * len(command.depths) * 2
        self._total = len(command.models) * (points + 2)
        self._done = 0
        self._bandwidth = 0.0
        self._next_status = 0.0

    def run(self) -> BenchResult:
        """Measure all models. QuenchError of the first that cannot be; converter.spec.Cancelled when stopped."""
        for path in self._command.models:
            check_file(path)
        self._status("Measuring the memory of this machine", 0)
        self._bandwidth = hardware.measure_bandwidth()
        models = tuple(self._model(index, path) for index, path in enumerate(self._command.models))
        seconds = time.monotonic() - self._start
        return BenchResult(models, hardware.cpu_name(), seconds, automatic=not self._command.threads)

    def _model(self, index: int, path: str) -> ModelBench:
        name = Path(path).name
        info, content = read_header(path), content_id(path)
        self._status(f"Loading {name}", 0)
        cold = self._cold_load(path)
        self._status(f"Loading {name} again", 1)
        footprint = Footprint()
        start = time.perf_counter()
        with self._load(path) as model:
            warm = time.perf_counter() - start
            self._on_model(model)
            self._status(f"{name}: first token", 1)
            model.bench_generate(4)
            first = first_token(model, self._command.prompt, self._stopped)
            prompt: list[SpeedPoint] = []
            write: list[SpeedPoint] = []
            for threads in self._command.threads or (None,):
                if threads is not None:
                    model.set_threads(threads)
                for depth in self._command.depths:
                    prompt.append(self._point(index, name, "prompt", model, depth))
                    write.append(self._point(index, name, "generate", model, depth))
            memory = footprint.memory(model)
            best = max(write, key=lambda point: (-point.depth, point.tokens_per_second.median))
            result = ModelBench(
                path=path,
                content=content,
                load_cold=cold,
                load_warm=warm,
                first_token=first,
                prompt=tuple(prompt),
                generate=tuple(write),
                memory=BenchMemory(
                    weights=memory.weights,
                    kv=memory.kv,
                    compute=memory.compute,
                    peak=memory.peak,
                    steady=memory.share,
                ),
                roofline=roofline(info, memory.kv / max(1, model.context), best, self._bandwidth),
            )
        self._emit(BenchUpdate(index, "model", model=result))
        return result

    def _load(self, path: str) -> Model:
        command = self._command
        context = max(command.depths) + max(command.prompt, command.generate) + 1
        context = -(-context // 256) * 256
        threads = command.threads[0] if command.threads else 0
        options = LoadOptions(context=context, threads=threads, machines=command.machines)
        return Model.load(path, options, lambda fraction: not self._stopped(), outputs=1)

    def _cold_load(self, path: str) -> float | None:
        """Seconds to load ``path`` after the system forgot its pages; None where that cannot be had."""
        if not forget_pages(Path(path)):
            return None
        start = time.perf_counter()
        with self._load(path):
            return time.perf_counter() - start

    def _point(self, index: int, name: str, kind: str, model: Model, depth: int) -> SpeedPoint:
        tokens = self._command.prompt if kind == "prompt" else self._command.generate
        work = model.bench_prompt if kind == "prompt" else model.bench_generate
        words = "reading a prompt" if kind == "prompt" else "writing"
        rates = []
        work(min(tokens, 16), depth)
        for number in range(self._command.repeat):
            self._status(f"{name}: {words}, {number + 1} of {self._command.repeat}", int(number == 0))
            rates.append(tokens / work(tokens, depth))
        threads = model.prompt_threads if kind == "prompt" else model.threads
        point = SpeedPoint(tokens, depth, threads, spread(rates))
        self._emit(BenchUpdate(index, kind, point=point))
        return point

    def _status(self, label: str, steps: int) -> None:
        if self._stopped():
            raise Cancelled
        self._done += steps
        now = time.monotonic()
        if now < self._next_status:
            return
        self._next_status = now + STATUS_SECONDS
        spent = now - self._start
        left = spent / self._done * max(0, self._total - self._done) if self._done > 2 else None
        self._emit(Status(label, self._done, self._total, left, hardware.anonymous_memory()))


def check(command: MeasureBench) -> None:
    """Refuse a command that makes no sense; QuenchError with exit status 2."""
    problem = ""
    if not command.models:
        problem = "No model was given."
    elif command.prompt < 1 or command.generate < 1 or command.repeat < 1:
        problem = "Prompt, generate and repeat must be at least 1."
    elif not command.depths or min(command.depths) < 0:
        problem = "A depth cannot be negative."
    elif any(not 1 <= threads <= 512 for threads in command.threads):
        problem = "Threads must be 1 to 512."
    if problem:
        raise QuenchError("bad_options", "This cannot be measured.", problem, "", exit_status=2)


def spread(rates: Sequence[float]) -> Spread:
    """Median, 10th and 90th percentile (linear between neighbours)."""
    low, high = np.quantile(np.asarray(rates), (0.1, 0.9))
    return Spread(statistics.median(rates), float(low), float(high))


def first_token(model: Model, prompt: int, stopped: Stopped) -> float:
    """Seconds from a fresh prompt of ``prompt`` tokens to the first token of the answer."""
    tokens = np.random.default_rng(2).integers(0, model.vocabulary, prompt).tolist()
    steps = model.generate(tokens, Sampling(temperature=0.0, max_tokens=1), cancelled=stopped)
    stats = next(step.stats for step in steps if step.stats is not None)
    if stopped():
        raise Cancelled
    return stats.first_token


def bytes_per_token(info: ModelInfo) -> int:
    """Bytes of weights that one new token reads: all but the embedding table's other rows and idle experts."""
    return round(sum(tensor.bytes * share(info, tensor) for tensor in info.tensors))


def roofline(info: ModelInfo, kv_per_token: float, point: SpeedPoint, bandwidth: float) -> Roofline:
    """The writing speed ``point`` against the memory bandwidth; the cache counts at its mean length."""
    needed = bytes_per_token(info) + round(kv_per_token * (point.depth + point.tokens / 2))
    return Roofline(needed, bandwidth, needed * point.tokens_per_second.median / bandwidth)


def forget_pages(path: Path) -> bool:
    """Ask the system to drop ``path`` from its page cache; whether it did (another user of the file prevents it)."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    resident = resident_share(path)
    return resident is not None and resident <= RESIDENT_AT_MOST


def resident_share(path: Path) -> float | None:
    """Share of ``path``'s pages that are in memory, by mincore(2); None where it cannot be asked."""
    size = path.stat().st_size
    if sys.platform == "win32" or size == 0:
        return None
    pages = -(-size // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    # A private writable mapping only because ctypes takes no address of a read-only one; nothing is written.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        view = ctypes.c_ubyte.from_buffer(mapping)
        answered = mincore(ctypes.addressof(view), size, states) == 0
        del view
    return int(np.count_nonzero(np.ctypeslib.as_array(states) & 1)) / pages if answered else None
