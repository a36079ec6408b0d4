"""The right column of the Convert page for a fit: the recipe to beat, the steps, the chosen types and the proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from app.files import write_atomically
from app.fit_messages import PROBING, STEPS, FitChosen, FitPlanned, FitPreview, FitProgress, Fitted
from app.ui import format as fmt
from app.ui.convert_result import OutputRow, open_output
from app.ui.fit_figures import DomainTable, how_words, sentence, step_names
from app.ui.tensor_map import TensorMap
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ProgressLine, button, label
from converter.spec import Planned, PlannedOutput, QuenchError, TensorDone

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

LOW = 620


class StepList(QWidget):
    """The steps of a fit: which are done, how far the present one is, and what those to come are expected to take."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._expected: dict[str, float] = {}
        self._skipped: set[str] = set()
        self._step = ""
        self._rows = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(3)
        grid.setColumnStretch(2, 1)
        for row, (step, name) in enumerate(step_names().items()):
            parts = (
                label("", "muted"),
                label(name, "muted"),
                ElidedLabel("", Qt.TextElideMode.ElideRight),
                label("", "small"),
            )
            set_role(parts[2], "small")
            parts[0].setFixedWidth(16)
            parts[3].setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            for column, part in enumerate(parts):
                grid.addWidget(part, row, column)
            self._rows[step] = parts

    def set_expected(self, seconds: dict[str, float], skipped: set[str]) -> None:
        """Before it begins: seconds of the steps to come; steps that are not needed are ``skipped``."""
        self._expected, self._skipped, self._step = seconds, skipped, ""
        for step in STEPS:
            self._set(step, "", "muted", "", self._expected_words(step))

    def show_progress(self, progress: FitProgress) -> None:
        """Where it is now."""
        if self._step and self._step != progress.step:
            self._expected[self._step] = 0.0
        self._step = progress.step
        at = STEPS.index(progress.step)
        for number, step in enumerate(STEPS):
            if number < at:
                skipped = step in self._skipped
                self._set(
                    step, "" if skipped else "✓", "muted", "", self.tr("not needed") if skipped else self.tr("done")
                )
            elif number > at:
                self._set(step, "", "muted", "", self._expected_words(step))
        left = self.tr("{0} left").format(fmt.seconds(progress.part_left)) if progress.part_left is not None else ""
        name = self._rows[progress.step][1].text()
        what = fmt.percent(progress.part, 0) + (f" · {progress.label}" if progress.label not in ("", name) else "")
        self._set(progress.step, "▸", "", what, left)

    def finish(self) -> None:
        """All is done."""
        for step in STEPS:
            skipped = step in self._skipped
            self._set(step, "" if skipped else "✓", "muted", "", self.tr("not needed") if skipped else self.tr("done"))

    def words(self) -> dict[str, str]:
        """What each step's row says."""
        return {step: " ".join(part.text() for part in parts if part.text()) for step, parts in self._rows.items()}

    def _expected_words(self, step: str) -> str:
        if step in self._skipped:
            return self.tr("not needed")
        seconds = self._expected.get(step, 0.0)
        if not seconds:
            return ""
        return self.tr("about {0}").format(fmt.seconds(seconds)) if seconds >= 2 else self.tr("a moment")

    def _set(self, step: str, mark: str, role: str, what: str, when: str) -> None:
        for part, text in zip(self._rows[step], (mark, None, what, when), strict=True):
            if text is not None and part.text() != text:
                part.setText(text)
        set_role(self._rows[step][1], role)


