"""The sections of a report about graded tasks: what was solved by slice, and what flipped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.measure_messages import CandidateQuality, QualityResult, TaskFlip, TaskScore, TaskShift
from app.quality import numbers, svg
from app.quality.html_parts import badge, legend, model_label, table

NOTE = (
    "Share of tasks solved, answered greedily; bars are 95 % Wilson intervals. Of multiple choices the likeliest "
    "counts (acc), or where the choices are whole answers the likeliest relative to its length (acc_norm). Lost and "
    "gained are against the reference; p is McNemar's exact test: below 0.05 it is hardly chance."
)
FLIP_NOTE = "Tasks that only one of the two models solved. The JSON file beside this report has all that were kept."
FEW_GROUPS = 6
SHOWN_FLIPS = 40
"""Of each model; the JSON twin has the others."""


def solved(result: QualityResult) -> str:
    """Chart and table by slice; nothing if no tasks were asked."""
    models = [each for each in (result.reference, *result.candidates) if each.tasks]
    if not models:
        return ""
    groups = list(dict.fromkeys(group for each in models for group in each.tasks))
    series = [_series(each, groups) for each in models]
    chart = svg.grouped_bars if len(groups) <= FEW_GROUPS else svg.shares
    rows = [
        [escape(group), *(_cell(each.tasks.get(group), each.task_shifts.get(group)) for each in models)]
        for group in groups
    ]
    if len(groups) > 1:
        rows.append(["<strong>all</strong>", *(_cell(_total(each), each.task_shift) for each in models)])
    head = ("Tasks", *(model_label(each) for each in models))
    return (
        legend(models)
        + chart(groups, series, "Share of tasks solved, by slice and model")
        + table(head, rows)
        + _notes(result)
    )


def _series(each: CandidateQuality, groups: Sequence[str]) -> svg.Series:
    scores = [each.tasks.get(group, TaskScore(0, 0)) for group in groups]
    shares = [score.correct / score.n if score.n else 0.0 for score in scores]
    ends = [score.interval for score in scores]
    return svg.Series(model_label(each), each.type, shares, [low for low, _ in ends], [high for _, high in ends])


def _total(each: CandidateQuality) -> TaskScore:
    scores = each.tasks.values()
    return TaskScore(sum(score.n for score in scores), sum(score.correct for score in scores))


def _cell(score: TaskScore | None, shift: TaskShift | None) -> str:
    if score is None or not score.n:
        return numbers.NONE
    low, high = score.interval
    text = f'{score.correct} of {score.n}<br><span class="half">{100 * low:.0f} to {100 * high:.0f} %</span>'
    if shift is not None and shift.lost + shift.gained:
        text += f'<br><span class="half">−{shift.lost} +{shift.gained}, p {numbers.probability(shift.p)}</span>'
    if score.choices is not None:
        both = f"acc {score.choices.acc}, acc_norm {score.choices.acc_norm} of {score.choices.n}"
        text += f'<br><span class="half">{both}</span>'
    return text


def _notes(result: QualityResult) -> str:
    notes = []
    if result.reference.tasks_asked == "plain":
        notes.append("The model has no chat template: tasks were asked in plain text, after three examples.")
    if result.tasks_left_out:
        notes.append(f"{result.tasks_left_out} tasks that are longer than the model's context were left out.")
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def flipped(result: QualityResult) -> str:
    """For each candidate a list to unfold; nothing if no task flipped."""
    return "".join(_of_model(each) for each in result.candidates if each.flips)


def _of_model(each: CandidateQuality) -> str:
    shown = each.flips[:SHOWN_FLIPS]
    shift = each.task_shift
    lost = shift.lost if shift else sum(not flip.gained for flip in each.flips)
    gained = shift.gained if shift else sum(flip.gained for flip in each.flips)
    more = f" (the first {len(shown)} are shown)" if max(lost + gained, len(each.flips)) > len(shown) else ""
    head = f"{badge(model_label(each))} {lost} lost, {gained} gained{more}"
    flips = "".join(_flip(flip, model_label(each)) for flip in shown)
    return f'<details class="flips"><summary>{head}</summary>{flips}</details>'


def _flip(flip: TaskFlip, name: str) -> str:
    css, mark, word = ("good", "▲", "gained") if flip.gained else ("bad", "▼", "lost")
    replies = "".join(
        f'<div class="reply"><p class="row"><strong>{escape(who)}</strong>'
        f'<span class="{"good" if right else "bad"}">{"right" if right else "wrong"}</span></p>'
        f"<blockquote>{escape(text) or '<em>nothing</em>'}</blockquote></div>"
        for who, text, right in (
            ("Reference", flip.reference, not flip.gained),
            (name, flip.candidate, flip.gained),
        )
    )
    return (
        f'<div class="flip"><p><span class="{css}">{mark} {word}</span> '
        f'<span class="muted">{escape(flip.category)}</span></p>'
        f'<blockquote>{escape(flip.prompt)}</blockquote><p class="muted">Expected: {escape(flip.expected)}</p>'
        f'<div class="replies">{replies}</div></div>'
    )


__all__ = ["FLIP_NOTE", "NOTE", "flipped", "solved"]
