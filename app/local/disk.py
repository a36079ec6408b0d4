"""What the models take up, what of it could go and why, and what exactly goes when one is deleted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from app.local import places
from app.local.entry import PARTIAL, Listed
from app.local.ties import bases, duplicates, is_source
from converter.spec import QuenchError

DUPLICATE, LEFTOVER, SOURCE, REVISION = "duplicate", "leftover", "source", "revision"
_KEPT_FIRST = (places.BUNDLED, places.OWN, places.HUB, places.FOLDER, places.ADDED, *sorted(places.FOREIGN))
"""Of two copies the one in the earlier place is kept: another program may remove its own at any time."""


class FamilyUse(msgspec.Struct, frozen=True):
    """What one base model and everything made from it take up."""

    name: str
    models: int
    bytes: int


class Removable(msgspec.Struct, frozen=True):
    """A model that could go: ``reason`` is a key of the constants above, ``kept`` a path that makes it superfluous,
    ``bytes`` what would be free then."""

    path: str
    reason: str
    bytes: int
    kept: str = ""


class Removal(msgspec.Struct, frozen=True):
    """What goes when models are deleted: whole ``paths``, and how much that frees."""

    paths: tuple[str, ...]
    bytes: int


def use_by_family(models: Sequence[Listed]) -> list[FamilyUse]:
    """Largest first. A file that several models share (links, parts of the Hugging Face cache) is counted once."""
    names = bases(models)
    seen: set[str] = set()
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    titles: dict[str, str] = {}
    for listed in models:
        name = names[listed.path].lower()
        titles.setdefault(name, names[listed.path])
        counts[name] += 1
        for file in listed.files:
            if file.key not in seen:
                seen.add(file.key)
                sizes[name] += file.bytes
    uses = [FamilyUse(titles[name], counts[name], sizes[name]) for name in counts]
    return sorted(uses, key=lambda use: (-use.bytes, use.name))


def removable(models: Sequence[Listed]) -> list[Removable]:
    """What could go, the largest gain first; each model once, with its strongest reason.

    Nothing that comes with Quench and nothing in another program's folder is suggested.
    """
    found: dict[str, Removable] = {}
    owners = _owners(models)

    def suggest(listed: Listed, reason: str, kept: str = "") -> None:
        gain = _gain([listed], owners)
        if _is_ours(listed) and gain and listed.path not in found:
            found[listed.path] = Removable(listed.path, reason, gain, kept)

    for listed in models:
        if listed.state == PARTIAL:
            suggest(listed, LEFTOVER)
    for group in duplicates(models):
        first, *others = sorted(group, key=lambda each: (_KEPT_FIRST.index(each.place), not each.refs, *_plain(each)))
        for listed in others:
            suggest(listed, DUPLICATE, first.path)
    for listed in models:
        if listed.place == places.HUB and listed.revision and not listed.refs and not listed.state:
            suggest(listed, REVISION)
    families: dict[str, list[Listed]] = {}
    for listed in models:
        if listed.family and not listed.state:
            families.setdefault(listed.family, []).append(listed)
    for family in families.values():
        small = [listed for listed in family if not is_source(listed) and listed.path not in found]
        for listed in family:
            if small and is_source(listed):
                suggest(listed, SOURCE, min(small, key=_plain).path)
    return sorted(found.values(), key=lambda each: (-each.bytes, each.path))


def _plain(listed: Listed) -> tuple[int, str]:
    """Sorts the copy that a program or a person has renamed ("Copy of ...", "... (2)") behind what it was made from."""
    return len(listed.path), listed.path


def removal(chosen: Sequence[Listed], models: Sequence[Listed]) -> Removal:
    """What deleting ``chosen`` takes along, and what that frees: no file that another of ``models`` needs.

    ``QuenchError`` ``bundled`` for the model that comes with Quench, through whatever links; ``not_ours`` for a file in
    another program's folder.
    """
    for listed in chosen:
        _check(listed)
    gone = {listed.path for listed in chosen}
    others = [listed for listed in models if listed.path not in gone]
    paths: dict[str, None] = {}
    for listed in chosen:
        for path in _paths(listed, others):
            paths.setdefault(path)
    within = [path for path in paths if any(other != path and path.startswith(other + os.sep) for other in paths)]
    return Removal(tuple(path for path in paths if path not in within), _gain(chosen, _owners([*others, *chosen])))


def _check(listed: Listed) -> None:
    if places.holds_bundled(listed.path):
        raise QuenchError(
            "bundled",
            "Pocket comes with Quench and stays.",
            listed.path,
            "Files that were made from it can be deleted.",
        )
    if listed.place in places.FOREIGN:
        owner = places.TITLES[listed.place]
        raise QuenchError(
            "not_ours",
            f"This file belongs to {owner}.",
            listed.path,
            f"Delete the model in {owner}; it leaves the list.",
        )


def _is_ours(listed: Listed) -> bool:
    return listed.place not in places.FOREIGN and not places.holds_bundled(listed.path)


def _owners(models: Iterable[Listed]) -> Counter[str]:
    """How many models need each file."""
    return Counter(key for listed in models for key in {file.key for file in listed.files})


def _gain(chosen: Sequence[Listed], owners: Counter[str]) -> int:
    """Bytes of files that nothing but ``chosen`` needs."""
    mine = _owners(chosen)
    sizes = {file.key: file.bytes for listed in chosen for file in listed.files}
    return sum(size for key, size in sizes.items() if mine[key] >= owners[key] and not _has_other_links(key, chosen))


def _has_other_links(key: str, chosen: Sequence[Listed]) -> bool:
    """Whether a file has names (hard links) beside those that ``chosen`` have for it."""
    names = {os.path.realpath(file.path) for listed in chosen for file in listed.files if file.key == key}
    try:
        return Path(next(iter(names))).stat().st_nlink > len(names)
    except OSError:
        return False


def _paths(listed: Listed, others: Sequence[Listed]) -> list[str]:
    path = Path(listed.path)
    if listed.place == places.HUB and listed.revision:
        return _hub_paths(path, listed, others)
    return [file.path for file in listed.files] if listed.info.kind == "gguf" and listed.files else [listed.path]


def _hub_paths(path: Path, listed: Listed, others: Sequence[Listed]) -> list[str]:
    """A model of the Hugging Face cache: its links, and the blobs that they alone lead to; the whole repository if
    nothing else of it is left."""
    snapshot = next(place for place in (path, *path.parents) if place.name == listed.revision)
    repository = snapshot.parents[1]
    if not any(repository in Path(other.path).parents for other in others) and _only_child(snapshot):
        return [str(repository)]
    own = [Path(file.path) for file in listed.files]
    mine = {os.path.realpath(file) for file in own}
    links = (
        link for folder, _, names in os.walk(repository / "snapshots") for link in (Path(folder) / n for n in names)
    )
    needed = {os.path.realpath(link) for link in links if link not in own}
    blobs = sorted(blob for blob in mine - needed if Path(blob).parent == repository / "blobs")
    return [*(str(file) for file in own), *blobs]


def _only_child(folder: Path) -> bool:
    try:
        return len(list(folder.parent.iterdir())) == 1
    except OSError:
        return False
