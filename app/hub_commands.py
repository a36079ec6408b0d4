"""The commands that ask the hub: ``search``, ``download``, and the download before a conversion."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from app import console
from app.commands import Result
from app.hub.messages import Download, DownloadPlan, DownloadProgress, DownloadResult, FoundModel
from converter.spec import Cancelled


def search(options: argparse.Namespace) -> Result:
    from app import settings
    from app.hub import access
    from app.hub.client import connect
    from app.hub.messages import Query
    from app.hub.search import search

    query = Query(
        text=options.text,
        sort=options.sort,
        limit=options.limit,
        gguf=options.gguf,
        convertible=options.convertible,
        fits=options.fits,
        licence=options.licence,
        task=options.task,
        author=options.author,
    )
    found = search(connect(access.access(settings.load())), query)
    return Result({"models": [_found(model) for model in found]}, _table(found))


def _found(model: FoundModel) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(model)
    # What the hub does not say is null, not nothing.
    return {**data, "parameters": model.parameters or None, "bytes": model.bytes or None, "fits": model.fits or None}


def _table(models: list[FoundModel]) -> str:
    rows = [
        (
            model.id,
            f"{model.parameters / 1e9:.1f}B" if model.parameters else "",
            console.size(model.bytes) if model.bytes else "",
            {"good": "yes", "tight": "barely", "no": "no"}.get(model.fits, ""),
            "gated" if model.gated else "",
            model.licence,
            f"{model.downloads:,}",
        )
        for model in models
    ]
    if not rows:
        return "Nothing was found."
    return console.table(("model", "parameters", "weights", "fits in 4 bits", "", "licence", "downloads"), rows)


def download(options: argparse.Namespace) -> Result:
    from app import downloads, settings
    from app.hub import access, planning
    from app.hub.client import connect
    from app.hub.names import parse_repo
    from app.hub.repository import look_up

    name = parse_repo(options.repo)
    if options.revision:
        name = parse_repo(f"{name.id}@{options.revision}")
    start = time.monotonic()
    found = access.access(settings.load())
    repository = look_up(connect(found), name)
    patterns = [part.strip() for given in options.files for part in given.split(",") if part.strip()]
    chosen = planning.choose(repository, patterns, conversion=options.for_conversion)
    to = os.path.abspath(os.path.expanduser(options.to)) if options.to else ""  # noqa: PTH100, PTH111 - keeps links
    plan = planning.plan(found.cache, repository, chosen, to)
    notes = list(repository.problems)
    if repository.renamed_from:
        notes.append(f"{repository.renamed_from} is called {repository.id} now.")
    if options.dry_run:
        return Result({**_plan_data(plan, time.monotonic() - start), "notes": notes}, _plan_text(plan, notes))
    planning.check_room(plan)
    command = downloads.command(plan, limit=options.limit_rate)
    progress = console.Progress()
    for note in notes:
        progress.say(note)
    result = fetch(command, progress)
    data = msgspec.to_builtins(result)
    data.pop("message", None)
    data["seconds"] = time.monotonic() - start
    text = f"{console.size(result.bytes)} in {len(result.files)} files at {result.folder}\n"
    fresh = sum(file.state == "verified" for file in result.files)
    text += f"{console.size(result.fetched)} fetched in {console.duration(data['seconds'])}; "
    text += f"{fresh} files verified by checksum, {len(result.files) - fresh} were here"
    return Result({**data, "notes": notes}, text)


def fetch(command: Download, progress: console.Progress) -> DownloadResult:
    """Run a download with a bar. After Ctrl-C it says that nothing is lost, and raises ``Cancelled``."""
    from app import downloads

    told: dict[int, str] = {}

    def show(event: object) -> None:
        if not isinstance(event, DownloadProgress):
            return
        for file in event.files:
            if file.state == "retrying" and told.get(file.index) != file.note:
                progress.say(f"{command.files[file.index].path}: {file.note}")
                told[file.index] = file.note
        label = f"{console.size(event.done)} of {console.size(event.total)}, {console.size(event.rate)}/s"
        progress.update(label, event.done, event.total, event.seconds_left)

    try:
        result = downloads.run(command, show)
    except Cancelled:
        progress.say("What has come is kept: the same command goes on with it.")
        raise
    progress.clear()
    return result


def source_folder(source: str) -> str:
    """The folder of ``hf://org/name[@revision]``, downloaded first if need be."""
    from app import downloads
    from app.hub.names import parse_repo

    progress = console.Progress()

    def tell(plan: DownloadPlan) -> None:
        if plan.to_fetch:
            progress.say(f"Downloading {console.size(plan.to_fetch)} of {plan.repo}, what a conversion reads.")

    return str(downloads.for_conversion(parse_repo(source), lambda command: fetch(command, progress), tell))


def plan_remote(source: str, plan: Callable[[Path], Any]) -> tuple[DownloadPlan, Any]:
    """What would be downloaded for ``hf://org/name``, and ``plan`` of a folder that has its headers."""
    from app import downloads, settings
    from app.hub import access, remote
    from app.hub.client import connect
    from app.hub.messages import RemoteFile
    from app.hub.names import parse_repo

    found = access.access(settings.load())
    hub = connect(found)
    wanted = downloads.plan_conversion(hub, parse_repo(source))
    files = [RemoteFile(file.path, file.bytes, file.sha256, file.oid) for file in wanted.files]
    with remote.outline(hub, wanted.repo, wanted.revision, files) as folder:
        return wanted, plan(folder)


def _plan_data(plan: DownloadPlan, seconds: float) -> dict[str, Any]:
    return {
        "repo": plan.repo,
        "revision": plan.revision,
        "folder": plan.folder,
        "files": [
            {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "state": file.state, "have": file.have}
            for file in plan.files
        ],
        "bytes": plan.bytes,
        "to_fetch": plan.to_fetch,
        "disk_free": plan.disk_free,
        "seconds": seconds,
    }


def _plan_text(plan: DownloadPlan, notes: list[str]) -> str:
    rows = [(file.path, console.size(file.bytes), file.state) for file in plan.files]
    needs = f"{console.size(plan.to_fetch)} of {console.size(plan.bytes)} to fetch, "
    needs += f"{console.size(plan.disk_free)} of disk free at {plan.folder}"
    return "\n".join([console.table(("file", "size", "state"), rows), needs, *notes])
