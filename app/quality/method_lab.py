"""Methods of quantization on one model and one text: a table of bits and divergence.

The reference is loaded once. Each method's weights are grafted in (:mod:`app.engine.grafts`): those of other engines as
the 32-bit floats that they stand for, which is simulated, K-quants and files as they are, so that the engine computes
with them as with such a file. Methods that round inputs too have them rounded before each product
(:mod:`app.engine.inputs`). All are judged on the same windows, of texts that no method has seen.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app import hardware, library, paths
from app.engine.covariance import Covariances
from app.engine.grafts import Grafts, Part
from app.engine.inputs import Change, Inputs
from app.engine.model import Model
from app.measure_messages import (
    Estimate,
    MeasureMethods,
    MethodLeft,
    MethodQuality,
    MethodsResult,
    MethodUpdate,
)
from app.protocol import Event, LoadOptions
from app.quality import feedback, verdict
from app.quality import texts as texts_module
from app.quality.divergence import Divergence, Rows, compare, first_scored, score, scored_per_window
from app.quality.fit_engines import Teller
from app.quality.fitting import spread
from app.quality.method_check import check
from app.quality.method_weights import UP, Made, Unfit, Weights
from app.quality.methods.table import COVARIANCE, METHODS, Method
from app.quality.subject import Vocabulary, read_header
from app.quality.texts import Window
from converter import open_model, recipes
from converter.identity import content_id
from converter.sources.base import SourceModel
from converter.spec import QuenchError

CALIBRATION_WINDOWS = 80
"""Over all calibration texts. Error feedback on Pocket was as good with 66 of 512 tokens as with 130."""

CALIBRATION_PART, JUDGING_PART = 0.2, 0.6
"""Of a limit of time, for each; the rest is for making the weights."""

PILOT = 2
"""Windows whose time says how many more there is time for."""


class MethodLab:
    """Runs one :class:`MeasureMethods`; arguments as of :class:`app.quality.lab.QualityRun`."""

    def __init__(
        self,
        command: MeasureMethods,
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
        on_model: Callable[[Model], None] = lambda model: None,
    ) -> None:
        check(command)
        self._command = command
        self._emit = emit
        self._stopped = stopped
        self._on_model = on_model
        self._told = Teller(emit, stopped)
        self._methods = [METHODS[key] for key in command.methods] if command.methods else list(METHODS.values())
        self._limit = 60 * command.minutes if command.minutes else math.inf
        self._left: list[MethodLeft] = []
        self._looks = CALIBRATION_WINDOWS
        self._threads = command.threads or hardware.physical_cores()

    def run(self) -> MethodsResult:
        """Measure.

        Raises:
            QuenchError: a text or a file is bad; ``quantized_source``; ``other_model`` or ``other_vocabulary`` for one
                of the files; ``no_space``; what :class:`Grafts` raises.
            converter.spec.Cancelled: ``stopped`` became true, or the model was interrupted.
        """
        command = self._command
        texts = texts_module.load(command.texts)
        for path in (command.reference, *command.files):
            read_header(path)
        with ExitStack() as stack:
            source = stack.enter_context(open_model(command.reference))
            _refuse_quantized(source)
            inputs = Inputs()
            self._told.say("Loading the reference")
            model = stack.enter_context(self._load(inputs))
            bench = stack.enter_context(_Bench(model, inputs, command.context))
            weights = stack.enter_context(Weights(source, bench.grafts.shapes, self._threads, self._stopped))
            self._check_files(bench, source)
            self._check_space(weights)
            groups = [texts_module.windows(text, model, command.context, command.chunks) for text in texts]
            calibration = self._calibration(model)
            windows = self._read(bench, texts_module.fair_order(groups), sum(map(len, calibration.windows.values())))
            seen = self._calibrate(bench, weights, source, calibration)
            floor = self._floor(bench, weights, source)
            rows = [*self._rows(bench, weights, source), *self._file_rows(bench, source)]
        return MethodsResult(
            reference=command.reference,
            rows=tuple(rows),
            left_out=tuple(self._left),
            floor=floor,
            windows=windows,
            tokens=windows * scored_per_window(command.context),
            context=command.context,
            texts=tuple(text.name for text in texts),
            calibration=seen,
            seconds=self._told.spent,
            content=content_id(command.reference),
        )

    # ---- before ----------------------------------------------------------------------------------------------

    def _load(self, capture: Inputs | Covariances) -> Model:
        options = LoadOptions(context=self._command.context, threads=self._threads)
        model = Model.load(
            self._command.reference, options, lambda _: not self._stopped(), repack=False, capture=capture
        )
        self._on_model(model)
        return model

    def _check_files(self, bench: _Bench, source: SourceModel) -> None:
        """Refuse a file of another model before time goes into anything."""
        for path in self._command.files:
            with open_model(path) as other:
                _parts_of(other, source, bench.grafts)
            self._check_vocabulary(bench.model, path)

    def _check_space(self, weights: Weights) -> None:
        beforehand = sum(method.needs == COVARIANCE for method in self._methods)
        needed, free = weights.bytes_needed(beforehand), shutil.disk_usage(paths.cache()).free
        if needed > free:
            raise QuenchError(
                "no_space",
                "There is not enough space for the weights of these methods.",
                f"{needed:,} bytes are needed, {free:,} are free in {paths.cache()}.",
                "Free some space, or choose fewer methods: GPTQ and AWQ take the most.",
                exit_status=4,
            )

    def _calibration(self, model: Model) -> feedback.Calibration:
        """Windows for the methods that look at inputs; none where there is no such method."""
        if not any(method.calibrated or method.inputs for method in self._methods):
            return feedback.Calibration({}, {})
        names = self._command.calibration or tuple(texts_module.CALIBRATION)
        found, _ = feedback.known(model, feedback.calibration(model, names, self._command.context))
        return _fewer(found, CALIBRATION_WINDOWS)

    def _read(self, bench: _Bench, windows: Sequence[Window], calibration: int) -> int:
        """The reference's logits of as many windows as there is time for; returns how many these are."""
        self._told.say("Reading the reference")
        bench.expect(len(windows))
        begun = time.monotonic()
        bench.read(windows[:PILOT])
        pace = (time.monotonic() - begun) / PILOT
        runs = len(self._methods) + len(self._command.files) + 2
        count = len(windows)
        if math.isfinite(self._limit):
            count = max(PILOT, min(count, int(JUDGING_PART * self._limit / (runs * pace))))
            self._looks = min(self._looks, int(CALIBRATION_PART * self._limit / pace / 2))
        self._told.plan(count * runs + 2 * min(calibration, self._looks))
        for place in range(PILOT, count):
            self._told.say("Reading the reference")
            bench.read(windows[place : place + 1])
            self._told.tick()
        return count

    def _calibrate(
        self, bench: _Bench, weights: Weights, source: SourceModel, given: feedback.Calibration
    ) -> tuple[str, ...]:
        """What methods have to know of the inputs; returns the texts that it was learned on."""
        if not given.windows:
            return ()
        given = _fewer(given, self._looks)
        with bench.inputs.measured(weights.targets):
            for windows in given.windows.values():
                for window in windows:
                    self._told.say("Measuring the inputs")
                    bench.decode(window)
                    self._told.tick()
        weights.learn(bench.inputs)
        methods = [method for method in self._methods if method.needs == COVARIANCE]
        if self._is_late(1 - JUDGING_PART):
            weights.give_up(methods)
        elif methods and not weights.odd:
            self._told.say("Rounding with the calibration text")
            with self._load(covariances := Covariances()) as model:
                encoder = feedback.FeedbackEncoder(
                    model,
                    covariances,
                    source,
                    given.windows,
                    feedback.Options(threads=self._threads),
                    stopped=self._stopped,
                    ticked=lambda label: self._told.tick(int(label.startswith("Reading"))),
                )
                late = partial(self._is_late, 1 - JUDGING_PART)
                weights.feed(methods, encoder.inputs(weights.targets), late)
        return tuple(given.windows)

    # ---- measuring -------------------------------------------------------------------------------------------

    def _floor(self, bench: _Bench, weights: Weights, source: SourceModel) -> Estimate | None:
        if all(method.here for method in self._methods):
            return None
        if all(source_type == "F32" for source_type in source.info.types):
            return None
        with ExitStack() as stack:
            found = bench.measure(weights.floor(stack), {}, self._step("The same weights in 32 bits"))
        return found.summary().kld.mean

    def _rows(self, bench: _Bench, weights: Weights, source: SourceModel) -> Iterator[MethodQuality]:
        for method in self._methods:
            if self._is_late():
                self._leave(method.key, method.name, UP)
                continue
            step = self._step(method.name)
            step(0)
            begun = time.monotonic()
            with ExitStack() as stack:
                try:
                    made = weights.make(method, stack, self._is_late)
                except Unfit as reason:
                    self._leave(method.key, method.name, str(reason))
                    continue
                seconds = time.monotonic() - begun
                found = bench.measure(made.parts, made.changes, step)
            yield self._tell(_row(method, made, found, source.info.parameters, seconds))

    def _file_rows(self, bench: _Bench, source: SourceModel) -> Iterator[MethodQuality]:
        for path in self._command.files:
            with open_model(path) as other:
                parts = _parts_of(other, source, bench.grafts)
                found = bench.measure(parts, {}, self._step(Path(path).name))
                size = sum(tensor.n_bytes for tensor in other.tensors)
                rounded = [tensor for tensor in other.tensors if tensor.type not in recipes.PLAIN_TYPES]
                label = library.type_label(other.info)
            made = Made({}, {}, 8 * sum(each.n_bytes for each in rounded), sum(each.n_elements for each in rounded), 0)
            method = Method(path, Path(path).name, "A file of yours.", ("llama.cpp",), recipe=label)
            row = _row(method, replace(made, rest=size - made.bytes), found, source.info.parameters, 0.0, path)
            yield self._tell(row)

    def _is_late(self, part: float = 1.0) -> bool:
        """Whether this part of the time is up."""
        return self._told.spent >= part * self._limit

    def _tell(self, row: MethodQuality) -> MethodQuality:
        self._emit(MethodUpdate(row))
        return row

    def _leave(self, key: str, name: str, reason: str) -> None:
        self._left.append(MethodLeft(key, name, reason))

    def _step(self, label: str) -> Callable[[int], None]:
        def step(windows: int) -> None:
            self._told.say(label)
            self._told.tick(windows)

        return step

    def _check_vocabulary(self, model: Model, path: str) -> None:
        options = LoadOptions(context=32, threads=1)
        with Model.load(path, options, lambda _: not self._stopped(), repack=False) as other:
            Vocabulary.of(model).check(other, path)


