"""What commands print for people: tables of files, quality and speed, from the same structs that ``--json`` shows."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from app import console
from app.history import Change, Series, texts_in_words
from app.measure_messages import (
    BenchResult,
    CandidateQuality,
    Experts,
    FingerprintUse,
    ImatrixDescription,
    ImatrixResult,
    ImatrixStatistics,
    MethodsResult,
    QualityResult,
    SensitivityResult,
)
from app.quality import figures
from app.quality.figures import told
from app.quality.numbers import Z95
from converter.difference import (
    DIFFERENT,
    ONLY_FIRST,
    ONLY_SECOND,
    SAME,
    SAME_VALUES,
    SHAPE,
    ComparisonDone,
    MetadataDifference,
    MetadataValue,
    TensorDifference,
)
from converter.spec import Plan

if TYPE_CHECKING:
    from app.fit_messages import Fitted


def files(made: Sequence[tuple[str, str, int, float]]) -> str:
    """``(path, type, bytes, bits a weight)`` of each file."""
    rows = [(path, kind, console.size(count), f"{bpw:.2f}") for path, kind, count, bpw in made]
    return console.table(("file", "type", "size", "bits/weight"), rows)


def plan_data(plan: Plan) -> dict[str, Any]:
    """The ``quench convert --dry-run --json`` object of a plan."""
    return {
        "outputs": [
            {
                "path": output.path,
                "type": output.type,
                "bytes": output.bytes,
                "bpw": output.bpw,
                "tensors": {tensor.name: tensor.type for tensor in output.tensors},
                "reasons": {tensor.name: tensor.reason for tensor in output.tensors if tensor.reason},
                "files": list(output.all_files),
                "rules": msgspec.to_builtins(output.rules),
            }
            for output in plan.outputs
        ],
        "read_bytes": plan.read_bytes,
        "disk_needed": plan.disk_needed,
        "disk_free": plan.disk_free,
        "memory_needed": plan.memory_needed,
        "seconds": plan.seconds,
        "warnings": list(plan.warnings),
    }


def plan(plan: Plan) -> str:
    """What a conversion would make, need and take."""
    lines = [files([(o.path, o.type, o.bytes, o.bpw) for o in plan.outputs])]
    lines += [f"{o.type}: {len(o.files)} files" for o in plan.outputs if o.files]
    rules = [
        (f"{rule.pattern}={rule.type}", o.type, str(rule.matches), str(rule.wins))
        for o in plan.outputs
        for rule in o.rules
    ]
    if rules:
        lines.append(console.table(("rule", "in", "matches", "decides"), rules))
    needs = f"needs {console.size(plan.disk_needed)} of disk ({console.size(plan.disk_free)} free)"
    needs += f", {console.size(plan.memory_needed)} of memory"
    if plan.seconds is not None:
        needs += f", about {console.duration(plan.seconds)}"
    return "\n".join([*lines, needs, *(f"warning: {text}" for text in plan.warnings)])


DEAREST = 5
"""Fitted tensors that are named with what they cost."""


def fit_data(found: Fitted) -> dict[str, Any]:
    """The ``quench fit --json`` object."""
    data: dict[str, Any] = {}
    if found.conversion is not None:
        data = msgspec.to_builtins(found.conversion)
        data.pop("message", None)
    plan = found.plan
    data |= {
        "budget": found.budget.file,
        "bpw": found.budget.bpw,
        "standard": found.budget.standard,
        "types": {tensor.name: tensor.type for tensor in plan.tensors},
        "why": {tensor.name: tensor.reason for tensor in plan.tensors},
        "measured": plan.measured,
        "predicted": plan.predicted if plan.measured else None,
        "predicted_kld": sum(domain.fitted for domain in plan.domains) / len(plan.domains) if plan.domains else None,
        "ratio": plan.ratio if plan.measured else None,
        "types_ratio": plan.types_ratio if plan.measured else None,
        "feedback": [tensor.name for tensor in plan.tensors if tensor.fed],
        "repaired": plan.repaired,
        "refined": plan.refined,
        "shared": plan.shared,
        "gap": plan.gap if plan.measured else None,
        "kept": "fitted" if plan.kept else "standard",
        "tokens_per_second": plan.speed or None,
        "predicted_tokens_per_second": plan.speed_predicted or None,
        "decided": plan.decided or None,
        "probes": plan.probes,
        "probes_known": plan.probes_known,
        "costs": [
            {
                "tensors": list(cost.tensors),
                "type": cost.type,
                "cost": {"value": cost.value, "error": cost.error},
                "windows": cost.windows,
            }
            for cost in plan.costs
        ],
        "domains": msgspec.to_builtins(plan.domains),
        "recipe": found.recipe,
    }
    return data


def fit(found: Fitted) -> str:
    """What was chosen, and how it compares."""
    plan, budget = found.plan, found.budget
    counts = Counter(tensor.type for tensor in plan.tensors)
    rows = [
        (domain.name, f"{domain.fitted:.5f}", f"{domain.standard:.5f}", f"{domain.fitted / domain.standard:.2f}")
        for domain in plan.domains
    ]
    at = f"{console.size(plan.bytes)} of tensors ({console.size(plan.standard_bytes)} in {budget.standard})"
    if plan.measured:
        kept = "the fitted types are kept" if plan.kept else f"no gain, {budget.standard} is kept"
        lines = [
            console.table(("text that no step saw", "fitted", budget.standard, "ratio"), rows),
            f"{plan.ratio:.2f} of {budget.standard}'s divergence at {at}: {kept}",
        ]
    else:
        how = (
            f"{budget.standard} with types exchanged by rule of thumb"
            if plan.kept
            else f"the types of {budget.standard}"
        )
        lines = [f"not measured: {how}, {at}; quench quality says what it costs"]
    lines.append(", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items())))
    dearest = sorted(plan.tensors, key=lambda tensor: -tensor.cost)[:DEAREST]
    lines += [f"{each.name}  {each.type}  {each.reason.split('; ')[0]}" for each in dearest if each.cost > 0]
    fed = sum(tensor.fed for tensor in plan.tensors)
    if fed:
        alone = f"the types alone: {plan.types_ratio:.2f}"
        repaired = f", {plan.repaired} of them put back what others have moved" if plan.repaired else ""
        lines.append(f"{fed} of {len(plan.tensors)} tensors with error feedback{repaired}; {alone}")
    if plan.refined:
        lines.append(f"refined blocks; the types alone: {plan.types_ratio:.2f}")
    if plan.speed:
        lines.append(
            f"{plan.speed:.1f} tokens/s with {plan.speed_threads} threads, {plan.speed_predicted:.1f} predicted; "
            + {"size": "the size decided", "speed": "the speed decided", "both": "size and speed decided"}[plan.decided]
        )
    if plan.shared:
        lines.append("layers share types for want of time: more --minutes choose each tensor's by itself")
    if found.conversion is not None:
        lines += [
            f"{output.path}  {console.size(output.bytes)}, {output.bpw:.2f} bits a weight"
            for output in found.conversion.outputs
        ]
        lines.append(f"{found.recipe}  the recipe")
    return "\n".join(lines)


def quality_data(result: QualityResult) -> dict[str, Any]:
    """The ``quench quality --json`` object of a QualityResult."""
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    for candidate, found in zip(data["candidates"], result.candidates, strict=True):
        candidate["kld"]["error"] = candidate["kld"]["mean"]["error"]
        candidate["badge"] = figures.badge(found, result.reference, result.tokens)
    models = (result.reference, *result.candidates)
    for shown, item in zip((data["reference"], *data["candidates"]), models, strict=True):
        shifts = shown.pop("task_shifts")
        for name, score in item.tasks.items():
            shown["tasks"][name] |= {"interval": list(score.interval), **_shift(shifts.get(name))}
        shown["task_shift"] = _shift(shown["task_shift"]) or None
    return data


def _shift(shift: dict[str, Any] | None) -> dict[str, Any]:
    """What a candidate lost and gained, without the number of tasks, which stands beside it."""
    return {} if shift is None else {key: shift[key] for key in ("lost", "gained", "p")}


def quality(result: QualityResult) -> str:
    """One line a model, the reference first."""
    rows = []
    for item in (result.reference, *result.candidates):
        tasks = item.tasks.values()
        asked = sum(score.n for score in tasks)
        rows.append(
            (
                item.label,
                console.size(item.bytes) if item.bytes else "-",
                f"{'>= ' if hides(item) else ''}{item.perplexity.value:.3f} +- {item.perplexity.error:.3f}",
                f"{'>= ' if item.at_least else ''}{item.kld.mean.value:.5f} +- {item.kld.mean.error:.5f}",
                f"{item.top1.value:.1%}" if item.top1 is not None else "-",
                f"{sum(score.correct for score in tasks) / asked:.1%}" if asked else "-",
                f"{item.tokens_per_second:.0f}" if item.tokens_per_second else "-",
                "reference" if item is result.reference else item.verdict,
            )
        )
    header = ("type", "size", "perplexity", "KLD (nats)", "top-1", "tasks", "tokens/s", "verdict")
    parts = [console.table(header, rows)]
    if result.reference.tasks:
        parts += ["", _solved(result), *_task_notes(result)]
    parts += [f"{item.label}: {told(item)}" for item in result.candidates if item.told is not None]
    if result.fingerprint is not None:
        parts.append(fingerprint(result.fingerprint))
    return "\n".join([*parts, *result.notes])


def hides(item: CandidateQuality) -> bool:
    """Whether the perplexity is a lower bound."""
    return item.told is not None and item.told.hidden > 0


def _solved(result: QualityResult) -> str:
    """Solved tasks: a line a slice, a column a model; of candidates how many were lost and gained."""
    models = (result.reference, *result.candidates)
    rows = []
    for name, before in result.reference.tasks.items():
        row = [name, str(before.n)]
        for item in models:
            score, shift = item.tasks.get(name), item.task_shifts.get(name)
            low, high = score.interval if score else (0.0, 1.0)
            changed = f" -{shift.lost}+{shift.gained}" if shift and shift.lost + shift.gained else ""
            row.append(f"{score.correct / score.n:.0%} ({low:.0%} to {high:.0%}){changed}" if score else "-")
        rows.append(tuple(row))
    return console.table(("slice", "tasks", *(item.label or PurePath(item.path).stem for item in models)), rows)


def _task_notes(result: QualityResult) -> list[str]:
    notes = ["Solved tasks with 95 % intervals; -lost+gained against the reference."]
    for item in result.candidates:
        shift = item.task_shift
        if shift is not None:
            notes.append(
                f"{item.label}: {shift.lost} lost, {shift.gained} gained of {shift.n}, McNemar's p {shift.p:.3g}"
            )
    if result.reference.tasks_asked == "plain":
        notes.append("The model has no chat template: it was asked in plain text, after three examples.")
    if result.tasks_left_out:
        notes.append(f"{_count(result.tasks_left_out, 'task', 'tasks')} longer than the model's context left out.")
    return notes


def fingerprint(use: FingerprintUse) -> str:
    """What was saved of a reference, or what stood for it, in a line."""
    if use.written:
        whole = "with its output matrix" if use.matrix else "without its output matrix"
        return (
            f"Saved: {use.path}, {console.size(use.bytes)} {whole}; llama-perplexity's base file takes "
            f"{console.size(use.base_bytes)}, {use.base_bytes / use.bytes:.0f} times that."
        )
    how = f"the whole vocabulary, by the output matrix in {use.matrix}"
    if not use.exact:
        how = "sampled odds, since no file at hand has its output matrix: mean KLD to some tenths of a per cent"
    return f"The reference is {use.name} as saved in {use.path}: {how}."


def history_data(found: Sequence[Series]) -> dict[str, Any]:
    """The ``quench quality --history --json`` object."""
    data: list[dict[str, Any]] = msgspec.to_builtins(list(found))
    for series in data:
        changes = [*series.pop("changes"), None]
        for result, change in zip(series["results"], changes, strict=True):
            result.pop("windows")
            result["change"] = change
    return {"history": data}


def history(found: Sequence[Series]) -> str:
    """Series under their headings: what may be compared stands together."""
    parts = []
    for series in found:
        texts = history_texts(series)
        parts.append(
            f"{PurePath(series.path).name}{f', {series.kv} cache' if series.kv else ''} against "
            f"{PurePath(series.reference).name}: {texts}, windows of {series.context}, {series.machine}"
        )
        rows = []
        for past, change in zip_longest(series.results, series.changes):
            rows.append(
                (
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(past.when)),
                    f"{past.kld.value:.5f} +- {past.kld.error:.5f}",
                    _told_change(change),
                    f"{past.top1.value:.1%}",
                    str(past.tokens),
                    past.program or "-",
                    past.engine or "-",
                    past.verdict,
                )
            )
        header = ("measured", "KLD (nats)", "change", "top-1", "tokens", "Quench", "engine", "verdict")
        parts += [console.table(header, rows), ""]
    if not parts:
        return "Nothing was measured yet."
    return "\n".join([*parts, "Only results of the same texts, reference and machine stand together."])


def history_texts(series: Series) -> str:
    """The texts of a series; where only their names are known it says so."""
    return texts_in_words(series) + ("" if series.by_content else " (the same by name)")


def _told_change(change: Change | None) -> str:
    if change is None:
        return ""
    if not change.apart:
        return "not told apart"
    return f"{change.difference.value:+.5f} +- {change.difference.error:.5f}"


def sensitivity(result: SensitivityResult, most: int = 20) -> str:
    """The dearest tensors, and whether the costs add up."""
    rows = [
        (
            cost.name.removesuffix(".weight"),
            cost.type,
            console.size(cost.bytes),
            f"{cost.error:.2%}",
            f"{cost.kld.value:.6f} +- {cost.kld.error:.6f}",
            str(cost.windows),
        )
        for cost in result.costs[:most]
    ]
    lines = [console.table(("tensor", "type", "size", "error", "KLD alone (nats)", "windows"), rows)]
    if len(result.costs) > most:
        lines.append(f"and {len(result.costs) - most} more")
    total = sum(cost.kld.value for cost in result.costs)
    whole = result.whole
    lines.append(
        f"sum of all {total:.5f}, all together {whole.value:.5f} +- {whole.error:.5f} nats, "
        f"{result.windows} windows in {console.duration(result.seconds)}"
    )
    return "\n".join(lines)


def methods(result: MethodsResult) -> str:
    """A row a method, as in the table of methods."""
    rows = [
        (
            row.name,
            f"{row.bits:.2f}",
            f"{row.bpw:.2f}",
            f"{row.kld.value:.6f} +- {Z95 * row.kld.error:.6f}",
            f"{row.top1.value:.1%}",
            "simulated" if row.simulated else "here",
            ", ".join(row.engines),
        )
        for row in result.rows
    ]
    header = ("method", "bits", "bits/weight", "KLD (nats, 95 %)", "same first", "computed", "other programs")
    lines = [console.table(header, rows)]
    texts = list(result.texts)
    by_text = [(row.name, *(f"{row.slices[name].value:.6f}" for name in texts)) for row in result.rows]
    lines += ["", "KLD by text", console.table(("method", *texts), by_text), ""]
    lines += [f"{left.name} was left out. {left.reason}" for left in result.left_out]
    if result.floor is not None:
        lines.append(f"The same weights in 32 bits: {result.floor.value:.6f} nats; below it nothing is told apart.")
    lines.append(
        f"{result.windows} windows of {result.context} tokens, {result.tokens:,} scored, in "
        f"{console.duration(result.seconds)}. bits: of what is rounded; bits/weight: of the whole model."
    )
    lines.append("simulated: the method's arithmetic in 32-bit floats; its engine's own sums may differ a little.")
    return "\n".join(lines)


def imatrix(result: ImatrixResult, most: int = 12) -> str:
    """What was made, and the matrices whose inputs are the largest."""
    rest = len(result.statistics) - most
    lines = [_importance(result.statistics[:most])]
    if rest > 0:
        lines.append(f"and {rest} more (quench imatrix --show {result.path})")
    lines.append(
        f"{result.path}: {_count(result.entries, 'matrix', 'matrices')} from "
        f"{_count(result.chunks, 'window', 'windows')} ({result.tokens:,} tokens), perplexity "
        f"{result.perplexity.value:.2f} +- {result.perplexity.error:.2f}, {console.duration(result.seconds)}"
    )
    return "\n".join([*lines, *_reached(result.experts)])


def imatrix_file(found: ImatrixDescription) -> str:
    """Every matrix in a file, and what the file says of itself."""
    facts = [_count(found.entries, "matrix", "matrices")]
    if found.chunks:
        facts.append(_count(found.chunks, "window", "windows"))
    if found.chunk_size:
        facts.append(f"{found.chunk_size} tokens a window")
    if found.datasets:
        facts.append(f"from {', '.join(found.datasets)}")
    lines = [_importance(found.statistics), f"{found.path}: {', '.join(facts)}"]
    if found.checkpoint is not None:
        lines.append(f"not finished: {found.checkpoint.done} of {found.checkpoint.total} windows (--resume goes on)")
    return "\n".join([*lines, *_reached(found.experts)])


def _importance(statistics: Sequence[ImatrixStatistics]) -> str:
    rows = [
        (
            item.name.removesuffix(".weight"),
            f"{item.columns:,}",
            significant(item.total),
            significant(item.most),
            f"{item.active:.0%}",
            f"{item.evenness:.0%}",
            "-" if item.cosine is None else f"{item.cosine:.0%}",
        )
        for item in statistics
    ]
    header = ("matrix", "columns", "sum", "largest", "active", "evenness", "like the layer below")
    return console.table(header, rows)


def _reached(experts: Experts) -> list[str]:
    return [f"experts reached by the text: {experts.seen:,} of {experts.total:,}"] if experts.total else []


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def significant(value: float, figures: int = 3) -> str:
    """``12345.6`` -> ``12,346``; ``12.345`` -> ``12.3``; ``0.0012345`` -> ``0.00123``: never an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = min(max(figures - 1 - math.floor(math.log10(abs(value))), 0), 8)
    return f"{value:,.{digits}f}"


