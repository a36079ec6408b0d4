"""Types for a size by measured damage: the least divergence that a budget of bytes allows.

Every tensor's cost is measured on the person's own machine: with grafts (:mod:`app.engine.grafts`) one tensor at a time
is computed as if it were quantized, at two types first, and the divergence is taken by kind of text. Between and beyond
what was measured it goes with a power of the tensor's quantization error, which is close to linear (Malinovskii et al.
2024). What is minimised is the sum over kinds of text of divergence / the standard recipe's divergence on it: else the
text with the largest divergence would decide alone. :func:`converter.fit.solve` then chooses; the types that it chose,
and those beside them, are measured too where they were not, and it chooses again. A measurement where all others are
as chosen was tried and gained nothing on unseen text: errors add up well enough.

In a large model a probe takes long. Tensors of one role in neighbouring layers then share a type and a probe, so many
of them that all probes fit into the time that is given.

With error feedback (:mod:`app.quality.feedback`) the tensors that are probed are those that it has rounded; the probes
are made on windows that it has not seen, and the guard takes it back where it does not help.

At last the fitted types and the standard recipe are measured on texts that no step saw, again by grafts; the better one
is kept.
"""

from __future__ import annotations

import math
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import gguf
import numpy as np

from app import hardware, paths
from app.engine.covariance import Covariances
from app.engine.grafts import Grafts, Part
from app.engine.model import Model
from app.fit_messages import JUDGING, TYPES, FitDomain, FitPlanned, FittedTensor, FitTypes
from app.protocol import Event, LoadOptions, Status
from app.quality import feedback
from app.quality import texts as texts_module
from app.quality.divergence import Rows, compare, first_scored, score, scored_per_window
from app.quality.encoding import Encoder, Spool
from app.quality.grading import SMALL_MODEL
from app.quality.lab import MAX_CONTEXT, MIN_CONTEXT
from converter import imatrix, open_model, recipes
from converter.fit import Choice, Item, Solution, solve
from converter.sources.base import SourceModel
from converter.spec import Cancelled, QuenchError

Mix = Mapping[str, str]
"""Type by tensor name."""

By = dict[str, float]
"""Mean divergence by text."""

Units = dict[str, tuple[str, ...]]
"""Tensors that share a type, by the name of the first."""

STATUS_SECONDS = 0.2

ROUNDS = 3
"""Times that types which were chosen without having been measured are measured, at most."""

PROBES_EACH = 4
"""Probes that a tensor takes in all, about: two at first, and what is chosen with its neighbours."""

PROBING = 0.6
"""The part of the time that probes may take."""

JUDGE_WINDOWS = 6
"""Of each text that the result is judged on, at most."""

MOST_CANDIDATES = 4
"""That are judged: types alone, refined, with error feedback, and the standard recipe."""

JUDGING_PART = 0.1
"""The part of the time that judging may take."""

LEAST_SLOPE, MOST_SLOPE = 0.8, 1.3
"""Between which the power lies by which a cost goes with a squared error."""

