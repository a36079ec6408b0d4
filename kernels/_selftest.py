"""A short check of the kernels against embedded checksums, for the machine that the program runs on.

The checksums are CRC-32 of what llama.cpp's quantizers and decoders give for the generated input (the test suite
compares them with the installed library again), so a wrong compiler flag or a broken backend shows without it.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels

N_ROWS, N_COLS = 24, 768

# type: blocks, blocks with importance, decoded floats of the first
GOLDEN: dict[str, tuple[int, int, int]] = {
    "F32": (0x473DCC52, 0x473DCC52, 0x473DCC52),
    "F16": (0xE2840D1E, 0xE2840D1E, 0x3DD39434),
    "BF16": (0x881FB1E6, 0x881FB1E6, 0xA20CCFDA),
    "Q8_0": (0x15A06FA5, 0x15A06FA5, 0xDD4041A7),
    "Q6_K": (0xE7A23ACD, 0xE7513946, 0x6F0B2BBF),
    "Q5_K": (0xDB229166, 0xAF84EDCA, 0x06A4A7E8),
    "Q5_1": (0xB0F16A29, 0x77CF29DF, 0xA1ECEC57),
    "Q5_0": (0xF5ABFB91, 0x890A2AD2, 0xD73F1A08),
    "Q4_K": (0xCA6F3A2A, 0x71256876, 0x43762E79),
    "Q4_1": (0x477CBC06, 0x1AFE8DCF, 0x3F6AE084),
    "Q4_0": (0x48B2914C, 0xB0C20FF0, 0xE429ED4D),
    "IQ4_NL": (0xBE0E2D9E, 0xA5ADD416, 0x4F8F7524),
    "IQ4_XS": (0x36D7056A, 0x221393A5, 0xF1796663),
    "Q3_K": (0xF5CFF74A, 0x0A40FB58, 0x5A554127),
    "Q2_K": (0xB5A23420, 0x06E56091, 0x23CCE106),
}


def generated() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows (24, 768) and importance (768,): integers from a 64-bit generator times powers of two, exact everywhere.

    Bell-shaped rows of several sizes with one row each of zeros, of one constant, and with a single outlier; every
    seventh column has no importance.
    """
    count = 4 * N_ROWS * N_COLS
    with np.errstate(over="ignore"):
        mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    parts = (mixed >> np.uint64(48)).astype(np.int64).reshape(4, N_ROWS, N_COLS)
    size = np.ldexp(1.0, -18 - 3 * (np.arange(N_ROWS) % 5))[:, None]
    rows = ((parts.sum(axis=0) - 2 * 65535) * size).astype(np.float32)
    rows[3] = 0.0
    rows[4] = 0.15625
    rows[5, 100] = 50.0
    importance = (parts[0, 0] * 2.0**-16).astype(np.float32)
    importance[::7] = 0.0
    return rows, importance


def checksums(qtype: str, backend: str | None = None) -> dict[str, int]:
    """CRC-32 of the backend's blocks, its blocks with importance, and its decoded floats of the former."""
    rows, importance = generated()
    blocks = kernels.quantize(qtype, rows, backend=backend)
    weighted = kernels.quantize(qtype, rows, importance, backend=backend)
    decoded = kernels.dequantize(qtype, blocks, N_COLS, backend=backend)
    return {
        "quantize": zlib.crc32(blocks.tobytes()),
        "quantize with importance": zlib.crc32(weighted.tobytes()),
        "dequantize": zlib.crc32(decoded.tobytes()),
    }


def run() -> list[dict[str, Any]]:
    """See :func:`kernels.selftest`."""
    return [
        {"kernel": kernel, "type": qtype, "backend": backend, "passed": found == wanted}
        for backend in kernels.backends()
        for qtype, golden in GOLDEN.items()
        for (kernel, found), wanted in zip(checksums(qtype, backend).items(), golden, strict=True)
    ]
