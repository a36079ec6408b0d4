"""The smallest damage at a size: a type for every tensor, given what each type costs and takes. Pure.

This is the multiple-choice knapsack problem. It is solved exactly by dynamic programming over the budget, in units that
divide all sizes; where that would be too many units, sizes are rounded up to coarser ones and what is left over is
spent greedily. A lower bound comes from the linear relaxation (each tensor's choices reduced to the lower convex hull
of bytes against cost, steps taken in the order of gain a byte; Sinha and Zoltners 1979), so that every solution says
how far it can be from the best. With a second budget, of the seconds that a token takes, :mod:`converter.fit_two`
searches.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converter import fit_two
from converter.spec import QuenchError

SIZE, SPEED, BOTH = "size", "speed", "both"
"""Which budget decided."""

UNITS = 1 << 17
"""The most units of a budget; with 300 tensors of six types the tables then take 40 MB and a second."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A type that a tensor may have: bytes in the file, its cost in the solver's measure (at least 0), and the seconds
    that every token spends on it."""

    type: str
    bytes: int
    cost: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Item:
    """What gets one type: a tensor, or several that must share it. ``choices`` in any order, at least one."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """``chosen`` by item name. ``cost`` is the sum of costs, ``bound`` what no choice within the budgets can beat,
    ``seconds`` what every token takes, ``decided`` which budget the cost would be less without: :data:`SIZE`,
    :data:`SPEED` or :data:`BOTH`."""

    chosen: Mapping[str, Choice]
    bytes: int
    cost: float
    bound: float
    seconds: float = 0.0
    decided: str = SIZE

    @property
    def gap(self) -> float:
        """The part of the cost by which a better solution could be better; 0 is proven to be the best."""
        return max(0.0, 1.0 - self.bound / self.cost) if self.cost > 0 else 0.0


def solve(items: Sequence[Item], budget: int, limit: float = math.inf) -> Solution:
    """Choose so that the sum of costs is least within ``budget`` bytes, and ``limit`` seconds a token.

    The same items give a cost that never rises with either budget, where the gap is 0.

    Raises:
        QuenchError: ``too_small`` where even the smallest choices take more bytes, ``too_slow`` where the fastest ones
            that are small enough take more seconds (exit status 4 for both; :func:`quickest` has the seconds).
        ValueError: an item without choices, a negative size or cost, or a name twice.
    """
    _check(items)
    found = _within(items, budget)
    if found.seconds <= limit:
        return found
    quickest_ = quickest(items, budget)
    if quickest_.seconds > limit:
        raise QuenchError(
            "too_slow",
            "The model cannot be made that fast.",
            f"The fastest types that are allowed take {quickest_.seconds:.3g} s a token, {limit:.3g} s were asked for.",
            "Ask for less speed, allow faster types, or choose a smaller model.",
            exit_status=4,
        )
    alone = _both(items, math.inf, limit)
    if alone.bytes <= budget:
        return alone
    return dataclasses.replace(_both(items, budget, limit), decided=BOTH)


def price(items: Sequence[Item], budget: int) -> float:
    """What a byte more would save where ``budget`` bytes are spent best: the gain of the step of the relaxation at
    which they run out, 0 where they do not."""
    kept = [_undominated(item) for item in items]
    left = budget - sum(choices[0].bytes for choices in kept)
    for _, small, large in _steps(kept):
        left -= large.bytes - small.bytes
        if left < 0:
            return _gain(small, large)
    return 0.0


def quickest(items: Sequence[Item], budget: int) -> Solution:
    """Within ``budget`` bytes the choice that takes the fewest seconds a token, at whatever cost."""
    timed = [
        Item(item.name, tuple(dataclasses.replace(choice, cost=choice.seconds) for choice in item.choices))
        for item in items
    ]
    return _within(timed, budget)


def _both(items: Sequence[Item], budget: float, limit: float) -> Solution:
    """Within two budgets that can be met."""
    kinds = max(len(item.choices) for item in items)
    table = fit_two.Table(*(np.full((len(items), kinds), value) for value in (0.0, 0.0, np.inf)))
    for row, item in enumerate(items):
        for column, choice in enumerate(item.choices):
            table.bytes[row, column] = choice.bytes
            table.seconds[row, column] = choice.seconds
            table.costs[row, column] = choice.cost
    found = fit_two.search(table, budget, limit)
    if found is None:  # the bound lost the only choices there are to its own rounding
        return dataclasses.replace(quickest(items, int(budget)), bound=0.0, decided=SPEED)
    chosen = [item.choices[number] for item, number in zip(items, found.chosen, strict=True)]
    return _solution(items, chosen, found.bound if not found.exact else None, SPEED)


def _within(items: Sequence[Item], budget: int) -> Solution:
    least = sum(min(choice.bytes for choice in item.choices) for item in items)
    if least > budget:
        raise QuenchError(
            "too_small",
            "The model cannot be made that small.",
            f"The smallest types that are allowed take {least} bytes, the budget for them is {budget}.",
            "Allow smaller types, or a larger size.",
            exit_status=4,
        )
    kept = [_undominated(item) for item in items]
    chosen, exact = _dynamic(kept, budget)
    if exact:
        return _solution(items, chosen, None, SIZE)
    chosen = _spend(kept, chosen, budget)
    greedy = _spend(kept, _hull_choice(kept, budget), budget)
    chosen = min(chosen, greedy, key=lambda found: sum(choice.cost for choice in found))
    return _solution(items, chosen, _relaxed(kept, budget), SIZE)


def _solution(items: Sequence[Item], chosen: Sequence[Choice], bound: float | None, decided: str) -> Solution:
    """``bound`` None: it is the best."""
    cost = sum(choice.cost for choice in chosen)
    return Solution(
        {item.name: choice for item, choice in zip(items, chosen, strict=True)},
        sum(choice.bytes for choice in chosen),
        cost,
        cost if bound is None else min(bound, cost),
        sum(choice.seconds for choice in chosen),
        decided,
    )


def _check(items: Sequence[Item]) -> None:
    if len({item.name for item in items}) != len(items):
        raise ValueError("a name is there twice")
    for item in items:
        if not item.choices:
            raise ValueError(f"{item.name} has no choices")
        if any(
            choice.bytes < 0 or not 0 <= choice.cost < math.inf or not 0 <= choice.seconds < math.inf
            for choice in item.choices
        ):
            raise ValueError(f"{item.name} has a choice of a negative or infinite size, cost or time")


def _undominated(item: Item) -> list[Choice]:
    """By rising bytes and falling cost: a choice that is neither smaller nor cheaper than another is never taken."""
    found: list[Choice] = []
    for choice in sorted(item.choices, key=lambda each: (each.bytes, each.cost)):
        if not found or choice.cost < found[-1].cost:
            found.append(choice)
    return found


# ---- the best ------------------------------------------------------------------------------------------------------


def _dynamic(items: Sequence[list[Choice]], budget: int) -> tuple[list[Choice], bool]:
    """The best choices in units of the budget, and whether the units are exact."""
    sizes = [choice.bytes - choices[0].bytes for choices in items for choice in choices]
    room = budget - sum(choices[0].bytes for choices in items)
    unit = math.gcd(*sizes) if any(sizes) else max(1, room)
    exact = room // unit <= UNITS
    if not exact:
        unit = -(-room // UNITS)
    units = room // unit
    best: Floats = np.zeros(units + 1)
    tables = []
    for choices in items:
        costs = np.full(units + 1, np.inf)
        table = np.zeros(units + 1, np.uint8)
        for number, choice in enumerate(choices):
            step = -(-(choice.bytes - choices[0].bytes) // unit)
            if step > units:
                break
            total = best[: units + 1 - step] + choice.cost
            better = total < costs[step:]
            costs[step:][better] = total[better]
            table[step:][better] = number
        best = costs
        tables.append(table)
    chosen: list[Choice] = []
    at = units
    for choices, table in zip(reversed(items), reversed(tables), strict=True):
        choice = choices[table[at]]
        at -= -(-(choice.bytes - choices[0].bytes) // unit)
        chosen.append(choice)
    return chosen[::-1], exact


# ---- the relaxation ------------------------------------------------------------------------------------------------


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull of bytes against cost: along it every further byte gains less than the one before."""
    hull: list[Choice] = []
    for choice in choices:
        while len(hull) > 1 and _gain(hull[-2], choice) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def _gain(small: Choice, large: Choice) -> float:
    """Cost saved by a byte more."""
    return (small.cost - large.cost) / (large.bytes - small.bytes)


