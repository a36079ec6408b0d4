"""A reference's odds without its logits: the likeliest tokens of a position exactly, and a fair sample of the rest.

Of every position are kept: the ``top`` likeliest tokens, the probability ``rest`` of all others together, and ``tail``
of these drawn with their own probabilities (systematic sampling: equal steps through the cumulated odds from a random
start, so that every token is drawn as often as it is likely). A divergence from such a record is a sum of terms that
are never negative,

    KL(p, q) = sum over all tokens of  p ln(p / q) - p + q,

whose part over the likeliest is exact, and whose rest is estimated without bias by ``rest`` times the mean of
``ln(p / q) - 1 + q / p`` over the sample. The terms are as small as the divergence itself, and so is their scatter:
over some thousand tokens the mean is right to some tenths of a per cent, whether the candidate is close or far, while a
position takes some hundred bytes at any size of the vocabulary. A single token's value is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from app.quality.divergence import (
    FIRST,
    TOP,
    Firsts,
    Floats,
    Logits,
    Rows,
    Tokens,
    TokenValues,
    check_finite,
    firsts_of,
)

MAX_VOCABULARY = 1 << 24
_STEPS = 1 << 18
"""A natural log-probability counts in steps of 1 / 2**18, down to -64."""


@dataclass(frozen=True)
class Layout:
    """How many tokens of a position are kept: the ``top`` likeliest, ``tail`` drawn from the others."""

    top: int
    tail: int

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The record of one position; ``logs`` and ``ids`` are whole numbers of 24 bits, little-endian."""
        kept = self.top + self.tail
        return np.dtype([("nll", "<f4"), ("rest", "<f4"), ("logs", "u1", (kept, 3)), ("ids", "u1", (kept, 3))])


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
    starts = np.random.default_rng(seed).random((count,))
    for row in range(count):
        odds: Floats = rows.logits[row].astype(np.float64)
        odds -= found.log_sum[row]
        np.exp(odds, out=odds)
        odds[found.top[row]] = 0.0
        cumulated = np.cumsum(odds)
        rest[row] = cumulated[-1]
        if rest[row] > 0.0:
            places = (starts[row] + np.arange(layout.tail)) / layout.tail * rest[row]
            drawn = np.asarray(np.searchsorted(cumulated, places, side="right"))
            drawn = np.minimum(drawn, vocabulary - 1)
            ids[row, layout.top :] = drawn
            logs[row, layout.top :] = rows.logits[row, drawn] - found.log_sum[row]
    records = np.zeros(count, layout.dtype)
    records["nll"], records["rest"] = rows.nll, rest
    records["logs"] = _packed(np.rint(np.clip(-logs, 0, 63.9) * _STEPS))
    records["ids"] = _packed(ids)
    return records


def ids_of(records: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """The tokens that are kept of each position: the likeliest first, then the drawn ones."""
    return _unpacked(records["ids"])


def likeliest(odds: Odds) -> tuple[npt.NDArray[np.int64], Floats]:
    """The likeliest tokens of each position, the first one first, and their natural log-probabilities: (n, top)."""
    top = slice(0, odds.layout.top)
    return _unpacked(odds.records["ids"][:, top]), _unpacked(odds.records["logs"][:, top]) / -float(_STEPS)


def firsts_of_records(odds: Odds) -> Firsts:
    """The likeliest token of each position and its probability."""
    ids, logs = likeliest(odds)
    firsts = np.empty(len(ids), FIRST)
    firsts["token"], firsts["probability"] = ids[:, 0], np.exp(logs[:, 0])
    return firsts


def _packed(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    bits = np.ascontiguousarray(numbers.astype("<u4"))
    return bits.view(np.uint8).reshape(*numbers.shape, 4)[..., :3]


def _unpacked(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    wide = np.zeros((*data.shape[:-1], 4), np.uint8)
    wide[..., :3] = data
    return wide.view("<u4")[..., 0].astype(np.int64)


def compare(reference: Odds, candidate: Logits) -> TokenValues:
    """As :func:`app.quality.divergence.compare`, from a sample."""
    records, layout = reference.records, reference.layout
    found = kernels.score_rows(candidate, reference.right, top_k=TOP)
    ids = ids_of(records)
    p_log = _unpacked(records["logs"]) / -float(_STEPS)
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
    return TokenValues(
        reference_nll=nll,
        nll=found.nll,
        kld=np.maximum(kld, 0.0),
        reverse=np.maximum(reverse, 0.0),
        agree=ids[:, 0] == found.top[:, 0],
        shared=same.astype(np.float32),
        dp=np.exp(-found.nll) - np.exp(-nll),
        reference_first=firsts_of_records(reference),
        first=firsts_of(candidate, found.top[:, 0], found.log_sum),
    )


__all__ = ["MAX_VOCABULARY", "Layout", "Odds", "compare", "firsts_of_records", "ids_of", "likeliest", "sample"]
