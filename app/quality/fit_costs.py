"""What types cost: measured tensor by tensor, or layers together, and for other types continued by a power law.

A cost is in parts of the standard recipe's divergence, the mean over kinds of text; every measured one has its standard
error over windows (:mod:`app.quality.spreads`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from app import hardware
from app.engine.grafts import Grafts, Part
from app.engine.model import Model
from app.fit_messages import TYPES, FittedTensor, FitTypes, TypeCost
from app.fit_speed import Pace
from app.measure_messages import Estimate
from app.quality import feedback, spreads
from app.quality.encoding import Encoder, Spool
from app.quality.fit_engines import By, Engines, Sample, Teller
from app.quality.known_costs import KnownCosts
from app.quality.spreads import Spread
from converter.fit import Choice, Item, Solution, price, solve

Mix = Mapping[str, str]
"""Type by tensor name."""

Places = Set[tuple[str, int]]
"""Windows of a sample: text, number."""

Units = dict[str, tuple[str, ...]]
"""Tensors that share a type, by the name of the first."""

ROUNDS = 5
"""Times that more is measured after a choice, at most: types that it took unmeasured, or that were close."""

PROBED_PART = 0.6
"""The part of the windows that a probe takes, about: half, and the rest where a choice is close."""

SURE = 1.0
"""Standard errors by which a type must be the better one not to be looked at again."""

PROBES_EACH = 4
"""Probes that a tensor takes in all, about: two at first, and what is chosen with its neighbours."""

PROBING = 0.6
"""The part of the time that probes may take."""

MOST_CANDIDATES = 5
"""That are judged: types alone, refined, with error feedback, with drift put back too, and the standard recipe."""

LEAST_SLOPE, MOST_SLOPE = 0.8, 1.3
"""Between which the power lies by which a cost goes with a squared error."""

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def grouped(names: Collection[str], together: int) -> Units:
    """Names of one role in ``together`` neighbouring layers, by the first of them; names that have no layer alone."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in names:
        match = _LAYER.match(name)
        found.setdefault((match[2], int(match[1]) // together) if match else (name, 0), []).append(name)
    return {members[0]: tuple(members) for members in found.values()}


@dataclass(frozen=True)
class Choices:
    """Types of all tensors, the names of those that are rounded with error feedback, and how the others are;
    ``repaired``: those of ``fed`` that are rounded anew (:mod:`app.quality.repair`)."""

    types: Mix
    fed: frozenset[str] = frozenset()
    refined: bool = False
    repaired: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """What a token takes: ``read`` weights by tensor, at ``pace``; ``limit`` seconds for all of them."""

    pace: Pace
    read: Mapping[str, float]
    limit: float

    def seconds(self, types: Mix) -> float:
        return sum(self.read[name] * self.pace.weight(kind) for name, kind in types.items())


class Work:
    """What is known while types are chosen: costs by unit and type."""

    def __init__(  # noqa: PLR0917 - the parts of one run, put together in one place
        self, command: FitTypes, encoder: Encoder, spool: Spool, engines: Engines, sample: Sample, told: Teller,
        standard: Mix, choices: Mapping[str, Sequence[str]], units: Units, known: KnownCosts,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._command = command
        self._encoder = encoder
        self._spool = spool
        self._engines = engines
        self._sample = sample
        self._told = told
        self.standard = standard
        self.units = units
        self.clock = clock
        self.known = known
        self.taken = 0
        self.before: Spread = {}
        self._choices = choices
        self._errors: dict[tuple[str, str], float] = {}
        self._found: dict[tuple[str, str], Spread] = {}
        self._measured: dict[tuple[str, str], Estimate] = {}
        self._costs: dict[tuple[str, str], float] = {}

    def amount(self, judge: Sample) -> int:
        """Windows that all steps take, about."""
        probes = round(PROBED_PART * PROBES_EACH * len(self.units))
        return self._sample.count * (1 + probes) + MOST_CANDIDATES * judge.count

    def begin(self) -> None:
        """Errors of all types, and the standard recipe's divergence."""
        self._told.say("Quantizing")
        pairs = [(name, kind) for name, kinds in self._choices.items() for kind in kinds]
        threads = self._command.threads or hardware.physical_cores()
        with ThreadPoolExecutor(threads, "encoders") as pool:
            self._errors = dict(zip(pairs, pool.map(lambda pair: self._encoder.error(*pair), pairs), strict=True))
        (self.before,) = self.divergences(self._sample, [Choices(self.standard)], "Measuring the standard recipe")

    @property
    def architecture(self) -> str:
        """Of the model, by its GGUF name."""
        return self._encoder.architecture

    def part(self, name: str, choices: Choices) -> Any:
        """A tensor as it is rounded in these choices."""
        if name in choices.repaired:
            return choices.repaired[name]
        kind = choices.types[name]
        fed = self._spool.get(name, kind) if name in choices.fed else None
        return fed or self._encoder.encoded(name, kind, refined=choices.refined)

    def divergences(
        self, sample: Sample, asked: Sequence[Choices], label: str, found: Callable[[int, Spread], None] | None = None,
        places: Sequence[Places | None] | None = None,
    ) -> list[Spread]:  # fmt: skip
        """The divergence by window of each; ``found`` hears of each as soon as it is known, in whatever thread.
        ``places``: the windows for each, None for all."""
        self._told.say(label)

        def one(place: int, choices: Choices, model: Model, grafts: Grafts) -> Spread:
            with grafts.replaced({name: self.part(name, choices) for name in choices.types}):
                by_window = sample.divergence(model, places[place] if places is not None else None)
            self._told.tick(spreads.windows(by_window))
            if found is not None:
                found(place, by_window)
            return by_window

        return self._engines.run([partial(one, place, each) for place, each in enumerate(asked)], lambda: None)

    # ---- costs -----------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Two types of each unit."""
        weights = sum(tensor.n_elements for tensor in self._encoder.tensors.values())
        bits = 8 * self._command.budget / weights
        self._measure([(unit, kind) for unit in self.units for kind in _probed(self._choices[unit], bits)])

    def chosen(self) -> Solution:
        """The solver's choice, once its types and those beside them were measured, and wholly where it is close."""
        found = self._solve()
        for _ in range(ROUNDS):
            near = [
                (unit, kind)
                for unit, choice in found.chosen.items()
                for kind in (choice.type, *_neighbours(self._choices[unit], choice.type))
                if (unit, kind) not in self._measured
            ]
            close = self._close(found)
            if not (near or close) or self._late():
                break
            self._measure(near)
            self._measure(close, whole=True)
            found = self._solve()
        return found

    def _close(self, found: Solution) -> list[tuple[str, str]]:
        """Types that were measured on a part of the windows, where their errors leave open which is the better one."""
        items = self._items()
        sizes = {item.name: {choice.type: choice.bytes for choice in item.choices} for item in items}
        worth = price(items, self._command.budget)
        close: dict[tuple[str, str], None] = {}
        for unit, choice in found.chosen.items():
            for other in _neighbours(self._choices[unit], choice.type):
                pairs = [(unit, choice.type), (unit, other)]
                if any(pair not in self._found for pair in pairs):
                    continue
                change = self._change(unit, choice.type, other)
                # With two budgets a byte alone has no price: then all that are near are looked at.
                margin = change.value + worth * (sizes[unit][other] - choice.bytes) if self.clock is None else 0.0
                if not margin > SURE * change.error:
                    close |= dict.fromkeys(pair for pair in pairs if spreads.missing(self._found[pair]))
        return list(close)

    def _late(self) -> bool:
        return 0 < 60 * PROBING * self._command.minutes <= self._told.spent

    def _measure(self, pairs: Sequence[tuple[str, str]], *, whole: bool = False) -> None:
        """On the windows that come first, or on the whole sample; what is known of them is not measured again."""
        wanted = {place[:2] for place in self._sample.places()} if whole else self._sample.first()
        before: dict[tuple[str, str], Spread] = {}
        asked: dict[tuple[str, str], Places] = {}
        for unit, kind in pairs:
            kept = self.known.get(self.units[unit], kind, list(self.before))
            lacking = wanted & spreads.missing(kept) if kept is not None else wanted
            if kept is not None:
                before[unit, kind] = kept
            if lacking:
                asked[unit, kind] = lacking
            elif kept is not None:
                self.taken += (unit, kind) not in self._found
                # No more than a run that knew nothing would look at: so both choose the same.
                self._take(unit, kind, spreads.only(kept, wanted))
            self._told.tick(len(wanted) - len(lacking))
        new = list(asked)
        found: dict[tuple[str, str], Spread] = {}

        def keep(place: int, by_window: Spread) -> None:
            unit, kind = pair = new[place]
            found[pair] = spreads.joined(before[pair], by_window) if pair in before else by_window
            self.known.put(self.units[unit], kind, found[pair])

        mixes = [self._all_fed({name: self._kind(name, kind) for name in self.units[unit]}) for unit, kind in new]
        try:
            self.divergences(self._sample, mixes, "Probing every tensor", keep, list(asked.values()))
        finally:
            self.known.save()
        for unit, kind in new:
            self._take(unit, kind, found[unit, kind])
        for unit in self.units:
            points = [
                (self._error(unit, kind), self._measured[unit, kind].value)
                for kind in self._choices[unit]
                if (unit, kind) in self._measured
            ]
            for kind in self._choices[unit]:
                known = self._measured.get((unit, kind))
                self._costs[unit, kind] = (
                    _interpolated(self._error(unit, kind), points) if known is None else known.value
                )

    def _take(self, unit: str, kind: str, by_window: Spread) -> None:
        self._found[unit, kind] = by_window
        self._measured[unit, kind] = spreads.relative(by_window, self.before)

    def _kind(self, name: str, kind: str) -> str:
        """A unit's type for one of its tensors, whose rows may not allow it."""
        return kind if kind in self._choices[name] else self._encoder.fitted(name, kind)

    def _error(self, unit: str, kind: str) -> float:
        """The sum of its tensors' relative squared errors."""
        return sum(self._errors.get((name, self._kind(name, kind)), 0.0) for name in self.units[unit])

    # ---- choices ---------------------------------------------------------------------------------------------

    def _items(self) -> list[Item]:
        return items(self._encoder, self._choices, self.units, self._costs, self.clock)

    def _solve(self) -> Solution:
        return solve(self._items(), self._command.budget, self.clock.limit if self.clock is not None else math.inf)

    def types(self, solution: Solution) -> dict[str, str]:
        """The type of each tensor."""
        found = {
            name: self._kind(name, choice.type) for unit, choice in solution.chosen.items() for name in self.units[unit]
        }
        return {name: found[name] for name in self.standard}

    def _all_fed(self, types: Mix) -> Choices:
        return Choices(types, frozenset(name for name, kind in types.items() if self._spool.get(name, kind)))

    def guarded(self, types: Choices) -> Choices:
        """With error feedback wherever it does not make a kind of text worse."""
        fed = self._all_fed(types.types)
        if not fed.fed:
            return types
        plain, other = ({name: self.part(name, each) for name in fed.fed} for each in (types, fed))

        def divergence(parts: Mapping[str, Part]) -> By:
            self._told.say("Guarding every kind of text")

            def one(model: Model, grafts: Grafts) -> By:
                rest = {name: self.part(name, types) for name in types.types if name not in parts}
                with grafts.replaced({**rest, **parts}):
                    return spreads.means(self._sample.divergence(model))

            (found,) = self._engines.run([one], lambda: self._told.tick(self._sample.count))
            return dict(found)

        return replace(types, fed=feedback.guard(plain, other, divergence).kept)

    @property
    def probes(self) -> int:
        return len(self._measured)

    def bytes(self, mix: Mix) -> int:
        return sum(self._encoder.bytes(name, kind) for name, kind in mix.items())

    def described(self, name: str, choices: Choices, found: Solution, *, kept: bool) -> FittedTensor:
        """A tensor of the result with its reason."""
        kind = choices.types[name]
        size = self._encoder.bytes(name, kind)
        if not kept:
            return FittedTensor(name, kind, size, 0.0, "as the standard recipe has it")
        unit = next(first for first, members in self.units.items() if name in members)
        here = found.chosen[unit].type
        cost = found.chosen[unit].cost / found.cost if found.cost else 0.0
        whole = self._measured.get((unit, here), Estimate(self._costs[unit, here], math.nan))
        reason = f"costs {_amount(whole, signed=False)} of the standard recipe's divergence"
        if (unit, here) not in self._measured:
            reason += " (not measured in this type)"
        reason += f", {cost:.1%} of the damage"
        if len(self.units[unit]) > 1:
            reason += f" in {len(self.units[unit])} layers that share a type"
        for other in _neighbours(self._choices[unit], here):
            more = sum(
                self._encoder.bytes(each, self._kind(each, other)) - self._encoder.bytes(each, self._kind(each, here))
                for each in self.units[unit]
            )
            reason += f"; {other} would {change_words(self._change(unit, here, other))} for {more:+,} bytes"
        return FittedTensor(name, kind, size, cost / len(self.units[unit]), reason, name in choices.fed)

    def _change(self, unit: str, here: str, other: str) -> Estimate:
        """What another type adds to the cost; where both are measured, with the error of the difference."""
        one, two = self._found.get((unit, other)), self._found.get((unit, here))
        if one is None or two is None:
            return Estimate(self._costs[unit, other] - self._costs[unit, here], math.nan)
        return spreads.relative(spreads.less(one, two), self.before)

    def told(self) -> tuple[TypeCost, ...]:
        """Every cost that was measured."""
        return tuple(
            TypeCost(
                self.units[unit], kind, cost.value, None if math.isnan(cost.error) else cost.error,
                spreads.windows(self._found[unit, kind]),
            )
            for (unit, kind), cost in sorted(self._measured.items())
        )  # fmt: skip


def choices_of(encoder: Encoder, floors: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The types that each tensor may have, the smallest first."""
    found = {}
    for name in encoder.tensors:
        floor = next((kind for pattern, kind in floors if re.search(pattern, name)), TYPES[0])
        kinds = TYPES[TYPES.index(floor) :]
        found[name] = list(dict.fromkeys(encoder.fitted(name, kind) for kind in kinds))
    return found


def items(
    encoder: Encoder,
    choices: Mapping[str, Sequence[str]],
    units: Units,
    costs: Mapping[tuple[str, str], float],
    clock: Clock | None = None,
) -> list[Item]:
    """What the solver takes; a cost that is not known counts as nothing."""

    def choice(unit: str, kind: str) -> Choice:
        types = {name: kind if kind in choices[name] else encoder.fitted(name, kind) for name in units[unit]}
        size = sum(encoder.bytes(name, each) for name, each in types.items())
        return Choice(kind, size, costs.get((unit, kind), 0.0), clock.seconds(types) if clock is not None else 0.0)

    return [Item(unit, tuple(choice(unit, kind) for kind in choices[unit])) for unit in units]


def _probed(kinds: Sequence[str], bits: float) -> list[str]:
    """Two types around the budget's bits a weight: one below, one above."""
    sizes = {"Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5}
    below = [kind for kind in kinds if sizes.get(kind, 4.5) <= bits]
    at = kinds.index(below[-1]) if below else 0
    low, high = max(0, min(at, len(kinds) - 3)), min(at + 2, len(kinds) - 1)
    return [kinds[low]] if low == high else [kinds[low], kinds[high]]


def _interpolated(error: float, points: Sequence[tuple[float, float]]) -> float:
    """The cost at a squared error from (squared error, cost) of types that were measured, by a power law.

    Between two of them the power is theirs; beyond all, that of the two which are nearest, within bounds.
    """
    tiny = np.finfo(np.float64).tiny
    known = sorted((max(at, tiny), max(cost, tiny)) for at, cost in points)
    error = max(error, tiny)
    above = next((number for number, (at, _) in enumerate(known) if at >= error), len(known))
    low, high = known[max(0, min(above - 1, len(known) - 2))], known[min(max(above, 1), len(known) - 1)]
    slope = 1.0
    if high[0] > low[0]:
        slope = math.log(high[1] / low[1]) / math.log(high[0] / low[0])
        slope = min(MOST_SLOPE, max(LEAST_SLOPE, slope))
    at, cost = low if error * error <= low[0] * high[0] else high
    return float(cost * (error / at) ** slope)


def _amount(cost: Estimate, *, signed: bool) -> str:
    """A cost in per cent with its standard error, as far as that is known."""
    value = abs(cost.value) if signed else cost.value
    error = "" if math.isnan(cost.error) else f" +- {_percent(cost.error)}"
    return ("" if error else "about ") + _percent(value) + error


def change_words(change: Estimate) -> str:
    """What another type would add or save of the standard recipe's divergence; plainly where that is not certain."""
    words = f"{'add' if change.value >= 0 else 'save'} {_amount(change, signed=True)}"
    return words + (", less than the error," if abs(change.value) < change.error else "")


def _percent(part: float) -> str:
    """With two digits that say something, to a thousandth of a per cent."""
    percent = 100 * part
    digits = 0 if percent >= 9.95 else 1 if percent >= 0.995 else 2 if percent >= 0.0995 else 3
    return f"{percent:.{digits}f}%"


def _neighbours(kinds: Sequence[str], kind: str) -> list[str]:
    at = kinds.index(kind)
    return [kinds[place] for place in (at - 1, at + 1) if 0 <= place < len(kinds)]


__all__ = [
    "MOST_CANDIDATES",
    "PROBED_PART",
    "PROBES_EACH",
    "PROBING",
    "Choices",
    "Clock",
    "Mix",
    "Units",
    "Work",
    "change_words",
    "choices_of",
    "grouped",
    "items",
]
