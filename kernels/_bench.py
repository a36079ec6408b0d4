"""Times of the kernels on one thread, each in turns with the engine's own function where its library is given.

The data lie in the processor's caches. A size is chosen for each kernel so that the slowest run of a turn takes some
milliseconds: long enough for the clock, short enough for many turns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import kernels

N_COLS = 4096
ENGINE = "engine"
TURN = 0.015
"""Seconds that the slowest run of a turn may take, about."""
MOST_ROWS = 256
"""Of 4096 weights: 4 MiB of floats."""

Run = Callable[[], object]
Rows = npt.NDArray[np.float32]


class _Traits(ctypes.Structure):
    """The head of ``ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def load_oracle(path: str) -> ctypes.CDLL:
    """The engine's ``libggml-base`` at ``path``, its chunk quantizer declared. Raises KernelError (``no_oracle``)."""
    try:
        library = ctypes.CDLL(path)
        function, traits = library.ggml_quantize_chunk, library.ggml_get_type_traits
    except (OSError, AttributeError) as error:
        raise kernels.KernelError("no_oracle", f"{path} is not the engine's quantization library: {error}") from error
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    traits.restype = ctypes.POINTER(_Traits)
    return library


def oracle_dequantize(
    library: ctypes.CDLL, qtype: str, blocks: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """``blocks`` decoded into ``out`` by the engine, which copies F32 elsewhere. The caller answers for shapes."""
    decode = library.ggml_get_type_traits(kernels.READABLE[qtype]).contents.to_float
    if decode:
        decode(blocks.ctypes.data, out.ctypes.data, out.size)
    else:
        out.view(np.uint8)[:] = blocks
    return out


def oracle_quantize(
    library: ctypes.CDLL,
    qtype: str,
    rows: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """``rows`` (contiguous) quantized into ``out`` by the engine. The caller answers for shapes."""
    address = None if importance is None else importance.ctypes.data
    library.ggml_quantize_chunk(kernels.TYPES[qtype], rows.ctypes.data, out.ctypes.data, 0, *rows.shape, address)
    return out


# ---- what is timed ----


class Work(NamedTuple):
    """One run on some rows: ours for a backend, the engine's (None: nothing to compare with), and what it works on."""

    ours: Callable[..., object]
    engine: Run | None
    weights: int
    moved: int  # bytes read and written


def _quantize(qtype: str, rows: Rows, importance: Rows | None, engine: ctypes.CDLL | None, refined: bool) -> Work:
    out = np.zeros((len(rows), kernels.row_bytes(qtype, N_COLS)), np.uint8)
    ours = partial(kernels.quantize, qtype, rows, importance, out=out, refined=refined)
    theirs = None if engine is None else partial(oracle_quantize, engine, qtype, rows, importance, out)
    return Work(ours, theirs, rows.size, rows.nbytes + out.nbytes)


def _dequantize(qtype: str, rows: Rows, engine: ctypes.CDLL | None) -> Work:
    blocks, out = kernels.quantize(qtype, rows), np.zeros_like(rows)
    theirs = None if engine is None else partial(oracle_dequantize, engine, qtype, blocks, out)
    ours = partial(kernels.dequantize, qtype, blocks, N_COLS, out=out)
    return Work(ours, theirs, rows.size, rows.nbytes + blocks.nbytes)


def _dot(qtype: str, rows: Rows) -> Work:
    blocks, out = kernels.quantize(qtype, rows), np.zeros(len(rows), np.float32)
    return Work(partial(kernels.dot, qtype, blocks, rows[0].copy(), out=out), None, rows.size, blocks.nbytes)


def _is_refined(qtype: str, rows: Rows) -> bool:
    """Whether there is a search for better blocks of the type."""
    return not np.array_equal(kernels.quantize(qtype, rows, refined=True), kernels.quantize(qtype, rows))


def _works(qtype: str, sample: Rows, name: str, engine: ctypes.CDLL | None) -> dict[str, Callable[[Rows], Work]]:
    importance = np.random.default_rng(21).random(N_COLS, np.float32)
    found: dict[str, Callable[[Rows], Work]] = {
        "quantize": lambda rows: _quantize(qtype, rows, None, engine, False),
        "quantize with importance": lambda rows: _quantize(qtype, rows, importance, engine, False),
    }
    if name != "gaussian":
        return found  # the time of the others does not depend on the data
    if _is_refined(qtype, sample[:4]):
        found["quantize refined"] = lambda rows: _quantize(qtype, rows, None, engine, True)
        found["quantize refined with importance"] = lambda rows: _quantize(qtype, rows, importance, engine, True)
    found["dequantize"] = lambda rows: _dequantize(qtype, rows, engine)
    found["dot"] = lambda rows: _dot(qtype, rows)
    return found


# ---- the clock ----


# The thread's own time: other programs on the core would hit the longest runs most, and those are the engine's.
_FINE = time.get_clock_info("thread_time").resolution <= 1e-6
_clock = time.thread_time if _FINE else time.perf_counter


def _seconds(run: Run) -> float:
    start = _clock()
    run()
    return _clock() - start


def _medians(runs: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds of each run; the runs take turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            spent = _seconds(run)
            if turn:  # the first turn warms caches
                seconds[name].append(spent)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _runs(work: Work, names: Sequence[str]) -> dict[str, Run]:
    runs: dict[str, Run] = {name: partial(work.ours, backend=name) for name in names}
    return runs if work.engine is None else {**runs, ENGINE: work.engine}


def _fitting(make: Callable[[Rows], Work], sample: Rows, names: Sequence[str]) -> Work:
    """The work on as many of the rows as fill a turn."""
    few = 8
    work = make(sample[:few])
    slowest = max(min(_seconds(run), _seconds(run)) for run in _runs(work, names).values())
    return make(sample[: max(few, min(len(sample), int(few * TURN / slowest)))])


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keeps the calling thread on one of its cores where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
    except OSError:  # a container may forbid it; the medians are then what they are
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def gaussian() -> Rows:
    """Rows (256, 4096) of independent weights of the usual size."""
    rows: Rows = np.random.default_rng(20).standard_normal((MOST_ROWS, N_COLS), np.float32)
    rows *= np.float32(0.02)
    return rows


def run(
    types: Sequence[str] | None,
    *,
    oracle: str | None,
    repeats: int,
    samples: Mapping[str, Rows],
    on_step: Callable[[str, int, int], object],
) -> list[dict[str, Any]]:
    """See :func:`kernels.bench`."""
    engine = load_oracle(oracle) if oracle else None
    names = kernels.backends()
    chosen = list(types if types is not None else kernels.TYPES)
    data = {"gaussian": gaussian(), **{name: rows[:MOST_ROWS] for name, rows in samples.items()}}
    jobs = [
        (qtype, kernel, name, rows, make)
        for qtype in chosen
        for name, rows in data.items()
        for kernel, make in _works(qtype, rows, name, engine).items()
    ]
    results: list[dict[str, Any]] = []
    with _one_core():
        for step, (qtype, kernel, name, rows, make) in enumerate(jobs):
            on_step(f"{kernel} {qtype}", step, len(jobs))
            work = _fitting(make, rows, names)
            medians = _medians(_runs(work, names), repeats)
            engine_seconds = medians.pop(ENGINE, None)
            results += [
                {
                    "kernel": kernel,
                    "type": qtype,
                    "backend": backend,
                    "data": name,
                    "weights": work.weights,
                    "gigabytes_per_second": work.moved / seconds / 1e9,
                    "million_weights_per_second": work.weights / seconds / 1e6,
                    "oracle_ratio": None if engine_seconds is None else engine_seconds / seconds,
                }
                for backend, seconds in medians.items()
            ]
    return results
