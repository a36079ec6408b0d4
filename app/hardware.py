"""What this machine is, what a process truly uses of it, and whether a model fits. Knows no Qt and no engine."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from app.memory_plan import BATCH, KV_BYTES, cache_of, repacked_bytes
from converter.spec import ModelInfo

_GOOD_SHARE = 0.8  # of the memory that is available; above it other programs get into trouble
_PROCESS = 90 << 20  # the worker itself: interpreter, numpy and the engine's library
_OUTPUTS = 16  # of which so many give logits


def kv_bytes(kv_type: str) -> float:
    """Bytes of one cached value of type ``kv_type``; KeyError for an unknown one."""
    return KV_BYTES[kv_type]


# ---- the machine -----------------------------------------------------------------------------------------------


@functools.cache
def cpu_name() -> str:
    """The processor's own name, such as ``AMD Ryzen 7 7840U``."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return re.sub(r"\s+", " ", found[1]).strip() if found else platform.machine()


@functools.cache
def features() -> frozenset[str]:
    """What the processor can do, as far as the engine chooses by it: ``avx2``, ``avx512``, ``neon``, ``dotprod``."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        # Every ARM processor of a laptop has had dot products since 2018.
        return frozenset({"neon", "dotprod"})
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset({"avx2"})  # a Mac or a PC of the last ten years
    found = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return frozenset(name for name, flag in (("avx2", "avx2"), ("avx512", "avx512f")) if flag in flags)


@functools.cache
def physical_cores() -> int:
    """Cores without hyper-threads, and no more than this process may run on. At least 1."""
    return _usable(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)


def logical_cores() -> int:
    """Threads that can run at once in this process. At least 1."""
    return _usable(psutil.cpu_count() or 1)


def _usable(cores: int) -> int:
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quota = _cgroup_cores()
    return max(1, min(cores, quota) if quota else cores)


def default_threads() -> int:
    """Threads for the engine: the physical cores. More of them wait for memory and for each other."""
    return physical_cores()


def memory_total() -> int:
    """Bytes of memory that this process can ever have: the machine's, or its container's."""
    total = int(psutil.virtual_memory().total)
    limit = _cgroup_number("memory.max")
    return min(total, limit) if limit else total


def memory_available() -> int:
    """Bytes that can be had now without swapping."""
    available = int(psutil.virtual_memory().available)
    limit, used = _cgroup_number("memory.max"), _cgroup_number("memory.current")
    if limit and used is not None:
        # The container's page cache counts as used there but can be dropped.
        available = min(available, max(0, limit - used + (_cgroup_file_cache() or 0)))
    return available


def _cgroup_number(name: str) -> int | None:
    try:
        text = Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cgroup_file_cache() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^inactive_file (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _cgroup_cores() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return max(1, int(quota) // int(period)) if quota.isdigit() and int(period) > 0 else None


# ---- a process -------------------------------------------------------------------------------------------------


class ProcessMemory(NamedTuple):
    """Bytes. ``anonymous`` is what the process needs for itself, ``share`` its fair share, ``peak`` the most ever.

    On Linux RssAnon, PSS and VmHWM; elsewhere the private (unique) set and the resident set stand in.
    """

    anonymous: int
    share: int
    peak: int


def anonymous_memory(pid: int | None = None) -> int:
    """Just ``anonymous`` of :func:`process_memory`: cheap enough for every message. 0 when the process is gone."""
    status = _status(pid)
    if status is not None:
        return _kilobytes(status, "RssAnon")
    return process_memory(pid).anonymous


def process_memory(pid: int | None = None) -> ProcessMemory:
    """True memory of a process (default: this one). All zero when it is gone."""
    status = _status(pid)
    if status is not None:
        anonymous, peak = _kilobytes(status, "RssAnon"), _kilobytes(status, "VmHWM")
        try:
            rollup = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            return ProcessMemory(anonymous, _kilobytes(status, "VmRSS"), peak)
        return ProcessMemory(anonymous, _kilobytes(rollup, "Pss"), peak)
    try:
        info = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return ProcessMemory(0, 0, 0)
    return ProcessMemory(int(info.uss), int(info.rss), int(getattr(info, "peak_wset", info.rss)))


def give_back() -> None:
    """Let the C library return memory to the system that is free but kept (glibc does not by itself)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _status(pid: int | None) -> str | None:
    try:
        return Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


# ---- does a model fit? -----------------------------------------------------------------------------------------


class Fit(msgspec.Struct, frozen=True):
    """Whether a model fits at a context. Bytes.

    ``level`` is ``good`` (at most 80 % of what is available), ``tight``, ``no``, or ``unknown`` where the header does
    not say what the cache takes; ``kv`` is 0 then. ``weights`` are the file's tensors with their ``repacked`` copies.
    ``context_that_fits`` is the longest context, up to the trained one, that would be good; 0 if none is.
    """

    level: str
    weights: int
    kv: int
    compute: int
    total: int
    available: int
    context_that_fits: int
    repacked: int = 0


