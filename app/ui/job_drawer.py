"""The drawer on the right: every job with its progress, and what an earlier run of the program left undone."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QProgressBar, QScrollArea, QVBoxLayout, QWidget

from app.jobs import Record
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.job_center import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job
from app.ui.theme import set_role
from app.ui.widgets import Card, ElidedLabel, EmptyState, button, details, icon_button, label

WIDTH = 336


class _Row(Card):
    """One job."""

    def __init__(self, job: Job, parent: QWidget | None = None) -> None:
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
        self._bar = QProgressBar()
        self._bar.setRange(0, 1000)
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName(self.tr("Progress of {0}").format(job.title))
        self.body.addWidget(self._bar)
        self._what = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self._what, "small")
        self.body.addWidget(self._what)
        self._reason = label("", "bad", wrap=True)
        self.body.addWidget(self._reason)
        self._cancel = button(self.tr("Cancel"), job.cancel)
        self._retry = button(self.tr("Retry"), job.retry, "primary")
        self._copy = button(self.tr("Copy details"), self._copy_details, "quiet")
        row = QHBoxLayout()
        row.setSpacing(8)
        for made, name in ((self._cancel, self.tr("Cancel {0}")), (self._retry, self.tr("Retry {0}"))):
            made.setAccessibleName(name.format(job.title))
            row.addWidget(made)
        row.addWidget(self._copy)
        row.addStretch(1)
        self.body.addLayout(row)
        job.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        job = self.job
        names = {
            QUEUED: self.tr("Waiting"),
            RUNNING: fmt.percent(job.progress, 0),
            DONE: self.tr("Done in {0}").format(fmt.seconds(job.seconds)),
            FAILED: self.tr("Failed"),
            CANCELLED: self.tr("Cancelled"),
        }
        self._state.setText(names[job.state])
        set_role(self._state, {FAILED: "bad", DONE: "good"}.get(job.state, "small"))
        self._bar.setVisible(job.state == RUNNING)
        self._bar.setValue(round(job.progress * 1000))
        facts = [job.label]
        if job.rate:
            facts.append(fmt.rate(job.rate))
        if job.seconds_left is not None:
            facts.append(self.tr("{0} left").format(fmt.seconds(job.seconds_left)))
        text = " · ".join(fact for fact in facts if fact)
        self._what.setText(text)
        self._what.setVisible(job.state == RUNNING and bool(text))
        self._reason.setText(f"{job.error.title}\n{job.error.hint}".strip() if job.error else "")
        self._reason.setVisible(job.error is not None)
        self._cancel.setVisible(job.is_active)
        self._retry.setVisible(job.state in (FAILED, CANCELLED))
        self._copy.setVisible(job.error is not None)

    def _copy_details(self) -> None:
        if self.job.error is not None:
            QGuiApplication.clipboard().setText(details(self.job.error))


class JobDrawer(QFrame):
    """All jobs, newest first. ``closed`` when the person puts it away."""

    closed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        set_role(self, "drawer")
        self.setFixedWidth(WIDTH)
        self._context = context
        self._rows: dict[str, _Row] = {}
        self._left: dict[str, Card] = {}
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
            self.tr("Conversions and measurements run here, one after another. You can go on working meanwhile."),
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
        """The rows, newest first."""
        return list(reversed(self._rows.values()))

    def _refill(self, job: object = None) -> None:
        known = {job.id for job in self._context.jobs.jobs}
        for identifier in [identifier for identifier in self._rows if identifier not in known]:
            row = self._rows.pop(identifier)
            row.hide()
            row.deleteLater()
        for entry in self._context.jobs.jobs:
            if entry.id not in self._rows:
                self._rows[entry.id] = _Row(entry)
                self._list.insertWidget(0, self._rows[entry.id])
        empty = not self._rows and not self._left
        self._empty.setVisible(empty)
        self._scroll.setVisible(not empty)
        self._clear.setVisible(any(not entry.is_active for entry in self._context.jobs.jobs))

    def _clear_ended(self) -> None:
        self._context.jobs.clear_ended()

    def _add_left(self, record: Record) -> None:
        card = Card("")
        card.body.setContentsMargins(12, 12, 12, 12)
        card.body.addWidget(ElidedLabel(record.title))
        card.body.addWidget(label(self.tr("Was not finished when the program ended."), "small", wrap=True))
        row = QHBoxLayout()
        again = button(self.tr("Start again"), lambda: self._settle(record, again=True), "primary")
        again.setAccessibleName(self.tr("Start again: {0}").format(record.title))
        drop = button(self.tr("Forget"), lambda: self._settle(record, again=False), "quiet")
        drop.setAccessibleName(self.tr("Forget: {0}").format(record.title))
        row.addWidget(again)
        row.addWidget(drop)
        row.addStretch(1)
        card.body.addLayout(row)
        self._left[record.id] = card
        self._list.insertWidget(0, card)

    def _settle(self, record: Record, *, again: bool) -> None:
        card = self._left.pop(record.id)
        card.hide()
        card.deleteLater()
        if again:
            self._context.jobs.resume(record)
        else:
            self._context.jobs.drop(record)
        self._refill()
