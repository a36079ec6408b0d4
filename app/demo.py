"""``quench demo``: the whole road on the bundled model, and a report of it.

Pocket is converted to seven files in one pass; each is measured for speed and quality against the BF16 file and asked
the same questions; the report and pictures of the real window with these data in it are written beside them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec

import resources
from app import console, conversion, measurements, tables
from app.child import run_job
from app.compare.results import Column
from app.compare.run import compare
from app.files import write_atomically
from app.measure_messages import BenchResult, MeasureBench, MeasureQuality, QualityResult
from app.protocol import Event, Status
from app.quality import report, tasks, texts
from app.store import Store
from converter.spec import Cancelled, ConversionResult, ConversionSpec, Progress

REFERENCE = "BF16"
TYPES = (REFERENCE, "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
PROMPT, GENERATE, REPEAT = 256, 64, 3
TEXTS = ("prose", "technical", "code", "mathematics", "dialogue")
"""Pocket's 2,048 tokens cut other languages nearly into letters: they would take long and say little."""


def run(out: str, *, window: bool) -> tuple[dict[str, Any], str]:
    """Do it all into the folder ``out``; returns the ``--json`` object and the text for people.

    The demo's models, measurements and conversations live in ``out/home`` unless QUENCH_HOME is set already. With
    ``window`` the window stays open afterwards where there is a display. Raises QuenchError, Cancelled.
    """
    start = time.monotonic()
    folder = Path(out).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("QUENCH_HOME", str(folder / "home"))
    progress = console.Progress()

    progress.say(f"1/5  converting Pocket to {', '.join(TYPES)} in one pass")
    conversion = _convert(folder / "models", progress)
    models = [output.path for output in conversion.outputs]

    progress.say("2/5  speed and memory")
    bench = _bench(models, progress)

    progress.say("3/5  quality against the full-precision file")
    quality = _quality(models, progress)

    progress.say("4/5  the same questions to each")
    questions = texts.questions()["demo"]
    compared = compare(models, questions, max_tokens=64, on_step=progress.update)
    answers = [[each for each in entry.columns if each is not None] for entry in compared.entries]

    progress.clear()
    _remember(models, bench, quality, str(folder / "report.html"))
    data: dict[str, Any] = {
        "outputs": msgspec.to_builtins(conversion.outputs),
        "quality": _without_tag(quality),
        "bench": _without_tag(bench),
        "answers": [
            {"question": question, "columns": msgspec.to_builtins(columns)}
            for question, columns in zip(questions, answers, strict=True)
        ],
        "report": str(folder / "report.html"),
    }
    page = report.render(
        quality, bench, _replies(questions, answers), conversion.outputs, report.facts_here(), title="Pocket, quantized"
    )
    write_atomically(folder / "report.html", page.encode())

    progress.say("5/5  pictures of the window")
    from app.ui import pictures

    shots = pictures.take(folder / "screenshots", models, questions)
    data["screenshots"] = [str(path) for path in shots]
    data["seconds"] = time.monotonic() - start
    write_atomically(folder / "report.json", msgspec.json.format(msgspec.json.encode(data), indent=1))
    text = _summary(data, quality, conversion)
    if window and pictures.has_display():
        print(text)
        pictures.open_window()
        text = ""
    return data, text


def _convert(folder: Path, progress: console.Progress) -> ConversionResult:
    folder.mkdir(parents=True, exist_ok=True)

    def show(event: object) -> None:
        if isinstance(event, Progress):
            progress.update(f"{console.size(event.rate)}/s", event.done, event.total, event.seconds_left)

    spec = ConversionSpec(source=str(resources.path("pocket")), output=str(folder), types=TYPES, overwrite=True)
    return conversion.run(spec, show)


def _show_status(progress: console.Progress) -> Any:
    def show(event: Event) -> None:
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)

    return show


def _bench(models: list[str], progress: console.Progress) -> BenchResult:
    command = MeasureBench(tuple(models), prompt=PROMPT, generate=GENERATE, depths=(0, 512), repeat=REPEAT)
    result = run_job("measure", command, _show_status(progress))
    if not isinstance(result, BenchResult):
        raise Cancelled
    return result


def _quality(models: list[str], progress: console.Progress) -> QualityResult:
    command = MeasureQuality(models[0], tuple(models[1:]), texts=TEXTS, tasks=tasks.POCKET)
    result = run_job("measure", command, _show_status(progress))
    if not isinstance(result, QualityResult):
        raise Cancelled
    return result


def _remember(models: list[str], bench: BenchResult, quality: QualityResult, page: str) -> None:
    """Put models and measurements where the window looks for them."""
    from app import paths

    store = Store(paths.database())
    try:
        for path in models:
            store.add_model(path)
        measurements.keep_bench(store, bench)
        measurements.keep_quality(store, quality, page)
    finally:
        store.close()


def _replies(questions: list[str], answers: list[list[Column]]) -> list[report.Answers]:
    return [
        report.Answers(
            question,
            tuple(report.Reply(Path(each.path).stem, each.text, each.tokens_per_second) for each in columns),
        )
        for question, columns in zip(questions, answers, strict=True)
    ]


def _without_tag(result: msgspec.Struct) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    return data


def _summary(data: dict[str, Any], quality: QualityResult, conversion: ConversionResult) -> str:
    lines = [
        tables.quality(quality),
        "",
        f"report       {data['report']}",
        f"screenshots  {len(data['screenshots'])} in {Path(data['screenshots'][0]).parent}"
        if data["screenshots"]
        else "",
        f"converted {len(conversion.outputs)} files in {console.duration(conversion.seconds)};"
        f" the whole demo took {console.duration(data['seconds'])}",
    ]
    return "\n".join(lines)
