"""Workers that belong to a dialog: they end when it closes, and before the program does.

:class:`Attendant` is one such process; :class:`Reader` puts questions to one, and starts another when it dies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app import protocol
from app.child import Verdict
from app.ui.context import Context
from app.ui.process import WorkerProcess
from converter.spec import QuenchError

Done = Callable[[Any], object]


class Attendant(QObject):
    """A worker. ``event`` and ``finished`` as :class:`WorkerProcess` has them; after :meth:`close` neither comes."""

    event = Signal(object)  # type: ignore[assignment]  # hides QObject.event, which Qt calls past Python
    finished = Signal(object)

    def __init__(self, context: Context, kind: str) -> None:
        # Not a child of the dialog: a process takes its time to leave, and must not be destroyed meanwhile.
        super().__init__(context)
        self._closing = False
        self.process = WorkerProcess(kind, self)
        self.process.event.connect(self._heard)
        self.process.finished.connect(self._ended)
        context.closing.connect(self._leave)
        self.process.start()

    def close(self) -> None:
        """Nobody listens any more: the process leaves, and this object with it."""
        self._closing = True
        self.process.stop()

    def _heard(self, message: object) -> None:
        if not self._closing:
            self.event.emit(message)

    def _ended(self, verdict: Verdict) -> None:
        if not self._closing:
            self.finished.emit(verdict)
        self.deleteLater()

    def _leave(self) -> None:
        self._closing = True
        self.process.kill()
        self.process.wait(2000)


@dataclass
class _Question:
    command: msgspec.Struct
    done: Done


class Reader(QObject):
    """Asks the worker ``inspect``. Each callback is called once, in the UI thread, with the answer or a QuenchError.

    Questions of one ``subject`` replace each other: while one is answered only the newest of the others waits, and
    an answer that is not the newest's is dropped. A worker that says nothing for ``patience`` milliseconds is ended.
    """

    patience = 30_000

    def __init__(self, context: Context, parent: QObject) -> None:
        super().__init__(parent)
        self._context = context
        self._worker: Attendant | None = None
        self._last = 0
        self._asked: dict[int, str] = {}
        """Questions that the worker has, in its order, and what they are about."""
        self._newest: dict[str, tuple[int, _Question]] = {}
        self._late = False
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self._too_long)

    def ask(self, subject: str, make: Callable[[int], msgspec.Struct], done: Done) -> None:
        """Put the question that ``make`` gives for a number."""
        self._last += 1
        self._newest[subject] = (self._last, _Question(make(self._last), done))
        if subject not in self._asked.values():
            self._send(subject)

    def forget(self, subject: str) -> None:
        """Whoever asked has gone: nobody is called back."""
        self._newest.pop(subject, None)

    def close(self) -> None:
        """End the worker; nobody is called back any more."""
        self._newest.clear()
        self._asked.clear()
        self._timer.stop()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def pid(self) -> int:
        """The worker's process id, 0 when none runs."""
        return self._worker.process.pid() if self._worker is not None else 0

    def _send(self, subject: str) -> None:
        if self._worker is None:
            self._worker = Attendant(self._context, "inspect")
            self._worker.event.connect(self._answered)
            self._worker.finished.connect(self._died)
        number, question = self._newest[subject]
        self._asked[number] = subject
        self._worker.process.send(question.command)
        if not self._timer.isActive():
            self._timer.start(self.patience)

    def _answered(self, message: object) -> None:
        subject = self._asked.pop(getattr(message, "request", 0), None)
        if subject is None:
            return
        self._timer.stop()
        if self._asked:
            self._timer.start(self.patience)
        self._settle(subject, getattr(message, "request", 0), message)

    def _settle(self, subject: str, number: int, answer: object) -> None:
        """The worker is through with question ``number``: tell it, or put the newer one."""
        newest = self._newest.get(subject)
        if newest is None:
            return
        if newest[0] != number:
            self._send(subject)
            return
        del self._newest[subject]
        newest[1].done(answer.to_error() if isinstance(answer, protocol.Failed) else answer)

    def _too_long(self) -> None:
        self._late = True
        if self._worker is not None:
            self._worker.process.kill()

    def _died(self, verdict: Verdict) -> None:
        """The question that it was at gets the error; the ones behind it are put to another worker."""
        self._worker = None
        self._timer.stop()
        error = verdict.error or QuenchError("engine_died", self.tr("The reading process ended."), exit_status=5)
        if self._late:
            error = QuenchError(
                "too_long",
                self.tr("This takes too long."),
                self.tr("Nothing came back within {0} seconds.").format(self.patience // 1000),
                self.tr("Try a shorter text. The file may be made to take for ever."),
            )
        self._late = False
        asked, self._asked = self._asked, {}
        for place, (number, subject) in enumerate(asked.items()):
            if place == 0 or error.code == "worker_missing":
                self._settle(subject, number, error)
            elif subject in self._newest and subject not in self._asked.values():
                self._send(subject)
