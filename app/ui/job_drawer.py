"""The drawer on the right: every job with its progress, and what an earlier run of the program left undone."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication, QKeySequence, QShortcut
from PySide6.QtWidgets import QFrame, QHBoxLayout, QProgressBar, QPushButton, QScrollArea, QVBoxLayout, QWidget

from app.jobs import CANCELLED, DONE, ENDED, FAILED, PAUSED, QUEUED, RUNNING, Record, lane
from app.measure_messages import MeasureQuality
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.download_files import DownloadFiles
from app.ui.job_center import Job, kept_fraction
from app.ui.theme import set_role
from app.ui.widgets import Card, ElidedLabel, EmptyState, button, details, icon_button, label

WIDTH = 352


def _bar(name: str) -> QProgressBar:
    made = QProgressBar()
    made.setRange(0, 1000)
    made.setTextVisible(False)
    made.setAccessibleName(name)
    return made


class _Row(Card):
    """One job."""

    def __init__(self, job: Job, context: Context, parent: QWidget | None = None) -> None:
        super().__init__("", parent)
        self.job = job
        self.body.setContentsMargins(12, 12, 12, 12)
        self.body.setSpacing(6)
        self._title = ElidedLabel(job.title)
        self._state = label("", "small")
        top = QHBoxLayout()
        top.addWidget(self._title, 1)
        top.addWidget(self._state)
        self.body.addLayout(top)
        self._bar = _bar(self.tr("Progress of {0}").format(job.title))
        self.body.addWidget(self._bar)
        self._what = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self._what, "small")
        self.body.addWidget(self._what)
        self._files = DownloadFiles(job.transfer) if job.transfer is not None else None
        if self._files is not None:
            self.body.addWidget(self._files)
        self._reason = label("", "bad", wrap=True)
        self.body.addWidget(self._reason)
        self._resume = self._button(self.tr("Resume"), job.go_on, "primary")
        self._pause = self._button(self.tr("Pause"), job.pause)
        self._cancel = self._button(self.tr("Cancel"), job.cancel)
        self._discard = self._button(self.tr("Discard"), job.cancel)
        self._discard.setToolTip(self.tr("Give it up and remove its half-written files"))
        self._retry = self._button(self.tr("Retry"), job.retry, "primary")
        self._copy = self._button(self.tr("Copy details"), self._copy_details, "quiet")
        self._up = icon_button(context.theme, "chevron-up", self.tr("Move up (Alt+Up)"), lambda: self._move(-1))
        self._down = icon_button(context.theme, "chevron", self.tr("Move down (Alt+Down)"), lambda: self._move(1))
        row = QHBoxLayout()
        row.setSpacing(8)
        for made in (self._resume, self._pause, self._retry, self._cancel, self._discard, self._copy):
            row.addWidget(made)
        row.addStretch(1)
        for arrow, name, keys, by in (
            (self._up, self.tr("Move up: {0}"), "Alt+Up", -1),
            (self._down, self.tr("Move down: {0}"), "Alt+Down", 1),
        ):
            arrow.setAccessibleName(name.format(job.title))
            row.addWidget(arrow)
            shortcut = QShortcut(QKeySequence(keys), self, activated=lambda by=by: self._move(by))
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        self.body.addLayout(row)
        self._after = QVBoxLayout()
        self._after.setSpacing(8)
        self.body.addLayout(self._after)
        self._context = context
        job.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        job = self.job
        kept = job.kept is not None
        self._state.setText(self._state_words())
        set_role(self._state, {FAILED: "bad", DONE: "good"}.get(job.state, "small"))
        self._bar.setVisible(job.state == RUNNING or kept)
        self._bar.setValue(round(job.progress * 1000))
        facts = [job.label]
        if job.rate:
            facts.append(fmt.rate(job.rate))
        if job.seconds_left is not None:
            facts.append(self.tr("{0} left").format(fmt.seconds(job.seconds_left)))
        text = " · ".join(fact for fact in (facts if self._files is None else facts[1:]) if fact)
        self._what.setText(text)
        self._what.setVisible(job.state == RUNNING and bool(text) and not job.stopping)
        self._reason.setText(f"{job.error.title}\n{job.error.hint}".strip() if job.error else "")
        self._reason.setVisible(job.error is not None)
        self._resume.setVisible(job.state == PAUSED or (job.state == FAILED and kept))
        self._discard.setVisible(job.state == PAUSED or (job.state == FAILED and kept))
        self._pause.setVisible(job.can_pause)
        self._cancel.setVisible(job.is_active)
        self._cancel.setEnabled(job.stopping != CANCELLED)
        self._retry.setVisible(job.state == CANCELLED or (job.state == FAILED and not kept))
        if job.state == CANCELLED and isinstance(job.command, MeasureQuality):
            again = kept_fraction(job.command, job.outputs) is not None
            self._retry.setText(self.tr("Resume") if again else self.tr("Retry"))
        self._copy.setVisible(job.error is not None)
        if self._files is not None:
            self._files.setVisible(job.state in (RUNNING, DONE) or kept)
            self._files.refresh(running=job.state == RUNNING)
        if job.state == DONE and not self._after.count():
            self._show_after()

    def _show_after(self) -> None:
        """What can be done with what a download has brought."""
        row = QHBoxLayout()
        row.setSpacing(8)
        for text, run in self._context.downloads.actions(self.job)[:2]:
            row.addWidget(self._button(text, run))
        row.addStretch(1)
        self._after.addLayout(row)

    def show_place(self, place: int, count: int) -> None:
        """Its place among the jobs that wait; ``place`` -1 if it does not wait."""
        lost = QGuiApplication.focusObject()
        for arrow, other, possible in ((self._up, self._down, place > 0), (self._down, self._up, place < count - 1)):
            if lost is arrow and not possible and other.isEnabled():
                other.setFocus()  # before it cannot have it any more, or the focus would leave the row
            arrow.setEnabled(possible)
            arrow.setVisible(place >= 0 and count > 1)

    def _state_words(self) -> str:
        job = self.job
        if job.stopping:
            return self.tr("Pausing…") if job.stopping == PAUSED else self.tr("Stopping…")
        if job.kept is not None:
            text = self.tr("Paused at {0}") if job.state == PAUSED else self.tr("Failed at {0}")
            return text.format(fmt.percent(job.kept, 0))
        return {
            QUEUED: self.tr("Waiting"),
            RUNNING: fmt.percent(job.progress, 0),
            PAUSED: self.tr("Paused"),
            DONE: self.tr("Done in {0}").format(fmt.seconds(job.seconds)),
            FAILED: self.tr("Failed"),
            CANCELLED: self.tr("Cancelled"),
        }[job.state]

    def _button(self, text: str, clicked: object, role: str = "") -> QPushButton:
        made = button(text, clicked, role)
        made.setAccessibleName(f"{text}: {self.job.title}")
        return made

    def _move(self, by: int) -> None:
        self.job.move(by)

    def _copy_details(self) -> None:
        if self.job.error is not None:
            QGuiApplication.clipboard().setText(details(self.job.error))


class _Left(Card):
    """Work of an earlier run of the program: ``settled`` carries whether it goes on."""

    settled = Signal(bool)

    def __init__(self, record: Record, parent: QWidget | None = None) -> None:
        super().__init__("", parent)
        self.record = record
        self.body.setContentsMargins(12, 12, 12, 12)
        self.body.setSpacing(6)
        kept = kept_fraction(record.command, record.outputs)
        self.body.addWidget(ElidedLabel(record.title))
        begun = self.tr("Interrupted") if kept is None else self.tr("Interrupted at {0}").format(fmt.percent(kept, 0))
        self.body.addWidget(label(begun if record.state != QUEUED else self.tr("Was waiting for its turn"), "small"))
        if kept is not None:
            bar = _bar(self.tr("Progress of {0}").format(record.title))
            bar.setValue(round(kept * 1000))
            self.body.addWidget(bar)
        row = QHBoxLayout()
        row.setSpacing(8)
        again = self.tr("Start again") if kept is None else self.tr("Resume")
        for text, role, on in ((again, "primary", True), (self.tr("Discard"), "", False)):
            made = button(text, lambda on=on: self.settled.emit(on), role)
            made.setAccessibleName(f"{text}: {record.title}")
            row.addWidget(made)
        row.addStretch(1)
        self.body.addLayout(row)


class JobDrawer(QFrame):
    """What runs, then what waits in the order of the queue, what can go on, and what has ended, newest first.

    ``closed`` when the person puts it away.
    """

    closed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        set_role(self, "drawer")
        self.setFixedWidth(WIDTH)
        self.context = context
        self._rows: dict[str, _Row] = {}
        self._left: dict[str, _Left] = {}
        head = QHBoxLayout()
        head.addWidget(label(self.tr("Jobs"), "heading"), 1)
        self._clear = button(self.tr("Clear ended"), self._clear_ended, "quiet")
        head.addWidget(self._clear)
        head.addWidget(icon_button(context.theme, "close", self.tr("Close the jobs drawer"), self.closed.emit))
        self._list = QVBoxLayout()
        self._list.setSpacing(8)
        self._list.addStretch(1)
        inside = QWidget()
        set_role(inside, "page")
        inside.setLayout(self._list)
        self._list.setContentsMargins(0, 0, 4, 0)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setWidget(inside)
        self._empty = EmptyState(
            "jobs",
            self.tr("No jobs"),
            self.tr(
                "Conversions and measurements run here, one after another, downloads beside them. "
                "You can go on working meanwhile."
            ),
            theme=context.theme,
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 8, 12)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self._empty, 1)
        layout.addWidget(self._scroll, 1)
        for record in context.jobs.unfinished():
            self._add_left(record)
        context.jobs.added.connect(self._refill)
        context.jobs.changed.connect(self._refill)
        self._refill()

    def rows(self) -> list[_Row]:
        """The rows of jobs, from the top."""
        return [widget for widget in self._shown() if isinstance(widget, _Row)]

    def left(self) -> list[_Left]:
        """The cards of work that an earlier run left undone, from the top."""
        return list(self._left.values())

    def _refill(self, job: object = None) -> None:
        known = {job.id for job in self.context.jobs.jobs}
        for identifier in [identifier for identifier in self._rows if identifier not in known]:
            self._drop(self._rows.pop(identifier))
        for entry in self.context.jobs.jobs:
            if entry.id not in self._rows:
                self._rows[entry.id] = _Row(entry, self.context)
        for row in self._rows.values():
            queue = self.context.jobs.queue(lane(row.job.kind))
            row.show_place(queue.index(row.job) if row.job in queue else -1, len(queue))
        self._arrange()
        empty = not self._rows and not self._left
        self._empty.setVisible(empty)
        self._scroll.setVisible(not empty)
        self._clear.setVisible(any(entry.state in ENDED and entry.kept is None for entry in self.context.jobs.jobs))

    def _arrange(self) -> None:
        """Bring the cards into their order, touching nothing when they are."""
        jobs = self.context.jobs.jobs
        rank = {RUNNING: 0, QUEUED: 1, PAUSED: 3}
        ranked: list[tuple[int, int, QWidget]] = [
            (
                rank.get(job.state, 3 if job.kept is not None else 4),
                number if job.is_active else -number,
                self._rows[job.id],
            )
            for number, job in enumerate(jobs)
        ]
        ranked += [(2, number, card) for number, card in enumerate(self._left.values())]
        wanted = [card for _, _, card in sorted(ranked, key=lambda entry: entry[:2])]
        if wanted != self._shown():
            for place, card in enumerate(wanted):
                self._list.insertWidget(place, card)

    def _drop(self, card: QWidget) -> None:
        self._list.removeWidget(card)
        card.hide()
        card.deleteLater()

    def _shown(self) -> list[QWidget]:
        found = [self._list.itemAt(number).widget() for number in range(self._list.count())]
        return [card for card in found if isinstance(card, _Row | _Left)]

    def _clear_ended(self) -> None:
        self.context.jobs.clear_ended()

    def _add_left(self, record: Record) -> None:
        card = _Left(record)
        card.settled.connect(lambda on: self._settle(card, on))
        self._left[record.id] = card

    def _settle(self, card: _Left, go_on: bool) -> None:
        self._drop(self._left.pop(card.record.id))
        if go_on:
            self.context.jobs.resume(card.record)
        else:
            self.context.jobs.drop(card.record)
        self._refill()
