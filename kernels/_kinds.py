"""Kinds of data that quantizers meet: what the self-test, the benchmark and the tests quantize.

A kind is a function of a generator and a shape whose columns are a multiple of 16; an importance of a generator and the
number of columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Generator = np.random.Generator
Kind = Callable[[Generator, tuple[int, int]], Floats]


def bf16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper halves of the floats: bfloat16 by truncation, which is enough to make test data."""
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(bits: npt.NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _gaussian(rng: Generator, shape: tuple[int, int]) -> Floats:
    values: Floats = rng.standard_normal(shape, np.float32)
    values *= np.float32(0.02)
    return values


def _sparse(rng: Generator, shape: tuple[int, int]) -> Floats:
    values = _gaussian(rng, shape)
    values[rng.random(shape) > 0.02] = 0
    return values


def _one_outlier(rng: Generator, shape: tuple[int, int]) -> Floats:
    values = _gaussian(rng, shape)
    values[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = rng.choice([-300.0, 300.0], shape[0])
    return values


def _columns(rng: Generator, shape: tuple[int, int]) -> Floats:
    values = _gaussian(rng, shape)
    values *= np.exp(3 * rng.standard_normal(shape[1], np.float32))
    return values


def _mixed_blocks(rng: Generator, shape: tuple[int, int]) -> Floats:
    """Groups of 16 that are zero, constant, tiny or ordinary: super-blocks whose groups meet different exits."""
    values = _gaussian(rng, shape).reshape(-1, 16)
    kind = rng.integers(0, 6, len(values))
    values[kind == 0] = 0
    values[kind == 1] = rng.standard_normal((np.count_nonzero(kind == 1), 1))
    values[kind == 2] *= np.float32(1e-20)
    values[kind == 3] = np.abs(values[kind == 3])
    mixed: Floats = values.reshape(shape)
    return mixed


def _ramp(rng: Generator, shape: tuple[int, int]) -> Floats:
    slope = rng.choice([-1.0, 1.0, 0.001], (shape[0], 1))
    start = rng.choice([0.0, 5.0], (shape[0], 1))
    values: Floats = (np.linspace(-1, 1, shape[1])[None, :] * slope + start).astype(np.float32)
    return values


def _steps(rng: Generator, shape: tuple[int, int]) -> Floats:
    """Few exact values: ties in every rounding."""
    return (rng.integers(-8, 9, shape) * 0.125).astype(np.float32)


KINDS: dict[str, Kind] = {
    "gaussian": _gaussian,
    "laplace": lambda rng, shape: rng.laplace(0, 0.02, shape).astype(np.float32),
    "student": lambda rng, shape: (rng.standard_t(2, shape) * 0.02).astype(np.float32),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape).astype(np.float32),
    "positive": lambda rng, shape: rng.uniform(0.5, 1, shape).astype(np.float32),
    "sparse": _sparse,
    "constant": lambda rng, shape: np.full(shape, rng.standard_normal(), np.float32),
    "zero": lambda rng, shape: np.zeros(shape, np.float32),
    "ramp": _ramp,
    "steps": _steps,
    "one_outlier": _one_outlier,
    "columns": _columns,
    "mixed_blocks": _mixed_blocks,
    "denormal": lambda rng, shape: (rng.standard_normal(shape) * 1e-40).astype(np.float32),
    "small": lambda rng, shape: (rng.standard_normal(shape) * 10.0 ** rng.uniform(-38, -6, shape)).astype(np.float32),
    "huge": lambda rng, shape: (rng.standard_normal(shape) * 10.0 ** rng.uniform(4, 37, shape)).astype(np.float32),
    "f16": lambda rng, shape: _gaussian(rng, shape).astype(np.float16).astype(np.float32),
    "bf16": lambda rng, shape: from_bf16(bf16_bits(_gaussian(rng, shape))),
}

# Their 16-bit scales overflow in most types: quantized only when the caller allows it.
OVERFLOWING = frozenset({"huge"})


def _uniform_importance(rng: Generator, n_cols: int) -> Floats:
    return rng.random(n_cols, np.float32)


def _heavy_importance(rng: Generator, n_cols: int) -> Floats:
    """What activations look like: a few columns hold nearly everything."""
    return np.exp(rng.standard_normal(n_cols) * 3).astype(np.float32)


def _zeros_importance(rng: Generator, n_cols: int) -> Floats:
    """Zeros in single columns, in a group of 32 and in the first half of the row."""
    values = rng.random(n_cols, np.float32)
    values[rng.random(n_cols) < 0.3] = 0
    values[: min(32, n_cols)] = 0
    values[n_cols // 4 : n_cols // 2] = 0
    return values


def _tiny_importance(rng: Generator, n_cols: int) -> Floats:
    """Products with the weights underflow: sums are zero or a few denormal steps, and scales become nonsense."""
    values: Floats = (10.0 ** rng.uniform(-46, -25, n_cols)).astype(np.float32)
    return values


IMPORTANCE: dict[str, Callable[[Generator, int], Floats] | None] = {
    "none": None,
    "uniform": _uniform_importance,
    "heavy": _heavy_importance,
    "zeros": _zeros_importance,
    "tiny": _tiny_importance,
    "nothing": lambda rng, n_cols: np.zeros(n_cols, np.float32),
}

BAD_WEIGHTS = {"nan": np.nan, "infinite": np.inf, "minus_infinite": -np.inf}
"""The sixteenth kind: a weight that is no number is refused, with its place."""
