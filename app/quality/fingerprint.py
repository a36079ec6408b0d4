"""``.qref``: a reference model's answers on some windows of text, in one small file.

The file, all little-endian::

    "QREF", uint32 version, 8 bytes of zeros
    one record a window: int32 tokens of the window, hidden states of its scored positions, sampled odds of these
    the output matrix, if it is inside, and the output bias, if there is one; each at a multiple of 64 bytes
    facts: a MessagePack map (:class:`Facts`)
    uint64 position of the facts, uint64 their length, BLAKE2b-256 of everything before these 32 bytes

A hidden state (see :mod:`app.quality.codings`) multiplied by the output matrix gives the logits of the whole vocabulary
as the engine computed them. The matrix is often larger than all states together, so it is inside only where the file
stays small; else its name, type and BLAKE2b-256 are, by which any GGUF file that has it will do. For where none is at
hand, each position has sampled odds as well (:mod:`app.quality.odds`), which need nothing else.

A file is written whole or not at all, and read as a stranger's: the checksum first, then every number against bounds
and against the file's length.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

import kernels
from app.engine.head import MATRICES, MAX_STEPS, Shape, Step
from app.files import is_special
from app.fingerprint_files import MAGIC
from app.memory_messages import Memory
from app.quality.codings import CODINGS
from app.quality.divergence import scored_per_window
from app.quality.odds import MAX_VOCABULARY, Layout, ids_of
from app.quality.subject import Vocabulary
from app.quality.texts import Window
from converter.sources.files import ByteFile
from converter.spec import QuenchError

VERSION: Final = 1
_START: Final = struct.Struct("<4sI8x")
_END: Final = struct.Struct("<QQ32s")
_ALIGNMENT: Final = 64
_BLOCK: Final = 1 << 20
MAX_FACTS: Final = 64 << 20
MAX_WINDOWS: Final = 1 << 20
MAX_CONTEXT: Final = 1 << 17
MAX_WIDTH: Final = 1 << 17
MAX_TEXTS: Final = 4096
MAX_KEPT: Final = 1024

Bytes = npt.NDArray[np.uint8]


class Extent(msgspec.Struct, frozen=True):
    """A part of the file, in bytes; of length 0 if it is not there."""

    start: int = 0
    length: int = 0


class SavedAnswer(msgspec.Struct, frozen=True):
    """What the reference answered to one graded task, which ``task`` identifies, and whether it was right; of choices
    the places of the two that :class:`app.quality.grading.Chosen` names."""

    task: bytes
    right: bool
    reply: str = ""
    choice: tuple[int, int] | None = None


class Check(msgspec.Struct, frozen=True):
    """How well states and matrix gave the engine's own logits when the file was made: the mean divergence in nats and
    the largest difference of a logit."""

    kld: float
    difference: float


class Facts(msgspec.Struct, frozen=True):
    """All that a fingerprint says besides its records.

    ``name``, ``content``, ``type``, ``model_bytes``, ``tokens_per_second``, ``memory`` are the reference model's;
    ``windows`` says for each record to which of ``texts`` it belongs, and its place there. ``matrix_digest`` is of the
    output matrix's bytes as the GGUF file holds them. ``asked`` is how tasks were put.
    """

    program: str
    name: str
    content: str
    type: str
    model_bytes: int
    tokens_per_second: float
    memory: Memory
    size: int
    pieces: tuple[bytes, ...]
    probe: tuple[int, ...]
    context: int
    texts: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    shape: Shape
    steps: tuple[Step, ...]
    coding: str
    matrix_digest: bytes
    check: Check
    top: int = 0
    tail: int = 0
    matrix: Extent = Extent()
    bias: Extent = Extent()
    asked: str = ""
    answers: tuple[SavedAnswer, ...] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.size, self.pieces, self.probe)

    @property
    def layout(self) -> Layout | None:
        """Of the sampled odds; None if there are none."""
        return Layout(self.top, self.tail) if self.top else None

    @property
    def scored(self) -> int:
        """Scored positions of a window."""
        return scored_per_window(self.context)

    @property
    def state_bytes(self) -> int:
        """Bytes of the states of one window."""
        return self.scored * CODINGS[self.coding].row_bytes(self.shape.width)

    @property
    def record_bytes(self) -> int:
        """Bytes of one window's record."""
        layout = self.layout
        odds = self.scored * layout.dtype.itemsize if layout is not None else 0
        return 4 * self.context + self.state_bytes + odds


