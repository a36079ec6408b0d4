"""``quench library``: the local models on the command line."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec

from app import console, paths, settings
from app.commands import Result, absolute
from app.local import places
from app.local.entry import Listed
from app.local.places import Place
from app.store import Store
from converter.spec import Cancelled, QuenchError


def library(options: argparse.Namespace) -> Result:
    chosen = [absolute(path) for path in options.paths]
    if options.action in ("add", "remove") and not chosen:
        usage = f"quench library {options.action} PATH"
        raise QuenchError("usage", "Which model?", "No path was given.", usage, exit_status=2)
    store = Store(paths.database())
    try:
        for path in chosen:
            if options.action == "add":
                _check_usable(path)
                store.add_model(path)
            elif options.action == "remove":
                _check_removable(path)
                store.remove_model(path)
        where = places.all_places(settings.load().folders, store.known_models())
    finally:
        store.close()
    hidden = _hidden(options.action, chosen)
    if options.action == "verify" and chosen:
        where = tuple(Place(places.ADDED if Path(path).is_file() else places.FOLDER, path) for path in chosen)
    models = [listed for listed in _look(where) if listed.path not in hidden]
    data = _data(models)
    if options.action == "verify":
        return _verify(where, data)
    rows = [
        (
            item["title"] or item["path"],
            places.TITLES[item["place"]],
            item["type"],
            console.size(item["bytes"]),
            item["architecture"],
            "; ".join([*item["problems"], *(f"same as {path}" for path in item["duplicates_of"])]),
        )
        for item in sorted(data["models"], key=lambda item: item["path"])
    ]
    lines = [console.table(("model", "place", "type", "size", "architecture", "problems"), rows)]
    if could := data["removable"]:
        total = sum(item["bytes"] for item in could)
        lines.append(f"\n{console.size(total)} could go (each by itself):")
        lines += [f"  {console.size(item['bytes']):>10}  {item['reason']:<9}  {item['path']}" for item in could]
    return Result(data, "\n".join(lines))


def _hidden(action: str, chosen: list[str]) -> set[str]:
    """What is off the list after ``action``, which other commands and the window then leave out too."""
    now = settings.load()
    hidden = set(now.hidden)
    if action in ("add", "remove"):
        hidden = hidden | set(chosen) if action == "remove" else hidden - set(chosen)
        if hidden != set(now.hidden):
            settings.save(msgspec.structs.replace(now, hidden=tuple(sorted(hidden))))
    return set() if action == "verify" else hidden


def _look(where: tuple[Place, ...]) -> list[Listed]:
    """Everything in the places. What the window's reader remembers of headers is used and added to."""
    from app.local.headers import HeaderCache
    from app.local.listing import Lister
    from app.local.walk import Walk

    lister = Lister(HeaderCache(paths.cache() / "headers.db"))
    try:
        return [lister.describe(candidate) for candidate in Walk().candidates(where)]
    finally:
        lister.close()


def _data(models: list[Listed]) -> dict[str, Any]:
    from app.library import type_label
    from app.local import disk, ties

    names, same = ties.bases(models), ties.duplicates_of(models)
    found = [
        {
            "path": listed.path,
            "base": names[listed.path],
            "type": type_label(listed.info),
            "bytes": listed.info.bytes,
            "architecture": listed.info.architecture,
            "problems": list(listed.info.problems),
            "place": listed.place,
            "title": listed.title,
            "state": listed.state,
            "content": listed.content,
            "family": listed.family,
            "duplicates_of": same.get(listed.path, []),
        }
        for listed in models
    ]
    return {
        "models": found,
        "disk": msgspec.to_builtins(disk.use_by_family(models)),
        "removable": msgspec.to_builtins(disk.removable(models)),
    }


def _verify(where: tuple[Place, ...], data: dict[str, Any]) -> Result:
    """Read everything whole, in a worker, and say what is not what it should be: exit status 3 then."""
    from app.child import run_job
    from app.protocol import Status, VerifyModels, VerifyResult

    progress = console.Progress()

    def show(event: object) -> None:
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)

    result = run_job("verify", VerifyModels(where, time.time()), show)
    if not isinstance(result, VerifyResult):
        raise Cancelled
    progress.clear()
    bad = [file for file in result.files if file.state in ("damaged", "unreadable")]
    bad_paths = {file.path for file in bad} | {file.model for file in bad}
    for item in data["models"]:
        if item["path"] in bad_paths and not item["problems"]:
            item["problems"] = [f"{Path(file.path).name}: {file.how}" for file in bad if file.model == item["path"]]
    data |= {"files": msgspec.to_builtins(result.files), "bytes": result.bytes, "seconds": result.seconds}
    rows = [(file.state, file.path, file.how) for file in sorted(result.files, key=lambda file: file.path)]
    text = console.table(("state", "file", "compared with"), rows)
    summary = f"{len(result.files)} files, {console.size(result.bytes)}, {len(bad)} damaged"
    return Result(data, f"{text}\n{summary}", 3 if bad else 0)


def _check_usable(path: str) -> None:
    """Refuse to add what is no model, with the reader's own reason."""
    import converter

    with converter.open_model(path):
        return


def _check_removable(path: str) -> None:
    if places.is_bundled(path):
        raise QuenchError(
            "bundled", "Pocket comes with Quench and stays in the list.", path, "Files made from it can be removed."
        )
