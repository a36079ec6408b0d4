"""Types for a size by measured damage: the least divergence that a budget of bytes allows.

Every tensor's cost is measured on the person's own machine: with grafts (:mod:`app.engine.grafts`) one tensor at a time
is computed as if it were quantized, at two types, and the divergence is taken by kind of text. Between and beyond the
two probes it goes with a power of the tensor's quantization error, which is close to linear (Malinovskii et al. 2024).
What is minimised is the sum over kinds of text of divergence / the standard recipe's divergence on it: else the text
with the largest divergence would decide alone. :func:`converter.fit.solve` then chooses.

The choice is refined where it stands: each tensor one type up and one type down, all others as chosen, since errors do
not quite add up. At last both the fitted types and the standard recipe are measured on texts that no step saw, again by
grafts; the better one is kept.
"""

from __future__ import annotations

import math
import queue
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import numpy as np

import kernels
from app import hardware, paths
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.fit_messages import JUDGING, TYPES, FitDomain, FitPlanned, FittedTensor, FitTypes
from app.protocol import Event, LoadOptions, Status
from app.quality import texts as texts_module
from app.quality.divergence import Rows, compare, first_scored, score, scored_per_window
from app.quality.encoded import Encoded
from app.quality.grading import SMALL_MODEL
from app.quality.lab import MAX_CONTEXT, MIN_CONTEXT
from converter import imatrix, open_model, recipes
from converter.encode import encode, energy, load
from converter.fit import Choice, Item, Solution, solve
from converter.sources.base import SourceModel, SourceTensor
from converter.spec import Cancelled, QuenchError

Mix = Mapping[str, str]
"""Type by tensor name."""

By = dict[str, float]
"""Mean divergence by text."""

KEPT_BYTES = 512 << 20
"""Encoded tensors that are kept to be used again."""

STATUS_SECONDS = 0.2
ROUNDS = 1
"""Times that the choice is refined."""

REFINE_BEFORE = 0.5
"""The part of the time after which a refinement is not begun any more: it takes as long as the probes."""

LEAST_SLOPE, MOST_SLOPE = 0.8, 1.3
"""Between which the power lies by which a cost goes with a squared error."""

LEAST_SHARE = 0.2
"""A tensor whose cost vanishes in the noise at the solution still counts with this part of its first measurement."""


class Encoder:
    """Tensors of a source in other types, made when they are asked for; and the error that each type makes."""

    def __init__(self, source: SourceModel, importance: imatrix.Imatrix | None) -> None:
        architecture = source.info.architecture
        self._importance = importance
        self._made: OrderedDict[tuple[str, str], Encoded] = OrderedDict()
        self._bytes = 0
        self.tensors = {
            tensor.name: tensor for tensor in source.tensors if not recipes.unquantizable(architecture, tensor)
        }

    def fitted(self, name: str, kind: str) -> str:
        """The type that this tensor's rows allow in place of ``kind``."""
        return recipes.fitting(kind, self.tensors[name].n_cols)

    def bytes(self, name: str, kind: str) -> int:
        tensor = self.tensors[name]
        return tensor.n_rows * kernels.row_bytes(kind, tensor.n_cols)

    def encoded(self, name: str, kind: str) -> Encoded:
        """The tensor in this type."""
        key = (name, kind)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        found = self._encode(self.tensors[name], kind)[0]
        self._made[key] = found
        self._bytes += found.data.nbytes
        while self._bytes > KEPT_BYTES and len(self._made) > 1:
            self._bytes -= self._made.popitem(last=False)[1].data.nbytes
        return found

    def error(self, name: str, kind: str) -> float:
        """sum w (x - y)^2 / sum w x^2 over the tensor, w its columns' importance."""
        return self._encode(self.tensors[name], kind)[1]

    def _encode(self, tensor: SourceTensor, kind: str) -> tuple[Encoded, float]:
        weights = self._importance.for_tensor(tensor.name, tensor.shape) if self._importance is not None else None
        stacks = tensor.n_rows // tensor.shape[-2] if len(tensor.shape) > 2 else 1
        rows = tensor.n_rows // stacks
        parts, away, whole = [], 0.0, 0.0
        for stack in range(stacks):
            importance = None if weights is None else np.ascontiguousarray(weights[min(stack, len(weights) - 1)])
            start = stack * rows
            slab = load(tensor, start, start + rows)
            errors, weighted, sums = (np.zeros(rows) for _ in range(3))
            energy(slab, importance, sums)
            blocks = encode(
                kind, slab, tensor, start, importance=importance, refined=False, errors=errors, weighted=weighted
            )
            parts.append(blocks)
            away += float((errors if importance is None else weighted).sum())
            whole += float(sums.sum())
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Encoded(tensor.name, tensor.shape, kind, data), away / whole if whole > 0 else 0.0