def bench(result: BenchResult) -> str:
    """One line a point: reading a prompt and writing, at each depth of context and number of threads."""
    rows = [
        (
            PurePath(model.path).name,
            what,
            str(point.depth),
            str(point.threads),
            f"{point.tokens_per_second.median:.1f}",
            f"{point.tokens_per_second.p10:.1f} to {point.tokens_per_second.p90:.1f}",
        )
        for model in result.models
        for what, points in (("prompt", model.prompt), ("generate", model.generate))
        for point in points
    ]
    return console.table(("model", "what", "depth", "threads", "tokens/s", "10 to 90 %"), rows)


def selftest(rows: Sequence[dict[str, Any]]) -> str:
    """One line a kernel and backend: how many types passed, and what did not."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["backend"], row["kernel"]), []).append(row)
    lines = []
    for (backend, kernel), found in groups.items():
        wrong = [f"{row['type']} {row['detail']}".strip() for row in found if not row["passed"]]
        told = f"{len(found)} ok" if not wrong else f"{len(wrong)} of {len(found)} WRONG: " + ", ".join(wrong[:3])
        lines.append((backend, kernel, told))
    widths = [max(len(line[place]) for line in lines) for place in (0, 1)]
    return "\n".join(f"{backend:{widths[0]}}  {kernel:{widths[1]}}  {told}" for backend, kernel, told in lines)


def kernel_bench(rows: Sequence[dict[str, Any]]) -> str:
    """One line a kernel, type, kind of data and backend."""
    lines = [
        (
            f"{row['kernel']} {row['type']}",
            row["data"],
            row["backend"],
            f"{row['million_weights_per_second']:.1f}",
            f"{row['gigabytes_per_second']:.2f}",
            f"{row['oracle_ratio']:.2f}x" if row["oracle_ratio"] else "-",
        )
        for row in rows
    ]
    return console.table(("kernel", "data", "backend", "Mweights/s", "GB/s", "against llama.cpp"), lines)


def comparison_data(
    done: ComparisonDone, metadata: Sequence[MetadataDifference], tensors: Sequence[TensorDifference]
) -> dict[str, Any]:
    """The ``quench inspect A --against B --json`` object."""
    data: dict[str, Any] = msgspec.to_builtins(done)
    data.pop("message")
    return data | {"metadata": msgspec.to_builtins(list(metadata)), "tensors": msgspec.to_builtins(list(tensors))}


def comparison(
    done: ComparisonDone, metadata: Sequence[MetadataDifference], tensors: Sequence[TensorDifference]
) -> str:
    """What two models differ in: keys, then tensors that are not the same, then how many are."""
    lines = [
        f"{entry.change:8} {entry.key}: {metadata_value(entry.first)} -> {metadata_value(entry.second)}"
        + (f" (from item {entry.at:,} on)" if entry.at >= 0 else "")
        for entry in metadata
    ]
    rows = [
        (
            entry.name,
            _sides(entry.first_type, entry.second_type),
            significant(entry.rmse, 4) if entry.change == DIFFERENT else "",
            significant(entry.largest, 4) if entry.change == DIFFERENT else "",
            f"{entry.relative:.3%}" if entry.change == DIFFERENT and entry.relative is not None else "",
            _change(entry),
        )
        for entry in tensors
        if entry.change not in (SAME, SAME_VALUES)
    ]
    if rows:
        header = ("tensor", "type", "RMSE", "largest", "relative", "")
        lines += ["", console.table(header, rows)] if lines else [console.table(header, rows)]
    counts = {change: sum(entry.change == change for entry in tensors) for change in (SAME, SAME_VALUES)}
    lines.append(
        f"{_count(done.tensors, 'tensor', 'tensors')}: {counts[SAME]:,} with the same bytes, {counts[SAME_VALUES]:,} "
        f"with the same values in other bytes; {_count(done.keys_same, 'metadata key', 'metadata keys')} the same"
    )
    return "\n".join([*lines, *done.notes])


def metadata_value(value: MetadataValue | None) -> str:
    """A value in one line: text quoted, a long array as its length."""
    if value is None:
        return "nothing"
    if value.type.startswith("ARRAY"):
        return f"{value.items:,} x {value.type.removeprefix('ARRAY ')}"
    return f"{value.value!r} ({value.type})"


def _sides(first: str, second: str) -> str:
    return first if first == second else " -> ".join(side for side in (first, second) if side)


def _change(entry: TensorDifference) -> str:
    if entry.change == SHAPE:
        return f"shape {list(entry.first_shape)} -> {list(entry.second_shape)}"
    if entry.change in (ONLY_FIRST, ONLY_SECOND):
        return "only in the first" if entry.change == ONLY_FIRST else "only in the second"
    if entry.not_finite:
        return f"{entry.not_finite:,} not finite"
    return entry.note
