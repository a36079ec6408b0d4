"""A loaded model offered to other programs: the window relays between the worker that speaks HTTP and the model's."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PySide6.QtCore import QObject, Signal

from app import protocol
from app.chat_messages import TokenChoices
from app.child import Verdict
from app.protocol import Complete, Failed, Generate, Replied, Stop, Tokens
from app.serving.messages import Served, Serving, StartServing
from app.ui.engines import Engine
from app.ui.process import WorkerProcess
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

OWNER = "serve"
EVERYWHERE = "0.0.0.0"
OFF, STARTING, ON = "off", "starting", "on"


class ServeDesk(QObject):
    """``state`` is ``off``, ``starting`` or ``on``; ``url`` where it is served, ``path`` what, ``counts`` how much so
    far. ``error`` says why it went off by itself. ``changed`` comes with each of them.
    """

    changed = Signal()

    def __init__(self, context: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._process: WorkerProcess | None = None
        self._leaving: list[WorkerProcess] = []
        self._engine: Engine | None = None
        self._numbers: dict[int, int] = {}  # of the engine's requests -> of the questions of the web
        self._closing = False
        self.state = OFF
        self.path = ""
        self.url = ""
        self.counts = Served(0, 0, 0)
        self.error: QuenchError | None = None

    @property
    def address(self) -> str:
        """As :attr:`url`, as other machines would write it where it is for them too."""
        return self.url.replace(EVERYWHERE, socket.gethostname() or EVERYWHERE)

    def offer(self) -> Engine | None:
        """The model that can be served: one of this machine that is loaded."""
        engines = self._context.engines.engines
        return next((e for e in reversed(engines) if e.loaded is not None and not e.is_remote), None)

    def start(self, engine: Engine, host: str, port: int, token: str = "") -> None:
        """Serve ``engine``, which has to be loaded; it stays loaded until :meth:`stop`."""
        self.stop()
        loaded = engine.loaded
        assert loaded is not None
        self._engine = self._context.engines.get(engine.path, None, OWNER)
        self._engine.tokens.connect(self._said)
        self._engine.choices.connect(self._said)
        self._engine.replied.connect(self._said)
        self._engine.failed.connect(self._failed)
        self.path, self.error, self.counts = engine.path, None, Served(0, 0, 0)
        drawn = loaded.defaults
        command = StartServing(
            host, port, Path(engine.path).stem, token, context=loaded.context, temperature=drawn.temperature,
            top_k=drawn.top_k, top_p=drawn.top_p, min_p=drawn.min_p, repeat_penalty=drawn.repeat_penalty,
        )  # fmt: skip
        process = self._process = WorkerProcess("serve", self)
        process.event.connect(self._heard)
        process.finished.connect(lambda verdict: self._ended(process, verdict))
        process.start()
        process.send(command)
        self._set(STARTING)

    def stop(self) -> None:
        """Stop serving; answers that are being written are dropped."""
        process, self._process = self._process, None
        if process is not None:
            process.event.disconnect(self._heard)
            self._leaving.append(process)
            process.stop()
        self._let_go()
        self._set(OFF)

    def processes(self) -> list[WorkerProcess]:
        """The worker, if there is one, and those that are about to leave."""
        return [*self._leaving, *([self._process] if self._process is not None else [])]

    def close(self) -> None:
        """Serve nothing more (used at the end of the program, before the workers end)."""
        self._closing = True

    def _let_go(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.tokens.disconnect(self._said)
        engine.choices.disconnect(self._said)
        engine.replied.disconnect(self._said)
        engine.failed.disconnect(self._failed)
        for number in self._numbers:
            engine.stop(number)
        self._numbers.clear()
        self._context.engines.release(engine.path, OWNER)

    def _set(self, state: str) -> None:
        if state != ON:
            self.url = ""
        if state != self.state:
            self.state = state
            self.changed.emit()

    # ---- the relay ---------------------------------------------------------------------------------------------

    def _heard(self, message: object) -> None:
        if isinstance(message, Serving):
            self.url = message.url
            self._set(ON)
        elif isinstance(message, Served):
            self.counts = message
            self.changed.emit()
        elif isinstance(message, Stop):
            mine = next((mine for mine, theirs in self._numbers.items() if theirs == message.request), None)
            if mine is not None and self._engine is not None:
                self._engine.stop(mine)
        elif isinstance(message, Generate | Complete) and self._engine is not None:
            # A model that has died is loaded again by the next question.
            engine = self._context.engines.get(self.path, None, OWNER)
            self._numbers[engine.pass_on(message)] = message.request

    def _said(self, event: Tokens | TokenChoices | Replied) -> None:
        number = self._numbers.get(event.request)
        if number is None or self._process is None:
            return  # another page's
        if isinstance(event, Replied):
            del self._numbers[event.request]
        self._process.send(msgspec.structs.replace(event, request=number))

    def _failed(self, failure: Failed | QuenchError) -> None:
        hit = [failure.request] if isinstance(failure, Failed) else list(self._numbers)
        error = failure.to_error() if isinstance(failure, Failed) else failure
        for mine in hit:
            number = self._numbers.pop(mine, None)
            if number is not None and self._process is not None:
                self._process.send(protocol.failed(error, number))

    def _ended(self, process: WorkerProcess, verdict: Verdict) -> None:
        process.deleteLater()
        if process in self._leaving:
            self._leaving.remove(process)
            return
        self._process = None
        if self._closing:
            return
        self._let_go()
        self.error = verdict.error or QuenchError("engine_died", self.tr("The process that serves the model ended."))
        self.state = OFF
        self.url = ""
        self.changed.emit()


__all__ = ["OFF", "ON", "OWNER", "STARTING", "ServeDesk"]