FEEDBACK_WINDOWS = 160
"""Of calibration text that error feedback takes its covariances from, over all texts. On Pocket 66 of 512 tokens were
as good as 130."""

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


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

    def __init__(self, windows: feedback.Windows, context: int, vocabulary: int) -> None:
        self.windows = windows
        self._file = tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-")  # noqa: SIM115 - closed on leaving
        shape = (max(1, self.count), scored_per_window(context), vocabulary)
        self._kept = np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape)
        self._rows: dict[tuple[str, int], Rows] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self.windows.values()))

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

    def forget_unknown(self) -> None:
        """Leave out texts that the reference does not know, such as languages that it never learned."""
        losses = {
            name: float(np.mean([self._rows[name, number].nll.mean() for number in range(len(windows))]))
            for name, windows in self.windows.items()
        }
        strange = feedback.unknown(losses)
        self.windows = {name: windows for name, windows in self.windows.items() if name not in strange}

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
        judges = texts_module.load(command.judges)
        models: list[Model] = []
        with open_model(command.reference) as source, ExitStack() as stack:
            _refuse_quantized(source)
            encoder = Encoder(source, importance)
            standard = _standard(source, encoder, command.standard, importance is not None)
            # Told before time goes into anything: the solver with nothing known refuses what cannot be.
            choices = _choices(encoder, command.floors)
            solve(_items(encoder, choices, {name: (name,) for name in choices}, {}), command.budget)
            self._load(models, stack)
            engines = _Engines(models, self._stopped)
            given = feedback.calibration(models[0], command.texts, command.context)
            sample = stack.enter_context(self._sample(models[0], given.held))
            self._told.plan(sample.count)
            pace = self._read(engines, sample)
            judge = stack.enter_context(self._judge(models[0], judges, pace))
            self._told.plan(judge.count)
            self._read(engines, judge)
            sample.forget_unknown()
            spool = stack.enter_context(Spool())
            if command.feedback:
                known = {name: given.windows[name] for name in sample.windows}
                self._feed(source, _fewer(known, FEEDBACK_WINDOWS), choices, spool)
            units = self._units(choices, pace * sample.count)
            work = _Work(command, encoder, spool, engines, sample, self._told, standard, choices, units)
            self._told.plan(work.amount(judge))
            work.begin()
            work.probe()
            return self._judged(work, judge, work.chosen())

    def _read(self, engines: _Engines, sample: _Sample) -> float:
        """The reference's logits; returns the seconds that a window took."""
        self._told.say("Reading the reference")
        begun = time.monotonic()
        engines.run([partial(sample.keep, where) for where in sample.places()], self._told.tick)
        return (time.monotonic() - begun) / sample.count

    def _judged(self, work: _Work, judge: _Sample, found: Solution) -> FitPlanned:
        """All on texts that nothing has seen; the best one is kept."""
        types, standard = Choices(work.types(found)), Choices(work.standard)
        candidates = [types]
        if self._command.refined:
            candidates.append(replace(types, refined=True))
        if self._command.feedback:
            candidates.append(work.guarded(types))
        *measured, usual = work.divergences(judge, [*candidates, standard], JUDGING)
        ratios = [_ratio(each, usual) for each in measured]
        best = min(range(len(candidates)), key=lambda number: (_worst(measured[number], usual) > 1.0, ratios[number]))
        # Below the smallest recipe there is only what was fitted.
        kept = ratios[best] < 1.0 or work.bytes(work.standard) > self._command.budget
        shown = candidates[best] if kept else standard
        if shown.fed:
            _write_blocks(Path(self._command.blocks), [work.part(name, shown) for name in sorted(shown.fed)])
        return FitPlanned(
            tensors=tuple(work.described(name, shown, found, kept=kept) for name in shown.types),
            bytes=work.bytes(shown.types),
            standard_bytes=work.bytes(standard.types),
            predicted=found.cost / len(work.before),
            ratio=ratios[best],
            types_ratio=ratios[0],
            gap=found.gap,
            domains=tuple(
                FitDomain(name, measured[best][name], usual[name], measured[0][name]) for name in measured[best]
            ),
            kept=kept,
            refined=shown.refined,
            shared=len(work.units) < len(work.standard),
            seconds=time.monotonic() - self._start,
        )

    def _units(self, choices: Mapping[str, Sequence[str]], seconds: float) -> Units:
        """Each tensor by itself, or as many layers together as the time asks for; a probe takes ``seconds``."""
        limit = 60 * PROBING * self._command.minutes
        layers = max((int(match[1]) + 1 for match in map(_LAYER.match, choices) if match), default=1)
        together = 1
        while True:
            units = _grouped(choices, together)
            if not limit or PROBES_EACH * len(units) * seconds <= limit or together >= layers:
                return units
            together *= 2

    def _feed(self, source: SourceModel, windows: feedback.Windows, choices: Mapping[str, Sequence[str]],
              spool: Spool) -> None:  # fmt: skip
        """All types of all tensors with error feedback, into the spool."""
        command = self._command
        self._told.say("Rounding with error feedback")
        covariances = Covariances()
        options = LoadOptions(context=command.context, threads=command.threads)
        with Model.load(
            command.reference, options, lambda _: not self._stopped(), repack=False, capture=covariances
        ) as model:
            self._on_model(model)
            encoder = feedback.FeedbackEncoder(
                model, covariances, source, windows,
                feedback.Options(threads=command.threads),
                stopped=self._stopped, ticked=self._told.note,
            )  # fmt: skip
            for part, _ in encoder.encode(choices):
                spool.put(part)

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

    def _judge(self, model: Model, texts: Sequence[texts_module.Text], pace: float) -> _Sample:
        """As many windows of each text as there is time for; ``pace`` in seconds a window."""
        limit = 60 * JUDGING_PART * self._command.minutes
        each = JUDGE_WINDOWS if not limit else int(limit / (MOST_CANDIDATES * len(texts) * pace))
        each = max(1, min(JUDGE_WINDOWS, each))
        windows = {}
        for text in texts:
            cut = texts_module.fair_order([texts_module.windows(text, model, self._command.context)])
            windows[text.name] = [window.tokens for window in cut[:each]]
        return _Sample(windows, self._command.context, model.vocabulary)

    def _sample(self, model: Model, windows: feedback.Windows) -> _Sample:
        fewer = {name: _spread(cut, self._command.windows) for name, cut in windows.items()}
        return _Sample(fewer, self._command.context, model.vocabulary)


