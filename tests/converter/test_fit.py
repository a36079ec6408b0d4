"""The planner against every possible choice, and against its own bound where those are too many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from converter import fit, fit_two
from converter.fit import Choice, Item, solve
from converter.spec import QuenchError

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
BYTES = (84, 110, 144, 176, 210, 272)


def tensors(count: int, seed: int, odd: bool = False) -> list[Item]:
    """Costs that fall by about four with every bit, with noise; sizes as blocks have them."""
    random = np.random.default_rng(seed)
    items = []
    for number in range(count):
        blocks = int(random.integers(1, 40)) * (1 if odd else 64)
        weight = float(random.lognormal(0, 2))
        choices = tuple(
            Choice(kind, blocks * size, weight * 4.0 ** -(8 * size / 256) * float(random.uniform(0.8, 1.25)))
            for kind, size in zip(TYPES, BYTES, strict=True)
        )
        items.append(Item(f"t{number}", choices))
    return items


def brute(items: list[Item], budget: int) -> float:
    return min(
        sum(choice.cost for choice in chosen)
        for chosen in itertools.product(*(item.choices for item in items))
        if sum(choice.bytes for choice in chosen) <= budget
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_choices(seed: int) -> None:
    items = tensors(5, seed, odd=seed % 2 == 1)
    least, most = (sum(pick(c.bytes for c in item.choices) for item in items) for pick in (min, max))
    for share in (0.0, 0.1, 0.35, 0.7, 1.0):
        budget = int(least + share * (most - least))
        found = solve(items, budget)
        assert found.cost == pytest.approx(brute(items, budget), rel=1e-12)
        assert found.bytes <= budget and found.gap == 0.0
        assert found.bytes == sum(choice.bytes for choice in found.chosen.values())


def test_more_room_never_costs_more() -> None:
    items = tensors(40, 7)
    least, most = (sum(item.choices[end].bytes for item in items) for end in (0, -1))
    budgets = range(least, most, (most - least) // 25 + 7)
    costs = [solve(items, budget).cost for budget in budgets]
    assert len(costs) == 25 and costs == sorted(costs, reverse=True)


def test_a_byte_is_worth_what_a_little_more_room_saves() -> None:
    """Against solutions for other budgets: between the gains just below and just above."""
    items = tensors(40, 5)
    budget = sum(sum(choice.bytes for choice in item.choices) for item in items) // 6
    step = budget // 20
    below, here, above = (solve(items, budget + more).cost for more in (-step, 0, step))
    assert (here - above) / step < fit.price(items, budget) < (below - here) / step
    assert fit.price(items, 10 * budget) == 0.0


def test_too_fine_sizes_come_with_a_proven_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """With coarse units the result is within its gap of the exact one, and within the budget."""
    items = tensors(60, 3, odd=True)
    budget = sum(item.choices[2].bytes for item in items) + 1
    exact = solve(items, budget)
    assert exact.gap == 0.0
    monkeypatch.setattr(fit, "UNITS", 2000)
    coarse = solve(items, budget)
    assert coarse.bytes <= budget and exact.cost <= coarse.cost <= exact.cost * 1.02
    assert coarse.bound <= exact.cost and 0 < coarse.gap < 0.02


# ---- two budgets ---------------------------------------------------------------------------------------------------

NANOSECONDS = (0.12, 0.135, 0.127, 0.156, 0.148, 0.15)
"""A weight's, by type, of a processor on which fewer bytes are not always fewer seconds."""


def timed(items: list[Item], seed: int) -> list[Item]:
    """The first item is looked up and costs no time, some are experts of which a quarter is read."""
    random = np.random.default_rng(seed)
    shares = [0.0, *random.choice([1.0, 0.25], len(items) - 1)]
    return [
        Item(
            item.name,
            tuple(
                Choice(c.type, c.bytes, c.cost, share * item.choices[0].bytes * nanoseconds)
                for c, nanoseconds in zip(item.choices, NANOSECONDS, strict=True)
            ),
        )
        for item, share in zip(items, shares, strict=True)
    ]


