"""What probes of a fit have found, in a file: for a run that goes on, and for other sizes of the same model.

Divergences are kept as they were measured, by tensors, type, kind of text and window, each text's with its mean and the
standard error of that: they do not depend on the size that was asked for. They are of one model (by its content), on
the same windows of text, with the same importance matrix and the same rounding; a file of anything else is refused. A
file of the first version had means alone; it is read as if each were of one window.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from app.files import write_atomically
from app.quality import spreads
from app.quality.spreads import Spread
from converter.identity import content_id
from converter.spec import QuenchError

VERSION = 2
MOST_BYTES = 64 << 20
SECONDS = 5.0
"""How much work a kill may cost."""


class Origin(msgspec.Struct, frozen=True):
    """What divergences depend on beside the tensor: hashes in hexadecimal digits."""

    model: str
    windows: str
    importance: str
    feedback: bool


class _Text(msgspec.Struct, frozen=True):
    """The mean divergence on one text with its standard error (none for a single window), and that of each window, none
    where it was not computed; no mean where none was."""

    value: float | None
    error: float | None
    windows: tuple[float | None, ...]


class _Kept(msgspec.Struct, frozen=True):
    quench_sensitivity: int
    origin: Origin
    costs: dict[str, dict[str, _Text | float]]


_WORDS = {
    "model": "another model",
    "windows": "other windows of text",
    "importance": "another importance matrix",
    "feedback": "another kind of rounding",
}


class KnownCosts:
    """``path`` empty: nothing is kept. ``strict``: a file that cannot be used is refused, else it is written anew.

    Raises:
        QuenchError: ``bad_sensitivity`` where ``strict`` and the file is damaged or of something else.
    """

    def __init__(self, path: str, origin: Origin, *, strict: bool) -> None:
        self._path = Path(path) if path else None
        self._origin = origin
        self._strict = strict
        self._costs: dict[str, dict[str, tuple[float, ...]]] = {}
        self._lock = threading.Lock()
        self._written = time.monotonic()
        if self._path is not None and self._path.exists():
            try:
                self._costs = _read(self._path, origin)
            except QuenchError:
                if strict:
                    raise
        self.found = len(self._costs)

    def get(self, names: Sequence[str], kind: str, texts: Sequence[str]) -> Spread | None:
        """The divergence by window with these tensors in this type, if it is known for just these texts."""
        found = self._costs.get(_key(names, kind))
        return dict(found) if found is not None and set(found) == set(texts) else None

    def put(self, names: Sequence[str], kind: str, found: Spread) -> None:
        """Keep one; the file is written now and then. May be called by several threads."""
        with self._lock:
            self._costs[_key(names, kind)] = {name: tuple(values) for name, values in found.items()}
            if time.monotonic() - self._written >= SECONDS:
                self._write()

    def save(self) -> None:
        """Write what is not written yet. QuenchError ``not_saved`` where ``strict`` and it cannot be."""
        with self._lock:
            self._write(last=True)

    def _write(self, *, last: bool = False) -> None:
        if self._path is None:
            return
        self._written = time.monotonic()
        try:
            write_atomically(self._path, msgspec.json.encode(_Kept(VERSION, self._origin, _told(self._costs))))
        except OSError as error:  # the fit goes on: only a run after it has to measure again
            if last and self._strict:
                raise QuenchError(
                    "not_saved", "The costs could not be kept.", f"{self._path}: {error.strerror or error}.",
                    "Free some space, or choose another folder.", exit_status=4,
                ) from error  # fmt: skip


def check(path: str) -> None:
    """Refuse a file that holds no costs, whatever model they are of, or a folder that is not there: QuenchError
    ``bad_sensitivity``."""
    place = Path(path)
    if place.exists():
        _kept(place)
    elif not place.parent.is_dir():
        raise _bad(place, "is in no folder.")


def origin(reference: str, windows: Mapping[str, Sequence[Sequence[int]]], imatrix: str, *, feedback: bool) -> Origin:
    """Of a run: ``windows`` of tokens by text, ``imatrix`` the path of a matrix or empty."""
    cut = hashlib.blake2b(msgspec.json.encode([[name, list(each)] for name, each in windows.items()]), digest_size=16)
    matrix = hashlib.blake2b(Path(imatrix).read_bytes() if imatrix else b"", digest_size=16)
    return Origin(content_id(reference), cut.hexdigest(), matrix.hexdigest(), feedback)


def _told(costs: Mapping[str, Spread]) -> dict[str, dict[str, _Text | float]]:
    """For the file, and for whoever reads it."""

    def text(values: Sequence[float]) -> _Text:
        known = [value for value in values if math.isfinite(value)]
        mean, error = (sum(known) / len(known) if known else None), spreads.own_error(values)
        windows = tuple(value if math.isfinite(value) else None for value in values)
        return _Text(mean, error if math.isfinite(error) else None, windows)

    return {key: {name: text(values) for name, values in found.items()} for key, found in costs.items()}


def _bad(path: Path, detail: str) -> QuenchError:
    return QuenchError(
        "bad_sensitivity", "These costs cannot be used.", f"{path} {detail}",
        "Give the file of a fit of the same model with the same texts, or a new name.",
    )  # fmt: skip


def _kept(path: Path) -> _Kept:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _bad(path, f"has more than {MOST_BYTES} bytes.")
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror or error}.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad(path, "is no file of costs, or it is damaged.") from error
    if not 1 <= kept.quench_sensitivity <= VERSION:
        raise _bad(path, f"is of version {kept.quench_sensitivity}, not 1 to {VERSION}.")
    return kept


def _read(path: Path, wanted: Origin) -> dict[str, dict[str, tuple[float, ...]]]:
    kept = _kept(path)
    for field, words in _WORDS.items():
        if getattr(kept.origin, field) != getattr(wanted, field):
            raise _bad(path, f"is of {words}.")
    costs = {key: {name: _windows(text) for name, text in found.items()} for key, found in kept.costs.items()}
    every = [values for found in costs.values() for values in found.values()]
    if not all(every) or any(not (math.isnan(value) or 0 <= value < math.inf) for values in every for value in values):
        raise _bad(path, "has costs that cannot be.")
    return costs


def _windows(text: _Text | float) -> tuple[float, ...]:
    if not isinstance(text, _Text):
        return (text,)
    return tuple(math.nan if value is None else value for value in text.windows)


def _key(names: Sequence[str], kind: str) -> str:
    return " ".join((kind, *names))


__all__ = ["KnownCosts", "Origin", "check", "origin"]
