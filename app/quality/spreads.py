"""What a probe found, window by window, and how sure that makes its cost. Pure.

Tokens of one window belong together, so nothing here looks into a window: an error comes from how windows differ. A
cost is a mean over kinds of text of divergence / the standard recipe's on the same windows; as both rise and fall
together, its error is that of a ratio (Cochran 1977, ch. 6: the spread of d - c s, where c is the ratio). Kinds of text
are strata. Where one of them has a single window, its own spread is not known, and that of all ratios is taken, which
errs on the large side (collapsed strata, ch. 5A.12).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt

from app.measure_messages import Estimate

Floats = npt.NDArray[np.float64]

Spread = Mapping[str, Sequence[float]]
"""By kind of text the mean divergence of each window, in nats; NaN for a window that was not computed."""


def means(found: Spread) -> dict[str, float]:
    """The mean divergence by kind of text."""
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def windows(found: Spread) -> int:
    """How many were computed, of all texts."""
    return sum(int(np.isfinite(values).sum()) for values in found.values())


def missing(found: Spread) -> set[tuple[str, int]]:
    """(text, place) of windows that were not computed."""
    return {
        (name, place)
        for name, values in found.items()
        for place, value in enumerate(values)
        if not math.isfinite(value)
    }


def only(found: Spread, places: Set[tuple[str, int]]) -> dict[str, list[float]]:
    """The same without windows other than ``places``; a text of a single one stays."""
    return {
        name: [value if len(values) == 1 or (name, place) in places else math.nan for place, value in enumerate(values)]
        for name, values in found.items()
    }


def joined(one: Spread, other: Spread) -> dict[str, list[float]]:
    """What either has computed of the same windows."""
    return {
        name: [two if math.isnan(here) else here for here, two in zip(values, other[name], strict=True)]
        for name, values in one.items()
    }


def less(one: Spread, other: Spread) -> dict[str, list[float]]:
    """``one`` - ``other``, for windows that both have; of means where they do not match."""
    return {
        name: (
            (np.asarray(one[name]) - np.asarray(other[name])).tolist()
            if len(one[name]) == len(other[name])
            else [float(np.nanmean(one[name]) - np.nanmean(other[name]))]
        )
        for name in one
    }


def relative(found: Spread, standard: Spread) -> Estimate:
    """The cost in parts of the standard recipe's divergence on the same windows: the mean over texts that have any,
    with its standard error, which is NaN where one window of one text is all there is.
    """
    pairs = [_matched(values, standard[name]) for name, values in found.items()]
    pairs = [(here, whole) for here, whole in pairs if len(here)]
    ratios = [float(here.mean() / whole.mean()) for here, whole in pairs]
    count, value = len(ratios), float(np.mean(ratios))
    if all(len(here) > 1 and len(here) == len(whole) for here, whole in pairs):
        variances = [_variance(here, whole, ratio) for (here, whole), ratio in zip(pairs, ratios, strict=True)]
        return Estimate(value, math.sqrt(sum(variances)) / count)
    return Estimate(value, float(np.std(ratios, ddof=1)) / math.sqrt(count) if count > 1 else math.nan)


def _matched(values: Sequence[float], standard: Sequence[float]) -> tuple[Floats, Floats]:
    """Windows that were computed of both; all of both where they do not match."""
    here, whole = np.asarray(values, np.float64), np.asarray(standard, np.float64)
    if len(here) != len(whole):
        return here[np.isfinite(here)], whole[np.isfinite(whole)]
    known = np.isfinite(here) & np.isfinite(whole)
    return here[known], whole[known]


def own_error(values: Sequence[float]) -> float:
    """The standard error of the mean of one text's windows; NaN for a single one."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan


def _variance(values: Floats, standard: Floats, ratio: float) -> float:
    """Of a ratio of means over the same windows."""
    away = values - ratio * standard
    return float((away @ away) / (len(away) - 1) / len(away) / standard.mean() ** 2)


__all__ = ["Spread", "joined", "less", "means", "missing", "only", "own_error", "relative", "windows"]
