"""What a download takes, exactly, before its first byte: files, bytes, what is here already, and the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from app.hub import cache
from app.hub.groups import matching
from app.hub.messages import DownloadPlan, PlannedFile, RemoteFile, Repository
from converter.spec import QuenchError

MARGIN = 64 << 20
"""Bytes that stay free on the disk."""


def choose(repository: Repository, patterns: Sequence[str] = (), *, conversion: bool = False) -> list[RemoteFile]:
    """The files to download: those that match, those that a conversion reads, or all of them.

    Raises ``QuenchError`` ``file_not_found`` if nothing matches and ``cannot_convert`` if it cannot be converted.
    """
    if conversion:
        if not repository.for_conversion:
            raise QuenchError(
                "cannot_convert",
                "This model cannot be converted straight from the hub.",
                f"{repository.id}: {repository.why_not}",
                "quench download gets single files of it.",
            )
        wanted = set(repository.for_conversion)
        return [file for file in repository.files if file.path in wanted]
    if not patterns:
        return list(repository.files)
    chosen = matching(repository.files, patterns)
    if not chosen:
        names = [file.path for file in repository.files[:8]]
        more = f" and {len(repository.files) - 8} more" if len(repository.files) > 8 else ""
        raise QuenchError(
            "file_not_found",
            "No file of this model matches.",
            f"{', '.join(patterns)} in {repository.id}, which has {', '.join(names)}{more}",
            "quench download REPO --dry-run lists all files.",
        )
    return chosen


def plan(root: str, repository: Repository, files: Sequence[RemoteFile], to: str = "") -> DownloadPlan:
    """The download of ``files`` into the cache ``root``, or into the folder ``to``. Nothing is written or asked."""
    place = cache.Place(root, repository.id, repository.revision, to)
    planned = []
    for file in files:
        state, have = cache.have(place, file)
        planned.append(PlannedFile(file.path, file.bytes, file.sha256, file.oid, state, have))
    once = {file.sha256 or file.oid: file for file in planned} if not to else dict(enumerate(planned))
    try:
        free = shutil.disk_usage(cache.existing_parent(place.folder)).free
    except OSError as error:
        raise QuenchError(
            "no_place", "The folder for the download cannot be used.", str(error), "Choose another one.", exit_status=4
        ) from error
    return DownloadPlan(
        repo=repository.id,
        revision=repository.revision,
        reference=repository.reference,
        files=tuple(planned),
        bytes=sum(file.bytes for file in planned),
        to_fetch=sum(file.bytes - file.have for file in once.values()),
        disk_free=free,
        folder=str(place.folder),
        to=to,
    )


def check_room(plan: DownloadPlan) -> None:
    """Raise ``QuenchError`` ``no_space`` (exit status 4) if the download does not fit on the disk."""
    if plan.to_fetch + MARGIN > plan.disk_free and plan.to_fetch:
        raise QuenchError(
            "no_space",
            "There is not enough disk space.",
            f"{plan.to_fetch:,} bytes are still to come, and {plan.disk_free:,} are free at {plan.folder}.",
            "Free some space, choose fewer files, or set HF_HOME to a larger disk.",
            exit_status=4,
        )
