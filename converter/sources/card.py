"""The front matter of a model card: YAML between two lines of three dashes at the head of README.md.

A card only adds labels, so that nothing in it is a reason to refuse a model: what stands before an error of syntax or
before a limit counts, the rest does not. Nothing is built but texts, lists and mappings; a word such as ``no`` or a
version such as ``1.0`` stays as it is written, and tags of YAML have no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from converter.sources.files import ByteFile
from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"

_READ = 4 << 20
"""Bytes of README.md that are looked at. Some hold megabytes of results in their front matter."""
_PARSED = 64 << 10
"""Characters of front matter that are parsed, results left out: PyYAML takes about a second for so many."""
_EXPANDED = 1 << 20
"""Characters that a card may hold once its aliases are followed."""
_DEEPEST = 16
_NULLS = ("", "~", "null", "Null", "NULL")
_RESULTS = "model-index:"


class _LimitError(Exception):
    """The card is nested too deeply, or its aliases stand for too much."""


def read_card(folder: Path) -> dict[str, Value]:
    """The front matter of ``folder``'s README.md; empty if there is none, or if it is not a mapping."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        file = ByteFile(path)
        try:
            text = file.read(0, min(file.size, _READ)).decode("utf-8", "replace")
        finally:
            file.close()
    except QuenchError:
        return {}
    return parse_card(text)


def parse_card(text: str) -> dict[str, Value]:
    """The front matter of a model card. See :func:`read_card`."""
    lines = text.splitlines()
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    # A tab indents nothing in YAML, and yet some cards have them.
    source = "\n".join(_without_results(lines[1:end])).replace("\t", "  ") + "\n"
    return _Reader(source[:_PARSED]).read()


def _without_results(lines: list[str]) -> Iterator[str]:
    """All lines but those of evaluations, thousands in some cards."""
    inside = False
    for line in lines:
        inside = line.startswith(_RESULTS) or (inside and line[:1] in ("", " ", "\t", "-", "#"))
        if not inside:
            yield line


def _add(mapping: dict[str, Value], key: Value, value: Value) -> None:
    """Adds a pair; ``<<`` adds the pairs of other mappings, where there are no own ones."""
    if key == "<<":
        for other in value if isinstance(value, list) else [value]:
            for name, each in other.items() if isinstance(other, dict) else ():
                mapping.setdefault(name, each)
    elif isinstance(key, str):
        mapping[key] = value


class _Reader:
    """Builds values from the parser's events, one at a time, so that a limit stops the parser too."""

    def __init__(self, source: str) -> None:
        import yaml

        self._yaml = yaml
        # The parser in Python: what strangers wrote meets no C.
        self._events: Iterator[Any] = yaml.parse(source, yaml.SafeLoader)
        self._anchors: dict[str, tuple[Value, int]] = {}
        self._room = _EXPANDED

    def read(self) -> dict[str, Value]:
        yaml = self._yaml
        card: dict[str, Value] = {}
        try:
            for event in self._events:
                if isinstance(event, yaml.MappingStartEvent):
                    for key, value in self._pairs(1):
                        _add(card, key, value)
                    break
                if isinstance(event, yaml.NodeEvent):
                    break
        except (yaml.YAMLError, ValueError, OverflowError, _LimitError):
            # What was complete before it counts. ValueError and OverflowError: PyYAML's on an escaped character that
            # does not exist.
            pass
        return card

    def _pairs(self, depth: int) -> Iterator[tuple[Value, Value]]:
        """Keys and values of the mapping that has begun."""
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            yield self._value(event, depth), self._value(next(self._events), depth)

    def _value(self, event: Any, depth: int) -> Value:
        yaml, before = self._yaml, self._room
        value: Value
        if depth > _DEEPEST:
            raise _LimitError
        if isinstance(event, yaml.AliasEvent):
            # One inside of what it names is not known yet, and stands for nothing.
            value, weight = self._anchors.get(event.anchor, (None, 1))
            self._take(weight)
            return value
        if isinstance(event, yaml.MappingStartEvent):
            value = {}
            for name, each in self._pairs(depth + 1):
                _add(value, name, each)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                value.append(self._value(item, depth + 1))
        else:
            # Escapes can make halves of characters, which no file can hold.
            text = event.value.encode("utf-8", "replace").decode()
            value = None if event.implicit[0] and text in _NULLS else text
            self._take(len(event.value))
        self._take(1)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, before - self._room
        return value

    def _take(self, weight: int) -> None:
        self._room -= weight
        if self._room < 0:
            raise _LimitError
