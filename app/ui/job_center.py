"""Long work outside the window: conversions and measurements, one at a time, each in a worker of its own.

A job's arguments stand in ``jobs/<id>.json`` until it has ended, so that work cut off by a crash or by closing the
window can be offered again at the next start.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any

from PySide6.QtCore import QObject, Signal

from app import conversion, jobs, protocol
from app.child import Verdict
from app.ui.process import WorkerProcess
from converter.spec import Planned, QuenchError

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)


class Job(QObject):
    """One piece of long work. ``event`` carries the worker's messages, ``changed`` any change of the attributes.

    ``progress`` runs 0 to 1; ``label`` is what it does now; ``rate`` in bytes per second where it reads or writes;
    ``owner`` names the pages that show how it ends (empty: the pages for that kind of work).
    ``result`` is the terminal event of a job that is ``done``, ``error`` the QuenchError of one that ``failed``;
    ``planned`` is what a conversion said that it would make.
    """

    event = Signal(object)  # type: ignore[assignment]  # hides QObject.event, which Qt calls past Python
    changed = Signal()
    finished = Signal()

    def __init__(self, center: JobCenter, kind: str, title: str, command: Any, owner: str = "") -> None:
        super().__init__(center)
        self.id = uuid.uuid4().hex[:12]
        self.owner = owner
        self.kind = kind
        self.title = title
        self.command = command
        self.state = QUEUED
        self.progress = 0.0
        self.label = ""
        self.rate: float | None = None
        self.memory = 0
        self.seconds_left: float | None = None
        self.started: float | None = None
        self.seconds = 0.0
        self.error: QuenchError | None = None
        self.result: Any = None
        self.process: WorkerProcess | None = None
        self.planned: Planned | None = None
        self._center = center

    def cancel(self) -> None:
        """Stop: at once if it waits, by the ladder if it runs (the state changes when the worker has gone)."""
        self._center._cancel(self)

    def retry(self) -> Job:
        """The same work as a new job."""
        return self._center.submit(self.kind, self.title, self.command, self.owner)

    def pid(self) -> int:
        """Process id of its worker, 0 when it does not run."""
        return self.process.pid() if self.process is not None else 0

    @property
    def is_active(self) -> bool:
        return self.state not in ENDED


class JobCenter(QObject):
    """The queue. ``added`` carries the new job; ``changed`` comes when any job changed its state or progress."""

    added = Signal(object)
    changed = Signal()
    finished = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.jobs: list[Job] = []
        self._closing = False

    def submit(self, kind: str, title: str, command: Any, owner: str = "") -> Job:
        """Queue work for the worker ``kind`` (``convert`` or ``measure``); it starts when its turn comes.

        ``owner`` names the pages that show its end (keys, a space between); on others the window posts a notice.
        """
        job = Job(self, kind, title, command, owner)
        self.jobs.append(job)
        # A full disk is for the job itself to report; without a record it can only not be resumed after a crash.
        with contextlib.suppress(OSError):
            jobs.remember(jobs.Record(job.id, kind, title, command))
        self.added.emit(job)
        self._next()
        self.changed.emit()
        return job

    def active(self) -> list[Job]:
        """Jobs that wait or run, in order."""
        return [job for job in self.jobs if job.is_active]

    def unfinished(self) -> list[jobs.Record]:
        """What earlier runs of the program left undone, oldest first."""
        mine = {job.id for job in self.jobs}
        return [record for record in jobs.remembered() if record.id not in mine]

    def resume(self, record: jobs.Record) -> Job:
        """Start left-over work again."""
        jobs.forget(record.id)
        return self.submit(record.kind, record.title, record.command)

    def drop(self, record: jobs.Record) -> None:
        """Forget left-over work."""
        jobs.forget(record.id)

    def clear_ended(self) -> None:
        """Take jobs that have ended off the list."""
        ended = [job for job in self.jobs if not job.is_active]
        self.jobs = self.active()
        for job in ended:
            job.deleteLater()
        self.changed.emit()

    def processes(self) -> list[WorkerProcess]:
        """Running workers; also says that nothing may start any more (used at the end of the program)."""
        self._closing = True
        return [job.process for job in self.jobs if job.process is not None]

    def _next(self) -> None:
        if self._closing or any(job.state == RUNNING for job in self.jobs):
            return
        for job in self.jobs:
            if job.state == QUEUED:
                self._start(job)
                return

    def _start(self, job: Job) -> None:
        process = WorkerProcess(job.kind, job)
        job.process = process
        job.state = RUNNING
        job.started = time.monotonic()
        process.event.connect(lambda message: self._heard(job, message))
        process.finished.connect(lambda verdict: self._ended(job, verdict))
        process.start()
        process.send(job.command)
        job.changed.emit()

    def _heard(self, job: Job, message: object) -> None:
        if isinstance(message, protocol.Progress | protocol.Status):
            job.progress = min(1.0, message.done / message.total) if message.total else 0.0
            job.seconds_left = message.seconds_left
            job.label = message.label
            job.memory = message.memory
            job.rate = message.rate if isinstance(message, protocol.Progress) else None
            job.event.emit(message)
            job.changed.emit()
            self.changed.emit()
            return
        if isinstance(message, Planned):
            job.planned = message
        job.event.emit(message)

    def _ended(self, job: Job, verdict: Verdict) -> None:
        process, job.process = job.process, None
        job.seconds = time.monotonic() - (job.started or time.monotonic())
        job.seconds_left = None
        job.rate = None
        if verdict.ok:
            job.state, job.progress = DONE, 1.0
            job.result = process.terminal if process is not None else None
        elif verdict.cancelled or (job.error is None and verdict.error is None):
            job.state = CANCELLED
        else:
            job.state, job.error = FAILED, verdict.error
            conversion.tidy(job.planned)
        if process is not None:
            process.deleteLater()
        if not self._closing:
            jobs.forget(job.id)
        job.changed.emit()
        job.finished.emit()
        self.finished.emit(job)
        self._next()
        self.changed.emit()

    def _cancel(self, job: Job) -> None:
        if job.state == QUEUED:
            job.state = CANCELLED
            jobs.forget(job.id)
            job.changed.emit()
            job.finished.emit()
            self.finished.emit(job)
            self.changed.emit()
        elif job.process is not None:
            job.process.stop()
