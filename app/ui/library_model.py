"""The list of local models that all pages share: filled by scans, added to by hand, kept up to date by watching."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app import library
from app.fit_messages import Fitted
from app.local import places
from app.local.entry import BROKEN, FileFact, Listed
from app.remote.address import is_remote
from app.ui.servers import KIND
from converter.spec import ConversionResult, ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

COALESCE_MS = 50
SLOWEST_MS = 2000
SHARE = 10
"""``changed`` is followed by a pause of this many times what those who hear it took: a long list stays usable."""
RESTART_SECONDS = 30.0
"""A reader that dies sooner than this after a scan is not started again by itself."""


MADE_FOR_COMPARISON = "compare"
"""Owner of conversions into the cache, which are no models that a person has made."""


class LibraryModel(QObject):
    """``entries`` are short descriptions (no tensors), broken ones with ``problems``. ``changed`` at most 20 a second.

    ``scanning`` is true while a scan runs, ``error`` says why the last one failed. Finished conversions add themselves;
    what changes on disk is seen within seconds.
    """

    changed = Signal()

    def __init__(self, context: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._listed: dict[str, Listed] = {}
        self._sorted: list[Listed] | None = None
        self._names: dict[str, tuple[ModelInfo, str]] = {}
        self._seen: set[str] = set()
        self.scanning = False
        self.error: QuenchError | None = None
        self._again = False
        self._closed = False
        self._scanned_at = 0.0
        self._timer = QTimer(self, singleShot=True, interval=COALESCE_MS)
        self._timer.timeout.connect(self._tell)
        context.jobs.finished.connect(self._job_ended)
        context.scout.unwatched.connect(self._unwatched)
        context.servers.changed.connect(self._soon)

    def close(self) -> None:
        """No more ``changed`` and no more scans (used at the end of the program)."""
        self._closed = True
        self._timer.stop()

    @property
    def known(self) -> list[Listed]:
        """Every model seen, those that were taken off the list too."""
        return list(self._listed.values())

    @property
    def unsorted(self) -> list[Listed]:
        """What the list shows, with where it lies.

        Half-written files of a job of this window are left out: the job shows them itself. So is what was removed.
        """
        left_out = {f"{path}.part" for job in self._context.jobs.active() for path in job.outputs}
        left_out.update(self._context.settings.hidden)
        return [listed for listed in self._listed.values() if listed.path not in left_out]

    @property
    def removed(self) -> list[str]:
        """Paths of models that are still there, and were taken off the list."""
        return [path for path in self._context.settings.hidden if path in self._listed]

    @property
    def everything(self) -> list[Listed]:
        """As :attr:`unsorted`, and the models of servers, which take nothing up here."""
        return [*self.unsorted, *self._context.servers.listed()]

    @property
    def models(self) -> list[Listed]:
        """As :attr:`unsorted`, by base name and then size, largest first."""
        if self._sorted is None:
            self._sorted = sorted(self.unsorted, key=lambda listed: (self._base(listed.info), -listed.info.bytes))
        return list(self._sorted)

    @property
    def entries(self) -> list[ModelInfo]:
        """The descriptions of :attr:`models`."""
        return [listed.info for listed in self.models]

    def entry(self, path: str) -> ModelInfo | None:
        """The entry of a path, or of a server's model; None if it is not known."""
        if is_remote(path):
            return self._context.servers.entry(path)
        listed = self._listed.get(_key(path))
        return listed.info if listed is not None else None

    def listed(self, path: str) -> Listed | None:
        """The entry of a path with where it lies, or None."""
        return self._listed.get(_key(path))

    def usable(self, kinds: set[str] | None = None) -> list[ModelInfo]:
        """Entries without problems, of the given kinds; ``server``, which must be asked for, are those of servers.

        Without ``hf`` among the kinds embeddings models are left out: they answer nobody.
        """
        entries = self.entries
        if kinds is not None and KIND in kinds:
            entries += [listed.info for listed in self._context.servers.listed()]
        found = [info for info in entries if not info.problems and (kinds is None or info.kind in kinds)]
        # Who asks for models to run, and not for sources of a conversion, wants those that write.
        runs = kinds is not None and "hf" not in kinds
        return [info for info in found if not (runs and library.makes_vectors(info))]

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
        self.put_back(str(place))
        self.refresh(str(place))

    def refresh(self, path: str) -> None:
        """Read one model's header again."""
        key = _key(path)
        self._context.scout.inspect(key, lambda answer: self._described(key, answer))

    def forget(self, path: str) -> None:
        """Drop the entry of a model whose files are no more."""
        self._context.store.remove_model(_key(path))
        if self._listed.pop(_key(path), None) is not None:
            self._soon()

    def remove(self, *paths: str) -> list[str]:
        """Take entries off the list, for good; no file is touched. Returns those that went: bundled models stay."""
        hidden = self._context.settings.hidden
        gone = [path for path in map(_key, paths) if path not in hidden and not places.is_bundled(path)]
        if gone:
            self._context.update_settings(hidden=(*hidden, *gone))
            self._soon()
        return gone

    def put_back(self, *paths: str) -> None:
        """Undo :meth:`remove`."""
        back = set(paths)
        left = tuple(path for path in self._context.settings.hidden if path not in back)
        if left != self._context.settings.hidden:
            self._context.update_settings(hidden=left)
            self._soon()

    def mark_damaged(self, path: str, why: str) -> None:
        """Say of a model that its bytes are not what they should be, until its file changes."""
        listed = self._listed.get(path)
        if listed is not None and not listed.info.problems:
            info = msgspec.structs.replace(listed.info, problems=(why,))
            self._put(msgspec.structs.replace(listed, info=info, state=BROKEN))

    def where(self) -> tuple[places.Place, ...]:
        """Everything that a scan looks into."""
        return places.all_places(self._context.settings.folders, self._context.store.known_models())

    def rescan(self) -> None:
        """Look into all places again. Entries whose file has gone leave the list when the scan ends."""
        if self._closed:
            return
        if self.scanning:
            self._again = True
            return
        self._context.servers.look()
        self.scanning, self.error = True, None
        self._seen = set()
        self._scanned_at = time.monotonic()
        self._context.scout.scan(self.where(), self._found, self._gone, self._scanned)
        self._soon()

    def _found(self, models: tuple[Listed, ...]) -> None:
        for listed in models:
            self._seen.add(listed.path)
            self._put(listed)

    def _gone(self, paths: tuple[str, ...]) -> None:
        for path in paths:
            self._listed.pop(path, None)
        self._soon()

    def _scanned(self, answer: int | QuenchError) -> None:
        self.scanning = False
        if isinstance(answer, QuenchError):
            self.error = answer
        else:
            known = set(self._context.store.known_models())
            for path in [p for p in self._listed if p not in self._seen and p not in known]:
                del self._listed[path]
        self._sorted = None
        if not self._closed:
            self._timer.start(COALESCE_MS)  # the pauses of a scan are over
        if self._again:
            self._again = False
            self.rescan()

    def _unwatched(self) -> None:
        """The reader has died while nothing was asked of it: watch again, unless the scan itself may have killed it."""
        if not self.scanning and time.monotonic() - self._scanned_at > RESTART_SECONDS:
            self.rescan()

    def _described(self, path: str, answer: ModelInfo | QuenchError) -> None:
        """A model that was read by itself; a scan that has seen it knows more, which stays."""
        before = self._listed.get(path)
        if isinstance(answer, QuenchError):
            info = library.broken(path, answer)
        else:
            info = msgspec.structs.replace(library.shorten(answer), path=path)
        if before is None:
            fact = FileFact(path, info.bytes, path)
            before = Listed(info, places.ADDED, files=(fact,) if info.kind == "gguf" else ())
        elif before.title:
            info = msgspec.structs.replace(info, name=before.title)
        self._put(msgspec.structs.replace(before, info=info, state=BROKEN if info.problems else ""))

    def _put(self, listed: Listed) -> None:
        if self._listed.get(listed.path) != listed:
            self._listed[listed.path] = listed
        self._soon()

    def _base(self, info: ModelInfo) -> str:
        """What an entry is sorted under; worked out once for each description."""
        known = self._names.get(info.path)
        if known is None or known[0] is not info:
            known = self._names[info.path] = (info, library.base_name(info).lower())
        return known[1]

    def _job_ended(self, job: Job) -> None:
        made = job.result.conversion if isinstance(job.result, Fitted) else job.result
        if isinstance(made, ConversionResult) and job.owner != MADE_FOR_COMPARISON:
            self.put_back(*(_key(output.path) for output in made.outputs))
            for output in made.outputs:
                self._context.store.add_model(_key(output.path))
                self.refresh(output.path)

    def _soon(self) -> None:
        self._sorted = None
        if not self._closed and not self._timer.isActive():
            self._timer.start()

    def _tell(self) -> None:
        begin = time.monotonic()
        self.changed.emit()
        took = 1000 * (time.monotonic() - begin)
        # Everybody who looks has looked: the next change is told when they have had time for something else.
        self._timer.setInterval(round(min(SLOWEST_MS, max(COALESCE_MS, SHARE * took))))


def _key(path: str) -> str:
    return str(Path(path).expanduser().absolute())