class FitResultPane(QWidget):
    """Follows one fit at a time; before that it shows the recipe to beat. ``retried`` carries the new job of a Retry,
    ``recipe_wanted`` the path of a recipe that is to be used for another model."""

    retried = Signal(object)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.job: Job | None = None
        self._plan: FitPlanned | None = None
        self._recipe = ""
        self._known: set[str] = set()
        self._state = "empty"
        self._build()
        self._show("empty")

    # ---- faces

    def show_preview(self, preview: FitPreview | None, standard: PlannedOutput | None) -> None:
        """Before a run: the types of the recipe to beat, and what the steps are expected to take."""
        if self._state in ("running", "paused"):
            return
        if preview is None or preview.refusals:
            if self._state in ("plan", "empty"):
                self._show("empty")
            return
        if self._state not in ("plan", "empty"):
            self.job = None
        skipped = {step for step in STEPS if not preview.seconds.get(step)}
        self.steps.set_expected(dict(preview.seconds), skipped)
        self.map.set_outputs([standard] if standard is not None else [])
        words = self.tr("These are the types of {0}, the standard recipe to beat. The fit chooses them anew.")
        if PROBING in skipped:
            words = self.tr("These are the types of {0}. Some are exchanged by rule of thumb; nothing is measured.")
        self.note.setText(words.format(preview.budget.standard))
        self._show("plan")

    def watch(self, job: Job) -> None:
        """Follow a fit from the queue to its end."""
        self.job, self._plan = job, None
        self.error.clear()
        self._clear_rows()
        if job.id not in self._known:
            self._known.add(job.id)
            job.event.connect(self._on_event)
            job.changed.connect(self._on_changed)
            job.finished.connect(self._on_finished)
        self._show("running")
        self._on_changed()

    def act(self, key: str, paths: list[str]) -> None:
        """A button of the finished file."""
        source = self.job.command.source if self.job is not None else ""
        open_output(self.context, key, paths, source if source.lower().endswith(".gguf") else "")

    def rows(self) -> list[OutputRow]:
        return [self._rows.itemAt(i).widget() for i in range(self._rows.count()) if self._rows.itemAt(i).widget()]

    def recipe_text(self) -> str:
        """The recipe of the finished file; empty if it is gone."""
        try:
            return Path(self._recipe).read_text("utf-8") if self._recipe else ""
        except OSError:
            return ""

    def save_recipe(self, path: str) -> None:
        """Write the recipe to another place; a refusal becomes a notice."""
        try:
            write_atomically(Path(path), self.recipe_text().encode())
        except OSError as error:
            title, hint = self.tr("The recipe could not be saved."), self.tr("Choose another folder.")
            self.context.notify.error(QuenchError("not_saved", title, str(error), hint))

    # ---- building

    def _build(self) -> None:
        theme = self.context.theme
        self.empty = EmptyState(
            "convert",
            self.tr("Nothing to fit yet"),
            self.tr("Choose a model and a size: every tensor gets the type that does the least damage within it."),
            theme=theme,
        )
        self.error = ErrorCard()
        self.map = TensorMap(theme)
        self.steps = StepList()
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._cancel)
        self.pause = button(self.tr("Pause"), self._pause)
        self.state_words = label("", "muted", wrap=True)
        self.note = label("", "muted", wrap=True)
        self.summary = label("", "good", wrap=True)
        self.figures = label("", "muted", wrap=True)
        self.domains = DomainTable(theme)
        self.resume = button(self.tr("Resume"), self._go_on, "primary")
        self.discard = button(self.tr("Discard"), self._cancel)
        self._paused = self._row(self.resume, self.discard)
        self.save_button = button(self.tr("Save recipe…"), self._ask_save)
        self.copy_button = button(self.tr("Copy"), self._copy)
        self.copy_button.setAccessibleName(self.tr("Copy the recipe"))
        self.copy_button.setToolTip(self.tr("The recipe as text"))
        self.save_button.setToolTip(
            self.tr("A text file that makes the same file again, or one like it of a sibling model")
        )
        self._recipe_name = ElidedLabel()
        set_role(self._recipe_name, "muted")
        self._recipe_row = self._row(self.save_button, self.copy_button, self._recipe_name)
        self._recipe_row.layout().setStretch(2, 1)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(6)
        inner = QWidget()
        inner.setProperty("role", "page")
        outer = QVBoxLayout(inner)
        outer.setContentsMargins(0, 0, 4, 0)
        outer.setSpacing(8)
        outer.addWidget(self.domains)
        outer.addLayout(self._rows)
        outer.addWidget(self._recipe_row)
        outer.addStretch(1)
        self._scroll = QScrollArea()
        self._scroll.setWidget(inner)
        self._scroll.setWidgetResizable(True)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(self.progress, 1)
        line.addWidget(self.pause, 0, Qt.AlignmentFlag.AlignVCenter)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(label(self.tr("3  Result"), "heading"))
        layout.addWidget(self.error)
        layout.addWidget(self.empty, 1)
        layout.addWidget(self.state_words)
        layout.addWidget(self._paused)
        layout.addWidget(self.summary)
        layout.addWidget(self.figures)
        layout.addLayout(line)
        layout.addWidget(self.steps)
        layout.addWidget(self.note)
        layout.addWidget(self.map, 3)
        layout.addWidget(self._scroll, 2)

    @staticmethod
    def _row(*parts: QWidget) -> QWidget:
        holder = QWidget()
        row = QHBoxLayout(holder)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        for part in parts:
            row.addWidget(part)
        row.addStretch(1)
        return holder

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self.map.set_compact(self.height() < LOW)
        self.figures.setVisible(self._state == "done" and self.height() >= LOW)

    def _show(self, state: str) -> None:
        visible: set[QWidget] = dict[str, set[QWidget]](
            {
                "empty": {self.empty},
                "plan": {self.note, self.steps, self.map},
                "running": {
                    self.progress,
                    self.pause,
                    self.steps,
                    self.map,
                    *([self.note] if self._plan is None else []),
                },
                "done": {self.summary, self.figures, self.map, self._scroll},
                "failed": {self.error, self.steps, self.map},
                "cancelled": {self.state_words},
                "paused": {self.state_words, self._paused, self.steps, self.map},
            }
        )[state]
        self._state = state
        parts = (
            self.empty,
            self.error,
            self.state_words,
            self.note,
            self.progress,
            self.pause,
            self.steps,
            self.map,
            self.summary,
        )
        for part in (*parts, self.figures, self._paused, self._scroll):
            part.setVisible(part in visible)
        if self.height() < LOW:
            self.figures.hide()

    # ---- following a job

    def _on_event(self, event: object) -> None:
        if self.sender() is not self.job and self.sender() is not None:
            return
        if isinstance(event, FitProgress):
            self.steps.show_progress(event)
        elif isinstance(event, FitChosen):
            self._plan = event.plan
            self.note.hide()
        elif isinstance(event, Planned):
            self.map.set_outputs([self._explained(output) for output in event.plan.outputs])
        elif isinstance(event, TensorDone):
            self.map.set_done(event)

    def _explained(self, output: PlannedOutput) -> PlannedOutput:
        """The output with the fit's reasons in place of the rules that they became."""
        fed = self.tr("; rounded with error feedback")
        known = self._plan.tensors if self._plan is not None else ()
        reasons = {tensor.name: tensor.reason.replace("+-", "±") + (fed if tensor.fed else "") for tensor in known}
        tensors = tuple(
            msgspec.structs.replace(tensor, reason=reasons.get(tensor.name, tensor.reason).replace("; ", "\n"))
            for tensor in output.tensors
        )
        return msgspec.structs.replace(output, tensors=tensors, type=self.tr("Fit"))

    def _on_changed(self) -> None:
        job = self.job
        if job is None or not job.is_active:
            return
        if self._state != "running":
            self._show("running")
        waiting = job.state == "queued"
        text = self.tr("Waiting for the job before it") if waiting else self.tr("Fitting")
        if job.stopping:
            text = self.tr("Stopping and cleaning up")
        known = job.progress if waiting or job.label else None
        self.progress.set_progress(known, text, "", job.seconds_left)
        self.progress.button.setEnabled(not job.stopping)
        self.pause.setEnabled(job.can_pause)

    def _cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def _pause(self) -> None:
        if self.job is not None:
            self.job.pause()

    def _go_on(self) -> None:
        if self.job is not None:
            self.job.go_on()

    def _on_finished(self) -> None:
        job = self.job
        if job is None or job.is_active:
            return
        if job.state == "done" and isinstance(job.result, Fitted):
            self._finish(job.result)
        elif job.state == "cancelled":
            self.state_words.setText(self.tr("Stopped. No file was left behind."))
            self._show("cancelled")
        elif job.state == "paused":
            words = self.tr("Paused. {0} of the steps are finished and kept; the present one begins again.")
            kept = fmt.percent(job.kept, 0) if job.kept is not None else ""
            self.state_words.setText(words.format(kept) if kept else self.tr("Paused. The present step begins again."))
            self._show("paused")
        elif job.error is not None:
            self.show_error(job.error, self._retry)

    def show_error(self, error: QuenchError, retry: Any) -> None:
        """One red card with a Retry; with Resume where steps are finished."""
        if self.job is not None and self.job.kept is not None:
            self.error.show_error(error, [(self.tr("Resume"), retry), (self.tr("Discard"), self._cancel)])
        else:
            self.error.show_error(error, [(self.tr("Retry"), retry)])
        self._show("failed")

    def _retry(self) -> None:
        if self.job is not None:
            self.retried.emit(self.job.retry())

    def _finish(self, result: Fitted) -> None:
        plan, budget = result.plan, result.budget
        self._recipe = result.recipe
        self.summary.setText(sentence(plan, budget.standard, self.tr))
        set_role(self.summary, "good" if plan.measured and plan.kept and plan.ratio < 1 else "muted")
        took = self.job.seconds if self.job is not None else plan.seconds
        words = self.tr("{0} of tensors, {1} in {2} · took {3}")
        sizes = fmt.size(plan.bytes), fmt.size(plan.standard_bytes), budget.standard
        self.figures.setText(" · ".join([words.format(*sizes, fmt.seconds(took)), *how_words(plan, self.tr)]))
        tip = self.tr(
            "The planner expected {0} of the divergence; no choice could be better than its own by more than {1}."
        )
        told = tip.format(fmt.percent(plan.predicted, 0), fmt.percent(plan.gap, 1)) if plan.measured else ""
        self.figures.setToolTip(told)
        self.domains.setVisible(plan.measured)
        self.domains.show_domains(plan.domains, budget.standard)
        self._clear_rows()
        if result.conversion is not None:
            for output in result.conversion.outputs:
                self._rows.addWidget(OutputRow(self, output))
        words = self.tr("{0}, with its importance matrix beside the model: both together make the same file again")
        self._recipe_name.setText(Path(result.recipe).name)
        self._recipe_name.setToolTip(words.format(fmt.path(result.recipe)))
        self.steps.finish()
        self._show("done")

    def _ask_save(self) -> None:
        wanted = self.tr("Recipes (*.recipe)")
        path, _ = QFileDialog.getSaveFileName(self, self.tr("Save recipe"), self._recipe, wanted)
        if path:
            self.save_recipe(path)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.recipe_text())

    def _clear_rows(self) -> None:
        while self._rows.count():
            item = self._rows.takeAt(0)
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()


__all__ = ["FitResultPane", "StepList"]
