"""GPTQ on a plain grid: columns are rounded one after the other, and those behind make up for each one's error.

Frantar et al. 2022, arXiv 2210.17323, with its code's own choices: damping of 1 % of the mean diagonal, columns in
their order, a group's grid from the weights as they are when its first column comes. The K-quant form of the same idea
is :func:`kernels.quantize_with_feedback`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import kernels
from app.quality.methods.grids import IntGrid, on_grid

Floats = npt.NDArray[np.float32]

BLOCK = 128
"""Columns whose corrections reach those far behind all at once."""


def gptq(weights: Floats, given: kernels.Feedback, grid: IntGrid) -> Floats:
    """``weights`` (rows, columns) on ``grid``; ``given`` is of the inputs' covariance (:func:`kernels.feedback`)."""
    rest = weights.astype(np.float32, copy=True)
    columns = rest.shape[1]
    size = grid.size or columns
    found = np.empty_like(rest)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.empty((len(rest), stop - start), np.float32)
        for column in range(start, stop):
            if column % size == 0:
                # What the block's own columns owe to the group's later ones was not added yet.
                if column > start and column + size > stop:
                    rest[:, stop:] += errors[:, : column - start] @ given.factor[start:column, stop:]
                    errors[:, : column - start] = 0
                fitted = grid.fit(rest[:, column : column + size])
            now = rest[:, column : column + 1]
            found[:, column : column + 1] = on_grid(now, *fitted)
            error = now - found[:, column : column + 1]
            errors[:, column - start] = error[:, 0]
            rest[:, column + 1 : stop] += error * given.factor[column, column + 1 : stop]
        rest[:, stop:] += errors @ given.factor[start:stop, stop:]
    return found


__all__ = ["gptq"]
