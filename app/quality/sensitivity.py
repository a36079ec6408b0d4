"""What each tensor costs: the divergence of a reference with one tensor at a time as a candidate has it.

The reference is loaded once. Each tensor is grafted in from the candidate's file (:mod:`app.engine.grafts`): the engine
computes with it exactly as it would after loading a file of this mixture. All tensors are scored on two windows first;
further windows go where the standard error is largest, until all have all of them or the time is up: what costs next to
nothing is known soon. The same windows in the same order for all, so that costs can be set against each other.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from app import hardware, library, paths
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.measure_messages import Estimate, MeasureSensitivity, SensitivityResult, SensitivityUpdate, TensorCost
from app.protocol import Event, LoadOptions, Status
from app.quality import texts as texts_module
from app.quality.divergence import Rows, cluster_starts, compare, first_scored, mean_estimate, score, scored_per_window
from app.quality.limits import MAX_CONTEXT, MIN_CONTEXT
from app.quality.subject import Vocabulary, read_header
from converter import open_model
from converter.identity import content_id
from converter.sources.base import SourceModel, SourceTensor
from converter.spec import Cancelled, QuenchError

Floats = npt.NDArray[np.float64]

FIRST_WINDOWS = 2
SAMPLED = 1 << 20
"""Weights of a tensor from which its error is estimated."""

STATUS_SECONDS = 0.2


class _Probe:
    """One tensor and the KLD of its scored tokens, window by window."""

    def __init__(self, own: SourceTensor, other: SourceTensor) -> None:
        self.name = other.name
        self.own, self.other = own, other
        self.values: list[Floats] = []
        self.error = relative_error(own, other)

    def estimate(self) -> Estimate:
        return mean_estimate(np.concatenate(self.values), cluster_starts([len(values) for values in self.values]))

    def cost(self) -> TensorCost:
        return TensorCost(
            name=self.name,
            type=self.other.type,
            reference_type=self.own.type,
            bytes=self.other.n_bytes,
            reference_bytes=self.own.n_bytes,
            kld=self.estimate(),
            windows=len(self.values),
            error=self.error,
        )


class SensitivityRun:
    """Runs one :class:`MeasureSensitivity`; arguments as of :class:`app.quality.lab.QualityRun`."""

    def __init__(
        self,
        command: MeasureSensitivity,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
        on_model: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self._command = command
        self._emit = emit
        self._stopped = stopped
        self._on_model = on_model
        self._start = time.monotonic()
        self._done = 0
        self._total = 1
        self._next_status = 0.0
        check(command)

    def run(self) -> SensitivityResult:
        """Measure.

        Raises:
            QuenchError: a text or a file is bad; ``other_vocabulary``, ``other_model`` where the two are not of one
                model; ``nothing_differs``; what :class:`app.engine.grafts.Grafts` raises.
            converter.spec.Cancelled: ``stopped`` became true, or the model was interrupted.
        """
        texts = texts_module.load(self._command.texts)
        for path in (self._command.reference, self._command.candidate):
            read_header(path)
        with open_model(self._command.reference) as own, open_model(self._command.candidate) as other:
            probes = _probes(own, other)
            options = LoadOptions(
                context=self._command.context, threads=self._command.threads or hardware.physical_cores()
            )
            outputs = self._command.context - first_scored(self._command.context)
            with Model.load(
                self._command.reference, options, lambda _: not self._stopped(), outputs=outputs, repack=False
            ) as model:
                self._on_model(model)
                self._check_vocabulary(model)
                return self._measure(model, probes, texts, library.type_label(other.info))

    def _measure(
        self, model: Model, probes: list[_Probe], texts: Sequence[texts_module.Text], kind: str
    ) -> SensitivityResult:
        command = self._command
        groups = [texts_module.windows(text, model, command.context, command.chunks) for text in texts]
        windows = [window.tokens for window in texts_module.fair_order(groups)]
        self._total = len(windows) * (len(probes) + 2)
        grafts = Grafts(model)
        probes = [probe for probe in probes if probe.name in grafts.shapes]
        with tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-") as file:
            shape = (len(windows), scored_per_window(command.context), model.vocabulary)
            kept = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
            scorer = _Scorer(model, windows, kept)
            for place in range(len(windows)):
                self._step("reading the reference")
                scorer.keep(place)
            whole = self._whole(grafts, scorer, probes)
            self._rounds(grafts, scorer, probes)
        return SensitivityResult(
            reference=command.reference,
            candidate=command.candidate,
            type=kind,
            costs=tuple(sorted((probe.cost() for probe in probes), key=lambda cost: -cost.kld.value)),
            whole=whole,
            windows=len(windows),
            context=command.context,
            texts=tuple(text.name for text in texts),
            seconds=time.monotonic() - self._start,
            content=content_id(command.candidate),
        )

    def _whole(self, grafts: Grafts, scorer: _Scorer, probes: Sequence[_Probe]) -> Estimate:
        values = []
        with grafts.replaced({probe.name: probe.other for probe in probes}):
            for place in range(len(scorer.windows)):
                self._step("all tensors together")
                values.append(scorer.divergence(place))
        return mean_estimate(np.concatenate(values), cluster_starts([len(each) for each in values]))

    def _rounds(self, grafts: Grafts, scorer: _Scorer, probes: Sequence[_Probe]) -> None:
        limit = self._start + 60 * self._command.minutes if self._command.minutes else math.inf
        first = min(FIRST_WINDOWS, len(scorer.windows))
        waiting = list(probes)
        while waiting:
            probe = _next(waiting, first)
            if len(probe.values) >= first and time.monotonic() >= limit:
                return
            self._step(probe.name)
            with grafts.replaced({probe.name: probe.other}):
                probe.values.append(scorer.divergence(len(probe.values)))
            if len(probe.values) >= first:
                self._emit(SensitivityUpdate(probe.cost()))
            if len(probe.values) == len(scorer.windows):
                waiting.remove(probe)

    def _check_vocabulary(self, model: Model) -> None:
        own = Vocabulary.of(model)
        with Model.load(
            self._command.candidate, LoadOptions(context=32, threads=1), lambda _: not self._stopped(), repack=False
        ) as other:
            own.check(other, self._command.candidate)

    def _step(self, label: str) -> None:
        if self._stopped():
            raise Cancelled
        self._done += 1
        now = time.monotonic()
        if now >= self._next_status:
            self._next_status = now + STATUS_SECONDS
            spent = now - self._start
            left = spent / self._done * (self._total - self._done) if self._done > 4 else None
            if left is not None and self._command.minutes:
                left = min(left, max(0.0, 60 * self._command.minutes - spent))
            self._emit(Status(label, self._done, self._total, left, hardware.anonymous_memory()))


class _Scorer:
    """The reference's logits of all windows, and how far the model as it is now is from them."""

    def __init__(self, model: Model, windows: Sequence[tuple[int, ...]], kept: npt.NDArray[np.float32]) -> None:
        self._model = model
        self.windows = windows
        self._kept = kept
        self._rows: list[Rows] = []

    def keep(self, place: int) -> None:
        """The reference's logits of the window ``place``; windows come in order."""
        self._kept[place] = self._logits(place)
        first = first_scored(len(self.windows[place]))
        self._rows.append(score(self._kept[place], self.windows[place][first + 1 :], keep=False))

    def divergence(self, place: int) -> Floats:
        """KLD of each scored token."""
        return compare(self._rows[place], self._logits(place)).kld

    def _logits(self, place: int) -> npt.NDArray[np.float32]:
        window = self.windows[place]
        return self._model.window_logits(window, first_scored(len(window)))[:-1]


