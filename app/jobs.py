"""Jobs on disk: a folder each, with what was asked, kept until the job has ended. Knows no processes and no Qt.

``jobs/<id>/job.json`` is a :class:`Record`: the pinned arguments, the state, the place in the queue, and for a
conversion the files that it makes, beside which its half-written work lies. The folder goes when there is nothing left
to go on with.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from app import paths, protocol
from app.files import write_atomically
from app.fit_messages import Wish
from app.hub import messages
from app.measure_messages import MeasureImatrix, MeasureQuality

QUEUED, RUNNING, PAUSED, DONE, FAILED, CANCELLED = "queued", "running", "paused", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)

MOVES: dict[str, frozenset[str]] = {
    QUEUED: frozenset({RUNNING, CANCELLED}),
    RUNNING: frozenset({DONE, FAILED, CANCELLED, PAUSED}),
    PAUSED: frozenset({QUEUED, CANCELLED}),
    FAILED: frozenset({QUEUED, CANCELLED}),
    DONE: frozenset(),
    CANCELLED: frozenset(),
}
"""The state machine: what may follow what. A failed job that kept something may go on, or be given up."""

LANES = {"download": "network"}
"""The lane of each kind of job; every other kind computes, in the lane ``machine``."""
AT_ONCE = {"machine": 1, "network": 2}
"""Jobs of a lane that run at a time: two that compute would only take the cores from each other."""

_BAD_NAME = set('/\\:*?"<>|')
_FILE = "job.json"
_CLOCK_SECONDS = 5.0
"""How far the system's idea of when a process began may be off."""


class Record(msgspec.Struct, frozen=True):
    """One job's pinned arguments: ``kind`` names the worker, ``command`` is the start message for it.

    ``outputs`` are the files that it makes, once it has said so. ``owner`` is the process id of the program that runs
    the job, ``place`` its place in the queue: less comes first.
    """

    id: str
    kind: str
    title: str
    command: Any
    owner: int = 0
    state: str = QUEUED
    outputs: tuple[str, ...] = ()
    place: float = 0.0


def lane(kind: str) -> str:
    """Which queue a kind of job waits in."""
    return LANES.get(kind, "machine")


def moved(state: str, to: str) -> str:
    """``to``, if a job in ``state`` may become that; ``ValueError`` if not."""
    if to not in MOVES[state]:
        raise ValueError(f"a job that is {state} cannot become {to}")
    return to


def can_resume(command: Any) -> bool:
    """Whether the work can go on from what an interrupted run has left."""
    kinds = protocol.Convert | MeasureImatrix | MeasureQuality | Wish | messages.Download | protocol.VerifyModels
    return isinstance(command, kinds)


def placed(command: Any, identifier: str) -> Any:
    """The same command, told to keep what its steps make in the job's folder, if it has such steps."""
    if isinstance(command, Wish):
        return msgspec.structs.replace(command, work=str(_folder(identifier)))
    return command


def resuming(command: Any) -> Any:
    """The same command, told to go on where an interrupted run ended (a download, a verification and a fit always
    do)."""
    if isinstance(command, protocol.Convert):
        return protocol.Convert(msgspec.structs.replace(command.spec, resume=True))
    if isinstance(command, MeasureImatrix):
        return msgspec.structs.replace(command, resume=True)
    if isinstance(command, MeasureQuality):
        return msgspec.structs.replace(command, fresh=False)
    return command


def _folder(identifier: str) -> Path:
    if not identifier or _BAD_NAME & set(identifier) or identifier.startswith("."):
        raise ValueError(identifier)
    return paths.jobs() / identifier


def remember(record: Record) -> None:
    """Write the record; ``OSError`` if the disk refuses. Without a ``place`` it comes last."""
    data = msgspec.structs.asdict(record)
    data["command"] = msgspec.json.decode(protocol.encode(_without_secrets(record.command)))
    data |= {"owner": os.getpid(), "place": record.place or time.time()}
    write_atomically(_folder(record.id) / _FILE, msgspec.json.encode(data))


def _without_secrets(command: Any) -> Any:
    """What may be written down: keys are the keyring's, or last as long as the program."""
    if not isinstance(command, MeasureQuality):
        return command
    served = tuple(msgspec.structs.replace(place, secret="") for place in command.served)
    return msgspec.structs.replace(command, served=served)


def forget(identifier: str) -> None:
    """Remove a record; nothing happens if there is none."""
    shutil.rmtree(_folder(identifier), ignore_errors=True)


def remembered() -> list[Record]:
    """Records that nobody works on any more, in the order of the queue.

    Those of another running Quench are left out; one that cannot be read (another version wrote it) is removed.
    """
    found = []
    for file in paths.jobs().glob(f"*/{_FILE}"):
        try:
            written = file.stat().st_mtime
            raw = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
            raw["command"] = protocol.decode_command(msgspec.json.encode(raw["command"]))
            record = msgspec.convert(raw, Record)
            if record.id != file.parent.name or record.state not in MOVES:
                raise ValueError(record.id)
        except OSError:
            continue  # another window has just taken it, or the disk refuses: either way it is not ours to remove
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            with contextlib.suppress(OSError):
                file.unlink()
                file.parent.rmdir()
            continue
        if record.owner == os.getpid() or not still_runs(record.owner, written):
            found.append(record)
    return sorted(found, key=lambda record: (record.place, record.id))


def still_runs(owner: int, written: float) -> bool:
    """Whether the program that wrote a record at ``written`` still runs.

    After a restart of the machine its process id is soon another program's, which began later.
    """
    try:
        return bool(psutil.Process(owner).create_time() <= written + _CLOCK_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
