"""Reads headers, makes plans, looks for models and watches them for the window. Lives until it is left.

Questions are answered one after another; a long scan lets those that come meanwhile go first.

The kernels are checked beside the questions: at the first start after an update that takes a second or two.

A bad file costs its own question a ``Failed``; only a crash of the process costs more, and the window starts another.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from app import paths
from app.chat_messages import CheckConstraint, ConstraintChecked
from app.fit_messages import FitPreviewed, PlanFit, ReadRecipe, RecipeRead
from app.local.entry import Listed
from app.local.headers import HeaderCache
from app.local.listing import Lister
from app.local.watch import Watch
from app.measure_messages import ImatrixRead, ReadImatrix
from app.protocol import (
    CheckKernels,
    Command,
    Event,
    Found,
    Gone,
    Inspect,
    Inspected,
    KernelsChecked,
    MakePlan,
    PlanMade,
    Scan,
    ScanDone,
    failed,
)
from app.workers.runtime import Connection
from converter.spec import QuenchError

IDLE_SECONDS = 3600.0
BATCH_SECONDS = 0.05
BATCH_BYTES = 128 << 10
"""A message of a scan goes after so long, or when it is about so large: it must be a moment's work to take."""
_ENTRY_BYTES = 2048
_RARELY = 100_000, 20, 100
"""A library of thousands is a million objects without a circle among them: the collector need not go through them."""


def serve(connection: Connection) -> None:
    """Answer Inspect, MakePlan, PlanFit, ReadRecipe, ReadImatrix, CheckConstraint and Scan until the parent leaves."""
    gc.set_threshold(*_RARELY)
    scan: Scanning | None = None
    try:
        while not connection.cancelled.is_set():
            command = connection.poll(scan.wait if scan is not None else IDLE_SECONDS)
            if isinstance(command, Scan):
                scan = _started(scan, connection, command)
            elif command is not None:
                _take(connection, command)
            elif scan is not None and scan.wait <= 0:
                scan.step()
    finally:
        if scan is not None:
            scan.close()


def _started(before: Scanning | None, connection: Connection, command: Scan) -> Scanning:
    """The next scan; what the one before has read it need not read again."""
    lister = before.lister if before is not None else Lister(HeaderCache(paths.cache() / "headers.db"))
    return Scanning(connection, command, lister)


def _take(connection: Connection, command: Command) -> None:
    if isinstance(command, CheckKernels):
        threading.Thread(target=_check_kernels, args=(connection, command.request), daemon=True).start()
        return
    if not isinstance(command, Inspect | MakePlan | PlanFit | ReadRecipe | ReadImatrix | CheckConstraint):
        return
    try:
        connection.send(_answer(connection, command))
    except QuenchError as error:
        connection.send(failed(error, command.request))
    except OSError as error:
        connection.send(failed(_unreadable(error), command.request))


class Scanning:
    """A scan in small steps, and afterwards the watch over what it saw. ``wait`` is how long the next step may wait."""

    def __init__(self, connection: Connection, command: Scan, lister: Lister) -> None:
        self._connection = connection
        self._command = command
        self.lister = lister
        self._watch = Watch(command.places, lister)
        self._rest: Iterator[Listed] | None = self._watch.first()
        self._seen = 0

    @property
    def wait(self) -> float:
        if self._rest is not None:
            return 0.0
        return min(IDLE_SECONDS, self._watch.wait) if self._command.watch else IDLE_SECONDS

    def step(self) -> None:
        """Some models more, or a look at what has changed."""
        request = self._command.request
        if self._rest is None:
            if self._command.watch and self._watch.wait <= 0:
                change = self._watch.look()
                for start in range(0, len(change.found), BATCH_BYTES // _ENTRY_BYTES):
                    batch = change.found[start : start + BATCH_BYTES // _ENTRY_BYTES]
                    self._connection.send(Found(request, tuple(batch)))
                if change.gone:
                    self._connection.send(Gone(request, tuple(change.gone)))
            return
        found: list[Listed] = []
        until = time.monotonic() + BATCH_SECONDS
        for listed in self._rest:
            found.append(listed)
            if time.monotonic() >= until or len(found) * _ENTRY_BYTES >= BATCH_BYTES:
                break
        else:
            self._rest = None
        self._seen += len(found)
        if found:
            self._connection.send(Found(request, tuple(found)))
        if self._rest is None:
            self._connection.send(ScanDone(request, self._seen))

    def close(self) -> None:
        self.lister.close()


def _check_kernels(connection: Connection, request: int) -> None:
    from app import kernel_check

    try:
        connection.send(KernelsChecked(request, kernel_check.check()))
    except QuenchError as error:
        connection.send(failed(error, request))


def _answer(
    connection: Connection, command: Inspect | MakePlan | PlanFit | ReadRecipe | ReadImatrix | CheckConstraint
) -> Event:
    if isinstance(command, CheckConstraint):
        from app import constraints

        return ConstraintChecked(command.request, constraints.check(command.constraint))
    if isinstance(command, ReadRecipe):
        from app import recipe_files

        found = recipe_files.read(Path(command.path))
        same = bool(command.imatrix and found.digest) and recipe_files.digest_of(Path(command.imatrix)) == found.digest
        return RecipeRead(command.request, found, same)
    if isinstance(command, PlanFit):
        from app import fitting

        return FitPreviewed(command.request, fitting.preview(command.wish))
    import converter

    if isinstance(command, ReadImatrix):
        from app import imatrix_files

        return ImatrixRead(command.request, imatrix_files.describe(Path(command.path)))
    if isinstance(command, MakePlan):
        return PlanMade(command.request, converter.plan(command.spec.source, command.spec))
    with converter.open_model(command.path) as model:
        return Inspected(command.request, model.info)


def _unreadable(error: OSError) -> QuenchError:
    return QuenchError(
        "unreadable", "The file cannot be read.", str(error), "Check that it is there and that you may read it."
    )