def _spread(cut: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them, as evenly as can be; all where there are no more."""
    if len(cut) <= count:
        return list(cut)
    return [cut[(2 * number + 1) * len(cut) // (2 * count)] for number in range(count)]


def _fewer(windows: feedback.Windows, count: int) -> feedback.Windows:
    each = max(1, count // len(windows))
    return {name: _spread(cut, each) for name, cut in windows.items()}


def _grouped(names: Collection[str], together: int) -> Units:
    """Names of one role in ``together`` neighbouring layers, by the first of them; names that have no layer alone."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in names:
        match = _LAYER.match(name)
        found.setdefault((match[2], int(match[1]) // together) if match else (name, 0), []).append(name)
    return {members[0]: tuple(members) for members in found.values()}


class _Teller:
    """Progress, in windows that were computed."""

    def __init__(self, emit: Callable[[Event], None], stopped: Callable[[], bool]) -> None:
        self._emit = emit
        self._stopped = stopped
        self._began = self._start = time.monotonic()
        self._label = ""
        self._done, self._total = 0, 1
        self._next = 0.0
        self._lock = threading.Lock()

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def plan(self, total: int) -> None:
        """So many windows are to be computed from now on."""
        self._done, self._total = 0, max(1, total)
        self._start = time.monotonic()

    def say(self, label: str) -> None:
        if self._stopped():
            raise Cancelled
        self._label = label
        self.tick(0)

    def note(self, label: str) -> None:
        """What is done now, which is not measured in windows."""
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


@dataclass(frozen=True)
class Choices:
    """Types of all tensors, the names of those that are rounded with error feedback, and how the others are."""

    types: Mix
    fed: frozenset[str] = frozenset()
    refined: bool = False


class _Work:
    """What is known while types are chosen: costs by unit and type, in parts of the standard recipe's divergence."""

    def __init__(  # noqa: PLR0917 - the parts of one run, put together in one place
        self, command: FitTypes, encoder: Encoder, spool: Spool, engines: _Engines, sample: _Sample, told: _Teller,
        standard: Mix, choices: Mapping[str, Sequence[str]], units: Units,
    ) -> None:  # fmt: skip
        self._command = command
        self._encoder = encoder
        self._spool = spool
        self._engines = engines
        self._sample = sample
        self._told = told
        self.standard = standard
        self.units = units
        self.before: By = {}
        self._choices = choices
        self._errors: dict[tuple[str, str], float] = {}
        self._measured: dict[tuple[str, str], float] = {}
        self._costs: dict[tuple[str, str], float] = {}

    def amount(self, judge: _Sample) -> int:
        """Windows that all steps take, about."""
        return self._sample.count * (1 + PROBES_EACH * len(self.units)) + MOST_CANDIDATES * judge.count

    def begin(self) -> None:
        """Errors of all types, and the standard recipe's divergence."""
        self._told.say("Quantizing")
        pairs = [(name, kind) for name, kinds in self._choices.items() for kind in kinds]
        threads = self._command.threads or hardware.physical_cores()
        with ThreadPoolExecutor(threads, "encoders") as pool:
            self._errors = dict(zip(pairs, pool.map(lambda pair: self._encoder.error(*pair), pairs), strict=True))
        (self.before,) = self.divergences(self._sample, [Choices(self.standard)], "Measuring the standard recipe")

    def part(self, name: str, choices: Choices) -> Any:
        """A tensor as it is rounded in these choices."""
        kind = choices.types[name]
        fed = self._spool.get(name, kind) if name in choices.fed else None
        return fed or self._encoder.encoded(name, kind, refined=choices.refined)

    def divergences(self, sample: _Sample, asked: Sequence[Choices], label: str) -> list[By]:
        """The mean divergence by text of each."""
        self._told.say(label)

        def one(choices: Choices, model: Model, grafts: Grafts) -> By:
            with grafts.replaced({name: self.part(name, choices) for name in choices.types}):
                return sample.divergence(model)

        return self._engines.run([partial(one, each) for each in asked], lambda: self._told.tick(sample.count))

    # ---- costs -----------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Two types of each unit."""
        weights = sum(tensor.n_elements for tensor in self._encoder.tensors.values())
        bits = 8 * self._command.budget / weights
        self._measure([(unit, kind) for unit in self.units for kind in _probed(self._choices[unit], bits)])

    def chosen(self) -> Solution:
        """The solver's choice, once its types and those beside them were measured."""
        found = self._solve()
        for _ in range(ROUNDS):
            near = [
                (unit, kind)
                for unit, choice in found.chosen.items()
                for kind in (choice.type, *_neighbours(self._choices[unit], choice.type))
                if (unit, kind) not in self._measured
            ]
            if not near or self._late():
                break
            self._measure(near)
            found = self._solve()
        return found

    def _late(self) -> bool:
        return 0 < 60 * PROBING * self._command.minutes <= self._told.spent

    def _measure(self, pairs: Sequence[tuple[str, str]]) -> None:
        asked = [self._all_fed({name: self._kind(name, kind) for name in self.units[unit]}) for unit, kind in pairs]
        found = self.divergences(self._sample, asked, "Probing every tensor")
        self._measured |= {pair: self._relative(by) for pair, by in zip(pairs, found, strict=True)}
        for unit in self.units:
            points = [
                (self._error(unit, kind), self._measured[unit, kind])
                for kind in self._choices[unit]
                if (unit, kind) in self._measured
            ]
            for kind in self._choices[unit]:
                known = self._measured.get((unit, kind))
                self._costs[unit, kind] = _interpolated(self._error(unit, kind), points) if known is None else known

    def _kind(self, name: str, kind: str) -> str:
        """A unit's type for one of its tensors, whose rows may not allow it."""
        return kind if kind in self._choices[name] else self._encoder.fitted(name, kind)

    def _error(self, unit: str, kind: str) -> float:
        """The sum of its tensors' relative squared errors."""
        return sum(self._errors.get((name, self._kind(name, kind)), 0.0) for name in self.units[unit])

    def _relative(self, by: By) -> float:
        """The sum over texts of divergence / the standard recipe's."""
        return sum(by[name] / self.before[name] for name in by)

    # ---- choices ---------------------------------------------------------------------------------------------

    def _solve(self) -> Solution:
        return solve(_items(self._encoder, self._choices, self.units, self._costs), self._command.budget)

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
                    return self._sample.divergence(model)

            (found,) = self._engines.run([one], lambda: self._told.tick(self._sample.count))
            return dict(found)

        return replace(types, fed=feedback.guard(plain, other, divergence).kept)

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
        shared = f" in {len(self.units[unit])} layers that share a type" if len(self.units[unit]) > 1 else ""
        reason = f"{cost:.1%} of the damage{shared}"
        for other in _neighbours(self._choices[unit], here):
            more = sum(
                self._encoder.bytes(each, self._kind(each, other)) - self._encoder.bytes(each, self._kind(each, here))
                for each in self.units[unit]
            )
            change = (self._costs[unit, other] - self._costs[unit, here]) / found.cost if found.cost else 0.0
            reason += f"; {other} would {'add' if change >= 0 else 'save'} {abs(change):.1%} for {more:+,} bytes"
        return FittedTensor(name, kind, size, cost / len(self.units[unit]), reason, name in choices.fed)


def _ratio(one: By, other: By) -> float:
    """The geometric mean over texts."""
    return math.exp(float(np.mean([math.log(one[name] / other[name]) for name in one])))


def _worst(one: By, other: By) -> float:
    return max(one[name] / other[name] for name in one)


def _write_blocks(path: Path, parts: Sequence[Any]) -> None:
    """Tensors as a GGUF file that a conversion takes them from."""
    writer = gguf.GGUFWriter(path, "llama")
    for part in parts:
        writer.add_tensor(part.name, np.ascontiguousarray(part.data), raw_dtype=gguf.GGMLQuantizationType[part.type])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise QuenchError(
            "write_failed", "The fitted tensors could not be kept.", f"{path}: {error.strerror or error}.",
            "Free some space.", exit_status=4,
        ) from error  # fmt: skip
    finally:
        writer.close()


def _choices(encoder: Encoder, floors: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The types that each tensor may have, the smallest first."""
    found = {}
    for name in encoder.tensors:
        floor = next((kind for pattern, kind in floors if re.search(pattern, name)), TYPES[0])
        kinds = TYPES[TYPES.index(floor) :]
        found[name] = list(dict.fromkeys(encoder.fitted(name, kind) for kind in kinds))
    return found


def _items(
    encoder: Encoder,
    choices: Mapping[str, Sequence[str]],
    units: Units,
    costs: Mapping[tuple[str, str], float],
) -> list[Item]:
    """What the solver takes; a cost that is not known counts as nothing."""

    def size(unit: str, kind: str) -> int:
        return sum(
            encoder.bytes(name, kind if kind in choices[name] else encoder.fitted(name, kind)) for name in units[unit]
        )

    return [
        Item(unit, tuple(Choice(kind, size(unit, kind), costs.get((unit, kind), 0.0)) for kind in choices[unit]))
        for unit in units
    ]


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


def _neighbours(kinds: Sequence[str], kind: str) -> list[str]:
    at = kinds.index(kind)
    return [kinds[place] for place in (at - 1, at + 1) if 0 <= place < len(kinds)]


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
    if command.feedback and not command.blocks:
        problem = "Error feedback needs a file for its tensors."
    if problem:
        raise QuenchError("bad_options", "This cannot be fitted.", problem, "", exit_status=2)


__all__ = ["FitRun", "check"]
