"""AWQ, activation-aware weight quantization: columns with large inputs are scaled up before they are rounded.

The factors are mean |x| to a power between 0 and 1, which is searched, and after them each group's range is searched
for one that is cut off (Lin et al. 2023, arXiv 2306.00978). Both searches look at the error of the matrix's product
over the calibration text, which the inputs' covariance gives exactly: tr(E C E^T). The paper's own search looks at the
output of a whole block for queries, keys and values. The factors disappear in the layer before: here the weights are
divided by them again, which computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.quality.methods.grids import IntGrid, on_grid

Floats = npt.NDArray[np.float32]
Covariance = npt.NDArray[np.float32] | npt.NDArray[np.float64]

POWERS = 20
"""Steps of the power."""

CUTS, LEAST_RANGE = 10, 0.5
"""Steps in which a group's range is made smaller, and where they end."""

SAMPLED_ROWS = 256
"""Rows of each matrix that the powers are compared on, evenly over it."""


def factors(matrices: Sequence[Floats], means: Floats, covariance: Covariance, grid: IntGrid) -> Floats:
    """The factors (columns,) that matrices of one input share; ``means`` (columns,) are the input's mean |x|."""
    sample = [matrix[:: max(1, len(matrix) // SAMPLED_ROWS)] for matrix in matrices]
    whole = covariance.astype(np.float32)
    best, kept = np.inf, np.ones_like(means)
    for step in range(POWERS):
        tried = np.maximum(means ** np.float32(step / POWERS), np.float32(1e-4))
        tried = tried / np.sqrt(tried.max() * tried.min())
        error = sum(_error(grid.matrix(rows * tried) / tried - rows, whole) for rows in sample)
        if error < best:
            best, kept = error, tried
    return kept


def awq(weights: Floats, scale: Floats, covariance: Covariance, grid: IntGrid, *, cut: bool = True) -> Floats:
    """``weights`` rounded as multiplied with ``scale``, and divided by it again. ``cut``: search ranges as well."""
    scaled = weights * scale
    found = np.empty_like(scaled)
    columns = scaled.shape[1]
    size = grid.size or columns
    for start in range(0, columns, size):
        stop = min(start + size, columns)
        part = scaled[:, start:stop]
        inverse = 1 / scale[start:stop]
        own: Floats = covariance[start:stop, start:stop].astype(np.float32)
        own *= inverse * inverse[:, None]
        found[:, start:stop] = _cut(part, own, grid) if cut else grid.round(part)
    found /= scale
    return found


def _cut(part: Floats, covariance: Floats, grid: IntGrid) -> Floats:
    """One group of each row, with the range that errs least."""
    most = np.abs(part).max(axis=1, keepdims=True)
    best = np.full(len(part), np.inf, np.float32)
    found = np.empty_like(part)
    for step in range(CUTS):
        limit = most * np.float32(1 - (1 - LEAST_RANGE) * step / CUTS)
        clipped = np.clip(part, -limit, limit)
        tried = on_grid(clipped, *grid.fit(clipped))
        away = tried - part
        errors = np.einsum("rc,rc->r", away @ covariance, away)
        better = errors < best
        best[better], found[better] = errors[better], tried[better]
    return found


def _error(away: Floats, covariance: Floats) -> float:
    return float(np.einsum("rc,rc->", away @ covariance, away, dtype=np.float64))


__all__ = ["awq", "factors"]
