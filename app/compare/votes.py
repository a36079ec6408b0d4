"""A blind test's votes: who is preferred, how sure that is, and when one may stop voting.

Votes are looked at after every one of them, so a test made for a number of votes fixed beforehand would find a winner
far too often (with a look after each of 60 votes in 18.6 % of the tests where there is none). What decides here is safe
at any number of looks: under equal quality every vote is a fair coin, and the evidence

    E = 2**n / ((n + 1) * C(n, wins))

(the likelihood of the votes averaged over every share of wins alike, over their likelihood under a fair coin) is a
martingale that starts at 1. By Ville's inequality (1939) it ever reaches 20 with a probability of at most 1/20. The
interval is what the same evidence does not exclude, a confidence sequence (Robbins 1970): with 95 % it holds the true
share after every vote at once. The exact sign test is told beside it; it means what it says only for a number of
votes that was settled before the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from app.proportions import mcnemar

ENOUGH = 20.0
"""Evidence that decides: 1 / 5 %."""


@dataclass(frozen=True)
class Tally:
    """Votes on one model against the reference: ``wins`` for the model, ``losses`` for the reference."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    skipped: int = 0

    @property
    def decided_votes(self) -> int:
        """Votes for one of the two; a tie says nothing about who is better (as in the sign test)."""
        return self.wins + self.losses

    @property
    def p(self) -> float:
        """Two-sided p of the exact sign test, the binomial form that McNemar's has too."""
        return mcnemar(self.losses, self.wins)

    @property
    def evidence(self) -> float:
        return math.exp(min(_log_evidence(self.wins, self.losses, 0.5), 700.0))

    @property
    def decided(self) -> bool:
        return self.evidence >= ENOUGH

    def interval(self) -> tuple[float, float]:
        """The model's share of the votes for one of the two, with 95 % at any number of looks."""
        share = self.wins / self.decided_votes if self.decided_votes else 0.5

        def excluded(p: float) -> bool:
            return _log_evidence(self.wins, self.losses, p) >= math.log(ENOUGH)

        low = 0.0 if self.wins == 0 else _edge(excluded, 0.0, share)
        high = 1.0 if self.losses == 0 else _edge(excluded, 1.0, share)
        return low, high

    def can_decide(self, left: int) -> bool:
        """Whether ``left`` more votes could still decide it, if they all went one way."""
        sides = Tally(self.wins + left, self.losses), Tally(self.wins, self.losses + left)
        return any(side.decided for side in sides)


def _log_evidence(wins: int, losses: int, p: float) -> float:
    """ln of the mean likelihood over all shares, over the likelihood at ``p``."""
    if (p <= 0 and wins) or (p >= 1 and losses):
        return math.inf
    mean = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(wins + losses + 2)
    return mean - (wins * math.log(p) if wins else 0.0) - (losses * math.log1p(-p) if losses else 0.0)


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where exclusion ends between ``outside`` and ``inside``, to about eight digits."""
    for _ in range(40):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return inside


__all__ = ["ENOUGH", "Tally"]
