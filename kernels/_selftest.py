"""A short check of every backend, for the machine that the program runs on. It takes a second or two.

Two questions. Does the plain-C reference give llama.cpp's bytes? Embedded CRC-32 sums of what its quantizers and
decoders give for generated input say so (the test suite compares them with the installed library again), which shows a
wrong compiler flag. And does every other backend give the reference's bytes, over all kinds of data, sources, refusals
and calls? That shows a processor, an emulator or a compiler that computes differently.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import kernels
from kernels._kinds import BAD_WEIGHTS, IMPORTANCE, KINDS, bf16_bits

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


# Arbitrary bytes, decoded.
GOLDEN_NOISE: dict[str, int] = {
    "F32": 0x700CEFEF,
    "F16": 0x3CF80836,
    "BF16": 0x58F8DF56,
    "Q8_0": 0x60DC8CF9,
    "Q6_K": 0x1F25808F,
    "Q5_K": 0x18261CBF,
    "Q5_1": 0x68698CD5,
    "Q5_0": 0xC19B000B,
    "Q4_K": 0xC8521704,
    "Q4_1": 0xD1B43C02,
    "Q4_0": 0x2126D15E,
    "IQ4_NL": 0x80FAA4E7,
    "IQ4_XS": 0xB617855E,
    "Q3_K": 0x9E4C3DDD,
    "Q2_K": 0x9E4417DD,
    "IQ2_XXS": 0xFC4EAA97,
    "IQ2_XS": 0x49EEA9B8,
    "IQ3_XXS": 0x41727157,
    "IQ1_S": 0xC1B06B5F,
    "IQ3_S": 0xB852280B,
    "IQ2_S": 0x252EBFEF,
    "IQ1_M": 0xDACA8EA9,
    "TQ1_0": 0x5C13CF72,
    "TQ2_0": 0x3FB0A343,
    "MXFP4": 0x61A62C91,
    "NVFP4": 0x3A18FE5D,
    "Q1_0": 0x6ECF8C9B,
    "Q2_0": 0xD758A3F5,
}


def noise(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Bytes that look random; the same everywhere."""
    words = np.arange(1, n_bytes + 1, dtype=np.uint32) * np.uint32(0x9E3779B1)
    return (words >> np.uint32(24)).astype(np.uint8)


def decoded_noise(qtype: str, backend: str | None = None) -> npt.NDArray[np.float32]:
    """Arbitrary bytes as blocks of the type, decoded, with one NaN for all."""
    width = kernels.row_bytes(qtype, 9 * 256)
    values = kernels.dequantize(qtype, noise(5 * width).reshape(5, width), 9 * 256, backend=backend)
    values[np.isnan(values)] = np.nan
    return values


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


# ---- what is compared with the reference ----

# Eleven rows of three super-blocks: more than the library hands over at once, and rows that begin anywhere in it.
SHAPE = (11, 768)
Answer = tuple[str, bytes]
"""What was asked, and a digest of all that came back, or the words of a refusal."""


class Sample(NamedTuple):
    name: str
    rows: npt.NDArray[np.float32]
    importance: npt.NDArray[np.float32]


@functools.cache
def _samples() -> tuple[Sample, ...]:
    generator = np.random.default_rng(41)
    weights = [make for make in IMPORTANCE.values() if make is not None]
    return tuple(
        Sample(kind, make(generator, SHAPE), weights[number % len(weights)](generator, SHAPE[1]))
        for number, (kind, make) in enumerate(KINDS.items())
    )


def _answer(call: Callable[[], Any]) -> bytes:
    try:
        found = call()
    except kernels.KernelError as error:
        return f"{error.code} {error.row} {error.column}".encode()
    digest = hashlib.blake2b(digest_size=16)
    for array in found if isinstance(found, tuple) else (found,):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _encoded(qtype: str, rows: Any, importance: Any, backend: str, **options: Any) -> bytes:
    """Blocks and both sums of errors."""
    sums = np.zeros(len(rows)), np.zeros(len(rows))

    def call() -> Any:
        blocks = kernels.quantize(
            qtype, rows, importance, squared_error=sums[0], weighted_error=sums[1], backend=backend, **options
        )
        return blocks, *sums

    return _answer(call)


def _quantize(qtype: str, backend: str) -> Iterator[Answer]:
    for sample in _samples():
        yield sample.name, _encoded(qtype, sample.rows, None, backend)


def _quantize_with_importance(qtype: str, backend: str) -> Iterator[Answer]:
    for sample in _samples():
        yield sample.name, _encoded(qtype, sample.rows, sample.importance, backend)


def _quantize_refined(qtype: str, backend: str) -> Iterator[Answer]:
    for sample in _samples()[:2]:
        yield sample.name, _encoded(qtype, sample.rows, None, backend, refined=True)
        yield f"{sample.name} weighted", _encoded(qtype, sample.rows, sample.importance, backend, refined=True)


def _quantize_halves(qtype: str, backend: str) -> Iterator[Answer]:
    for sample in (sample for sample in _samples() if sample.name in ("gaussian", "mixed_blocks", "denormal")):
        yield f"{sample.name} f16", _encoded(qtype, sample.rows.astype(np.float16), None, backend)
        brain = bf16_bits(sample.rows)
        yield f"{sample.name} bf16", _encoded(qtype, brain, sample.importance, backend, source="bf16")


