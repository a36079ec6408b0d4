"""A program for test_metal.py: runs cases through the library's Metal backend and prints what it found as JSON.

It needs a process of its own, because the library under test is another one than that of the tests' process
(``QUENCH_KERNELS_LIBRARY``), and so are the shim's switches (see ``metal_shim/driver.cpp``).
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from kernels import _library
from tests.kernels import oracle
from tests.kernels.cases import KINDS, Case, bf16_bits, cases, from_bf16

TYPES = [name for name in kernels.TYPES if name not in ("F32", "F16", "BF16")]


def counts() -> tuple[int, int]:
    """Blocks that shaders saw since the last call, and those that they left to the processor."""
    found = (ctypes.c_uint64 * 2)()
    _library.library().quench_shim_counts(found)
    return found[0], found[1]


def check(what: str, qtype: str, rows: npt.NDArray[Any], importance: Any, source: Any = None) -> list[str]:
    """Bytes and error sums of the rows against the oracle's and the reference's."""
    floats = from_bf16(rows) if source == "bf16" else rows.astype(np.float32)
    wanted = oracle.quantize(qtype, floats, importance)
    sums = [np.zeros(len(rows)) for _ in range(4)]
    found, _ = (
        kernels.quantize(
            qtype, rows, importance, finite="allow", source=source, backend=backend,
            squared_error=sums[2 * i], weighted_error=sums[2 * i + 1],
        )
        for i, backend in enumerate(("metal", "reference"))
    )  # fmt: skip
    failures = []
    if not np.array_equal(found, wanted):
        failures.append(f"{what}: blocks")
    if not (np.array_equal(sums[0], sums[2], equal_nan=True) and np.array_equal(sums[1], sums[3], equal_nan=True)):
        failures.append(f"{what}: error sums")
    decoded = kernels.dequantize(qtype, wanted, rows.shape[1], backend="metal")
    if not np.array_equal(decoded, oracle.dequantize(qtype, wanted, rows.shape[1]), equal_nan=True):
        failures.append(f"{what}: decoded")
    return failures


def table(qtype: str, weights: int) -> dict[str, Any]:
    """The case table; of it, ``ordinary`` counts the blocks of full-sized gaussian data seen and left."""
    failures, checked, ordinary = [], 0, [0, 0]
    for case in cases(qtype, weights):
        rows, importance = case.data()
        counts()
        failures += check(str(case), qtype, rows, importance)
        checked += 1
        if case.kind in ("gaussian", "laplace", "f16", "bf16") and case.importance in ("none", "uniform", "heavy"):
            ordinary = [total + more for total, more in zip(ordinary, counts(), strict=True)]
    return {"failures": failures, "checked": checked, "ordinary": ordinary}


def halves(qtype: str) -> dict[str, Any]:
    """float16 and bfloat16 rows, some of them a stride apart."""
    failures, checked = [], 0
    for kind in KINDS:
        for importance in ("none", "heavy", "zeros"):
            rows, weight = Case(qtype, kind, importance, 6, max(2, 1024 // kernels.block_size(qtype).weights)).data()
            with np.errstate(over="ignore"):
                half = rows.astype(np.float16)
            half[~np.isfinite(half)] = 60000
            failures += check(f"{kind} {importance} float16", qtype, half[::2], weight)
            failures += check(f"{kind} {importance} bf16", qtype, bf16_bits(rows)[1::2], weight, "bf16")
            checked += 2
    return {"failures": failures, "checked": checked}


def edges(qtype: str) -> dict[str, Any]:
    """Gaussian data and importance times powers of two, down to where nothing but subnormals is left: somewhere on the
    way every operation of the encoder begins to have subnormal results."""
    failures, checked, seen = [], 0, [0, 0]
    for rows, importance, what in _edges(qtype):
        counts()
        failures += check(what, qtype, rows, importance)
        seen = [total + more for total, more in zip(seen, counts(), strict=True)]
        checked += 1
    return {"failures": failures, "checked": checked, "seen": seen}


def _edges(qtype: str) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None, str]]:
    rng = np.random.default_rng(11)
    n_cols = max(2, 512 // kernels.block_size(qtype).weights) * kernels.block_size(qtype).weights
    for power in range(-140, 30, 5):
        rows = np.ldexp(rng.standard_normal((2, n_cols)), power).astype(np.float32)
        yield rows, None, f"2^{power}"
        for own in (-120, -40, 0, 40):
            importance = np.ldexp(rng.random(n_cols), own).astype(np.float32)
            yield rows, importance, f"2^{power}, importance 2^{own}"
        wide = np.ldexp(rng.standard_normal((2, n_cols)), rng.integers(power, power + 20, (2, n_cols)))
        yield wide.astype(np.float32), None, f"2^{power} to 2^{power + 20}"
    # Weights of one size, so that no small one among them gives the block away: sums are normal, squares of errors not.
    for power in range(-52, -28, 3):
        rows = (np.ldexp(rng.uniform(0.5, 1, (2, n_cols)), power) * rng.choice([-1, 1], (2, n_cols))).astype(np.float32)
        for own in range(-20, 41, 6):
            importance = np.ldexp(rng.uniform(0.5, 1, n_cols), own).astype(np.float32)
            yield rows, importance, f"of size 2^{power}, importance 2^{own}"


def slabs(qtype: str) -> dict[str, Any]:
    """More blocks than the library hands to the device at once, so that it begins again inside a row; and a weight that
    makes it leave a whole row to the processor."""
    rng = np.random.default_rng(12)
    rows = (rng.standard_normal((101, 649 * 32), np.float32) * 0.02).astype(np.float16)
    rows[-1, 5] = 0
    floats = rows.astype(np.float32)
    floats[-1, 5] = 1e-30
    importance = rng.random(rows.shape[1], np.float32)
    failures = check("float16", qtype, rows, importance) + check("float32", qtype, floats, importance)
    return {"failures": failures, "checked": 2, "seen": counts()}


def main() -> None:
    job, *arguments = sys.argv[1:]
    kernels.note()  # the device proves itself before anything is counted
    counts()
    if job == "state":
        result: Any = {"backends": kernels.backends(), "note": kernels.note(), "active": kernels.active()}
    else:
        weights = int(arguments[0])
        run = {"table": lambda name: table(name, weights), "halves": halves, "edges": edges, "slabs": slabs}[job]
        result = {qtype: run(qtype) for qtype in arguments[1:] or TYPES}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