def ends(items: list[Item], field: str) -> tuple[float, float]:
    least, most = (sum(pick(getattr(c, field) for c in item.choices) for item in items) for pick in (min, max))
    return least, most


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_all_choices_within_both_budgets(seed: int) -> None:
    items = timed(tensors(5, seed, odd=seed % 2 == 1), seed)
    every = [
        (sum(c.bytes for c in each), sum(c.seconds for c in each), sum(c.cost for c in each))
        for each in itertools.product(*(item.choices for item in items))
    ]
    (small, large), (fast, slow) = ends(items, "bytes"), ends(items, "seconds")
    decided = set()
    for room, pace in itertools.product((0.05, 0.4, 1.0), (0.02, 0.3, 0.8)):
        budget, limit = int(small + room * (large - small)), fast + pace * (slow - fast)
        best = min((cost for size, time, cost in every if size <= budget and time <= limit), default=None)
        if best is None:
            with pytest.raises(QuenchError) as caught:
                solve(items, budget, limit)
            assert caught.value.code == "too_slow" and caught.value.exit_status == 4
            nearest = min(time for size, time, _ in every if size <= budget)
            assert fit.quickest(items, budget).seconds == pytest.approx(nearest, rel=1e-12)
            continue
        found = solve(items, budget, limit)
        assert found.cost == pytest.approx(best, rel=1e-12) and found.gap == 0.0
        assert found.bytes <= budget and found.seconds <= limit * (1 + 1e-9)
        free = min(cost for size, _, cost in every if size <= budget)
        roomy = min(cost for _, time, cost in every if time <= limit)
        told = {"size": (best == pytest.approx(free)), "speed": best == pytest.approx(roomy), "both": True}
        assert told[found.decided]
        decided.add(found.decided)
    assert {"size", "speed"} <= decided


def test_neither_more_room_nor_more_time_costs_more() -> None:
    items = timed(tensors(16, 11), 11)
    (small, large), (fast, slow) = ends(items, "bytes"), ends(items, "seconds")
    rooms, paces = np.linspace(0.15, 0.9, 3), np.linspace(0.15, 0.9, 4)
    costs = []
    for room, pace in itertools.product(rooms, paces):
        found = solve(items, int(small + room * (large - small)), fast + pace * (slow - fast))
        assert found.gap < 1e-9
        costs.append(found.cost)
    table = np.array(costs).reshape(3, 4)
    assert (np.diff(table, axis=0) <= 1e-12).all() and (np.diff(table, axis=1) <= 1e-12).all()


def test_a_search_that_was_cut_short_says_how_far_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    items = timed(tensors(30, 3, odd=True), 3)
    (small, large), (fast, slow) = ends(items, "bytes"), ends(items, "seconds")
    budget, limit = int(small + 0.3 * (large - small)), fast + 0.3 * (slow - fast)
    exact = solve(items, budget, limit)
    monkeypatch.setattr(fit_two, "BEGINNINGS", 8)
    found = solve(items, budget, limit)
    assert found.bytes <= budget and found.seconds <= limit * (1 + 1e-9)
    assert exact.cost <= found.cost * (1 + 1e-9) and found.cost <= exact.cost * 1.1
    assert found.bound <= exact.cost * (1 + 1e-9)


def test_a_type_that_is_larger_and_worse_is_never_taken() -> None:
    items = [Item("a", (Choice("small", 10, 1.0), Choice("worse", 20, 1.5), Choice("best", 30, 0.1)))]
    assert solve(items, 25).chosen["a"].type == "small"
    assert solve(items, 30).chosen["a"].type == "best"


def test_what_does_not_fit_is_said_with_the_numbers() -> None:
    items = tensors(3, 1)
    least = sum(item.choices[0].bytes for item in items)
    with pytest.raises(QuenchError) as caught:
        solve(items, least - 1)
    assert caught.value.code == "too_small" and str(least) in caught.value.detail and caught.value.exit_status == 4
    assert solve(items, least).bytes == least


@pytest.mark.parametrize(
    "items",
    [
        [Item("a", ())],
        [Item("a", (Choice("x", 1, 1.0),)), Item("a", (Choice("x", 1, 1.0),))],
        [Item("a", (Choice("x", 1, float("nan")),))],
        [Item("a", (Choice("x", -1, 1.0),))],
    ],
)
def test_senseless_items_are_refused(items: list[Item]) -> None:
    with pytest.raises(ValueError):
        solve(items, 100)


def test_one_choice_each_and_nothing_to_choose() -> None:
    assert solve([], 0).cost == 0
    assert solve([Item("a", (Choice("x", 5, 2.0),))], 7).bytes == 5
