"""Verdicts by a table of figures that anyone would judge alike."""

from __future__ import annotations

import pytest

from app.measure_messages import Estimate
from app.quality.verdict import TaskChange, Thresholds, judge, nats

SAME = TaskChange(n=480, reference=400, candidate=398, lost=5, gained=3)
WORSE = TaskChange(n=480, reference=400, candidate=380, lost=24, gained=4)
MUCH_WORSE = TaskChange(n=480, reference=400, candidate=300, lost=110, gained=10)
FEW = TaskChange(n=20, reference=18, candidate=15, lost=4, gained=1)


@pytest.mark.parametrize(
    ("kld", "error", "top1", "tasks", "level"),
    [
        (0.0014, 0.0001, 0.977, None, "pass"),
        (0.0108, 0.0003, 0.955, SAME, "pass"),
        (0.0108, 0.0003, 0.955, WORSE, "review"),
        (0.0108, 0.0003, 0.955, MUCH_WORSE, "fail"),
        (0.0108, 0.0003, 0.955, FEW, "pass"),
        (0.0108, 0.0003, 0.900, None, "review"),
        (0.0290, 0.0010, 0.960, None, "review"),
        (0.0290, 0.0001, 0.960, None, "pass"),
        (0.1020, 0.0010, 0.960, None, "review"),
        (0.1900, 0.0100, 0.960, None, "review"),
        (0.2100, 0.0100, 0.960, None, "review"),
        (0.4450, 0.0050, 0.711, None, "fail"),
        (0.4450, 0.0050, 0.711, SAME, "fail"),
    ],
)
def test_levels(kld: float, error: float, top1: float, tasks: TaskChange | None, level: str) -> None:
    assert judge(Estimate(kld, error), Estimate(top1, 0.003), tasks)[0] == level


def test_the_reason_is_one_sentence_that_begins_with_the_divergence() -> None:
    for change in (None, SAME, WORSE):
        for kld in (0.001, 0.03, 0.1, 0.2, 0.5):
            reason = judge(Estimate(kld, 0.0005), Estimate(0.9, 0.003), change)[1]
            assert reason.startswith("KL divergence ")
            assert reason.endswith(".")
            assert ". " not in reason
            assert ("tasks" in reason) == (change is not None)
            assert "perplexity" not in reason.lower()


def test_close_calls_say_so() -> None:
    level, reason = judge(Estimate(0.031, 0.002), Estimate(0.97, 0.003))
    assert level == "review"
    assert "too close to the limit of 0.03 to call" in reason


def test_a_close_call_says_how_much_text_would_tell() -> None:
    """The error shrinks with the square root of the text: 0.004 away at an error of 0.004 takes four times as much."""
    assert "about 4 times as much text would tell" in judge(Estimate(0.034, 0.004), Estimate(0.97, 0.003))[1]
    assert "times" not in judge(Estimate(0.0301, 0.004), Estimate(0.97, 0.003))[1], "a hundred times is no advice"


@pytest.mark.parametrize(("error", "level"), [(0.001, "pass"), (0.02, "review")])
def test_what_cannot_be_told_from_nothing_is_said(error: float, level: str) -> None:
    found, reason = judge(Estimate(0.001, error), Estimate(0.99, 0.003))
    assert found == level and "no difference can be told with this much text" in reason


@pytest.mark.parametrize(
    ("kld", "code", "error", "level"),
    [
        (0.01, 0.02, 0.001, "pass"),
        (0.01, 0.04, 0.001, "review"),
        (0.01, 0.04, 0.010, "pass"),
        (0.01, 0.40, 0.010, "review"),
        (0.10, 0.15, 0.001, "review"),
        (0.10, 0.40, 0.010, "fail"),
        (0.40, 0.50, 0.010, "fail"),
    ],
)
def test_a_good_mean_does_not_hide_a_bad_slice(kld: float, code: float, error: float, level: str) -> None:
    """A slice counts where it is clearly beyond a limit, and moves the verdict by one step."""
    slices = {"prose": Estimate(kld, 0.0005), "code": Estimate(code, error)}
    found, reason = judge(Estimate(kld, 0.0005), Estimate(0.97, 0.003), slices=slices)
    alone = judge(Estimate(kld, 0.0005), Estimate(0.97, 0.003))[0]
    assert found == level
    assert ("on code" in reason) is (found != alone)


def test_limits_are_the_callers() -> None:
    strict = Thresholds(pass_kld=0.001, fail_kld=0.01, pass_top1=0.99)
    assert judge(Estimate(0.0108, 0.0001), Estimate(0.955, 0.003), None, strict)[0] == "fail"
    loose = Thresholds(pass_kld=1.0, fail_kld=2.0, pass_top1=0.5)
    assert judge(Estimate(0.445, 0.005), Estimate(0.711, 0.003), None, loose)[0] == "pass"


@pytest.mark.parametrize(
    ("lost", "gained", "clear"),
    [(5, 0, False), (6, 0, True), (12, 3, True), (10, 3, False), (0, 6, False), (0, 0, False), (300, 200, True)],
)
def test_mcnemar(lost: int, gained: int, clear: bool) -> None:
    """Two-sided exact p: 5:0 0.0625, 6:0 0.031, 12:3 0.035, 10:3 0.092."""
    assert TaskChange(600, 400, 400 - lost + gained, lost, gained).clear is clear


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 nats"), (1e-7, "under 0.0001 nats"), (0.00014, "0.00014 nats"), (0.0313, "0.031 nats"),
     (0.445, "0.45 nats"), (1.25, "1.2 nats"), (12.5, "12 nats")],
)  # fmt: skip
def test_divergences_are_readable(value: float, text: str) -> None:
    assert nats(value) == text
