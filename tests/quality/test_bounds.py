"""Divergences from part of a candidate's odds: lower bounds, exact where everything was told."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from app.measure_messages import Estimate
from app.quality import bounds, odds, verdict
from app.quality.divergence import Divergence, Rows, score
from app.quality.divergence import compare as exact
from app.quality.lower_bound import bound, rounding
from app.quality.odds import Layout, Odds
from app.remote.scoring import Position

VOCABULARY, COUNT = 4096, 12
Floats = npt.NDArray[np.float64]


def softmax_logs(logits: Floats) -> Floats:
    wide = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


@pytest.fixture(scope="module")
def reference() -> Rows:
    random = np.random.default_rng(3)
    logits = (3.0 * random.standard_normal((COUNT, VOCABULARY))).astype(np.float32)
    return score(logits, random.integers(0, VOCABULARY, COUNT))


@pytest.fixture(scope="module")
def candidate(reference: Rows) -> Floats:
    """Log-probabilities of a model that is not quite the reference."""
    noise = np.random.default_rng(4).standard_normal((COUNT, VOCABULARY))
    return softmax_logs(reference.logits.astype(np.float64) + 0.4 * noise)


def told(logs: Floats, top: int, right: npt.NDArray[np.int64] | None = None) -> list[Position]:
    """What a server would tell of ``logs``: the ``top`` likeliest, and with ``right`` that one too."""
    found = []
    for row in range(len(logs)):
        ids = np.argsort(-logs[row], kind="stable")[:top]
        if right is not None and right[row] not in ids:
            ids = np.append(ids, right[row])
        found.append(Position(ids, logs[row, ids], top=top > 0))
    return found


def test_the_more_is_told_the_nearer_it_comes_from_below(reference: Rows, candidate: Floats) -> None:
    whole = exact(reference, candidate.astype(np.float32)).kld
    before = np.zeros(COUNT)
    for top in (1, 5, 20, 200, 2000, VOCABULARY - 1):
        found = bounds.compare(reference, told(candidate, top), VOCABULARY)
        assert (found.kld >= before - 1e-6).all() and (found.kld <= whole + 1e-6).all()
        before = found.kld
    assert found.kld == pytest.approx(whole, abs=1e-4)
    everything = told(candidate, VOCABULARY)
    assert bounds.is_whole(everything, VOCABULARY)
    same = exact(reference, bounds.logits_of(everything, VOCABULARY))
    assert same.kld == pytest.approx(whole, abs=1e-7)


def test_it_is_what_the_formula_says(reference: Rows, candidate: Floats) -> None:
    """The module's formula in plain numpy, with the missing odds free in the range of the server's rounding."""
    p = np.exp(softmax_logs(reference.logits.astype(np.float64)))
    found = bounds.compare(reference, told(candidate, 64), VOCABULARY)
    for row, each in enumerate(told(candidate, 64)):
        mine, theirs = p[row, each.ids], np.exp(each.logs)
        outside, missing = 1 - mine.sum(), 1 - theirs.sum()
        plain = (mine * np.log(mine / theirs)).sum() + outside * math.log(outside / missing)
        assert found.kld[row] <= plain + 1e-9
        assert found.kld[row] == pytest.approx(plain, abs=3 * rounding(VOCABULARY))
        assert found.missing is not None and found.missing[row] == pytest.approx(missing, abs=1e-9)


def test_a_server_that_loses_the_small_ones_in_its_sum_is_still_bounded(reference: Rows) -> None:
    """Float32 sums from the largest on: what is smaller than half a step of the sum is lost, and all others grow."""
    flat = np.full((COUNT, VOCABULARY), -17.0)
    flat[:, :8] = 0.0
    true = softmax_logs(flat)
    for row in range(COUNT):
        total = np.float32(0)
        for value in np.exp(np.sort(flat[row])[::-1]).astype(np.float32):
            total += value
        flat[row] -= math.log(total)
    assert np.exp(flat[0, :8]).sum() > np.exp(true[0, :8]).sum()
    whole = exact(reference, true.astype(np.float32)).kld
    assert (bounds.compare(reference, told(flat, 100), VOCABULARY).kld <= whole).all()


def test_what_was_not_told_is_not_known(reference: Rows, candidate: Floats) -> None:
    gathered = Divergence()
    gathered.add("a", bounds.compare(reference, told(candidate, 64), VOCABULARY))
    found = gathered.summary()
    hidden = sum(int(reference.right[row]) not in each.ids for row, each in enumerate(told(candidate, 64)))
    assert found.hidden == hidden > 0 < found.missing < 1
    assert (found.reverse_kld, found.top5, found.rms_dp, found.shift) == (None,) * 4
    rows = exact(reference, candidate.astype(np.float32))
    assert found.top1 is not None and found.top1.value == rows.agree.mean()
    assert found.perplexity.value <= math.exp(rows.nll.mean()) + 1e-6, "a lower bound too"

    whole = Divergence()
    whole.add("a", bounds.compare(reference, told(candidate, 64, reference.right), VOCABULARY))
    assert whole.summary().hidden == 0
    assert whole.summary().perplexity.value == pytest.approx(math.exp(rows.nll.mean()), rel=1e-6)
    assert whole.summary().rms_dp is not None

    right_alone = Divergence()
    right_alone.add("a", bounds.compare(reference, told(candidate, 0, reference.right), VOCABULARY))
    alone = right_alone.summary()
    assert alone.top1 is None and alone.slices["a"].top1 is None and alone.rms_dp is not None
    assert alone.perplexity.value == pytest.approx(math.exp(rows.nll.mean()), rel=1e-6)
    assert 0 <= alone.kld.mean.value < rows.kld.mean()


def test_saved_odds_give_a_bound_as_well(reference: Rows, candidate: Floats) -> None:
    layout = Layout(64, 64)
    saved = Odds(layout, odds.sample(reference, layout, 7), reference.right)
    whole = exact(reference, candidate.astype(np.float32)).kld
    by_rows = bounds.compare(reference, told(candidate, 200), VOCABULARY)
    by_odds = bounds.compare(saved, told(candidate, 200), VOCABULARY)
    assert (by_odds.kld <= by_rows.kld + 1e-4).all() and (by_odds.kld <= whole + 1e-4).all()
    assert by_odds.kld.mean() > 0.2 * whole.mean()
    assert (by_odds.agree == by_rows.agree).all()


def test_where_both_sums_are_loose_it_is_the_least_of_all_that_they_may_be() -> None:
    """Against the least on a fine grid of both factors."""
    random = np.random.default_rng(5)
    for loose in (0.2, 0.02):
        p, q = (random.dirichlet(np.full(30, 0.4))[:12] for _ in range(2))
        factors = np.linspace(1 / (1 + loose), 1.0, 801)
        f, g = factors[:, None], factors[None, :]
        inside = f * p.sum() * np.log(f / g) + f * (p * np.log(p / q)).sum()
        grid = inside + (1 - f * p.sum()) * np.log((1 - f * p.sum()) / (1 - g * q.sum()))
        found = bound(np.log(p), np.log(q), loose, loose)
        assert found <= grid.min() + 1e-9
        assert found == pytest.approx(grid.min(), abs=1e-4)


@pytest.mark.parametrize(("p", "q"), [([0.5], [1e-45]), ([1.0], [1.0]), ([0.0], [0.3]), ([1e-30], [1.0])])
def test_the_ends_of_what_there_is(p: list[float], q: list[float]) -> None:
    with np.errstate(divide="ignore"):
        found = bound(np.log(np.asarray(p)), np.maximum(np.log(np.asarray(q)), -104.0), 1e-4)
    assert 0 <= found < 200


def test_a_lower_bound_alone_does_not_pass() -> None:
    near, sure = Estimate(0.004, 0.0005), Estimate(0.99, 0.001)
    assert verdict.judge(near, sure)[0] == verdict.PASS
    level, reason = verdict.judge(near, sure, missing=0.2)
    assert level == verdict.REVIEW
    assert "at least 0.0040 nats, which what was not told can bring over the limit" in reason
    assert "20\N{NO-BREAK SPACE}% of the odds not told" in reason
    assert verdict.judge(near, sure, missing=0.001)[0] == verdict.PASS
    assert verdict.judge(Estimate(0.5, 0.01), None, missing=0.5)[0] == verdict.FAIL
