"""Journals: what an interrupted measurement has finished, in files of the cache that only grow.

``cache/journals/<key>.<process id>.journal``; the key says what was asked (:func:`key_of`), the process who writes. A
file is ::

    "QJRN", uint32 version
    frames: uint32 length, BLAKE2b-128 of the payload, payload; little-endian
    the payload of the first frame is a MessagePack :class:`Head`, of each other one a :class:`Piece`

A frame is written in one piece and is whole or does not count: what a kill or a loss of power cut off at the end is
noticed by its length or its checksum, and everything before it is good. A file whose process has gone belongs to
whoever renames it first. Knows no Qt and no engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from app import paths, protocol
from app.jobs import still_runs
from app.measure_messages import MeasureQuality

VERSION = 1
_START = struct.Struct("<4sI")
_MAGIC = b"QJRN"
_FRAME = struct.Struct("<I16s")
_DIGEST = 16
MAX_PIECE = 64 << 20
MAX_FILE = 1 << 30
KEPT_SECONDS = 30 * 24 * 3600.0
KEPT_BYTES = 512 << 20
"""Journals of nobody older than this, and the oldest of those above this together, are deleted."""

SYNC_SECONDS = 5.0
"""How much of the work a loss of power may cost."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a journal belongs to. ``identity`` is of all that its pieces depend on; ``way`` how the measurement went
    about it; ``total`` pieces are a whole run."""

    key: str
    identity: bytes
    way: str
    total: int


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """One finished piece: whose, of which kind, which one, and its data; ``spent`` seconds had gone into the run."""

    whose: bytes
    kind: str
    number: int
    spent: float
    data: bytes


Name = tuple[bytes, str, int]


class Contents(msgspec.Struct, frozen=True):
    """A journal as it was read. ``problem`` says in words what was wrong with it, ``length`` how far it is good."""

    head: Head | None
    pieces: dict[Name, bytes]
    spent: float
    length: int
    problem: str = ""


def key_of(command: MeasureQuality) -> str:
    """Of a command all that its finished pieces depend on; not how long it may take, the verdict or the report."""
    asked = msgspec.structs.replace(
        command, minutes=0.0, precision=0.0, report=None, pass_kld=0.03, fail_kld=0.2, pass_top1=0.95, fresh=False
    )
    return hashlib.blake2b(protocol.encode(asked), digest_size=12).hexdigest()


def folder() -> Path:
    """Where journals are. Created."""
    place = paths.cache() / "journals"
    place.mkdir(exist_ok=True)
    return place


class Journal:
    """A journal that is written. :meth:`add` never fails: a disk that refuses ends the journal, not the measurement.

    ``problem`` then says why.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.problem = ""
        self._file: BinaryIO | None = file
        self._synced = time.monotonic()

    @classmethod
    def begin(cls, head: Head) -> Journal:
        """A new one in place of the one that this process may have; ``OSError`` if it cannot be made."""
        path = _path(head.key)
        journal = cls(path, path.open("wb", buffering=0))
        journal._write(_START.pack(_MAGIC, VERSION) + _frame(msgspec.msgpack.encode(head)), sync=True)
        if journal.problem:
            raise OSError(journal.problem)
        return journal

    @classmethod
    def go_on(cls, path: Path, length: int) -> Journal:
        """One that was read and is good up to ``length``; ``OSError``."""
        file = path.open("r+b", buffering=0)
        file.truncate(length)
        file.seek(length)
        return cls(path, file)

    def add(self, piece: Piece) -> None:
        now = time.monotonic()
        self._write(_frame(msgspec.msgpack.encode(piece)), sync=now - self._synced >= SYNC_SECONDS)

    def _write(self, data: bytes, *, sync: bool) -> None:
        if self._file is None:
            return
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            if sync:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            self.problem = error.strerror or str(error)
            self.close()

    def close(self) -> None:
        """End writing; the file stays for another run. Closing twice is no error."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):
                file.close()

    def remove(self) -> None:
        """There is nothing to go on with any more."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def take(key: str) -> Path | None:
    """The largest journal of ``key`` that nobody writes to any more; from now on it is this process's."""
    found = [(size, path) for path, size, _, free in _all(key) if free]
    for _, path in sorted(found, reverse=True):
        with contextlib.suppress(OSError):  # another program was faster, or has deleted it
            path.replace(_path(key))
            return _path(key)
    return None


