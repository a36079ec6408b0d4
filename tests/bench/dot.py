"""Dot products from memory: ours, the engine's own kernel, and a plain read of the same bytes, alternated.

Usage: python -m tests.bench.dot [--types Q4_K,...] [--mebibytes 512] [--columns 4096] [--repeat 15] [--pages huge]
[--backends avx512,avx2] [--json]. One thread; pin it with taskset where there is one.

Weights are many times the last cache by default. The engine's kernel is ``vec_dot`` of its CPU traits, called row
after row from a loop in C that is compiled here (dot.c, with the machine's own instruction set); x is quantized
beforehand for both. The read takes the best of three prefetch distances. Pages:
``small`` (4 KiB, as a mapped model file has them) or ``huge``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import kernels
from tests.kernels import oracle

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "IQ4_XS")
AHEAD = (0, 2048, 8192)
SOURCE = Path(__file__).with_suffix(".c")


def compiled(folder: str) -> ctypes.CDLL:
    """The loops of dot.c."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("This comparison needs a C compiler.")
    library = Path(folder) / "dot.so"
    options = ["-O3", "-march=native", "-shared", "-fPIC"]
    if "avx512" in kernels.backends():
        options.append("-mprefer-vector-width=512")
    subprocess.run([compiler, *options, "-o", str(library), str(SOURCE)], check=True)
    loops = ctypes.CDLL(str(library))
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    loops.engine_rows.argtypes = [pointer, pointer, size, size, ctypes.c_int, pointer, pointer]
    loops.engine_rows.restype = None
    loops.read_all.argtypes = [pointer, size, size]
    loops.read_all.restype = ctypes.c_uint64
    return loops


def matrix(qtype: str, mebibytes: float, n_cols: int, pages: str) -> npt.NDArray[np.uint8]:
    """Rows of blocks of gaussian weights that fill so much memory (the same 4096 rows again and again)."""
    width = kernels.row_bytes(qtype, n_cols)
    n_rows = max(1, int(mebibytes * (1 << 20)) // width)
    memory = mmap.mmap(-1, (n_rows * width + 511) // 512 * 512)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE if pages == "huge" else mmap.MADV_NOHUGEPAGE)
    blocks = np.frombuffer(memory, np.uint8, n_rows * width).reshape(n_rows, width)
    weights = np.random.default_rng(4).standard_normal((min(n_rows, 4096), n_cols), np.float32) * np.float32(0.02)
    part = kernels.quantize(qtype, weights)
    for first in range(0, n_rows, len(part)):
        blocks[first : first + len(part)] = part[: n_rows - first]
    return blocks


class Setup(NamedTuple):
    """What all measurements of a run share."""

    loops: ctypes.CDLL
    backends: list[str]
    mebibytes: float
    columns: int
    pages: str
    repeat: int


def measure(qtype: str, setup: Setup) -> dict[str, Any]:
    """Gigabytes of blocks a second, medians: by backend, ``engine`` and ``read``; and how far the results are apart."""
    loops, backends, mebibytes, n_cols, pages, repeat = setup
    blocks = matrix(qtype, mebibytes, n_cols, pages)
    x = np.random.default_rng(5).standard_normal(n_cols, np.float32)
    engine_dot, engine_x = oracle.vec_dot(qtype), oracle.activations(qtype, x)[1]
    prepared = kernels.activations(qtype, x)
    ours, theirs = np.zeros(len(blocks), np.float32), np.zeros(len(blocks), np.float32)
    inner = max(1, int((64 << 20) / blocks.nbytes))
    runs: dict[str, Callable[[], object]] = {
        name: partial(kernels.dot, qtype, blocks, prepared, out=ours, backend=name) for name in backends
    }
    runs["engine"] = partial(
        loops.engine_rows, engine_dot, blocks.ctypes.data, blocks.shape[1], len(blocks), n_cols,
        engine_x.ctypes.data, theirs.ctypes.data,
    )  # fmt: skip
    for ahead in AHEAD:
        runs[f"read {ahead}"] = partial(loops.read_all, blocks.ctypes.data, blocks.nbytes // 512 * 512, ahead)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(inner):
                run()
            if turn:  # the first turn maps pages and warms caches
                seconds[name].append((time.perf_counter() - start) / inner)
    speed = {name: blocks.nbytes / statistics.median(times) / 1e9 for name, times in seconds.items()}
    read = max(speed.pop(f"read {ahead}") for ahead in AHEAD)
    engine = speed.pop("engine")
    apart = float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max())
    return {
        "type": qtype,
        "mebibytes": blocks.nbytes / (1 << 20),
        "columns": n_cols,
        "pages": pages,
        "read": read,
        "engine": engine,
        "ours": speed,
        "engine_ratio": {name: value / engine for name, value in speed.items()},
        "read_ratio": {name: value / read for name, value in speed.items()},
        "difference": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--mebibytes", type=float, default=512)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--pages", choices=("small", "huge"), default="small")
    parser.add_argument("--backends", default=kernels.backends()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            compiled(folder),
            options.backends.split(","),
            options.mebibytes,
            options.columns,
            options.pages,
            options.repeat,
        )
        results = [measure(qtype, setup) for qtype in options.types.split(",")]
    if options.json:
        print(json.dumps({"cpu": kernels.cpu(), "results": results}, indent=1))
        return
    print(f"{kernels.cpu()}; {options.mebibytes} MiB, {options.columns} columns, {options.pages} pages, GB/s")
    for result in results:
        for name, speed in result["ours"].items():
            engine, read = result["engine_ratio"][name], result["read_ratio"][name]
            print(
                f"{result['type']:7} {name:8} {speed:6.1f}  engine {result['engine']:6.1f} ({engine:.2f}x)"
                f"  read {result['read']:6.1f} ({read:.0%})  difference {result['difference']:.1e}"
            )


if __name__ == "__main__":
    main()
