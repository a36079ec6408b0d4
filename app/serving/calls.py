"""Tools in OpenAI's form: what is offered, which must be called, and the calls that a model writes. Pure.

A call is recognised by the code that shows calls in Chat (:mod:`app.marks`). What names no offered tool, or is no
proper call, stays text. Nothing is run.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from app.marks import CALL, THOUGHT, THOUGHT_END, Call, bare_calls, calls_at

MAX_TOOLS = 128
MAX_TEXT = 256 << 10
"""Characters of all tools together as JSON: they stand in the prompt."""

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_MARKS = (
    "<tool_call>",
    "<|tool_call|>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function=",
    "<｜tool▁calls▁begin｜>",
    "<|channel|>commentary to=",
)
_LONGEST = 260  # characters of a mark with a name in it


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    type: str
    function: Function


class Called(msgspec.Struct):
    """A call of an earlier turn, as the client sends it back; ``arguments`` is JSON."""

    name: str
    arguments: str = "{}"


class EarlierCall(msgspec.Struct):
    function: Called
    id: str = ""
    type: str = "function"


def offered(tools: Sequence[Tool]) -> str:
    """Tools as the JSON that a chat template gets. ``ValueError`` in words for what cannot be offered."""
    if len(tools) > MAX_TOOLS:
        raise ValueError(f"has more than {MAX_TOOLS}")
    for tool in tools:
        if tool.type != "function":
            raise ValueError(f"has a tool of the type {tool.type[:40]!r}; only functions are supported")
        if not NAME.fullmatch(tool.function.name):
            raise ValueError(f"has a name that cannot be used: {tool.function.name[:80]!r}")
    text = msgspec.json.encode([_plain(tool) for tool in tools]).decode()
    if len(text) > MAX_TEXT:
        raise ValueError(f"is longer than {MAX_TEXT >> 10} KiB")
    return text


def _plain(tool: Tool) -> dict[str, Any]:
    function = {name: value for name, value in msgspec.to_builtins(tool.function).items() if value is not None}
    return {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, **function}}


def must_call(tools: Sequence[Tool]) -> str:
    """The JSON schema of an answer that is a call of one of these.

    Definitions move to the root, where references look for them; of two by one name in different tools the first counts
    for both, unless they differ: ``ValueError``.
    """
    shapes: list[dict[str, Any]] = []
    shared: dict[str, dict[str, Any]] = {}
    for tool in tools:
        arguments = dict(tool.function.parameters or {"type": "object", "properties": {}})
        for place in ("$defs", "definitions"):
            found = arguments.pop(place, None)
            for name, shape in found.items() if isinstance(found, dict) else ():
                if shared.setdefault(place, {}).setdefault(name, shape) != shape:
                    raise ValueError(f"has different definitions of {str(name)[:80]!r}")
        properties = {"name": {"const": tool.function.name}, "arguments": arguments}
        shapes.append({"type": "object", "properties": properties, "required": ["name", "arguments"]})
    root = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return msgspec.json.encode({**root, **shared}).decode()


def earlier(calls: Sequence[EarlierCall]) -> str:
    """Calls of an earlier turn as the JSON that a chat template gets: arguments are objects there."""
    return msgspec.json.encode(
        [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _object(call.function.arguments)},
            }
            for call in calls
        ]
    ).decode()


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class Reader:
    """An answer as it comes: :meth:`add` gives the words that are no part of a call, :meth:`end` the rest of them and
    the calls. ``names`` are the tools that were offered."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._text = ""
        self._given = 0

    def add(self, text: str) -> str:
        self._text += text
        return self._give(self._safe())

    def end(self) -> tuple[str, tuple[Call, ...]]:
        start, at = self._begin(), self._given
        self._given = len(self._text)
        if start < 0:
            return self._text[at:], ()
        bare = bare_calls(self._text[start:])
        if bare is not None and self._all_known(bare.calls) and not self._text[start + bare.end :].strip():
            return self._text[at:start].rstrip(), bare.calls
        calls: list[Call] = []
        words = ""
        while (mark := CALL.search(self._text, max(at, start))) is not None:
            inside = calls_at(self._text, mark.start())
            assert inside is not None
            known = self._all_known(inside.calls)
            calls += inside.calls if known else ()
            words += self._text[at : mark.start() if known else inside.end]
            at = inside.end
        words += self._text[at:]
        return (words.rstrip() if calls else words), tuple(calls)

    def _all_known(self, calls: Sequence[Call]) -> bool:
        return bool(calls) and all(call.name in self._names for call in calls)

    def _begin(self) -> int:
        """Where the answer itself begins, behind its reasoning; -1 inside of that."""
        opening = THOUGHT.search(self._text)
        end = THOUGHT_END.search(self._text)
        if opening is not None and (end is None or end.start() < opening.start()):
            return -1
        return end.end() if end is not None else 0

    def _safe(self) -> int:
        """How much of the text is certainly words."""
        start = self._begin()
        if start >= 0 and self._text[start:].lstrip()[:1] in ("{", "["):
            return start  # it may be the JSON of a call without a mark
        mark = CALL.search(self._text, start) if start >= 0 else None
        if mark is not None:
            return mark.start()
        for at in range(max(self._given, len(self._text) - _LONGEST), len(self._text)):
            tail = self._text[at:]
            if self._text[at] in "<[" and any(known.startswith(tail) or tail.startswith(known) for known in _MARKS):
                return at
        return len(self._text)

    def _give(self, until: int) -> str:
        words = self._text[self._given : until]
        self._given = max(self._given, until)
        return words


def called(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, with new ids."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": _compact(call.arguments)},
        }
        for call in calls
    ]


def _compact(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


__all__ = ["EarlierCall", "Reader", "Tool", "called", "earlier", "must_call", "offered"]
