"""Bounded reading: bytes at an offset, and small JSON files that strangers wrote.

Headers and small files are read by position into a buffer; weights are looked at through a memory map, which spares
the buffer and the copy. A map that loses its file (truncated by another program, a disk that went away) kills the
process with SIGBUS, so that before every look the file's size is checked and the system asked to bring the bytes in;
if anything is odd, the same bytes are read by position, which either works or fails with an error that can be named.
What is left is the moment between that check and the last use of a slab. A conversion runs in a process of its own for
it, and its end by SIGBUS is told in words (``app.child``).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from converter.sources.mapping import FileMap

MEBIBYTE = 1 << 20
CONFIG_LIMIT = 4 * MEBIBYTE
INDEX_LIMIT = 64 * MEBIBYTE


def cannot_read(path: Path, error: OSError) -> QuenchError:
    """The error for a file or folder that the system will not give us."""
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return QuenchError("not_found", "The file is not there.", f"{path}", "Check the path, or download it again.")
    return QuenchError(
        "unreadable", "The file cannot be read.", f"{path}: {reason}", "Check its permissions and the disk."
    )


class ByteFile:
    """A regular file, read from any thread. ``size`` is its length in bytes when opened, ``modified`` its date in ns.

    Nothing is mapped before the first :meth:`view`. Closing gives the descriptor back at once and the map with the
    last view of it; until then Windows neither deletes nor shortens the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            # Looked at before opening: opening a pipe would wait for a writer for ever.
            if not stat.S_ISREG(path.stat().st_mode):
                raise QuenchError("not_a_file", "This is not a regular file.", f"{path}", "Choose a model file.")
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise cannot_read(path, error) from error
        except ValueError as error:  # a NUL in the name
            raise QuenchError("not_found", "This is no file name.", f"{path!r}", "Check the path.") from error
        self._open = True
        self._map: FileMap | None = None
        self._map_tried = False
        status = os.fstat(self._descriptor)
        self.size, self.modified = status.st_size, status.st_mtime_ns

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fills ``view`` (contiguous bytes) from ``offset``; ``QuenchError`` ``truncated`` when the file ends early."""
        done = 0
        while done < len(view):
            try:
                count = self._read_some(offset + done, view[done:])
            except OSError as error:
                raise cannot_read(self.path, error) from error
            if count == 0:
                raise QuenchError(
                    "truncated",
                    "The file ends too early.",
                    f"{self.path.name} should hold bytes {offset} to {offset + len(view)}, "
                    f"but ends at {offset + done}.",
                    "Download or copy it again; it may still be on its way.",
                )
            done += count

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``."""
        if self._open and count <= MEBIBYTE and hasattr(os, "pread"):
            data = self._short(offset, count)
            if len(data) == count:
                return data
        buffer = bytearray(count)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def view(self, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """``count`` bytes from ``offset``, uint8, not to be written to: a view of the file's map, without a copy.

        They are a copy in memory of their own where the file cannot be mapped. :meth:`release` them when they were
        used. Raises ``QuenchError`` as :meth:`read_into` does, also for a file that has become shorter.
        """
        mapped = self._mapped()
        if mapped is not None and self._has(offset + count) and mapped.fault_in(offset, count):
            return mapped.bytes[offset : offset + count]
        import numpy as np

        out = np.empty(count, np.uint8)
        self.read_into(offset, out.data)
        return out

    def release(self, offset: int, count: int) -> None:
        """Says that a view of these bytes was used: they stop counting as this process's memory."""
        mapped = self._map
        if mapped is not None:
            mapped.release(offset, count)

    def close(self) -> None:
        with self._lock:
            self._map = None
            if self._open:
                self._open = False
                os.close(self._descriptor)

    def _mapped(self) -> FileMap | None:
        """The map, made when it is first asked for; None where the file cannot be mapped or is closed."""
        if not self._map_tried:
            from converter.sources.mapping import FileMap

            with self._lock:
                if self._open and not self._map_tried:
                    with contextlib.suppress(OSError, ValueError):
                        self._map = FileMap(self._descriptor, self.size)
                    self._map_tried = True
        return self._map

    def _has(self, end: int) -> bool:
        """Whether the file still reaches to ``end``."""
        try:
            return os.fstat(self._descriptor).st_size >= end
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def _short(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes, in the one call that nearly always suffices."""
        try:
            return os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def _read_some(self, offset: int, view: memoryview) -> int:
        if not self._open:
            raise QuenchError("closed", "The model was closed.", f"{self.path}", "Open it again.")
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [view], offset)
        if hasattr(os, "pread"):
            data = os.pread(self._descriptor, min(len(view), 16 * MEBIBYTE), offset)
        else:  # Windows has no positioned read: one reader at a time
            with self._lock:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                data = os.read(self._descriptor, min(len(view), 16 * MEBIBYTE))
        view[: len(data)] = data
        return len(data)


def read_bounded(path: Path, limit: int) -> bytes:
    """The whole of a small file; ``QuenchError`` ``too_large`` above ``limit`` bytes."""
    file = ByteFile(path)
    try:
        if file.size > limit:
            raise QuenchError(
                "too_large",
                f"{path.name} is too large to be what it should be.",
                f"{path} has {file.size} bytes; at most {limit} are read.",
                "Download the file again.",
            )
        return file.read(0, file.size)
    finally:
        file.close()


def read_text(path: Path, limit: int) -> str:
    """A small UTF-8 file; ``QuenchError`` ``bad_text`` for other bytes."""
    try:
        return read_bounded(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise QuenchError(
            "bad_text", f"{path.name} is not UTF-8 text.", f"{path}: {error}", "Download the file again."
        ) from error


def parse_json(
    data: bytes, what: str, code: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> dict[str, Any]:
    """``data`` as a JSON object. Any failure (syntax, nesting, encoding, absurd numbers) is a ``QuenchError``."""
    hint = "Download the file again; if it stays so, the model's folder is damaged."
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except RecursionError as error:
        raise QuenchError(code, f"{what} is nested too deeply.", f"{len(data)} bytes of brackets.", hint) from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, numbers of thousands of digits
        raise QuenchError(code, f"{what} is not valid JSON.", str(error), hint) from error
    if not isinstance(value, dict):
        raise QuenchError(code, f"{what} is not a JSON object.", f"It is a {type(value).__name__}.", hint)
    return value


def read_json(path: Path, *, limit: int = CONFIG_LIMIT, code: str = "bad_config") -> dict[str, Any]:
    """A JSON object from a file of at most ``limit`` bytes."""
    return parse_json(read_bounded(path, limit), path.name, code)
