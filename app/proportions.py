"""Shares of tasks solved: their interval, and whether two models differ on the same tasks. Pure."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Half of a 95 % interval in standard errors."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), sensible at 0 and at 1. Fractions; (0, 1) without tasks."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = correct / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


EXACT_UP_TO = 1000
"""Changes up to which whole numbers are used; beyond, logarithms, to about ten digits."""


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p of McNemar's exact test (1947; binomial form): each of the changes is a fair coin under chance.

    1 if nothing changed.
    """
    changed, fewer = lost + gained, min(lost, gained)
    if changed <= EXACT_UP_TO:
        outcomes: int = 2**changed
        return min(1.0, 2 * sum(math.comb(changed, count) for count in range(fewer + 1)) / outcomes)
    every = math.lgamma(changed + 1) - changed * math.log(2)
    tail = sum(math.exp(every - math.lgamma(k + 1) - math.lgamma(changed - k + 1)) for k in range(fewer + 1))
    return min(1.0, 2 * tail)


__all__ = ["Z95", "mcnemar", "wilson"]
