"""A divergence from part of a candidate's odds: a server tells the likeliest tokens of a position, not all.

The figure is the least divergence that they allow (:mod:`.lower_bound`). Where every token of the vocabulary was told
there is nothing to bound: the log-probabilities are logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

import kernels
from app.quality.divergence import FIRST, Firsts, Floats, Logits, Rows, TokenValues, check_finite, firsts_of
from app.quality.lower_bound import bound, rounding
from app.quality.odds import Odds, firsts_of_records, likeliest

if TYPE_CHECKING:
    from app.remote.scoring import Position  # with all that speaks HTTP, which few measurements need

UNKNOWN = -1
"""In place of a candidate's likeliest token where the server did not say which it is."""

Ids = npt.NDArray[np.int64]


def is_whole(told: Sequence[Position], vocabulary: int) -> bool:
    """Whether every position has the odds of every token."""
    return all(len(each.ids) == vocabulary for each in told)


def logits_of(told: Sequence[Position], vocabulary: int) -> Logits:
    """Log-probabilities of the whole vocabulary as rows of logits, float32 (n, vocabulary)."""
    rows = np.empty((len(told), vocabulary), np.float32)
    for row, each in zip(rows, told, strict=True):
        row[each.ids] = each.logs
    return rows


def compare(reference: Rows | Odds, told: Sequence[Position], vocabulary: int) -> TokenValues:
    """Per-token figures of a candidate from what its server told of each position.

    ``kld`` are lower bounds (see the module). ``nll`` is the server's own where it told the right token; where not it
    is a lower bound too (a token outside S is no likelier than the least likely one inside, nor than all outside
    together) and ``dp`` is NaN. ``reverse`` and ``shared`` need the whole distribution: NaN. ``missing`` is Q.

    Raises QuenchError ``not_finite`` if the reference's output is not numbers.
    """
    known: _Known = _OfRows(reference) if isinstance(reference, Rows) else _OfOdds(reference)
    loose = rounding(vocabulary)
    count = len(told)
    kld, nll, missing = np.zeros(count), np.zeros(count), np.zeros(count)
    hidden = np.zeros(count, np.bool_)
    first = np.zeros(count, FIRST)
    for row, each in enumerate(told):
        missing[row] = max(0.0, 1.0 - float(np.exp(each.logs).sum()))
        most = min(1.0, missing[row] + loose)
        place = np.flatnonzero(each.ids == reference.right[row])
        hidden[row] = not len(place)
        nll[row] = -each.logs[place[0]] if len(place) else -min(float(each.logs.min()), math.log(most))
        kept, p_logs = known.at(row, each.ids)
        kld[row] = bound(p_logs, each.logs[kept], loose)
        best = int(np.argmax(each.logs))
        first[row] = (each.ids[best], math.exp(each.logs[best])) if each.top else (UNKNOWN, 0.0)
    check_finite(kld)
    unknown = np.full(count, np.nan)
    return TokenValues(
        reference_nll=reference.nll,
        nll=nll,
        kld=kld,
        reverse=unknown,
        agree=known.firsts["token"] == first["token"],
        shared=unknown.astype(np.float32),
        dp=np.where(hidden, np.nan, np.exp(-nll) - np.exp(-reference.nll)),
        reference_first=known.firsts,
        first=first,
        missing=missing,
    )


class _Known(Protocol):
    """What is known of the reference's odds: its ``firsts`` (n,), and at a position those ``at`` some tokens."""

    firsts: Firsts

    def at(self, row: int, ids: Ids) -> tuple[Ids, Floats]:
        """Places in ``ids`` of tokens that are known, and their natural log-probabilities."""
        ...


class _OfRows:
    def __init__(self, rows: Rows) -> None:
        self._logits = rows.logits
        found = kernels.score_rows(rows.logits, top_k=1)
        check_finite(found.log_sum)
        self._log_sum = found.log_sum
        self.firsts = firsts_of(rows.logits, found.top[:, 0], found.log_sum)

    def at(self, row: int, ids: Ids) -> tuple[Ids, Floats]:
        return np.arange(len(ids)), self._logits[row, ids].astype(np.float64) - self._log_sum[row]


class _OfOdds:
    """Of saved odds only the likeliest tokens are known for sure, and the right one: fewer tokens, a lower bound."""

    def __init__(self, odds: Odds) -> None:
        self._ids, self._logs = likeliest(odds)
        self._right, self._nll = odds.right, odds.nll
        self.firsts = firsts_of_records(odds)

    def at(self, row: int, ids: Ids) -> tuple[Ids, Floats]:
        tokens, logs = self._ids[row], self._logs[row]
        if self._right[row] not in tokens:
            tokens, logs = np.append(tokens, self._right[row]), np.append(logs, -self._nll[row])
        _, places, found = np.intersect1d(ids, tokens, return_indices=True)
        return places, logs[found]


__all__ = ["UNKNOWN", "compare", "is_whole", "logits_of"]
