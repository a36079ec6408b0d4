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
import ctypes
import errno
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
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


_LENGTH = struct.Struct("<Q").pack


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of one row of ``columns`` weights in GGML type ``kind`` (any type of the format, also ones only copied)."""
    entry = BY_NAME[kind]
    if columns % entry.block:
        raise ValueError(f"{columns} columns are no whole number of {kind} blocks of {entry.block}")
    return entry.row_bytes(columns)


def _string(text: str | bytes) -> bytes:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if not isinstance(data, bytes):
        raise TypeError(f"{type(text).__name__} is no text")
    return _LENGTH(len(data)) + data


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


def write_vocabulary(path: Path, entries: Sequence[MetaEntry]) -> None:
    """A GGUF file of ``entries`` without tensors, for the engine's tokenizer alone."""
    head = _MAGIC + struct.pack("<IQQ", _VERSION, 0, len(entries))
    path.write_bytes(head + pack_metadata(entries))


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


def begins_as(path: Path, plan: Layout) -> bool:
    """Whether a file has the size and the header of ``plan``: the same model in the same types."""
    header = b"".join(plan.header)
    try:
        with path.open("rb") as file:
            return path.stat().st_size == plan.size and file.read(len(header)) == header
    except OSError:
        return False


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
            "Free some space, or choose another folder.",
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
    ``write_failed``. A ``.part`` that a killed process left is reused: its bytes are dropped, and the journal that
    speaks of them, unless ``resume``, when it must be there in its full size (``resume_changed``).

    ``kept`` set to true lets the half-written file stay after all.
    """

    def __init__(self, target: Path, plan: Layout, *, resume: bool = False) -> None:
        self.target = target
        self.plan = plan
        self.part = part_of(target)
        self.kept = resume
        self._lock = threading.Lock()
        self._published = False
        mode = os.O_RDWR | (0 if resume else os.O_CREAT) | getattr(os, "O_BINARY", 0)
        try:
            self._handle = os.open(self.part, mode, 0o644)
        except OSError as error:
            if resume and isinstance(error, FileNotFoundError):
                raise self._changed("is gone") from error
            raise disk_error(error, target) from error
        self._open = True
        try:
            self._claim()
            if resume:
                self._check_size()
            else:
                self._start_afresh()
            _reserve(self._handle, plan.size)
            at = 0
            for piece in plan.header:
                self.write(at, piece)
                at += len(piece)
            if resume:
                self._clear_padding()
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

    def _start_afresh(self) -> None:
        """Drops what is there; before that the journal, durably, or after a power loss it would speak of nothing."""
        journal = journal_of(self.target)
        if journal.exists():
            journal.unlink(missing_ok=True)
            sync_folder(journal.parent)
        os.ftruncate(self._handle, 0)

    def _check_size(self) -> None:
        size = os.fstat(self._handle).st_size
        if size != self.plan.size:
            raise self._changed(f"has {size} bytes instead of {self.plan.size}")

    def _changed(self, what: str) -> QuenchError:
        return QuenchError(
            "resume_changed",
            "The interrupted conversion cannot go on.",
            f"{self.part} {what}.",
            "Start again from the beginning.",
        )

    def _clear_padding(self) -> None:
        """Zeros between the tensors, as in fresh space."""
        ends = [*(place.offset for place in self.plan.tensors[1:]), self.plan.size]
        for place, end in zip(self.plan.tensors, ends, strict=True):
            self.write(place.offset + place.bytes, bytes(end - place.offset - place.bytes))

    def reader(self) -> FileIO:
        """What is in the half-written file so far."""
        return self.part.open("rb", buffering=0)

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

    def hurry(self, offset: int, count: int) -> None:
        """Says that these bytes are final: they may go to the disk now, so that :meth:`flush` finds little left."""
        if _start_writing is not None and count > 0:
            _start_writing(self._handle, offset, count, _WRITE)

    def flush(self) -> None:
        """Returns when all bytes written so far are on the disk."""
        try:
            flush_to_disk(self._handle)
        except OSError as error:
            raise disk_error(error, self.target) from error

    def seal(self, verify: Callable[[Path, Layout], None]) -> None:
        """Flushes to the disk, then re-opens and verifies. The file is not in its place yet."""
        self.flush()
        try:
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
            sync_folder(self.target.parent)
        except OSError as error:
            raise disk_error(error, self.target) from error

    def unpublish(self) -> None:
        """Takes a published file back: it is a ``.part`` again."""
        self.target.replace(self.part)
        self._published = False

    def discard(self) -> None:
        """Removes the half-written file, unless it was published, is to be kept or belongs to another process."""
        if self._open and not self._published and not self.kept:
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


def part_of(target: Path) -> Path:
    """The half-written file of an output."""
    return target.with_name(target.name + ".part")


def journal_of(target: Path) -> Path:
    """The journal (:mod:`converter.journal`) of a conversion whose first output is ``target``.

    Its ending is no longer than ``.part``: where the one name fits, so does the other.
    """
    return target.with_name(target.name + ".jrnl")


def remove_leftover(target: Path) -> None:
    """Removes what a process that died has left of ``target``, the journal too; what somebody writes to now stays.

    Never raises: it is called after a failure, which is what should be told.
    """
    part, journal = part_of(target), journal_of(target)
    with contextlib.suppress(OSError):
        if not part.exists():
            journal.unlink(missing_ok=True)
        elif sys.platform == "win32":
            part.unlink()  # which is refused while a process has it open
            journal.unlink(missing_ok=True)
        else:
            handle = os.open(part, os.O_RDWR)
            try:
                locking.flock(handle, locking.LOCK_EX | locking.LOCK_NB)
                journal.unlink(missing_ok=True)
                part.unlink()
            finally:
                os.close(handle)


_WRITE = 2
"""``SYNC_FILE_RANGE_WRITE``: begin to write what is not being written yet, and do not wait for it."""


def _find_start_writing() -> Callable[[int, int, int, int], int] | None:
    """Linux's ``sync_file_range(descriptor, offset, count, flags)``: a hint, whose failure changes no byte."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found: Callable[[int, int, int, int], int] = function
    return found


_start_writing = _find_start_writing()


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


def flush_to_disk(handle: int) -> None:
    """Returns when the bytes of an open file, and its size, would survive a loss of power."""
    if sys.platform == "darwin":
        try:
            locking.fcntl(handle, locking.F_FULLFSYNC)  # fsync stops at the drive's own memory there
        except OSError:
            os.fsync(handle)  # not every file system knows the other
    elif hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:
        os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder would survive a loss of power."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
