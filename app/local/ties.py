"""What belongs to what: files made from one model, and files that are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from app.local.entry import Listed
from app.local.names import base_name, type_label
from converter.spec import ModelInfo

FULL_PRECISION = frozenset({"F32", "F16", "BF16"})


def bases(models: Iterable[Listed], name: Callable[[ModelInfo], str] = base_name) -> dict[str, str]:
    """The name that each model (by its path) is grouped under.

    It is the file's own, unless its weights say that it was made from another model here (the same family, see
    :mod:`converter.identity`) and its header does not call itself something else: a renamed file finds its base again,
    a merged adapter keeps its own name.
    """
    found: dict[str, str] = {}
    families: dict[str, list[Listed]] = {}
    for listed in models:
        found[listed.path] = name(listed.info)
        if listed.family:
            families.setdefault(listed.family, []).append(listed)
    for family in families.values():
        source = max(family, key=lambda listed: (listed.info.kind == "hf", listed.info.bytes, listed.path))
        names = {_plain(found[source.path]), _plain(_own_name(source))}
        for listed in family:
            if listed is not source and (not _own_name(listed) or _plain(_own_name(listed)) in names):
                found[listed.path] = found[source.path]
    return found


def _own_name(listed: Listed) -> str:
    """What a model's header calls it."""
    name = listed.info.metadata.get("general.name")
    return name if isinstance(name, str) else ""


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "", name.lower())


def is_source(listed: Listed) -> bool:
    """Whether smaller types can be made of it as of an original: a folder, or a GGUF file of full precision."""
    return listed.info.kind == "hf" or type_label(listed.info) in FULL_PRECISION


def duplicates(models: Iterable[Listed]) -> list[tuple[Listed, ...]]:
    """Models with the same content in files of their own; a file that is merely linked twice is no duplicate."""
    groups: dict[tuple[str, int], dict[tuple[str, ...], Listed]] = {}
    for listed in models:
        if listed.content:
            files = tuple(sorted(file.key for file in listed.files))
            groups.setdefault((listed.content, listed.info.bytes), {}).setdefault(files, listed)
    return [tuple(same.values()) for same in groups.values() if len(same) > 1]


def duplicates_of(models: Iterable[Listed]) -> dict[str, list[str]]:
    """For each path the other paths with the same content."""
    return {
        listed.path: [other.path for other in group if other is not listed]
        for group in duplicates(models)
        for listed in group
    }
