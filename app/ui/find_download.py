"""Under a model's files: exactly what a download would take, the buttons that begin it, and how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from app.hub.messages import DownloadPlan, DownloadPlanned, DownloadResult, FileGroup, Repository
from app.hub.planning import MARGIN
from app.jobs import DONE, FAILED, PAUSED, QUEUED
from app.ui import format as fmt
from app.ui.hub_errors import actions_for
from app.ui.job_center import Job
from app.ui.theme import set_role
from app.ui.widgets import Action, ElidedLabel, ErrorCard, ProgressLine, button, label, tip
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

SMALL = (".json", ".model", ".txt", ".jinja")
"""Endings of what describes weights: config, vocabulary, template."""


class DownloadPanel(QWidget):
    """The plan of one group. ``convert_when_done`` carries the job of "Download and convert"."""

    convert_when_done = Signal(object)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._repository: Repository | None = None
        self._group: FileGroup | None = None
        self._request = 0
        self._job: Job | None = None
        self._fits = True
        self.plan: DownloadPlan | None = None
        self._sum = label("", wrap=True)
        self._where = ElidedLabel()
        set_role(self._where, "small")
        self.progress = ProgressLine()
        self.progress.button.setText(self.tr("Pause"))
        self.progress.button.setAccessibleName(self.tr("Pause the download"))
        self.progress.cancelled.connect(self._pause)
        self.error = ErrorCard()
        self.download = button(self.tr("Download"), self._download, "primary")
        self.convert = button(self.tr("Download and convert"), self._download_and_convert)
        self._after = QHBoxLayout()
        self._after.setSpacing(8)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.download)
        row.addWidget(self.convert)
        row.addLayout(self._after)
        row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for part in (self._sum, self._where, self.progress, self.error):
            layout.addWidget(part)
        layout.addLayout(row)
        context.jobs.added.connect(self._job_added)
        context.jobs.finished.connect(self._job_ended)
        context.jobs.changed.connect(self._show_job)
        self.show_group(None, None)

    def show_group(self, repository: Repository | None, group: FileGroup | None) -> None:
        """Plan the download of a group; nothing without one."""
        self._context.hub.forget(self._request)
        self._repository, self._group, self.plan = repository, group, None
        self.error.clear()
        self._follow(None)
        if repository is None or group is None:
            self._sum.setText(self.tr("This repository has no files that hold a model.") if repository else "")
            self._where.setText("")
            self._show_job()
            return
        if group.missing:
            missing = self.tr("{0} of its parts are not in the repository: it cannot be used.")
            self._say(missing.format(group.missing), bad=True)
            self._show_job()
            return
        self._say(self.tr("Looking at what is here already…"))
        conversion = self.for_conversion()
        files = () if conversion else self._files(repository, group)
        name = f"{repository.id}@{repository.revision}"
        self._request = self._context.hub.plan(name, self._planned, files, conversion=conversion)
        self._show_job()

    def for_conversion(self) -> bool:
        """Whether the group is what a conversion of this model reads."""
        repository, group = self._repository, self._group
        return bool(repository and group and set(group.files) <= set(repository.for_conversion))

    def words(self) -> str:
        """What is said of the plan."""
        return "\n".join(part.text() for part in (self._sum, self._where) if part.text())

    @staticmethod
    def _files(repository: Repository, group: FileGroup) -> tuple[str, ...]:
        """A GGUF file is whole by itself; weights of another kind are nothing without what describes them."""
        if group.kind in ("gguf", "projector"):
            return group.files
        top = [file.path for file in repository.files if "/" not in file.path]
        return (*group.files, *(path for path in top if path.endswith(SMALL) and path not in group.files))

    def _planned(self, answer: DownloadPlanned | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self._say("")
            self.error.show_error(answer, [(self.tr("Try again"), self._again)])
            self._show_job()
            return
        self.plan = plan = answer.plan
        fits = not plan.to_fetch or plan.to_fetch + MARGIN <= plan.disk_free
        count = len(plan.files)
        files = self.tr("1 file") if count == 1 else self.tr("{0} files").format(count)
        here = plan.bytes - plan.to_fetch
        parts = [f"{files}, {fmt.size(plan.bytes)}"]
        if here > 0:
            parts.append(self.tr("{0} here already").format(fmt.size(here)))
        left = self.tr("{0} to download").format(fmt.size(plan.to_fetch))
        parts.append(left if plan.to_fetch else self.tr("nothing to download"))
        parts.append(self.tr("{0} free on the disk").format(fmt.size(plan.disk_free)))
        if self._group is not None and self._group.memory:
            parts.append(self.tr("needs {0} of memory to run").format(fmt.size(self._group.memory)))
        text = " · ".join(parts)
        if not fits:
            lacking = fmt.size(plan.to_fetch + MARGIN - plan.disk_free)
            text += "\n" + self.tr("There is not enough disk space: {0} are missing.").format(lacking)
        self._say(text, bad=not fits)
        self._sum.setToolTip(tip("\n".join(f"{file.path}: {fmt.size(file.bytes)}" for file in plan.files[:40])))
        self._where.setText(self.tr("To {0}").format(fmt.path(plan.folder)))
        self._fits = fits
        self._follow(self._context.downloads.job_of(plan))

    def _say(self, text: str, *, bad: bool = False) -> None:
        self._sum.setText(text)
        self._sum.setToolTip("")
        set_role(self._sum, "bad" if bad else "")
        self._where.setText("")

    # ---- the job -----------------------------------------------------------------------------------------------

    def _title(self) -> str:
        repository, group = self._repository, self._group
        assert repository is not None and group is not None
        return self.tr("Download {0}").format(f"{repository.id.rpartition('/')[2]} {group.type}".strip())

    def _download(self) -> Job | None:
        if self.plan is None:
            return None
        job = self._context.downloads.submit(self.plan, self._title())
        self._follow(job)
        return job

    def _download_and_convert(self) -> None:
        job = self._download()
        if job is not None:
            self.convert_when_done.emit(job)

    def _pause(self) -> None:
        if self._job is not None:
            if self._job.state == QUEUED:
                self._job.cancel()
            else:
                self._job.pause()

    def _follow(self, job: Job | None) -> None:
        self._job = job
        self._show_job()

    def _job_added(self, job: Job) -> None:
        """It may be another try at what is shown."""
        if self.plan is not None and self._context.downloads.job_of(self.plan) is job:
            self._follow(job)

    def _job_ended(self, job: Job) -> None:
        if job is self._job:
            if job.state == DONE or job.kept is None:
                # The plan has changed: what was to come is here, or nothing is any more.
                self._again()
            else:
                self._show_job()

    def _show_job(self) -> None:
        """Bring buttons and bar in line with the plan and the job that fetches it."""
        job, plan = self._job, self.plan
        active = job is not None and job.is_active
        done = job is not None and job.state == DONE and isinstance(job.result, DownloadResult)
        paused = job is not None and job.kept is not None and not active
        for part in (self.download, self.convert):
            part.setEnabled(plan is not None and self._fits)
        offered = not active and not done and plan is not None
        self.download.setVisible(offered)
        self.convert.setVisible(offered and self.for_conversion())
        text = self.tr("Add to the library") if plan is not None and not plan.to_fetch else self.tr("Download")
        self.download.setText(self.tr("Resume") if paused else text)
        self.download.setAccessibleName(self.download.text())
        self.progress.setVisible(active)
        self._show_after(job if done else None)
        if job is None:
            return
        if active:
            waits = job.state == QUEUED
            self.progress.button.setText(self.tr("Cancel") if waits else self.tr("Pause"))
            self.progress.button.setAccessibleName(f"{self.progress.button.text()}: {job.title}")
            self.progress.button.setEnabled(not job.stopping)
            what = self.tr("Waiting for its turn") if waits else job.label or self.tr("Beginning")
            rate = fmt.rate(job.rate) if job.rate else ""
            self.progress.set_progress(0.0 if waits else job.progress, what, rate, job.seconds_left)
        if job.state == FAILED and job.error is not None:
            if job.error is not self.error.error:
                self.error.show_error(job.error, self._ways_on(job))
        elif plan is not None:
            self.error.clear()
        if job.state == PAUSED and job.kept is not None:
            kept = self.tr("Paused at {0}; what has come is kept.")
            self._where.setText(kept.format(fmt.percent(job.kept, 0)))

    def _ways_on(self, job: Job) -> list[Action]:
        repo = self._repository.id if self._repository is not None else ""
        return actions_for(self._context, self, job.error, job.retry, self._again, repo=repo)

    def _again(self) -> None:
        """Plan anew."""
        self.show_group(self._repository, self._group)

    def _show_after(self, job: Job | None) -> None:
        """What can be done with a finished download; nothing for None."""
        if (job is not None) == bool(self._after.count()):
            return
        while self._after.count():
            item = self._after.takeAt(0)
            item.widget().hide()
            item.widget().deleteLater()
        for text, run in self._context.downloads.actions(job) if job is not None else []:
            self._after.addWidget(button(text, run, "" if self._after.count() else "primary"))
