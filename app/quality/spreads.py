"""What a probe found, window by window, and how sure that makes its cost. Pure.

Tokens of one window belong together, so nothing here looks into a window: an error comes from how windows differ. A
cost is a mean over kinds of text of divergence / the standard recipe's on the same windows; as both rise and fall
together, its error is that of a ratio (Cochran 1977, ch. 6: the spread of d - c s, where c is the ratio). Kinds of text
are strata. Where one of them has a single window, its own spread is not known, and that of all ratios is taken, which
errs on the large side (collapsed strata, ch. 5A.12).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from app.measure_messages import Estimate

Spread = Mapping[str, Sequence[float]]
"""By kind of text the mean divergence of each window, in nats."""


def means(found: Spread) -> dict[str, float]:
    """The mean divergence by kind of text."""
    return {name: float(np.mean(values)) for name, values in found.items()}


def windows(found: Spread) -> int:
    """How many there are of all texts."""
    return sum(map(len, found.values()))


def less(one: Spread, other: Spread) -> dict[str, list[float]]:
    """``one`` - ``other``, window by window as far as both have them; of means where they do not match."""
    return {
        name: (
            (np.asarray(one[name]) - np.asarray(other[name])).tolist()
            if len(one[name]) == len(other[name])
            else [float(np.mean(one[name]) - np.mean(other[name]))]
        )
        for name in one
    }


def relative(found: Spread, standard: Spread) -> Estimate:
    """The cost in parts of the standard recipe's divergence: the mean over ``found``'s texts, with its standard error.

    The error is NaN where one window of one text is all there is.
    """
    ratios = {name: float(np.mean(values) / np.mean(standard[name])) for name, values in found.items()}
    value = float(np.mean(list(ratios.values())))
    count = len(ratios)
    if all(len(found[name]) == len(standard[name]) > 1 for name in found):
        variances = [_variance(found[name], standard[name], ratios[name]) for name in found]
        return Estimate(value, math.sqrt(sum(variances)) / count)
    if count < 2:
        return Estimate(value, math.nan)
    return Estimate(value, float(np.std(list(ratios.values()), ddof=1)) / math.sqrt(count))


def own_error(values: Sequence[float]) -> float:
    """The standard error of the mean of one text's windows; NaN for a single one."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _variance(values: Sequence[float], standard: Sequence[float], ratio: float) -> float:
    """Of a ratio of means over the same windows."""
    away = np.asarray(values) - ratio * np.asarray(standard)
    return float((away @ away) / (len(away) - 1) / len(away) / np.mean(standard) ** 2)


__all__ = ["Spread", "less", "means", "own_error", "relative", "windows"]
