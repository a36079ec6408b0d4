"""Pass, review or fail, with one plain sentence that says why. Pure.

The KL divergence comes first and perplexity is no part of it: two errors can cancel in a perplexity, never in a
divergence. A figure decides only when it is two standard errors clear of its limit; else the answer is ``review``,
because with this much text it cannot be told. A good mean can hide a bad slice: a kind of text on which a limit is
clearly passed moves the verdict by one step. The default limits lie in the steps of llama.cpp's published Llama-3-8B
table (Q6_K 0.0055, Q4_K_M 0.0313, Q3_K_M 0.102, Q2_K 0.445 nats).

A server that tells only part of its odds gives a lower bound of the divergence. It passes only if it would with another
nat of divergence in the part that was not told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from app.measure_messages import Estimate
from app.proportions import mcnemar

PASS, REVIEW, FAIL = "pass", "review", "fail"

CLEAR = 2.0
"""Standard errors that make a difference clear (about 95 %)."""

MOST_TEXT = 20.0
"""Times the text beyond which it is no use to advise more of it."""

SIGNIFICANCE = 0.05

TASK_REVIEW = 0.02
TASK_FAIL = 0.10
"""Falls in the share of solved tasks that are worth a look, and too much; only where they are clear."""


@dataclass(frozen=True)
class Thresholds:
    """Limits: mean KL divergence in nats, agreement on the first choice as a fraction."""

    pass_kld: float = 0.03
    fail_kld: float = 0.2
    pass_top1: float = 0.95


@dataclass(frozen=True)
class TaskChange:
    """The same ``n`` tasks by both models: ``lost`` only the reference solved, ``gained`` only the candidate."""

    n: int
    reference: int
    candidate: int
    lost: int
    gained: int

    @property
    def drop(self) -> float:
        """Fall of the share of solved tasks; negative for a rise."""
        return (self.reference - self.candidate) / self.n

    @property
    def clear(self) -> bool:
        """Whether the fall is more than chance: else each change is a fair coin (McNemar's exact test at 5 %)."""
        return self.lost > self.gained and self.p <= SIGNIFICANCE

    @property
    def p(self) -> float:
        """How likely changes as uneven as these are by chance alone (:func:`app.proportions.mcnemar`)."""
        return mcnemar(self.lost, self.gained)


def judge(
    kld: Estimate,
    top1: Estimate | None,
    tasks: TaskChange | None = None,
    thresholds: Thresholds | None = None,
    *,
    slices: Mapping[str, Estimate] | None = None,
    missing: float = 0.0,
) -> tuple[str, str]:
    """``(verdict, reason)`` of one candidate against its reference; the worst of its parts decides.

    ``slices`` are the mean divergences by kind of text. With a ``missing``, the mean probability that was not told,
    divergences are lower bounds; ``top1`` is None if it was not told what comes first.
    """
    limits = thresholds or Thresholds()
    level, words = _by_kld(kld, limits, missing)
    facts = [words]
    worst, slice_level = _worst_slice(slices or {}, limits)
    if worst is not None and _worse(level, slice_level) != level:
        level = FAIL if level == REVIEW else REVIEW
        facts.append(f"on {worst} {nats((slices or {})[worst].value)}")
    if missing > 0:
        facts.append(f"{_percent(missing)} of the odds not told")
    if top1 is not None:
        facts.append(f"same first choice {_percent(top1.value)}")
        if top1.value + CLEAR * top1.error < limits.pass_top1:
            level = _worse(level, REVIEW)
            facts[-1] += f" (limit {_percent(limits.pass_top1)})"
    if tasks is not None and tasks.n:
        task_level = _by_tasks(tasks)
        level = _worse(level, task_level)
        solved, before = _percent(tasks.candidate / tasks.n), _percent(tasks.reference / tasks.n)
        facts.append(f"{'only ' if task_level != PASS else ''}{solved} of the tasks solved (reference {before})")
    return level, ", ".join(facts) + f": {_ADVICE[level]}."


def by_divergence(kld: Estimate, thresholds: Thresholds, missing: float = 0.0) -> str:
    """The verdict of a divergence alone, such as that of one slice."""
    return _by_kld(kld, thresholds, missing)[0]


def _worst_slice(slices: Mapping[str, Estimate], limits: Thresholds) -> tuple[str | None, str]:
    """The slice of the largest divergence among those that are clearly beyond a limit, and its verdict."""
    beyond = {name: each for name, each in slices.items() if each.value - CLEAR * each.error > limits.pass_kld}
    if not beyond:
        return None, PASS
    name = max(beyond, key=lambda each: beyond[each].value)
    return name, _by_kld(beyond[name], limits)[0]


_ADVICE = {
    PASS: "it answers nearly like the reference",
    REVIEW: "read some of its answers beside the reference's",
    FAIL: "it often answers differently, so take a larger type",
}


def _by_kld(kld: Estimate, limits: Thresholds, missing: float = 0.0) -> tuple[str, str]:
    low, high = kld.value - CLEAR * kld.error, kld.value + CLEAR * kld.error
    figure = f"KL divergence {'at least ' if missing > 0 else ''}{nats(kld.value)}"
    if high <= limits.pass_kld < high + missing:
        return REVIEW, f"{figure}, which what was not told can bring over the limit of {limits.pass_kld:g}"
    if kld.value > 0 and low <= 0:
        level = PASS if high <= limits.pass_kld else REVIEW
        return level, f"{figure}, from which no difference can be told with this much text"
    if high <= limits.pass_kld:
        return PASS, f"{figure} (limit {limits.pass_kld:g})"
    if low > limits.fail_kld:
        return FAIL, f"{figure}, over the limit of {limits.fail_kld:g}"
    for limit in (limits.pass_kld, limits.fail_kld):
        if low <= limit < high:
            return REVIEW, f"{figure}, too close to the limit of {limit:g} to call{_more_text(kld, limit)}"
    return REVIEW, f"{figure}, between the limits {limits.pass_kld:g} and {limits.fail_kld:g}"


def _more_text(kld: Estimate, limit: float) -> str:
    """How much more text would tell on which side of ``limit`` the value lies, if it stays where it is."""
    away = abs(kld.value - limit)
    times = (CLEAR * kld.error / away) ** 2 if away > 0 else math.inf
    return f" (about {max(2, math.ceil(times))} times as much text would tell)" if times <= MOST_TEXT else ""


def _by_tasks(tasks: TaskChange) -> str:
    if not tasks.clear or tasks.drop < TASK_REVIEW:
        return PASS
    return FAIL if tasks.drop >= TASK_FAIL else REVIEW


def _worse(one: str, other: str) -> str:
    order = (PASS, REVIEW, FAIL)
    return order[max(order.index(one), order.index(other))]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"


def nats(value: float) -> str:
    """A divergence for people: two digits that count, never in scientific notation."""
    if value < 0.00005:
        return "under 0.0001 nats" if value > 0 else "0 nats"
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{value:.{digits}f} nats"
