"""Methods that round what goes into a product too: SmoothQuant W8A8, LLM.int8 and FP8. Inputs are (tokens, columns).

Their integer products are sums that float32 holds nearly exactly, so rounding both sides and multiplying in float is
their arithmetic but for the order of additions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

TINY = np.float32(1e-30)

MIGRATION = 0.5
"""SmoothQuant's alpha: how much of the difficulty goes from inputs to weights (Xiao et al. 2022, arXiv 2211.10438)."""

OUTLIER = 6.0
"""LLM.int8 computes columns with an input of this magnitude or more in 16 bits (Dettmers et al. 2022, arXiv
2208.07339)."""


def rowwise_int8(rows: Floats) -> Floats:
    """Each row on the 255 steps from its largest magnitude down to its negative; the scale stays in 32 bits."""
    scale = np.maximum(np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127), TINY)
    found: Floats = np.rint(rows / scale) * scale
    return found


def smoothing(matrices: Sequence[Floats], most: Floats, migration: float = MIGRATION) -> Floats:
    """What the inputs of these matrices are divided by, and their columns multiplied with, (columns,): max |x|^a /
    max |w|^(1 - a) over all of the matrices. ``most`` is each column's largest |x|."""
    largest = np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0)
    a = np.float32(migration)
    found: Floats = np.maximum(most, np.float32(1e-5)) ** a / np.maximum(largest, np.float32(1e-5)) ** (1 - a)
    return np.maximum(found, np.float32(1e-5))


def without_outliers(inputs: Floats, limit: float = OUTLIER) -> Floats:
    """Inputs as LLM.int8 takes them: columns with an outlier as they are, the others in eight bits, each token by its
    largest magnitude below the limit. The columns are those of all tokens that are multiplied together."""
    size = np.abs(inputs)
    out = size >= np.float32(limit)
    most = np.where(out, np.float32(0), size).max(axis=-1, keepdims=True)
    scale = np.maximum(most / np.float32(127), TINY)
    rounded = np.rint(inputs / scale) * scale
    found: Floats = np.where(out.any(axis=0), inputs, rounded)
    return found


__all__ = ["rowwise_int8", "smoothing", "without_outliers"]