def base_file_bytes(vocabulary: int, positions: int) -> int:
    """What llama-perplexity's ``--kl-divergence-base`` file takes for so many scored positions: 16 bits a token of the
    vocabulary, two numbers in front of them (tools/perplexity of the pinned llama.cpp)."""
    return positions * 2 * (2 * ((vocabulary + 1) // 2) + 4)


# ---- writing ---------------------------------------------------------------------------------------------------


class Writer:
    """Writes a fingerprint beside ``path`` and puts it there at :meth:`finish`; :meth:`abandon` leaves nothing.

    Raises:
        QuenchError: ``fingerprint_not_saved``, from every method that writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")
        self._digest = hashlib.blake2b(digest_size=32)
        self._at = 0
        self._file: BinaryIO | None = None
        try:
            if is_special(path):
                raise OSError(errno.EINVAL, "a device or a pipe is no place for it")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("xb")
        except OSError as error:
            raise self._failed(error) from error
        self.put(_START.pack(MAGIC, VERSION))

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._at

    def put(self, data: bytes | Bytes) -> Extent:
        """Append ``data``, of which the file's checksum is made; where it stands."""
        assert self._file is not None
        start, view = self._at, memoryview(data.data if isinstance(data, np.ndarray) else data).cast("B")
        try:
            for at in range(0, len(view), _BLOCK):
                self._digest.update(view[at : at + _BLOCK])
                self._file.write(view[at : at + _BLOCK])
        except OSError as error:
            raise self._failed(error) from error
        self._at += len(view)
        return Extent(start, len(view))

    def put_aligned(self, data: bytes | Bytes) -> Extent:
        """:meth:`put` at a multiple of 64 bytes."""
        self.put(bytes(-self._at % _ALIGNMENT))
        return self.put(data)

    def finish(self, facts: Facts) -> int:
        """Put the file in its place; its size in bytes."""
        assert self._file is not None
        found = self.put(msgspec.msgpack.encode(facts))
        self.put(struct.pack("<QQ", found.start, found.length))
        self.put(self._digest.digest())
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self._part.replace(self.path)
        except OSError as error:
            raise self._failed(error) from error
        return self._at

    def abandon(self) -> None:
        """Leave nothing; after :meth:`finish` or twice it is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._part.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> QuenchError:
        return QuenchError(
            "fingerprint_not_saved",
            "The reference's answers could not be saved.",
            f"{self.path}: {error.strerror or error}",
            "Choose a place that can be written to and has room.",
            exit_status=4,
        )


# ---- reading ---------------------------------------------------------------------------------------------------


class Fingerprint:
    """An opened ``.qref`` file: :attr:`facts`, and its records by their place. Close it, or use it in a ``with``.

    Raises:
        QuenchError: ``not_found``, ``unreadable``, ``not_a_file``; ``not_fingerprint`` for something else,
            ``newer_fingerprint`` for a version that is not known, ``damaged_fingerprint``.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = ByteFile(Path(path))
        try:
            self.facts = self._read()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self.facts.windows)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def window(self, place: int) -> Window:
        """The window of record ``place``."""
        facts = self.facts
        tokens = np.frombuffer(self._file.read(self._record(place), 4 * facts.context), "<i4")
        if not ((tokens >= 0) & (tokens < facts.size)).all():
            raise self._damaged("A token is outside the vocabulary.")
        text, position = facts.windows[place]
        return Window(facts.texts[text], tuple(tokens.tolist()), position)

    def states(self, place: int) -> Bytes:
        """Coded hidden states of record ``place``, uint8 (scored, bytes)."""
        facts = self.facts
        data = self._file.read(self._record(place) + 4 * facts.context, facts.state_bytes)
        return np.frombuffer(data, np.uint8).reshape(facts.scored, -1)

    def odds(self, place: int) -> npt.NDArray[np.void]:
        """Sampled odds of record ``place``, records of ``facts.layout`` (which must not be None)."""
        facts, layout = self.facts, self.facts.layout
        assert layout is not None
        start = self._record(place) + 4 * facts.context + facts.state_bytes
        found = np.frombuffer(self._file.read(start, facts.scored * layout.dtype.itemsize), layout.dtype)
        nll, rest = found["nll"], found["rest"]
        fine = np.isfinite(nll) & np.isfinite(rest) & (rest >= 0) & (rest <= 1.001)
        if not fine.all() or not (ids_of(found) < facts.size).all():
            raise self._damaged("The sampled odds are no probabilities.")
        return found

    def matrix(self) -> Bytes | None:
        """The output matrix as it is inside, None if it is not."""
        extent = self.facts.matrix
        return self._file.view(extent.start, extent.length) if extent.length else None

    def bias(self) -> npt.NDArray[np.float32] | None:
        extent = self.facts.bias
        return np.frombuffer(self._file.read(extent.start, extent.length), "<f4") if extent.length else None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- inside

    def _record(self, place: int) -> int:
        if not 0 <= place < len(self):
            raise IndexError(f"record {place} of {len(self)}")
        return _START.size + place * self.facts.record_bytes

    def _read(self) -> Facts:
        start = self._file.read(0, min(_START.size, self._file.size))
        if start[: len(MAGIC)] != MAGIC:
            raise QuenchError(
                "not_fingerprint",
                "This is no file of a reference's answers.",
                self.path,
                "Choose a .qref file that Quench wrote.",
            )
        if self._file.size < _START.size + _END.size:
            raise self._damaged("It ends too early.")
        version = _START.unpack(start)[1]
        # A damaged version is told as damage: the end of a file stands in the same place in all versions.
        position, length, digest = _END.unpack(self._file.read(self._file.size - _END.size, _END.size))
        if self._checksum() != digest:
            raise self._damaged("Its checksum is wrong.")
        if version != VERSION:
            raise QuenchError(
                "newer_fingerprint",
                "This file was made by a newer version of Quench.",
                f"{self.path} has the format {version}; this version reads {VERSION}.",
                "Update Quench, or save the reference's answers again with this version.",
            )
        if length > MAX_FACTS or position + length != self._file.size - _END.size:
            raise self._damaged("Its facts are not where they should be.")
        try:
            facts = msgspec.msgpack.decode(self._file.read(position, length), type=Facts)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._damaged(f"Its facts cannot be read ({error}).") from error
        problem = _problem(facts, position)
        if problem:
            raise self._damaged(problem)
        return facts

    def _checksum(self) -> bytes:
        digest = hashlib.blake2b(digest_size=32)
        end = self._file.size - 32
        for at in range(0, end, _BLOCK):
            digest.update(self._file.read(at, min(_BLOCK, end - at)))
        return digest.digest()

    def _damaged(self, detail: str) -> QuenchError:
        return QuenchError(
            "damaged_fingerprint",
            "The file of the reference's answers is damaged.",
            f"{self.path}: {detail}",
            "Copy it again, or save the answers again from the reference model.",
        )


def _problem(facts: Facts, end: int) -> str:
    """What is wrong with the numbers, in words; ``end`` is where the facts begin."""
    shape, types = facts.shape, {number: name for name, number in kernels.READABLE.items()}
    if not (32 <= facts.context <= MAX_CONTEXT and 0 < len(facts.windows) <= MAX_WINDOWS):
        return "Its windows are out of range."
    if not 0 < len(facts.texts) <= MAX_TEXTS or not all(
        0 <= text < len(facts.texts) and place >= 0 for text, place in facts.windows
    ):
        return "A window belongs to no text."
    if not (0 < facts.size < MAX_VOCABULARY and shape.vocabulary == facts.size and 0 < shape.width <= MAX_WIDTH):
        return "Its sizes are out of range."
    if shape.name not in MATRICES or shape.type not in types or facts.coding not in CODINGS:
        return "It names types that are not known."
    if shape.width % CODINGS[facts.coding].block or shape.width % kernels.block_size(types[shape.type]).weights:
        return "Its states are no whole blocks."
    if len(facts.steps) > MAX_STEPS or not all(
        step.kind in ("scale", "tanh", "bias") and math.isfinite(step.factor) for step in facts.steps
    ):
        return "It names steps that are not known."
    if not (0 <= facts.top <= MAX_KEPT and 0 <= facts.tail <= MAX_KEPT and bool(facts.top) == bool(facts.tail)):
        return "Its sampled odds are out of range."
    if not facts.top and not facts.matrix.length:
        return "It has neither odds nor a matrix."
    bias = 4 * facts.size if any(step.kind == "bias" for step in facts.steps) else 0
    records = _START.size + len(facts.windows) * facts.record_bytes
    matrix = kernels.row_bytes(types[shape.type], shape.width) * facts.size
    for part, length in ((facts.matrix, matrix if facts.matrix.length else 0), (facts.bias, bias)):
        if part.length != length or (length and not records <= part.start <= end - length):
            return "A part is not where it should be."
    return "" if records <= end else "Its records do not fit into it."


def digest_of(matrix: Bytes) -> bytes:
    """BLAKE2b-256 of a matrix's bytes."""
    digest = hashlib.blake2b(digest_size=32)
    flat = matrix.reshape(-1)
    for at in range(0, len(flat), _BLOCK):
        digest.update(flat[at : at + _BLOCK].data)
    return digest.digest()


def find(saved: Sequence[Window], wanted: Sequence[Window]) -> list[int]:
    """Places of the ``wanted`` windows among the ``saved`` ones.

    Raises:
        QuenchError: ``other_text`` if one is not there.
    """
    places = {window.tokens: place for place, window in enumerate(saved)}
    missing = next((window for window in wanted if window.tokens not in places), None)
    if missing is not None:
        raise QuenchError(
            "other_text",
            "The reference's answers were saved on another text.",
            f"“{missing.text}” is not, or not with these windows, what the reference was asked about "
            f"({', '.join(dict.fromkeys(window.text for window in saved))}).",
            "Measure on the text of the file (name none), or save the answers on this text.",
        )
    return [places[window.tokens] for window in wanted]


__all__ = ["Check", "Extent", "Facts", "Fingerprint", "SavedAnswer", "Writer", "base_file_bytes", "digest_of", "find"]