def _steps(items: Sequence[list[Choice]]) -> Iterator[tuple[int, Choice, Choice]]:
    """Steps along all hulls, the best gain first: (item, from, to)."""
    steps = [
        (number, small, large)
        for number, choices in enumerate(items)
        for small, large in itertools.pairwise(_hull(choices))
    ]
    yield from sorted(steps, key=lambda step: -_gain(step[1], step[2]))


def _relaxed(items: Sequence[list[Choice]], budget: int) -> float:
    """The least cost if parts of a step could be taken: no real choice is better."""
    left = budget - sum(choices[0].bytes for choices in items)
    cost = sum(choices[0].cost for choices in items)
    for _, small, large in _steps(items):
        more = large.bytes - small.bytes
        cost -= (small.cost - large.cost) * min(1.0, left / more)
        left -= more
        if left <= 0:
            break
    return max(0.0, cost)


def _hull_choice(items: Sequence[list[Choice]], budget: int) -> list[Choice]:
    """Whole steps of the relaxation, as far as they go."""
    chosen = [choices[0] for choices in items]
    left = budget - sum(choice.bytes for choice in chosen)
    for number, small, large in _steps(items):
        if large.bytes - small.bytes <= left and chosen[number] is small:
            chosen[number] = large
            left -= large.bytes - small.bytes
    return chosen


def _spend(items: Sequence[list[Choice]], chosen: list[Choice], budget: int) -> list[Choice]:
    """Spend what is left on the larger types that gain most a byte."""
    chosen = list(chosen)
    left = budget - sum(choice.bytes for choice in chosen)
    while True:
        better = [
            (_gain(now, choice), number, choice)
            for number, (choices, now) in enumerate(zip(items, chosen, strict=True))
            for choice in choices
            if 0 < choice.bytes - now.bytes <= left and choice.cost < now.cost
        ]
        if not better:
            return chosen
        _, number, choice = max(better, key=lambda each: each[0])
        left -= choice.bytes - chosen[number].bytes
        chosen[number] = choice


__all__ = ["BOTH", "SIZE", "SPEED", "Choice", "Item", "Solution", "price", "quickest", "solve"]
