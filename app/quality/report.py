"""One HTML file that shows whether the quantized models are still good, and its JSON twin.

The page needs nothing beside itself: styles and charts are inside, light or dark follows the reader's system, and it
prints. Everything that came from a model, a file name or a person is escaped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import msgspec

from app.measure_messages import (
    HISTOGRAM_EDGES,
    BenchResult,
    CandidateQuality,
    Estimate,
    FingerprintUse,
    ModelBench,
    PassageToken,
    QualityResult,
    Shift,
    SpeedPoint,
)
from app.quality import figures, numbers, report_tasks, svg
from app.quality.html_parts import badge, base_name, file_name, model_label, named_badge, table
from converter.spec import OutputDone
from resources import path as resource

VERDICTS = {"pass": ("good", "✓", "Pass"), "review": ("warn", "?", "Review"), "fail": ("bad", "✕", "Fail")}


PASSAGES, BEFORE = 3, 160
"""Of each candidate, and characters of the text before one."""

STRONG, FAINT = 2.0, 12
"""Nats that have the full shade, and per cent of it below which a word has none; the scale is a square root."""


TWINS = (".json", ".csv")
"""What is written beside a report, under its name."""

_TWIN_BEGINS = {".json": b'{"quality": {', ".csv": b"file,type,kv,bytes,"}
_MOST_NAMES = 1000


class Reply(msgspec.Struct, frozen=True):
    """What one model (by name) answered to a question."""

    model: str
    text: str
    tokens_per_second: float = 0.0


class Answers(msgspec.Struct, frozen=True):
    """One question and every model's answer to it, the reference's first."""

    question: str
    replies: tuple[Reply, ...]


class Facts(msgspec.Struct, frozen=True):
    """Where the figures come from: lines such as ``("Processor", "...")`` for the foot of the report."""

    lines: tuple[tuple[str, str], ...] = ()
    date: str = ""


def facts_here() -> Facts:
    """Today, this machine, and the versions that measure on it."""
    import kernels  # not for the window, which renders nothing
    from app import hardware

    lines = (
        ("Processor", hardware.cpu_name()),
        ("Kernels", kernels.active()),
        ("Engine", f"llama-cpp-python {version('llama-cpp-python')}"),
        ("Quench", version("quench-studio")),
    )
    return Facts(lines, time.strftime("%Y-%m-%d"))


def twin_place(report: Path, suffix: str) -> Path:
    """Where the ``suffix`` twin of a report goes: beside it under its name, but never in the place of another file.

    Only the twin of an earlier report is replaced; where something else has the name (the output of the very command,
    for one, which is still empty), ``name.report.json`` is taken, or one with a number. ``OSError`` if none is free.
    """
    names = [report.stem, f"{report.stem}.report", *(f"{report.stem}.report-{n}" for n in range(2, _MOST_NAMES))]
    for name in names:
        place = report.with_name(name + suffix)
        try:
            with place.open("rb") as file:
                if place.is_file() and file.read(len(_TWIN_BEGINS[suffix])) == _TWIN_BEGINS[suffix]:
                    return place
        except FileNotFoundError:
            return place
    raise OSError(f"{report.with_suffix(suffix)} and all names like it are taken.")


def document(
    result: QualityResult,
    bench: BenchResult | None = None,
    answers: Sequence[Answers] = (),
    outputs: Sequence[OutputDone] = (),
    facts: Facts | None = None,
) -> dict[str, Any]:
    """The same data as :func:`render` shows, ready for ``json.dumps``."""
    return {
        "quality": msgspec.to_builtins(result),
        "bench": msgspec.to_builtins(bench),
        "answers": msgspec.to_builtins(list(answers)),
        "outputs": msgspec.to_builtins(list(outputs)),
        "facts": msgspec.to_builtins(facts or Facts()),
    }


def render(
    result: QualityResult,
    bench: BenchResult | None = None,
    answers: Sequence[Answers] = (),
    outputs: Sequence[OutputDone] = (),
    facts: Facts | None = None,
    *,
    title: str = "",
) -> str:
    """The report as one HTML document. ``result`` decides its order; all else is shown where it is given."""
    facts = facts or Facts()
    reference, candidates = result.reference, result.candidates
    heading = title or f"How much quality did {base_name(reference)} lose?"
    sections = [
        _verdicts(result),
        _section("Size against quality", _pareto(result), _PARETO_NOTE),
        _section("All figures", _main_table(result), _TABLE_NOTE),
        _section("Tasks solved", report_tasks.solved(result), report_tasks.NOTE),
        _section("Tasks that flipped", report_tasks.flipped(result), report_tasks.FLIP_NOTE),
        _section("By kind of text", _slices(result), ""),
        _section("How the divergence is spread", _spread(candidates), _SPREAD_NOTE),
        _section("Along the window", _positions(candidates), ""),
        _section("From layer to layer", _layers(candidates), _LAYER_NOTE),
        _section("Where it went worst", _passages(candidates), _PASSAGE_NOTE),
        _section("Speed", _speed(result, bench), _speed_note(bench)),
        _section("The same questions", _answers(answers), "Greedy answers: always the most likely token."),
        _section("Files", _files(outputs), ""),
        _section("In one line", _badges(result), "To be pasted into a model card."),
        _section("How it was measured", _method(result, facts), ""),
    ]
    style = resource("report.css").read_text("utf-8")
    about = " · ".join(
        words
        for words in (
            f"Reference {file_name(reference)}",
            f"{result.tokens:,} scored tokens" if result.tokens else "",
            f"texts: {', '.join(result.texts)}",
            facts.date,
        )
        if words
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(heading)}</title><style>{style}</style></head><body><main>"
        f'<header><p class="brand">Quench</p><h1>{escape(heading)}</h1><p class="muted">{escape(about)}</p></header>'
        + "".join(sections)
        + "</main></body></html>\n"
    )


# ---- parts -----------------------------------------------------------------------------------------------------


def _section(title: str, content: str, note: str) -> str:
    if not content:
        return ""
    foot = f'<p class="note">{note}</p>' if note else ""
    return f'<section><h2>{escape(title)}</h2><div class="card">{content}{foot}</div></section>'


def _verdicts(result: QualityResult) -> str:
    cards = []
    for each in result.candidates:
        css, mark, word = VERDICTS.get(each.verdict, ("warn", "?", each.verdict))
        share = each.bytes / result.reference.bytes if result.reference.bytes else 0.0
        smaller = f" · {100 * share:.0f} % of the reference" if share else ""
        cards.append(
            f'<article class="verdict"><div class="row">{named_badge(each)}'
            f'<span class="pill {css}"><span aria-hidden="true">{mark}</span> {escape(word)}</span></div>'
            f'<p class="big">{_least(each)}{escape(numbers.interval(each.kld.mean))}'
            f'<span class="unit"> nats KLD</span></p>'
            f'<p class="muted">{numbers.size(each.bytes) if each.bytes else "served"}{smaller}</p>'
            f"<p>{escape(each.reason)}</p>{_told(each)}</article>"
        )
    cards.extend(
        f'<article class="verdict"><div class="row"><strong>{escape(PurePath(failure.path).name)}</strong>'
        f'<span class="pill bad"><span aria-hidden="true">!</span> Not measured</span></div>'
        f"<p>{escape(failure.title)}</p>"
        f'<p class="muted">{escape(failure.detail)} {escape(failure.hint)}</p></article>'
        for failure in result.failures
    )
    return f'<section aria-label="Verdicts"><div class="verdicts">{"".join(cards)}</div></section>' if cards else ""


def _least(each: CandidateQuality) -> str:
    """In front of a divergence: nothing, or a sign that it is a lower bound."""
    return numbers.AT_LEAST if each.at_least else ""


def _told(each: CandidateQuality) -> str:
    return f'<p class="muted">{escape(figures.told(each))}</p>' if each.told is not None else ""


_PARETO_NOTE = (
    "Down and to the left is better. The line joins the files that no other beats in both size and divergence. "
    "Bars are 95 % intervals."
)


def _pareto(result: QualityResult) -> str:
    points = [
        svg.Point(model_label(each), each.type, each.bytes, each.kld.mean.value, numbers.Z95 * each.kld.mean.error)
        for each in result.candidates
        if each.bytes and not each.at_least
    ]
    reference = result.reference
    return svg.pareto(points, (f"{model_label(reference)} (reference)", reference.bytes) if reference.bytes else None)


_TABLE_NOTE = (
    "KLD: how far the next-token odds are from the reference's, in nats; 0 is equal. KLD reverse: the same the other "
    "way round. First choice: how often both put the same token first; same five: how much of the five likeliest "
    "tokens is the same. Perplexity: how surprised the model is by the text; lower is better. ln ratio: the logarithm "
    "of its perplexity over the reference's; 0 is no change. Δp RMS: the usual change of the right token's "
    "probability; Δp 5 % to 95 %: the range of nine tenths of these changes. Values are shown with half of their 95 % "
    "interval; that of the perplexity itself treats tokens as independent, as llama-perplexity does."
)


def _main_table(result: QualityResult) -> str:
    """Two tables that fit a page: how far from the reference, and how good and fast by themselves."""
    models = [(each, each is result.reference) for each in (result.reference, *result.candidates)]
    far = (
        "Model", "Size", "KLD mean", "KLD median", "KLD 99 %", "KLD max", "KLD reverse", "First choice", "Same five",
        "Δp RMS", "Δp 5 % to 95 %", "Verdict",
    )  # fmt: skip
    asked = any(each.tasks for each, _ in models)
    alone = ("Model", "Perplexity", "ln ratio", *(["Tasks"] if asked else []), "Tokens/s", "Memory")
    return table(far, [_far_row(*each) for each in models]) + table(
        alone, [_alone_row(*each, asked) for each in models]
    )


def _far_row(each: CandidateQuality, reference: bool) -> list[str]:
    css, _, word = VERDICTS.get(each.verdict, ("", "", each.verdict))
    least = _least(each)
    cells = [
        f"<strong>{least}{_stacked(numbers.interval(each.kld.mean))}</strong>",
        least + _stacked(numbers.interval(each.kld.median)),
        least + _stacked(numbers.interval(each.kld.p99)),
        least + numbers.number(each.kld.max.value),
        _stacked(numbers.interval(each.reverse_kld)) if each.reverse_kld else numbers.NONE,
        *(_stacked(numbers.percent(part)) if part else numbers.NONE for part in (each.top1, each.top5, each.rms_dp)),
        _range(each.shift),
        f'<span class="{css}">{escape(word)}</span>',
    ]
    name = named_badge(each) + ('<br><span class="half">reference</span>' if reference else "")
    size = numbers.size(each.bytes) if each.bytes else numbers.NONE
    return [name, size, *("" if reference else cell for cell in cells)]


def _alone_row(each: CandidateQuality, reference: bool, asked: bool) -> list[str]:
    n = sum(score.n for score in each.tasks.values())
    solved = sum(score.correct for score in each.tasks.values())
    memory = each.memory.anonymous + each.memory.weights
    hidden = numbers.AT_LEAST if each.told is not None and each.told.hidden else ""
    return [
        named_badge(each),
        hidden + _stacked(numbers.interval(each.perplexity)),
        "" if reference else hidden + _stacked(_signed(each.ln_ratio)),
        *([f"{100 * solved / n:.1f} %" if n else numbers.NONE] if asked else []),
        numbers.rate(each.tokens_per_second),
        numbers.size(memory) if memory else numbers.NONE,
    ]


def _range(shift: Shift | None) -> str:
    """The middle 90 % of the changes."""
    if shift is None:
        return numbers.NONE
    return f"{100 * shift.p5.value:+.1f} to<br>{100 * shift.p95.value:+.1f} %"


def _stacked(interval: str) -> str:
    """``value ± half`` on two lines, the interval quieter."""
    value, _, half = escape(interval).partition(" ± ")
    if not half:
        return value
    unit = " %" if half.endswith(" %") else ""
    return f'{value}{unit}<br><span class="half">± {half.removesuffix(" %")}</span>'


def _signed(estimate: Estimate) -> str:
    text = numbers.interval(estimate)
    return text if text.startswith("-") else f"+{text}"


def _slices(result: QualityResult) -> str:
    names = list(dict.fromkeys(name for each in result.candidates for name in each.slices))
    if not names:
        return ""
    head = (
        "Text",
        "Tokens",
        f"Perplexity of {model_label(result.reference)}",
        *(model_label(each) for each in result.candidates),
    )
    rows = []
    for name in names:
        before = result.reference.slices.get(name)
        row = [
            escape(name),
            f"{before.tokens:,}" if before else "",
            numbers.interval(before.perplexity) if before else "",
        ]
        for each in result.candidates:
            part = each.slices.get(name)
            css = VERDICTS[part.verdict][0] if part and part.verdict in VERDICTS else ""
            row.append(
                f'<span class="{css}">{_least(each)}{_stacked(numbers.interval(part.kld))}</span>'
                + (f'<br><span class="muted">{100 * part.top1.value:.1f} %</span>' if part.top1 else "")
                if part
                else numbers.NONE
            )
        rows.append(row)
    note = '<p class="note">Mean KL divergence in nats, below it the share of equal first choices.</p>'
    return table(head, rows) + note


_SPREAD_NOTE = (
    "How many tokens have which divergence, on a log scale; each row has its own height. A good file has its hill far "
    "to the left and no shoulder at the right."
)


def _spread(candidates: Sequence[CandidateQuality]) -> str:
    series = [svg.Series(model_label(each), each.type, each.histogram) for each in candidates if each.histogram]
    return svg.ridges(series, HISTOGRAM_EDGES, "Histogram of the KL divergence of single tokens")


def _positions(candidates: Sequence[CandidateQuality]) -> str:
    series = [svg.Series(model_label(each), each.type, each.by_position) for each in candidates if each.by_position]
    if not series:
        return ""
    labels = [str(part + 1) for part in range(len(series[0].values))]
    return svg.lines(
        series, labels, "Mean KL divergence by position", "part of the scored half of the window, start to end"
    )


_LAYER_NOTE = (
    "Relative error of the hidden state after each layer, on the same text. Each passes on the errors of those before "
    "it; a jump shows the first layer that suffers."
)


def _layers(candidates: Sequence[CandidateQuality]) -> str:
    series = [svg.Series(model_label(each), each.type, each.drift) for each in candidates if each.drift]
    if not series:
        return ""
    labels = [str(layer) for layer in range(max(len(each.values) for each in series))]
    return svg.lines(series, labels, "Relative error of the hidden state by layer", "layer", unit="")


_PASSAGE_NOTE = (
    "For each file the stretches of text on which it is farthest from the reference. The darker a word, the larger the "
    "divergence at it; rest on a word to read what both expected there."
)


def _passages(candidates: Sequence[CandidateQuality]) -> str:
    blocks = []
    for each in candidates:
        for number, passage in enumerate(each.passages[:PASSAGES]):
            place = (
                f"{PurePath(passage.text).name}, window {passage.window + 1}, tokens {passage.position + 1} to "
                f"{passage.position + len(passage.tokens)}: {numbers.number(passage.kld, 2)} nats on average"
            )
            head = f'<h3 class="row">{badge(each.type)}</h3>' if number == 0 else ""
            words = "".join(_word(token) for token in passage.tokens)
            before = escape(passage.before[-BEFORE:])
            blocks.append(
                f'{head}<p class="note">{escape(place)}</p>'
                f'<blockquote class="passage"><span class="muted">{before}</span>{words}</blockquote>'
            )
    return "".join(blocks)


def _word(token: PassageToken) -> str:
    strength = round(100 * min(1.0, (token.kld / STRONG) ** 0.5))
    if strength < FAINT:
        return escape(token.text)
    about = (
        f"{numbers.number(token.kld, 2)} nats. The reference expected “{token.reference_first}” with "
        f"{100 * token.reference_first_probability:.0f} %, this file “{token.first}” with "
        f"{100 * token.first_probability:.0f} %; what came had {100 * token.reference_probability:.0f} % and "
        f"{100 * token.probability:.0f} %."
    )
    return f'<span class="kld" style="--kld:{strength}%" title="{escape(about)}">{escape(token.text)}</span>'


def _speed_note(bench: BenchResult | None) -> str:
    if bench is None:
        return "Tokens a second while answering, measured briefly when each model was loaded."
    return (
        "Median of the runs with the number of threads that is fastest here; thin lines span the 10th to the 90th "
        f"percentile. A small model can stay in the processor's caches and pass 100 %. {escape(bench.cpu)}"
    )


def _speed(result: QualityResult, bench: BenchResult | None) -> str:
    types = {each.path: each.type for each in (result.reference, *result.candidates)}
    if bench is None:
        series = [
            svg.Series(model_label(each), each.type, [each.tokens_per_second])
            for each in (result.reference, *result.candidates)
            if each.tokens_per_second > 0
        ]
        return svg.horizontal_bars(series, "Tokens a second while answering", "tokens/s")
    series = []
    for model in bench.models:
        point = _fastest(model.generate)
        if point is not None:
            speed, kind = point.tokens_per_second, types.get(model.path, "")
            label = kind or PurePath(model.path).stem
            series.append(svg.Series(label, kind, [speed.median], [speed.p10], [speed.p90]))
    chart = svg.horizontal_bars(series, "Tokens a second while answering", "tokens/s")
    return chart + _bench_table(bench, types)


def _fastest(points: Sequence[SpeedPoint]) -> SpeedPoint | None:
    """The number of threads that is fastest at the smallest depth."""
    return max(points, key=lambda point: (-point.depth, point.tokens_per_second.median), default=None)


def _bench_table(bench: BenchResult, types: dict[str, str]) -> str:
    head = (
        "Model",
        "Load, cold",
        "Load, warm",
        "First token",
        "Prompt, tokens/s",
        "Answer, tokens/s",
        "Memory, peak",
        "Of the memory bandwidth",
    )
    return table(head, [_bench_row(model, types) for model in bench.models])


def _bench_row(model: ModelBench, types: dict[str, str]) -> list[str]:
    def median(points: Sequence[SpeedPoint]) -> str:
        best = _fastest(points)
        return numbers.rate(best.tokens_per_second.median) if best else numbers.NONE

    name = types.get(model.path, "")
    return [
        badge(name) if name else escape(PurePath(model.path).name),
        numbers.seconds(model.load_cold),
        numbers.seconds(model.load_warm),
        numbers.seconds(model.first_token),
        median(model.prompt),
        median(model.generate),
        numbers.size(model.memory.peak),
        f"{100 * model.roofline.fraction:.0f} %" if model.roofline.fraction > 0 else numbers.NONE,
    ]


def _answers(answers: Sequence[Answers]) -> str:
    """One card for each different answer, the reference's first, with all models that gave it."""
    blocks = []
    for each in answers:
        groups: dict[str, list[Reply]] = {}
        for reply in each.replies:
            groups.setdefault(reply.text.strip(), []).append(reply)
        cards = "".join(_reply(text, replies, number == 0) for number, (text, replies) in enumerate(groups.items()))
        blocks.append(f'<h3>{escape(each.question)}</h3><div class="replies">{cards}</div>')
    return "".join(blocks)


