"""Which paths on disk are models, or were on their way to be one. Only names and folder entries are looked at here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app.local import ollama, places
from app.local.names import PART
from app.local.places import Place

MAX_DEPTH = 6
MAX_ENTRIES = 200_000
"""Directory entries looked at in one folder given by a person: a wrong click on ``/`` must come to an end."""

_SKIPPED = {"node_modules", "__pycache__", "blobs", "refs", ".git", ".no_exist", ".locks"}
_PARTIAL = re.compile(
    r"(?:.+\.(?:gguf|safetensors)\.(?:part|incomplete|crdownload|download|downloadinprogress|partial|tmp|aria2)"
    r"|incomplete-.+\.gguf)",
    re.IGNORECASE,
)
"""Names of downloads and conversions that have not ended: ours, browsers', llama.cpp's, GPT4All's."""
MAX_REFS = 1000


@dataclass(frozen=True)
class Candidate:
    """Something to describe. ``title`` is what its program calls it, ``problem`` what is already known to be wrong;
    ``partial`` for what has not ended. ``revision`` and ``refs`` as in :class:`app.local.entry.Listed`."""

    path: Path
    place: str
    title: str = ""
    problem: str = ""
    partial: bool = False
    revision: str = ""
    refs: tuple[str, ...] = ()


