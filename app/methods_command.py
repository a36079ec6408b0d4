"""``quench methods``: methods of quantization compared on one model."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

import converter
from app import console, conversion, measurements, paths, tables
from app.child import run_job
from app.commands import Result, absolute, chosen_texts, finished, keep, named_texts, tell_kernels
from app.measure_messages import MeasureMethods, MethodsResult, MethodUpdate
from app.protocol import Status
from app.quality.method_check import check
from converter.identity import content_id
from converter.spec import ConversionSpec, Progress

SMALL = 2 << 30
"""Bytes in 32 bits up to which a folder is measured so: then nothing is rounded but by the methods."""


def run(options: argparse.Namespace) -> Result:
    """Measure, with a file that is made for it where MODEL is a folder."""
    progress = console.Progress()

    def show(event: object) -> None:
        tell_kernels(progress, event)
        if isinstance(event, Status | Progress):
            progress.update(event.label, event.done, event.total, event.seconds_left)
        elif isinstance(event, MethodUpdate):
            progress.say(f"{event.row.name}: {event.row.bpw:.2f} bits/weight, KLD {event.row.kld.value:.6f}")

    model = absolute(options.model)
    command = MeasureMethods(
        reference=model,
        texts=chosen_texts(options.text),
        methods=tuple(part.strip().lower() for part in options.methods.split(",")) if options.methods else (),
        files=tuple(absolute(path) for path in options.file),
        calibration=named_texts([options.calibration]) if options.calibration else (),
        context=options.context,
        chunks=options.chunks,
        minutes=options.minutes,
        threads=options.threads,
    )
    check(command)
    with _reference(model, options.threads, show) as reference:
        command = msgspec.structs.replace(command, reference=reference)
        result: MethodsResult = finished(run_job("measure", command, show), MethodsResult)
    result = msgspec.structs.replace(result, reference=model, content=content_id(model))
    keep(lambda store: measurements.keep_methods(store, result), progress)
    progress.clear()
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    data["methods"] = data.pop("rows")
    return Result(data, tables.methods(result))


@contextmanager
def _reference(model: str, threads: int, show: Any) -> Iterator[str]:
    """A GGUF file as it is; of a folder one in 32 bits, or 16 where it is large."""
    with converter.open_model(model) as source:
        info = source.info
    if info.kind == "gguf":
        yield model
        return
    kind = "F32" if 4 * info.parameters <= SMALL else "auto"
    with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="methods-") as folder:
        target = str(Path(folder) / "reference.gguf")
        conversion.run(ConversionSpec(model, target, (kind,), threads=threads), show)
        yield target
