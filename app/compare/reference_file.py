"""The reference's answer on disk, as its other readers need it: tokens, and how likely the reference found each one.

The file: ``QSCR``, then uint32 version, tokens n and vocabulary v (0: not known), and whether all odds are told; where
they are, n*v float32 natural log-probabilities, row-major; then :class:`Answer` as MessagePack. All little-endian. It
lives as long as a comparison and never leaves the machine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from app.protocol import ScoredToken
from converter.spec import QuenchError

_HEADER = struct.Struct("<4sIIII")
_MAGIC, _VERSION = b"QSCR", 2
_MOST_ANSWER = 1 << 28

Rows = npt.NDArray[np.floating]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a server told of one position: int32 ``ids`` of the likeliest tokens, float64 natural ``logs`` of them."""

    ids: bytes
    logs: bytes


class Part(NamedTuple):
    """The same as arrays (m,)."""

    ids: npt.NDArray[np.int64]
    logs: npt.NDArray[np.float64]


class Answer(msgspec.Struct, frozen=True):
    """The tokens of ``prompt`` and ``answer``, how the reference's vocabulary cuts the probe text (:mod:`.scoring`),
    its own ``tokens`` in words, and ``told`` for each of them where it did not tell all odds."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    probe: tuple[int, ...]
    tokens: tuple[ScoredToken, ...]
    told: tuple[Told, ...] = ()


class Reference:
    """An open file. ``vocabulary`` is 0 where it is not known; ``whole``: it has the odds of every token."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        size = Path(path).stat().st_size
        start = file.read(_HEADER.size)
        if len(start) != _HEADER.size:
            raise _bad(path)
        magic, version, self.count, self.vocabulary, self.whole = _HEADER.unpack(start)
        rows = 4 * self.count * self.vocabulary if self.whole else 0
        rest = size - _HEADER.size - rows
        if magic != _MAGIC or version != _VERSION or not 0 < rest <= _MOST_ANSWER:
            raise _bad(path)
        file.seek(_HEADER.size + rows)
        try:
            self.answer = msgspec.msgpack.decode(file.read(), type=Answer)
        except msgspec.DecodeError as error:
            raise _bad(path) from error
        told = 0 if self.whole else self.count
        if (len(self.answer.answer), len(self.answer.tokens), len(self.answer.told)) != (self.count, self.count, told):
            raise _bad(path)
        file.seek(_HEADER.size)
        self._file = file
        self._path = path

    def rows(self, count: int) -> npt.NDArray[np.float64]:
        """The next ``count`` rows of a whole file: log-probabilities (count, vocabulary)."""
        data = self._file.read(4 * count * self.vocabulary)
        if len(data) != 4 * count * self.vocabulary:
            raise _bad(self._path)
        return np.frombuffer(data, "<f4").reshape(count, self.vocabulary).astype(np.float64)

    def part(self, index: int) -> Part:
        """What was told of token ``index``, where that was not all."""
        told = self.answer.told[index]
        ids, logs = np.frombuffer(told.ids, "<i4").astype(np.int64), np.frombuffer(told.logs, "<f8")
        if not len(ids) or len(ids) != len(logs):
            raise _bad(self._path)
        return Part(ids, logs)


@contextmanager
def read(path: str) -> Iterator[Reference]:
    """The file at ``path``. QuenchError ``bad_reference`` if it is none, or cut."""
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115 - closed below; opened apart to tell its errors from others
    except OSError as error:
        raise _bad(str(error)) from error
    with file:
        yield Reference(file, path)


def write(path: str, count: int, vocabulary: int, rows: Iterable[Rows], answer: Callable[[], Answer]) -> None:
    """Write ``path``, whole or not at all: ``rows`` of log-probabilities as they come, then ``answer()``, asked last.

    Without any ``rows`` the answer tells what is known. QuenchError ``no_space`` when the file cannot be written.
    """
    part = Path(path + ".part")
    try:
        with part.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, _VERSION, count, vocabulary, 0))
            for block in rows:
                file.write(block.astype("<f4").tobytes())
            last = answer()
            file.write(msgspec.msgpack.encode(last))
            file.seek(0)
            file.write(_HEADER.pack(_MAGIC, _VERSION, count, vocabulary, int(not last.told)))
        part.replace(path)
    except OSError as error:
        raise QuenchError(
            "no_space",
            "The reference's probabilities could not be written.",
            str(error),
            "Free some disk space.",
            exit_status=4,
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _bad(detail: str) -> QuenchError:
    return QuenchError(
        "bad_reference", "The reference's probabilities cannot be used.", detail, "Run the comparison again."
    )


__all__ = ["Answer", "Part", "Reference", "Told", "read", "write"]
