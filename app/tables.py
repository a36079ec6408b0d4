"""What commands print for people: tables of files, quality and speed, from the same structs that ``--json`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from app import console
from app.protocol import BenchResult, ImatrixResult, QualityResult
from converter.spec import Plan


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


def quality_data(result: QualityResult) -> dict[str, Any]:
    """The ``quench quality --json`` object of a QualityResult."""
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    for candidate in data["candidates"]:
        candidate["kld"]["error"] = candidate["kld"]["mean"]["error"]
    return data


def quality(result: QualityResult) -> str:
    """One line a model, the reference first."""
    rows = []
    for item in (result.reference, *result.candidates):
        tasks = item.tasks.values()
        asked = sum(score.n for score in tasks)
        rows.append(
            (
                item.type,
                console.size(item.bytes),
                f"{item.perplexity.value:.3f} +- {item.perplexity.error:.3f}",
                f"{item.kld.mean.value:.5f} +- {item.kld.mean.error:.5f}",
                f"{item.top1.value:.1%}",
                f"{sum(score.correct for score in tasks) / asked:.1%}" if asked else "-",
                f"{item.tokens_per_second:.0f}",
                "reference" if item is result.reference else item.verdict,
            )
        )
    header = ("type", "size", "perplexity", "KLD (nats)", "top-1", "tasks", "tokens/s", "verdict")
    return console.table(header, rows)


def imatrix(result: ImatrixResult, most: int = 12) -> str:
    """What was made, and the matrices whose inputs are the largest."""
    rows = [
        (
            item.name,
            str(item.columns),
            f"{item.total:.2f}",
            f"{item.most:.4f}",
            f"{item.active:.1%}",
            f"{item.evenness:.1%}",
            "-" if item.cosine is None else f"{item.cosine:.4f}",
        )
        for item in result.statistics[:most]
    ]
    header = ("matrix", "columns", "sum", "largest", "active", "evenness", "like the layer below")
    perplexity = f"{result.perplexity.value:.4f} +- {result.perplexity.error:.5f}"
    lines = [
        console.table(header, rows),
        f"{result.path}: {result.entries} matrices from {result.chunks} windows ({result.tokens:,} tokens), "
        f"perplexity {perplexity}, {console.duration(result.seconds)}",
    ]
    if result.experts.total:
        lines.append(f"experts reached by the text: {result.experts.seen} of {result.experts.total}")
    return "\n".join(lines)


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
