"""The planner against every possible choice, and against its own bound where those are too many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from converter import fit
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
