"""Reads headers, makes plans and scans folders for the window, one question after another. Lives until it is left.

The kernels are checked beside the questions: at the first start after an update that takes a second or two.

A bad file costs its own question a ``Failed``; only a crash of the process costs more, and the window starts another.
"""

from __future__ import annotations

import threading
from pathlib import Path

from app import library
from app.protocol import (
    CheckKernels,
    Event,
    Found,
    ImatrixRead,
    Inspect,
    Inspected,
    KernelsChecked,
    MakePlan,
    PlanMade,
    ReadImatrix,
    Scan,
    ScanDone,
    failed,
)
from app.workers.runtime import Connection
from converter.spec import QuenchError


def serve(connection: Connection) -> None:
    """Answer Inspect, MakePlan, ReadImatrix and Scan until the parent leaves."""
    for command in connection.commands():
        if isinstance(command, CheckKernels):
            threading.Thread(target=_check_kernels, args=(connection, command.request), daemon=True).start()
            continue
        if not isinstance(command, Inspect | MakePlan | ReadImatrix | Scan):
            continue
        try:
            connection.send(_answer(connection, command))
        except QuenchError as error:
            connection.send(failed(error, command.request))
        except OSError as error:
            connection.send(failed(_unreadable(error), command.request))


def _check_kernels(connection: Connection, request: int) -> None:
    from app import kernel_check

    try:
        connection.send(KernelsChecked(request, kernel_check.check()))
    except QuenchError as error:
        connection.send(failed(error, request))


def _answer(connection: Connection, command: Inspect | MakePlan | ReadImatrix | Scan) -> Event:
    import converter

    if isinstance(command, ReadImatrix):
        from app import imatrix_files

        return ImatrixRead(command.request, imatrix_files.describe(Path(command.path)))
    if isinstance(command, Scan):
        return _scan(connection, command)
    if isinstance(command, MakePlan):
        return PlanMade(command.request, converter.plan(command.spec.source, command.spec))
    with converter.open_model(command.path) as model:
        return Inspected(command.request, model.info)


def _scan(connection: Connection, command: Scan) -> ScanDone:
    seen = 0
    for path in library.candidates(command.folders):
        if connection.cancelled.is_set():
            break
        seen += 1
        connection.send(Found(command.request, library.describe(path)))
    return ScanDone(command.request, seen)


def _unreadable(error: OSError) -> QuenchError:
    return QuenchError(
        "unreadable", "The file cannot be read.", str(error), "Check that it is there and that you may read it."
    )
