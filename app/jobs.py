"""The record of a job on disk: what was asked, kept until the job has ended. Knows no processes and no Qt."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
import psutil

from app import paths, protocol
from app.files import write_atomically

_BAD_NAME = set('/\\:*?"<>|')


class Record(msgspec.Struct, frozen=True):
    """One job's pinned arguments: ``kind`` names the worker, ``command`` is the start message for it.

    ``owner`` is the process id of the program that runs the job.
    """

    id: str
    kind: str
    title: str
    command: Any
    owner: int = 0


def _file(identifier: str) -> Path:
    if not identifier or _BAD_NAME & set(identifier) or identifier.startswith("."):
        raise ValueError(identifier)
    return paths.jobs() / f"{identifier}.json"


def remember(record: Record) -> None:
    """Write the record; ``OSError`` if the disk refuses."""
    command = msgspec.json.decode(protocol.encode(record.command))
    data = {"id": record.id, "kind": record.kind, "title": record.title, "command": command, "owner": os.getpid()}
    write_atomically(_file(record.id), msgspec.json.encode(data))


def forget(identifier: str) -> None:
    """Remove a record; nothing happens if there is none."""
    _file(identifier).unlink(missing_ok=True)


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def remembered() -> list[Record]:
    """Records that nobody works on any more, oldest first.

    Those of another running Quench are left out; one that cannot be read (another version wrote it) is removed.
    """
    found = []
    for file in sorted(paths.jobs().glob("*.json"), key=_age):
        try:
            raw = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
            command = protocol.decode_command(msgspec.json.encode(raw["command"]))
            record = Record(str(raw["id"]), str(raw["kind"]), str(raw["title"]), command, int(raw["owner"]))
        except OSError:
            continue  # another window has just taken it, or the disk refuses: either way it is not ours to remove
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            with contextlib.suppress(OSError):
                file.unlink()
            continue
        if record.owner == os.getpid() or not psutil.pid_exists(record.owner):
            found.append(record)
    return found
