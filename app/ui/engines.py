"""Loaded models. Each lives in a worker of its own; pages talk to :class:`Engine` and survive its death."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app import protocol
from app.adapter_messages import Adapter, AdaptersSet, SetAdapters
from app.chat_messages import NEVER, Constraint, TokenChoices
from app.child import Verdict
from app.context_messages import ContextFitted, Summary
from app.memory_messages import Memory
from app.protocol import ChatMessage, Loaded, LoadOptions, Sampling
from app.remote.address import is_remote
from app.ui.process import WorkerProcess
from app.ui.watchdog import Watchdog
from converter.spec import QuenchError

Opening = Callable[[str, LoadOptions], tuple[str, msgspec.Struct]]
"""What a model is loaded with: the kind of worker, and its first command."""

STARTING, LOADING, READY, BUSY, DEAD = "starting", "loading", "ready", "busy", "dead"


def load_file(path: str, options: LoadOptions) -> tuple[str, msgspec.Struct]:
    """The opening of a model file."""
    return "chat", protocol.Load(path, options)


class Engine(QObject):
    """One model in one process: a file, or the model of a server, as its ``opening`` says.

    ``state`` is ``starting``, ``loading``, ``ready``, ``busy`` or ``dead``. Requests sent before it is ready wait.
    ``tokens``, ``choices``, ``replied``, ``scored``, ``counted``, ``fitted`` and ``adapted`` carry the protocol's
    messages, ``loading`` a fraction 0..1. ``failed`` carries a :class:`Failed` (its ``request`` says what failed; the
    engine lives on) or, when the worker has died or could not load, a QuenchError (its attribute ``request`` is the
    request that was running, or 0; state is ``dead``). ``silent`` says that it hangs while it should write, ``awake``
    that it does not after all; one that does not stop when it is told to is ended.
    """

    state_changed = Signal()
    loading = Signal(float)
    tokens = Signal(object)
    replied = Signal(object)
    scored = Signal(object)
    counted = Signal(object)
    choices = Signal(object)
    fitted = Signal(object)
    adapted = Signal(object)
    failed = Signal(object)
    silent = Signal()
    awake = Signal()

    def __init__(
        self, path: str, options: LoadOptions, parent: QObject | None = None, opening: Opening = load_file
    ) -> None:
        super().__init__(parent)
        self.path = path
        self._opening = opening
        self.options = options
        self.state = STARTING
        self.loaded: Loaded | None = None
        self.memory: Memory | None = None
        self.rate = 0.0
        self.context_used = 0
        self.error: QuenchError | None = None
        self.owners: set[str] = set()
        self.anyway = False
        self.ratio = 1.0
        self.replaces: tuple[int, ...] = ()
        self.keeps = 0
        self.adapters: tuple[Adapter, ...] = ()
        self._process: WorkerProcess | None = None
        self._last = 0
        self._open: list[int] = []
        self._writing: set[int] = set()
        self._leaving = False
        self._ended_for: QuenchError | None = None
        self.watchdog = Watchdog(self)
        self.watchdog.silent.connect(self.silent)
        self.watchdog.awake.connect(self.awake)
        self.watchdog.deaf.connect(self._did_not_stop)

    @property
    def is_remote(self) -> bool:
        """Whether a server has the model."""
        return is_remote(self.path)

    def start(self) -> None:
        """Start the worker and load the model; called by the pool and by :meth:`reload`."""
        self.loaded, self.error, self.rate, self.context_used = None, None, 0.0, 0
        self._open.clear()
        self._leaving, self._ended_for = False, None
        kind, command = self._opening(self.path, self.options)
        process = WorkerProcess(kind, self)
        self._process = process
        process.event.connect(lambda message: self._heard(process, message))
        process.finished.connect(lambda verdict: self._died(process, verdict))
        self._set_state(STARTING)
        process.start()
        if isinstance(command, protocol.Load):
            command = protocol.Load(command.path, command.options, self.anyway, self.replaces, self.ratio, self.keeps)
        process.send(command)
        if self.adapters and not self.is_remote:
            wanted, self.adapters = self.adapters, ()
            self.adapt(wanted)

    def generate(
        self,
        messages: list[ChatMessage] | tuple[ChatMessage, ...],
        sampling: Sampling | None = None,
        continue_last: bool = False,
        constraint: Constraint | None = None,
        probabilities: str = NEVER,
        *,
        overflow: str = "stop",
        summary: Summary | None = None,
        conversation: str = "",
        draft: str = "",
    ) -> int:
        """Answer a conversation; returns the request id. ``sampling`` None means the model's own defaults; the rest is
        as in :class:`app.protocol.Generate`."""
        chosen = sampling or (self.loaded.defaults if self.loaded else Sampling())
        held = constraint or Constraint()
        number = self._request(
            lambda number: protocol.Generate(
                number,
                tuple(messages),
                chosen,
                continue_last,
                held,
                probabilities,
                overflow,
                summary,
                conversation,
                draft,
            )
        )
        self._writing.add(number)
        self._watch()
        return number

    def score(
        self,
        messages: list[ChatMessage] | tuple[ChatMessage, ...],
        answer: str,
        write: str | None = None,
        against: str | None = None,
    ) -> int:
        """Teacher-force ``answer``; give at most one of ``write`` and ``against``. Returns the request id."""
        return self._request(lambda number: protocol.Score(number, tuple(messages), answer, write, against))

    def pass_on(self, question: protocol.Generate | protocol.Complete) -> int:
        """Ask what another program wants to know, under a number of this engine's own, which is returned."""
        number = self._request(lambda number: msgspec.structs.replace(question, request=number))
        self._writing.add(number)
        self._watch()
        return number

    def count(self, messages: list[ChatMessage] | tuple[ChatMessage, ...], text: str) -> int:
        """Count the tokens of a text, and of the prompt that ``messages`` make. Returns the request id."""
        return self._request(lambda number: protocol.Count(number, tuple(messages), text))

    def adapt(self, adapters: tuple[Adapter, ...]) -> int:
        """Use exactly these LoRA adapters from now on. Returns the request id."""
        return self._request(lambda number: SetAdapters(number, adapters))

    def stop(self, request: int) -> None:
        """Stop a reply; it ends with ``replied`` whose ``stop`` is ``cancelled``."""
        if self._process is not None and request in self._open:
            self._process.send(protocol.Stop(request))
            if request == self._open[0]:
                self.watchdog.stopping()

    def end(self, error: QuenchError | None = None) -> None:
        """Kill a worker that hangs; ``failed`` comes with ``error``, or with what a killed process means."""
        self._ended_for = error
        if self._process is not None:
            self._process.kill()

    def reload(self) -> None:
        """Load again: after it died, or with other ``options`` set on it before.

        Requests that were running or waiting are not taken along: each one gets a ``failed`` with the code
        ``reloaded``, after the new worker has been started.
        """
        dropped = list(self._open)
        if self._process is not None:
            process, self._process = self._process, None
            self.replaces = (*self.replaces, process.pid())
            process.stop()
        self.start()
        for number in dropped:
            self.failed.emit(protocol.failed(self._reloaded(), number))

    def pid(self) -> int:
        """Process id of its worker, 0 when dead."""
        return self._process.pid() if self._process is not None else 0

    def process(self) -> WorkerProcess | None:
        return self._process

    def _request(self, make: Any) -> int:
        self._last += 1
        self._open.append(self._last)
        if self._process is None:
            number = self._last
            QTimer.singleShot(0, self, lambda: self._refuse(number))
            return number
        self._process.send(make(self._last))
        if self.state == READY:
            self._set_state(BUSY)
        return self._last

    def _refuse(self, number: int) -> None:
        """A request to a dead engine fails like one that it died of, but only after the caller has its number."""
        if number not in self._open:
            return
        self._open.remove(number)
        error = QuenchError(
            "engine_died",
            self.tr("The model is not loaded any more."),
            self.path,
            self.tr("Load it again."),
            exit_status=5,
        )
        error.request = number
        self.failed.emit(error)

    def _reloaded(self) -> QuenchError:
        return QuenchError(
            "reloaded",
            self.tr("The model was loaded again before this was finished."),
            self.path,
            self.tr("Retry with the model as it is loaded now."),
        )

    def _heard(self, process: WorkerProcess, message: object) -> None:
        if process is not self._process:
            return  # the last words of a worker that a reload has sent away
        self.watchdog.hear()
        if isinstance(message, protocol.Tokens):
            self.rate = message.rate
            self.context_used = message.context_used
            self.tokens.emit(message)
        elif isinstance(message, TokenChoices):
            self.choices.emit(message)
        elif isinstance(message, protocol.Loading):
            if self.state != LOADING:
                self._set_state(LOADING)
            self.loading.emit(message.fraction)
        elif isinstance(message, protocol.Loaded):
            self.loaded, self.memory = message, message.memory
            self._set_state(BUSY if self._open else READY)
            self._watch()
        elif isinstance(message, protocol.Replied):
            self.memory, self.rate, self.context_used = message.memory, 0.0, message.context_used
            self._close(message.request)
            self.replied.emit(message)
        elif isinstance(message, ContextFitted):
            self.fitted.emit(message)
        elif isinstance(message, protocol.Scored):
            self._close(message.request)
            self.scored.emit(message)
        elif isinstance(message, AdaptersSet):
            self.adapters = message.adapters
            self._close(message.request)
            self.adapted.emit(message)
        elif isinstance(message, protocol.Counted):
            self._close(message.request)
            self.counted.emit(message)
        elif isinstance(message, protocol.Failed) and message.request:
            self._close(message.request)
            self.failed.emit(message)

    def _close(self, request: int) -> None:
        if request in self._open:
            self._open.remove(request)
        self._writing.discard(request)
        self.rate = 0.0
        self._set_state(BUSY if self._open else READY)
        self._watch()

    def _watch(self) -> None:
        """A loaded engine that writes is heard of all the time; scoring is silent, loading and a server may be."""
        writes = self.loaded is not None and not self.is_remote and bool(self._open) and self._open[0] in self._writing
        self.watchdog.watch(writes)

    def _did_not_stop(self) -> None:
        self.end(
            QuenchError(
                "engine_hung",
                self.tr("The engine did not stop when it was told to, and was ended."),
                self.path,
                self.tr("What it had written is kept. Load the model again."),
                exit_status=5,
            )
        )

    def _died(self, process: WorkerProcess, verdict: Verdict) -> None:
        process.deleteLater()
        if process is not self._process:
            return
        self._process = None
        self.memory, self.rate = None, 0.0
        requests, self._open = self._open, []
        self._writing.clear()
        self.watchdog.watch(False)
        self._set_state(DEAD)
        if self._leaving or (verdict.error is None and verdict.cancelled):
            return
        self.error = (
            self._ended_for
            or verdict.error
            or QuenchError(
                "engine_died",
                self.tr("The engine process ended."),
                self.path,
                self.tr("Load the model again."),
                exit_status=5,
            )
        )
        self.error.request = requests[0] if requests else 0
        self.failed.emit(self.error)

    def leave(self) -> None:
        """End the worker; no ``failed`` comes for it."""
        self._leaving = True
        if self._process is not None:
            self._process.stop()

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.state_changed.emit()


