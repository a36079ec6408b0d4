"""HQQ, half-quadratic quantization: zeros that fit the weights best where a few large errors count little.

No calibration. What is minimised is the l_p norm (p 0.7) of the weights' errors, over the zeros alone, by turns: errors
are shrunk, then each zero becomes the mean of what it should be (Badri and Shaji 2023, "Half-Quadratic Quantization of
Large Machine Learning Models", the method's published defaults).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from app.quality.methods.grids import by_group

Floats = npt.NDArray[np.float32]

POWER, BETA, GROWTH, ROUNDS = 0.7, 10.0, 1.01, 20
LARGEST_SCALE, LEAST_WIDTH = 2e4, 1e-4


def hqq(weights: Floats, bits: int = 4, size: int = 64) -> Floats:
    """``weights`` (rows, columns) in groups of ``size`` columns, codes of ``bits`` bits, and back."""
    steps = float((1 << bits) - 1)

    def act(groups: Floats) -> Floats:
        return _fitted(groups, steps)

    return by_group(weights, size, act)


def hqq_bits(rows: int, columns: int, bits: int = 4, size: int = 64) -> float:
    """Codes, and a scale and a zero of 16 bits a group."""
    return rows * (columns * bits + math.ceil(columns / size) * 32)


def _fitted(groups: Floats, steps: float) -> Floats:
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    width = high - low
    inverse = np.float32(steps) / np.where(width > LEAST_WIDTH, width, np.float32(steps))
    inverse = np.minimum(inverse, np.float32(LARGEST_SCALE))
    zero = np.rint(-low * inverse)
    beta, best, kept = BETA, math.inf, zero
    for _ in range(ROUNDS):
        codes = np.clip(np.rint(groups * inverse + zero), 0, steps)
        back = (codes - zero) / inverse
        error = float(np.abs(groups - back).mean(dtype=np.float64))
        if error >= best:
            break
        best, kept = error, zero
        shrunk = _shrink(groups - back, beta)
        zero = np.mean(codes - (groups - shrunk) * inverse, axis=-1, keepdims=True, dtype=np.float32)
        beta *= GROWTH
    zero = kept.astype(np.float16).astype(np.float32)
    scale = (1 / inverse).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(groups * inverse + zero), 0, steps)
    found: Floats = (codes - zero) * scale
    return found


def _shrink(errors: Floats, beta: float) -> Floats:
    """The proximal step of the l_p norm: sign(x) max(0, |x| - |x|^(p - 1) / beta)."""
    size = np.abs(errors)
    with np.errstate(divide="ignore"):
        less = size - np.power(size, np.float32(POWER - 1)) / np.float32(beta)
    found: Floats = np.sign(errors) * np.maximum(less, 0)
    return found


__all__ = ["hqq", "hqq_bits"]
