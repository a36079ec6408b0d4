"""GGUF files that are whole or absent.

A :class:`Layout` knows the exact size of a file and the place of every tensor before the first byte is written. A
:class:`PartFile` reserves that space in ``<name>.part`` beside the target, takes bytes at any offset from any thread,
and becomes the target only after it was flushed to the disk and read back.

The header is packed here and not by the gguf package: that one opens its files itself, wants tensors in order and
packs a vocabulary item by item into a growing buffer, while a plan needs the size of the header alone and quickly.
Format: the GGUF specification, version 3, little-endian.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from converter.sources.base import MetaEntry
from converter.sources.types import BY_NAME
from converter.spec import QuenchError

if sys.platform == "win32":
    import msvcrt as locking
else:
    import fcntl as locking

_MAGIC = b"GGUF"
_VERSION = 3
_ALIGNMENT = 32

_VALUE_TYPES = {
    "UINT8": 0, "INT8": 1, "UINT16": 2, "INT16": 3, "UINT32": 4, "INT32": 5, "FLOAT32": 6, "BOOL": 7, "STRING": 8,
    "ARRAY": 9, "UINT64": 10, "INT64": 11, "FLOAT64": 12,
}  # fmt: skip

_SCALARS = {
    "UINT8": "B", "INT8": "b", "UINT16": "H", "INT16": "h", "UINT32": "I", "INT32": "i",
    "UINT64": "Q", "INT64": "q", "FLOAT32": "f", "FLOAT64": "d", "BOOL": "?",
}  # fmt: skip
"""GGUF value type to ``struct`` and numpy format character."""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of one row of ``columns`` weights in GGML type ``kind`` (any type of the format, also ones only copied)."""
    entry = BY_NAME[kind]
    if columns % entry.block:
        raise ValueError(f"{columns} columns are no whole number of {kind} blocks of {entry.block}")
    return entry.row_bytes(columns)


def _string(text: str | bytes) -> bytes:
    if not isinstance(text, str | bytes):
        raise TypeError(f"{type(text).__name__} is no text")
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _array(values: Any, item_type: str) -> bytes:
    head = struct.pack("<IQ", _VALUE_TYPES[item_type], len(values))
    if item_type == "STRING":
        return head + b"".join(map(_string, values))
    return head + np.asarray(values, np.dtype("<" + _SCALARS[item_type])).tobytes()


def pack_metadata(entries: Iterable[MetaEntry]) -> bytes:
    """Key-value pairs as they stand in a file. ``QuenchError`` ``bad_metadata`` for a value that its type cannot hold.

    Arrays of arrays do not occur in model files and are refused.
    """
    parts = []
    for entry in entries:
        try:
            if entry.type == "ARRAY":
                value = _array(entry.value, str(entry.item_type))
            elif entry.type == "STRING":
                value = _string(entry.value)
            else:
                value = struct.pack("<" + _SCALARS[entry.type], entry.value)
            parts.append(_string(entry.key) + struct.pack("<I", _VALUE_TYPES[entry.type]) + value)
        except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise QuenchError(
                "bad_metadata",
                "A value of the model's description cannot be stored.",
                f"{entry.key} as {entry.type} {entry.item_type or ''}: {error}.",
                "The source's configuration may be damaged.",
            ) from error
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor of an output: ``offset`` counts from the start of the file, ``bytes`` is without padding."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole file on paper: its header in pieces (padding included), every tensor's place, the file's size.

    The pieces are not joined: the outputs of one conversion share the largest, which holds the vocabulary.
    """

    header: tuple[bytes, ...]
    tensors: tuple[TensorPlace, ...]
    size: int


def layout(
    packed: Sequence[bytes], keys: int, tensors: Sequence[tuple[str, tuple[int, ...], str]], alignment: int
) -> Layout:
    """Lays a file out. ``packed`` holds ``keys`` pairs from :func:`pack_metadata`; tensors are (name, shape, type).

    Tensors follow each other in the given order, each padded with zeros to ``alignment``, the last one too.
    """
    infos = []
    places = []
    offset = 0
    for name, shape, kind in tensors:
        rows = int(np.prod(shape[:-1], dtype=np.int64)) if len(shape) > 1 else 1
        size = rows * row_bytes(kind, shape[-1])
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(_string(name) + dims + struct.pack("<IQ", BY_NAME[kind].id, offset))
        places.append((name, shape, kind, offset, size))
        offset = _padded(offset + size, alignment)
    start = _MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), keys)
    header = (start, *packed, b"".join(infos))
    used = sum(map(len, header))
    base = _padded(used, alignment)
    placed = tuple(TensorPlace(name, shape, kind, base + at, size) for name, shape, kind, at, size in places)
    return Layout((*header, bytes(base - used)), placed, base + offset)


def _padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment


def alignment_of(entries: Iterable[MetaEntry]) -> int:
    """``general.alignment`` of a source's metadata, or the format's default of 32."""
    chosen = next((int(entry.value) for entry in entries if entry.key == "general.alignment"), _ALIGNMENT)
    if chosen <= 0 or chosen & (chosen - 1) or chosen > 1 << 20:
        raise QuenchError(
            "bad_metadata",
            "The model names an impossible alignment.",
            f"general.alignment is {chosen}; it must be a power of two up to 1 MiB.",
            "The source file may be damaged.",
        )
    return chosen


def disk_error(error: OSError, path: Path) -> QuenchError:
    """The refusal for an operating system's error while an output is written."""
    reason = f"{path}: {error.strerror or error}."
    if error.errno in _FULL:
        return QuenchError(
            "no_space",
            "The disk is full.",
            reason,
            "Free some space or choose another folder; nothing half-written was left behind.",
            exit_status=4,
        )
    if error.errno == errno.EFAULT:
        # No memory behind the bytes: they were a view of a mapped source.
        return QuenchError(
            "truncated",
            "The source ends too early.",
            f"It became shorter, or its disk went away, while {path.name} was written from it.",
            "Download or copy it again; it may still be on its way.",
        )
    if error.errno in _FORBIDDEN:
        return QuenchError("read_only", "The output folder cannot be written to.", reason, "Choose another folder.")
    return QuenchError("write_failed", "The output could not be written.", reason, "Check the disk and try again.")


