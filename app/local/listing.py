"""From a path to what the list says of it: headers only, remembered for as long as the files stay what they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app.local.entry import BROKEN, PARTIAL, FileFact, Listed
from app.local.names import PART
from app.local.walk import Candidate
from converter.spec import ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.local.headers import HeaderCache

MAX_FILES = 2000
"""Files of one model folder that are looked at."""


class Lister:
    """Describes candidates. What it has read stays known by the files' sizes, dates and places on the disk: here, and
    from start to start in ``cache``."""

    def __init__(self, cache: HeaderCache | None = None) -> None:
        from converter.sources.gguf_header import KnownParts

        self._cache = cache
        self._known = KnownParts()
        self._memory: dict[str, tuple[str, Listed]] = {}
        self.read = 0

    def describe(self, candidate: Candidate) -> Listed:
        """Never raises for a bad model: what is wrong stands in ``info.problems``. ``read`` counts headers read."""
        files, stamp = _now(candidate)
        held = self._held(candidate, stamp)
        return held if held is not None else self._keep(candidate, stamp, self._look(candidate, files))

    def _held(self, candidate: Candidate, stamp: str) -> Listed | None:
        path = str(candidate.path)
        held = self._memory.get(path)
        if held is not None and held[0] == stamp:
            return held[1]
        listed = self._cache.get(path, stamp) if self._cache is not None else None
        if listed is not None:
            self._memory[path] = (stamp, listed)
        return listed

    def _keep(self, candidate: Candidate, stamp: str, listed: Listed) -> Listed:
        self.read += 1
        path = str(candidate.path)
        self._memory[path] = (stamp, listed)
        if self._cache is not None:
            self._cache.put(path, stamp, listed)
        return listed

    def keep_only(self, paths: set[str]) -> None:
        """Forget all other paths, here and for the next start."""
        for path in [path for path in self._memory if path not in paths]:
            del self._memory[path]
        if self._cache is not None:
            self._cache.keep_only(paths)

    def close(self) -> None:
        """Write what the next start need not read."""
        if self._cache is not None:
            self._cache.close()

    def _look(self, candidate: Candidate, files: tuple[FileFact, ...]) -> Listed:
        if candidate.partial:
            problem = "Not whole: a download or conversion that is still running, or that was cut off."
            return _without_header(candidate, files, problem, PARTIAL)
        if candidate.problem:
            return _without_header(candidate, files, candidate.problem, BROKEN)
        from converter.identity import glance

        try:
            seen = glance(candidate.path, self._known)
        except QuenchError as error:
            return _without_header(candidate, files, _sentence(error), BROKEN)
        except OSError as error:
            return _without_header(candidate, files, _sentence(_unreadable(error)), BROKEN)
        info = msgspec.structs.replace(seen.info, path=str(candidate.path), name=candidate.title or seen.info.name)
        state = BROKEN if info.problems else ""
        return _listed(candidate, files, info, state, content=seen.content, family=seen.family)


def _listed(candidate: Candidate, files: tuple[FileFact, ...], info: ModelInfo, state: str, **ids: str) -> Listed:
    return Listed(
        info,
        candidate.place,
        candidate.title,
        files=files,
        state=state,
        revision=candidate.revision,
        refs=candidate.refs,
        **ids,
    )


def _without_header(candidate: Candidate, files: tuple[FileFact, ...], problem: str, state: str) -> Listed:
    info = broken(candidate.path, QuenchError("", problem))
    name = candidate.title or (_whole_name(candidate.path.name) if candidate.partial else info.name)
    return _listed(candidate, files, msgspec.structs.replace(info, name=name), state)


def _whole_name(name: str) -> str:
    """What a file that is not whole yet will be called, without its ending."""
    return name.removeprefix("incomplete-").rsplit(".gguf", 1)[0].rsplit(".safetensors", 1)[0]


def _files(candidate: Candidate) -> tuple[tuple[FileFact, ...], list[int]]:
    """The files that a model takes up (itself, its other parts, or all in its folder) and their dates in ns."""
    path = str(candidate.path)
    try:
        if PART.search(path):
            paths = [str(part) for part in _parts(candidate.path)]
        elif not path.lower().endswith(".gguf") and candidate.path.is_dir():
            with os.scandir(path) as entries:
                paths = sorted(entry.path for entry in entries)[:MAX_FILES]
        else:
            paths = [path]
    except OSError:
        paths = []
    files, dates = [], []
    for name in paths:
        try:
            status = os.stat(name)  # noqa: PTH116 - thousands of times: an object for each path costs more than the look
        except OSError:
            continue  # a link into nothing, or just gone
        if stat.S_ISREG(status.st_mode):
            files.append(FileFact(name, status.st_size, f"{status.st_dev}:{status.st_ino}"))
            dates.append(status.st_mtime_ns)
    return tuple(files), dates


def _parts(path: Path) -> list[Path]:
    from converter.sources.gguf_parts import siblings

    return [part for part in siblings(path) if part.exists()] or [path]


def _now(candidate: Candidate) -> tuple[tuple[FileFact, ...], str]:
    """A candidate's files, and a stamp that changes whenever what would be said of it may change."""
    files, dates = _files(candidate)
    head = (candidate.place, candidate.title, candidate.problem, candidate.partial, candidate.revision, candidate.refs)
    seen = (f"{file.path}\0{file.bytes}\0{file.key}\0{date}" for file, date in zip(files, dates, strict=True))
    return files, "\0".join((repr(head), *seen))


def describe(path: str | Path) -> ModelInfo:
    """The short description of a model: header only, without its tensors and long metadata.

    Never raises for a bad model: what is wrong stands in ``problems``.
    """
    from converter.identity import glance

    try:
        return msgspec.structs.replace(glance(path).info, path=str(path))
    except QuenchError as error:
        return broken(path, error)
    except OSError as error:
        return broken(path, _unreadable(error))


def shorten(info: ModelInfo) -> ModelInfo:
    """``info`` without its tensors, its template and metadata values longer than a line."""
    from converter.sources.gguf import short_info

    return short_info(info)


def broken(path: str | Path, error: QuenchError) -> ModelInfo:
    """An entry for something on disk that is no usable model; ``problems`` says why."""
    place = Path(path)
    kind = "hf" if place.is_dir() or (place.suffix.lower() != ".gguf" and not place.is_file()) else "gguf"
    return ModelInfo(
        path=str(path), kind=kind, name=place.stem if kind == "gguf" else place.name, architecture="", parameters=0,
        layers=0, context_length=0, embedding_length=0, heads=0, kv_heads=0, key_length=0, value_length=0, experts=0,
        vocabulary=0, tokenizer="", pre_tokenizer="", types={}, bytes=file_bytes(place), tensors=(), metadata={},
        problems=(_sentence(error),),
    )  # fmt: skip


def _sentence(error: QuenchError) -> str:
    return " ".join(part for part in (error.title, error.detail, error.hint) if part)


def _unreadable(error: OSError) -> QuenchError:
    return QuenchError("unreadable", "The file cannot be read.", str(error), "Check its permissions.")


def file_bytes(path: str | Path) -> int:
    """Bytes of a model file, or of the files in a model folder; 0 if it cannot be read."""
    path = Path(path)
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    except OSError:
        return 0
