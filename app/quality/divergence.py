"""How far a candidate's next-token odds are from a reference's, streaming over windows.

Logits go in a window at a time and are never kept; a few numbers a scored token stay (61 bytes), so that quantiles are
exact and every error can respect that the tokens of one window go together. All divergences are in nats.

Conventions (they are llama-perplexity's, so that figures can be set beside its own):

- a window of ``n`` tokens is scored in its second half: the logits of positions ``n // 2 .. n - 2`` predict the tokens
  ``n // 2 + 1 .. n - 1``, which is 255 of 512;
- perplexity is ``exp(mean nll)`` and its error ``ppl * sqrt((E[nll^2] - E[nll]^2) / (N - 1))``, as if tokens were
  independent, so that it equals the figure that the tool prints;
- KL is ``sum p_ref (ln p_ref - ln p_cand)`` over the whole vocabulary, nothing clipped or rounded to 16 bits. The
  kernels compute it: exponentials to 1.1e-8, sums in double and in one order, so that the figures of given logits are
  the same on every processor.

Errors of everything that compares (ln ratio, KL, top-1, delta-p) do not pretend that tokens are independent: they are
the cluster-robust ("sandwich") error of a mean, with the windows as clusters (Liang and Zeger 1986; factor G/(G-1)),
and never less than the independent-token error, since few clusters can underestimate by luck. Quantiles get the
standard deviation over a bootstrap of whole windows. With fewer than ``MIN_CLUSTERS`` windows, each is cut into equal
runs of tokens so that there are enough clusters to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import kernels
from app.measure_messages import HISTOGRAM_EDGES, Estimate, Kld, Shift, SliceQuality
from app.quality.numbers import Z95
from converter.spec import QuenchError

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

FIRST = np.dtype([("token", np.int32), ("probability", np.float32)])
Firsts = npt.NDArray[np.void]

Found = TypeVar("Found", kernels.RowScores, kernels.RowDivergences)

MIN_CLUSTERS = 8
LEAST_CLUSTERS = 16
POSITION_PARTS = 8
KLD_QUANTILES = (0.5, 0.95, 0.99, 0.999, 1.0)
SHIFT_QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
TOP = 5
BOOTSTRAP_ELEMENTS = 1 << 22

LOGITS_A_THREAD = 1 << 22
"""Fewer are walked over in less time than a thread is worth: two milliseconds."""


def first_scored(context: int) -> int:
    """The position whose logits are the first to be scored in a window of ``context`` tokens."""
    return context // 2


def scored_per_window(context: int) -> int:
    """How many tokens of a window count: 255 of 512."""
    return context - 1 - first_scored(context)


@dataclass(frozen=True)
class Rows:
    """A reference's logits of some positions and what they say: shapes ``(n, vocabulary)`` and ``(n,)``.

    ``right`` are the tokens that follow, ``nll`` their -ln(probability).
    """

    logits: Logits
    right: Tokens
    nll: Floats


@dataclass(frozen=True)
class TokenValues:
    """What is kept of each scored token of one window, arrays of shape ``(n,)``.

    ``kld`` is KL(reference, candidate), ``reverse`` the other way round; ``shared`` which part of the five likeliest
    tokens is the same; ``dp`` the right token's probability under the candidate less that under the reference.
    ``first`` and ``reference_first``, of shape ``(n, 2)``, are the likeliest token and its probability.

    Where not all odds were known (:mod:`app.quality.bounds`) ``missing`` is what they had left, 0..1, and figures that
    could not be computed are NaN, or for ``first`` a negative token.
    """

    reference_nll: Floats
    nll: Floats
    kld: Floats
    reverse: Floats
    agree: npt.NDArray[np.bool_]
    shared: npt.NDArray[np.float32]
    dp: Floats
    reference_first: Firsts
    first: Firsts
    missing: Floats | None = None

    def __len__(self) -> int:
        return len(self.nll)


def score(logits: Logits, targets: Sequence[int] | Tokens, *, keep: bool = True, threads: int = 1) -> Rows:
    """What ``logits`` (n, vocabulary) say of their right next tokens ``targets`` (n,).

    With ``keep`` the logits are copied, else the array is referenced (an engine's view that lives until its next
    decode). ``threads`` at most share the rows. Raises QuenchError ``not_finite`` if the model's output is not numbers.
    """
    right = np.asarray(targets, dtype=np.int64)
    if logits.ndim != 2 or right.shape != (logits.shape[0],):
        raise ValueError(f"logits {logits.shape} do not go with {right.shape} targets")
    found = _shared(kernels.score_rows, threads, logits, right)
    check_finite(found.log_sum)
    return Rows(logits.copy() if keep else logits, right, found.nll)


def compare(reference: Rows, candidate: Logits, *, threads: int = 1) -> TokenValues:
    """Per-token divergence from ``reference`` of the logits ``candidate`` (n, vocabulary) of the same positions.

    ``threads`` at most share the rows. Raises QuenchError ``not_finite`` if the candidate's output is not numbers.
    """
    if reference.logits.shape != candidate.shape:
        raise ValueError(f"logits of shape {candidate.shape} against {reference.logits.shape}")

    def part(*rows: Any) -> kernels.RowDivergences:
        return kernels.compare_rows(*rows, top_k=TOP)

    found = _shared(part, threads, reference.logits, candidate, reference.right)
    # A token that one allows and the other does not makes a divergence infinite: nothing could be averaged.
    check_finite(found.log_sum + found.kl + found.reverse_kl)
    return TokenValues(
        reference_nll=found.reference_nll,
        nll=found.nll,
        kld=found.kl,
        reverse=found.reverse_kl,
        agree=found.agree,
        shared=found.overlap.astype(np.float32),
        dp=found.shift,
        reference_first=firsts_of(reference.logits, found.reference_top, found.reference_log_sum),
        first=firsts_of(candidate, found.top, found.log_sum),
    )


def _shared(walk: Callable[..., Found], threads: int, *arrays: npt.NDArray[Any]) -> Found:
    """``walk`` over rows of ``arrays``, in as many parts at the same time as are worth it; every row is its own."""
    rows = len(arrays[0])
    parts = max(1, min(threads, rows, arrays[0].size // LOGITS_A_THREAD))
    if parts == 1:
        return walk(*arrays)
    cuts = [slice(rows * part // parts, rows * (part + 1) // parts) for part in range(parts)]
    with ThreadPoolExecutor(parts, "rows") as pool:
        found: list[Any] = list(pool.map(lambda cut: walk(*(array[cut] for array in arrays)), cuts))
    whole: Found = found[0]._make(map(np.concatenate, zip(*found, strict=True)))
    return whole


def firsts_of(logits: Logits, tokens: npt.NDArray[np.int32], log_sum: Floats) -> Firsts:
    """The ``tokens`` (n,) of ``logits`` with their probabilities."""
    firsts = np.empty(len(tokens), FIRST)
    firsts["token"] = tokens
    firsts["probability"] = np.exp(logits[np.arange(len(tokens)), tokens] - log_sum)
    return firsts


def check_finite(log_sum: Floats) -> None:
    """QuenchError ``not_finite`` unless all of ``log_sum`` are numbers."""
    bad = int((~np.isfinite(log_sum)).sum())
    if bad:
        raise QuenchError(
            "not_finite",
            "The model's output is not numbers.",
            f"{bad} of {len(log_sum)} scored positions gave infinity or NaN.",
            "The file is damaged or was made by a faulty conversion: make or download it again.",
        )


def same(nll: Floats) -> TokenValues:
    """A reference compared with itself, by its -ln(probability) of the right tokens: zero divergence."""
    count = len(nll)
    zero = np.zeros(count, dtype=np.float64)
    nothing = np.zeros(count, FIRST)
    every = np.ones(count, dtype=np.bool_)
    return TokenValues(nll, nll, zero, zero, every, every.astype(np.float32), zero, nothing, nothing)


# ---- statistics ------------------------------------------------------------------------------------------------


def token_error(values: Floats) -> float:
    """Standard error of a mean as if all values were independent, by llama-perplexity's formula."""
    n = len(values)
    if n < 2:
        return 0.0
    spread = float(np.mean(values * values) - np.mean(values) ** 2)
    return math.sqrt(max(0.0, spread) / (n - 1))


