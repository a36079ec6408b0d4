"""Where answers part, and for how long they stay together."""

from __future__ import annotations

import math
import random

import pytest

from app.compare import align


def test_a_diff_gives_both_answers_back_and_only_equal_tokens_in_equal_runs() -> None:
    chance = random.Random(5)
    for _ in range(200):
        a, b = (tuple(chance.choice("abcd") for _ in range(chance.randrange(30))) for _ in range(2))
        runs = align.align(a, b)
        assert tuple(token for run in runs for token in a[run.a0 : run.a1]) == a
        assert tuple(token for run in runs for token in b[run.b0 : run.b1]) == b
        assert all(a[run.a0 : run.a1] == b[run.b0 : run.b1] for run in runs if run.same)
        prefix = align.common_prefix(a, b)
        assert a[:prefix] == b[:prefix] and (a[prefix : prefix + 1] != b[prefix : prefix + 1] or a == b)
        if prefix:
            assert runs[0].same and runs[0].a1 >= prefix


def test_what_was_put_in_is_the_only_difference() -> None:
    a = ("The", " fox", " ran", " home", ".")
    b = ("The", " red", " fox", " ran", " home", ".")
    runs = align.align(a, b)
    assert [(run.same, run.a1 - run.a0, run.b1 - run.b0) for run in runs] == [(True, 1, 1), (False, 0, 1), (True, 4, 4)]
    assert align.shared(runs) == pytest.approx(10 / 11)
    assert align.counterpart(runs, 1, of_a=True) == 2 and align.counterpart(runs, 5, of_a=False) == 4
    assert align.counterpart(runs, 1, of_a=False) == 1
    assert align.shared(align.align((), ())) == 1.0 and align.align(a, a) == [align.Run(True, 0, 5, 0, 5)]


def test_a_long_answer_takes_no_long_diff() -> None:
    a = tuple("xy" * (align.MOST + 1))
    runs = align.align(("same", *a), ("same", "z", *a, "w"))
    assert runs == [align.Run(True, 0, 1, 0, 1), align.Run(False, 1, len(a) + 1, 1, len(a) + 3)]


@pytest.mark.parametrize("text", ["", "Hello, world!", " a\n\n  b\t", "über-groß 12.5 %", "\n", "日本語 と 英語"])
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(align.pieces(text)) == text


REMISSION = (
    [(6, True)] * 3 + [(weeks, True) for weeks in (7, 10, 13, 16, 22, 23)]
    + [(weeks, False) for weeks in (6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35)]
)  # fmt: skip
"""Weeks in remission under 6-MP (Freireich et al. 1963), the textbook example of a curve with censored times."""
PUBLISHED = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}
ERRORS = {6: 0.0764, 7: 0.0869, 10: 0.0963, 13: 0.1068, 16: 0.1141, 22: 0.1282, 23: 0.1346}
"""Greenwood's standard errors, as published with it."""


def test_the_curve_is_that_of_the_textbook() -> None:
    steps = align.survival(REMISSION)
    assert (steps[0].tokens, steps[0].share) == (0, 1.0) and steps[-1].tokens == 35
    found = {step.tokens: step for step in steps[1:-1]}
    assert {weeks: round(step.share, 4) for weeks, step in found.items()} == PUBLISHED
    for weeks, step in found.items():
        half = 1.959964 * ERRORS[weeks] / (step.share * -math.log(step.share))
        assert step.low == pytest.approx(step.share ** math.exp(half), abs=2e-4)
        assert step.high == pytest.approx(step.share ** math.exp(-half), abs=2e-4)
    assert align.median(steps) == 23


def test_curves_at_their_ends() -> None:
    assert align.survival([]) == []
    never = align.survival([(12, False), (7, False)])
    assert [(step.tokens, step.share) for step in never] == [(0, 1.0), (12, 1.0)] and align.median(never) is None
    at_once = align.survival([(0, True), (0, True)])
    assert [(step.tokens, step.share) for step in at_once] == [(0, 0.0)] and align.median(at_once) == 0
