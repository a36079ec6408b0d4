"""Marks that models put around what is no answer: reasoning, and calls of tools. Knows no window and no engine.

The forms are those of the models' own chat templates. Text between the marks is foreign: it is bounded, parsed as data,
and nothing in it is ever run.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_NAMES = "think|thinking|thought|reasoning|seed:think"
THOUGHT = re.compile(
    rf"<(?:{_NAMES})>|\[THINK\]|<\|begin_of_thought\|>|◁think▷|<\|channel\|>analysis<\|message\|>", re.IGNORECASE
)
"""The beginning of a reasoning section."""
THOUGHT_END = re.compile(
    rf"</(?:{_NAMES})>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>"
    r"|(?:<\|end\|>)?<\|start\|>assistant(?=<\|channel\|>commentary to=)",
    re.IGNORECASE,
)
"""Its end."""

KEPT = frozenset(
    {
        *("<think>", "</think>", "<thinking>", "</thinking>", "[THINK]", "[/THINK]"),
        *("<|begin_of_thought|>", "<|end_of_thought|>", "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"),
        *("<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "<|python_tag|>"),
        *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    }
)
"""Control tokens that are shown as text: without them nobody could tell what stands between them."""

MAX_CALL = 64 << 10
"""Characters of one tool call that are read; the rest is text."""
MAX_CALLS = 32
_PRETTY = 20_000  # characters of arguments up to which they are laid out anew

CALL = re.compile(
    r"<tool_call>|<\|tool_call\|>|\[TOOL_CALLS\]|<\|python_tag\|>|<function=[\w.:-]{1,100}>|<｜tool▁calls▁begin｜>"
    r"|<\|channel\|>commentary to=(?:functions\.)?([\w.-]{1,100}) ?(?:<\|constrain\|>)?\w{0,20}<\|message\|>"
)
"""The beginning of a tool call."""
_BARE = re.compile(
    r'\s*\[?\s*\{\s*"(?:type"\s*:\s*"function"\s*,\s*")?name"\s*:\s*"[\w.:/-]{1,100}"\s*,'
    r'\s*"(?:arguments|parameters)"'
)
_ENDS = {
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<function": "</function>",
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
}
_SEPARATED = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?([\w.-]{1,100})(?:<｜tool▁sep｜>)?\s{0,9}(?:```json)?\s{0,9}(?=\{)"
)
_FUNCTION = re.compile(r"<function=([\w.:-]{1,100})>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER, _PARAMETER_END = re.compile(r"<parameter=([\w.:-]{1,100})>"), "</parameter>"
_NAMED = re.compile(r"\s*([\w.:-]{1,100})\s*(?:\[CALL_ID\][\w-]{1,100})?(?:\[ARGS\])?\s*(?=\{)")
_DECODER = json.JSONDecoder()


class Call(NamedTuple):
    """A tool that the model wants called. ``name`` is empty where the text is no proper call; ``arguments`` is JSON
    laid out for reading, or the text as it came."""

    name: str
    arguments: str


class Calls(NamedTuple):
    """``end`` is the offset behind the calls; not ``closed``: more text may belong to them."""

    end: int
    calls: tuple[Call, ...]
    closed: bool


def without_thought(text: str) -> str:
    """An answer without the reasoning section at its beginning, whose start may stand in the prompt."""
    opening = THOUGHT.match(text.lstrip())
    end = THOUGHT_END.search(text)
    if end is None:
        return text
    before = THOUGHT.search(text[: end.start()])
    return text[end.end() :].lstrip() if opening or before is None else text


def calls_at(text: str, start: int) -> Calls | None:
    """The tool calls whose mark stands at ``start``, or None if none does."""
    opening = CALL.match(text, start)
    if opening is None:
        return None
    body = opening.end()
    mark = opening.group()
    if mark == "[TOOL_CALLS]":
        return _listed(text, body)
    if opening[1]:
        found = _json(text[: body + MAX_CALL], body)
        if found is None:
            return Calls(
                min(len(text), body + MAX_CALL), (Call("", text[body : body + MAX_CALL]),), len(text) - body >= MAX_CALL
            )
        return Calls(found[1], (Call(opening[1], _laid_out(found[0])),), True)
    if mark == "<|python_tag|>":
        return Calls(len(text), _read(text[body : body + MAX_CALL]), False)
    end_mark = _ENDS["<function" if mark.startswith("<function") else mark]
    end = text.find(end_mark, body, body + MAX_CALL)
    if end < 0:
        cut = len(text) - body >= MAX_CALL
        inside = text[body : body + MAX_CALL]
        return Calls(min(len(text), body + MAX_CALL), (Call("", inside.strip()),), cut)
    inside = text[start : end + len(end_mark)] if mark.startswith("<function") else text[body:end]
    return Calls(end + len(end_mark), _read(inside), True)


def bare_calls(text: str) -> Calls | None:
    """Calls whose mark was a control token that the engine kept to itself: the whole answer is their JSON."""
    if not _BARE.match(text[:400]):
        return None
    lead = len(text) - len(text.lstrip())
    found = _json(text[:MAX_CALL], lead)
    if found is None:
        return Calls(min(len(text), MAX_CALL), (Call("", text[:MAX_CALL].strip()),), len(text) > MAX_CALL)
    value, end = found
    calls = _calls_in(value)
    return Calls(end, calls, True) if calls else None


def _listed(text: str, body: int) -> Calls:
    """``[TOOL_CALLS]`` with a list of calls behind it, or with names that have their arguments behind them."""
    at = body
    calls: list[Call] = []
    window = text[: body + MAX_CALL]
    while len(calls) < MAX_CALLS:
        named = _NAMED.match(window, at)
        place = named.end() if named else at + len(window[at:]) - len(window[at:].lstrip())
        found = _json(window, place)
        if found is None:
            break
        value, end = found
        calls += [Call(named[1], _laid_out(value))] if named else _calls_in(value) or [Call("", window[place:end])]
        at = end
        if window.startswith("[TOOL_CALLS]", at):
            at += len("[TOOL_CALLS]")
    if calls:
        return Calls(at, tuple(calls[:MAX_CALLS]), at < len(text))
    return Calls(min(len(text), body + MAX_CALL), (Call("", window[body:].strip()),), len(text) - body >= MAX_CALL)


def _read(body: str) -> tuple[Call, ...]:
    """Calls in what stands between marks."""
    separated = []
    for begun in _SEPARATED.finditer(body):
        found = _json(body, begun.end())
        separated += [Call(begun[1], _laid_out(found[0]))] if found is not None else []
    if separated:
        return tuple(separated[:MAX_CALLS])
    functions = list(_FUNCTION.finditer(body))[:MAX_CALLS]
    if functions:
        return tuple(Call(found[1], _parameters(found[2])) for found in functions)
    found = _json(body, len(body) - len(body.lstrip()))
    calls = _calls_in(found[0]) if found is not None else ()
    return calls or (Call("", body.strip()),)


def _parameters(body: str) -> str:
    given: dict[str, str] = {}
    at = 0
    while opening := _PARAMETER.search(body, at):
        end = body.find(_PARAMETER_END, opening.end())
        if end < 0:
            break
        given[opening[1]] = body[opening.end() : end].strip("\n")
        at = end + len(_PARAMETER_END)
    if given:
        return _laid_out(given)
    found = _json(body, len(body) - len(body.lstrip()))
    return _laid_out(found[0]) if found is not None else body.strip()


def _json(text: str, start: int) -> tuple[object, int] | None:
    """The JSON value at ``start`` and the offset behind it."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):  # not finished, no JSON, numbers of thousands of digits, too deep
        return None


def _calls_in(value: object) -> tuple[Call, ...]:
    entries = value if isinstance(value, list) else [value]
    calls: list[Call] = []
    for entry in entries[:MAX_CALLS]:
        inner = entry.get("function", entry) if isinstance(entry, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(name, str) or not name.strip():
            return ()
        given = inner.get("arguments", inner.get("parameters", {}))
        if isinstance(given, str):  # some write the arguments as JSON inside of JSON
            found = _json(given, 0)
            given = found[0] if found is not None else given
        calls.append(Call(" ".join(name.split())[:100], given if isinstance(given, str) else _laid_out(given)))
    return tuple(calls)


def _laid_out(value: object) -> str:
    try:
        short = json.dumps(value, ensure_ascii=False)
        return json.dumps(value, ensure_ascii=False, indent=2) if len(short) < _PRETTY else short
    except (ValueError, RecursionError):
        return ""


__all__ = [
    "CALL",
    "KEPT",
    "MAX_CALL",
    "THOUGHT",
    "THOUGHT_END",
    "Call",
    "Calls",
    "bare_calls",
    "calls_at",
    "without_thought",
]