def _refuse(qtype: str, backend: str) -> Iterator[Answer]:
    """Weights that are no numbers, in each kind of source, and what comes of them where they are allowed."""
    for number, (name, bad) in enumerate(BAD_WEIGHTS.items()):
        rows = _samples()[0].rows.copy()
        rows[4 + number, 77 * number] = bad
        yield name, _encoded(qtype, rows, None, backend)
        yield f"{name} f16", _encoded(qtype, rows.astype(np.float16), None, backend)
        yield f"{name} bf16", _encoded(qtype, bf16_bits(rows), None, backend, source="bf16")


def _dequantize(qtype: str, backend: str) -> Iterator[Answer]:
    yield "arbitrary bytes", _answer(lambda: decoded_noise(qtype, backend))
    if qtype in kernels.TYPES:
        for sample in (sample for sample in _samples() if sample.name in ("gaussian", "denormal")):
            blocks = kernels.quantize(qtype, sample.rows, backend="reference")
            yield sample.name, _answer(partial(kernels.dequantize, qtype, blocks, SHAPE[1], backend=backend))


def _dot(qtype: str, backend: str) -> Iterator[Answer]:
    for sample in (sample for sample in _samples() if sample.name in ("gaussian", "student")):
        blocks = kernels.quantize(qtype, sample.rows, backend="reference")
        yield sample.name, _answer(partial(kernels.dot, qtype, blocks, sample.rows[3], backend=backend))


def _rows(qtype: str, backend: str) -> Iterator[Answer]:
    generator = np.random.default_rng(42)
    for size in (5, 1003):
        logits, other = (generator.standard_normal((2, 3, size)) * 4).astype(np.float32)
        right = [0, size // 2, size - 1]
        calls: dict[str, Callable[[], Any]] = {
            "scores": partial(kernels.score_rows, logits, right, top_k=4, backend=backend),
            "divergences": partial(kernels.compare_rows, logits, other, right, backend=backend),
            "log-softmax": partial(kernels.log_softmax, logits, backend=backend),
        }
        for name, call in calls.items():
            yield f"{name} of {size}", _answer(call)


@functools.cache
def _covariance() -> kernels.Feedback:
    generator = np.random.default_rng(43)
    inputs = generator.standard_normal((512, 64)) @ generator.standard_normal((64, 256))
    return kernels.feedback(inputs.T @ inputs + 99 * np.eye(256))


def _feedback(qtype: str, backend: str) -> Iterator[Answer]:
    for sample in (sample for sample in _samples() if sample.name in ("gaussian", "mixed_blocks")):
        rows, sums = sample.rows[:, :256], (np.zeros(SHAPE[0]), np.zeros(SHAPE[0]))

        def call(rows: Any = rows, sums: Any = sums) -> Any:
            blocks = kernels.quantize_with_feedback(
                qtype, rows, _covariance(), squared_error=sums[0], feedback_error=sums[1], backend=backend
            )
            return blocks, *sums

        yield sample.name, _answer(call)


class Check(NamedTuple):
    """One line of the table: what a kernel answers for a type, and the types that it is asked for."""

    answers: Callable[[str, str], Iterator[Answer]]
    types: Callable[[], list[str]]


CHECKS: dict[str, Check] = {
    "quantize": Check(_quantize, lambda: list(kernels.TYPES)),
    "quantize with importance": Check(_quantize_with_importance, lambda: list(kernels.TYPES)),
    "quantize refined": Check(_quantize_refined, lambda: list(kernels.TYPES)),
    "quantize 16-bit rows": Check(_quantize_halves, lambda: list(kernels.TYPES)),
    "feedback": Check(_feedback, lambda: list(kernels.FEEDBACK_TYPES)),
    "refuse": Check(_refuse, lambda: list(kernels.TYPES)),
    "dequantize": Check(_dequantize, lambda: list(kernels.READABLE)),
    "dot": Check(_dot, lambda: list(kernels.TYPES)),
    "rows": Check(_rows, lambda: ["F32"]),
}


@functools.cache
def _reference(kernel: str, qtype: str) -> tuple[Answer, ...]:
    return tuple(CHECKS[kernel].answers(qtype, "reference"))


def _golden(kernel: str, qtype: str) -> str:
    """What of the reference is not as llama.cpp has it."""
    wanted: dict[str, int] = dict(
        zip(("quantize", "quantize with importance", "dequantize"), GOLDEN.get(qtype, ()), strict=False)
    )
    if kernel in wanted and checksums(qtype, "reference")[kernel] != wanted[kernel]:
        return "generated rows"
    if kernel == "dequantize" and zlib.crc32(decoded_noise(qtype, "reference").tobytes()) != GOLDEN_NOISE[qtype]:
        return "arbitrary bytes"
    return ""


def _difference(kernel: str, qtype: str, backend: str) -> str:
    if backend == "reference":
        return _golden(kernel, qtype)
    pairs = zip(CHECKS[kernel].answers(qtype, backend), _reference(kernel, qtype), strict=True)
    return next((found[0] for found, wanted in pairs if found != wanted), "")


def run(backend: str | None = None) -> list[dict[str, Any]]:
    """See :func:`kernels.selftest`."""
    results = []
    with np.errstate(all="ignore"):
        for name in kernels.backends() if backend is None else [backend]:
            for kernel, check in CHECKS.items():
                for qtype in check.types():
                    detail = _difference(kernel, qtype, name)
                    row = {"kernel": kernel, "type": qtype, "backend": name, "passed": not detail, "detail": detail}
                    results.append(row)
    return results
