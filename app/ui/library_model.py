"""The list of local models that all pages share: filled by scans, added to by hand, told about new files by jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

import resources
from app import library
from converter.spec import ConversionResult, ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

COALESCE_MS = 50


class LibraryModel(QObject):
    """``entries`` are short descriptions (no tensors), broken ones with ``problems``. ``changed`` at most 20 a second.

    ``scanning`` is true while a scan runs, ``error`` says why the last one failed. Finished conversions add themselves.
    """

    changed = Signal()

    def __init__(self, context: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._entries: dict[str, ModelInfo] = {}
        self._seen: set[str] = set()
        self.scanning = False
        self.error: QuenchError | None = None
        self._again = False
        self._closed = False
        self._timer = QTimer(self, singleShot=True, interval=COALESCE_MS)
        self._timer.timeout.connect(self.changed)
        context.jobs.finished.connect(self._job_ended)

    def close(self) -> None:
        """No more ``changed`` and no more scans (used at the end of the program)."""
        self._closed = True
        self._timer.stop()

    @property
    def entries(self) -> list[ModelInfo]:
        """Everything known, by base name and then size, largest first."""
        return sorted(self._entries.values(), key=lambda info: (library.base_name(info).lower(), -info.bytes))

    def entry(self, path: str) -> ModelInfo | None:
        """The entry of a path, or None."""
        return self._entries.get(_key(path))

    def usable(self, kinds: set[str] | None = None) -> list[ModelInfo]:
        """Entries without problems, of the given kinds."""
        return [info for info in self.entries if not info.problems and (kinds is None or info.kind in kinds)]

    def add(self, path: str) -> None:
        """Take a model into the library, for good; a folder that is none itself is remembered as a place to look."""
        place = Path(_key(path))
        if place.is_dir() and not (place / "config.json").is_file():
            folders = self._context.settings.folders
            if str(place) not in folders:
                self._context.update_settings(folders=(*folders, str(place)))
            self.rescan()
            return
        self._context.store.add_model(str(place))
        self.refresh(str(place))

    def refresh(self, path: str) -> None:
        """Read one model's header again."""
        key = _key(path)
        self._context.scout.inspect(key, lambda answer: self._described(key, answer))

    def remove(self, path: str) -> None:
        """Take an entry off the list and forget it; the file is not touched."""
        self._context.store.remove_model(_key(path))
        if self._entries.pop(_key(path), None) is not None:
            self._soon()

    def rescan(self) -> None:
        """Look into all folders again. Entries whose file has gone leave the list when the scan ends."""
        if self._closed:
            return
        if self.scanning:
            self._again = True
            return
        self.scanning, self.error = True, None
        self._seen = set()
        folders = (*self._context.settings.folders, *library.default_folders(), str(resources.path("pocket")))
        places = (*folders, *self._context.store.known_models())
        self._context.scout.scan(places, self._found, self._scanned)
        self._soon()

    def _found(self, info: ModelInfo) -> None:
        self._seen.add(info.path)
        self._put(info)

    def _scanned(self, answer: int | QuenchError) -> None:
        self.scanning = False
        if isinstance(answer, QuenchError):
            self.error = answer
        else:
            known = set(self._context.store.known_models())
            for path in [p for p in self._entries if p not in self._seen and p not in known]:
                del self._entries[path]
        self._soon()
        if self._again:
            self._again = False
            self.rescan()

    def _described(self, path: str, answer: ModelInfo | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self._put(library.broken(path, answer))
        else:
            self._put(msgspec.structs.replace(library.shorten(answer), path=path))

    def _put(self, info: ModelInfo) -> None:
        if self._entries.get(info.path) != info:
            self._entries[info.path] = info
        self._soon()

    def _job_ended(self, job: Job) -> None:
        if isinstance(job.result, ConversionResult):
            for output in job.result.outputs:
                self._context.store.add_model(_key(output.path))
                self.refresh(output.path)

    def _soon(self) -> None:
        if not self._closed and not self._timer.isActive():
            self._timer.start()


def _key(path: str) -> str:
    return str(Path(path).expanduser().absolute())
