"""Layerwise drift: how far a candidate's residual stream is from the reference's after every layer, on the same text.

The relative error of a layer is sqrt(sum |c - r|^2 / sum |r|^2) over the states of all tokens. It grows from layer to
layer, since each passes on the errors of those before it; a jump says which one is bad.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.engine.model import Model
from app.engine.states import States, hidden_states
from app.quality.texts import Window

WINDOWS, TOKENS, ROWS = 4, 128, 64
"""Windows that are looked at, how many of their tokens, and of how many of these the states are kept."""


def states_of(model: Model, windows: Sequence[Window]) -> list[States]:
    """The states of the last ``ROWS`` of the first ``TOKENS`` tokens of a few windows. See :func:`hidden_states`."""
    found = []
    for window in windows[:WINDOWS]:
        tokens = window.tokens[:TOKENS]
        found.append(hidden_states(model, tokens, min(ROWS, max(1, len(tokens) // 2))))
    return found


def drift(reference: Sequence[States], candidate: Sequence[States]) -> tuple[float, ...]:
    """The relative error after each layer; nothing if the two do not have the same layers, or none that are known."""
    if not reference or [each.shape for each in reference] != [each.shape for each in candidate]:
        return ()
    away = _squares([theirs - mine for theirs, mine in zip(candidate, reference, strict=True)])
    whole = _squares(reference)
    return tuple(float(value) for value in np.sqrt(away / np.maximum(whole, np.finfo(np.float64).tiny)))


def _squares(windows: Sequence[States]) -> npt.NDArray[np.float64]:
    """Sums of squares by layer."""
    sums: npt.NDArray[np.float64] = np.sum(
        [np.square(each, dtype=np.float64).sum(axis=(1, 2)) for each in windows], axis=0
    )
    return sums
