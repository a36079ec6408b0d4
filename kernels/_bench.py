"""Times of the kernels on one thread, alternated with the engine's own quantizer where its library is given."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels

N_COLS = 4096
ENGINE = "engine"

Run = Callable[[], object]


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


def _medians(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds of each run; the runs take turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms caches
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def run(types: Sequence[str] | None, *, oracle: str | None, repeats: int, weights: int) -> list[dict[str, Any]]:
    """See :func:`kernels.bench`."""
    generator = np.random.default_rng(20)
    rows = generator.standard_normal((max(1, weights // N_COLS), N_COLS), np.float32) * np.float32(0.02)
    importance = generator.random(N_COLS, np.float32)
    engine = load_oracle(oracle) if oracle else None
    results: list[dict[str, Any]] = []
    for qtype in types if types is not None else kernels.TYPES:
        blocks = kernels.quantize(qtype, rows)
        out, decoded = np.zeros_like(blocks), np.zeros_like(rows)
        jobs: dict[str, Callable[..., object]] = {
            "quantize": partial(kernels.quantize, qtype, rows, out=out),
            "quantize with importance": partial(kernels.quantize, qtype, rows, importance, out=out),
            "dequantize": partial(kernels.dequantize, qtype, blocks, N_COLS, out=decoded),
        }
        for kernel, job in jobs.items():
            runs: dict[str, Run] = {name: partial(job, backend=name) for name in kernels.backends()}
            if engine is not None and kernel == "dequantize":
                runs[ENGINE] = partial(oracle_dequantize, engine, qtype, blocks, decoded)
            elif engine is not None:
                weight = importance if kernel == "quantize with importance" else None
                runs[ENGINE] = partial(oracle_quantize, engine, qtype, rows, weight, out)
            medians = _medians(runs, repeats)
            engine_seconds = medians.pop(ENGINE, None)
            results += [
                {
                    "kernel": kernel,
                    "type": qtype,
                    "backend": name,
                    "gigabytes_per_second": (rows.nbytes + blocks.nbytes) / seconds / 1e9,
                    "million_weights_per_second": rows.size / seconds / 1e6,
                    "oracle_ratio": None if engine_seconds is None else engine_seconds / seconds,
                }
                for name, seconds in medians.items()
            ]
    return results