class _Engines:
    """The reference, loaded once where it uses all cores, else once a core; jobs are spread over them."""

    def __init__(self, models: Sequence[Model], stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._free: queue.SimpleQueue[tuple[Model, Grafts]] = queue.SimpleQueue()
        for model in models:
            self._free.put((model, Grafts(model)))
        self._count = len(models)

    def run(self, jobs: Sequence[Callable[[Model, Grafts], Any]], did: Callable[[], None]) -> list[Any]:
        """The results of ``jobs``, in order; ``did`` is called after each, in whatever thread."""

        def one(job: Callable[[Model, Grafts], Any]) -> Any:
            if self._stopped():
                raise Cancelled
            engine = self._free.get()
            try:
                return job(*engine)
            finally:
                self._free.put(engine)
                did()

        with ThreadPoolExecutor(self._count, "engines") as pool:
            return list(pool.map(one, jobs))


class _Sample:
    """Windows of several texts, and the reference's logits of them in a file without a name."""

    def __init__(self, windows: dict[str, list[tuple[int, ...]]], context: int, vocabulary: int) -> None:
        self.windows = windows
        self.count = sum(map(len, windows.values()))
        self._file = tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-")  # noqa: SIM115 - closed on leaving
        shape = (max(1, self.count), scored_per_window(context), vocabulary)
        self._kept = np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape)
        self._rows: dict[tuple[str, int], Rows] = {}

    def places(self) -> list[tuple[str, int, int]]:
        """(text, window of it, place among all)."""
        found = [(name, number) for name, windows in self.windows.items() for number in range(len(windows))]
        return [(name, number, place) for place, (name, number) in enumerate(found)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.clear()
        self._file.close()

    def keep(self, where: tuple[str, int, int], model: Model, grafts: Grafts) -> None:
        """Keep the reference's logits of one window."""
        name, number, place = where
        window = self.windows[name][number]
        first = first_scored(len(window))
        self._kept[place] = model.window_logits(window, first)[:-1]
        self._rows[name, number] = score(self._kept[place], window[first + 1 :], keep=False)

    def divergence(self, model: Model) -> By:
        """The mean KLD of the model as it is now, by text."""
        found = {}
        for name, windows in self.windows.items():
            values = []
            for number, window in enumerate(windows):
                logits = model.window_logits(window, first_scored(len(window)))[:-1]
                values.append(float(compare(self._rows[name, number], logits).kld.mean()))
            found[name] = float(np.mean(values))
        return found


class FitRun:
    """Runs one :class:`FitTypes`; arguments as of :class:`app.quality.lab.QualityRun`."""

    def __init__(
        self,
        command: FitTypes,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
        on_model: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self._command = command
        self._stopped = stopped
        self._on_model = on_model
        self._start = time.monotonic()
        self._told = _Teller(emit, stopped)
        check(command)

    def run(self) -> FitPlanned:
        """Choose, and judge the choice.

        Raises:
            QuenchError: a text or a file is bad; ``too_small`` (the budget), ``bad_options``, ``quantized_source``;
                what :class:`Grafts` raises.
            converter.spec.Cancelled: ``stopped`` became true, or a model was interrupted.
        """
        command = self._command
        importance = imatrix.read(command.imatrix) if command.imatrix else None
        texts, judges = texts_module.load(command.texts), texts_module.load(command.judges)
        models: list[Model] = []
        with open_model(command.reference) as source, ExitStack() as stack:
            _refuse_quantized(source)
            encoder = Encoder(source, importance)
            standard = _standard(source, encoder, command.standard, importance is not None)
            # Told before time goes into anything: the solver with nothing known refuses what cannot be.
            solve(_items(encoder, _choices(encoder, command.floors), {}), command.budget)
            self._load(models, stack)
            engines = _Engines(models, self._stopped)
            sample, judge = (stack.enter_context(self._sample(models[0], each)) for each in (texts, judges))
            work = _Work(command, encoder, engines, sample, self._told, standard)
            self._told.plan(work.amount(judge))
            for each in (sample, judge):
                self._told.say("Reading the reference")
                engines.run([partial(each.keep, where) for where in each.places()], self._told.tick)
            found = self._choose(work)
            return self._judged(work, judge, found)

    def _choose(self, work: _Work) -> Solution:
        work.begin()
        work.probe()
        found = work.solve()
        for _ in range(ROUNDS):
            if self._late():
                break
            work.refine(found)
            found = work.better(found, work.solve())
        return found

    def _judged(self, work: _Work, judge: _Sample, found: Solution) -> FitPlanned:
        """Both on texts that nothing has seen; the better one is kept."""
        mix, standard = _mix(found), work.standard
        fitted, usual = work.divergences(judge, [mix, standard], JUDGING)
        ratio = math.exp(float(np.mean([math.log(fitted[name] / usual[name]) for name in fitted])))
        # Below the smallest recipe there is only what was fitted.
        kept = ratio < 1.0 or work.bytes(standard) > self._command.budget
        shown = mix if kept else standard
        return FitPlanned(
            tensors=tuple(work.described(name, kind, found, kept=kept) for name, kind in shown.items()),
            bytes=work.bytes(shown),
            standard_bytes=work.bytes(standard),
            predicted=found.cost / len(work.before),
            ratio=ratio,
            gap=found.gap,
            domains=tuple(FitDomain(name, fitted[name], usual[name]) for name in fitted),
            kept=kept,
            seconds=time.monotonic() - self._start,
        )

    def _late(self) -> bool:
        limit = 60 * self._command.minutes
        return 0 < limit * REFINE_BEFORE <= time.monotonic() - self._start

    def _load(self, models: list[Model], stack: ExitStack) -> None:
        """Into ``models``; ``stack`` closes them."""
        command = self._command
        cores = command.threads or hardware.physical_cores()
        outputs = command.context - first_scored(command.context)
        options = LoadOptions(context=command.context, threads=cores)
        self._told.say("Loading the reference")
        while True:
            model = Model.load(command.reference, options, lambda _: not self._stopped(), outputs=outputs, repack=False)
            models.append(stack.enter_context(model))
            self._on_model(model)
            if model.memory().weights >= SMALL_MODEL or len(models) == cores:
                break
        if len(models) > 1:
            for model in models:
                model.set_threads(1)

    def _sample(self, model: Model, texts: Sequence[texts_module.Text]) -> _Sample:
        context = self._command.context
        windows = {}
        for text in texts:
            cut = texts_module.fair_order([texts_module.windows(text, model, context)])
            windows[text.name] = [window.tokens for window in cut[: self._command.windows]]
        return _Sample(windows, context, model.vocabulary)


class _Teller:
    """Progress, in windows that were computed."""

    def __init__(self, emit: Callable[[Event], None], stopped: Callable[[], bool]) -> None:
        self._emit = emit
        self._stopped = stopped
        self._start = time.monotonic()
        self._label = ""
        self._done, self._total = 0, 1
        self._next = 0.0
        self._lock = threading.Lock()

    def plan(self, total: int) -> None:
        self._total = max(1, total)
        self._start = time.monotonic()

    def say(self, label: str) -> None:
        if self._stopped():
            raise Cancelled
        self._label = label
        self.tick(0)

    def tick(self, windows: int = 1) -> None:
        """``windows`` more are done."""
        with self._lock:
            self._done = min(self._total, self._done + windows)
            now = time.monotonic()
            if windows and now < self._next:
                return
            self._next = now + STATUS_SECONDS
            spent = now - self._start
            left = spent / self._done * (self._total - self._done) if self._done > 4 else None
            self._emit(Status(self._label, self._done, self._total, left, hardware.anonymous_memory()))


class _Work:
    """What is known while types are chosen: costs by tensor and type, in parts of the standard recipe's divergence."""

    def __init__(  # noqa: PLR0917 - the parts of one run, put together in one place
        self, command: FitTypes, encoder: Encoder, engines: _Engines, sample: _Sample, told: _Teller, standard: Mix
    ) -> None:
        self._command = command
        self._encoder = encoder
        self._engines = engines
        self._sample = sample
        self._told = told
        self.standard = standard
        self.before: By = {}
        self._choices = _choices(encoder, command.floors)
        self._errors: dict[tuple[str, str], float] = {}
        self._costs: dict[tuple[str, str], float] = {}

    def amount(self, judge: _Sample) -> int:
        """Windows that all steps take, about."""
        mixes = 2 + 2 * len(self._choices) * (1 + ROUNDS)
        return self._sample.count * mixes + 3 * judge.count

    def begin(self) -> None:
        """Errors of all types, and the standard recipe's divergence."""
        self._told.say("Quantizing")
        pairs = [(name, kind) for name, kinds in self._choices.items() for kind in kinds]
        threads = self._command.threads or hardware.physical_cores()
        with ThreadPoolExecutor(threads, "encoders") as pool:
            self._errors = dict(zip(pairs, pool.map(lambda pair: self._encoder.error(*pair), pairs), strict=True))
        (self.before,) = self.divergences(self._sample, [self.standard], "Measuring the standard recipe")

    def divergences(self, sample: _Sample, mixes: Sequence[Mix], label: str) -> list[By]:
        """The mean divergence by text of each mix."""
        self._told.say(label)

        def one(mix: Mix, model: Model, grafts: Grafts) -> By:
            with grafts.replaced({name: self._encoder.encoded(name, kind) for name, kind in mix.items()}):
                return sample.divergence(model)

        return self._engines.run([partial(one, mix) for mix in mixes], lambda: self._told.tick(sample.count))

    def probe(self) -> None:
        """Costs from two types of each tensor that were measured."""
        weights = sum(tensor.n_elements for tensor in self._encoder.tensors.values())
        probes = {name: _probed(kinds, 8 * self._command.budget / weights) for name, kinds in self._choices.items()}
        asked = [(name, kind) for name, kinds in probes.items() for kind in kinds]
        found = self.divergences(self._sample, [{name: kind} for name, kind in asked], "Probing every tensor")
        measured = {pair: self._relative(by) for pair, by in zip(asked, found, strict=True)}
        for name, kinds in self._choices.items():
            points = [(self._errors[name, kind], measured[name, kind]) for kind in probes[name]]
            for kind in kinds:
                self._costs[name, kind] = _interpolated(self._errors[name, kind], points)

    def refine(self, chosen: Solution) -> None:
        """Costs as they are around a choice: one type up and one down for each tensor, all others as chosen."""
        mix = _mix(chosen)
        asked = [(name, kind) for name, kinds in self._choices.items() for kind in _neighbours(kinds, mix[name])]
        mixes = [mix, *({**mix, name: kind} for name, kind in asked)]
        here, *others = self.divergences(self._sample, mixes, "Refining the choice")
        steps: dict[str, dict[str, float]] = {name: {} for name in mix}
        for (name, kind), by in zip(asked, others, strict=True):
            steps[name][kind] = self._relative(by) - self._relative(here)
        for name, kinds in self._choices.items():
            before = {kind: self._costs[name, kind] for kind in kinds}
            errors = {kind: self._errors[name, kind] for kind in kinds}
            for kind, cost in _around(mix[name], steps[name], errors, before).items():
                self._costs[name, kind] = cost

    def better(self, one: Solution, other: Solution) -> Solution:
        """Of two choices the one that measures better."""
        if _mix(one) == _mix(other):
            return other
        found = self.divergences(self._sample, [_mix(one), _mix(other)], "Comparing two choices")
        return other if self._relative(found[1]) < self._relative(found[0]) else one

    def solve(self) -> Solution:
        return solve(_items(self._encoder, self._choices, self._costs), self._command.budget)

    def bytes(self, mix: Mix) -> int:
        return sum(self._encoder.bytes(name, kind) for name, kind in mix.items())

    def described(self, name: str, kind: str, found: Solution, *, kept: bool) -> FittedTensor:
        """A tensor of the result with its reason."""
        size = self._encoder.bytes(name, kind)
        if not kept:
            return FittedTensor(name, kind, size, 0.0, "as the standard recipe has it")
        cost = found.chosen[name].cost / found.cost if found.cost else 0.0
        reason = f"{cost:.1%} of the damage"
        for other in _neighbours(self._choices[name], kind):
            more = self._encoder.bytes(name, other) - size
            change = (self._costs[name, other] - self._costs[name, kind]) / found.cost if found.cost else 0.0
            reason += f"; {other} would {'add' if change >= 0 else 'save'} {abs(change):.1%} for {more:+,} bytes"
        return FittedTensor(name, kind, size, cost, reason)

    def _relative(self, by: By) -> float:
        """The sum over texts of divergence / the standard recipe's."""
        return sum(by[name] / self.before[name] for name in by)


def _mix(solution: Solution) -> dict[str, str]:
    return {name: choice.type for name, choice in solution.chosen.items()}


def _choices(encoder: Encoder, floors: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The types that each tensor may have, the smallest first."""
    found = {}
    for name in encoder.tensors:
        floor = next((kind for pattern, kind in floors if re.search(pattern, name)), TYPES[0])
        kinds = TYPES[TYPES.index(floor) :]
        found[name] = list(dict.fromkeys(encoder.fitted(name, kind) for kind in kinds))
    return found


def _items(
    encoder: Encoder, choices: Mapping[str, Sequence[str]], costs: Mapping[tuple[str, str], float]
) -> list[Item]:
    """What the solver takes; a cost that is not known counts as nothing."""
    return [
        Item(name, tuple(Choice(kind, encoder.bytes(name, kind), costs.get((name, kind), 0.0)) for kind in kinds))
        for name, kinds in choices.items()
    ]


def _probed(kinds: Sequence[str], bits: float) -> list[str]:
    """Two types around the budget's bits a weight: one below, one above."""
    sizes = {"Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5}
    below = [kind for kind in kinds if sizes.get(kind, 4.5) <= bits]
    at = kinds.index(below[-1]) if below else 0
    low, high = max(0, min(at, len(kinds) - 3)), min(at + 2, len(kinds) - 1)
    return [kinds[low]] if low == high else [kinds[low], kinds[high]]


def _interpolated(error: float, points: Sequence[tuple[float, float]]) -> float:
    """The cost at a squared error, from (squared error, cost) of types that were measured, by a power law."""
    tiny = np.finfo(np.float64).tiny
    known = sorted((max(at, tiny), max(cost, tiny)) for at, cost in points)
    (low, low_cost), (high, high_cost) = known[0], known[-1]
    slope = 1.0
    if high > low:
        slope = min(MOST_SLOPE, max(LEAST_SLOPE, math.log(high_cost / low_cost) / math.log(high / low)))
    at, cost = (low, low_cost) if error * error <= low * high else (high, high_cost)
    return float(cost * (max(error, tiny) / at) ** slope)


def _neighbours(kinds: Sequence[str], kind: str) -> list[str]:
    at = kinds.index(kind)
    return [kinds[place] for place in (at - 1, at + 1) if 0 <= place < len(kinds)]


def _around(
    kind: str, steps: Mapping[str, float], errors: Mapping[str, float], before: Mapping[str, float]
) -> dict[str, float]:
    """A tensor's costs again, from what a step to each neighbouring type has changed.

    The step's slope against the error gives the coefficient there, which goes on in proportion to the error for types
    that lie farther away; neighbours keep what was measured.
    """
    here = errors[kind]
    moves = [(errors[other] - here, change) for other, change in steps.items()]
    down = sum(move * move for move, _ in moves)
    slope = sum(move * change for move, change in moves) / down if down > 0 else 0.0
    slope = max(slope, LEAST_SHARE * before[kind] / here) if here > 0 else slope
    costs = {each: slope * errors[each] for each in before}
    for other, change in steps.items():
        costs[other] = max(costs[kind] + change, 0.0)
    return costs


def _standard(source: SourceModel, encoder: Encoder, recipe: str, importance: bool) -> dict[str, str]:
    """The types that the standard recipe gives the tensors that are chosen here."""
    overrides = recipes.Overrides(has_imatrix=importance)
    found = recipes.types(source.hparams, source.tensors, recipes.recipe(recipe), overrides, source.info.kind)
    kinds = {tensor.name: kind for tensor, (kind, _) in zip(source.tensors, found, strict=True)}
    return {name: kinds[name] for name in encoder.tensors}


def _refuse_quantized(source: SourceModel) -> None:
    odd = next((tensor for tensor in source.tensors if tensor.type not in recipes.PLAIN_TYPES), None)
    if odd is not None:
        raise QuenchError(
            "quantized_source",
            "The reference is quantized itself.",
            f"{odd.name} is {odd.type}.",
            "Give the original: a model folder, or a GGUF file in 16 or 32 bits.",
        )


def check(command: FitTypes) -> None:
    """Refuse a command that makes no sense; QuenchError with exit status 2."""
    problem = ""
    if not MIN_CONTEXT <= command.context <= MAX_CONTEXT or command.windows < 1 or command.minutes < 0:
        problem = f"{command.windows} windows of {command.context} tokens, {command.minutes:g} minutes."
    for pattern, kind in command.floors:
        try:
            re.compile(pattern)
        except re.error as error:
            problem = f"{pattern}: {error}"
        if kind not in TYPES:
            problem = f"{kind} is none of {', '.join(TYPES)}."
    if problem:
        raise QuenchError("bad_options", "This cannot be fitted.", problem, "", exit_status=2)


__all__ = ["Encoder", "FitRun", "check"]
