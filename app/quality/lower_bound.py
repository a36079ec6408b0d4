"""The least divergence that part of the odds allow: a server tells the likeliest tokens of a position, not all.

Of one position let p be the reference's odds and q the candidate's, S the tokens of which both are known, and P and Q
what p and q have outside S. The figure is

    sum over S of p ln(p / q)  +  P ln(P / Q),

which is what the divergence would be if the two shared their P and Q out in proportion to one another. It is a LOWER
BOUND of KL(p, q), whatever they really do there. Proof, by the log-sum inequality: for numbers a_i >= 0 and b_i > 0
with sums a and b, ``sum a_i ln(a_i / b_i) >= a ln(a / b)``. (With f(x) = x ln x, which is convex, the left side is
``b sum (b_i / b) f(a_i / b_i)``, and by Jensen's inequality that is at least
``b f(sum (b_i / b) (a_i / b_i)) = b f(a / b) = a ln(a / b)``.) For a_i = p_i and b_i = q_i over the tokens outside S
this says that their part of KL(p, q) is at least ``P ln(P / Q)``, with equality just where q is proportional to p; the
part over S is exact. Fewer tokens in S make the bound smaller or leave it as it is, never larger, by the same
inequality.

P and Q are known no better than a server adds: it sums the exponentials of the softmax in float32, where each addition
is off by up to 2**-24 of the sum, so that after V tokens its probabilities may all be too large by the factor
``1 + V 2**-24``. Within that range the figure is taken where it is smallest, so that it stays a lower bound.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

ROUNDING = 2.0**-24
_TURNS, _SETTLED = 100, 1e-12

Floats = npt.NDArray[np.float64]


def rounding(vocabulary: int) -> float:
    """How far a server's sum of all exponentials may be off, relative."""
    return vocabulary * ROUNDING


def bound(p_logs: Floats, q_logs: Floats, q_rounding: float, p_rounding: float = 0.0) -> float:
    """The least KL(p, q) in nats that log-probabilities of the same tokens (n,) allow.

    ``q_rounding`` and ``p_rounding`` are how far the sums may be off by which each of ``q_logs`` and ``p_logs`` was
    divided, relative; 0 of those that are exact.
    """
    p, q_told = np.exp(p_logs), float(np.exp(q_logs).sum())
    p_told, there = min(1.0, float(p.sum())), p > 0
    ratios = float((p[there] * (p_logs[there] - q_logs[there])).sum())
    p_range, q_range = _range(p_told, p_rounding), _range(q_told, q_rounding)
    p_factor = p_range[1]
    q_factor = _nearest(p_factor * p_told / q_told, q_range)
    # Convex in both factors: in turns each goes where the figure is smallest for the other.
    for _ in range(_TURNS if p_rounding and p_told > 0 else 0):
        before, missing = p_factor, 1.0 - q_factor * q_told
        odds = q_factor * math.exp(min(700.0, -ratios / p_told)) / missing if missing > 0 else math.inf
        p_factor = _nearest(odds / (1.0 + odds * p_told) if odds < math.inf else 1.0 / p_told, p_range)
        q_factor = _nearest(p_factor * p_told / q_told, q_range)
        if abs(p_factor - before) < _SETTLED:
            break
    outside, missing = 1.0 - p_factor * p_told, 1.0 - q_factor * q_told
    rest = outside * math.log(outside / missing) if outside > 0 and missing > 0 else 0.0
    return max(0.0, p_factor * (ratios + p_told * math.log(p_factor / q_factor)) + rest)


def _range(told: float, loose: float) -> tuple[float, float]:
    """The factors by which probabilities may have to be multiplied, all of which were told to be ``told``."""
    most = min(1.0, 1.0 / told) if told > 0 else 1.0
    return min(most, 1.0 / (1.0 + loose)), most


def _nearest(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


__all__ = ["bound", "rounding"]
