"""A reference's odds without its logits: the likeliest tokens of a position exactly, and a fair sample of the rest.

Of every position are kept: the ``top`` likeliest tokens, the probability ``rest`` of all others together, and ``tail``
of these drawn with their own probabilities (systematic sampling: equal steps through the cumulated odds from a random
start, so that every token is drawn as often as it is likely). A divergence from such a record is a sum of terms that
are never negative,

    KL(p, q) = sum over all tokens of  p ln(p / q) - p + q,

whose part over the likeliest is exact, and whose rest is estimated without bias by ``rest`` times the mean of
``ln(p / q) - 1 + q / p`` over the sample. The terms are as small as the divergence itself, and so is their scatter:
over a few thousand tokens the mean is right to some hundredths of a per cent, for a candidate of any quality, while a
position takes some hundred bytes at any size of the vocabulary. A single token's value is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import kernels
from app.quality.divergence import FIRST, TOP, Floats, Logits, Rows, Tokens, TokenValues, check_finite, firsts_of

_ID_BYTES = 3
MAX_VOCABULARY = 1 << 24


@dataclass(frozen=True)
class Layout:
    """How many tokens of a position are kept: the ``top`` likeliest, ``tail`` drawn from the others."""

    top: int
    tail: int

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The record of one position; ``logs`` are natural log-probabilities, ``ids`` little-endian."""
        kept = self.top + self.tail
        return np.dtype([("nll", "<f4"), ("rest", "<f4"), ("logs", "<f2", kept), ("ids", "u1", (kept, _ID_BYTES))])


@dataclass(frozen=True)
class Odds:
    """Records of some positions, and the tokens that follow: shapes ``(n,)``."""

    layout: Layout
    records: npt.NDArray[np.void]
    right: Tokens

    @property
    def nll(self) -> Floats:
        """-ln(probability) of the right tokens."""
        return self.records["nll"].astype(np.float64)


def sample(rows: Rows, layout: Layout, seed: int) -> npt.NDArray[np.void]:
    """Records of ``rows``; the same ones for the same ``seed``."""
    count, vocabulary = rows.logits.shape
    top = min(layout.top, vocabulary)
    found = kernels.score_rows(rows.logits, top_k=top)
    ids = np.zeros((count, layout.top + layout.tail), np.uint32)
    logs = np.full(ids.shape, -np.inf)
    ids[:, :top], logs[:, :top] = found.top, found.top_log_probability
    rest = np.zeros(count)
    starts = np.random.default_rng(seed).random(count)
    for row in range(count):
        odds = np.exp(rows.logits[row].astype(np.float64) - found.log_sum[row])
        odds[found.top[row]] = 0.0
        cumulated = np.cumsum(odds)
        rest[row] = cumulated[-1]
        if rest[row] > 0.0:
            places = (starts[row] + np.arange(layout.tail)) / layout.tail * rest[row]
            drawn = np.minimum(np.searchsorted(cumulated, places, side="right"), vocabulary - 1)
            ids[row, layout.top :] = drawn
            logs[row, layout.top :] = rows.logits[row, drawn] - found.log_sum[row]
    records = np.zeros(count, layout.dtype)
    records["nll"], records["rest"] = rows.nll, rest
    records["logs"] = np.maximum(logs, -6e4)
    records["ids"] = ids.astype("<u4").view(np.uint8).reshape(*ids.shape, 4)[..., :_ID_BYTES]
    return records


def compare(reference: Odds, candidate: Logits) -> TokenValues:
    """As :func:`app.quality.divergence.compare`, from a sample."""
    records, layout = reference.records, reference.layout
    found = kernels.score_rows(candidate, reference.right, top_k=TOP)
    ids = _ids(records)
    p_log = records["logs"].astype(np.float64)
    q_log = np.take_along_axis(candidate, ids, axis=1).astype(np.float64) - found.log_sum[:, None]
    ratio = np.exp(np.minimum(q_log - p_log, 700.0))
    top = slice(0, layout.top)
    weight = np.empty_like(p_log)
    weight[:, top] = np.exp(p_log[:, top])
    weight[:, layout.top :] = (records["rest"] / layout.tail)[:, None]
    # Both terms are never negative, and 0 where the two agree.
    kld = (weight * (p_log - q_log - 1.0 + ratio)).sum(axis=1)
    reverse = (weight * (ratio * (q_log - p_log) + 1.0 - ratio)).sum(axis=1)
    check_finite(found.log_sum + kld + reverse)
    nll = reference.nll
    best = min(TOP, layout.top, found.top.shape[1])
    same = (ids[:, :best, None] == found.top[:, None, :best]).any(axis=2).mean(axis=1)
    firsts = np.empty(len(nll), FIRST)
    firsts["token"], firsts["probability"] = ids[:, 0], np.exp(p_log[:, 0])
    return TokenValues(
        reference_nll=nll,
        nll=found.nll,
        kld=np.maximum(kld, 0.0),
        reverse=np.maximum(reverse, 0.0),
        agree=ids[:, 0] == found.top[:, 0],
        shared=same.astype(np.float32),
        dp=np.exp(-found.nll) - np.exp(-nll),
        reference_first=firsts,
        first=firsts_of(candidate, found.top[:, 0], found.log_sum),
    )


def _ids(records: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    wide = np.zeros((*records["ids"].shape[:2], 4), np.uint8)
    wide[..., :_ID_BYTES] = records["ids"]
    return wide.view("<u4")[..., 0].astype(np.int64)


__all__ = ["MAX_VOCABULARY", "Layout", "Odds", "compare", "sample"]
