"""The worker that measures: quality against a reference, what each tensor or method costs, speed and memory, or an
importance matrix. One command, one result.

``MeasureQuality`` is answered by ``Status`` and ``QualityUpdate`` messages while it runs and by ``QualityResult``; a
candidate that cannot be measured is told by a ``Failed`` with its index + 1 as ``request``, and the others go on.
``MeasureSensitivity`` is answered by ``Status``, ``SensitivityUpdate`` and ``SensitivityResult``, ``MeasureMethods`` by
``Status``, ``MethodUpdate`` and ``MethodsResult``, ``MeasureBench`` by ``Status``, ``BenchUpdate`` and ``BenchResult``,
``FitTypes`` by ``Status`` and ``FitPlanned``, ``MeasureImatrix`` by ``ImatrixUpdate`` and ``ImatrixResult``. ``Cancel``
stops within a decode call.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from app import kernel_check
from app.engine.model import Model
from app.engine.spread import Guard
from app.files import write_atomically
from app.fit_messages import FitTypes
from app.measure_messages import (
    MeasureBench,
    MeasureImatrix,
    MeasureMethods,
    MeasureQuality,
    MeasureSensitivity,
    QualityResult,
)
from app.protocol import Cancel, Command, failed
from app.quality import figures, report
from app.workers.runtime import Connection, leave
from converter.spec import QuenchError


def serve(connection: Connection) -> None:
    """Take one command, send its result. What a command needs is imported for it: much of it serves one of them."""
    models: list[Model] = []

    def interrupt(command: Command) -> bool:
        if isinstance(command, Cancel):
            for model in tuple(models):
                model.interrupt()
        return False

    def stopped() -> bool:
        return connection.cancelled.is_set()

    def machine_lost(error: QuenchError) -> None:
        connection.send(connection.ending() if connection.cancelled.is_set() else failed(error))
        leave(0 if connection.cancelled.is_set() else error.exit_status)

    connection.intercept(interrupt)
    for command in connection.commands():
        if isinstance(command, MeasureQuality | MeasureBench) and command.machines:
            # Nothing waits here while a model is loaded; a connection that watches would hinder the next model.
            Guard(command.machines, machine_lost, watching=False)
        if isinstance(command, MeasureQuality):
            from app.quality.lab import QualityRun

            kernel_check.report(connection.send)
            result = QualityRun(command, connection.send, stopped, models.append).run()
            if command.report:
                notes = write_report(result, Path(command.report))
                result = msgspec.structs.replace(result, notes=(*result.notes, *notes))
            connection.send(result)
        elif isinstance(command, MeasureBench):
            from app.quality.bench import BenchRun

            connection.send(BenchRun(command, connection.send, stopped, models.append).run())
        elif isinstance(command, MeasureSensitivity):
            from app.quality.sensitivity import SensitivityRun

            kernel_check.report(connection.send)
            connection.send(SensitivityRun(command, connection.send, stopped, models.append).run())
        elif isinstance(command, MeasureMethods):
            from app.quality.method_lab import MethodLab

            kernel_check.report(connection.send)
            connection.send(MethodLab(command, connection.send, stopped, models.append).run())
        elif isinstance(command, FitTypes):
            from app.quality.fitting import FitRun

            kernel_check.report(connection.send)
            connection.send(FitRun(command, connection.send, stopped, models.append).run())
        elif isinstance(command, MeasureImatrix):
            from app.quality.imatrix import ImatrixRun

            connection.send(ImatrixRun(command, connection.send, stopped, models.append).run())
        else:
            raise QuenchError(
                "bad_message", "This worker only measures.", f"It was sent {type(command).__name__}.", "", exit_status=1
            )
        return


def write_report(result: QualityResult, path: Path) -> list[str]:
    """The report as one HTML file, its JSON and CSV twins beside it; sentences about twins with names of their own.

    Raises QuenchError ``report_not_saved`` if it cannot be.
    """
    notes = []
    facts = report.facts_here()
    contents = {".json": json.dumps(report.document(result, facts=facts)), ".csv": figures.csv_table(result)}
    try:
        write_atomically(path, report.render(result, facts=facts).encode())
        for suffix, content in contents.items():
            target = report.twin_place(path, suffix)
            write_atomically(target, content.encode())
            if target != path.with_suffix(suffix):
                notes.append(f"{path.with_suffix(suffix).name} is something else: the report's is {target.name}.")
        return notes
    except OSError as error:
        raise QuenchError(
            "report_not_saved",
            "The report could not be written.",
            str(error),
            "Choose a place that can be written to.",
            exit_status=4,
        ) from error
