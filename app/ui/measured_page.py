"""What the pages that measure models have in common: a choice at the left, a followed job, a table over charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QScrollArea, QSplitter, QVBoxLayout, QWidget

from app import library
from app.remote.address import is_remote, split_path
from app.ui.widgets import EmptyState, ErrorCard, ProgressLine, button, label
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

Figures = TypeVar("Figures", bound=msgspec.Struct)
LEAST_CHARTS = 190
"""Pixels below which charts cannot be read."""


@dataclass(frozen=True)
class Words:
    """A page's own texts, translated: its heading, the question it answers, what the setup button shows or hides, and
    what to do while nothing is measured."""

    heading: str
    question: str
    setup: str
    empty: str


class MeasuredPage(QWidget):
    """A page that runs one kind of measurement and shows it while it grows.

    A page says what it measures with the class attributes, puts its parts in with :meth:`compose`, calls
    :meth:`restore` when it is ready, and fills in the hooks. Everything about the job is done here: running it,
    following it (also one that was begun elsewhere), its progress, Cancel, its end, and Retry.

    ``setup`` is a widget with a signal ``changed``, ``missing() -> str`` (what keeps Run from starting, in words) and
    ``command()``, None while something is missing. ``table`` has ``needed_height()``.
    """

    key = ""
    """The page's name; the store keeps its measurements under the same."""
    command_type: type
    result_type: type
    least_table: int
    """Height of the table in pixels below which the charts give way."""
    charts_share: int
    """Height in pixels that a long table leaves to the charts."""

    setup: Any
    table: Any
    charts: Any

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.job: Job | None = None
        self._dragged = False

    # ---- hooks

    def choose(self, request: dict[str, Any]) -> None:
        """Fill the choice in from what another page asked for."""
        raise NotImplementedError

    def command(self) -> Any:
        """The measurement that is chosen, None while something is missing; QuenchError if it cannot be prepared."""
        return self.setup.command()

    def job_title(self, command: Any) -> str:
        """What the job is called in the list of jobs."""
        raise NotImplementedError

    def begin(self, job: Job) -> None:
        """Show the rows of a job that is followed from now on, without figures."""
        raise NotImplementedError

    def take(self, event: object) -> None:
        """Show what an event of the job brings."""
        raise NotImplementedError

    def finish(self, result: Any) -> None:
        """Keep and show the result (of ``result_type``) of a job that ended well."""
        raise NotImplementedError

    def clear(self) -> None:
        """Empty the table."""
        raise NotImplementedError

    def has_rows(self) -> bool:
        raise NotImplementedError

    def has_figures(self) -> bool:
        """Whether a failed measurement leaves something to look at."""
        raise NotImplementedError

    def load_last(self) -> bool:
        """Show the newest stored measurement; False if there is none. See :meth:`newest`."""
        raise NotImplementedError

    def beside_run(self) -> Sequence[QWidget]:
        """Buttons before the one that measures."""
        return ()

    def run_words(self) -> str:
        """What the button that measures says."""
        return self.tr("Run")

    def stopped_words(self) -> str:
        """What became of a measurement that was stopped."""
        return self.tr("Stopped. What was measured so far is below; it is not kept.")

    # ---- faces

    def receive(self, request: dict[str, Any]) -> None:
        """What another page, or the window, wants to be measured."""
        self.choose(request)
        if request:
            self.setup_button.setChecked(True)

    def compose(
        self,
        words: Words,
        setup: Any,
        table: Any,
        charts: Any,
        *,
        before: Sequence[QWidget] = (),
        after: Sequence[QWidget] = (),
    ) -> None:
        """Put the page together; ``before`` and ``after`` stand beside the setup button."""
        self._words = words
        self.setup, self.table, self.charts = setup, table, charts
        self.setup_button = button(self.tr("Setup"))
        self.setup_button.setCheckable(True)
        self.setup_button.setChecked(True)
        self.setup_button.setToolTip(words.setup)
        self.subtitle = label(words.question, "muted")
        left = self._build_left()
        self.setup_button.toggled.connect(left.setVisible)
        # Room for the line between them; without the setup the results begin where the heading does.
        self.setup_button.toggled.connect(lambda shown: self._beside.setContentsMargins(12 if shown else 0, 0, 0, 0))
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("setup")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(1)
        self.splitter.addWidget(left)
        self.splitter.addWidget(self._build_right())
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([280, 900])
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(label(words.heading, "title"))
        head.addWidget(self.subtitle, 1)
        for widget in (*before, self.setup_button, *after):
            head.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self.splitter, 1)
        setup.changed.connect(self.refresh)
        self.context.jobs.added.connect(self._on_job_added)

    def restore(self) -> None:
        """Show the newest measurement again, with the choice put away; without one the choice stays open."""
        if self.load_last():
            self.setup_button.setChecked(False)
        self.refresh()

    def refresh(self) -> None:
        """Bring buttons and texts in line with the choice, the job and the rows."""
        running = self.job is not None and self.job.is_active
        missing = self.setup.missing()
        self.missing.setText("" if running else missing)
        self.run_button.setEnabled(not running and not missing)
        self.run_button.setText(self.tr("Running…") if running else self.run_words())
        self.results.setVisible(self.has_rows())
        self.empty.setVisible(not self.has_rows() and self.error.error is None)

    def fit_table(self) -> None:
        """The table takes what its rows need, the charts the rest, until somebody drags the line between them."""
        if self._dragged:
            return
        total = max(self.results.height(), 320)
        top = max(self.least_table, min(self.table.needed_height(), total - self.charts_share))
        self.results.setSizes([top, total - top])

    def type_of(self, path: str) -> str:
        """The type of a model, from its file's name if the library does not know it; the name of a served one."""
        if is_remote(path):
            return split_path(path)[1]
        info = self.context.library.entry(path)
        return library.type_label(info) if info is not None else Path(path).stem.rpartition("-")[2]

    def newest(self, figures: type[Figures], alike: Sequence[str]) -> tuple[dict[str, Any], list[Figures]]:
        """The newest stored run: what was kept with it, and its figures, first model first.

        Entries belong to one run when they have the same values of ``alike``. Without one, or if an entry is of
        another version: ``({}, [])``.
        """
        found = [entry.payload for entry in self.context.store.measurements(None, self.key)]
        if not found:
            return {}, []
        first = found[0]
        run = [payload for payload in found if all(payload.get(name) == first.get(name) for name in alike)]
        names = {field.name for field in msgspec.structs.fields(figures)}
        try:
            read = [msgspec.convert({k: v for k, v in payload.items() if k in names}, figures) for payload in run]
        except msgspec.ValidationError:
            return {}, []
        return first, read[::-1]

    # ---- building

    def _build_left(self) -> QWidget:
        self.setup.setProperty("role", "page")
        area = QScrollArea()
        area.setWidget(self.setup)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.missing = label("", "muted", wrap=True)
        self.run_button = button(self.tr("Run"), self.run, "primary")
        foot = QHBoxLayout()
        foot.setContentsMargins(0, 0, 12, 0)
        foot.addWidget(self.missing, 1)
        for widget in self.beside_run():
            foot.addWidget(widget)
        foot.addWidget(self.run_button)
        left = QWidget()
        left.setMinimumWidth(230)
        left.setMaximumWidth(360)
        layout = QVBoxLayout(left)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(area, 1)
        layout.addLayout(foot)
        return left

    def _build_right(self) -> QWidget:
        self.error = ErrorCard()
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._cancel)
        self.progress.hide()
        self.empty = EmptyState(self.key, self.tr("Nothing measured yet"), self._words.empty, theme=self.context.theme)
        self.table.setMinimumHeight(self.least_table)
        self.charts.setMinimumHeight(LEAST_CHARTS)
        self.results = QSplitter(Qt.Orientation.Vertical)
        self.results.setObjectName("results")
        self.results.setChildrenCollapsible(False)
        self.results.setHandleWidth(13)
        self.results.splitterMoved.connect(self._on_dragged)
        self.results.setStyleSheet("QSplitter::handle { background: transparent; }")
        self.results.addWidget(self.table)
        self.results.addWidget(self.charts)
        right = QWidget()
        self._beside = layout = QVBoxLayout(right)
        layout.setContentsMargins(12, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.error)
        layout.addWidget(self.progress)
        layout.addWidget(self.empty, 1)
        layout.addWidget(self.results, 1)
        layout.addStretch()  # what an error leaves, when it stands alone
        return right

    def _on_dragged(self, *_: object) -> None:
        self._dragged = True

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self.fit_table()

    # ---- the job

    def run(self) -> None:
        """Measure what is chosen."""
        try:
            command = self.command()
        except QuenchError as problem:
            self._fail(problem)
            return
        if command is not None:
            self.submit(command)

    def submit(self, command: Any) -> None:
        """Run a measurement and follow it."""
        self._follow(self.context.jobs.submit("measure", self.job_title(command), command))

    def _on_job_added(self, job: Job) -> None:
        """A measurement begun elsewhere is shown if nothing else runs here."""
        if isinstance(job.command, self.command_type) and (self.job is None or not self.job.is_active):
            self._follow(job)

    def _follow(self, job: Job) -> None:
        if self.job is job:
            return
        self.job = job
        self.error.clear()
        self.begin(job)
        self.subtitle.setText(self._words.question)
        self.setup_button.setChecked(False)
        self.progress.button.setEnabled(True)
        self.progress.show()
        job.event.connect(self.take)
        job.changed.connect(self._on_changed)
        job.finished.connect(self._on_finished)
        self._on_changed()
        self.refresh()
        self.fit_table()

    def _on_changed(self) -> None:
        job = self.job
        if job is None or not job.is_active:
            return
        if self.progress.isHidden():  # it was paused, and goes on
            self.error.clear()
            self.progress.button.setEnabled(True)
            self.progress.show()
            self.refresh()
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
        if job.state == "done" and isinstance(job.result, self.result_type):
            self.finish(job.result)
        elif job.state == "failed" and job.error is not None:
            self._fail(job.error)
        elif job.state in ("cancelled", "paused"):
            self.subtitle.setText(self.stopped_words())
        self.refresh()

    def _fail(self, error: QuenchError) -> None:
        self.error.show_error(error, [(self.tr("Retry"), self._retry)])
        if not self.has_figures():
            self.clear()
        self.refresh()

    def _retry(self) -> None:
        if self.job is not None:
            self._follow(self.job.retry())
        else:
            self.run()
