"""What every page is given: settings, store, theme, jobs, engines, the askers, library and message board."""

from __future__ import annotations

from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app import paths, settings
from app.protocol import NO_KERNELS, KernelCheck
from app.settings import Settings
from app.store import Store
from app.ui.download_queue import DownloadQueue
from app.ui.engines import EnginePool
from app.ui.hub_desk import HubDesk
from app.ui.job_center import JobCenter
from app.ui.library_model import LibraryModel
from app.ui.notify import Notify
from app.ui.planner import ratio_of
from app.ui.scout import Scout
from app.ui.serve_desk import ServeDesk
from app.ui.servers import Servers
from app.ui.theme import Theme
from converter.spec import QuenchError


class Context(QObject):
    """One a window. ``navigate(page key, request)`` opens a page and hands it the request.

    ``kernels_checked`` comes when ``kernels`` is known.
    ``closing`` comes once, while everything still works: what has something to save saves it now.
    ``closed`` comes once, when no worker is left and just before the store goes: timers stop now.
    """

    navigate = Signal(str, dict)
    settings_changed = Signal()
    kernels_checked = Signal()
    closing = Signal()
    closed = Signal()

    def __init__(self, parent: QObject | None = None, *, theme: Theme | None = None) -> None:
        super().__init__(parent)
        self._settings = settings.load()
        self.store = Store(paths.database())
        self.theme = theme or Theme(self._settings.theme, self)
        self.notify = Notify(self)
        self.scout = Scout(self)
        self.servers = Servers(self, self)
        self.engines = EnginePool(self, opening=self.servers.opening)
        self.serving = ServeDesk(self, self)
        self.jobs = JobCenter(self)
        self.hub = HubDesk(self, self)
        self.library = LibraryModel(self, self)
        self.downloads = DownloadQueue(self, self)
        self.engines.ratio_of = self._memory_ratio
        self.engines.keeps = lambda: self._settings.prompt_cache_mib << 20
        self.kernels: KernelCheck | None = None
        self._closed = False

    @property
    def settings(self) -> Settings:
        """The settings now: a frozen struct; change them with :meth:`update_settings`."""
        return self._settings

    def update_settings(self, **changes: Any) -> None:
        """Replace fields, save, and tell everybody. Unknown names are a ``TypeError``; a full disk becomes a notice."""
        changed = msgspec.structs.replace(self._settings, **changes)
        if changed == self._settings:
            return
        self._settings = changed
        try:
            settings.save(changed)
        except OSError as error:
            self.notify.error(
                QuenchError(
                    "settings_not_saved",
                    self.tr("The settings could not be saved."),
                    str(error),
                    self.tr("They hold until you quit. Free some disk space, then change a setting again."),
                    exit_status=4,
                )
            )
        if "theme" in changes:
            self.theme.set_mode(changed.theme)
        self.settings_changed.emit()

    def _memory_ratio(self, path: str) -> float:
        info = self.library.entry(path)
        return ratio_of(self._settings, info.architecture) if info is not None else 1.0

    def check_kernels(self) -> None:
        """Learn in the background which kernels can be trusted; afterwards ``kernels`` says it. Bad news is posted."""
        self.scout.check_kernels(self._take_kernels)

    def _take_kernels(self, answer: KernelCheck | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            if answer.code in NO_KERNELS:
                self.notify.error(answer)
            return
        self.kernels = answer
        failed = tuple(answer.failed)
        if failed and failed != self._settings.kernels_told:
            self.notify.error(
                QuenchError(
                    "kernels_fallback",
                    self.tr("The fastest kernels compute wrong numbers on this machine."),
                    "\n".join(f"{name}: {what}" for name, what in answer.failed.items()),
                    self.tr("{0} is used instead: the same files, made more slowly. Nothing is to be done.").format(
                        answer.backend
                    ),
                )
            )
        self.update_settings(kernels_told=failed)
        self.kernels_checked.emit()

    def close(self, grace_ms: int = 2000) -> None:
        """End every worker (asked first, killed after ``grace_ms``) and close the store. Blocks that long at most.

        Nobody hears of models any more, before the store goes: no page may look into a closed one. The window may be
        closed before or after.
        """
        if self._closed:
            return
        self.closing.emit()
        self._closed = True
        self.scout.close()
        self.hub.close()
        self.servers.close()
        self.serving.close()
        self.library.close()
        jobs = self.jobs.processes()
        askers = [*self.scout.processes(), *self.hub.processes(), *self.servers.processes(), *self.serving.processes()]
        processes = [*jobs, *self.engines.processes(), *askers]
        for process in processes:
            process.stop(grace_ms, keep=process in jobs)
        for process in processes:
            if not process.wait(grace_ms):
                process.kill()
                process.wait(1000)
        # Not earlier: a conversion that ends while the workers are stopped is still noted in the store.
        self.closed.emit()
        for speaker in (self.library, self.jobs, self.engines, self):
            speaker.blockSignals(True)
        self.store.close()