def read(path: Path) -> Contents:
    """What a journal has; damage is told in words and never raised."""
    try:
        if path.stat().st_size > MAX_FILE:
            return Contents(None, {}, 0.0, 0, "it is too large")
        data = path.read_bytes()
    except OSError as error:
        return Contents(None, {}, 0.0, 0, error.strerror or str(error))
    if len(data) < _START.size or data[: _START.size] != _START.pack(_MAGIC, VERSION):
        return Contents(None, {}, 0.0, 0, "it is not a journal of this version")
    frames = _frames(data)
    try:
        payload, at = next(frames)
        head = msgspec.msgpack.decode(payload, type=Head)
    except (StopIteration, msgspec.MsgspecError):
        return Contents(None, {}, 0.0, 0, "its beginning is damaged")
    pieces: dict[Name, bytes] = {}
    spent, decoder = 0.0, msgspec.msgpack.Decoder(Piece)
    for payload, end in frames:
        try:
            piece = decoder.decode(payload)
        except msgspec.MsgspecError:
            break
        pieces[piece.whose, piece.kind, piece.number] = piece.data
        spent, at = max(spent, piece.spent), end
    return Contents(head, pieces, spent, at)


def kept_fraction(command: MeasureQuality) -> float | None:
    """How much of what ``command`` asks for (0 to 1) an interrupted run has kept; None if nothing. Reads little."""
    best: float | None = None
    for path, size, _, free in _all(key_of(command)):
        if free and size <= MAX_FILE:
            with contextlib.suppress(OSError, msgspec.MsgspecError, StopIteration), path.open("rb") as file:
                if file.read(_START.size) != _START.pack(_MAGIC, VERSION):
                    continue
                length, digest = _FRAME.unpack(file.read(_FRAME.size).ljust(_FRAME.size, b"\0"))
                payload = file.read(min(length, 1 << 16))
                if _digest(payload) != digest:
                    continue
                head = msgspec.msgpack.decode(payload, type=Head)
                count = sum(1 for _ in _lengths(file, size))
                if count:
                    best = max(best or 0.0, min(1.0, count / max(1, head.total)))
    return best


def discard(command: MeasureQuality) -> None:
    """Delete what interrupted runs of ``command`` have kept."""
    for path, _, _, free in _all(key_of(command)):
        if free:
            with contextlib.suppress(OSError):
                path.unlink()


def forget_old(seconds: float = KEPT_SECONDS, size: int = KEPT_BYTES) -> None:
    """Delete journals that nobody has come back to: by age, and the oldest where all are too large together."""
    free = sorted(((written, length, path) for path, length, written, free in _all("*") if free), reverse=True)
    total, now = 0, time.time()
    for written, length, path in free:
        total += length
        if now - written > seconds or total > size:
            with contextlib.suppress(OSError):
                path.unlink()


# ---- inside ----------------------------------------------------------------------------------------------------


def _path(key: str) -> Path:
    return folder() / f"{key}.{os.getpid()}.journal"


def _all(key: str) -> Iterator[tuple[Path, int, float, bool]]:
    """Every journal of ``key``, its size, when it was written last, and whether it is nobody's."""
    for path in folder().glob(f"{key}.*.journal"):
        with contextlib.suppress(OSError):
            status = path.stat()
            owner = path.name.split(".")[-2]
            known = owner.isdecimal() and len(owner) < 10
            busy = known and int(owner) != os.getpid() and still_runs(int(owner), status.st_mtime)
            yield path, status.st_size, status.st_mtime, not busy


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), _digest(payload)) + payload


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST).digest()


def _frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Payloads that are whole, each with where it ends; stops at the first that is not."""
    at = _START.size
    while at + _FRAME.size <= len(data):
        length, digest = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if length > MAX_PIECE or len(payload) != length or _digest(payload) != digest:
            return
        at += _FRAME.size + length
        yield payload, at


def _lengths(file: BinaryIO, size: int) -> Iterator[int]:
    """Lengths of the frames from here on, as they claim to be, while they fit into the file."""
    while len(start := file.read(_FRAME.size)) == _FRAME.size:
        length = _FRAME.unpack(start)[0]
        if length > MAX_PIECE or file.tell() + length > size:
            return
        yield length
        file.seek(length, os.SEEK_CUR)


__all__ = [
    "Contents",
    "Head",
    "Journal",
    "Piece",
    "discard",
    "folder",
    "forget_old",
    "kept_fraction",
    "key_of",
    "read",
    "take",
]
