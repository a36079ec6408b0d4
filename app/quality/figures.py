"""The figures of a measurement for other programs: a CSV table, and one line for a model card."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import PurePath

from app.measure_messages import CandidateQuality, Estimate, QualityResult
from app.quality import numbers

Read = Callable[[CandidateQuality], Estimate | None]

ESTIMATES: tuple[tuple[str, Read], ...] = (
    ("perplexity", lambda q: q.perplexity),
    ("ln_ratio", lambda q: q.ln_ratio),
    ("kld_mean", lambda q: q.kld.mean),
    ("kld_median", lambda q: q.kld.median),
    ("kld_p95", lambda q: q.kld.p95),
    ("kld_p99", lambda q: q.kld.p99),
    ("kld_p99_9", lambda q: q.kld.p99_9),
    ("kld_max", lambda q: q.kld.max),
    ("reverse_kld", lambda q: q.reverse_kld),
    ("top1", lambda q: q.top1),
    ("top5", lambda q: q.top5),
    ("rms_dp", lambda q: q.rms_dp),
)
"""Columns of two: the value, and its standard error under the same name with ``_error``."""


def csv_table(result: QualityResult) -> str:
    """One row a model, the reference first; divergences in nats, shares from 0 to 1, sizes in bytes."""
    texts = list(dict.fromkeys(name for each in result.candidates for name in each.slices))
    kinds = list(dict.fromkeys(name for each in (result.reference, *result.candidates) for name in each.tasks))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [part for name, _ in ESTIMATES for part in (name, f"{name}_error")]
    writer.writerow(
        ["file", "type", "kv", "bytes", *names]
        + [f"kld_{name}" for name in texts]
        + [part for name in kinds for part in (f"tasks_{name}_n", f"tasks_{name}_correct")]
        + ["tokens_per_second", "odds_missing", "verdict"]
    )
    for each in (result.reference, *result.candidates):
        row: list[object] = [_cell(PurePath(each.path).name), _cell(each.type), each.kv or "f16", each.bytes]
        for _, read in ESTIMATES:
            found = read(each)
            row += ["", ""] if found is None else [found.value, found.error]
        row += [each.slices[name].kld.value if name in each.slices else "" for name in texts]
        for name in kinds:
            score = each.tasks.get(name)
            row += [score.n, score.correct] if score else ["", ""]
        verdict = "reference" if each is result.reference else each.verdict
        missing = each.told.missing if each.told is not None else 0.0
        writer.writerow([*row, each.tokens_per_second, missing, verdict])
    return out.getvalue()


def told(each: CandidateQuality) -> str:
    """What a server told of its odds and what that makes of the figures; empty for a local file."""
    found = each.told
    if found is None:
        return ""
    what = "the odds of the whole vocabulary" if found.whole else f"the {found.asked:,} likeliest tokens a position"
    if not found.asked:
        what = "the right token alone"
    words = [f"{found.software or 'the server'} told {what}"]
    if not found.whole:
        words.append(
            f"{100 * found.missing:.2g} % of the odds are missing, so the divergence is a lower bound"
            + (f" (and the perplexity: {found.hidden:,} right tokens were not told)" if found.hidden else "")
        )
    words.append(f"{found.requests:,} requests in {numbers.seconds(found.seconds)}")
    return "; ".join(words) + "."


def _cell(text: str) -> str:
    """A text from outside, which a spreadsheet would take for a formula if it began like one."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def badge(each: CandidateQuality, reference: CandidateQuality, tokens: int) -> str:
    """One line of Markdown that says what a file costs."""
    agreed = f", same first choice {numbers.percent(each.top1)}" if each.top1 is not None else ""
    return (
        f"**{each.label}**: KL divergence {'at least ' if each.at_least else ''}{numbers.interval(each.kld.mean)} nats"
        f"{agreed} against {reference.label or PurePath(reference.path).name} "
        f"({tokens:,} tokens; measured with Quench)"
    )


__all__ = ["badge", "csv_table", "told"]