_LONGEST = 1 << 20  # tokens; no longer context is looked for


def fits(info: ModelInfo, context: int = 0, kv_type: str = "f16", available: int | None = None) -> Fit:
    """Plan the memory of ``info`` with ``context`` tokens (0: 8192 or the trained length, whichever is less).

    Weights are the file's tensors, the cache follows the engine's rules (:mod:`app.memory_plan`); compute is an
    estimate of the engine's scratch memory, for which loading makes a dry run.
    """
    free = memory_available() if available is None else available
    trained = info.context_length or 8192
    tokens = context or min(8192, trained)
    tensors = [(tensor.name, tensor.shape, tensor.type, tensor.bytes) for tensor in info.tensors]
    repacked = repacked_bytes(tensors, features())
    weights = (sum(tensor.bytes for tensor in info.tensors) or info.bytes) + repacked
    compute = compute_estimate(info)
    kv = cache_bytes(info, tokens, kv_type)
    total = weights + (kv or 0) + compute
    room = free * _GOOD_SHARE - weights - compute
    if kv is None:
        return Fit("no" if total > free else "unknown", weights, 0, compute, total, free, 0, repacked)
    level = "good" if total <= free * _GOOD_SHARE else "tight" if total <= free else "no"
    longest = _longest(info, min(trained, _LONGEST), kv_type, room) if room > 0 else 0
    return Fit(level, weights, kv, compute, total, free, longest, repacked)


def cache_bytes(info: ModelInfo, context: int, kv_type: str = "f16") -> int | None:
    """Bytes of the cache for ``context`` tokens, an upper bound where a list was cut short; None if unknown."""
    if "general.architecture" in info.metadata:
        cache = cache_of(info.metadata.get, context, kv_type)
        return None if cache is None else cache.kv + cache.state
    return round(kv_per_token(info, kv_type) * context)


def _longest(info: ModelInfo, most: int, kv_type: str, room: float) -> int:
    """The longest context in steps of 256 tokens whose cache takes at most ``room`` bytes."""
    low, high = 0, most // 256
    while low < high:
        middle = (low + high + 1) // 2
        if (cache_bytes(info, middle * 256, kv_type) or 0) <= room:
            low = middle
        else:
            high = middle - 1
    return low * 256


def kv_per_token(info: ModelInfo, kv_type: str = "f16") -> float:
    """Bytes of cache for one token of context in a model that keeps all tokens in all layers."""
    usual = info.embedding_length // max(1, info.heads)
    lengths = (info.key_length or usual) + (info.value_length or usual)
    return info.layers * (info.kv_heads or info.heads) * lengths * kv_bytes(kv_type)


def compute_estimate(info: ModelInfo) -> int:
    """Bytes beside weights and cache: the process, a batch's widest activations, and the logits that are asked for."""
    forward = info.metadata.get(f"{info.architecture}.feed_forward_length", 4 * info.embedding_length)
    widest = forward if isinstance(forward, int) else 4 * info.embedding_length
    activations = BATCH * 4 * (2 * widest + 6 * info.embedding_length)
    return _PROCESS + activations + 2 * _OUTPUTS * info.vocabulary * 4


# ---- memory bandwidth ------------------------------------------------------------------------------------------


def measure_bandwidth(seconds: float = 0.3, threads: int = 0) -> float:
    """Bytes a second that all cores together read from memory, for the roofline. Best of several passes.

    Each thread takes the maximum of its own 16 to 64 MiB (more than a core's caches hold); numpy releases the lock.
    """
    import numpy as np

    count = threads or physical_cores()
    size = min(64 << 20, max(16 << 20, (512 << 20) // count))
    parts = [np.ones(size // 8, np.int64) for _ in range(count)]
    best = 0.0
    until = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        workers = [threading.Thread(target=np.max, args=(part,)) for part in parts[1:]]
        for worker in workers:
            worker.start()
        np.max(parts[0])
        for worker in workers:
            worker.join()
        now = time.perf_counter()
        best = max(best, sum(part.nbytes for part in parts) / (now - start))
        if now >= until:
            return best


__all__ = [
    "Fit",
    "ProcessMemory",
    "anonymous_memory",
    "cache_bytes",
    "compute_estimate",
    "cpu_name",
    "default_threads",
    "features",
    "fits",
    "give_back",
    "kv_bytes",
    "kv_per_token",
    "measure_bandwidth",
    "memory_available",
    "memory_total",
    "physical_cores",
    "process_memory",
]
