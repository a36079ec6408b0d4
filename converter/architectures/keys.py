"""A model's GGUF keys, as its family's table has them."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import KeyRule, Parameters, bad_config
from converter.architectures.config import real_number, whole_number
from converter.architectures.rope import rope_entries
from converter.sources.base import MetaEntry

_WHOLE = {"UINT32", "INT32"}
_ABSOLUTE = ("tokenizer.", "general.")
_LONGEST = 1 << 16


def metadata(found: Parameters) -> list[MetaEntry]:
    """The architecture's GGUF keys: sizes, rotary settings, norms. Raises ``QuenchError`` for values that are none."""
    family = found.family
    entries: dict[str, MetaEntry] = {}
    for entry in (*(_entry(rule, found) for rule in family.keys), *rope_entries(found)):
        if entry is not None:
            entries[entry.key] = entry
    if family.extra_keys is not None:
        entries.update({entry.key: entry for entry in family.extra_keys(found)})
    return list(entries.values())


def is_own(entry: MetaEntry) -> bool:
    """Whether a key belongs to the architecture, and not to the vocabulary that it decides about."""
    return not entry.key.startswith(_ABSOLUTE)


def _entry(rule: KeyRule, found: Parameters) -> MetaEntry | None:
    value = rule.source(found) if callable(rule.source) else found.values.get(rule.source)
    if value is None:
        return None
    name = rule.source if isinstance(rule.source, str) else rule.key
    key = rule.key if rule.key.startswith(_ABSOLUTE) else f"{found.family.architecture}.{rule.key}"
    kind, many = rule.type.removesuffix("[]"), rule.type.endswith("[]")
    if not many:
        return MetaEntry(key, _checked(kind, name, value), kind)
    if not isinstance(value, list | tuple) or len(value) > _LONGEST:
        raise bad_config(f"{name} is not a list")
    return MetaEntry(key, [_checked(kind, name, item) for item in value], "ARRAY", kind)


def _checked(kind: str, name: str, value: Any) -> Any:
    if kind in _WHOLE:
        return whole_number({name: value}, name, 0 if kind == "UINT32" else -(1 << 30))
    if kind == "FLOAT32":
        return real_number({name: value}, name)
    if not isinstance(value, bool if kind == "BOOL" else str):
        raise bad_config(f"{name} is {str(value)[:40]!r}")
    return value