def _reply(text: str, replies: Sequence[Reply], has_reference: bool) -> str:
    named, others = (replies[:1], replies[1:]) if has_reference else (replies, replies[:0])
    mark = '<span class="muted">reference</span>' if has_reference else '<span class="warn">other words</span>'
    same = ""
    if others:
        names = ", ".join(escape(reply.model) for reply in others)
        same = f'<p class="note"><span class="good">The same words:</span> {names}</p>'
    head = ", ".join(escape(reply.model) for reply in named)
    return (
        f'<div class="reply"><p class="row"><strong>{head}</strong>{mark}</p>'
        f"<blockquote>{escape(text) or '<em>no answer</em>'}</blockquote>{same}</div>"
    )


def _badges(result: QualityResult) -> str:
    lines = [figures.badge(each, result.reference, result.tokens) for each in result.candidates]
    return "".join(f"<p><code>{escape(line)}</code></p>" for line in lines)


def _files(outputs: Sequence[OutputDone]) -> str:
    head = ("File", "Type", "Size", "Bits a weight", "Largest error")
    rows = []
    for output in outputs:
        worst = max(output.error.items(), key=lambda item: item[1], default=("", 0.0))
        error = f"{numbers.number(worst[1], 2)} in {escape(worst[0])}" if worst[1] > 0 else "none"
        rows.append(
            [
                escape(PurePath(output.path).name),
                badge(output.type),
                numbers.size(output.bytes),
                f"{output.bpw:.2f}",
                error,
            ]
        )
    return table(head, rows) if rows else ""


