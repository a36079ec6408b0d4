"""A download as its parent sees it, and the way from a name on the hub to a folder that can be worked with."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app import library, settings
from app.child import run_job
from app.hub import access, cache, planning
from app.hub.messages import Download, DownloadPlan, DownloadProgress, DownloadResult, DownloadStarted, RemoteFile
from app.hub.names import SCHEME, RepoName
from app.protocol import Event
from converter.spec import Cancelled, QuenchError

if TYPE_CHECKING:
    from app.hub.client import Hub


def is_remote(source: str) -> bool:
    """Whether a source is a model of the hub (``hf://org/name``) and no path."""
    return source.startswith(SCHEME)


def command(plan: DownloadPlan, at_once: int = 0, limit: int = 0) -> Download:
    """The download of a plan as a job's command; 0: what the settings say."""
    chosen = settings.load()
    return Download(
        repo=plan.repo,
        revision=plan.revision,
        reference=plan.reference,
        files=tuple(RemoteFile(file.path, file.bytes, file.sha256, file.oid) for file in plan.files),
        to=plan.to,
        at_once=at_once or chosen.downloads_at_once,
        limit=limit or chosen.download_limit,
    )


def run(download: Download, show: Callable[[Event], None]) -> DownloadResult:
    """Download in a worker and wait for it. ``show`` gets every event but the result.

    Raises what :func:`app.child.run_job` raises, and ``Cancelled`` after Ctrl-C. What has come stays in any case: the
    same download goes on with it.
    """
    end = run_job("download", download, show, keep=True)
    if not isinstance(end, DownloadResult):
        raise Cancelled
    return end


def discard(download: Download, others: Iterable[Download] = ()) -> None:
    """Remove what is half here of a download that is given up, but for files that ``others`` still fetch.

    It returns at once: the files get another name now, so that a download that begins now begins anew, and go in a
    thread that the program's end waits for. ``OSError`` if the system refuses.
    """
    place = _place(download)
    shared = {place.part(file) for other in others if _place(other).storage == place.storage for file in other.files}
    gone = []
    for part in {place.part(file) for file in download.files} - shared:
        aside = part.with_name(f".{part.name[:80]}.{secrets.token_hex(4)}.gone")
        with contextlib.suppress(FileNotFoundError):
            part.rename(aside)
            gone.append(aside)
    if gone:
        threading.Thread(target=_unlink, args=(gone,), name="discard").start()


def _unlink(files: list[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


def _place(download: Download) -> cache.Place:
    root = download.cache or str(library.hub_cache())
    return cache.Place(root, download.repo, download.revision, download.to)


def kept_fraction(download: Download) -> float | None:
    """How much of a download is here, 0 to 1; None if nothing. Looks at each file's size."""
    place = _place(download)
    have = sum(cache.have(place, file)[1] for file in download.files)
    return have / max(1, sum(file.bytes for file in download.files)) if have else None


def models_in(result: DownloadResult) -> list[str]:
    """The paths that a finished download has brought for the library: GGUF files (first parts), or the folder."""
    folder = Path(result.folder)
    found = [str(folder / file.path) for file in result.files if library.is_gguf(folder / file.path)]
    found = [path for path in found if "mmproj" not in Path(path).name.lower()]
    if any(file.path == "config.json" for file in result.files) and library.is_model_folder(folder):
        found.append(result.folder)
    return found


@dataclass
class TransferredFile:
    """``state`` as in :class:`app.hub.messages.FileProgress`, or ``cached`` for a file that was here, ``verified`` for
    one that came and whose checksum is right."""

    path: str
    bytes: int
    done: int = 0
    state: str = "waiting"
    note: str = ""


class Transfer:
    """How the files of a running download stand, from its worker's events."""

    def __init__(self, download: Download) -> None:
        self.files = [TransferredFile(file.path, file.bytes) for file in download.files]
        self.done, self.total = 0, sum(file.bytes for file in download.files)

    def take(self, event: object) -> None:
        """An event of the worker; others change nothing."""
        if isinstance(event, DownloadStarted):
            for file, have in zip(self.files, event.have, strict=True):
                file.done, file.note = have, ""
                if have < file.bytes:
                    file.state = "waiting"
                elif file.state != "verified":  # it may have come before a pause
                    file.state = "cached"
        elif isinstance(event, DownloadProgress):
            self.done = event.done
            for moved in event.files:
                file = self.files[moved.index]
                whole = file.state if file.state == "cached" else "verified"
                file.done, file.note = moved.done, moved.note
                file.state = whole if moved.state == "done" else moved.state
        elif isinstance(event, DownloadResult):
            for file, finished in zip(self.files, event.files, strict=True):
                whole = file.state if file.state == "verified" else finished.state
                file.done, file.state, file.note = file.bytes, whole, ""

    @property
    def finished(self) -> int:
        """How many files are whole."""
        return sum(file.state in ("cached", "verified") for file in self.files)

    @property
    def doing(self) -> str:
        """The trouble of a file that has some, in a sentence, else the name of the largest file that moves."""
        moving = [file for file in self.files if file.state in ("fetching", "checking", "retrying", "waiting")]
        troubled = next((file.note.partition(". ")[0] for file in moving if file.note), "")
        return troubled or next((file.path for file in moving if file.state != "waiting"), "")


def for_conversion(
    name: RepoName, fetch: Callable[[Download], DownloadResult], tell: Callable[[DownloadPlan], None]
) -> Path:
    """The folder of a model of the hub with all that a conversion reads, downloaded if it is not here yet.

    ``fetch`` runs the download (:func:`run` with the caller's progress), after ``tell`` was given the plan. In offline
    mode the cache's copy is taken as it is. Raises ``QuenchError``, before the first byte if the disk is too small.
    """
    found = access.access(settings.load())
    if found.offline:
        folder = cache.snapshot(found.cache, name)
        if folder is None:
            raise QuenchError(
                "offline",
                "Offline mode is on, and this model is not here.",
                f"{name.id} is not in {found.cache}.",
                "Switch offline mode off in Settings, or unset HF_HUB_OFFLINE.",
            )
        return folder
    from app.hub.client import connect

    plan = plan_conversion(connect(found), name)
    planning.check_room(plan)
    tell(plan)
    return Path(fetch(command(plan)).folder)


def plan_conversion(hub: Hub, name: RepoName) -> DownloadPlan:
    """What has to be downloaded to convert a model of the hub."""
    from app.hub.repository import look_up

    repository = look_up(hub, name)
    return planning.plan(hub.access.cache, repository, planning.choose(repository, conversion=True))