class _Bench:
    """The loaded reference with what it says of the windows, and how far it is from that with other weights."""

    def __init__(self, model: Model, inputs: Inputs, context: int) -> None:
        self.model = model
        self.inputs = inputs
        self.grafts = Grafts(model)
        self._context = context
        self._stack = ExitStack()
        self._windows: list[tuple[Window, Rows]] = []
        self._kept: npt.NDArray[np.float32] = np.empty((0, 0, 0), np.float32)

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._windows.clear()
        self._stack.close()

    def expect(self, windows: int) -> None:
        """Make room for so many, in a file without a name."""
        file = self._stack.enter_context(tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-"))  # noqa: SIM115
        shape = (windows, scored_per_window(self._context), self.model.vocabulary)
        self._kept = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)

    def read(self, windows: Sequence[Window]) -> None:
        """Keep the reference's logits of more windows."""
        for window in windows:
            kept = self._kept[len(self._windows)]
            kept[:] = self._logits(window)
            targets = window.tokens[first_scored(self._context) + 1 :]
            self._windows.append((window, score(kept, targets, keep=False)))

    def measure(
        self, parts: Mapping[str, Part], changes: Mapping[str, Change], step: Callable[[int], None]
    ) -> Divergence:
        """Divergence with these weights and changes of inputs; ``step`` is called with 1 after each window."""
        found = Divergence()
        with self.grafts.replaced(parts), self.inputs.changed(changes):
            for window, rows in self._windows:
                found.add(window.text, compare(rows, self._logits(window)))
                step(1)
        return found

    def decode(self, tokens: Sequence[int]) -> None:
        """Compute a window for its inputs' sake: all positions, else the engine leaves out the last layer's rows."""
        self.model.window_logits(tokens, 0)
        self.inputs.check()

    def _logits(self, window: Window) -> npt.NDArray[np.float32]:
        found = self.model.window_logits(window.tokens, first_scored(self._context))[:-1]
        self.inputs.check()
        return found


