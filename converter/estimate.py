"""How long a conversion will take, from half a second of the very work that it consists of.

The probe runs the kernels on all the threads that the conversion will have, so that shared cores and clocks that drop
under load are in the numbers. What was measured once in a process is not measured again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from converter.encode import NATIVE

PROBE_SECONDS = 0.5
_LEAST_SECONDS = 0.015
_ROWS, _COLUMNS = 64, 1024


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work on a weight: from a stored type to another. An empty ``kind`` is the reading of ``source``."""

    source: str
    kind: str
    weighted: bool
    refined: bool


@dataclass
class _Bench:
    """Rows to work on, for one thread."""

    work: Work
    rows: npt.NDArray[Any] = field(init=False)
    errors: npt.NDArray[np.float64] = field(init=False)
    importance: npt.NDArray[np.float32] | None = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(1)
        wide = random.standard_normal((_ROWS, _COLUMNS), np.float32) * np.float32(0.02)
        self.errors = np.empty(_ROWS)
        self.importance = random.random(_COLUMNS, np.float32) if self.work.weighted else None
        if not self.work.kind:
            self.rows = random.integers(0, 64, (_ROWS, kernels.row_bytes(self.work.source, _COLUMNS)), np.uint8)
        elif self.work.source == "BF16":
            self.rows = (wide.view(np.uint32) >> 16).astype(np.uint16)
        else:
            self.rows = wide.astype(np.float16) if self.work.source == "F16" else wide

    def turn(self) -> None:
        if not self.work.kind:
            kernels.dequantize(self.work.source, self.rows, _COLUMNS)
            return
        _, source = NATIVE.get(self.work.source, NATIVE["F32"])
        kernels.energy(self.rows, self.importance, source=source, out=self.errors)
        kernels.quantize(
            self.work.kind,
            self.rows,
            self.importance,
            refined=self.work.refined,
            source=source,
            squared_error=self.errors,
            weighted_error=self.errors if self.work.weighted else None,
        )


_known: dict[tuple[Work, int, str], float] = {}
_lock = threading.Lock()


def costs(works: Iterable[Work], threads: int) -> dict[Work, float]:
    """Seconds a weight of every kind of work, with ``threads`` threads sharing it. Half a second for what is new.

    Raises ``kernels.KernelError``.
    """
    wanted = list(dict.fromkeys(works))
    backend = kernels.active()
    with _lock:
        new = [work for work in wanted if (work, threads, backend) not in _known]
        if new:
            each = max(_LEAST_SECONDS, PROBE_SECONDS / len(new))
            with ThreadPoolExecutor(threads) as pool:
                for work in new:
                    _known[work, threads, backend] = _measure(work, pool, threads, each)
    return {work: _known[work, threads, backend] for work in wanted}


def _measure(work: Work, pool: ThreadPoolExecutor, threads: int, seconds: float) -> float:
    benches = [_Bench(work) for _ in range(threads)]
    benches[0].turn()  # the first call of all loads the library
    until = time.perf_counter() + seconds

    def run(bench: _Bench) -> float:
        """Turns a second; at least one turn, however slow."""
        begun, turns = time.perf_counter(), 0
        while True:
            bench.turn()
            turns += 1
            now = time.perf_counter()
            if now >= until:
                return turns / (now - begun)

    rate = sum(pool.map(run, benches))
    return 1 / (rate * _ROWS * _COLUMNS)
