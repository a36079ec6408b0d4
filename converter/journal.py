"""The journal of a conversion: which tensors stand safely in its half-written files, so that it can go on later.

It lies beside the first output as ``<name>.jrnl``. A tensor is noted in it only after its bytes were flushed to
the disk in every output, so that whatever ends the program (a kill, a power loss, a full disk), the journal never
promises more than is there. Short conversions make none: the first entry is due after a second.

The format: one line for the :class:`Head`, then one for each finished tensor (:class:`Entry`), each a JSON object
behind the CRC-32 of itself and of all lines before it, as eight hexadecimal digits. Reading stops at the first line
that is torn or does not fit; what stands before it holds. A journal without a sound first line is none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import threading
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np

import kernels
from converter.spec import Cancelled, Paused, QuenchError
from converter.splitting import files_of
from converter.writer import flush_to_disk, journal_of, part_of, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from io import FileIO
    from types import TracebackType

    import numpy.typing as npt

    from converter.planning import Prepared, Target
    from converter.sources.files import ByteFile
    from converter.splitting import JoinedReader, SplitFiles
    from converter.writer import PartFile, TensorPlace

FORMAT = 3
EVERY_SECONDS = 1.0
_EVERY_BYTES = 256 << 20
_MOST_TENSORS = 1 << 24
_LARGEST = 64 << 20
"""A journal of more bytes is not read: a million tensors in eight files stay below it."""
_PIECE = 1 << 20
_OPEN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_HEAD_SAMPLE, _TAIL_SAMPLE = 1 << 20, 1 << 16
"""Bytes of each source file that its identity is taken from, beside its name, size and date; headers lie in front."""

_HOPELESS = frozenset(
    {"not_finite", "bad_imatrix", "unsupported_type", "bad_metadata", "output_differs", "output_unusable"}
)
"""What would come again with the same tensors: nothing is kept for a second try."""
_CHANGED = "resume_changed"

_WHAT_CHANGED = {
    "program": "Quench itself is another version now.",
    "source": "The source's files have changed: their names, sizes, dates or contents.",
    "importance": "The importance matrix is another one.",
    "outputs": "The types, the options, the names of the files or the model's description are others.",
}


class Binding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Digests of everything that decides the outputs' bytes, kept apart so that a difference can be named."""

    program: str
    source: str
    importance: str
    outputs: str


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line. ``read`` counts the source's bytes, ``files`` are the outputs' names in the journal's folder."""

    quench_journal: int
    binding: Binding
    read: int
    files: tuple[str, ...]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished tensor: its number in the source, its bytes there; a :func:`fold` and two errors for each output."""

    tensor: int
    read: int
    sums: tuple[int, ...]
    rmse: tuple[float, ...]
    relative: tuple[float, ...]


@dataclass(frozen=True)
class Kept:
    """What a journal says. ``length`` is its sound part in bytes, ``check`` the running CRC-32 at its end."""

    head: Head
    entries: tuple[Entry, ...]
    length: int
    check: int

    @property
    def fraction(self) -> float:
        """How much of the work is done, 0 to 1."""
        return min(1.0, sum(entry.read for entry in self.entries) / max(self.head.read, 1))


def read(path: Path) -> Kept | None:
    """The journal at ``path`` as far as it is sound; None if there is none, or nothing in it can be believed.

    Never raises: a journal that cannot be read is no worse than none.
    """
    data = _bytes_of(path)
    head: Head | None = None
    entries: dict[int, Entry] = {}
    length = check = 0
    for line in data.splitlines(keepends=True):
        text = line[9:-1]
        summed = zlib.crc32(text, check)
        if line != b"%08x %s\n" % (summed, text):
            break
        try:
            if head is None:
                head = msgspec.json.decode(text, type=Head)
                if head.quench_journal != FORMAT or not head.files:
                    return None
            else:
                entry = msgspec.json.decode(text, type=Entry)
                if not _plausible(entry, head) or entry.tensor in entries:
                    break
                entries[entry.tensor] = entry
        except (msgspec.DecodeError, RecursionError):
            break
        length, check = length + len(line), summed
    return None if head is None else Kept(head, tuple(entries.values()), length, check)


def _plausible(entry: Entry, head: Head) -> bool:
    count = len(head.files)
    return (
        0 <= entry.tensor < _MOST_TENSORS
        and 0 <= entry.read <= head.read
        and len(entry.sums) == len(entry.rmse) == len(entry.relative) == count
        and all(0 <= error < float("inf") for error in (*entry.rmse, *entry.relative))
        and all(0 <= total < 1 << 64 for total in entry.sums)
    )


def _bytes_of(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b""
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, ValueError):
        return b""
    return data if len(data) <= _LARGEST else b""


def kept_fraction(outputs: Sequence[str | os.PathLike[str]]) -> float | None:
    """How much of the conversion into ``outputs`` an interrupted run has left done; None if there is nothing of it."""
    kept = read(journal_of(Path(outputs[0]))) if outputs else None
    return kept.fraction if kept is not None and kept.entries else None


def find(prepared: Prepared) -> Kept | None:
    """What an interrupted run of exactly this conversion has left. An empty journal counts as none.

    Raises ``QuenchError`` ``resume_changed`` when the spec asks to resume and the journal is of another conversion.
    """
    kept = read(journal_of(prepared.targets[0].files[0]))
    if kept is None or not kept.entries:
        return None
    head = head_of(prepared)
    now, then = msgspec.structs.asdict(head.binding), msgspec.structs.asdict(kept.head.binding)
    differ = [words for key, words in _WHAT_CHANGED.items() if now[key] != then[key]]
    if not differ and (head != kept.head or any(entry.tensor >= len(prepared.model.tensors) for entry in kept.entries)):
        differ = [_WHAT_CHANGED["outputs"]]
    if not differ:
        return kept
    if prepared.spec.resume:
        raise _changed(" ".join(differ))
    return None


def _changed(detail: str) -> QuenchError:
    return QuenchError(
        _CHANGED,
        "The interrupted conversion cannot go on.",
        detail,
        "Put things back as they were, or start again from the beginning.",
    )


# ---- what a journal is bound to ----


def head_of(prepared: Prepared) -> Head:
    """The first line of a journal for this conversion."""
    return Head(
        FORMAT,
        Binding(_program(), _source(prepared.model.files), _importance(prepared), _outputs(prepared)),
        prepared.plan.read_bytes,
        tuple(target.path.name for target in prepared.targets),
    )


@functools.cache
def _program() -> str:
    """The version, and the kernels as they were built: equal libraries make equal bytes on any machine."""
    try:
        name = version("quench-studio")
    except PackageNotFoundError:
        name = "source tree"
    return f"{name} {hashlib.sha256(kernels.library_file().read_bytes()).hexdigest()[:16]}"


def _source(files: Iterable[ByteFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        front = file.read(0, min(_HEAD_SAMPLE, file.size))
        end = min(_TAIL_SAMPLE, file.size)
        back = file.read(file.size - end, end)
        _add(digest, f"{file.path.name} {file.size} {file.modified}".encode(errors="surrogateescape"), front, back)
    return digest.hexdigest()


def _importance(prepared: Prepared) -> str:
    if prepared.importance is None:
        return ""
    digest = hashlib.sha256()
    for name, values in sorted(prepared.importance.entries.items()):
        _add(digest, name.encode(errors="surrogateescape"), values.tobytes())
    return digest.hexdigest()


def _outputs(prepared: Prepared) -> str:
    digest = hashlib.sha256(b"refined" if prepared.spec.refined else b"")
    if prepared.spec.blocks is not None:
        file = Path(prepared.spec.blocks)
        state = file.stat()
        _add(digest, os.fsencode(file), f"{state.st_size} {state.st_mtime_ns}".encode())
    for target in prepared.targets:
        _add(digest, target.path.name.encode(errors="surrogateescape"), *target.layout.header)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, *pieces: bytes) -> None:
    """Each piece behind its length, so that no two lists of pieces look the same."""
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)


# ---- going on ----


def adopt(kept: Kept, targets: Sequence[Target]) -> None:
    """Take back outputs that were in their place already when the run was cut off while it renamed them.

    That can only be when all tensors were finished. Such a file becomes a ``.part`` again until all are renamed; one
    that does not hold what the journal says is somebody else's and stays.
    """
    if any(len(kept.entries) < len(target.layout.tensors) for target in targets):
        return
    for index, target in enumerate(targets):
        places = target.layout.tensors
        sums = {places[entry.tensor].name: entry.sums[index] for entry in kept.entries}
        for path, plan in files_of(target.path, target.layout):
            with contextlib.suppress(OSError):
                if part_of(path).exists() or path.stat().st_size != plan.size:
                    continue
                with path.open("rb", buffering=0) as file:
                    whole = all(_fold_of(file, place) == sums[place.name] for place in plan.tensors)
                if whole:
                    path.replace(part_of(path))


def fold(data: npt.NDArray[np.uint8], at: int) -> int:
    """The sum of a tensor's 64-bit words modulo 2**64, as far as ``data``, which begins ``at`` bytes into it, goes.

    Folds of the pieces of a tensor add up to that of the whole, in any order and however it was cut. It tells lost,
    foreign and damaged bytes, and costs next to nothing beside the bytes' making.
    """
    flat = data.reshape(-1)
    before = min(-at % 8, flat.size)
    end = before + (flat.size - before) // 8 * 8
    total = int.from_bytes(flat[:before].tobytes(), "little") << 8 * (at % 8)
    total += int(flat[before:end].view("<u8").sum(dtype=np.uint64)) + int.from_bytes(flat[end:].tobytes(), "little")
    return total % (1 << 64)


def _fold_of(file: FileIO | JoinedReader, place: TensorPlace) -> int:
    """The fold of a tensor in a file; of fewer bytes where the file ends early."""
    buffer = np.empty(_PIECE, np.uint8)
    file.seek(place.offset)
    done = total = 0
    while done < place.bytes and (count := file.readinto(buffer[: place.bytes - done].data)):
        total += fold(buffer[:count], done)
        done += count
    return total % (1 << 64)


def _opened(stack: contextlib.ExitStack, parts: Iterable[PartFile | SplitFiles]) -> list[FileIO | JoinedReader]:
    """What is in the half-written outputs so far; ``stack`` closes it."""
    readers: list[FileIO | JoinedReader] = []
    for part in parts:
        readers.append(part.reader())
        stack.push(readers[-1].__exit__)
    return readers


class Journal:
    """The journal of a conversion that runs now. A context manager to be left before its :class:`PartFile` objects.

    Leaving it decides what stays. After a success or a cancel it removes itself. After a pause or an error that need
    not come again, it notes what is finished and lets the parts stay (``PartFile.kept``), if anything is; an error's
    hint then says how to go on.

    ``every`` is the least time between two flushes; 0 notes each tensor before :meth:`done` returns. Flushing happens
    in a thread of its own; what goes wrong there is raised by the next call.
    """

    def __init__(
        self, prepared: Prepared, parts: Sequence[PartFile | SplitFiles], every: float = EVERY_SECONDS
    ) -> None:
        self.path = journal_of(parts[0].target)
        self.entries: tuple[Entry, ...] = ()
        self._prepared = prepared
        self._parts = parts
        self._every = every
        self._lock = threading.Lock()
        self._folds: dict[tuple[int, int], int] = {}
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._noted = 0
        self._last = time.monotonic()
        self._handle: int | None = None
        self._check = 0
        self._broken = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._running: Future[None] | None = None
        self._head = head_of(prepared) if prepared.model.files else None
        """None: a source that does not say what it was read from cannot be recognised later."""

    def resume(self, kept: Kept, look: Callable[[int, int], None]) -> None:
        """Go on after what ``kept`` says, which the parts must bear out: ``entries`` are the finished tensors then.

        ``look(done, total)`` is called now and then and may raise to stop. Raises ``QuenchError`` ``resume_changed``.
        """
        with contextlib.ExitStack() as stack:
            files = _opened(stack, self._parts)
            for number, entry in enumerate(kept.entries):
                look(number, len(kept.entries))
                for part, file, wanted in zip(self._parts, files, entry.sums, strict=True):
                    place = part.plan.tensors[entry.tensor]
                    if _fold_of(file, place) != wanted:
                        raise _changed(f"{part.target.name} does not hold {place.name} as it was written.")
        self._handle = os.open(self.path, os.O_RDWR | _OPEN)
        os.ftruncate(self._handle, kept.length)
        os.lseek(self._handle, 0, os.SEEK_END)
        self._check = kept.check
        self.entries = kept.entries
        self._noted = len(kept.entries)

    def wrote(self, tensor: int, outputs: Iterable[int], at: int, data: npt.NDArray[np.uint8]) -> None:
        """These bytes, ``at`` bytes into a tensor, were written in these outputs. Called from any thread."""
        total = fold(data, at)
        with self._lock:
            for output in outputs:
                self._folds[output, tensor] = self._folds.get((output, tensor), 0) + total

    def done(self, tensor: int, errors: Sequence[tuple[float, float]]) -> None:
        """All bytes of a tensor (its number in the source) are written in every output, with these errors.

        ``errors`` are RMSE and relative error for each output.
        """
        with self._lock:
            sums = tuple(self._folds.pop((output, tensor), 0) % (1 << 64) for output in range(len(self._parts)))
        if self._head is None:
            return
        source = self._prepared.model.tensors[tensor]
        rmse, relative = zip(*errors, strict=True)
        self._pending.append(Entry(tensor, source.read_bytes(0, source.n_rows), sums, rmse, relative))
        self._pending_bytes += sum(part.plan.tensors[tensor].bytes for part in self._parts)
        if self._every <= 0:
            self.commit()
        else:
            self.keep_up()

    def keep_up(self) -> None:
        """Start to flush if it is time. Raises ``QuenchError`` if flushing went wrong."""
        if self._running is not None and self._running.done():
            self._settle()
        due = time.monotonic() - self._last >= self._every or self._pending_bytes >= _EVERY_BYTES
        if due and self._pending and self._running is None:
            self._running = self._pool.submit(self._note, self._taken())

    def complete(self) -> None:
        """All tensors are done. Note the last ones too, so that even a death while the files are renamed costs nothing.

        Without a journal so far there is none now: it would live for a moment only. Raises ``QuenchError``.
        """
        self._settle()
        if self._handle is not None:
            self.commit()

    def commit(self) -> None:
        """Flush and note everything that is finished, now. Raises ``QuenchError``."""
        self._settle()
        if self._pending:
            self._note(self._taken())

    def _taken(self) -> list[Entry]:
        taken, self._pending, self._pending_bytes = self._pending, [], 0
        self._last = time.monotonic()
        return taken

    def _settle(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def _note(self, finished: list[Entry]) -> None:
        """First the parts, then the lines that speak of them: this order is what a power loss cannot harm."""
        for part in self._parts:
            part.flush()
        if self._broken:
            return
        try:
            lines = b"" if self._handle is not None else self._line(self._head)
            lines += b"".join(map(self._line, finished))
            if self._handle is None:
                self.path.unlink(missing_ok=True)
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o644)
                sync_folder(self.path.parent)
            while lines:
                lines = lines[os.write(self._handle, lines) :]
            flush_to_disk(self._handle)
        except OSError:
            # The conversion itself can go on; what the journal says so far stays true.
            self._broken = True
        else:
            self._noted += len(finished)

    def _line(self, content: Head | Entry | None) -> bytes:
        text = msgspec.json.encode(content)
        self._check = zlib.crc32(text, self._check)
        return b"%08x %s\n" % (self._check, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        try:
            if not _worth_keeping(error):
                self._remove()
            elif not (isinstance(error, QuenchError) and error.code == _CHANGED):
                self._keep(error)
            else:
                self._let_parts_stay()
        finally:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _keep(self, error: BaseException | None) -> None:
        """What is noted stays; what is finished beyond that is noted if the disk still takes it."""
        with contextlib.suppress(QuenchError):
            self.commit()
        kept = read(self.path) if self._noted else None
        if kept is None or not kept.entries:
            self._remove()
            return
        self._let_parts_stay()
        if isinstance(error, QuenchError):
            percent = int(100 * kept.fraction)
            error.hint = f"{error.hint} What is finished was kept: resuming goes on at {percent} %.".strip()

    def _let_parts_stay(self) -> None:
        for part in self._parts:
            part.kept = True

    def _remove(self) -> None:
        for part in self._parts:
            part.kept = False
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _worth_keeping(error: BaseException | None) -> bool:
    """Whether a second try may get further than what ended the run with ``error``."""
    if isinstance(error, QuenchError):
        return error.code not in _HOPELESS
    return isinstance(error, Paused) or (isinstance(error, Exception) and not isinstance(error, Cancelled))
