"""Types for a size by measured damage: the least divergence that a budget of bytes allows.

Every tensor's cost is measured on the person's own machine: with grafts (:mod:`app.engine.grafts`) one tensor at a time
is computed as if it were quantized, at two types first, and the divergence is taken by kind of text. Between and beyond
what was measured it goes with a power of the tensor's quantization error, which is close to linear (Malinovskii et al.
2024). What is minimised is the sum over kinds of text of divergence / the standard recipe's divergence on it: else the
text with the largest divergence would decide alone. :func:`converter.fit.solve` then chooses; the types that it chose,
and those beside them, are measured too where they were not, and it chooses again. A probe takes half of the windows
first, and the rest where, by its error over windows (:mod:`app.quality.spreads`), another type could be the better one.
A measurement where all others are as chosen was tried and gained nothing on unseen text: errors add up well enough.

In a large model a probe takes long. Tensors of one role in neighbouring layers then share a type and a probe, so many
of them that all probes fit into the time that is given.

With error feedback (:mod:`app.quality.feedback`) the tensors that are probed are those that it has rounded; the probes
are made on windows that it has not seen, and the guard takes it back where it does not help. When the types are chosen,
some tensors are rounded once more so that they put back what those before them have moved (:mod:`app.quality.repair`).

At last the fitted types and the standard recipe are measured on texts that no step saw, again by grafts; the better one
is kept.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np

from app import fit_speed, hardware
from app.engine.covariance import Covariances
from app.engine.model import Model
from app.engine.residual import Residual
from app.fit_messages import JUDGING, STANDARDS, TYPES, FitDomain, FitPlanned, FitTypes
from app.protocol import Event, LoadOptions
from app.quality import feedback, known_costs, pace, spreads
from app.quality import texts as texts_module
from app.quality.divergence import first_scored
from app.quality.encoding import Encoder, Spool
from app.quality.fit_costs import (
    MOST_CANDIDATES,
    PROBED_PART,
    PROBES_EACH,
    PROBING,
    Choices,
    Clock,
    Units,
    Work,
    choices_of,
    grouped,
    items,
)
from app.quality.fit_engines import By, Engines, Sample, Teller
from app.quality.grading import SMALL_MODEL
from app.quality.limits import MAX_CONTEXT, MIN_CONTEXT
from app.quality.repair import Repair, stages
from converter import imatrix, open_model, recipes
from converter.fit import Solution, quickest, solve
from converter.sources.base import SourceModel
from converter.spec import Cancelled, QuenchError

JUDGE_WINDOWS = 6
"""Of each text that the result is judged on, at most."""

JUDGING_PART = 0.1
"""The part of the time that judging may take."""

FEEDBACK_WINDOWS = 160
"""Of calibration text that error feedback takes its covariances from, over all texts. On Pocket 66 of 512 tokens were
as good as 130."""

REPAIRING_UNTIL = 0.8
"""The part of the time after which no repair begins."""

_LAYER_NUMBER = re.compile(r"blk\.(\d+)\.")


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
        self._told = Teller(emit, stopped)
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
            # Told before time goes into anything: the solver with nothing known refuses what cannot be.
            choices = choices_of(encoder, command.floors)
            solve(items(encoder, choices, _alone(choices), {}), command.budget)
            self._load(models, stack)
            engines = Engines(models, self._stopped)
            clock = self._clock(engines, source, encoder, choices) if command.speed else None
            recipe, standard = self._measure_of(source, encoder, clock, importance=importance is not None)
            given = feedback.calibration(models[0], command.texts, command.context)
            sample = stack.enter_context(self._sample(models[0], given.held))
            self._told.plan(sample.count)
            window = self._read(engines, sample)
            judge = stack.enter_context(self._judge(models[0], judges, window))
            self._told.plan(judge.count)
            self._read(engines, judge)
            sample.forget_unknown()
            spool, repaired = (stack.enter_context(Spool()) for _ in range(2))
            known = _fewer({name: given.windows[name] for name in sample.windows}, FEEDBACK_WINDOWS)
            if command.feedback:
                self._feed(source, known, choices, spool)
            units = self._units(choices, window * sample.count)
            origin = known_costs.origin(command.reference, sample.windows, command.imatrix, feedback=command.feedback)
            costs = known_costs.KnownCosts(command.costs, origin, strict=command.named)
            work = Work(command, encoder, spool, engines, sample, self._told, standard, choices, units, costs, clock)
            repairing = command.feedback * sum(map(len, known.values())) * (1 + len(stages(choices)))
            self._told.plan(work.amount(judge) + repairing)
            work.begin()
            work.probe()
            planned = self._judged(work, judge, work.chosen(), partial(self._repaired, work, source, known, repaired))
            return msgspec.structs.replace(planned, standard=recipe, **self._timed(work, engines, planned))

    def _clock(
        self, engines: Engines, source: SourceModel, encoder: Encoder, choices: Mapping[str, Sequence[str]]
    ) -> Clock:
        """What types take here. QuenchError ``too_slow`` where no choice is as fast as it must be."""
        command = self._command
        self._told.say("Measuring how fast each type is")
        read = fit_speed.weights_read(source.info, encoder.tensors.values())

        def job(model: Model, grafts: Any) -> fit_speed.Pace:
            return pace.measure(model, grafts, encoder.tensors, read, command.threads, self._go_on)

        (found,) = engines.run([job], lambda: None)
        fit_speed.learn(source.info, found)
        rest = fit_speed.cache_seconds(source.info, command.cached, command.kv_type)
        clock = Clock(found, read, 1 / command.speed - rest)
        fastest = quickest(items(encoder, choices, _alone(choices), {}, clock), command.budget)
        if fastest.seconds > clock.limit:
            raise fit_speed.too_slow(command.speed, 1 / (fastest.seconds + rest), command.cached)
        return clock

    def _go_on(self) -> None:
        if self._stopped():
            raise Cancelled

    def _measure_of(
        self, source: SourceModel, encoder: Encoder, clock: Clock | None, *, importance: bool
    ) -> tuple[str, dict[str, str]]:
        """The recipe to beat and its types: what was asked for, or the largest within both budgets."""
        command = self._command
        asked = _standard(source, encoder, command.standard, importance)
        if clock is None or clock.seconds(asked) <= clock.limit:
            return command.standard, asked
        for name in reversed(STANDARDS):
            types = _standard(source, encoder, name, importance)
            size = sum(encoder.bytes(tensor, kind) for tensor, kind in types.items())
            if size <= command.budget and clock.seconds(types) <= clock.limit:
                return name, types
        return command.standard, asked

    def _timed(self, work: Work, engines: Engines, planned: FitPlanned) -> dict[str, Any]:
        """Of what was chosen the speed as it was planned, and as it is."""
        clock = work.clock
        if clock is None:
            return {}
        self._told.say("Measuring the speed")
        types = {tensor.name: tensor.type for tensor in planned.tensors}
        parts = {name: work.part(name, Choices(types)) for name in types}

        def job(model: Model, grafts: Any) -> float:
            with grafts.replaced(parts):
                return pace.rate(model, clock.pace.threads, self._go_on)

        (rate,) = engines.run([job], lambda: None)
        rest = 1 / self._command.speed - clock.limit
        return {
            "speed": 1 / (1 / rate + rest),
            "speed_predicted": 1 / (clock.seconds(types) + rest),
            "speed_threads": clock.pace.threads,
        }

    def _read(self, engines: Engines, sample: Sample) -> float:
        """The reference's logits; returns the seconds that a window took."""
        self._told.say("Reading the reference")
        begun = time.monotonic()
        engines.run([partial(sample.keep, where) for where in sample.places()], self._told.tick)
        return (time.monotonic() - begun) / sample.count

    def _judged(
        self, work: Work, judge: Sample, found: Solution, repaired: Callable[[Choices], list[Choices]]
    ) -> FitPlanned:
        """All on texts that nothing has seen; the best one is kept."""
        types, standard = Choices(work.types(found)), Choices(work.standard)
        candidates = [types]
        if self._command.refined:
            candidates.append(replace(types, refined=True))
        if self._command.feedback:
            fed = work.guarded(types)
            candidates += [fed, *repaired(fed)]
        *measured, usual = map(spreads.means, work.divergences(judge, [*candidates, standard], JUDGING))
        ratios = [_ratio(each, usual) for each in measured]
        best = min(range(len(candidates)), key=lambda number: (_worst(measured[number], usual) > 1.0, ratios[number]))
        # Below the smallest recipe, or above the fastest one, there is only what was fitted.
        late = work.clock is not None and work.clock.seconds(work.standard) > work.clock.limit
        kept = ratios[best] < 1.0 or late or work.bytes(work.standard) > self._command.budget
        shown = candidates[best] if kept else standard
        if shown.fed:
            parts = [work.part(name, shown) for name in sorted(shown.fed)]
            _write_blocks(Path(self._command.blocks), work.architecture, parts)
        return FitPlanned(
            tensors=tuple(work.described(name, shown, found, kept=kept) for name in shown.types),
            bytes=work.bytes(shown.types),
            standard_bytes=work.bytes(standard.types),
            predicted=found.cost,
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
            decided=found.decided if work.clock is not None else "",
            probes=work.probes,
            probes_known=work.taken,
            costs=work.told(),
            repaired=len(shown.repaired),
        )

    def _units(self, choices: Mapping[str, Sequence[str]], seconds: float) -> Units:
        """Each tensor by itself, or as many layers together as the time asks for; a probe takes ``seconds``."""
        limit = 60 * PROBING * self._command.minutes
        layers = max((int(match[1]) + 1 for match in map(_LAYER_NUMBER.match, choices) if match), default=1)
        together = 1
        while True:
            units = grouped(choices, together)
            probes = PROBED_PART * PROBES_EACH * len(units)
            if not limit or probes * seconds <= limit or together >= layers:
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

    def _repaired(
        self, work: Work, source: SourceModel, windows: feedback.Windows, spool: Spool, fed: Choices
    ) -> list[Choices]:
        """The same with drift put back, by tensors in the ``spool``; none where nothing can, or there is no time."""
        late = 0 < 60 * REPAIRING_UNTIL * self._command.minutes <= self._told.spent
        if late or not stages(fed.fed):
            return []
        watched: list[Residual] = []
        models: list[Model] = []
        parts = {name: work.part(name, fed) for name in fed.types}
        with ExitStack() as stack:
            self._load(models, stack, watched)
            self._told.say("Putting back what has moved")
            repair = Repair(list(zip(models, watched, strict=True)), source, windows, self._stopped, self._told.tick)
            for part in repair.run(parts, fed.fed):
                spool.put(part)
        found = {name: put for name, kind in fed.types.items() if (put := spool.get(name, kind)) is not None}
        return [replace(fed, repaired=found)] if found else []

    def _load(self, models: list[Model], stack: ExitStack, watched: list[Residual] | None = None) -> None:
        """Into ``models``; ``stack`` closes them. Each with what it is ``watched`` by, where that is asked for."""
        command = self._command
        cores = command.threads or hardware.physical_cores()
        outputs = 0 if watched is not None else command.context - first_scored(command.context)
        options = LoadOptions(context=command.context, threads=cores)
        self._told.say("Loading the reference")
        while True:
            residual = None if watched is None else Residual()
            if watched is not None and residual is not None:
                watched.append(residual)
            model = Model.load(
                command.reference, options, lambda _: not self._stopped(),
                outputs=outputs, repack=False, capture=residual,
            )  # fmt: skip
            models.append(stack.enter_context(model))
            self._on_model(model)
            if model.memory().weights >= SMALL_MODEL or len(models) == cores:
                break
        if len(models) > 1:
            for model in models:
                model.set_threads(1)

    def _judge(self, model: Model, texts: Sequence[texts_module.Text], pace: float) -> Sample:
        """As many windows of each text as there is time for; ``pace`` in seconds a window."""
        limit = 60 * JUDGING_PART * self._command.minutes
        each = JUDGE_WINDOWS if not limit else int(limit / (MOST_CANDIDATES * len(texts) * pace))
        each = max(1, min(JUDGE_WINDOWS, each))
        windows = {}
        for text in texts:
            cut = texts_module.fair_order([texts_module.windows(text, model, self._command.context)])
            windows[text.name] = [window.tokens for window in cut[:each]]
        return Sample(windows, self._command.context, model.vocabulary)

    def _sample(self, model: Model, windows: feedback.Windows) -> Sample:
        fewer = {name: spread(cut, self._command.windows) for name, cut in windows.items()}
        return Sample(fewer, self._command.context, model.vocabulary)


def _alone(choices: Mapping[str, Sequence[str]]) -> Units:
    return {name: (name,) for name in choices}


def spread(cut: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them, as evenly as can be; all where there are no more."""
    if len(cut) <= count:
        return list(cut)
    return [cut[(2 * number + 1) * len(cut) // (2 * count)] for number in range(count)]


def _fewer(windows: feedback.Windows, count: int) -> feedback.Windows:
    each = max(1, count // len(windows))
    return {name: spread(cut, each) for name, cut in windows.items()}


def _ratio(one: By, other: By) -> float:
    """The geometric mean over texts."""
    return math.exp(float(np.mean([math.log(one[name] / other[name]) for name in one])))


def _worst(one: By, other: By) -> float:
    return max(one[name] / other[name] for name in one)


def _write_blocks(path: Path, architecture: str, parts: Sequence[Any]) -> None:
    """Tensors as a GGUF file that a conversion takes them from."""
    writer = gguf.GGUFWriter(path, architecture)
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
    if not (0 <= command.speed < math.inf and command.cached >= 0):
        problem = f"{command.speed:g} tokens a second with {command.cached} in the cache."
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
