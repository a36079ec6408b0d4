"""The Quality page: is a smaller model still good? A table and charts that fill while the measurement runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QScrollArea, QSplitter, QVBoxLayout, QWidget

from app import library, measurements
from app.protocol import CandidateQuality, Failed, MeasureQuality, QualityResult, QualityUpdate
from app.ui import format as fmt
from app.ui.quality_charts import QualityCharts
from app.ui.quality_setup import QualitySetup
from app.ui.quality_table import QualityTable, Row
from app.ui.widgets import EmptyState, ErrorCard, ProgressLine, button, label, title_of
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job


class QualityPage(QWidget):
    """See the module. ``receive({"reference": path, "candidates": [paths]})`` fills the choice in."""

    key = "quality"
    title = "Quality"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.job: Job | None = None
        self._reference: CandidateQuality | None = None
        self._report = ""
        self._dragged = False
        self._build()
        self.setup.changed.connect(self._update)
        context.jobs.added.connect(self._on_job_added)
        self._load_last()
        self._update()

    # ---- faces

    def receive(self, request: dict[str, Any]) -> None:
        if request.get("reference"):
            self.setup.reference.set_path(str(request["reference"]))
        if request.get("candidates"):
            self.setup.candidates.set_checked([str(path) for path in request["candidates"]])
        if request:
            self.setup_button.setChecked(True)

    def help_text(self) -> str:
        return self.tr(
            "Choose a full-precision reference and the files to judge. Both read the same texts; at every token the "
            "difference of their predictions is measured (KL divergence, in nats: 0 is the same). Pass means hardly "
            "noticeable, Review means look at its answers, Fail means clearly different. The limits are in Settings."
        )

    def measured(self) -> list[CandidateQuality]:
        """Figures of all candidates that have any."""
        return [row.figures for row in self.table.rows.rows if row.figures is not None and not row.reference]

    def save_report(self, path: str) -> None:
        """Copy the report of the last measurement to ``path`` (HTML) and its JSON twin beside it."""
        source, target = Path(self._report), Path(path)
        try:
            shutil.copyfile(source, target)
            shutil.copyfile(source.with_suffix(".json"), target.with_suffix(".json"))
        except OSError as problem:
            title = self.tr("The report could not be saved.")
            hint = self.tr("Choose another place.")
            self.context.notify.error(QuenchError("report_not_saved", title, str(problem), hint))
            return
        self.context.notify.good(self.tr("Report saved: %1").replace("%1", str(target)))

    # ---- building

    def _build(self) -> None:
        theme = self.context.theme
        self.setup = QualitySetup(self.context)
        self.setup.setProperty("role", "page")
        area = QScrollArea()
        area.setWidget(self.setup)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.missing = label("", "muted", wrap=True)
        self.run_button = button(self.tr("Run"), self._run, "primary")
        self._left = QWidget()
        left = QVBoxLayout(self._left)
        left.setContentsMargins(0, 0, 0, 0)
        left.setSpacing(8)
        left.addWidget(area, 1)
        foot = QHBoxLayout()
        foot.setContentsMargins(0, 0, 12, 0)
        foot.addWidget(self.missing, 1)
        foot.addWidget(self.run_button)
        left.addLayout(foot)
        self._left.setMinimumWidth(230)
        self._left.setMaximumWidth(360)
        self.setup_button = button(self.tr("Setup"))
        self.setup_button.setCheckable(True)
        self.setup_button.setChecked(True)
        self.setup_button.setToolTip(self.tr("Show or hide the choice of models and texts"))
        self.setup_button.toggled.connect(self._left.setVisible)
        self.report_button = button(self.tr("Save report…"), self._ask_report)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("setup")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(1)
        self.splitter.addWidget(self._left)
        self.splitter.addWidget(self._build_results(theme))
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([280, 900])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(label(self.tr("Quality"), "title"))
        self.subtitle = label(self.tr("Is the smaller model still good?"), "muted")
        head.addWidget(self.subtitle, 1)
        head.addWidget(self.setup_button)
        head.addWidget(self.report_button)
        layout.addLayout(head)
        layout.addWidget(self.splitter, 1)

    def _build_results(self, theme: Any) -> QWidget:
        self.error = ErrorCard()
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._cancel)
        self.progress.hide()
        self.empty = EmptyState(
            "quality",
            self.tr("Nothing measured yet"),
            self.tr(
                "Choose a reference and tick candidates. A first answer is there within a minute for small models."
            ),
            theme=theme,
        )
        self.table = QualityTable(theme)
        self.charts = QualityCharts(theme)
        self.results = QSplitter(Qt.Orientation.Vertical)
        self.results.setChildrenCollapsible(False)
        self.results.setHandleWidth(13)
        self.results.setObjectName("results")
        self.results.splitterMoved.connect(self._on_dragged)
        self.results.setStyleSheet("QSplitter::handle { background: transparent; }")
        self.results.addWidget(self.table)
        self.results.addWidget(self.charts)
        self.table.setMinimumHeight(110)
        self.charts.setMinimumHeight(190)
        self._right = QWidget()
        layout = QVBoxLayout(self._right)
        layout.setContentsMargins(12, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.error)
        layout.addWidget(self.progress)
        layout.addWidget(self.empty, 1)
        layout.addWidget(self.results, 1)
        return self._right

    # ---- state

    def _update(self) -> None:
        running = self.job is not None and self.job.is_active
        missing = self.setup.missing()
        self.missing.setText("" if running else missing)
        self.run_button.setEnabled(not running and not missing)
        self.run_button.setText(self.tr("Running…") if running else self.tr("Run"))
        has_rows = bool(self.table.rows.rows)
        self.results.setVisible(has_rows)
        self.empty.setVisible(not has_rows and self.error.error is None)
        self.report_button.setEnabled(bool(self._report) and Path(self._report).is_file())

    def _fit_table(self) -> None:
        """The table takes what its rows need, the charts the rest, until somebody drags the line between them."""
        if self._dragged:
            return
        need = self.table.needed_height()
        total = max(self.results.height(), 320)
        top = min(need, total - 230)
        self.results.setSizes([max(top, 110), total - max(top, 110)])

    def _on_dragged(self, *_: object) -> None:
        self._dragged = True

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit_table()

    def _run(self) -> None:
        try:
            command = self.setup.command()
        except OSError as problem:
            title = self.tr("There is no place for the report.")
            self._fail(QuenchError("no_report_folder", title, str(problem), self.tr("Check the disk."), exit_status=4))
            return
        if command is None:
            return
        names = ", ".join(self._type_of(path) for path in command.candidates)
        self._follow(self.context.jobs.submit("measure", self.tr("Quality of %1").replace("%1", names), command))

    def _on_job_added(self, job: Job) -> None:
        """A measurement begun elsewhere is shown if nothing else runs here."""
        if isinstance(job.command, MeasureQuality) and (self.job is None or not self.job.is_active):
            self._follow(job)

    def _follow(self, job: Job) -> None:
        if self.job is job:
            return
        self.job = job
        command: MeasureQuality = job.command
        self._reference, self._report = None, ""
        self.error.clear()
        rows = [self._row(command.reference, reference=True), *(self._row(path) for path in command.candidates)]
        self.table.set_rows(rows)
        self.charts.set_results(None, [])
        self.subtitle.setText(self.tr("Is the smaller model still good?"))
        self.setup_button.setChecked(False)
        self.progress.button.setEnabled(True)
        self.progress.show()
        job.event.connect(self._on_event)
        job.changed.connect(self._on_changed)
        job.finished.connect(self._on_finished)
        self._on_changed()
        self._update()
        self._fit_table()

    def _row(self, path: str, reference: bool = False) -> Row:
        info = self.context.library.entry(path)
        return Row(path, self._type_of(path), info.bytes if info is not None else 0, reference)

    def _type_of(self, path: str) -> str:
        info = self.context.library.entry(path)
        return library.type_label(info) if info is not None else Path(path).stem.rpartition("-")[2]

    def _name_of(self, figures: CandidateQuality) -> str:
        """A model as the rest of the window calls it."""
        info = self.context.library.entry(figures.path)
        return title_of(info) if info is not None else library.file_title(figures.path)

    def _on_event(self, event: object) -> None:
        if isinstance(event, QualityUpdate):
            self._take(event.result, event.windows, event.windows_total)
            self.charts.set_results(self._reference, self.measured())
        elif isinstance(event, Failed) and event.request > 0 and self.job is not None:
            path = self.job.command.candidates[event.request - 1]
            self.table.rows.set_problem(path, " ".join(filter(None, (event.title, event.detail))))

    def _take(self, figures: CandidateQuality, windows: int, total: int) -> None:
        for position, row in enumerate(self.table.rows.rows):
            if row.path == figures.path:
                self.table.rows.update_row(position, figures, windows, total)

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
        if job.state == "done" and isinstance(job.result, QualityResult):
            self._finish(job.result, job.command.report or "")
        elif job.state == "failed" and job.error is not None:
            self._fail(job.error)
        elif job.state == "cancelled":
            self.subtitle.setText(self.tr("Stopped. What was measured so far is below; it is not kept."))
        self._update()

    def _fail(self, error: QuenchError) -> None:
        self.error.show_error(error, [(self.tr("Retry"), self._retry)])
        if not self.measured():
            self.table.set_rows([])
        self._update()

    def _retry(self) -> None:
        if self.job is not None:
            self._follow(self.job.retry())
        else:
            self._run()

    def _finish(self, result: QualityResult, report: str) -> None:
        self._report = report
        measurements.keep_quality(self.context.store, result, report)
        self._show(result.reference, list(result.candidates), result.tokens, result.seconds)

    def _show(
        self, reference: CandidateQuality, candidates: list[CandidateQuality], tokens: int, seconds: float
    ) -> None:
        self._reference = reference
        rows = [Row(c.path, c.type, c.bytes, c is reference, c) for c in (reference, *candidates)]
        rows += [row for row in self.table.rows.rows if row.problem]
        self.table.set_rows(rows)
        self.charts.set_results(reference, candidates)
        text = self.tr("%1 tokens scored against %2 in %3")
        for mark, value in (
            ("%1", fmt.number(tokens, 0)),
            ("%2", self._name_of(reference)),
            ("%3", fmt.seconds(seconds)),
        ):
            text = text.replace(mark, value)
        self.subtitle.setText(text)
        self._fit_table()

    # ---- keeping

    def _load_last(self) -> None:
        """Show the newest measurement again; entries of another version are left alone."""
        found = self.context.store.measurements(None, "quality")
        if not found:
            return
        first = found[0].payload
        same = [
            m.payload
            for m in found
            if all(m.payload.get(k) == first.get(k) for k in ("report", "reference", "seconds"))
        ]
        try:
            figures = [msgspec.convert({k: v for k, v in p.items() if k in _FIGURES}, CandidateQuality) for p in same]
        except msgspec.ValidationError:
            return
        reference = next((f for f in figures if f.path == first.get("reference")), None)
        if reference is None:
            return
        self._report = str(first.get("report") or "")
        candidates = [f for f in reversed(figures) if f is not reference]
        self._show(reference, candidates, int(first.get("tokens", 0)), float(first.get("seconds", 0.0)))
        self.setup_button.setChecked(False)

    def _ask_report(self) -> None:
        chosen, _ = QFileDialog.getSaveFileName(self, self.tr("Save report"), "quality.html", "HTML (*.html)")
        if chosen:
            self.save_report(chosen)


_FIGURES = frozenset(field.name for field in msgspec.structs.fields(CandidateQuality))
