"""A fit from the choices on the Convert page to its job: what they come to, what stands against it, who shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app import library
from app.fit_messages import FitPreview, Wish
from app.ui import format as fmt
from app.ui.convert_fit import FitPane
from app.ui.convert_fit_result import FitResultPane
from app.ui.widgets import ErrorCard
from converter.spec import ModelInfo, PlannedOutput, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

DELAY_MS = 250


class FitDesk(QObject):
    """``pane`` has the choices, ``result`` what comes of them, ``error`` what is against it; ``job`` is the last one.

    ``changed`` when any of these is another. ``folder`` gives the folder for the file, ``planned`` a standard recipe's
    file of the model on the page, if that is known.
    """

    changed = Signal()

    def __init__(
        self,
        context: Context,
        folder: Callable[[], str],
        planned: Callable[[str], PlannedOutput | None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._context = context
        self._folder = folder
        self._planned = planned
        self._info: ModelInfo | None = None
        self.asked = 0
        self.job: Job | None = None
        self.pane = FitPane(context)
        self.result = FitResultPane(context)
        self.error = ErrorCard()
        self.timer = QTimer(self, singleShot=True, interval=DELAY_MS)
        self.timer.timeout.connect(self.ask)
        self.pane.changed.connect(self.ask_soon)
        self.result.retried.connect(self.follow)

    # ---- what it comes to

    def set_source(self, info: ModelInfo | None, matrices: list[str]) -> None:
        """Another model, and importance matrices that belong to it."""
        self._info = info
        self.error.clear()
        self.pane.set_source(info, matrices)

    def wish(self) -> Wish | None:
        """What a fit would be asked for now, or None while something is missing."""
        wish = self.pane.wish(self._folder())
        return msgspec.structs.replace(wish, overwrite=Path(wish.output).exists()) if wish is not None else None

    def ask_soon(self) -> None:
        """Something is chosen anew; what was asked before is about other choices."""
        self.asked += 1
        self.timer.start()
        self.changed.emit()

    def ask(self) -> None:
        """Ask what the choices come to. While nobody looks that can wait."""
        wish = self.wish()
        if wish is None or self.pane.isHidden():
            return
        self.asked += 1
        asked = self.asked
        self._context.scout.plan_fit(wish, lambda answer: self._told(asked, answer))

    def _told(self, asked: int, answer: FitPreview | QuenchError) -> None:
        if asked != self.asked or self._info is None:
            return
        preview = None if isinstance(answer, QuenchError) else answer
        refusal = next(iter(preview.refusals), None) if preview is not None else None
        if isinstance(answer, QuenchError):
            self.error.show_error(answer, [(self.tr("Retry"), self.ask)])
        elif refusal is not None:
            error = QuenchError(refusal.code, refusal.title, refusal.detail, refusal.hint)
            self.error.show_error(error, [(self.tr("Look again"), self.ask)])
        else:
            self.error.clear()
        self.pane.show_preview(preview)
        self.show_standard()
        self.changed.emit()

    def show_standard(self) -> None:
        """The recipe to beat, as far as it is planned; not in place of what came of the same choices."""
        wish = self.wish()
        if wish is not None and self.job is not None and _alike(wish) == _alike(self.job.command):
            return
        preview = self.pane.preview
        self.result.show_preview(preview, self._planned(preview.budget.standard) if preview is not None else None)

    # ---- the work

    @property
    def is_running(self) -> bool:
        return self.job is not None and self.job.is_active

    def is_ready(self) -> bool:
        """Whether a fit could begin now."""
        preview = self.pane.preview
        fine = preview is not None and not preview.refusals and self.error.error is None
        return fine and not self.is_running and self.wish() is not None

    def start(self) -> None:
        """Queue a fit of what is chosen."""
        wish, info = self.wish(), self._info
        if wish is None or info is None:
            return
        size = Path(wish.output).stem.removeprefix(f"{info.name}-Fit-")
        title = self.tr("{0} → fit to {1}").format(library.base_name(info), size)
        self.follow(self._context.jobs.submit("fit", title, wish))

    def follow(self, job: Job) -> None:
        """Show a job to its end."""
        if self.job is not job or self.result.job is not job:
            self.job = job
            self.result.watch(job)
            job.finished.connect(self.changed)
        self.changed.emit()

    def disk_words(self) -> list[str]:
        """What the file takes, and what the steps take meanwhile."""
        preview = self.pane.preview
        if preview is None:
            return []
        words = self.tr("1 file, {0}, and {1} while it works") if preview.work_disk else self.tr("1 file, {0}")
        files = words.format(fmt.size(preview.disk), fmt.size(preview.work_disk))
        return [files, self.tr("{0} free").format(fmt.size(preview.disk_free))]


def _alike(wish: Wish) -> Wish:
    """What two wishes for the same have in common."""
    return msgspec.structs.replace(wish, overwrite=False, work="")


__all__ = ["FitDesk"]
