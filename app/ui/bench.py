"""The Bench page: how fast a model loads, reads and writes here, and how near that is to the machine's limit."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QFormLayout, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from app import library, measurements
from app.measure_messages import BenchResult, BenchUpdate, MeasureBench, ModelBench
from app.ui import format as fmt
from app.ui.bench_results import BenchCharts, BenchModel, BenchRow, recommended_threads
from app.ui.measured_page import MeasuredPage, Words
from app.ui.model_checks import ModelChecks
from app.ui.two_line_table import TwoLineDelegate, TwoLineTable
from app.ui.widgets import button, label

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job


def sweep(cores: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: powers of two, three quarters, and all."""
    powers = {2**i for i in range(8) if 2**i <= cores}
    return tuple(sorted(powers | {max(1, cores * 3 // 4), cores}))


def parse_depths(text: str) -> tuple[int, ...] | None:
    """``0, 2048`` -> (0, 2048); None if that is no list of numbers."""
    parts = [part for part in re.split(r"[,;\s]+", text.strip()) if part]
    if not parts or not all(part.isdigit() for part in parts):
        return None
    return tuple(sorted({int(part) for part in parts}))


class BenchSetup(QWidget):
    """Models and settings; ``changed`` when what can be run may be another."""

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self.models = ModelChecks(context, self.tr("Models to measure"))
        self.prompt = self._spin(self.tr("Tokens of the prompt that is read"), 8, 8192, 512)
        self.generate = self._spin(self.tr("Tokens that are written"), 4, 4096, 128)
        self.repeat = self._spin(self.tr("How often each point is measured"), 1, 50, 5)
        self.depths = QLineEdit("0")
        words = self.tr("Tokens already in the context when measuring, such as 0, 2048, 4096")
        self.depths.setAccessibleName(words)
        self.depths.setToolTip(words)
        self.sweep = QCheckBox(self.tr("Try several numbers of threads"))
        self.sweep.setAccessibleName(self.sweep.text())
        numbers = ", ".join(map(str, sweep(os.cpu_count() or 1)))
        self.sweep.setToolTip(self.tr("Tries %1 and recommends one").replace("%1", numbers))
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(6)
        form.addRow(label(self.tr("Read tokens"), "muted"), self.prompt)
        form.addRow(label(self.tr("Write tokens"), "muted"), self.generate)
        form.addRow(label(self.tr("At context"), "muted"), self.depths)
        form.addRow(label(self.tr("Repeats"), "muted"), self.repeat)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 12, 0)
        layout.setSpacing(6)
        layout.addWidget(label(self.tr("Models"), "heading"))
        layout.addWidget(self.models, 1)
        layout.addWidget(label(self.tr("What is measured"), "heading"))
        layout.addLayout(form)
        layout.addWidget(self.sweep)
        layout.addStretch(0)  # takes what is left while there is no list of models
        for signal in (self.models.changed, self.depths.textChanged):
            signal.connect(lambda *_: self.changed.emit())

    def command(self) -> MeasureBench | None:
        models, depths = self.models.checked(), parse_depths(self.depths.text())
        if not models or depths is None:
            return None
        fixed = (self._context.settings.threads,) if self._context.settings.threads else ()
        return MeasureBench(
            models=tuple(models),
            prompt=self.prompt.value(),
            generate=self.generate.value(),
            depths=depths,
            threads=sweep(os.cpu_count() or 1) if self.sweep.isChecked() else fixed,
            repeat=self.repeat.value(),
        )

    def missing(self) -> str:
        """What keeps Run from starting, in words."""
        if not self.models.checked():
            return self.tr("Tick at least one model.")
        if parse_depths(self.depths.text()) is None:
            return self.tr("“At context” must be numbers such as 0, 2048.")
        return ""

    @staticmethod
    def _spin(name: str, least: int, most: int, value: int) -> QSpinBox:
        box = QSpinBox()
        box.setRange(least, most)
        box.setValue(value)
        box.setAccessibleName(name)
        box.lineEdit().setAccessibleName(name)
        box.setToolTip(name)
        return box


class BenchPage(MeasuredPage):
    """See the module. ``receive({"models": [paths]})`` ticks models."""

    key = "bench"
    title = "Bench"
    command_type = MeasureBench
    result_type = BenchResult
    least_table = 96
    charts_share = 220

    setup: BenchSetup
    table: TwoLineTable
    charts: BenchCharts

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._advised: int | None = None
        theme = context.theme
        self.model = BenchModel(theme, self)
        table = TwoLineTable(theme, self.model, TwoLineDelegate(theme))
        table.setAccessibleName(self.tr("Speed of the models"))
        self.threads_button = button("", self._use_threads)
        self.threads_button.hide()
        words = Words(
            heading=self.tr("Bench"),
            question=self.tr("How fast is it on this machine?"),
            setup=self.tr("Show or hide the choice of models and settings"),
            empty=self.tr("Tick the models to measure. For true figures, let nothing else work hard meanwhile."),
        )
        setup, charts = BenchSetup(context), BenchCharts(theme)
        self.compose(words, setup, table, charts, before=(self.threads_button,))
        self.restore()

    # ---- faces

    def help_text(self) -> str:
        return self.tr(
            "Measures loading, the first token, reading a prompt and writing an answer. Every point is repeated; the "
            "median counts. The roofline says what share of this machine's memory speed is used: writing a token has "
            "to read the whole model once, so memory speed is the limit of large models."
        )

    def measured(self) -> list[ModelBench]:
        """Finished models."""
        return [row.result for row in self.model.rows if row.result is not None]

    # ---- what is measured

    def choose(self, request: dict[str, Any]) -> None:
        if request.get("models"):
            self.setup.models.set_checked([str(path) for path in request["models"]])

    def job_title(self, command: MeasureBench) -> str:
        names = ", ".join(self.type_of(path) for path in command.models)
        return self.tr("Speed of %1").replace("%1", names)

    # ---- what is shown

    def has_rows(self) -> bool:
        return bool(self.model.rows)

    def has_figures(self) -> bool:
        return any(row.generate or row.prompt for row in self.model.rows)

    def clear(self) -> None:
        self.model.set_rows([])

    def begin(self, job: Job) -> None:
        self.model.set_rows([self._row(path) for path in job.command.models])
        self.charts.set_rows(self.model.rows)
        self.threads_button.hide()

    def take(self, event: object) -> None:
        if not isinstance(event, BenchUpdate) or not 0 <= event.index < len(self.model.rows):
            return
        row = self.model.rows[event.index]
        if event.point is not None:
            (row.prompt if event.kind == "prompt" else row.generate).append(event.point)
        if event.model is not None:
            self._fill(row, event.model)
        self.model.touch(event.index)
        self.charts.set_rows(self.model.rows)

    @staticmethod
    def _fill(row: BenchRow, result: ModelBench) -> None:
        row.result = result
        row.prompt, row.generate = list(result.prompt), list(result.generate)

    def finish(self, result: BenchResult) -> None:
        measurements.keep_bench(self.context.store, result)
        self._show(list(result.models), result.cpu, result.seconds, result.automatic)

    def load_last(self) -> bool:
        run, models = self.newest(ModelBench, ("seconds",))
        if not models:
            return False
        self._show(models, str(run.get("cpu", "")), float(run.get("seconds", 0.0)), bool(run.get("automatic")))
        return True

    def _row(self, path: str) -> BenchRow:
        info = self.context.library.entry(path)
        return BenchRow(path, self.type_of(path), info.bytes if info is not None else library.file_bytes(path))

    def _show(self, models: list[ModelBench], cpu: str, seconds: float, automatic: bool) -> None:
        rows = [self._row(model.path) for model in models]
        for row, model in zip(rows, models, strict=True):
            self._fill(row, model)
            row.automatic = automatic
            row.bytes = row.bytes or model.memory.weights  # the file is gone
        self.model.set_rows(rows)
        self.charts.set_rows(rows)
        self.subtitle.setText(f"{cpu} · {fmt.seconds(seconds)}" if cpu else fmt.seconds(seconds))
        self._advise(rows)
        self.fit_table()

    def _advise(self, rows: list[BenchRow]) -> None:
        """One click takes the recommended number of threads into the settings."""
        found = [threads for row in rows if (threads := recommended_threads(row.generate)) is not None]
        self._advised = max(set(found), key=found.count) if found else None
        self.threads_button.setVisible(self._advised is not None)
        text = self.tr("Use 1 thread") if self._advised == 1 else self.tr("Use %1 threads")
        text = text.replace("%1", str(self._advised))
        self.threads_button.setText(text)
        self.threads_button.setAccessibleName(text)

    def _use_threads(self) -> None:
        if self._advised is not None:
            self.context.update_settings(threads=self._advised)
            self.context.notify.good(self.tr("Threads for all models: %1").replace("%1", str(self._advised)))
