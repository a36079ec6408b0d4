"""The Compare page: one prompt, two to four models, and where they part from the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.compare import documents
from app.compare.results import Comparison, Entry
from app.protocol import Sampling
from app.ui import format as fmt
from app.ui.compare_column import ANSWERS, DIVERGENCE, FREE_RUN, Column
from app.ui.compare_options import CompareOptions
from app.ui.compare_queue import QueueRun
from app.ui.compare_run import DONE, READY, TIMING, ComparisonRun, memory_plan, part_of
from app.ui.composer import Composer
from app.ui.context import Context
from app.ui.divergence_view import ShadeLegend
from app.ui.widgets import ElidedLabel, button, drop_paths
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.compare_blind import BlindPane
    from app.ui.compare_prompts import PromptsPane

LEAST, MOST = 2, 4
PROMPTS, BLIND = "prompts", "blind"
COLUMN_VIEWS = (ANSWERS, DIVERGENCE, FREE_RUN)


class ComparePage(QWidget):
    """``receive({"reference": path, "models": [paths]})`` fills the columns."""

    key = "compare"
    title = "Compare"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._run: ComparisonRun | None = None
        self._queue: QueueRun | None = None
        self._prompts: PromptsPane | None = None
        self._blind: BlindPane | None = None
        self._view = ANSWERS
        self._shows_entry = False
        self.columns: list[Column] = []
        self.setAcceptDrops(True)
        self._row = QHBoxLayout()
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(8)
        self.prompt = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self.prompt.setFont(context.theme.font(15, True))
        self.legend = ShadeLegend(context.theme)
        self.composer = Composer(context)
        self.composer.sent.connect(self._sent)
        self.composer.stopped.connect(self.stop)
        side_by_side = QWidget()
        side_by_side.setLayout(self._row)
        self.stack = QStackedWidget()
        self.stack.addWidget(side_by_side)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 8, 16, 12)
        layout.setSpacing(8)
        layout.addLayout(self._make_head())
        layout.addWidget(self.prompt)
        layout.addWidget(self.stack, 1)
        layout.addWidget(self._make_foot())
        layout.addWidget(self.composer)
        for _ in range(LEAST):
            self.add_column()
        context.library.changed.connect(self._guess_models)
        self.show_view(ANSWERS)
        self._options_changed()
        self._guess_models()
        self._show_prompt("")

    def _make_head(self) -> QHBoxLayout:
        self._views = QButtonGroup(self)
        self.view_buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout()
        row.setSpacing(8)
        for view, text in (
            (ANSWERS, self.tr("Answers")),
            (DIVERGENCE, self.tr("Divergence")),
            (FREE_RUN, self.tr("Free run")),
            (PROMPTS, self.tr("Prompts")),
            (BLIND, self.tr("Blind test")),
        ):
            made = QPushButton(text)
            made.setCheckable(True)
            made.setAccessibleName(text)
            made.clicked.connect(lambda checked=False, view=view: self.show_view(view))
            self._views.addButton(made)
            self.view_buttons[view] = made
            row.addWidget(made)
        self.answers_button, self.divergence_button = self.view_buttons[ANSWERS], self.view_buttons[DIVERGENCE]
        self.mode = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self.export_button = button(self.tr("Export…"), self._export)
        self.export_button.setToolTip(self.tr("Write answers and figures as Markdown, HTML, JSON or CSV"))
        self.add_button = button(self.tr("Add a column"), self.add_column)
        row.addSpacing(8)
        row.addWidget(self.mode, 1)
        row.addWidget(self.export_button)
        row.addWidget(self.add_button)
        return row

    def _make_foot(self) -> QWidget:
        self.options = CompareOptions()
        self.options.changed.connect(self._options_changed)
        self._foot = QWidget()
        row = QHBoxLayout(self._foot)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.legend, 1)
        row.addStretch()
        row.addWidget(self.options)
        return self._foot

    # ---- the window's calls ------------------------------------------------------------------------------------

    def receive(self, request: dict[str, Any]) -> None:
        """A request from another page: which models to compare."""
        models = [str(path) for path in request.get("models", [])]
        reference = request.get("reference")
        if reference:
            models = [str(reference), *(path for path in models if path != reference)]
        models = models[:MOST]
        while len(self.columns) < len(models):
            self.add_column()
        while len(self.columns) > max(len(models), LEAST) and models:
            self._remove(self.columns[-1])
        for column, path in zip(self.columns, models, strict=False):
            column.set_path(path)
        if self._view in (PROMPTS, BLIND) and not self._hidden():
            self.show_view(ANSWERS)
        self.composer.field.setFocus()

    def help_text(self) -> str:
        """What F1 shows."""
        return self.tr(
            "One prompt goes to all columns; the first is the reference.\n\n"
            "Answers shows what each model says. Divergence shows the reference's answer in every column: the darker a "
            "token, the further that model's probabilities are from the reference's at that place. The framed token is "
            "the first where the model would have said something else.\n\n"
            "In Divergence the arrow keys move from token to token, J jumps to the framed one, N and Shift+N to the "
            "next and the last that are far apart, and the line below says what both models thought. Score this text "
            "does the same for words of your own.\n\n"
            "Free run shows what each model said by itself, with what the reference does not say shaded.\n\n"
            "Prompts puts a whole set of prompts to all models, unattended. Blind test shows pairs of those answers "
            "without names: vote with 1, 2, = and S."
        )

    def escape(self) -> bool:
        """Esc stops the columns. True if there was something to stop."""
        if self.busy():
            self.stop()
            return True
        return False

    def closing(self) -> None:
        """The window goes."""
        self._end_run()
        self._end_queue()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self.escape():
            return
        super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(path.lower().endswith(".gguf") for path in drop_paths(event)):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Dropped models take the first free column, or a new one."""
        for path in drop_paths(event):
            if path.lower().endswith(".gguf"):
                free = next((column for column in self.columns if not column.path()), None)
                column = free or self.add_column()
                if column is not None:
                    column.set_path(path)
        event.acceptProposedAction()

    # ---- columns -----------------------------------------------------------------------------------------------

    def add_column(self) -> Column | None:
        """One more column, up to four."""
        if len(self.columns) >= MOST:
            return None
        column = Column(self._context)
        column.removed.connect(self._remove)
        column.retried.connect(self._retry)
        column.picked.connect(self._models_changed)
        column.divergence.moved.connect(lambda index, column=column: self._moved(column, index))
        column.free.moved.connect(lambda index, column=column: self._moved_free(column, index))
        column.show_view(self._view if self._view in COLUMN_VIEWS else ANSWERS)
        self.columns.append(column)
        self._row.addWidget(column, 1)
        self._placed()
        self._models_changed()
        return column

    def _remove(self, column: Column) -> None:
        if len(self.columns) <= LEAST or column not in self.columns:
            return
        self.columns.remove(column)
        self._row.removeWidget(column)
        column.hide()
        column.deleteLater()
        self._placed()
        self._models_changed()

    def _placed(self) -> None:
        last: QWidget = self.add_button
        for index, column in enumerate(self.columns):
            column.set_place(index, len(self.columns))
            for part in column.findChildren(QWidget):  # Tab comes to them where they stand, though they were made later
                if part.focusPolicy() and part.focusProxy() is None and part.window() is self.window():
                    self.setTabOrder(last, part)
                    last = part
        self._refresh_buttons()

    def _guess_models(self) -> None:
        """Before anything was chosen: the largest model as the reference, the others of its base beside it."""
        usable = self._context.library.usable({"gguf"})
        if any(column.path() for column in self.columns) or len(usable) < LEAST:
            return
        for column, info in zip(self.columns, (usable[0], usable[-1]), strict=False):
            column.set_path(info.path)

    def _models_changed(self) -> None:
        """Other models: what is on the page belongs to the old ones."""
        self._end_queue()
        if self._run is not None or self._shows_entry:
            self._end_run()
            for column in self.columns:
                column.forget()
            self._show_prompt("")
        self._show_mode()

    def models(self) -> list[str]:
        """The columns' models; an empty string where none is chosen."""
        return [column.path() for column in self.columns]

    # ---- running -----------------------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Put a prompt to all columns."""
        self._start(text.strip(), "")

    def score(self, text: str) -> None:
        """Let all columns score a text of one's own."""
        self._start("", text)
        if self._run is not None and self._view != DIVERGENCE:
            self.show_view(DIVERGENCE)

    def _sent(self, text: str) -> None:
        if self.options.scores:
            self.score(text)
        else:
            self.ask(text)

    def _start(self, prompt: str, given: str) -> None:
        if self.busy() or not (prompt or given.strip()) or not self._complete():
            return
        self._end_run()
        together, _, _ = memory_plan(self._context, self.models())
        run = ComparisonRun(
            self._context, self.models(), prompt, self._sampling(), together=together, given=given, parent=self
        )
        self._run = run
        self._show_mode(together)
        self._show_prompt(prompt or self.tr("A text of your own"))
        self.composer.restore("")
        for column, part in zip(self.columns, run.parts, strict=True):
            column.begin(part)
        run.changed.connect(self._changed)
        run.text.connect(self._heard)
        run.figures.connect(self._figures)
        run.loading.connect(self._loading)
        run.finished.connect(self._finished)
        if self._view not in COLUMN_VIEWS:
            self.show_view(ANSWERS)
        self._refresh_buttons()
        run.start()

    def _complete(self) -> bool:
        """Whether every column has a model; the first that has none gets the focus."""
        missing = next((column for column in self.columns if not column.path()), None)
        if missing is None:
            return True
        if self._view not in COLUMN_VIEWS:
            self.show_view(ANSWERS)
        missing.picker.setFocus()
        self.mode.setText(self.tr("Choose a model first."))
        return False

    def stop(self) -> None:
        """Stop all columns, and the queue."""
        if self._run is not None:
            self._run.stop()
        if self._queue is not None:
            self._queue.stop()

    def busy(self) -> bool:
        """Does a column still work, or the queue?"""
        running = self._run is not None and self._run.running
        return running or (self._queue is not None and self._queue.running)

    def run(self) -> ComparisonRun | None:
        """The run that is on the page."""
        return self._run

    def _sampling(self) -> Sampling:
        return self.options.sampling(self._context.settings.sampling)

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
            run.deleteLater()
        self._shows_entry = False
        self._refresh_buttons()

    def _changed(self, index: int) -> None:
        if self._run is None:
            return
        part = self._run.parts[index]
        self.columns[index].refresh(part)
        for column, each in zip(self.columns, self._run.parts, strict=True):
            column.set_unscored(each.unscored or self._run.parts[0].unscored)
        if part.state in (READY, TIMING, DONE) or (index == 0 and part.scored is not None):
            self._align()

    def _align(self) -> None:
        """Own answers beside the reference's, where both are there."""
        if self._run is None or self._run.given:
            return
        reference = self._run.parts[0]
        for column, part in zip(self.columns, self._run.parts, strict=True):
            if part.replied is not None and reference.replied is not None and part.state in (READY, TIMING, DONE):
                column.show_free_run(part, reference)

    def _heard(self, index: int, text: str) -> None:
        self.columns[index].feed(text)
        self.columns[index].show_view(self._view if self._view in COLUMN_VIEWS else ANSWERS)

    def _figures(self, index: int, event: Any) -> None:
        self.columns[index].figures(event)

    def _loading(self, index: int, fraction: float) -> None:
        self.columns[index].load(fraction)

    def _finished(self) -> None:
        self._refresh_buttons()

    def _retry(self, column: Column) -> None:
        if self._run is not None:
            self._run.retry(self.columns.index(column))
            self._refresh_buttons()

    # ---- many prompts ------------------------------------------------------------------------------------------

    def prompts_pane(self) -> PromptsPane:
        """The table of prompts, made when it is first wanted: its chart takes half a second to import."""
        if self._prompts is None:
            from app.ui.compare_prompts import PromptsPane

            self._prompts = PromptsPane(self._context)
            self._prompts.asked.connect(self.run_queue)
            self._prompts.stopped.connect(self.stop)
            self._prompts.chosen.connect(self.show_entry)
            self.stack.addWidget(self._prompts)
        return self._prompts

    def blind_pane(self) -> BlindPane:
        """The blind test, made when it is first wanted."""
        if self._blind is None:
            from app.ui.compare_blind import BlindPane

            self._blind = BlindPane(self._context)
            self._blind.asked.connect(self.begin_blind)
            self._blind.ended.connect(self._refresh_buttons)
            self.stack.addWidget(self._blind)
        return self._blind

    def run_queue(self) -> None:
        """Put the chosen prompts to all columns, or go on with them."""
        if self.busy() or not self._complete():
            return
        self._end_run()
        for column in self.columns:
            column.forget()
        self._show_prompt("")
        prompts, sampling, queue = self.prompts_pane().prompts(), self._sampling(), self._queue
        if queue is None or not self._goes_on(queue) or queue.done == queue.total:
            self._end_queue()
            together, _, _ = memory_plan(self._context, self.models())
            queue = QueueRun(self._context, self.models(), prompts, sampling, together=together, parent=self)
            self._queue = queue
            queue.finished.connect(self._refresh_buttons)
            self.prompts_pane().follow(queue)
        queue.start()
        self._refresh_buttons()

    def _goes_on(self, queue: QueueRun) -> bool:
        """Whether the queue is over what is chosen now."""
        return queue.prompts == self.prompts_pane().prompts() and queue.sampling == self._sampling()

    def begin_blind(self) -> None:
        """A blind test over the answers that are there, else over those that the queue now makes."""
        if self._queue is None or not self._goes_on(self._queue) or self._queue.done < self._queue.total:
            self.run_queue()
        if self._queue is not None:
            self.blind_pane().begin(self._queue)
            self._refresh_buttons()

    def queue(self) -> QueueRun | None:
        """The queue that is on the page."""
        return self._queue

    def show_entry(self, prompt: int) -> None:
        """The answers to one prompt of the queue, in the columns."""
        if self._queue is None or (self._run is not None and self._run.running):
            return
        self._end_run()
        self._shows_entry = True
        columns = self._queue.comparison().entries[prompt].columns
        parts = [part_of(found, place) if found is not None else None for place, found in enumerate(columns)]
        for column, part, found in zip(self.columns, parts, columns, strict=True):
            column.forget()
            if part is None or found is None or found.error:
                continue
            column.begin(part)
            column.feed(part.text)
            column.refresh(part)
            column.set_unscored(part.unscored)
            if parts[0] is not None:
                column.show_free_run(part, parts[0])
        self._show_prompt(self._queue.prompts[prompt].prompt)
        self.show_view(DIVERGENCE)

    def _end_queue(self) -> None:
        queue, self._queue = self._queue, None
        if queue is None:
            return
        if self._blind is not None:
            self._blind.reset()
        if self._prompts is not None:
            self._prompts.follow(None)
        queue.close()
        queue.deleteLater()
        self._refresh_buttons()

    # ---- documents ---------------------------------------------------------------------------------------------

    def comparison(self) -> Comparison | None:
        """What is on the page, for a document; None while there is nothing."""
        if self._run is not None and self._view in COLUMN_VIEWS:
            columns = self._run.columns()
            if not any(columns):
                return None
            told = (
                None if found is None else msgspec.structs.replace(found, verdict=column.verdict())
                for found, column in zip(columns, self.columns, strict=True)
            )
            greedy = self.options.greedy
            return Comparison(tuple(self.models()), (Entry(self._run.prompt, columns=tuple(told)),), greedy)
        return self._queue.comparison() if self._queue is not None and self._queue.done else None

    def export(self, name: str) -> bool:
        """Write what is on the page; the ending says how. False if there is nothing, or it could not be written."""
        found = self.comparison()
        if found is None:
            return False
        try:
            documents.save(found, Path(name))
        except QuenchError as error:
            self._context.notify.error(error)
            return False
        self._context.notify.good(self.tr("Saved {0}").format(Path(name).name))
        return True

    def _export(self) -> None:
        forms = self.tr("Web page (*.html);;Markdown (*.md);;JSON (*.json);;Table (*.csv)")
        name, chosen = QFileDialog.getSaveFileName(self, self.tr("Export the comparison"), "comparison.html", forms)
        if name:
            ending = chosen[chosen.rfind("*") + 1 : chosen.rfind(")")]
            self.export(name if Path(name).suffix else f"{name}{ending}")

    # ---- showing -----------------------------------------------------------------------------------------------

    def show_view(self, view: str) -> None:
        """One of the views: ``ANSWERS``, ``DIVERGENCE``, ``FREE_RUN``, ``PROMPTS``, ``BLIND``."""
        self._view = view
        self.view_buttons[view].setChecked(True)
        if view == PROMPTS:
            self.stack.setCurrentWidget(self.prompts_pane())
        elif view == BLIND:
            self.prompts_pane()
            self.stack.setCurrentWidget(self.blind_pane())
        else:
            self.stack.setCurrentIndex(0)
            for column in self.columns:
                column.show_view(view)
        self.legend.setVisible(view == DIVERGENCE)
        self._foot.setVisible(view != BLIND)
        self.composer.setVisible(view in COLUMN_VIEWS)
        self.options.what.setVisible(view in COLUMN_VIEWS)
        self.prompt.setVisible(view in COLUMN_VIEWS and bool(self.prompt.text()))
        self._show_mode(self._run.together if self._run is not None else None)
        self._refresh_buttons()

    def show_divergence(self, shown: bool) -> None:
        """Divergence in every column, or the answers."""
        self.show_view(DIVERGENCE if shown else ANSWERS)

    def _hidden(self) -> bool:
        """Whether a blind test runs, in which nothing may show a name."""
        return self._blind is not None and self._blind.active()

    def _refresh_buttons(self) -> None:
        hidden, busy = self._hidden(), self.busy()
        for view, made in self.view_buttons.items():
            made.setEnabled(not hidden or view == BLIND)
            made.setToolTip(self.tr("End the blind test first.") if hidden and view != BLIND else "")
        self.add_button.setVisible(self._view in COLUMN_VIEWS)
        self.add_button.setEnabled(len(self.columns) < MOST)
        self.export_button.setEnabled(not hidden)
        self.composer.set_busy(busy)

    def _moved(self, source: Column, index: int) -> None:
        """All columns show the same text, so their token cursors go together."""
        for column in self.columns:
            if column is not source:
                column.divergence.go(index)

    def _moved_free(self, source: Column, index: int) -> None:
        """Own answers are other texts: the cursors stand on what stands in each other's place."""
        reference = self.columns[0]
        there = index if source is reference else source.free.counterpart(index, of_reference=False)
        for column in self.columns:
            if column is reference and column is not source:
                column.free.go(there)
            elif column is not source:
                column.free.go(column.free.counterpart(there, of_reference=True))

    def _options_changed(self) -> None:
        name = self.tr("Text that all models score") if self.options.scores else self.tr("Prompt for all models")
        self.composer.field.setAccessibleName(name)

    def _show_prompt(self, text: str) -> None:
        self.prompt.setText(" ".join(text.split()))
        self.prompt.setVisible(bool(text.strip()) and self._view in COLUMN_VIEWS)

    def _show_mode(self, together: bool | None = None) -> None:
        models = [path for path in self.models() if path]
        if self._view == BLIND:
            self.mode.setText("")
            return
        if len(models) < len(self.columns):
            self.mode.setText(self.tr("Choose the models."))
            return
        if self._view == PROMPTS:
            self.mode.setText(self.tr("One model at a time, so that every speed is its own."))
            return
        fits, needed, available = memory_plan(self._context, models)
        if fits if together is None else together:
            text = self.tr("All at once: memory allows it. Each is timed alone afterwards.")
        else:
            text = self.tr("One after another: together they need {0}, {1} are free.").format(
                fmt.size(needed), fmt.size(available)
            )
        self.mode.setText(text)

    def sizeHint(self) -> QSize:
        return QSize(1192, 772)
