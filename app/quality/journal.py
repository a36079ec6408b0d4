"""What of an interrupted quality run is finished: windows and tasks, model by model, taken up by the next run.

A run writes every finished window (the values of its tokens) and every group of tasks into a journal
(:mod:`app.journals`). The next run of the same command takes from it what was measured of the same texts, with the same
reference, options, engine and machine; a candidate whose file has changed is measured anew, the others are not.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from app import hardware, journals
from app.journals import Contents, Head, Piece
from app.measure_messages import MeasureQuality
from app.quality import tasks as graded
from app.quality import texts
from app.quality.divergence import FIRST, TokenValues
from app.quality.grading import Chosen, Graded
from app.quality.texts import Window

TOGETHER, IN_TURN = "together", "in turn"
_FORMAT = 1
_WINDOW, _TASKS = "window", "tasks"

_FIELDS: dict[str, np.dtype[np.generic]] = {
    **{name: np.dtype("<f8") for name in ("reference_nll", "nll", "kld", "reverse", "dp")},
    "agree": np.dtype("?"),
    "shared": np.dtype("<f4"),
    "reference_first": FIRST,
    "first": FIRST,
}
"""Arrays of :class:`TokenValues`, one after another in a window's data."""

_ROW = sum(kind.itemsize for kind in _FIELDS.values())

_Answer = tuple[bool, str, tuple[int, int] | None]
_answers = msgspec.msgpack.Decoder(list[_Answer])


class Progress:
    """The journal of one run. Made before anything is loaded; nothing is kept or found before :meth:`bind`.

    ``way`` is how the interrupted run went about it, empty if there is none; ``notes`` is what to tell people.
    May be used by several threads.
    """

    def __init__(self, command: MeasureQuality) -> None:
        self.notes: list[str] = []
        self.spent = 0.0
        self._key = journals.key_of(command)
        self._found: Contents | None = None
        self._path: Path | None = None
        self._journal: journals.Journal | None = None
        self._pieces: dict[journals.Name, bytes] = {}
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._look(command)

    @property
    def way(self) -> str:
        return self._found.head.way if self._found is not None and self._found.head is not None else ""

    def bind(self, identity: bytes, way: str, total: int) -> None:
        """Now it is known what is measured: take up what was kept of just this, or begin anew."""
        found, self._found = self._found, None
        try:
            if found is not None and found.head is not None and self._path is not None:
                if found.head.identity == identity and found.pieces:
                    self._journal = journals.Journal.go_on(self._path, found.length)
                    self._pieces, self.spent = found.pieces, found.spent
                    self._start -= found.spent
                    part = min(1.0, len(found.pieces) / max(1, total))
                    self.notes.append(f"Went on from an interrupted run, at {part:.0%}.")
                    return
                if found.pieces:
                    self.notes.append(
                        "An interrupted run was of other files, texts or versions: nothing of it was used."
                    )
            self._journal = journals.Journal.begin(Head(self._key, identity, way, total))
        except OSError as error:
            self.notes.append(f"Nothing is kept for the case of an interruption: {error.strerror or error}.")

    def window(self, whose: bytes, number: int, scored: int) -> TokenValues | None:
        """The values of window ``number``, of ``scored`` tokens, if they were kept."""
        data = self._pieces.get((whose, _WINDOW, number))
        return _values(data, scored) if data is not None else None

    def keep_window(self, whose: bytes, number: int, values: TokenValues) -> None:
        self._add(whose, _WINDOW, number, b"".join(_bytes(values, name) for name in _FIELDS))

    def answers(self, whose: bytes, place: int, count: int) -> list[Graded] | None:
        """The answers to ``count`` tasks from ``place`` on, if they were kept."""
        data = self._pieces.get((whose, _TASKS, place))
        if data is None:
            return None
        try:
            found = _answers.decode(data)
        except msgspec.MsgspecError:
            return None
        if len(found) != count:
            return None
        return [Graded(right, text, Chosen(*choice) if choice else None) for right, text, choice in found]

    def keep_answers(self, whose: bytes, place: int, answers: Sequence[Graded]) -> None:
        plain = [
            (each.right, each.text, (each.choice.raw, each.choice.normalised) if each.choice else None)
            for each in answers
        ]
        self._add(whose, _TASKS, place, msgspec.msgpack.encode(plain))

    def finished(self) -> None:
        """The result is there: nothing has to be gone on with."""
        if self._journal is not None:
            if self._journal.problem:
                self.notes.append(f"What was finished could not be kept while it ran: {self._journal.problem}.")
            self._journal.remove()

    def close(self) -> None:
        """Leave the journal to another run."""
        if self._journal is not None:
            self._journal.close()

    # ---- inside

    def _look(self, command: MeasureQuality) -> None:
        try:
            journals.forget_old()
            if command.fresh:
                journals.discard(command)
                return
            self._path = journals.take(self._key)
        except OSError:
            return  # a cache that cannot be read has nothing in it; what cannot be written is told by bind()
        if self._path is not None:
            self._found = journals.read(self._path)
            if self._found.problem:
                self.notes.append(
                    f"What an interrupted run had kept was not used: {self._found.problem}. It was measured anew."
                )

    def _add(self, whose: bytes, kind: str, number: int, data: bytes) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.add(Piece(whose, kind, number, time.monotonic() - self._start, data))


def identity_of(
    command: MeasureQuality, reference: bytes, windows: Sequence[Window], tasks: Sequence[graded.Task]
) -> bytes:
    """Of everything that the values of a window depend on but the candidate."""
    digest = hashlib.blake2b(digest_size=32)
    facts = (
        str(_FORMAT), version("quench-studio"), version("llama-cpp-python"), hardware.cpu_name(),
        str(command.threads), str(command.run_code), str(len(windows)),
    )  # fmt: skip
    digest.update("\0".join(facts).encode() + reference)
    digest.update(texts.identity(windows).encode())
    for task in tasks:
        digest.update(repr(task).encode())
    return digest.digest()


def identity_of_model(path: str, content: str, kv: str) -> bytes:
    """Of one file as it is now: what is in it, its size, when it was written, and the cache it is measured with."""
    try:
        status = Path(path).stat()
        written = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        written = ""
    return hashlib.blake2b("\0".join((path, content, written, kv)).encode(), digest_size=16).digest()


def _bytes(values: TokenValues, name: str) -> bytes:
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = getattr(values, name)
    return np.ascontiguousarray(array, _FIELDS[name]).tobytes()


def _values(data: bytes, scored: int) -> TokenValues | None:
    """The values again; None for data of another size."""
    if len(data) != scored * _ROW:
        return None
    fields, at = {}, 0
    for name, kind in _FIELDS.items():
        fields[name] = np.frombuffer(data, kind, scored, at).copy()
        at += scored * kind.itemsize
    return TokenValues(**fields)


__all__ = ["IN_TURN", "TOGETHER", "Progress", "identity_of", "identity_of_model"]
