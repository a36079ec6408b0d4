"""What one model costs a process: memory before and after, and its solo speed."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from pathlib import Path

import psutil

from app import hardware
from app.engine.model import Model
from app.memory_messages import Memory

_CLEAR_PEAK = Path("/proc/self/clear_refs")
SECONDS = 0.3
STEP = 16
MAX_RUNS = 8


class Footprint:
    """Memory that is added between making this object and :meth:`memory`, while one model is loaded.

    Differences of the process's own figures, so that the interpreter and models loaded earlier do not count. The peak
    is reset first where the system allows that (Linux); elsewhere it is that of the whole process.
    """

    def __init__(self) -> None:
        self._resets = False
        _give_back()
        try:
            _CLEAR_PEAK.write_text("5", encoding="ascii")
            self._resets = True
        except OSError:
            pass  # no such file on this system, or not allowed: the peak then is the process's
        self._before = hardware.process_memory()
        self._resident = int(psutil.Process().memory_info().rss)

    def memory(self, model: Model) -> Memory:
        """Memory of ``model``; call it when its weights have been used."""
        now = model.memory()
        peak = now.peak - self._resident if self._resets else now.peak
        share = max(0, now.share - self._before.share)
        return Memory(
            anonymous=max(0, now.anonymous - self._before.anonymous),
            share=share,
            peak=max(peak, share),
            weights=now.weights,
            kv=now.kv,
            compute=now.compute,
        )


def _give_back() -> None:
    """Return freed memory to the system: what an earlier model left in the allocator would hide the next one's need."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; musl has none
        if trim is not None:
            trim(0)


def solo_speed(model: Model, seconds: float = SECONDS) -> float:
    """Tokens a second of writing, nothing else running: the median of short runs for about ``seconds``."""
    step = min(STEP, model.context - 1)
    model.bench_generate(max(1, step // 4))  # the first run reads the file and wakes the threads
    rates: list[float] = []
    until = time.perf_counter() + seconds
    while len(rates) < MAX_RUNS and (not rates or time.perf_counter() < until):
        rates.append(step / model.bench_generate(step))
    return statistics.median(rates)
