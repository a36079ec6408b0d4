"""The worker that speaks HTTP for a loaded model; see :mod:`app.serving.messages` for who answers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import uvicorn

from app.chat_messages import TokenChoices
from app.protocol import Command, Complete, Event, Failed, Generate, Replied, Stop, Tokens
from app.serving import guard
from app.serving.forms import RefusedError
from app.serving.messages import Embed, Embedded, Served, Serving, StartServing
from app.serving.service import Counts, Service
from app.workers.runtime import Connection
from converter.spec import QuenchError

WAITING = 32
"""Questions that may wait for the model, the one that is answered included."""
CONNECTIONS = 128
_COUNT_SECONDS = 0.25
_BACKLOG = 64


def serve(connection: Connection) -> None:
    """Serve HTTP until the parent says Cancel or goes away."""
    desk: _Desk | None = None
    for command in connection.commands():
        if isinstance(command, StartServing):
            if desk is not None:
                raise QuenchError("usage", "It is served already.", "", "", exit_status=2)
            desk = _Desk(connection, command)
        elif desk is not None and isinstance(command, Tokens | TokenChoices | Replied | Embedded | Failed):
            desk.take(command)
        else:
            raise QuenchError("usage", "The serving worker cannot do this.", type(command).__name__, "", exit_status=2)
    if desk is not None:
        desk.close()


class _Exchange:
    def __init__(self, number: int, closed: Callable[[int, bool], None]) -> None:
        self._number = number
        self._closed = closed
        self._finished = False
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        event = await self.events.get()
        self._finished = isinstance(event, Replied | Embedded | Failed)
        return event

    def close(self) -> None:
        self._closed(self._number, self._finished)


class _Desk:
    """The HTTP server in a thread of its own, and the questions that it has passed up."""

    def __init__(self, connection: Connection, start: StartServing) -> None:
        guard.check(start.host, start.token)
        listener = _listen(start)
        self._connection = connection
        self._loop = asyncio.new_event_loop()
        self._open: dict[int, _Exchange] = {}
        self._last = 0
        self._counts = Counts(0, 0, 0)
        self._untold = False
        config = uvicorn.Config(
            Service(start, self._ask, self._count),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            http="h11",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        host = f"[{start.host}]" if ":" in start.host else start.host
        url = f"http://{host}:{listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._run, args=(listener,), name="http", daemon=True)
        self._thread.start()
        connection.send(Serving(url))

    def take(self, event: Event) -> None:
        """What the model's worker has said."""
        self._loop.call_soon_threadsafe(self._pass_on, event)

    def close(self) -> None:
        """Let the open answers go and stop listening."""
        self._server.should_exit = True
        self._thread.join(3)
        self._tell()

    # ---- in the server's thread

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve(sockets=[listener]))

    def _ask(self, make: Callable[[int], Command]) -> _Exchange:
        if len(self._open) >= WAITING:
            raise RefusedError(429, "Too many requests wait for the model.", "rate_limit_error", "busy")
        self._last += 1
        exchange = self._open[self._last] = _Exchange(self._last, self._closed)
        question = make(self._last)
        assert isinstance(question, Generate | Complete | Embed)
        self._connection.send(question)
        return exchange

    def _closed(self, number: int, finished: bool) -> None:
        if self._open.pop(number, None) is not None and not finished:
            self._connection.send(Stop(number))

    def _pass_on(self, event: Event) -> None:
        exchange = self._open.get(getattr(event, "request", 0))
        if exchange is not None:
            exchange.events.put_nowait(event)

    def _count(self, counts: Counts) -> None:
        self._counts = counts
        if not self._untold:
            self._untold = True
            self._loop.call_later(_COUNT_SECONDS, self._tell)

    def _tell(self) -> None:
        self._untold = False
        self._connection.send(Served(*self._counts))


def _listen(start: StartServing) -> socket.socket:
    """A listening socket; ``QuenchError`` ``cannot_listen`` if the port is taken or the host is not this machine's."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(start.host, start.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if hasattr(socket, "SO_REUSEADDR"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise QuenchError(
            "cannot_listen",
            "Nothing can be served there.",
            f"{start.host}:{start.port}: {error}",
            "Another program may use this port: choose another one.",
        ) from error
    return listener


__all__ = ["WAITING", "serve"]
