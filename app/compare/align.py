"""Where two answers part: their common beginning, a diff of their tokens, and how long answers stay together."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from app.proportions import Z95

MOST = 20_000
"""Tokens of an answer up to which a diff is made; of a longer one everything after the common beginning is other."""
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s]|\s+$)|\s+")


@dataclass(frozen=True)
class Run:
    """Tokens ``a[a0:a1]`` and ``b[b0:b1]``: the same ones, or what stands in each other's place."""

    same: bool
    a0: int
    a1: int
    b0: int
    b1: int


def pieces(text: str) -> tuple[str, ...]:
    """Words and marks with the space before them, for an answer whose tokens nobody tells. Joined they are ``text``."""
    return tuple(_PIECE.findall(text))


def common_prefix(a: Sequence[str], b: Sequence[str]) -> int:
    """How many tokens both begin with."""
    return next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def alike(
    a: str, a_tokens: Sequence[str] | None, b: str, b_tokens: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What two answers are compared by: their tokens where those of both are told, else words and marks of both."""
    if a_tokens is None or b_tokens is None:
        return pieces(a), pieces(b)
    return tuple(a_tokens), tuple(b_tokens)


def align(a: Sequence[str], b: Sequence[str]) -> list[Run]:
    """A diff of two answers, in order and without gaps: equal runs and replaced, added or left-out ones.

    Ratcliff and Obershelp's longest common runs (1988), as in difflib, between the common beginning and the common
    end. Tokens that are very frequent in a long answer do not begin a common run.
    """
    start = common_prefix(a, b)
    end = min(common_prefix(a[start:][::-1], b[start:][::-1]), min(len(a), len(b)) - start)
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    runs = [Run(True, 0, start, 0, start)] if start else []
    if len(middle_a) > MOST or len(middle_b) > MOST:
        runs.append(Run(False, start, len(a) - end, start, len(b) - end))
    else:
        matcher = SequenceMatcher(None, middle_a, middle_b)
        runs += [
            Run(tag == "equal", start + a0, start + a1, start + b0, start + b1)
            for tag, a0, a1, b0, b1 in matcher.get_opcodes()
        ]
    if end:
        runs.append(Run(True, len(a) - end, len(a), len(b) - end, len(b)))
    return runs


def shared(runs: Sequence[Run]) -> float:
    """The part of both answers' tokens that stand in equal runs, 0 to 1; 1 for two empty answers."""
    same = sum(run.a1 - run.a0 for run in runs if run.same)
    both = sum(run.a1 - run.a0 + run.b1 - run.b0 for run in runs)
    return 2 * same / both if both else 1.0


def counterpart(runs: Sequence[Run], index: int, *, of_a: bool) -> int:
    """The token of the other answer that stands where token ``index`` of this one does."""
    for run in runs:
        here, to, there, end = (run.a0, run.a1, run.b0, run.b1) if of_a else (run.b0, run.b1, run.a0, run.a1)
        if here <= index < to:
            return min(there + index - here, max(end - 1, there))
    return 0


@dataclass(frozen=True)
class Step:
    """From ``tokens`` on, ``share`` of the answers are still the reference's; ``low`` to ``high`` is the 95 % band."""

    tokens: int
    share: float
    low: float
    high: float


def survival(lengths: Sequence[tuple[int, bool]]) -> list[Step]:
    """How long answers stay with the reference's: the Kaplan-Meier curve (1958), from (0, 1) on.

    ``lengths`` are (tokens in common, did they part there?). An answer that ended with the reference's, or was cut off
    at the most tokens, has not parted: all that is known is that it holds at least so long. The band is Greenwood's
    variance on the log(-log) scale, which stays within 0 and 1. No steps for no answers.
    """
    if not lengths:
        return []
    steps = [Step(0, 1.0, 1.0, 1.0)]
    share, spread = 1.0, 0.0
    ends, partings = Counter(count for count, _ in lengths), Counter(count for count, gone in lengths if gone)
    left = len(lengths)
    for tokens in sorted(ends):
        parted = partings[tokens]
        if parted:
            share *= 1 - parted / left
            spread += parted / (left * (left - parted)) if left > parted else math.inf
            low, high = _band(share, spread)
            if tokens == 0:
                steps = []
            steps.append(Step(tokens, share, low, high))
        left -= ends[tokens]
    longest = max(ends)
    if longest > steps[-1].tokens:
        steps.append(Step(longest, steps[-1].share, steps[-1].low, steps[-1].high))
    return steps


def _band(share: float, spread: float) -> tuple[float, float]:
    if not 0 < share < 1 or not math.isfinite(spread):
        return (0.0, 1.0) if share < 1 else (1.0, 1.0)
    half = Z95 * math.sqrt(spread) / abs(math.log(share))
    return share ** math.exp(half), share ** math.exp(-half)


def median(steps: Sequence[Step]) -> int | None:
    """Tokens after which half of the answers have parted; None if they never do."""
    return next((step.tokens for step in steps if step.share <= 0.5), None)


__all__ = ["Run", "Step", "align", "common_prefix", "counterpart", "median", "pieces", "shared", "survival"]