def cluster_starts(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each cluster begins in the concatenation of windows of these lengths (see the module's text)."""
    parts = 1 if len(lengths) >= MIN_CLUSTERS else -(-MIN_CLUSTERS // max(1, len(lengths)))
    starts: list[int] = []
    at = 0
    for length in lengths:
        cuts = {at + length * part // parts for part in range(parts)}
        starts.extend(sorted(cuts) if length else [])
        at += length
    return np.asarray(starts, dtype=np.int64)


def mean_estimate(values: Floats, starts: npt.NDArray[np.int64]) -> Estimate:
    """Mean and the larger of its cluster-robust and independent-token standard error."""
    n = len(values)
    mean = float(np.mean(values))
    groups = len(starts)
    clustered = 0.0
    if groups > 1:
        sums = np.add.reduceat(values - mean, starts)
        clustered = math.sqrt(groups / (groups - 1) * float(np.sum(sums * sums))) / n
    return Estimate(mean, max(clustered, token_error(values)))


def quantile_estimates(
    values: Floats, quantiles: Sequence[float], starts: npt.NDArray[np.int64], replicates: int
) -> list[Estimate]:
    """``quantiles`` (1: the maximum) of ``values``, with errors from ``replicates`` resamples of whole clusters.

    The sample is sorted once; a resample only changes how often each cluster's values count. Its quantiles are looked
    for in two steps, among runs of neighbours and then within one, so that no resample counts every value. The random
    numbers are seeded, so that the same values always give the same errors.
    """
    n, groups = len(values), len(starts)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    exact: list[float] = np.quantile(ordered, quantiles).tolist()
    if groups < 2 or replicates < 2:
        return [Estimate(value, 0.0) for value in exact]
    random = np.random.default_rng(512)
    times = random.multinomial(groups, np.full(groups, 1.0 / groups), size=replicates)
    # One more cluster, drawn never, fills the last run.
    run = max(1, math.isqrt(n))
    cluster = np.full((-(-n // run), run), groups)
    cluster.flat[:n] = np.searchsorted(starts, order, side="right") - 1
    times = np.concatenate([times, np.zeros((replicates, 1), times.dtype)], axis=1)
    upto = np.cumsum(_counts_by_run(times, cluster), axis=1)
    resample = np.arange(replicates)
    drawn = np.empty((replicates, len(exact)), dtype=np.float64)
    for column, q in enumerate(quantiles):
        target = q * (upto[:, -1] - 1)
        chosen = (upto <= target[:, None]).sum(axis=1)
        before = np.where(chosen > 0, upto[resample, chosen - 1], 0)
        inside = np.cumsum(times[resample[:, None], cluster[chosen]], axis=1) + before[:, None]
        drawn[:, column] = ordered[chosen * run + (inside <= target[:, None]).sum(axis=1)]
    errors = drawn.std(axis=0, ddof=1)
    return [Estimate(value, float(error)) for value, error in zip(exact, errors, strict=True)]


def _counts_by_run(times: npt.NDArray[np.int64], cluster: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many values of each run are in each resample: (replicates, runs).

    times: (replicates, clusters), how often each cluster was drawn. cluster: (runs, values), whose each value is.
    """
    runs, clusters = len(cluster), times.shape[1]
    counts = np.empty((len(times), runs), dtype=np.int64)
    step = max(1, BOOTSTRAP_ELEMENTS // clusters)
    for start in range(0, runs, step):
        part = cluster[start : start + step]
        place = np.arange(len(part))[:, None] * clusters + part
        held = np.bincount(place.reshape(-1), minlength=len(part) * clusters).reshape(len(part), clusters)
        counts[:, start : start + step] = times.astype(np.float64) @ held.T.astype(np.float64)
    return counts


def perplexity_estimate(nll: Floats) -> Estimate:
    """Perplexity and its error as llama-perplexity prints them."""
    value = math.exp(float(np.mean(nll)))
    return Estimate(value, value * token_error(nll))


def root_mean_square(values: Floats, starts: npt.NDArray[np.int64]) -> Estimate:
    """sqrt(mean(values^2)) and its error by propagation through the square root."""
    square = mean_estimate(values * values, starts)
    value = math.sqrt(square.value)
    return Estimate(value, 0.5 * square.error / value if value > 0 else 0.0)


def histogram(kld: Floats) -> tuple[int, ...]:
    """Counts of log10(kld) between ``HISTOGRAM_EDGES``; what lies outside, zeros too, goes into the outer bins."""
    low, high = HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]
    logs = np.log10(np.maximum(kld, 10.0**low))
    counts, _ = np.histogram(np.clip(logs, low, high), bins=np.asarray(HISTOGRAM_EDGES))
    return tuple(int(count) for count in counts)


@dataclass(frozen=True)
class Summary:
    """All figures of one candidate over the windows seen so far; fields as in ``CandidateQuality`` and ``Told``.

    What could not be computed for every token is None.
    """

    tokens: int
    windows: int
    perplexity: Estimate
    ln_ratio: Estimate
    kld: Kld
    reverse_kld: Estimate | None
    top1: Estimate | None
    top5: Estimate | None
    rms_dp: Estimate | None
    shift: Shift | None
    slices: dict[str, SliceQuality]
    histogram: tuple[int, ...]
    by_position: tuple[float, ...]
    missing: float = 0.0
    hidden: int = 0


class Divergence:
    """Gathers :class:`TokenValues` window by window; :meth:`summary` may be asked at any time."""

    def __init__(self) -> None:
        self._windows: list[tuple[str, TokenValues]] = []
        self._last: tuple[int, int, Summary] | None = None

    @property
    def windows(self) -> int:
        return len(self._windows)

    def values(self) -> list[TokenValues]:
        """What was kept of each window, in the order in which they came."""
        return [values for _, values in self._windows]

    def add(self, name: str, values: TokenValues) -> None:
        """One more window of the slice ``name``, with at least one scored token."""
        if not len(values):
            raise ValueError("a window without a scored token")
        self._windows.append((name, values))

    def precise(self, part: float) -> bool:
        """Whether half of the 95 % interval of the mean KLD is within ``part`` of it.

        Never below ``LEAST_CLUSTERS`` windows: from fewer an interval can be narrow by luck, and a rule that stops at
        the first narrow one would pick just these.
        """
        windows = self.values()
        if len(windows) < LEAST_CLUSTERS:
            return False
        mean = mean_estimate(_joined(windows, "kld"), cluster_starts([len(values) for values in windows]))
        return Z95 * mean.error <= part * mean.value

    def summary(self, replicates: int = 256) -> Summary:
        """Figures so far. ``replicates`` is how many bootstrap samples the quantiles' errors are worth."""
        if not self._windows:
            raise ValueError("no window was scored yet")
        if self._last is None or self._last[:2] != (self.windows, replicates):
            self._last = (self.windows, replicates, self._summary(replicates))
        return self._last[2]

    def _summary(self, replicates: int) -> Summary:
        windows = [values for _, values in self._windows]
        starts = cluster_starts([len(values) for values in windows])
        nll, kld, dp = (_joined(windows, field) for field in ("nll", "kld", "dp"))
        hidden = int(np.isnan(dp).sum())
        return Summary(
            tokens=len(nll),
            windows=len(windows),
            perplexity=perplexity_estimate(nll),
            ln_ratio=mean_estimate(nll - _joined(windows, "reference_nll"), starts),
            kld=Kld(mean_estimate(kld, starts), *quantile_estimates(kld, KLD_QUANTILES, starts, replicates)),
            reverse_kld=_known_mean(_joined(windows, "reverse"), starts),
            top1=_agreement(windows, starts),
            top5=_known_mean(_joined(windows, "shared"), starts),
            shift=None if hidden else _shift(dp, starts, replicates),
            rms_dp=None if hidden else root_mean_square(dp, starts),
            slices={name: self._slice(name) for name in dict.fromkeys(name for name, _ in self._windows)},
            histogram=histogram(kld),
            by_position=_by_position(windows),
            missing=_missing(windows),
            hidden=hidden,
        )

    def _slice(self, name: str) -> SliceQuality:
        windows = [values for label, values in self._windows if label == name]
        starts = cluster_starts([len(values) for values in windows])
        nll = _joined(windows, "nll")
        return SliceQuality(
            tokens=len(nll),
            perplexity=perplexity_estimate(nll),
            kld=mean_estimate(_joined(windows, "kld"), starts),
            top1=_agreement(windows, starts),
        )


def _known_mean(values: Floats, starts: npt.NDArray[np.int64]) -> Estimate | None:
    return None if np.isnan(values).any() else mean_estimate(values, starts)


def _agreement(windows: Sequence[TokenValues], starts: npt.NDArray[np.int64]) -> Estimate | None:
    if any((values.first["token"] < 0).any() for values in windows):
        return None
    return mean_estimate(_joined(windows, "agree"), starts)


def _shift(dp: Floats, starts: npt.NDArray[np.int64], replicates: int) -> Shift:
    return Shift(mean_estimate(dp, starts), *quantile_estimates(dp, SHIFT_QUANTILES, starts, replicates))


def _missing(windows: Sequence[TokenValues]) -> float:
    """The mean probability that was not told."""
    sums = sum(float(values.missing.sum()) for values in windows if values.missing is not None)
    return sums / sum(len(values) for values in windows)


def _joined(windows: Sequence[TokenValues], field: str) -> Floats:
    return np.concatenate([getattr(values, field) for values in windows]).astype(np.float64, copy=False)


def _by_position(windows: Sequence[TokenValues]) -> tuple[float, ...]:
    """Mean KL in equal parts of the scored half; windows of all lengths count by their relative position."""
    sums = np.zeros(POSITION_PARTS)
    counts = np.zeros(POSITION_PARTS)
    for values in windows:
        part = np.arange(len(values)) * POSITION_PARTS // len(values)
        sums += np.bincount(part, weights=values.kld, minlength=POSITION_PARTS)
        counts += np.bincount(part, minlength=POSITION_PARTS)
    return tuple(float(value) for value in sums / np.maximum(counts, 1))
