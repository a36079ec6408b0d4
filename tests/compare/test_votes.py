"""The blind test: who is shown where, what a vote counts, and that looking again and again finds no winners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import pytest

from app.compare import rounds
from app.compare.results import Column, Entry
from app.compare.rounds import KEYS, Round
from app.compare.votes import Tally
from app.memory_messages import Memory
from app.proportions import mcnemar


def ever(votes: int, stops: Callable[[int, int], bool]) -> float:
    """How often votes that are fair coins are stopped at some look, computed exactly."""
    going, stopped = {0: 1.0}, 0.0
    for number in range(1, votes + 1):
        after: Counter[int] = Counter()
        for wins, odds in going.items():
            after[wins] += odds / 2
            after[wins + 1] += odds / 2
        stopped += sum(odds for wins, odds in after.items() if stops(wins, number - wins))
        going = {wins: odds for wins, odds in after.items() if not stops(wins, number - wins)}
    return stopped


def test_looking_after_every_vote_finds_a_winner_in_at_most_one_of_twenty_fair_tests() -> None:
    assert ever(60, lambda wins, losses: Tally(wins, losses).decided) < 0.05
    assert ever(400, lambda wins, losses: Tally(wins, losses).decided) < 0.05
    # What would have been done without: the reason for the trouble.
    assert ever(60, lambda wins, losses: mcnemar(losses, wins) <= 0.05) == pytest.approx(0.186, abs=0.001)


def test_evidence_is_its_definition_and_the_sign_test_counts_all_outcomes() -> None:
    for wins, losses in ((0, 0), (3, 1), (8, 0), (12, 3), (30, 20)):
        count = wins + losses
        choose = Fraction(1)
        for step in range(wins):
            choose = choose * (count - step) / (step + 1)
        tally = Tally(wins, losses)
        assert tally.evidence == pytest.approx(float(Fraction(2**count, count + 1) / choose))
        if count <= 15:
            outcomes = [sum(flips) for flips in product((0, 1), repeat=count)]
            as_far = sum(abs(2 * each - count) >= abs(wins - losses) for each in outcomes)
            assert tally.p == pytest.approx(as_far / len(outcomes))
    assert not Tally(7, 0).decided and Tally(8, 0).decided and Tally(0, 8).decided


def test_the_interval_holds_the_true_share_at_all_looks_at_once() -> None:
    """Exactly, over all courses of 40 votes with a true share of 70 %."""
    true = 0.7
    going, missed = {0: 1.0}, 0.0
    for number in range(1, 41):
        after: Counter[int] = Counter()
        for wins, odds in going.items():
            after[wins] += odds * (1 - true)
            after[wins + 1] += odds * true
        going = {}
        for wins, odds in after.items():
            low, high = Tally(wins, number - wins).interval()
            assert low <= wins / number <= high
            if low <= true <= high:
                going[wins] = odds
            else:
                missed += odds
    assert 0 < missed < 0.05
    assert Tally().interval() == (0.0, 1.0) and Tally(9, 0).interval()[1] == 1.0


def test_the_fair_share_is_outside_the_interval_exactly_when_it_is_decided() -> None:
    for wins, losses in product(range(14), repeat=2):
        low, high = Tally(wins, losses).interval()
        assert Tally(wins, losses).decided == (not low <= 0.5 <= high)


def test_every_model_meets_the_reference_once_a_prompt_and_stands_first_half_of_the_time() -> None:
    drawn = rounds.draw(60, 3, 7)
    assert Counter((made.prompt, made.model) for made in drawn) == Counter(product(range(60), (1, 2)))
    assert Counter(made.shown.index(0) for made in drawn if made.model == 2) == {0: 30, 1: 30}
    assert drawn == rounds.draw(60, 3, 7) != rounds.draw(60, 3, 8)
    assert [made.prompt for made in drawn] != sorted(made.prompt for made in drawn)


def test_a_vote_is_for_who_stood_there() -> None:
    votes = [(Round(0, (0, 1)), "1"), (Round(1, (1, 0)), "1"), (Round(2, (0, 2)), "2"), (Round(3, (1, 0)), "=")]
    votes += [(Round(4, (1, 0)), "s"), (Round(5, (2, 0)), "2")]
    assert rounds.count(votes, 3) == [Tally(1, 1, 1, 1), Tally(1, 1, 0, 0)]
    assert KEYS == ("1", "2", "=", "s")


def test_how_a_test_ends() -> None:
    assert rounds.outcome(Tally(0, 8), 10) == rounds.REFERENCE and rounds.outcome(Tally(8, 0), 0) == rounds.MODEL
    assert rounds.outcome(Tally(3, 2), 50) == rounds.OPEN
    assert rounds.outcome(Tally(3, 2), 2) == rounds.outcome(Tally(3, 2), 0) == rounds.TOO_CLOSE


def answered(*texts: str | None) -> Entry:
    columns = [None if text is None else Column("m", text, -1, 0, 0, 0, 0, Memory(0, 0, 0)) for text in texts]
    return Entry("?", columns=tuple(columns))


def test_answers_that_are_alike_are_no_choice() -> None:
    assert rounds.alike(answered("a b\n", " a  b"), Round(0, (1, 0))) and not rounds.alike(
        answered("a", "b"), Round(0, (0, 1))
    )
    assert not rounds.ready(answered("a", None), Round(0, (0, 1))) and rounds.ready(
        answered("a", "b"), Round(0, (0, 1))
    )
