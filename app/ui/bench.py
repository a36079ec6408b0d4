"""The Bench page: how fast a model loads, reads and writes here, and how near that is to the machine's limit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSpinBox,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from app import library, measurements
from app.protocol import BenchResult, BenchUpdate, MeasureBench, ModelBench
from app.ui import format as fmt
from app.ui.bench_results import BenchCharts, BenchModel, BenchRow, recommended_threads
from app.ui.model_checks import ModelChecks
from app.ui.two_line_table import TwoLineDelegate, TwoLineTable
from app.ui.widgets import EmptyState, ErrorCard, ProgressLine, button, label
from converter.spec import QuenchError

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
    """Models and settings."""

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


class BenchPage(QWidget):
    """See the module. ``receive({"models": [paths]})`` ticks models."""

    key = "bench"
    title = "Bench"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.job: Job | None = None
        self._advised: int | None = None
        self._dragged = False
        self._build()
        self.setup.models.changed.connect(self._update)
        self.setup.depths.textChanged.connect(self._update)
        context.jobs.added.connect(self._on_job_added)
        self._load_last()
        self._update()

    # ---- faces

    def receive(self, request: dict[str, Any]) -> None:
        if request.get("models"):
            self.setup.models.set_checked([str(path) for path in request["models"]])
        if request:
            self.setup_button.setChecked(True)

    def help_text(self) -> str:
        return self.tr(
            "Measures loading, the first token, reading a prompt and writing an answer. Every point is repeated; the "
            "median counts. The roofline says what share of this machine's memory speed is used: writing a token has "
            "to read the whole model once, so memory speed is the limit of large models."
        )

    def measured(self) -> list[ModelBench]:
        """Finished models."""
        return [row.result for row in self.model.rows if row.result is not None]

    # ---- building

    def _build(self) -> None:
        theme = self.context.theme
        self.setup = BenchSetup(self.context)
        self.setup.setProperty("role", "page")
        area = QScrollArea()
        area.setWidget(self.setup)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.missing = label("", "muted", wrap=True)
        self.run_button = button(self.tr("Run"), self._run, "primary")
        self._left = QWidget()
        self._left.setMinimumWidth(230)
        self._left.setMaximumWidth(360)
        left = QVBoxLayout(self._left)
        left.setContentsMargins(0, 0, 0, 0)
        left.setSpacing(8)
        left.addWidget(area, 1)
        foot = QHBoxLayout()
        foot.setContentsMargins(0, 0, 12, 0)
        foot.addWidget(self.missing, 1)
        foot.addWidget(self.run_button)
        left.addLayout(foot)
        self.setup_button = button(self.tr("Setup"))
        self.setup_button.setCheckable(True)
        self.setup_button.setChecked(True)
        self.setup_button.setToolTip(self.tr("Show or hide the choice of models and settings"))
        self.setup_button.toggled.connect(self._left.setVisible)
        self.threads_button = button("", self._use_threads)
        self.threads_button.hide()
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("setup")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(1)
        self.splitter.addWidget(self._left)
        self.splitter.addWidget(self._build_results(theme))
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([280, 900])
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(label(self.tr("Bench"), "title"))
        self.subtitle = label(self.tr("How fast is it on this machine?"), "muted")
        head.addWidget(self.subtitle, 1)
        head.addWidget(self.threads_button)
        head.addWidget(self.setup_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self.splitter, 1)

    def _build_results(self, theme: Any) -> QWidget:
        self.error = ErrorCard()
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._cancel)
        self.progress.hide()
        self.empty = EmptyState(
            "bench",
            self.tr("Nothing measured yet"),
            self.tr("Tick the models to measure. For true figures, let nothing else work hard meanwhile."),
            theme=theme,
        )
        self.model = BenchModel(theme, self)
        self.table = TwoLineTable(theme, self.model, TwoLineDelegate(theme))
        self.table.setAccessibleName(self.tr("Speed of the models"))
        self.table.setMinimumHeight(96)
        self.charts = BenchCharts(theme)
        self.charts.setMinimumHeight(190)
        self.results = QSplitter(Qt.Orientation.Vertical)
        self.results.setChildrenCollapsible(False)
        self.results.setHandleWidth(13)
        self.results.setObjectName("results")
        self.results.splitterMoved.connect(self._on_dragged)
        self.results.setStyleSheet("QSplitter::handle { background: transparent; }")
        self.results.addWidget(self.table)
        self.results.addWidget(self.charts)
        right = QWidget()
        layout = QVBoxLayout(right)
        layout.setContentsMargins(12, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.error)
        layout.addWidget(self.progress)
        layout.addWidget(self.empty, 1)
        layout.addWidget(self.results, 1)
        return right

    # ---- state

    def _update(self, *_: object) -> None:
        running = self.job is not None and self.job.is_active
        missing = self.setup.missing()
        self.missing.setText("" if running else missing)
        self.run_button.setEnabled(not running and not missing)
        self.run_button.setText(self.tr("Running…") if running else self.tr("Run"))
        has_rows = bool(self.model.rows)
        self.results.setVisible(has_rows)
        self.empty.setVisible(not has_rows and self.error.error is None)

    def _on_dragged(self, *_: object) -> None:
        self._dragged = True

    def _fit_table(self) -> None:
        """The table takes what its rows need, the charts the rest, until somebody drags the line between them."""
        if self._dragged:
            return
        total = max(self.results.height(), 320)
        top = max(96, min(self.table.needed_height(), total - 220))
        self.results.setSizes([top, total - top])

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit_table()

    def _run(self) -> None:
        command = self.setup.command()
        if command is None:
            return
        names = ", ".join(self._type_of(path) for path in command.models)
        self._follow(self.context.jobs.submit("measure", self.tr("Speed of %1").replace("%1", names), command))

    def _on_job_added(self, job: Job) -> None:
        """A benchmark begun elsewhere is shown if nothing else runs here."""
        if isinstance(job.command, MeasureBench) and (self.job is None or not self.job.is_active):
            self._follow(job)

    def _follow(self, job: Job) -> None:
        if self.job is job:
            return
        self.job = job
        self.error.clear()
        self.model.set_rows([self._row(path) for path in job.command.models])
        self.charts.set_rows(self.model.rows)
        self.subtitle.setText(self.tr("How fast is it on this machine?"))
        self.threads_button.hide()
        self.setup_button.setChecked(False)
        self.progress.button.setEnabled(True)
        self.progress.show()
        job.event.connect(self._on_event)
        job.changed.connect(self._on_changed)
        job.finished.connect(self._on_finished)
        self._on_changed()
        self._update()
        self._fit_table()

    def _row(self, path: str) -> BenchRow:
        info = self.context.library.entry(path)
        return BenchRow(path, self._type_of(path), info.bytes if info is not None else library.file_bytes(path))

    def _type_of(self, path: str) -> str:
        info = self.context.library.entry(path)
        return library.type_label(info) if info is not None else Path(path).stem.rpartition("-")[2]

    def _on_event(self, event: object) -> None:
        if not isinstance(event, BenchUpdate) or not 0 <= event.index < len(self.model.rows):
            return
        row = self.model.rows[event.index]
        if event.point is not None:
            (row.prompt if event.kind == "prompt" else row.generate).append(event.point)
        if event.model is not None:
            self._take(row, event.model)
        self.model.touch(event.index)
        self.charts.set_rows(self.model.rows)

    @staticmethod
    def _take(row: BenchRow, result: ModelBench) -> None:
        row.result = result
        row.prompt, row.generate = list(result.prompt), list(result.generate)

    def _on_changed(self) -> None:
        job = self.job
        if job is None or not job.is_active:
            return
        text = self.tr("Waiting for the job before it") if job.state == "queued" else job.label or self.tr("Starting")
        known = job.progress if job.progress > 0 or job.state == "queued" else None
        self.progress.set_progress(known, text, "", job.seconds_left)

    def _cancel(self) -> None:
        if self.job is not None:
            self.progress.button.setEnabled(False)
            self.progress.set_progress(None, self.tr("Stopping"))
            self.job.cancel()

    def _on_finished(self) -> None:
        job = self.job
        if job is None:
            return
        self.progress.hide()
        if job.state == "done" and isinstance(job.result, BenchResult):
            self._finish(job.result)
        elif job.state == "failed" and job.error is not None:
            self._fail(job.error)
        elif job.state == "cancelled":
            self.subtitle.setText(self.tr("Stopped. What was measured so far is below; it is not kept."))
        self._update()

    def _fail(self, error: QuenchError) -> None:
        self.error.show_error(error, [(self.tr("Retry"), self._retry)])
        if not any(row.generate or row.prompt for row in self.model.rows):
            self.model.set_rows([])

    def _retry(self) -> None:
        if self.job is not None:
            self._follow(self.job.retry())

    def _finish(self, result: BenchResult) -> None:
        measurements.keep_bench(self.context.store, result)
        self._show(list(result.models), result.cpu, result.seconds, result.automatic)

    def _show(self, models: list[ModelBench], cpu: str, seconds: float, automatic: bool) -> None:
        rows = [self._row(model.path) for model in models]
        for row, model in zip(rows, models, strict=True):
            self._take(row, model)
            row.automatic = automatic
            row.bytes = row.bytes or model.memory.weights  # the file is gone
        self.model.set_rows(rows)
        self.charts.set_rows(rows)
        self.subtitle.setText(f"{cpu} · {fmt.seconds(seconds)}" if cpu else fmt.seconds(seconds))
        self._advise(rows)
        self._fit_table()

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

    def _load_last(self) -> None:
        """Show the newest benchmark again; entries of another version are left alone."""
        found = self.context.store.measurements(None, "bench")
        if not found:
            return
        first = found[0].payload
        same = [m.payload for m in found if m.payload.get("seconds") == first.get("seconds")]
        try:
            models = [msgspec.convert({k: v for k, v in p.items() if k in _FIELDS}, ModelBench) for p in same]
        except msgspec.ValidationError:
            return
        cpu, seconds = str(first.get("cpu", "")), float(first.get("seconds", 0.0))
        self._show(models[::-1], cpu, seconds, bool(first.get("automatic")))
        self.setup_button.setChecked(False)


_FIELDS = frozenset(field.name for field in msgspec.structs.fields(ModelBench))
