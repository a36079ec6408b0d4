"""A comparison as Markdown, JSON and CSV, and a token's divergence in words. The HTML page is in :mod:`.page`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from app.compare import align
from app.compare.results import Column, Comparison, names_of
from app.files import write_atomically
from app.protocol import ScoredToken
from app.quality import numbers
from converter.spec import QuenchError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def plain(text: str) -> str:
    """``text`` without control characters and marks that turn the direction of writing; line ends are ``\\n``."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    return " ".join(plain(text).split())


def quoted(text: str) -> str:
    """A token inside a sentence: its space is shown by a mark where it is nothing else."""
    shown = plain(text).replace("\n", "↵")
    return f"‘{shown.strip() or '␣' * len(shown)}’"


def in_words(index: int, token: ScoredToken, *, first: bool = False, bounds: bool = False) -> str:
    """Token ``index`` (from 0) in words; ``first``: the first one where greedy decoding parts; ``bounds``: the
    divergence is a lower bound."""
    least = "at least " if bounds else ""
    words = f"Token {index + 1} {quoted(token.text)}: {least}{numbers.number(token.kld, 2)} nats"
    if token.reference_top:
        theirs = token.reference_top[0]
        words += f", reference said {quoted(theirs.text)} with {theirs.probability:.0%}"
    if token.top:
        words += f", this model {quoted(token.top[0].text)} with {token.top[0].probability:.0%}"
    return words + ("; here they part." if first else ".")


def figures(column: Column, *, reference: bool) -> dict[str, str]:
    """A column's figures as people read them; a dash where there is none."""
    dash, scored = numbers.NONE, column.scored and not reference
    memory = column.memory.anonymous
    return {
        "Mean KLD": f"{numbers.AT_LEAST if column.bounds else ''}{numbers.number(column.kld)} nats" if scored else dash,
        "Same first choice": f"{column.top1:.1%}" if scored else dash,
        "Parts at token": (str(column.first_divergence + 1) if column.first_divergence >= 0 else "never")
        if scored
        else dash,
        "Tokens/s": numbers.rate(column.tokens_per_second) + ("" if column.speed_alone else " (shared)"),
        "First token": numbers.seconds(column.first_token or None),
        "Memory": numbers.size(memory) if memory else dash,
        "Size": numbers.size(column.bytes) if column.bytes else dash,
        "Lab": column.verdict or dash,
    }


def survival_of(comparison: Comparison, model: int) -> list[align.Step]:
    """How long one model's own answers stay with the reference's, over the prompts that both have answered."""
    lengths = []
    for entry in comparison.entries:
        reference, column = entry.columns[0], entry.columns[model]
        if reference is None or column is None or reference.error or column.error:
            continue
        lengths.append((column.common, column.text != reference.text))
    return align.survival(lengths)


# ---- documents -------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """Prompts and answers, each answer in a fence that its text cannot close, with its figures in a table."""
    names = names_of(comparison.models)
    parts = ["# Comparison", ""]
    parts += [f"- {'Reference' if place == 0 else 'Model'}: {_cell(name)}" for place, name in enumerate(names)]
    parts += ["", "Greedy answers." if comparison.greedy else "Answers drawn with one seed.", ""]
    for number, entry in enumerate(comparison.entries, start=1):
        columns = [(place, column) for place, column in enumerate(entry.columns) if column is not None]
        parts += [f"## {number}. {_cell(entry.slice)}", "", *fenced(entry.prompt), ""]
        if columns:
            tables = [figures(column, reference=place == 0) for place, column in columns]
            parts += ["| | " + " | ".join(_cell(names[place]) for place, _ in columns) + " |"]
            parts += ["|---" * (len(columns) + 1) + "|"]
            parts += [f"| {key} | " + " | ".join(_cell(each[key]) for each in tables) + " |" for key in tables[0]]
            parts.append("")
        for place, column in columns:
            parts += [f"### {_cell(names[place])}", "", *fenced(column.error or column.text), ""]
            if column.unscored:
                parts += [_cell(f"No divergence: {column.unscored}"), ""]
            if place and column.first_divergence >= 0:
                at = column.first_divergence
                known = at < len(column.tokens)
                words = in_words(at, column.tokens[at], first=True, bounds=column.bounds) if known else ""
                parts += [_cell(words), ""] if words else []
    return "\n".join(parts).rstrip() + "\n"


def fenced(text: str) -> list[str]:
    """A block that shows ``text`` as it is; its fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", plain(text).strip("\n"), fence]


def _cell(text: str) -> str:
    """``text`` in a line of Markdown, with nothing in it that means anything there."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", one_line(text))


def document(comparison: Comparison) -> dict[str, Any]:
    """All of it, ready for JSON: every token with its divergence and alternatives."""
    survival = [
        {"path": path, "steps": msgspec.to_builtins(survival_of(comparison, place))}
        for place, path in enumerate(comparison.models)
        if place
    ]
    return {**msgspec.to_builtins(comparison), "survival": survival}


HEAD = (
    "prompt", "slice", "model", "path", "reference", "kld", "top1", "first_divergence", "common", "tokens",
    "tokens_per_second", "alone", "first_token", "memory", "bytes", "verdict", "error", "text",
    "lower_bound", "unscored",
)  # fmt: skip


def table(comparison: Comparison) -> str:
    """A line for every answer, in base units. A text that a spreadsheet would compute gets an apostrophe in front."""
    names = names_of(comparison.models)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    for entry in comparison.entries:
        for place, column in enumerate(entry.columns):
            if column is None:
                continue
            scored = column.scored and place > 0
            row = (
                entry.prompt, entry.slice, names[place], column.path, int(place == 0),
                column.kld if scored else "", column.top1 if scored else "", column.first_divergence if scored else "",
                column.common, len(column.own), column.tokens_per_second, int(column.speed_alone), column.first_token,
                column.memory.anonymous, column.bytes, column.verdict, column.error, column.text,
                int(column.bounds), column.unscored,
            )  # fmt: skip
            writer.writerow([_harmless(value) if isinstance(value, str) else value for value in row])
    return out.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _html(comparison: Comparison) -> str:
    from app.compare import page

    return page.render(comparison)


def _json(comparison: Comparison) -> str:
    return msgspec.json.format(msgspec.json.encode(document(comparison)), indent=1).decode() + "\n"


FORMS: dict[str, Callable[[Comparison], str]] = {".md": markdown, ".html": _html, ".json": _json, ".csv": table}
"""What a comparison is written as, by the ending of the file's name."""


def save(comparison: Comparison, path: Path) -> None:
    """Write ``path``, whole or not at all. ``QuenchError`` ``usage`` for another ending, ``unwritable`` if it fails."""
    form = FORMS.get(path.suffix.lower())
    if form is None:
        known = ", ".join(FORMS)
        raise QuenchError("usage", "A comparison is not written in this form.", path.name, known, exit_status=2)
    try:
        write_atomically(path, form(comparison).encode("utf-8", "replace"))
    except OSError as error:
        raise QuenchError(
            "unwritable", "The comparison could not be written.", str(error), "Choose another place.", exit_status=4
        ) from error


__all__ = [
    "FORMS", "document", "figures", "in_words", "markdown", "one_line", "plain", "quoted", "save",
    "survival_of", "table",
]  # fmt: skip