def _method(result: QualityResult, facts: Facts) -> str:
    half = result.context // 2
    lines = [
        ("Windows", f"{result.context} tokens each; tokens {half + 1} to {result.context - 1} of a window are scored."),
        (
            "Errors",
            "Windows, not tokens, are taken as independent: cluster-robust errors for means, a bootstrap over windows "
            "for quantiles.",
        ),
        ("Texts", ", ".join(result.texts)),
        *([("Id of the windows", result.texts_id)] if result.texts_id else []),
        *((f"Id of {file_name(each)}", each.content) for each in _models(result) if each.content),
        ("Time", numbers.seconds(result.seconds)),
        *([("Notes", " ".join(result.notes))] if result.notes else []),
        *([("Reference", _saved(result.fingerprint))] if result.fingerprint is not None else []),
        *facts.lines,
    ]
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in lines)
    return f"<dl>{items}</dl>"


def _models(result: QualityResult) -> list[CandidateQuality]:
    """The models, each file once."""
    return list({each.path: each for each in (result.reference, *result.candidates)}.values())


def _saved(use: FingerprintUse) -> str:
    if use.written:
        return f"Its answers were saved as {PurePath(use.path).name} ({numbers.size(use.bytes)})."
    how = "its output matrix gives the odds of the whole vocabulary"
    if not use.exact:
        how = "sampled odds, without its output matrix: a mean divergence is right to some tenths of a per cent"
    return f"{use.name} by its answers, saved in {PurePath(use.path).name}: {how}."