@dataclass
class Walk:
    """One look through all places. ``folders`` has the time in ns at which each was changed last, None for one that is
    not there; with ``extra_files``, whose change means as much, it tells whether another look is worth while."""

    folders: dict[str, int | None] = field(default_factory=dict)
    extra_files: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _real_folders: dict[str, str] = field(default_factory=dict)

    def candidates(self, where: Iterable[Place]) -> Iterator[Candidate]:
        """Everything that may be a model in or under the places (which may be models themselves), each once.

        Projector files (``mmproj``) are no models. Folders that cannot be read are passed over; links are followed for
        files only, so that a loop has an end.
        """
        for place in where:
            for candidate in self._in_place(place):
                key = self._real(str(candidate.path))
                if key not in self._seen:
                    self._seen.add(key)
                    yield candidate

    def _real(self, path: str) -> str:
        """As ``os.path.realpath``, which asks about every folder on the way each time."""
        if os.path.islink(path):  # noqa: PTH114 - as below
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return os.path.join(self._real_folders[folder], name)  # noqa: PTH118

    def _in_place(self, place: Place) -> Iterator[Candidate]:
        root = Path(place.root).expanduser()
        try:
            is_file = root.is_file()
        except (OSError, ValueError):
            return
        if is_file:
            if is_gguf(root) or place.kind == places.ADDED:
                yield Candidate(root, place.kind)
            return
        if place.kind == places.ADDED and not os.path.lexists(root):
            return
        if place.kind == places.OLLAMA or (place.kind == places.FOLDER and ollama.is_store(root)):
            yield from self._ollama(root)
            return
        yield from self._folder(root, place.kind)

    def _ollama(self, store: Path) -> Iterator[Candidate]:
        for folder in (store, store / "blobs"):
            self._note(str(folder))
        found: dict[Path, list[ollama.StoredModel]] = {}
        for model in ollama.models(store):
            found.setdefault(model.path, []).append(model)
        for manifest in ollama.manifest_files(store):
            self.extra_files.append(str(manifest))
            for folder in list(manifest.parents)[: ollama.MAX_DEPTH + 2]:
                if store in folder.parents and str(folder) not in self.folders:
                    self._note(str(folder))
        for path, models in found.items():  # several tags may name one blob
            title = ", ".join(sorted(model.name for model in models))
            yield Candidate(path, places.OLLAMA, title, models[0].problem)
        for entry in self._scan(store / "blobs"):
            if ollama.PARTIAL_BLOB.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield Candidate(Path(entry.path), places.OLLAMA, entry.name[:19], partial=True)

    def _folder(self, root: Path, kind: str) -> Iterator[Candidate]:
        budget = MAX_ENTRIES
        stack = [(root, 0)]
        while stack and budget > 0:
            folder, depth = stack.pop()
            entries = self._scan(folder)
            budget -= len(entries)
            names = {entry.name for entry in entries}
            if kind == places.HUB and folder.name.startswith("models--") and "blobs" in names:
                yield from self._hub_partials(folder)
            revision, refs = _revision(folder) if kind == places.HUB else ("", ())
            if "config.json" in names and any(_is_weight_name(name) for name in names):
                yield Candidate(folder, kind, revision=revision, refs=refs)
            for entry in entries:
                name = entry.name
                if name in _SKIPPED or name.startswith("."):
                    continue
                try:
                    is_folder = entry.is_dir(follow_symlinks=False)
                except OSError:
                    continue
                if is_folder:
                    if depth < MAX_DEPTH:
                        stack.append((Path(entry.path), depth + 1))
                elif _is_model_name(name, names) and "mmproj" not in name.lower():
                    title = folder.name if kind == places.JAN and name == "model.gguf" else ""
                    yield Candidate(Path(entry.path), kind, title, revision=revision, refs=refs)
                elif _PARTIAL.fullmatch(name):
                    yield Candidate(Path(entry.path), kind, partial=True)

    def _hub_partials(self, repository: Path) -> Iterator[Candidate]:
        """Downloads of the Hugging Face cache that have not ended. Which file each would become is not written down."""
        title = repository.name.split("--")[-1]
        for entry in self._scan(repository / "blobs"):
            if entry.name.endswith(".incomplete") and entry.is_file(follow_symlinks=False):
                yield Candidate(Path(entry.path), places.HUB, title, partial=True)

    def _scan(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            self._note(str(folder))
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (OSError, ValueError):
            return []

    def _note(self, folder: str) -> None:
        self.folders[folder] = changed_at(folder)


def changed_at(path: str) -> int | None:
    """When a folder or file was changed last, in ns; None if it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - for thousands of folders every two seconds
    except (OSError, ValueError):
        return None


def candidates(folders: Iterable[str]) -> Iterator[Path]:
    """Every path that may be a whole model in or under ``folders`` (which may be models themselves), each once."""
    for candidate in Walk().candidates(Place(places.FOLDER, folder) for folder in folders):
        if not candidate.partial:
            yield candidate.path


def is_gguf(path: Path) -> bool:
    """Whether the name is that of a model in one GGUF file, or of the first part of a split one.

    ``<model>.imatrix.gguf`` is an importance matrix.
    """
    return _is_model_name(path.name, None)


def is_model_folder(path: Path) -> bool:
    """Whether the folder looks like a Hugging Face model: a config and weights beside it."""
    return (path / "config.json").is_file() and any(_is_weight_name(entry.name) for entry in path.iterdir())


def _is_model_name(name: str, beside: set[str] | None) -> bool:
    """``beside`` are the names in the same folder: a later part stands for the model if the first ones are missing."""
    lower = name.lower()
    if not lower.endswith(".gguf") or lower.startswith((".", "incomplete-")) or lower.endswith("imatrix.gguf"):
        return False
    part = PART.search(name)
    if part is None or int(part[1]) == 1:
        return True
    if beside is None:
        return False
    earlier = (f"{name[: part.start()]}-{number:05d}-of-{part[2]}.gguf" for number in range(1, int(part[1])))
    return not any(other in beside for other in earlier)


def _is_weight_name(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".safetensors.index.json"))


def _revision(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The commit of a folder inside ``snapshots`` of the Hugging Face cache, and the names that point to it."""
    for place in (folder, *folder.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            return place.name, _refs(place.parent.parent / "refs", place.name)
    return "", ()


def _refs(root: Path, commit: str) -> tuple[str, ...]:
    """Branches, tags and pull requests of a repository whose commit this is."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names[:MAX_REFS]:
            file = Path(folder) / name
            try:
                with file.open("rb") as stream:
                    text = stream.read(64)
            except OSError:
                continue
            if text.decode("ascii", "replace").strip() == commit:
                found.append(file.relative_to(root).as_posix())
    return tuple(sorted(found))


__all__ = ["MAX_DEPTH", "MAX_ENTRIES", "Candidate", "Walk", "candidates", "changed_at", "is_gguf", "is_model_folder"]
