"""What a model's context held of a conversation, on disk, so that reopening it needs no second computing.

Two files a conversation: the engine's state, and a description with its digest, written last. Whatever does not fit
together is ignored: nothing in here is needed. The engine never sees a state whose every byte is not what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from app import paths
from app.files import write_atomically

_STATE, _ABOUT = ".state", ".json"
_MAX_ABOUT = 16 << 20
_NAME = re.compile(r"[0-9]{1,18}")
_CHUNK = 1 << 20
_ABANDONED = 3600.0  # seconds after which nobody writes on an unfinished file any more


class Kept(msgspec.Struct, frozen=True):
    """What a state file is. ``made_by``: everything that must be equal for it to be of use (model, engine, options)."""

    made_by: str
    tokens: tuple[int, ...]
    bytes: int
    digest: str


def folder() -> Path:
    """Where the files are. Created."""
    made = paths.cache() / "prompts"
    made.mkdir(parents=True, exist_ok=True)
    return made


def find(conversation: str, made_by: str) -> Kept | None:
    """What is kept of a conversation for exactly this model and way of loading; reads no state."""
    if not _NAME.fullmatch(conversation):
        return None
    try:
        path = folder() / f"{conversation}{_ABOUT}"
        if path.stat().st_size > _MAX_ABOUT:
            return None
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
        same_size = (folder() / f"{conversation}{_STATE}").stat().st_size == kept.bytes
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return kept if kept.made_by == made_by and kept.tokens and same_size else None


def checked(conversation: str, kept: Kept) -> Path | None:
    """The state's file if it is, byte for byte, the one that was written; it counts as just used."""
    path = folder() / f"{conversation}{_STATE}"
    try:
        if _digest(path) != kept.digest:
            return None
        os.utime(path)
    except OSError:
        return None
    return path


def keep(
    conversation: str, made_by: str, tokens: list[int], write: Callable[[Path], bool], *, size: int, limit: int
) -> bool:
    """Let ``write`` make a state of about ``size`` bytes, and keep it if all states take at most ``limit`` together.

    The ones that were not used for the longest time make room. False if nothing was kept; no error is one: a full disk
    only means that the conversation is computed again.
    """
    if not _NAME.fullmatch(conversation) or size > limit:
        return False
    part = folder() / f"{conversation}{_STATE}.part"
    try:
        tidy(limit - size, spare=conversation)
        if not write(part):
            return False
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        kept = Kept(made_by, tuple(tokens), part.stat().st_size, _digest(part))
        _remove(folder() / f"{conversation}{_ABOUT}")
        part.replace(folder() / f"{conversation}{_STATE}")
        write_atomically(folder() / f"{conversation}{_ABOUT}", msgspec.json.encode(kept))
    except OSError:
        return False
    finally:
        _remove(part)
    return True


def forget(conversation: str) -> None:
    """A conversation is gone, and what was kept of it with it."""
    if _NAME.fullmatch(conversation):
        for suffix in (_ABOUT, _STATE, f"{_STATE}.part"):
            _remove(folder() / f"{conversation}{suffix}")


def total() -> int:
    """Bytes of all states."""
    return sum(size for _, _, size in _states())


def tidy(limit: int, spare: str = "") -> None:
    """Remove the states that were used the longest ago until the others take at most ``limit`` bytes.

    The state of ``spare`` counts for nothing: it is about to be replaced.
    """
    for part in folder().glob("*.part"):
        with contextlib.suppress(OSError):
            if part.stat().st_mtime < time.time() - _ABANDONED:
                part.unlink()
    states = [each for each in _states() if each[1] != spare]
    room = sum(size for _, _, size in states)
    for _, name, size in sorted(states):
        if room <= limit:
            return
        forget(name)
        room -= size


def _states() -> list[tuple[float, str, int]]:
    """(last used, conversation, bytes) of each."""
    found = []
    for path in folder().glob(f"*{_STATE}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, path.name.removesuffix(_STATE), status.st_size))
    return found


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


__all__ = ["Kept", "checked", "find", "folder", "forget", "keep", "tidy", "total"]