def _row(  # noqa: PLR0917 - what there is to say of one method
    method: Method, made: Made, found: Divergence, parameters: int, seconds: float, path: str = ""
) -> MethodQuality:
    summary = found.summary()
    slices = {name: each.kld for name, each in summary.slices.items()}
    assert summary.top1 is not None
    level, reason = verdict.judge(summary.kld.mean, summary.top1, slices=slices)
    return MethodQuality(
        key=method.key,
        name=method.name,
        what=method.what,
        engines=method.engines,
        simulated=not method.here,
        calibrated=method.calibrated,
        inputs=method.inputs,
        bits=made.bits / made.weights if made.weights else 0.0,
        bpw=8 * made.bytes / parameters,
        bytes=made.bytes,
        kld=summary.kld.mean,
        top1=summary.top1,
        slices=slices,
        verdict=level,
        reason=reason,
        seconds=seconds,
        type=method.recipe,
        path=path,
    )


def _parts_of(other: SourceModel, source: SourceModel, grafts: Grafts) -> dict[str, Part]:
    """The weights of a file of the same model that the engine multiplies with."""
    mine = {tensor.name: tensor.shape for tensor in source.tensors}
    theirs = {tensor.name: tensor for tensor in other.tensors}
    strange = [name for name, tensor in theirs.items() if mine.get(name) != tensor.shape]
    if strange or len(mine) != len(theirs):
        raise QuenchError(
            "other_model",
            "The two files are not of the same model.",
            f"{strange[0]} is not in both in one shape." if strange else f"{len(theirs)} tensors, not {len(mine)}.",
            "Choose a file that was made from the reference.",
        )
    return {name: tensor for name, tensor in theirs.items() if name in grafts.shapes}


def _fewer(given: feedback.Calibration, count: int) -> feedback.Calibration:
    """At most about ``count`` windows, evenly over the texts."""
    each = max(1, count // max(1, len(given.windows)))
    return feedback.Calibration({name: spread(cut, each) for name, cut in given.windows.items()}, {})


def _refuse_quantized(source: SourceModel) -> None:
    odd = next((tensor for tensor in source.tensors if tensor.type not in recipes.PLAIN_TYPES), None)
    if odd is not None:
        raise QuenchError(
            "quantized_source",
            "The reference is quantized itself.",
            f"{odd.name} is {odd.type}.",
            "Give the original: a model folder, or a GGUF file in 16 or 32 bits.",
        )


__all__ = ["MethodLab"]