def _next(waiting: Sequence[_Probe], first: int) -> _Probe:
    """The next tensor: those that have not had their first windows, then the least certain one."""
    return next((probe for probe in waiting if len(probe.values) < first), None) or max(
        waiting, key=lambda probe: probe.estimate().error
    )


def _probes(own: SourceModel, other: SourceModel) -> list[_Probe]:
    """The tensors whose types differ."""
    mine = {tensor.name: tensor for tensor in own.tensors}
    theirs = {tensor.name: tensor for tensor in other.tensors}
    strange = [name for name, tensor in theirs.items() if name not in mine or mine[name].shape != tensor.shape]
    if strange or len(mine) != len(theirs):
        raise QuenchError(
            "other_model",
            "The two files are not of the same model.",
            f"{strange[0]} is not in both in one shape." if strange else f"{len(theirs)} tensors, not {len(mine)}.",
            "Choose a file that was made from the reference.",
        )
    found = [_Probe(mine[name], tensor) for name, tensor in theirs.items() if tensor.type != mine[name].type]
    if not found:
        raise QuenchError(
            "nothing_differs",
            "The two files have the same types.",
            "",
            "Choose a file that is smaller than the reference.",
        )
    return found


def relative_error(own: SourceTensor, other: SourceTensor) -> float:
    """sqrt(sum (x - y)^2 / sum x^2) over evenly spaced rows of both, of ``SAMPLED`` weights or a little more."""
    step = max(1, own.n_elements // SAMPLED)
    away = whole = 0.0
    for row in range(0, own.n_rows, step):
        before, after = own.rows(row, row + 1), other.rows(row, row + 1)
        away += float(np.square(before - after, dtype=np.float64).sum())
        whole += float(np.square(before, dtype=np.float64).sum())
    return math.sqrt(away / whole) if whole > 0 else 0.0


def check(command: MeasureSensitivity) -> None:
    """Refuse a command that makes no sense; QuenchError with exit status 2."""
    if not MIN_CONTEXT <= command.context <= MAX_CONTEXT or command.chunks < 0 or command.minutes < 0:
        raise QuenchError(
            "bad_options",
            "This cannot be measured.",
            f"Windows of {command.context} tokens ({MIN_CONTEXT} to {MAX_CONTEXT}), {command.chunks} of each text, "
            f"{command.minutes:g} minutes.",
            "",
            exit_status=2,
        )


__all__ = ["SensitivityRun", "check", "relative_error"]
