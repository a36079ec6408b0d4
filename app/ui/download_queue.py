"""Downloads among the jobs: one limit on all of them, the way into the library, and what is told at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject

from app import downloads
from app.hub import messages
from app.hub.messages import DownloadPlan
from app.jobs import CANCELLED, DONE, FAILED
from app.ui.job_center import Job
from app.ui.notify import Action, Notice

if TYPE_CHECKING:
    from app.ui.context import Context

KIND = "download"


class DownloadQueue(QObject):
    """Submits downloads, divides the bandwidth among those that run, and puts what they bring into the library."""

    def __init__(self, context: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        context.jobs.started.connect(self._share)
        context.jobs.finished.connect(self._ended)
        context.settings_changed.connect(self._share)

    def submit(self, plan: DownloadPlan, title: str) -> Job:
        """Download what a plan says. The same download, if it is not over, goes on instead of a second one."""
        command = downloads.command(plan)
        for job in self._context.jobs.jobs:
            if job.kind == KIND and job.state not in (DONE, CANCELLED) and _same(job.command, command):
                if not job.is_active and job.kept is not None:
                    job.go_on()
                if job.is_active:
                    return job
        return self._context.jobs.submit(KIND, title, command)

    def job_of(self, plan: DownloadPlan) -> Job | None:
        """The newest job that fetches the files of a plan."""
        command = downloads.command(plan)
        found = [job for job in self._context.jobs.jobs if job.kind == KIND and _same(job.command, command)]
        return found[-1] if found else None

    def notice(self, job: Job) -> Notice | None:
        """What the window says when a download has come to rest; None if there is nothing to say."""
        if job.state == FAILED and job.error is not None:
            again = self.tr("Retry") if job.kept is None else self.tr("Resume")
            return Notice("bad", f"{job.title}: {job.error.title}", job.error, ((again, job.retry),))
        if job.state != DONE:
            return None
        return Notice("good", self.tr("Done: {0}").format(job.title), None, tuple(self.actions(job)[:2]))

    def actions(self, job: Job) -> list[Action]:
        """What can be done with what a finished download has brought."""
        if not isinstance(job.result, messages.DownloadResult):
            return []
        found: list[Action] = []
        for path in downloads.models_in(job.result)[:1]:
            if path.lower().endswith(".gguf"):
                found.append((self.tr("Chat"), lambda path=path: self._go("chat", model=path)))
            found.append((self.tr("Convert"), lambda path=path: self._go("convert", source=path)))
            found.append((self.tr("Show in the library"), lambda path=path: self._go("library", add=path)))
        return found

    def _go(self, page: str, **request: str) -> None:
        self._context.navigate.emit(page, dict(request))

    def _share(self, *_: object) -> None:
        """Tell each running download its part of the limit."""
        running = self._context.jobs.running(KIND)
        total = self._context.settings.download_limit
        for job in running:
            if job.process is not None:
                job.process.send(messages.LimitRate(max(1, total // len(running)) if total else 0))

    def _ended(self, job: Job) -> None:
        if job.kind != KIND:
            return
        self._share()
        if isinstance(job.result, messages.DownloadResult):
            for path in downloads.models_in(job.result):
                self._context.library.add(str(Path(path)))


def _same(one: messages.Download, other: messages.Download) -> bool:
    return (one.repo, one.revision, one.files, one.to) == (other.repo, other.revision, other.files, other.to)
