"""The smallest damage within two budgets: bytes of the file, and seconds that every token takes. Pure.

Multipliers for both budgets are found first (the Lagrangian dual, which no choice can beat). With them a search goes
from item to item and drops every beginning that another one is not worse than in anything, and every one that cannot
lead to anything better than what is found already: its cost, and for the items to come their least cost at these
multipliers. Where it never had to drop more, its result is the best one; else the least bound of what was dropped says
how far from the best it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BEGINNINGS = 1 << 14
"""Beginnings that are followed at the same time, at most."""

_STEPS = 48
"""Halvings of a multiplier's range."""

_FEW, _CHUNKS = 64, 96
"""Fewer beginnings are not compared with each other; more are in so many parts by size."""

_CLOSE = 1e-12
"""Sums of the same numbers in another order differ by less."""

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Bytes, seconds and costs (items, choices); a choice that an item does not have has an infinite cost."""

    bytes: Floats
    seconds: Floats
    costs: Floats


@dataclass(frozen=True)
class Found:
    """A choice by item, and what no choice within both budgets can beat; ``exact`` if this one is the best."""

    chosen: list[int]
    bound: float
    exact: bool


@dataclass(frozen=True)
class _Dual:
    """Multipliers for bytes and seconds, and the bound that they prove."""

    size: float
    time: float
    bound: float


def search(table: Table, budget: float, limit: float) -> Found | None:
    """The least sum of costs with at most ``budget`` bytes and ``limit`` seconds; None if nothing is within both."""
    # In parts of the budgets, so that the multipliers are of one size.
    sizes, times = table.bytes / max(budget, 1.0), table.seconds / limit if limit > 0 else table.seconds
    dual = _dual(sizes, times, table.costs)
    priced = table.costs + dual.size * sizes + dual.time * times
    order = np.argsort(_spread(priced))[::-1]  # what is clear comes first, and is not branched at
    beginnings = _Beginnings(sizes[order], times[order], table.costs[order], priced[order], dual)
    return beginnings.run(order)


def _spread(priced: Floats) -> Floats:
    """How much worse each item's second choice is than its best."""
    ordered = np.sort(priced, axis=1)
    return ordered[:, 1] - ordered[:, 0] if ordered.shape[1] > 1 else np.zeros(len(ordered))


# ---- multipliers ---------------------------------------------------------------------------------------------------


def _dual(sizes: Floats, times: Floats, costs: Floats) -> _Dual:
    """The multipliers whose bound is the best, by halving: the bound is concave in both."""

    def at(size: float, time: float) -> tuple[float, float, float]:
        """The bound, and how far the cheapest choices are above each budget."""
        priced = costs + size * sizes + time * times
        best = priced.argmin(axis=1)
        rows = np.arange(len(costs))
        bound = float(priced[rows, best].sum()) - size - time
        return bound, float(sizes[rows, best].sum()) - 1.0, float(times[rows, best].sum()) - 1.0

    def of_size(time: float) -> tuple[float, float, float]:
        """The best multiplier of bytes for one of seconds: (it, its bound, seconds above)."""
        found = at(0.0, time)
        if found[1] <= 0:
            return 0.0, found[0], found[2]
        low, high = 0.0, _ceiling(lambda size: at(size, time)[1])
        best = (0.0, found[0], found[2])
        for _ in range(_STEPS):
            middle = (low + high) / 2
            bound, above, late = at(middle, time)
            best = max(best, (middle, bound, late), key=lambda each: each[1])
            low, high = (middle, high) if above > 0 else (low, middle)
        return best

    size, bound, late = of_size(0.0)
    best = _Dual(size, 0.0, bound)
    if late <= 0:
        return best
    low, high = 0.0, _ceiling(lambda time: of_size(time)[2])
    for _ in range(_STEPS):
        middle = (low + high) / 2
        size, bound, late = of_size(middle)
        if bound > best.bound:
            best = _Dual(size, middle, bound)
        low, high = (middle, high) if late > 0 else (low, middle)
    return best


def _ceiling(above: Callable[[float], float]) -> float:
    """A multiplier at which the budget holds, or one that is large enough not to matter."""
    high = 1.0
    while high < 1e12 and above(high) > 0:
        high *= 4
    return high


# ---- the search ----------------------------------------------------------------------------------------------------


