"""The servers that the library knows: which models they have, whether they answer, and their keys of this session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app import protocol
from app.child import Verdict
from app.local.entry import Listed
from app.measure_messages import ServedCandidate
from app.protocol import Load, LoadOptions
from app.remote import address
from app.remote.address import Server
from app.remote.messages import AskMachine, AskServer, Connect, KeepKey, KeyTold, ServerState, ServerTold
from app.ui.process import WorkerProcess
from converter.spec import ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

Answer = Callable[[Any], object]
KIND = "server"
"""``kind`` of a served model's description; its ``metadata`` has ``server`` and ``software``."""


@dataclass
class _Question:
    command: msgspec.Struct
    done: Answer


class Servers(QObject):
    """``changed`` when a server came, went, answered or did not. Servers themselves are in the settings.

    One worker asks them, started with the first question. Every callback is called once, in the UI thread, with the
    worker's answer or a QuenchError; after :meth:`close` none is.
    """

    changed = Signal()

    def __init__(self, context: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._process: WorkerProcess | None = None
        self._last = 0
        self._open: dict[int, _Question] = {}
        self._closing = False
        self._health: dict[str, ServerState | QuenchError] = {}
        self._keys: dict[str, str] = {}  # of servers whose key no keyring keeps, by their origin

    # ---- what is known -----------------------------------------------------------------------------------------

    @property
    def known(self) -> tuple[Server, ...]:
        """The servers of the settings."""
        return self._context.settings.servers

    def health(self, name: str) -> ServerState | QuenchError | None:
        """What a server answered last, or why it did not; None if it was not asked yet."""
        return self._health.get(name)

    def listed(self) -> list[Listed]:
        """Every model of every server, as the library lists models; of a server without any one line that says why."""
        return [
            Listed(info, KIND, title=title_of_served(info)) for server in self.known for info in self._described(server)
        ]

    def entry(self, path: str) -> ModelInfo | None:
        """The description of a served model, or None."""
        server = address.find(self.known, address.split_path(path)[0])
        described = self._described(server) if server is not None else []
        return next((info for info in described if info.path == path), None)

    def _described(self, server: Server) -> list[ModelInfo]:
        health = self._health.get(server.name)
        contexts = {model.id: model.context for model in health.models} if isinstance(health, ServerState) else {}
        problems = (f"{health.title} {health.detail} {health.hint}".strip(),) if isinstance(health, QuenchError) else ()
        if isinstance(health, ServerState) and not health.models:
            problems = (self.tr("The server has no model. Load one there, then look again."),)
        metadata = {"server": server.name, "url": server.url}
        if isinstance(health, ServerState):
            metadata["software"] = health.software or self.tr("server")
        return [
            ModelInfo(
                path=address.model_path(server.name, model), kind=KIND, name=model, architecture="", parameters=0,
                layers=0, context_length=contexts.get(model, 0), embedding_length=0, heads=0, kv_heads=0, key_length=0,
                value_length=0, experts=0, vocabulary=0, tokenizer="", pre_tokenizer="", types={}, bytes=0, tensors=(),
                metadata=metadata, problems=problems,
            )
            for model in (tuple(contexts) or server.models or ("",))
        ]  # fmt: skip

    # ---- changes -----------------------------------------------------------------------------------------------

    def put(self, server: Server, state: ServerState, replaces: str = "") -> None:
        """Take a server that has answered into the library, in the place of the one called ``replaces``."""
        models = address.remembered(model.id for model in state.models)
        server = msgspec.structs.replace(server, models=models)
        others = [other for other in self.known if other.name not in (server.name, replaces)]
        self._health.pop(replaces, None)
        self._health[server.name] = state
        self._context.update_settings(servers=(*others, server))
        self.changed.emit()

    def remove(self, name: str) -> None:
        """Forget a server, and its key unless another one has the same origin."""
        server = address.find(self.known, name)
        if server is None:
            return
        self._health.pop(name, None)
        rest = tuple(other for other in self.known if other.name != name)
        self._context.update_settings(servers=rest)
        if address.origin(server.url) not in {address.origin(other.url) for other in rest}:
            self.keep_key(server.url, "", lambda answer: None)
        self.changed.emit()

    def look(self) -> None:
        """Ask every server anew."""
        for server in self.known:
            self.ask(server.url, "", lambda answer, server=server: self._looked(server, answer))

    def _looked(self, server: Server, answer: ServerTold | QuenchError) -> None:
        if server not in self.known:
            return  # changed or removed meanwhile
        self._health[server.name] = answer if isinstance(answer, QuenchError) else answer.state
        if isinstance(answer, ServerTold):
            models = address.remembered(model.id for model in answer.state.models)
            now = tuple(
                msgspec.structs.replace(other, models=models) if other == server else other for other in self.known
            )
            self._context.update_settings(servers=now)
        self.changed.emit()

    # ---- asking ------------------------------------------------------------------------------------------------

    def ask(self, url: str, secret: str, callback: Answer) -> int:
        """What a server has; the answer is a :class:`ServerTold`. ``secret`` empty: the key that is known."""
        return self._ask(lambda number: AskServer(number, url, secret or self._session_key(url)), callback)

    def ask_machine(self, endpoint: str, callback: Answer) -> int:
        """How a machine with an RPC worker is; the answer is a :class:`MachineTold`."""
        return self._ask(lambda number: AskMachine(number, endpoint), callback)

    def keep_key(self, url: str, secret: str, callback: Answer) -> int:
        """Keep a key in the keyring, or forget it; the answer is a :class:`KeyTold`. Where there is no keyring it is
        used until the program ends, and never written down."""

        def kept(answer: KeyTold | QuenchError) -> None:
            self._keys.pop(address.origin(url), None)
            if secret and isinstance(answer, KeyTold) and not answer.kept:
                self._keys[address.origin(url)] = secret.strip()
            callback(answer)

        return self._ask(lambda number: KeepKey(number, url, secret), kept)

    def opening(self, path: str, options: LoadOptions) -> tuple[str, msgspec.Struct]:
        """The worker that answers for a model, and its first command."""
        if not address.is_remote(path):
            return "chat", Load(path, options)
        name, model = address.split_path(path)
        server = address.find(self.known, name)
        url = server.url if server is not None else ""
        return "server", Connect(url, model, self._session_key(url) if url else "")

    def candidate(self, path: str) -> ServedCandidate:
        """How a measurement reaches a served model; a server that is gone has no address."""
        name, model = address.split_path(path)
        server = address.find(self.known, name)
        url = server.url if server is not None else ""
        return ServedCandidate(path, url, model, self._session_key(url) if url else "")

    def _session_key(self, url: str) -> str:
        return self._keys.get(address.origin(url), "")

    def forget(self, request: int) -> None:
        """Drop a question: its callback will not be called."""
        self._open.pop(request, None)

    def processes(self) -> list[WorkerProcess]:
        """The worker, if there is one."""
        return [self._process] if self._process is not None else []

    def close(self) -> None:
        """Ask nothing more, and call nobody back."""
        self._closing = True
        self._open.clear()

    def _ask(self, make: Callable[[int], msgspec.Struct], done: Answer) -> int:
        self._last += 1
        if self._closing:
            return self._last
        self._open[self._last] = _Question(make(self._last), done)
        if self._process is None:
            self._process = WorkerProcess("server", self)
            self._process.event.connect(self._answered)
            self._process.finished.connect(self._died)
            self._process.start()
        self._process.send(self._open[self._last].command)
        return self._last

    def _answered(self, message: object) -> None:
        question = self._open.pop(getattr(message, "request", 0), None)
        if question is not None:
            question.done(message.to_error() if isinstance(message, protocol.Failed) else message)

    def _died(self, verdict: Verdict) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        questions = list(self._open.values())
        self._open.clear()
        error = verdict.error or QuenchError("engine_died", self.tr("The process that asks servers ended."))
        for question in questions:
            question.done(error)


def title_of_served(info: ModelInfo) -> str:
    """How a served model is called: ``qwen3:4b · My desk``; the server itself where it has none."""
    server = str(info.metadata.get("server", ""))
    return f"{info.name} · {server}" if info.name else server


__all__ = ["KIND", "Servers", "title_of_served"]
