"""How many threads write fastest with a model on this machine: tried once, then remembered.

In a small model waking the other threads costs more than they help with; in a large one every core helps, until the
memory cannot follow. So it is measured, for about a second, when a model is loaded for the first time.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from app import hardware, paths
from app.files import write_atomically

SECONDS = 0.12
"""How long each number of threads is tried, at least for :data:`FEWEST` tokens and at most for :data:`MOST`."""
FEWEST, MOST = 2, 8
SLOW = 0.3
"""Seconds for a token from which on nothing is tried: all cores help such a model, and trying would take long."""
WORTH = 1.03
"""More threads must be faster by so much: a core that is left alone serves the window."""
BUSY = 0.15
"""Cores that other programs used meanwhile, from which on a result holds for this time only."""
REMEMBERED = 500

Measure = Callable[[int, int], float]
"""(threads, tokens) -> seconds."""


class Choice(msgspec.Struct, frozen=True):
    """``threads`` for a model; ``quiet``: the machine had little else to do when it was found."""

    threads: int
    quiet: bool


def candidates(cores: int) -> tuple[int, ...]:
    """Numbers of threads worth trying on ``cores`` real cores, few first."""
    return tuple(sorted({1, max(1, cores // 2), max(1, cores - 1), cores}))


def choose(measure: Measure, cores: int) -> Choice:
    """Try :func:`candidates`; the fewest threads that are about as fast as the fastest."""
    others = _OtherPrograms()
    measure(cores, 1)  # the first token reads the weights from the disk
    one = measure(cores, FEWEST) / FEWEST
    if one > SLOW or cores == 1:
        return Choice(cores, others.quiet())
    tokens = min(MOST, max(FEWEST, math.ceil(SECONDS / one)))
    times = {}
    for threads in candidates(cores):
        measure(threads, 1)  # wakes or dismisses threads
        times[threads] = measure(threads, tokens)
    limit = WORTH * min(times.values())
    return Choice(next(threads for threads, seconds in times.items() if seconds <= limit), others.quiet())


class _OtherPrograms:
    """What other programs took of the processor since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._before = self._used()

    def quiet(self) -> bool:
        seconds = time.monotonic() - self._start
        return seconds <= 0 or (self._used() - self._before) / seconds < BUSY

    @staticmethod
    def _used() -> float:
        """Seconds of the processor that all programs but this one have had."""
        every = psutil.cpu_times()
        own = time.process_time()
        return float(every.user + every.system + getattr(every, "nice", 0.0) - own)


class Memory:
    """Choices by model and machine, in a file that can be deleted at any time; a damaged one counts as empty."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or paths.cache() / "threads.json"

    def find(self, key: str) -> int | None:
        """The threads that were chosen before."""
        return self._read().get(key)

    def keep(self, key: str, threads: int) -> None:
        """Remember; of more than :data:`REMEMBERED` the oldest are dropped. A full disk costs the next trial only."""
        known = self._read()
        known.pop(key, None)
        known[key] = threads
        newest = dict(list(known.items())[-REMEMBERED:])
        with contextlib.suppress(OSError):
            write_atomically(self._file, msgspec.json.encode(newest))

    def _read(self) -> dict[str, int]:
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.DecodeError, ValueError):
            return {}
        return {key: threads for key, threads in known.items() if 1 <= threads <= 512}


def key_of(path: str, *circumstances: object) -> str:
    """Stands for a file as it is now, the machine, the engine and what else speed depends on; empty if it has gone."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of the engine is a string
    except OSError:
        return ""
    facts = (
        path, status.st_size, status.st_mtime_ns,
        hardware.cpu_name(), hardware.physical_cores(), version("llama-cpp-python"), *circumstances,
    )  # fmt: skip
    return hashlib.blake2b(repr(facts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def settle(path: str, cores: int, measure: Measure, *circumstances: object, memory: Memory | None = None) -> int:
    """The number of threads for a model: remembered, else tried now."""
    memory = memory or Memory()
    key = key_of(path, cores, *circumstances)
    known = memory.find(key) if key else None
    if known is not None:
        return min(known, cores)
    choice = choose(measure, cores)
    if key and choice.quiet:
        memory.keep(key, choice.threads)
    return choice.threads