class _Beginnings:
    """Choices for the first items, many at a time."""

    def __init__(self, sizes: Floats, times: Floats, costs: Floats, priced: Floats, dual: _Dual) -> None:
        self._sizes, self._times, self._costs, self._dual = sizes, times, costs, dual
        here = np.isfinite(costs)
        self._least_size = _later(np.where(here, sizes, np.inf).min(axis=1))
        self._least_time = _later(np.where(here, times, np.inf).min(axis=1))
        self._least = _later(priced.min(axis=1))

    def run(self, order: npt.NDArray[np.intp]) -> Found | None:
        count, kinds = self._costs.shape
        size, time, cost = np.zeros(1), np.zeros(1), np.zeros(1)
        steps: list[tuple[Whole, Whole]] = []
        dropped = math.inf
        incumbent = math.inf
        for number in range(count):
            size = (size[:, None] + self._sizes[number]).ravel()
            time = (time[:, None] + self._times[number]).ravel()
            cost = (cost[:, None] + self._costs[number]).ravel()
            bound = self._bounds(number + 1, size, time, cost)
            incumbent = min(incumbent, self._completed(number + 1, size, time, cost, bound))
            kept = np.flatnonzero(bound <= incumbent * (1 + _CLOSE))
            kept = kept[_unbeaten(size[kept], time[kept], cost[kept])]
            if len(kept) > BEGINNINGS:
                kept = kept[np.argsort(bound[kept], kind="stable")]
                dropped = min(dropped, float(bound[kept[BEGINNINGS]]))
                kept = np.sort(kept[:BEGINNINGS])
            if not len(kept):
                return None
            steps.append((kept // kinds, kept % kinds))
            size, time, cost = size[kept], time[kept], cost[kept]
        best = int(cost.argmin())
        exact = dropped >= cost[best] * (1 - _CLOSE)
        bound_of_all = float(cost[best]) if exact else max(0.0, self._dual.bound, dropped)
        chosen = [0] * count
        for place in range(count - 1, -1, -1):
            before, kind = steps[place]
            chosen[int(order[place])] = int(kind[best])
            best = int(before[best])
        return Found(chosen, bound_of_all, exact)

    def _bounds(self, at: int, size: Floats, time: Floats, cost: Floats) -> Floats:
        """What each beginning can lead to at best; infinite where nothing is within the budgets any more."""
        left, late = 1.0 - size, 1.0 - time
        bound = cost + self._least[at] - self._dual.size * left - self._dual.time * late
        room = (left >= self._least_size[at] - _CLOSE) & (late >= self._least_time[at] - _CLOSE)
        return np.where(room, np.maximum(bound, cost), np.inf)

    def _completed(self, at: int, size: Floats, time: Floats, cost: Floats, bound: Floats) -> float:
        """The cost of one whole choice: the best beginning, and item by item what is cheapest and leaves room."""
        start = int(bound.argmin())
        if not math.isfinite(bound[start]):
            return math.inf
        used, spent, sum_ = float(size[start]), float(time[start]), float(cost[start])
        for number in range(at, len(self._costs)):
            fine = (
                (used + self._sizes[number] + self._least_size[number + 1] <= 1.0 + _CLOSE)
                & (spent + self._times[number] + self._least_time[number + 1] <= 1.0 + _CLOSE)
            )  # fmt: skip
            priced = np.where(fine, self._costs[number], np.inf) + (
                self._dual.size * self._sizes[number] + self._dual.time * self._times[number]
            )
            kind = int(priced.argmin())
            if not math.isfinite(priced[kind]):
                return math.inf
            used += self._sizes[number, kind]
            spent += self._times[number, kind]
            sum_ += self._costs[number, kind]
        return sum_


def _unbeaten(size: Floats, time: Floats, cost: Floats) -> npt.NDArray[np.intp]:
    """Places of those that no other one is at least as good as in all three; of some that are, too."""
    if len(size) < _FEW:
        return np.arange(len(size))
    order = np.lexsort((cost, time, size))
    stair_time, stair_cost = np.empty(0), np.empty(0)  # the least cost by time of all that are smaller
    kept = []
    for part in np.array_split(order, min(_CHUNKS, len(order))):
        own = _stair(part, time, cost) if size[part[0]] == size[part[-1]] else part
        place = np.searchsorted(stair_time, time[own], "right") - 1
        beaten = (place >= 0) & (stair_cost[np.maximum(place, 0)] <= cost[own]) if len(stair_time) else place >= 0
        better = own[~beaten]
        kept.append(better)
        times, costs = np.append(stair_time, time[better]), np.append(stair_cost, cost[better])
        stair = _stair(np.arange(len(times)), times, costs)
        stair_time, stair_cost = times[stair], costs[stair]
    return np.sort(np.concatenate(kept))


def _stair(places: npt.NDArray[np.intp], time: Floats, cost: Floats) -> npt.NDArray[np.intp]:
    """Of ``places`` those that cost less than everything that takes as much time or less, by rising time."""
    places = places[np.lexsort((cost[places], time[places]))]
    least = np.minimum.accumulate(cost[places])
    return places[np.append(True, cost[places][1:] < least[:-1])] if len(places) else places


def _later(values: Floats) -> Floats:
    """Sums of what comes at and after each place, and 0 at the end."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


__all__ = ["BEGINNINGS", "Found", "Table", "search"]
