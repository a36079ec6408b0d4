"""Prompts to answer: the bundled set and a person's own, as JSONL with one prompt a line.

A line is ``{"prompt": "...", "slice": "..."}``; ``slice`` is optional and says what kind of request it is, in the names
of the texts that quality is measured on (``app.quality.texts``), or any other word in a set of one's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.files import write_atomically
from app.quality.texts import read_text
from converter.spec import QuenchError
from resources import path as resource

BUNDLED = "everyday"
NO_SLICE = "other"
MAX_PROMPTS = 10_000
MAX_PROMPT = 100_000
"""Characters of one prompt: more does not fit into a context that a laptop has."""
MAX_SLICE = 64


@dataclass(frozen=True)
class Prompt:
    """What is asked, and its kind (``NO_SLICE`` where the set does not say)."""

    slice: str
    prompt: str


def load(name: str) -> list[Prompt]:
    """The prompts of a JSONL file, or of the bundled set (``BUNDLED``), in their order. QuenchError for a bad line."""
    file = resource("prompts.jsonl") if name == BUNDLED else Path(name)
    found = [
        _prompt(file, number, line)
        for number, line in enumerate(read_text(file, _MISSING).split("\n"), start=1)
        if line.strip()
    ]
    if not found:
        raise QuenchError("no_prompts", "The file has no prompts in it.", str(file), _HINT)
    if len(found) > MAX_PROMPTS:
        detail = f"{file} has {len(found)}; at most {MAX_PROMPTS}."
        raise QuenchError("too_many_prompts", "The file has too many prompts.", detail, "Leave some of them out.")
    return found


def save(prompts: Sequence[Prompt], path: Path) -> None:
    """Write a set that :func:`load` reads, whole or not at all. ``QuenchError`` ``unwritable``."""
    lines = [json.dumps({"prompt": each.prompt, "slice": each.slice}, ensure_ascii=False) for each in prompts]
    try:
        write_atomically(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise QuenchError(
            "unwritable", "The prompts could not be written.", str(error), "Choose another place.", exit_status=4
        ) from error


_MISSING = f"Check the path. The bundled prompts are called {BUNDLED}."
_HINT = 'Each line is one prompt: {"prompt": "...", "slice": "..."}; the slice may be left out.'


def _prompt(file: Path, number: int, line: str) -> Prompt:
    def bad(reason: str) -> QuenchError:
        return QuenchError("bad_prompt", "A line is no prompt.", f"{file}, line {number}: {reason}", _HINT)

    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise bad("it is not an object")
    kind, prompt = value.get("slice", NO_SLICE), value.get("prompt")
    for key, text, most in (("slice", kind, MAX_SLICE), ("prompt", prompt, MAX_PROMPT)):
        if not isinstance(text, str) or not text.strip():
            raise bad(f"{key!r} is missing or no text")
        if len(text) > most:
            raise bad(f"{key!r} has {len(text)} characters; the limit is {most}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise bad(f"{key!r} has half of a character in it (a lone surrogate)")
    return Prompt(str(kind).strip(), str(prompt))
