"""Questions about files that the window must not read itself: headers, plans, folder scans. One worker answers them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from PySide6.QtCore import QObject

from app import protocol
from app.child import Verdict
from app.ui.process import WorkerProcess
from converter.spec import ConversionSpec, ModelInfo, Plan, QuenchError

Answer = Callable[[Any], object]


@dataclass
class _Question:
    command: msgspec.Struct
    done: Answer
    found: Callable[[ModelInfo], object] | None = None


class Scout(QObject):
    """The answering machine. Every callback is called exactly once, in the UI thread, with a result or a QuenchError;
    after :meth:`close` none is.

    The worker is started with the first question. If it dies, the question that it was at gets ``engine_died`` and the
    ones behind it are asked again of a new worker.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: WorkerProcess | None = None
        self._last = 0
        self._open: OrderedDict[int, _Question] = OrderedDict()
        self._closing = False

    def inspect(self, path: str, callback: Callable[[ModelInfo | QuenchError], object]) -> int:
        """Read the whole header of a folder or GGUF, with tensors and metadata."""
        return self._ask(lambda number: protocol.Inspect(number, path), callback)

    def plan(self, spec: ConversionSpec, callback: Callable[[Plan | QuenchError], object]) -> int:
        """Plan a conversion without starting it."""
        return self._ask(lambda number: protocol.MakePlan(number, spec), callback)

    def scan(
        self,
        folders: Iterable[str],
        found_callback: Callable[[ModelInfo], object],
        done_callback: Callable[[int | QuenchError], object],
    ) -> int:
        """Look for models; ``found_callback`` for each one, then ``done_callback`` with how many were seen."""
        return self._ask(lambda number: protocol.Scan(number, tuple(folders)), done_callback, found_callback)

    def read_imatrix(self, path: str, callback: Callable[[protocol.ImatrixDescription | QuenchError], object]) -> int:
        """Describe an importance matrix or the checkpoint of one, with the statistics of every matrix."""
        return self._ask(lambda number: protocol.ReadImatrix(number, path), callback)

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

    def pid(self) -> int:
        """The worker's process id, 0 when none runs."""
        return self._process.pid() if self._process is not None else 0

    def _ask(self, make: Callable[[int], msgspec.Struct], done: Answer, found: Any = None) -> int:
        self._last += 1
        if self._closing:
            return self._last
        self._open[self._last] = _Question(make(self._last), done, found)
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
        question = self._open.get(number)
        if question is None:
            return
        if isinstance(message, protocol.Found):
            if question.found is not None:
                question.found(message.info)
            return
        del self._open[number]
        if isinstance(message, protocol.Inspected):
            question.done(message.info)
        elif isinstance(message, protocol.PlanMade):
            question.done(message.plan)
        elif isinstance(message, protocol.ScanDone):
            question.done(message.seen)
        elif isinstance(message, protocol.ImatrixRead):
            question.done(message.description)
        elif isinstance(message, protocol.KernelsChecked):
            question.done(message.check)
        elif isinstance(message, protocol.Failed):
            question.done(message.to_error())

    def _died(self, verdict: Verdict) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        if self._closing or not self._open:
            self._open.clear()
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
            for question in rest:
                self._process.send(question.command)
        culprit.done(error)
