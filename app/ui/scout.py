"""Questions about files that the window must not read itself: headers, plans, folder scans. One worker answers them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app import protocol
from app.chat_messages import CheckConstraint, Constraint, ConstraintChecked
from app.child import Verdict
from app.fit_messages import FitPreview, FitPreviewed, PlanFit, ReadRecipe, RecipeRead, Wish
from app.local.entry import Listed
from app.local.places import Place
from app.measure_messages import ImatrixDescription, ImatrixRead, ReadImatrix
from app.ui.process import WorkerProcess
from converter.spec import ConversionSpec, ModelInfo, Plan, QuenchError

Answer = Callable[[Any], object]


@dataclass
class _Question:
    command: Any
    done: Answer


@dataclass
class _Watching:
    """Who hears of models: from the scan with this number, and from the watch that follows it."""

    request: int
    found: Callable[[tuple[Listed, ...]], object]
    gone: Callable[[tuple[str, ...]], object]

    def take(self, message: protocol.Found | protocol.Gone) -> None:
        if isinstance(message, protocol.Found):
            self.found(message.models)
        else:
            self.gone(message.paths)


class Scout(QObject):
    """The answering machine. Every callback is called exactly once, in the UI thread, with a result or a QuenchError;
    after :meth:`close` none is.

    The worker is started with the first question. If it dies, the question that it was at gets ``engine_died`` and the
    ones behind it are asked again of a new worker; ``unwatched`` says that nobody watches the places any more.
    """

    unwatched = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: WorkerProcess | None = None
        self._last = 0
        self._open: OrderedDict[int, _Question] = OrderedDict()
        self._closing = False
        self._watch: _Watching | None = None

    def inspect(self, path: str, callback: Callable[[ModelInfo | QuenchError], object]) -> int:
        """Read the whole header of a folder or GGUF, with tensors and metadata."""
        return self._ask(lambda number: protocol.Inspect(number, path), callback)

    def plan(self, spec: ConversionSpec, callback: Callable[[Plan | QuenchError], object]) -> int:
        """Plan a conversion without starting it."""
        return self._ask(lambda number: protocol.MakePlan(number, spec), callback)

    def plan_fit(self, wish: Wish, callback: Callable[[FitPreview | QuenchError], object]) -> int:
        """What a fit would make, take and need."""
        return self._ask(lambda number: PlanFit(number, wish), callback)

    def read_recipe(self, path: str, imatrix: str, callback: Callable[[RecipeRead | QuenchError], object]) -> int:
        """Read a recipe file, and compare its importance matrix with ``imatrix`` (a path, or empty)."""
        return self._ask(lambda number: ReadRecipe(number, path, imatrix), callback)

    def scan(
        self,
        places: Iterable[Place],
        found: Callable[[tuple[Listed, ...]], object],
        gone: Callable[[tuple[str, ...]], object],
        done: Callable[[int | QuenchError], object],
    ) -> int:
        """Look for models and watch them from then on: ``found`` for new and changed ones, ``gone`` for paths.

        ``done`` comes once, with how many were seen by the scan itself. A new scan takes the place of the last.
        """
        self._watch = _Watching(self._last + 1, found, gone)
        return self._ask(lambda number: protocol.Scan(number, tuple(places), watch=True), done)

    def read_imatrix(self, path: str, callback: Callable[[ImatrixDescription | QuenchError], object]) -> int:
        """Describe an importance matrix or the checkpoint of one, with the statistics of every matrix."""
        return self._ask(lambda number: ReadImatrix(number, path), callback)

    def check_constraint(self, constraint: Constraint, callback: Callable[[int | QuenchError], object]) -> int:
        """Can answers be held to this? How many rules its grammar has."""
        return self._ask(lambda number: CheckConstraint(number, constraint), callback)

    def check_kernels(self, callback: Callable[[protocol.KernelCheck | QuenchError], object]) -> int:
        """Which backend of the kernels this machine can trust; they are tested if that is not known."""
        return self._ask(protocol.CheckKernels, callback)

    def forget(self, request: int) -> None:
        """Drop a question: its callback will not be called (the asker has gone)."""
        if request in self._open:
            self._open[request].done = lambda answer: None
            self._open[request].found = None

    def processes(self) -> list[WorkerProcess]:
        """The worker, if there is one."""
        return [self._process] if self._process is not None else []

    def close(self) -> None:
        """Ask nothing more, and call nobody back (used at the end of the program, before the workers end)."""
        self._closing = True
        self._open.clear()
        self._watch = None

    def pid(self) -> int:
        """The worker's process id, 0 when none runs."""
        return self._process.pid() if self._process is not None else 0

    def _ask(self, make: Callable[[int], msgspec.Struct], done: Answer) -> int:
        self._last += 1
        if self._closing:
            return self._last
        self._open[self._last] = _Question(make(self._last), done)
        if self._process is None:
            self._process = self._started()
        self._process.send(self._open[self._last].command)
        return self._last

    def _started(self) -> WorkerProcess:
        process = WorkerProcess("scout", self)
        process.event.connect(self._answered)
        process.finished.connect(self._died)
        process.start()
        return process

    def _answered(self, message: object) -> None:
        number = getattr(message, "request", 0)
        if isinstance(message, protocol.Found | protocol.Gone):
            if self._watch is not None and self._watch.request == number:
                self._watch.take(message)
            return
        question = self._open.get(number)
        if question is None:
            return
        del self._open[number]
        if isinstance(message, protocol.Inspected):
            question.done(message.info)
        elif isinstance(message, protocol.PlanMade):
            question.done(message.plan)
        elif isinstance(message, protocol.ScanDone):
            question.done(message.seen)
        elif isinstance(message, FitPreviewed):
            question.done(message.preview)
        elif isinstance(message, RecipeRead):
            question.done(message)
        elif isinstance(message, ImatrixRead):
            question.done(message.description)
        elif isinstance(message, protocol.KernelsChecked):
            question.done(message.check)
        elif isinstance(message, ConstraintChecked):
            question.done(message.rules)
        elif isinstance(message, protocol.Failed):
            question.done(message.to_error())

    def _died(self, verdict: Verdict) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        watched, self._watch = self._watch, None
        if self._closing or not self._open:
            self._open.clear()
            if watched is not None and not self._closing:
                self.unwatched.emit()
            return
        _, culprit = self._open.popitem(last=False)
        error = verdict.error or QuenchError("engine_died", self.tr("The reading process ended."), exit_status=5)
        rest = list(self._open.values())
        if error.code == "worker_missing":
            self._open.clear()
            for question in rest:
                question.done(error)
        elif rest:
            self._process = self._started()
            if watched is not None and any(question.command.request == watched.request for question in rest):
                self._watch = watched
            for question in rest:
                self._process.send(question.command)
        culprit.done(error)
        if watched is not None and self._watch is None and not isinstance(culprit.command, protocol.Scan):
            self.unwatched.emit()
