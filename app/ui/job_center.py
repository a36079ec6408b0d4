"""Long work outside the window, each job in a worker of its own: what computes one at a time, downloads beside it.

A job's arguments stand in a folder of its own (:mod:`app.jobs`) until it has ended, so that work cut off by a crash or
by closing the window can go on at the next start.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, Signal

from app import conversion, downloads, fit_files, jobs, journals, protocol
from app.child import Verdict
from app.fit_messages import FitProgress, Wish
from app.hub import messages
from app.jobs import CANCELLED, DONE, ENDED, FAILED, PAUSED, QUEUED, RUNNING
from app.measure_messages import MeasureImatrix, MeasureQuality
from app.ui.fit_figures import progress_words
from app.ui.process import WorkerProcess
from converter.spec import Planned, QuenchError


class Job(QObject):
    """One piece of long work. ``event`` carries the worker's messages, ``changed`` any change of the attributes.

    ``progress`` runs 0 to 1; ``label`` is what it does now; ``rate`` in bytes per second where it reads or writes;
    ``owner`` names the pages that show how it ends (empty: the pages for that kind of work).
    ``result`` is the terminal event of a job that is ``done``, ``error`` the QuenchError of one that ``failed``;
    ``outputs`` are the files that a conversion said it would make. ``kept`` is how much of the work (0 to 1) can be
    gone on with after a pause or a failure, None if nothing. ``stopping`` is the state that it was asked to come to.
    ``transfer`` is how the files of a download stand, None for other work.
    """

    event = Signal(object)  # type: ignore[assignment]  # hides QObject.event, which Qt calls past Python
    changed = Signal()
    finished = Signal()

    def __init__(  # noqa: PLR0917 - only the center makes them
        self, center: JobCenter, kind: str, title: str, command: Any, owner: str = "", identifier: str = ""
    ) -> None:
        super().__init__(center)
        self.id = identifier or uuid.uuid4().hex[:12]
        self.owner = owner
        self.kind = kind
        self.title = title
        self.command = jobs.placed(command, self.id)
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
        self.outputs: tuple[str, ...] = ()
        self.kept: float | None = None
        self.stopping = ""
        self.place = time.time()
        self.transfer = downloads.Transfer(command) if isinstance(command, messages.Download) else None
        self._center = center

    def cancel(self) -> None:
        """Stop and leave nothing half-written: at once if it does not run, else by the ladder.

        The state changes when the worker has gone. What a quality measurement has finished stays for the same one
        (:mod:`app.journals`) unless it was paused or had failed, and is given up now.
        """
        self._center._cancel(self)

    def pause(self) -> None:
        """Stop, but keep what is finished; the state changes when the worker has gone."""
        self._center._pause(self)

    def go_on(self) -> None:
        """Queue a paused or failed job again, to go on from what it kept."""
        self._center._go_on(self)

    def move(self, by: int) -> None:
        """Earlier (-1) or later (1) among the jobs that wait; nothing at the ends of the queue."""
        self._center._move(self, by)

    @property
    def can_pause(self) -> bool:
        """Whether pausing keeps anything for this kind of work."""
        return self.state == RUNNING and not self.stopping and jobs.can_resume(self.command)

    def retry(self) -> Job:
        """The same work as a new job; a job that has kept something goes on itself."""
        if self.kept is not None:
            self.go_on()
            return self
        return self._center.submit(self.kind, self.title, self.command, self.owner)

    def pid(self) -> int:
        """Process id of its worker, 0 when it does not run."""
        return self.process.pid() if self.process is not None else 0

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (QUEUED, RUNNING)


class JobCenter(QObject):
    """The queue. ``added`` carries the new job, ``resumed`` one queued again, ``started`` one whose worker runs now,
    ``finished`` one that came to rest. ``changed`` comes when any job changed its state or progress.

    ``jobs`` are all jobs of this window; those that wait run in the order of the list, each in its lane
    (:data:`app.jobs.AT_ONCE`).
    """

    added = Signal(object)
    started = Signal(object)
    resumed = Signal(object)
    changed = Signal()
    finished = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.jobs: list[Job] = []
        self._closing = False

    def submit(self, kind: str, title: str, command: Any, owner: str = "", *, identifier: str = "") -> Job:
        """Queue work for the worker ``kind`` (``convert``, ``measure``, ``fit``, ``download``); it starts in its turn.

        ``owner`` names the pages that show its end (keys, a space between); on others the window posts a notice.
        ``identifier``: of a record whose folder the job takes over.
        """
        job = Job(self, kind, title, command, owner, identifier)
        self.jobs.append(job)
        self._note(job)
        self.added.emit(job)
        self._next()
        self.changed.emit()
        return job

    def active(self) -> list[Job]:
        """Jobs that wait or run, in order."""
        return [job for job in self.jobs if job.is_active]

    def running(self, kind: str) -> list[Job]:
        """Jobs of a kind whose workers run."""
        return [job for job in self.jobs if job.kind == kind and job.state == RUNNING]

    def queue(self, lane: str) -> list[Job]:
        """Jobs that wait in a lane, in the order in which they will run."""
        return [job for job in self.jobs if job.state == QUEUED and jobs.lane(job.kind) == lane]

    def unfinished(self) -> list[jobs.Record]:
        """What earlier runs of the program left undone, in the order of their queue."""
        mine = {job.id for job in self.jobs}
        return [record for record in jobs.remembered() if record.id not in mine]

    def resume(self, record: jobs.Record) -> Job:
        """Go on with left-over work, or start it again if nothing of it was kept."""
        job = self.submit(record.kind, record.title, jobs.resuming(record.command), identifier=record.id)
        if not job.outputs:
            job.outputs = record.outputs
            self._note(job)
        return job

    def drop(self, record: jobs.Record) -> None:
        """Forget left-over work, and remove its half-written files."""
        self._discard(record.command, record.outputs)
        if isinstance(record.command, MeasureQuality):
            journals.discard(record.command)
        jobs.forget(record.id)

    def clear_ended(self) -> None:
        """Take jobs that have ended off the list; what can still go on stays."""
        ended = [job for job in self.jobs if job.state in ENDED and job.kept is None]
        self.jobs = [job for job in self.jobs if job not in ended]
        for job in ended:
            job.deleteLater()
        self.changed.emit()

    def processes(self) -> list[WorkerProcess]:
        """Running workers; also says that nothing may start any more (used at the end of the program)."""
        self._closing = True
        return [job.process for job in self.jobs if job.process is not None]

    def _next(self) -> None:
        while not self._closing and (job := self._ready()) is not None:
            self._start(job)

    def _ready(self) -> Job | None:
        """The first job that waits in a lane with room."""
        for lane, limit in jobs.AT_ONCE.items():
            busy = sum(job.state == RUNNING and jobs.lane(job.kind) == lane for job in self.jobs)
            if busy < limit and (waiting := self.queue(lane)):
                return waiting[0]
        return None

    def _note(self, job: Job) -> None:
        """Write the job's record. A full disk is for the job itself to report; without a record it can only not be
        resumed after a crash.
        """
        with contextlib.suppress(OSError):
            record = jobs.Record(job.id, job.kind, job.title, job.command, 0, job.state, job.outputs, job.place)
            jobs.remember(record)

    def _start(self, job: Job) -> None:
        process = WorkerProcess(job.kind, job)
        job.process = process
        job.state = jobs.moved(job.state, RUNNING)
        job.error = None
        job.started = time.monotonic()
        process.event.connect(lambda message: self._heard(job, message))
        process.finished.connect(lambda verdict: self._ended(job, verdict))
        process.start()
        process.send(job.command)
        self.started.emit(job)
        job.changed.emit()

    def _heard(self, job: Job, message: object) -> None:
        if job.transfer is not None:
            job.transfer.take(message)
        if isinstance(message, protocol.Progress | protocol.Status | messages.DownloadProgress | FitProgress):
            job.progress = min(1.0, message.done / message.total) if message.total else 0.0
            job.seconds_left = message.seconds_left
            job.label = _label(job, message)
            job.memory = getattr(message, "memory", 0)
            job.rate = getattr(message, "rate", None)
            job.event.emit(message)
            job.changed.emit()
            self.changed.emit()
            return
        if isinstance(message, Planned):
            job.outputs = conversion.outputs_of(message)
            self._note(job)
        job.event.emit(message)

    def _ended(self, job: Job, verdict: Verdict) -> None:
        process, job.process = job.process, None
        job.seconds = time.monotonic() - (job.started or time.monotonic())
        job.seconds_left = None
        job.rate = None
        stopping, job.stopping = job.stopping, ""
        died = verdict.error is not None and verdict.error.code == "engine_died"
        if verdict.ok:
            job.state, job.progress = jobs.moved(job.state, DONE), 1.0
            job.result = process.terminal if process is not None else None
        elif verdict.paused or (died and stopping == PAUSED):
            job.state, job.kept = jobs.moved(job.state, PAUSED), kept_fraction(job.command, job.outputs)
        elif verdict.cancelled or verdict.error is None or (died and stopping == CANCELLED):
            job.state = jobs.moved(job.state, CANCELLED)
            self._discard(job.command, job.outputs)
        else:
            job.state, job.error = jobs.moved(job.state, FAILED), verdict.error
            conversion.tidy(job.outputs)
            job.kept = kept_fraction(job.command, job.outputs)
        if process is not None:
            process.deleteLater()
        if job.kept is not None:
            job.progress = job.kept
        if job.state == PAUSED or job.kept is not None:
            self._note(job)
        elif not self._closing or job.state != FAILED:
            jobs.forget(job.id)
        self._tell(job)

    def _tell(self, job: Job) -> None:
        """A job has come to rest."""
        job.changed.emit()
        job.finished.emit()
        self.finished.emit(job)
        self._next()
        self.changed.emit()

    def _cancel(self, job: Job) -> None:
        if job.process is not None:
            job.stopping = CANCELLED
            job.process.stop()
            job.changed.emit()
        elif CANCELLED in jobs.MOVES[job.state]:
            if job.kept is not None and isinstance(job.command, MeasureQuality):
                journals.discard(job.command)
            job.state, job.kept, job.error = jobs.moved(job.state, CANCELLED), None, None
            self._discard(job.command, job.outputs)
            jobs.forget(job.id)
            self._tell(job)

    def _pause(self, job: Job) -> None:
        if job.can_pause and job.process is not None:
            job.stopping = PAUSED
            job.process.pause()
            job.changed.emit()

    def _go_on(self, job: Job) -> None:
        job.state = jobs.moved(job.state, QUEUED)
        job.command, job.kept, job.error = jobs.resuming(job.command), None, None
        self._note(job)
        self.resumed.emit(job)
        self._next()
        job.changed.emit()
        self.changed.emit()

    def _move(self, job: Job, by: int) -> None:
        queue = self.queue(jobs.lane(job.kind))
        other = queue.index(job) + by if job in queue else -1
        if not 0 <= other < len(queue):
            return
        neighbour = queue[other]
        here, there = self.jobs.index(job), self.jobs.index(neighbour)
        self.jobs[here], self.jobs[there] = neighbour, job
        job.place, neighbour.place = neighbour.place, job.place
        self._note(job)
        self._note(neighbour)
        self.changed.emit()

    def _discard(self, command: Any, outputs: tuple[str, ...]) -> None:
        """Remove what an interrupted job has left for another run."""
        conversion.discard(outputs)
        with contextlib.suppress(OSError):
            if isinstance(command, MeasureImatrix):
                Path(command.output + ".checkpoint").unlink(missing_ok=True)
            elif isinstance(command, messages.Download):
                wanted = [
                    job.command for job in self.jobs if job.kind == "download" and job.state not in (DONE, CANCELLED)
                ]
                downloads.discard(command, [other for other in wanted if other is not command])


def _label(job: Job, message: Any) -> str:
    """What a job is doing."""
    if isinstance(message, FitProgress):
        return progress_words(message)
    return job.transfer.doing if job.transfer is not None else str(message.label)


def kept_fraction(command: Any, outputs: tuple[str, ...]) -> float | None:
    """How much of interrupted work (0 to 1) another run can go on with; None if nothing."""
    if isinstance(command, messages.Download):
        return downloads.kept_fraction(command)
    if isinstance(command, MeasureQuality):
        return journals.kept_fraction(command)
    if isinstance(command, Wish):
        return fit_files.finished(Path(command.work))
    return conversion.kept_fraction(outputs)
