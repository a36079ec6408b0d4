"""A comparison as one HTML file that needs nothing else: the shading, every token in words, and how long they agree.

Models' words are hostile: everything is escaped, and the page forbids itself scripts and everything from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.compare import documents
from app.compare.align import Step, median
from app.compare.results import Column, Comparison, Entry, names_of
from app.quality import html_parts
from resources import path as resource

STRONGEST = 2.0
"""Nats from which on a token has the full shade; on a square-root scale, as in the window."""
SAID = 0.05
"""Nats from which on a token is told in words."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 260, 56, 12, 40
_COLORS = ("#0F6E66", "#B3261E", "#2D708E")
_DASHES = ("", "7 4", "2 3")


def render(comparison: Comparison, title: str = "Where they part") -> str:
    """The whole page; deterministic."""
    names = names_of(comparison.models)
    style = resource("report.css").read_text("utf-8")
    about = f"Reference {documents.plain(names[0])} · {'greedy' if comparison.greedy else 'one seed'}"
    sections = [_survival(comparison, names)] if len(comparison.entries) > 1 else []
    sections += [_entry(number, entry, names) for number, entry in enumerate(comparison.entries, start=1)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f'<header><p class="brand">Quench</p><h1>{escape(title)}</h1><p class="muted">{escape(about)}</p></header>'
        + "".join(sections)
        + "</main></body></html>\n"
    )


def _entry(number: int, entry: Entry, names: Sequence[str]) -> str:
    columns = [(place, column) for place, column in enumerate(entry.columns) if column is not None]
    cards = "".join(_card(names[place], column, reference=place == 0) for place, column in columns)
    facts = [documents.figures(column, reference=place == 0) for place, column in columns]
    rows = (
        [[escape(key), *(escape(documents.one_line(each[key])) for each in facts)] for key in facts[0]] if facts else []
    )
    table = html_parts.table(["", *(documents.one_line(names[place]) for place, _ in columns)], rows)
    return (
        f'<section><h2>{number}. {_safe(entry.slice)}</h2><div class="card">'
        f"<blockquote>{_safe(entry.prompt)}</blockquote></div>"
        f'<div class="replies">{cards}</div>{table}</section>'
    )


def _card(name: str, column: Column, *, reference: bool) -> str:
    """The answer; of a model that was scored also the reference's answer, shaded, and its worst tokens in words."""
    role = '<span class="muted">reference</span>' if reference else ""
    head = f'<p class="row"><strong>{_safe(name)}</strong>{role}</p>'
    if column.error:
        return f'<div class="reply">{head}<p class="bad">{_safe(column.error)}</p></div>'
    body = f"<blockquote>{_safe(column.text)}</blockquote>"
    if column.unscored:
        body += f'<p class="muted">No divergence: {_safe(column.unscored)}</p>'
    if not reference and column.tokens:
        shaded = "".join(_word(place, column) for place in range(len(column.tokens)))
        told = [
            f"<li>{escape(_in_words(place, column))}</li>"
            for place, token in enumerate(column.tokens)
            if token.kld >= SAID or place == column.first_divergence
        ]
        words = (
            f"<details><summary>In words ({len(told)} tokens)</summary><ol>{''.join(told)}</ol></details>"
            if told
            else ""
        )
        body += f'<h3>The reference’s answer, shaded</h3><blockquote class="passage">{shaded}</blockquote>{words}'
    return f'<div class="reply">{head}{body}</div>'


def _in_words(place: int, column: Column) -> str:
    first = place == column.first_divergence
    return documents.in_words(place, column.tokens[place], first=first, bounds=column.bounds)


def _word(place: int, column: Column) -> str:
    token = column.tokens[place]
    first = place == column.first_divergence
    strength = round(100 * min(1.0, (token.kld / STRONGEST) ** 0.5))
    about = escape(_in_words(place, column), quote=True)
    text = _safe(token.text)
    if first:
        return f'<mark class="kld" style="--kld:{strength}%;outline:2px solid var(--bad)" title="{about}">{text}</mark>'
    return f'<span class="kld" style="--kld:{strength}%" title="{about}">{text}</span>' if strength else text


def _safe(text: str) -> str:
    return escape(documents.plain(text), quote=True)


# ---- how long they stay together -------------------------------------------------------------------------------


def _survival(comparison: Comparison, names: Sequence[str]) -> str:
    curves = [(names[place], documents.survival_of(comparison, place)) for place in range(1, len(names))]
    curves = [(name, steps) for name, steps in curves if steps]
    if not curves:
        return ""
    rows = []
    for name, steps in curves:
        half = median(steps)
        rows.append([_safe(name), str(half) if half is not None else "never", f"{steps[-1].share:.0%}"])
    table = html_parts.table(["", "Half have parted after (tokens)", "Still together at the end"], rows)
    note = (
        "The part of the answers that are still the reference’s after so many tokens (Kaplan-Meier; an answer that "
        "ended together has not parted), each in its 95 % band."
    )
    return (
        f'<section><h2>How long they stay together</h2><div class="card">{_chart(curves)}{table}'
        f'<p class="note">{note}</p></div></section>'
    )


def _chart(curves: Sequence[tuple[str, list[Step]]]) -> str:
    end = max(steps[-1].tokens for _, steps in curves) or 1
    plot = _HEIGHT - _TOP - _BOTTOM

    def x(tokens: float) -> float:
        return _LEFT + tokens / end * (_WIDTH - _LEFT - 140)

    def y(share: float) -> float:
        return _TOP + plot * (1 - share)

    parts = [
        f'<line x1="{_LEFT}" y1="{y(share):.1f}" x2="{x(end):.1f}" y2="{y(share):.1f}" class="grid"/>'
        f'<text x="{_LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end" class="tick">{share:.0%}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    parts += [
        f'<text x="{x(tokens):.1f}" y="{_HEIGHT - 18}" text-anchor="middle" class="tick">{tokens:,}</text>'
        for tokens in sorted({0, end // 2, end})
    ]
    for number, (name, steps) in enumerate(curves):
        line, low, high = (
            [(x(at), y(share)) for at, share in _stair(steps, edge)] for edge in ("share", "low", "high")
        )
        color, dash = _COLORS[number % len(_COLORS)], _DASHES[number % len(_DASHES)]
        parts.append(
            f'<polygon points="{_points([*high, *reversed(low)])}" style="fill:{color};fill-opacity:.12"/>'
            f'<polyline points="{_points(line)}" style="fill:none;stroke:{color};stroke-width:2;'
            f'stroke-dasharray:{dash or "none"}"/>'
            f'<text x="{x(end) + 8:.1f}" y="{_TOP + 14 + 18 * number}" class="label" style="fill:{color}">'
            f"{_safe(name[:18])}</text>"
        )
    label = "The part of the answers that are still the reference’s, by tokens"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _stair(steps: Sequence[Step], edge: str) -> list[tuple[float, float]]:
    """The corners of a curve of steps, or of an edge of its band."""
    corners: list[tuple[float, float]] = [(0.0, 1.0)]
    for step in steps:
        corners += [(step.tokens, corners[-1][1]), (step.tokens, getattr(step, edge))]
    return corners


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


__all__ = ["render"]
