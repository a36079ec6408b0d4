"""A download as its parent sees it, and the way from a name on the hub to a folder that can be worked with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app import settings
from app.child import run_job
from app.hub import access, cache, planning
from app.hub.messages import DownloadPlan, RemoteFile
from app.hub.names import SCHEME, RepoName
from app.protocol import Download, DownloadResult, Event
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


def discard(download: Download) -> None:
    """Remove what is half here of a download that is given up. ``OSError`` if the system refuses."""
    root = download.cache or access.access(settings.load()).cache
    cache.forget_parts(cache.Place(root, download.repo, download.revision, download.to), download.files)


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