class EnginePool(QObject):
    """The loaded models. An engine stays as long as somebody holds it; ``changed`` comes when any engine changed."""

    changed = Signal()
    wrote = Signal()
    """An engine has told of new text: what shows how fast it is may be painted with that."""

    def __init__(self, parent: QObject | None = None, opening: Opening = load_file) -> None:
        super().__init__(parent)
        self._opening = opening
        self.engines: list[Engine] = []
        self.keeps: Callable[[], int] = lambda: 0
        self.ratio_of: Callable[[str], float] = lambda path: 1.0
        self._leaving: list[Engine] = []
        self._closing = False

    def get(self, path: str, options: LoadOptions | None = None, owner: str = "", *, anyway: bool = False) -> Engine:
        """The engine for ``path``: the running one, or a new one that starts to load.

        ``options`` None takes the model however it is loaded. Other options than it has load it again, which fails what
        it was doing (see :meth:`Engine.reload`). ``owner`` names the holder; asking twice with one name counts once.
        ``anyway``: load it also where it does not fit.
        """
        engine = self.find(path)
        if engine is None:
            engine = Engine(path, options or LoadOptions(), self, self._opening)
            engine.state_changed.connect(self.changed)
            engine.tokens.connect(self.wrote)
            self.engines.append(engine)
            engine.owners.add(owner)
            self._prepare(engine, anyway)
            engine.start()
            self.changed.emit()
            return engine
        engine.owners.add(owner)
        other = options is not None and options != engine.options and not is_remote(path)
        if engine.state == DEAD or other:
            engine.options = options or engine.options
            self._prepare(engine, anyway)
            engine.reload()
        return engine

    def leaving(self) -> tuple[int, ...]:
        """Process ids of workers that are about to end."""
        return tuple(pid for engine in self._leaving if (pid := engine.pid()))

    def _prepare(self, engine: Engine, anyway: bool) -> None:
        engine.anyway, engine.ratio, engine.replaces = anyway, self.ratio_of(engine.path), self.leaving()
        engine.keeps = self.keeps()

    def find(self, path: str) -> Engine | None:
        """The engine for ``path`` if there is one, dead or alive; starts nothing."""
        return next((engine for engine in self.engines if engine.path == path), None)

    def release(self, path: str, owner: str = "") -> None:
        """Give an engine back; with its last holder gone the worker ends and its memory is free."""
        engine = self.find(path)
        if engine is None:
            return
        engine.owners.discard(owner)
        if engine.owners:
            return
        self.engines.remove(engine)
        if engine.process() is None:
            engine.deleteLater()
        else:
            self._leaving.append(engine)
            engine.state_changed.connect(self._tidy)
            engine.leave()
        self.changed.emit()

    def processes(self) -> list[WorkerProcess]:
        """Running workers (used at the end of the program)."""
        everyone = [*self.engines, *self._leaving]
        for engine in everyone:
            engine._leaving = True
        # Also workers that a reload has left behind: they are children of their engine until they are gone.
        return [process for engine in everyone for process in engine.findChildren(WorkerProcess)]

    def _tidy(self) -> None:
        for engine in [engine for engine in self._leaving if engine.state == DEAD]:
            self._leaving.remove(engine)
            engine.deleteLater()
