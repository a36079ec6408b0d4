"""Divergence against a plain double loop in 128-bit floats (80-bit on x86) and textbook statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from app.measure_messages import HISTOGRAM_EDGES
from app.quality import divergence as d
from converter.spec import QuenchError


def oracle(logits: np.ndarray) -> list[list[np.longdouble]]:
    """Log-probabilities by the definition, one number at a time, in the widest float there is."""
    rows = []
    for row in logits:
        peak = np.longdouble(max(row))
        total = np.longdouble(0)
        for value in row:
            total += np.exp(np.longdouble(value) - peak)
        rows.append([np.longdouble(value) - peak - np.log(total) for value in row])
    return rows


def oracle_kld(reference: np.ndarray, candidate: np.ndarray) -> list[float]:
    result = []
    for p_row, q_row in zip(oracle(reference), oracle(candidate), strict=True):
        total = np.longdouble(0)
        for p, q in zip(p_row, q_row, strict=True):
            total += np.exp(p) * (p - q)
        result.append(float(total))
    return result


def make(rows: int, vocabulary: int, noise: float, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    reference = (random.standard_normal((rows, vocabulary)) * 4 - 7).astype(np.float32)
    candidate = (reference + noise * random.standard_normal((rows, vocabulary))).astype(np.float32)
    return reference, candidate, random.integers(0, vocabulary, rows)


@pytest.mark.parametrize("noise", [1e-3, 0.05, 0.7, 5.0])
@pytest.mark.parametrize("shape", [(7, 3), (5, 97), (3, 4096)])
def test_tokens_equal_the_double_loop(shape: tuple[int, int], noise: float) -> None:
    reference, candidate, right = make(*shape, noise)
    values = d.compare(d.score(reference, right), candidate)
    p, q = oracle(reference), oracle(candidate)
    for row, token in enumerate(right):
        assert values.reference_nll[row] == pytest.approx(-float(p[row][token]), rel=1e-6, abs=1e-6)
        assert values.nll[row] == pytest.approx(-float(q[row][token]), rel=1e-6, abs=1e-6)
        assert values.dp[row] == pytest.approx(float(np.exp(q[row][token]) - np.exp(p[row][token])), abs=1e-7)
        assert values.agree[row] == (int(np.argmax(p[row])) == int(np.argmax(q[row])))
    np.testing.assert_allclose(values.kld, oracle_kld(reference, candidate), rtol=2e-5, atol=1e-7)


def test_equal_logits_and_shifted_logits_do_not_diverge() -> None:
    reference, _, right = make(40, 1000, 0.0)
    rows = d.score(reference, right)
    assert d.compare(rows, reference).kld.max() == 0.0
    assert d.compare(rows, reference + np.float32(16)).kld.max() < 2e-7


def test_extreme_logits_neither_overflow_nor_clip() -> None:
    """llama-perplexity's base file stops at 16 nats; the true divergence of a confident model goes on."""
    reference = np.array([[0.0, -40.0, -80.0], [300.0, -300.0, 0.0]], np.float32)
    candidate = np.array([[-40.0, 0.0, -80.0], [-300.0, 300.0, 0.0]], np.float32)
    values = d.compare(d.score(reference, [0, 0]), candidate)
    np.testing.assert_allclose(values.kld, oracle_kld(reference, candidate), rtol=1e-6)
    assert values.kld[1] == pytest.approx(600.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_output_that_is_no_number_is_refused(bad: float) -> None:
    reference, candidate, right = make(4, 10, 0.1)
    rows = d.score(reference, right)
    for logits in (reference, candidate):
        logits[2, 5] = bad
    for call in (lambda: d.score(reference, right), lambda: d.compare(rows, candidate)):
        with pytest.raises(QuenchError, match=r"not numbers") as caught:
            call()
        assert caught.value.code == "not_finite"
        assert "1 of 4" in caught.value.detail


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    reference, candidate, right = make(4, 10, 0.1)
    with pytest.raises(ValueError, match="targets"):
        d.score(reference, right[:3])
    with pytest.raises(ValueError, match="against"):
        d.compare(d.score(reference, right), candidate[:, :9])


def test_both_directions_first_choices_and_the_shared_five() -> None:
    """Against a plain softmax in float64."""
    reference, candidate, right = make(40, 60, 0.7)
    values = d.compare(d.score(reference, right), candidate)
    p, q = (np.exp(rows - rows.max(axis=1, keepdims=True), dtype=np.float64) for rows in (reference, candidate))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(values.reverse, (q * np.log(q / p)).sum(axis=1), rtol=1e-5)
    for odds, firsts in ((p, values.reference_first), (q, values.first)):
        np.testing.assert_array_equal(firsts["token"], odds.argmax(axis=1))
        np.testing.assert_allclose(firsts["probability"], odds.max(axis=1), rtol=1e-6)
    fives = [np.argsort(-odds, axis=1)[:, :5].tolist() for odds in (p, q)]
    shared = [len(set(one) & set(other)) / 5 for one, other in zip(*fives, strict=True)]
    np.testing.assert_allclose(values.shared, shared, rtol=1e-6)
    assert 0 < np.mean(shared) < 1


def test_what_is_impossible_for_one_alone_has_no_divergence() -> None:
    reference, candidate, right = make(4, 10, 0.1)
    candidate[1, 3] = -np.inf
    with pytest.raises(QuenchError) as caught:
        d.compare(d.score(reference, right), candidate)
    assert caught.value.code == "not_finite"


def test_kept_logits_are_a_copy() -> None:
    """The engine's array is overwritten by its next decode."""
    reference, candidate, right = make(6, 20, 0.3)
    buffer = reference.copy()
    rows = d.score(buffer, right)
    buffer[:] = candidate
    assert d.compare(rows, reference).kld.max() == 0.0


def test_window_convention() -> None:
    """512: the logits of positions 256..510 predict tokens 257..511."""
    assert d.first_scored(512) == 256
    assert d.scored_per_window(512) == 255
    assert [d.scored_per_window(n) for n in (2, 3, 33)] == [0, 1, 16]


# ---- statistics ------------------------------------------------------------------------------------------------


def windows_of(lengths: list[int], seed: int = 5, vocabulary: int = 50) -> list[d.TokenValues]:
    result = []
    for number, length in enumerate(lengths):
        reference, candidate, right = make(length, vocabulary, 0.3, seed + number)
        result.append(d.compare(d.score(reference, right), candidate))
    return result


def gathered(values: list[d.TokenValues], names: tuple[str, ...] = ("a",)) -> d.Divergence:
    gather = d.Divergence()
    for number, window in enumerate(values):
        gather.add(names[number % len(names)], window)
    return gather


def test_summary_equals_plain_formulas() -> None:
    values = windows_of([255] * 10)
    summary = gathered(values).summary()
    nll = [float(x) for window in values for x in window.nll]
    base = [float(x) for window in values for x in window.reference_nll]
    kld = sorted(float(x) for window in values for x in window.kld)
    dp = [float(x) for window in values for x in window.dp]
    n = len(nll)
    assert summary.tokens == n == 2550
    mean = sum(nll) / n
    error = math.sqrt((sum(x * x for x in nll) / n - mean * mean) / (n - 1))
    assert summary.perplexity.value == pytest.approx(math.exp(mean), rel=1e-12)
    assert summary.perplexity.error == pytest.approx(math.exp(mean) * error, rel=1e-9)
    assert summary.ln_ratio.value == pytest.approx(mean - sum(base) / n, rel=1e-9)
    assert summary.kld.mean.value == pytest.approx(sum(kld) / n, rel=1e-12)
    assert summary.kld.median.value == pytest.approx((kld[1274] + kld[1275]) / 2, rel=1e-12)
    assert summary.kld.max.value == kld[-1]
    position = 0.99 * (n - 1)
    low = int(position)
    assert summary.kld.p99.value == pytest.approx(kld[low] + (position - low) * (kld[low + 1] - kld[low]), rel=1e-9)
    assert summary.rms_dp.value == pytest.approx(math.sqrt(sum(x * x for x in dp) / n), rel=1e-12)
    assert summary.top1.value == pytest.approx(sum(int(x) for window in values for x in window.agree) / n)
    assert summary.top5.value == pytest.approx(sum(float(x) for window in values for x in window.shared) / n)
    assert summary.reverse_kld.value == pytest.approx(sum(float(x) for w in values for x in w.reverse) / n, rel=1e-12)
    assert summary.shift.mean.value == pytest.approx(sum(dp) / n, rel=1e-9)
    for share, figure in ((0.01, summary.shift.p1), (0.5, summary.shift.median), (0.99, summary.shift.p99)):
        assert figure.value == pytest.approx(float(np.quantile(dp, share)), rel=1e-12) and figure.error > 0
    assert sum(summary.histogram) == n
    assert len(summary.histogram) == len(HISTOGRAM_EDGES) - 1
    assert len(summary.by_position) == 8
    parts = [np.concatenate([window.kld[range(255)][(np.arange(255) * 8 // 255) == 0] for window in values]).mean()]
    assert summary.by_position[0] == pytest.approx(float(parts[0]), rel=1e-9)


def test_paired_ratio_is_surer_than_two_perplexities() -> None:
    """The tool's error with covariance is that of the paired differences; both models stumble at the same words."""
    values = windows_of([255] * 10)
    nll = np.concatenate([window.nll for window in values])
    base = np.concatenate([window.reference_nll for window in values])
    n = len(nll)
    covariance = (np.mean(nll * base) - np.mean(nll) * np.mean(base)) / (n - 1)
    by_tool = math.sqrt(d.token_error(nll) ** 2 + d.token_error(base) ** 2 - 2 * covariance)
    assert d.token_error(nll - base) == pytest.approx(by_tool, rel=1e-6)
    summary = gathered(values).summary()
    assert by_tool <= summary.ln_ratio.error < 0.3 * summary.perplexity.error / summary.perplexity.value


def test_cluster_error_is_that_of_the_window_means() -> None:
    """With equal windows the sandwich formula is the textbook error of their means."""
    random = np.random.default_rng(1)
    means = random.standard_normal(40)
    values = np.repeat(means, 255) + 0.01 * random.standard_normal(40 * 255)
    estimate = d.mean_estimate(values, d.cluster_starts([255] * 40))
    window_means = values.reshape(40, 255).mean(axis=1)
    assert estimate.error == pytest.approx(window_means.std(ddof=1) / math.sqrt(40), rel=1e-6)
    assert estimate.error > 10 * d.token_error(values)


@pytest.mark.parametrize("together", [0.0, 0.8])
def test_errors_cover_the_truth(together: float) -> None:
    """Of 400 simulated runs with tokens that go together or not, about 95 % have the truth within two errors."""
    random = np.random.default_rng(11)
    hits = 0
    for _ in range(400):
        shared = np.repeat(random.standard_normal(30), 64) * together
        values = shared + random.standard_normal(30 * 64)
        estimate = d.mean_estimate(values, d.cluster_starts([64] * 30))
        hits += abs(estimate.value) <= 1.96 * estimate.error
    assert 0.92 <= hits / 400 <= 0.995


def test_quantile_errors_cover_the_truth() -> None:
    """The bootstrap's error of a median of normal values is near its theory, sqrt(pi / 2n)."""
    random = np.random.default_rng(2)
    starts = d.cluster_starts([100] * 40)
    errors = [d.quantile_estimates(random.standard_normal(4000), (0.5,), starts, 256)[0].error for _ in range(20)]
    assert np.mean(errors) == pytest.approx(math.sqrt(math.pi / 2 / 4000), rel=0.15)


def test_threads_share_rows_and_change_no_figure() -> None:
    random = np.random.default_rng(6)
    reference, candidate = random.standard_normal((2, 67, 131072), dtype=np.float32)
    right = random.integers(0, 131072, 67)
    alone = d.compare(d.score(reference, right), candidate)
    shared = d.compare(d.score(reference, right, threads=3), candidate, threads=3)
    for name, values in vars(alone).items():
        if name != "missing":
            assert np.array_equal(values, getattr(shared, name)), name
    probabilities = np.exp(reference[50].astype(np.float64))
    expected = -math.log(probabilities[right[50]] / probabilities.sum())
    assert shared.reference_nll[50] == pytest.approx(expected, abs=1e-7)
    with pytest.raises(QuenchError, match=r"1 of 67 scored positions"):
        d.score(np.where(np.arange(67)[:, None] == 60, np.nan, reference), right, threads=3)


@pytest.mark.parametrize("lengths", [[30] * 10, [1, 7, 250, 3, 90], [2, 2]])
def test_weighted_resampling_is_a_plain_resample(lengths: list[int]) -> None:
    """Counting how often a cluster was drawn gives the quantiles of the sample written out."""
    random = np.random.default_rng(4)
    clusters = [random.standard_normal(length).round(1) for length in lengths]  # with ties
    starts = np.cumsum([0, *lengths[:-1]])
    found = d.quantile_estimates(np.concatenate(clusters), d.KLD_QUANTILES, starts, 64)
    groups = len(lengths)
    draws = np.random.default_rng(512).multinomial(groups, np.full(groups, 1 / groups), size=64)
    samples = [np.concatenate([np.tile(part, n) for part, n in zip(clusters, counts, strict=True)]) for counts in draws]
    for q, estimate in zip(d.KLD_QUANTILES, found, strict=True):
        written = [np.quantile(sample, q, method="lower") for sample in samples]
        assert estimate.value == np.quantile(np.concatenate(clusters), q)
        assert estimate.error == pytest.approx(np.std(written, ddof=1), rel=1e-9, abs=1e-12)


def test_few_windows_are_cut_into_enough_clusters() -> None:
    assert len(d.cluster_starts([255])) == 8
    assert len(d.cluster_starts([255] * 3)) == 9
    assert d.cluster_starts([255] * 9).tolist() == [255 * i for i in range(9)]
    assert d.cluster_starts([2]).tolist() == [0, 1]
    summary = gathered(windows_of([255])).summary()
    assert summary.kld.mean.error > 0
    assert summary.kld.p99.error > 0


def test_single_tokens_have_values_and_no_errors() -> None:
    summary = gathered(windows_of([1])).summary()
    assert summary.tokens == 1
    assert summary.kld.mean.error == summary.kld.max.error == 0.0
    assert math.isfinite(summary.perplexity.value)


def test_slices_are_those_of_their_own_windows() -> None:
    values = windows_of([60] * 6)
    summary = gathered(values, ("prose", "code")).summary()
    alone = gathered(values[1::2]).summary()
    assert list(summary.slices) == ["prose", "code"]
    assert summary.slices["code"].kld.value == pytest.approx(alone.kld.mean.value, rel=1e-12)
    assert summary.slices["code"].perplexity == alone.perplexity
    assert summary.slices["code"].tokens == 180


def test_the_reference_does_not_diverge_from_itself() -> None:
    reference, _, right = make(255, 40, 0.0)
    gather = d.Divergence()
    gather.add("a", d.same(d.score(reference, right).nll))
    summary = gather.summary()
    assert summary.kld.max.value == 0.0
    assert summary.top1.value == 1.0
    assert summary.ln_ratio.value == summary.rms_dp.value == 0.0
    assert summary.perplexity.value > 1


def test_nothing_scored_is_an_error() -> None:
    gather = d.Divergence()
    with pytest.raises(ValueError, match="scored token"):
        gather.add("a", windows_of([0])[0])
    with pytest.raises(ValueError, match="no window"):
        gather.summary()


def test_histogram_takes_zeros_and_giants_into_the_outer_bins() -> None:
    counts = d.histogram(np.array([0.0, 1e-9, 1e-6, 0.5e-3, 99.0, 1e5]))
    assert sum(counts) == 6
    assert counts[0] == 3
    assert counts[-1] == 2
    middle = next(i for i, count in enumerate(counts) if count and 0 < i < len(counts) - 1)
    assert HISTOGRAM_EDGES[middle] <= math.log10(0.5e-3) < HISTOGRAM_EDGES[middle + 1]
