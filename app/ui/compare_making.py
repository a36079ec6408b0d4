"""Models that a comparison makes for itself: a recipe of a source, converted into the cache as a job like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject

from app.compare import recipes
from app.jobs import DONE
from app.protocol import Convert
from app.remote.address import is_remote
from app.ui.context import Context
from app.ui.job_center import Job
from app.ui.library_model import MADE_FOR_COMPARISON
from converter.recipes import RECIPES
from converter.spec import QuenchError

OnReady = Callable[[str], None]
OnFailed = Callable[[QuenchError], None]
OnProgress = Callable[[float], None]


def made_file(path: str) -> str:
    """The file behind a column's path, made or not; empty if its source is not there."""
    source, recipe = ("", "") if is_remote(path) else recipes.split(path)
    if not recipe:
        return path
    try:
        return str(recipes.place(source, recipe))
    except QuenchError:
        return ""


def expected_bytes(context: Context, path: str) -> int:
    """Size of a column's file; of one that is not made yet what its recipe usually gives."""
    source, recipe = recipes.split(path)
    file = Path(made_file(path))
    if recipe and not file.exists():
        info = context.library.entry(source)
        return round(info.parameters * RECIPES[recipe].bits / 8) if info is not None else 0
    try:
        return file.stat().st_size
    except OSError:
        return 0


class Making(QObject):
    """One model on its way. Exactly one of ``ready(file)`` and ``failed(error)`` is called, unless it is let go."""

    def __init__(
        self,
        context: Context,
        path: str,
        *,
        keep: set[Path],
        ready: OnReady,
        failed: OnFailed,
        progress: OnProgress,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._ready, self._failed, self._progress = ready, failed, progress
        self._source, self._recipe = recipes.split(path)
        target = recipes.place(self._source, self._recipe)
        self._target = target
        recipes.trim({target, *keep})
        title = self.tr("{0} as {1}, to compare").format(Path(self._source).stem, self._recipe)
        command = Convert(recipes.spec(self._source, self._recipe, target))
        running = next((job for job in context.jobs.active() if _target_of(job) == str(target)), None)
        self.job = running or context.jobs.submit("convert", title, command, MADE_FOR_COMPARISON)
        self.job.changed.connect(self._changed)
        self.job.finished.connect(self._finished)

    def let_go(self) -> None:
        """Nobody waits any more: the job is stopped, and nothing is called."""
        self._detach()
        self.job.cancel()

    def _detach(self) -> None:
        self.job.changed.disconnect(self._changed)
        self.job.finished.disconnect(self._finished)

    def _changed(self) -> None:
        self._progress(self.job.progress)

    def _finished(self) -> None:
        self._detach()
        if self.job.state == DONE:
            self._ready(str(self._target))
        else:
            self._failed(self.job.error or QuenchError("cancelled", self.tr("Making the model was stopped.")))


def _target_of(job: Job) -> str:
    return job.command.spec.output if isinstance(job.command, Convert) else ""


__all__ = ["Making", "expected_bytes", "made_file"]
