"""Pieces of HTML that the sections of a report share, and what it calls the models. Everything given is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import PurePath

from app.measure_messages import CandidateQuality
from app.quality import svg


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; the head is text."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def legend(models: Sequence[CandidateQuality]) -> str:
    return f'<p class="legend">{"".join(badge(each.type or model_label(each)) for each in models)}</p>'


def badge(type_name: str) -> str:
    return (
        f'<span class="badge"><span class="swatch" style="background:{svg.type_color(type_name)}"></span>'
        f"{escape(type_name)}</span>"
    )


def named_badge(each: CandidateQuality) -> str:
    """The type, and under it the cache where it is not f16, and whether a server has it."""
    more = [f"KV {escape(each.kv)}"] if each.kv else []
    more += ["served"] if each.told is not None else []
    return badge(each.type) + (f'<br><span class="half">{", ".join(more)}</span>' if more else "")


def model_label(each: CandidateQuality) -> str:
    return each.label or file_name(each)


def file_name(each: CandidateQuality) -> str:
    return PurePath(each.path).name


def base_name(each: CandidateQuality) -> str:
    stem = PurePath(each.path).stem
    return stem.removesuffix(f"-{each.type}") if each.type else stem


__all__ = ["badge", "base_name", "file_name", "legend", "model_label", "named_badge", "table"]
