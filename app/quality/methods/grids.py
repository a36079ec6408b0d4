"""Grids that numbers are rounded to, and what a grid takes beside its codes. Weights in, weights out, in float32.

A matrix is (rows, columns); a row is what one output is computed from. A group is a run of neighbours of one row, which
share a scale and, where the grid has one, a zero. Scales are kept in 16 bits, as files of these methods have them, and
rounded so here. The last group of a row may be shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SCALE_BITS = 16
TINY = np.float32(1e-30)

NF4 = np.array(
    (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    np.float32,
)  # fmt: skip
"""The sixteen numbers of NormalFloat4, whose quantiles are a normal distribution's (Dettmers et al. 2023, QLoRA,
appendix E)."""

E4M3_LARGEST = 448.0


@dataclass(frozen=True)
class IntGrid:
    """Codes of ``bits`` bits with a scale a group of ``size`` columns (0: a whole row).

    ``zero``: asymmetric, from the smallest to the largest number of the group with zero among them, and a zero of
    ``bits`` bits a group. Else symmetric: as many steps up as down, by the largest magnitude.
    """

    bits: int
    size: int = 0
    zero: bool = False

    def fit(self, groups: Floats) -> tuple[Floats, Floats, int, int]:
        """Of groups (..., members): their scales and zeros (..., 1), and the lowest and highest code."""
        if self.zero:
            low = np.minimum(groups.min(axis=-1, keepdims=True), 0)
            high = np.maximum(groups.max(axis=-1, keepdims=True), 0)
            steps = (1 << self.bits) - 1
            scale = _stored((high - low) / np.float32(steps))
            return scale, np.clip(np.rint(-low / scale), 0, steps), 0, steps
        steps = (1 << (self.bits - 1)) - 1
        scale = _stored(np.abs(groups).max(axis=-1, keepdims=True) / np.float32(steps))
        return scale, np.zeros_like(scale), -steps, steps

    def round(self, groups: Floats) -> Floats:
        """Groups (..., members) on their own grids."""
        return on_grid(groups, *self.fit(groups))

    def matrix(self, weights: Floats) -> Floats:
        """A whole matrix, group by group."""
        return by_group(weights, self.size, self.round)

    def total_bits(self, rows: int, columns: int) -> float:
        """What a matrix takes: codes, scales and zeros."""
        each = SCALE_BITS + (self.bits if self.zero else 0)
        return rows * (columns * self.bits + math.ceil(columns / (self.size or columns)) * each)


def on_grid(values: Floats, scale: Floats, zero: Floats, lowest: int, highest: int) -> Floats:
    """``values`` rounded to the codes ``lowest`` to ``highest`` and back; scales and zeros broadcast."""
    codes = np.clip(np.rint(values / scale) + zero, lowest, highest)
    found: Floats = ((codes - zero) * scale).astype(np.float32, copy=False)
    return found


def by_group(weights: Floats, size: int, act: Callable[[Floats], Floats]) -> Floats:
    """``act`` on (rows, groups, members) of ``weights``, once for the full groups and once for a shorter last one."""
    rows, columns = weights.shape
    size = size or columns
    whole = columns // size * size
    found = np.empty_like(weights)
    if whole:
        full = np.ascontiguousarray(weights[:, :whole]).reshape(rows, whole // size, size)
        found[:, :whole] = act(full).reshape(rows, whole)
    if whole < columns:
        found[:, whole:] = act(np.ascontiguousarray(weights[:, whole:])[:, None])[:, 0]
    return found


def nf4(weights: Floats, size: int = 64) -> Floats:
    """NormalFloat4: blocks of ``size`` neighbours of the matrix read row after row, each divided by its largest
    magnitude, which is kept in 32 bits (bitsandbytes without its double quantization)."""
    flat = np.ascontiguousarray(weights).reshape(1, -1)
    middles = (NF4[1:] + NF4[:-1]) / 2

    def block(groups: Floats) -> Floats:
        most = np.abs(groups).max(axis=-1, keepdims=True)
        codes = np.searchsorted(middles, groups / np.maximum(most, TINY))
        found: Floats = NF4[codes] * most
        return found

    return by_group(flat, size, block).reshape(weights.shape)


def nf4_bits(rows: int, columns: int, size: int = 64) -> float:
    return rows * columns * 4 + 32 * math.ceil(rows * columns / size)


def e4m3(values: Floats) -> Floats:
    """The nearest eight-bit float with four bits of exponent and three of mantissa, ties to even; beyond 448 it is 448.

    The variant without infinities: OCP 8-bit floating point specification 1.0; Micikevicius et al. 2022.
    """
    _, exponent = np.frexp(values)
    step = np.ldexp(np.float32(1), np.maximum(exponent - 1, -6) - 3)
    found: Floats = np.clip(np.rint(values / step) * step, -E4M3_LARGEST, E4M3_LARGEST).astype(np.float32, copy=False)
    return found


def scaled_e4m3(rows: Floats) -> Floats:
    """Each row by a scale of its own (32 bits) that brings its largest magnitude to 448, then :func:`e4m3`."""
    scale = np.maximum(np.abs(rows).max(axis=-1, keepdims=True) / np.float32(E4M3_LARGEST), TINY)
    found: Floats = e4m3(rows / scale) * scale
    return found


def row_bits(rows: int, columns: int, bits: int = 8, scale: int = 32) -> float:
    """Codes of ``bits`` bits and a scale a row."""
    return rows * (columns * bits + scale)


def _stored(scale: Floats) -> Floats:
    """As 16-bit numbers hold it; 1 for a group of zeros, whose codes are all zero."""
    kept = np.minimum(scale, np.float32(np.finfo(np.float16).max)).astype(np.float16).astype(np.float32)
    return np.where(kept > 0, kept, np.float32(1))


__all__ = ["NF4", "IntGrid", "by_group", "e4m3", "nf4", "nf4_bits", "on_grid", "row_bits", "scaled_e4m3"]