class PartFile:
    """One output while it is made. Leaving its ``with`` block without :meth:`publish` removes every trace of it.

    Raises ``QuenchError``: ``no_space``, ``read_only``, ``busy`` (another conversion is writing the same file) or
    ``write_failed``. A ``.part`` that a killed process left is reused.
    """

    def __init__(self, target: Path, plan: Layout) -> None:
        self.target = target
        self.plan = plan
        self.part = target.with_name(target.name + ".part")
        self._lock = threading.Lock()
        self._published = False
        try:
            self._handle = os.open(self.part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise disk_error(error, target) from error
        self._open = True
        try:
            self._claim()
            _reserve(self._handle, plan.size)
            at = 0
            for piece in plan.header:
                self.write(at, piece)
                at += len(piece)
            # The padding between tensors is zero already: the space is fresh.
        except OSError as error:
            self.discard()
            raise disk_error(error, target) from error
        except QuenchError:
            self.discard()
            raise

    def _claim(self) -> None:
        """Takes the ``.part`` for this process; a second writer of the same output must not join in."""
        try:
            if sys.platform == "win32":
                locking.locking(self._handle, locking.LK_NBLCK, 1)
            else:
                locking.flock(self._handle, locking.LOCK_EX | locking.LOCK_NB)
            same = os.fstat(self._handle).st_ino == self.part.stat().st_ino
        except (BlockingIOError, PermissionError, FileNotFoundError):
            same = False
        if not same:
            self._close()
            raise QuenchError(
                "busy",
                "Another conversion is writing the same file.",
                str(self.target),
                "Wait for it to end, or choose another name.",
            )
        os.ftruncate(self._handle, 0)

    @property
    def files(self) -> list[PartFile]:
        """All files of the output: itself. A split output has several (``converter.splitting``)."""
        return [self]

    def write(self, offset: int, data: Any) -> None:
        """Puts bytes (any contiguous buffer) at ``offset``. Safe from several threads."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        try:
            while len(view):
                written = self._write_some(view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise disk_error(error, self.target) from error

    def _write_some(self, view: memoryview, offset: int) -> int:
        if sys.platform == "win32":
            with self._lock:
                os.lseek(self._handle, offset, os.SEEK_SET)
                return os.write(self._handle, view)
        else:
            return os.pwrite(self._handle, view, offset)

    def seal(self, verify: Callable[[Path, Layout], None]) -> None:
        """Flushes to the disk, then re-opens and verifies. The file is not in its place yet."""
        try:
            os.fsync(self._handle)
            size = self.part.stat().st_size
        except OSError as error:
            raise disk_error(error, self.target) from error
        if size != self.plan.size:
            raise QuenchError(
                "write_failed", "The file on the disk has the wrong size.", f"{size} bytes, planned {self.plan.size}."
            )
        verify(self.part, self.plan)

    def publish(self) -> None:
        """Renames the sealed file into place and makes the rename durable."""
        if sys.platform == "win32":
            self._close()  # an open file cannot be renamed there
        try:
            self.part.replace(self.target)
            self._published = True
            _sync_folder(self.target.parent)
        except OSError as error:
            raise disk_error(error, self.target) from error

    def discard(self) -> None:
        """Removes the half-written file, unless it was published or belongs to another process."""
        if self._open and not self._published:
            if sys.platform == "win32":
                self._close()
            with contextlib.suppress(FileNotFoundError):
                self.part.unlink()
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def remove_leftover(target: Path) -> None:
    """Removes the ``.part`` of ``target`` that a process left when it died; one that somebody writes to now stays.

    Never raises: it is called after a failure, which is what should be told.
    """
    part = target.with_name(target.name + ".part")
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            part.unlink()  # which is refused while a process has it open
        else:
            handle = os.open(part, os.O_RDWR)
            try:
                locking.flock(handle, locking.LOCK_EX | locking.LOCK_NB)
                part.unlink()
            finally:
                os.close(handle)


def _reserve(handle: int, size: int) -> None:
    """Takes the blocks now, so that a full disk is met before hours of work; where the system can, else only a size."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
    os.ftruncate(handle, size)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
