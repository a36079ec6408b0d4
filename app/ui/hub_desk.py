"""Questions to the hub, answered by one worker: searches, models, cards, plans, and where the token comes from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app import protocol
from app.child import Verdict
from app.hub import messages
from app.hub.messages import Query
from app.ui.process import WorkerProcess
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

Answer = Callable[[Any], object]

TOKEN_VARIABLE = "HF_TOKEN"


@dataclass
class _Question:
    command: msgspec.Struct
    done: Answer


class HubDesk(QObject):
    """Every callback is called exactly once, in the UI thread, with the worker's answer or a QuenchError; after
    :meth:`forget` and :meth:`close` none is.

    The worker is started with the first question, and again when it has become known how the hub is to be reached:
    settings and token are read at its start. ``restarted`` comes then. If it dies, every open question gets the error.
    """

    restarted = Signal()

    def __init__(self, context: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._process: WorkerProcess | None = None
        self._leaving: list[WorkerProcess] = []
        self._last = 0
        self._open: dict[int, _Question] = {}
        self._closing = False
        self.token_of_session = False
        self._way = self._way_now()
        context.settings_changed.connect(self._settings_changed)

    def search(self, query: Query, callback: Answer) -> int:
        """Search; the answer is a :class:`app.hub.messages.HubFound`."""
        return self._ask(lambda number: messages.SearchHub(number, query), callback)

    def look_up(self, name: str, callback: Answer) -> int:
        """What a model is; the answer is a :class:`app.hub.messages.LookedUp`."""
        return self._ask(lambda number: messages.LookUp(number, name), callback)

    def read_card(self, repo: str, revision: str, callback: Answer) -> int:
        """The model card of a commit; the answer is a :class:`app.hub.messages.CardRead`."""
        return self._ask(lambda number: messages.ReadCard(number, repo, revision), callback)

    def plan(self, name: str, callback: Answer, files: tuple[str, ...] = (), *, conversion: bool = False) -> int:
        """What a download would take; the answer is a :class:`app.hub.messages.DownloadPlanned`."""
        return self._ask(lambda number: messages.PlanDownload(number, name, files, conversion), callback)

    def token_state(self, callback: Answer) -> int:
        """Where the token comes from; the answer is a :class:`app.hub.messages.TokenTold`."""
        return self._ask(messages.AskToken, callback)

    def keep_token(self, secret: str, callback: Answer) -> int:
        """Keep a token in the keyring, or forget it if ``secret`` is empty; as :meth:`token_state`.

        Without a keyring it is used until the program ends (``token_of_session``): workers inherit it.
        """

        def kept(answer: messages.TokenTold | QuenchError) -> None:
            if isinstance(answer, messages.TokenTold):
                if secret and not answer.state.keeps:
                    os.environ[TOKEN_VARIABLE] = secret.strip()
                    self.token_of_session = True
                elif self.token_of_session:
                    os.environ.pop(TOKEN_VARIABLE, None)
                    self.token_of_session = False
                self.restart()
            callback(answer)

        return self._ask(lambda number: messages.KeepToken(number, secret), kept)

    def forget(self, request: int) -> None:
        """Drop a question: its callback will not be called."""
        self._open.pop(request, None)

    def restart(self) -> None:
        """Reach the hub anew: with other settings, or another token. Open questions are asked again."""
        if self._process is not None:
            process, self._process = self._process, None
            process.event.disconnect(self._answered)
            self._leaving.append(process)
            process.stop()
            if self._open and not self._closing:
                self._process = self._started()
                for question in self._open.values():
                    self._process.send(question.command)
        self.restarted.emit()

    def processes(self) -> list[WorkerProcess]:
        """The worker, if there is one, and those that are about to leave."""
        return [*self._leaving, *([self._process] if self._process is not None else [])]

    def close(self) -> None:
        """Ask nothing more, and call nobody back (used at the end of the program, before the workers end)."""
        self._closing = True
        self._open.clear()

    def pid(self) -> int:
        """The worker's process id, 0 when none runs."""
        return self._process.pid() if self._process is not None else 0

    def _ask(self, make: Callable[[int], msgspec.Struct], done: Answer) -> int:
        self._last += 1
        if self._closing:
            return self._last
        question = self._open[self._last] = _Question(make(self._last), done)
        if self._process is None:
            self._process = self._started()
        self._process.send(question.command)
        return self._last

    def _started(self) -> WorkerProcess:
        process = WorkerProcess("hub", self)
        process.event.connect(self._answered)
        process.finished.connect(lambda verdict: self._died(process, verdict))
        process.start()
        return process

    def _answered(self, message: object) -> None:
        question = self._open.pop(getattr(message, "request", 0), None)
        if question is not None:
            question.done(message.to_error() if isinstance(message, protocol.Failed) else message)

    def _died(self, process: WorkerProcess, verdict: Verdict) -> None:
        process.deleteLater()
        if process in self._leaving:
            self._leaving.remove(process)
            return
        if process is self._process:
            self._process = None
        questions = list(self._open.values())
        self._open.clear()
        error = verdict.error or QuenchError("engine_died", self.tr("The process that asks the hub ended."))
        for question in questions:
            question.done(error)

    def _way_now(self) -> tuple[object, ...]:
        settings = self._context.settings
        return settings.hub_endpoint, settings.hub_proxy, settings.hub_offline

    def _settings_changed(self) -> None:
        if self._way_now() != self._way:
            self._way = self._way_now()
            self.restart()
