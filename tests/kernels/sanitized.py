"""Run under a sanitizer: the case table through the Python face, every backend, with Python's own buffers.

Usage: sanitized.py [--quick]. Prints the backends and the number of cases.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

import kernels
from tests.kernels.cases import BAD_WEIGHTS, OVERFLOWING, Case, alignments, bf16_bits, cases, quick_cases

QUICK = "--quick" in sys.argv
_ = ctypes.CDLL(None).__asan_init  # the runtime is here


def quantized(case: Case, rows: Any, importance: Any, **options: Any) -> Any:
    """Blocks of the case; every backend must have made the same."""
    made = []
    for backend in kernels.backends():
        errors = np.zeros(len(rows)), np.zeros(len(rows))
        made.append(
            kernels.quantize(
                case.qtype, rows, importance, finite="allow", backend=backend,
                squared_error=errors[0], weighted_error=errors[1], **options,
            )
        )  # fmt: skip
    assert all(np.array_equal(blocks, made[0]) for blocks in made), case
    return made[0]


def decoded(qtype: str, blocks: Any, n_cols: int) -> None:
    for backend in kernels.backends():
        kernels.dequantize(qtype, blocks, n_cols, backend=backend)


def first_refused(matrix: Any) -> tuple[int, int]:
    """Row and column of the first weight that is not finite; ``matrix`` holds floats, or bfloat16 as bits."""
    wide = (matrix.astype(np.uint32) << 16).view(np.float32) if matrix.dtype == np.uint16 else matrix
    row, column = np.argwhere(~np.isfinite(wide))[0]
    return int(row), int(column)


def odd_sources(case: Case) -> None:
    """Halves, rows off alignment and backwards, arbitrary bits, and weights that are refused."""
    rows, importance = case.data()
    generator = np.random.default_rng(0)
    with np.errstate(over="ignore"):
        quantized(case, rows.astype(np.float16), importance)
    quantized(case, bf16_bits(rows), importance, source="bf16")
    quantized(case, rows, importance, refined=True)
    quantized(case, rows[::-1], importance)
    odd = np.frombuffer(b"x" + rows.tobytes(), np.float32, rows.size, 1).reshape(rows.shape)
    quantized(case, odd, importance)
    bits = generator.integers(0, 1 << 32, rows.shape, np.uint32).view(np.float32)
    for backend in kernels.backends():
        kernels.quantize(case.qtype, bits, importance, finite="allow", backend=backend)
        for bad in BAD_WEIGHTS.values():
            spoiled = rows.copy()
            spoiled[-1, -1] = bad
            with np.errstate(over="ignore"):
                halves = spoiled.astype(np.float16)
            for matrix, source in ((spoiled, None), (halves, None), (bf16_bits(spoiled), "bf16")):
                try:
                    kernels.quantize(case.qtype, matrix, importance, source=source, backend=backend)  # type: ignore[arg-type]
                except kernels.KernelError as error:
                    if error.code == "not_finite":
                        assert (error.row, error.column) == first_refused(matrix)
                    else:
                        assert error.code == "overflow" and case.kind in OVERFLOWING
                else:
                    raise AssertionError(f"{backend} took {bad}")


count = 0
for qtype in kernels.TYPES:
    for case in quick_cases(qtype) if QUICK else cases(qtype, 2_000):
        rows, importance = case.data()
        decoded(qtype, quantized(case, rows, importance), case.n_cols)
        quantized(case, rows, importance, refined=True)
        if case.importance == "heavy":
            odd_sources(case)
        count += 1
    if not QUICK:
        for case in alignments(qtype, "zeros"):
            quantized(case, *case.data())
for qtype in kernels.READABLE:
    for n_rows, blocks in ((1, 1), (3, 5), (2, 33)):
        n_cols = blocks * kernels.block_size(qtype).weights
        shape = (n_rows, kernels.row_bytes(qtype, n_cols))
        decoded(qtype, np.random.default_rng(1).integers(0, 256, shape, np.uint8), n_cols)
        count += 1
print(f"{', '.join(kernels.backends())}: {count} cases")
