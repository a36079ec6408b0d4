"""The worker of a served model: it speaks like the chat worker, over HTTP. Without a model it answers questions about
servers.

All network is in one thread with an event loop, so that ``Stop`` takes hold at once, whatever is waited for: a name, a
connection, the next word. Replies are written one after another, questions beside them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from app.memory_messages import Memory
from app.protocol import (
    Cancel,
    Command,
    Count,
    Event,
    Generate,
    Loaded,
    Replied,
    Sampling,
    Score,
    Scored,
    Stop,
    Tokens,
    failed,
)
from app.remote import keys
from app.remote.address import check_url, host
from app.remote.client import Client, Piece, Usage, pick, unsent
from app.remote.messages import (
    AskMachine,
    AskServer,
    Connect,
    KeepKey,
    KeyTold,
    MachineTold,
    ServedModel,
    ServerState,
    ServerTold,
)
from app.remote.rpc import look
from app.workers.runtime import Connection, Throttle, stopped
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.compare.served import ServedScorer

TOKENS_PER_SECOND = 30
_HEARTBEAT = 1.0
_NO_MEMORY = Memory(0, 0, 0)
_STOPS = {"length": "max_tokens"}


def serve(connection: Connection) -> None:
    """Serve until the parent says Cancel or goes away. A server that cannot be connected to ends the worker."""
    worker = _Worker(connection)
    connection.intercept(worker.urgent)
    for command in connection.commands():
        worker.handle(command)


class _Served:
    """The model that is talked to."""

    def __init__(self, client: Client, model: ServedModel, state: ServerState) -> None:
        self.client = client
        self.model = model.id
        self.software = state.software
        self._vocabulary = model.vocabulary
        self._scorer: ServedScorer | None = None

    async def score(self, command: Score) -> Scored:
        if self._scorer is None:
            from app.compare.served import ServedScorer  # with all its arithmetic, which few conversations need

            self._scorer = ServedScorer(self.client, self.model, self.software, self._vocabulary)
        return await self._scorer.score(command)


class _Worker:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.new_event_loop()
        self._served: _Served | None = None
        self._connecting: concurrent.futures.Future[Loaded] | None = None
        self._turn = asyncio.Lock()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: set[int] = set()
        threading.Thread(target=self._loop.run_forever, name="network", daemon=True).start()

    # ---- in the reading thread

    def urgent(self, command: Command) -> bool:
        """Stop and Cancel; True if the command is used up."""
        if isinstance(command, Stop):
            self._loop.call_soon_threadsafe(self._stop, command.request)
            return True
        if isinstance(command, Cancel):
            self._connection.cancelled.set()
            if self._connecting is not None:
                self._connecting.cancel()
        return False

    # ---- in the serving thread

    def handle(self, command: Command) -> None:
        if isinstance(command, Connect):
            self._connect(command)
        elif isinstance(command, Generate | Score):
            self._loop.call_soon_threadsafe(self._begin, command)
        elif isinstance(command, AskServer | KeepKey):
            self._loop.call_soon_threadsafe(self._keep, self._answer(command))
        elif isinstance(command, AskMachine):
            self._loop.call_soon_threadsafe(self._keep, self._tell_machine(command))
        elif isinstance(command, Count):
            self._connection.send(failed(_cannot_count(), command.request))
        else:
            raise QuenchError("usage", "The server worker cannot do this.", type(command).__name__, "", exit_status=2)

    def _connect(self, command: Connect) -> None:
        self._connecting = asyncio.run_coroutine_threadsafe(self._open(command), self._loop)
        if self._connection.cancelled.is_set():
            self._connecting.cancel()
        try:
            self._connection.send(self._connecting.result())
        except concurrent.futures.CancelledError:
            return
        finally:
            self._connecting = None

    # ---- in the loop's thread

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _begin(self, command: Generate | Score) -> None:
        progress = _Progress(self._connection, command.request)
        work = self._reply(command, progress) if isinstance(command, Generate) else self._score(command, progress)
        self._running[command.request] = task = self._keep(work)
        task.add_done_callback(lambda task: self._over(command, task, progress))
        if command.request in self._stopped:
            task.cancel()

    def _over(self, command: Generate | Score, task: asyncio.Task[None], progress: _Progress) -> None:
        """What was stopped ends here: its task may not even have begun."""
        if task.cancelled():
            if isinstance(command, Generate):
                progress.end("cancelled")
            elif not self._connection.cancelled.is_set():
                self._connection.send(failed(stopped(), command.request))
        self._running.pop(command.request, None)
        self._stopped.discard(command.request)

    def _stop(self, request: int) -> None:
        self._stopped.add(request)  # it may still be on its way from the serving thread
        if request in self._running:
            self._running[request].cancel()

    async def _open(self, command: Connect) -> Loaded:
        start = time.monotonic()
        if not command.url:
            raise QuenchError(
                "no_server",
                "This server is not in the library any more.",
                "",
                "Add it again under the same name: Library, Add, Server.",
            )
        secret = keys.check(command.secret) or keys.find(command.url)
        client = Client(check_url(command.url), secret, command.silence)
        state = await client.look()
        found = pick(state, command.model, command.url)
        if self._served is not None:
            await self._served.client.close()
        self._served = _Served(client, found, state)
        context = found.context
        name = f"{state.software or 'Server'} at {host(command.url)}"
        if names := unsent(state.software):
            name += f"; not sent to it: {', '.join(names)}"
        seconds = time.monotonic() - start
        return Loaded(found.id, name, 0, context, context, 0, seconds, _NO_MEMORY, True, Sampling())

    async def _answer(self, command: AskServer | KeepKey) -> None:
        try:
            event: Event = await (self._look(command) if isinstance(command, AskServer) else self._keep_key(command))
        except Exception as error:
            self._connection.send(failed(_known(error), command.request))
            if not isinstance(error, QuenchError):
                raise
            return
        self._connection.send(event)

    async def _tell_machine(self, command: AskMachine) -> None:
        self._connection.send(MachineTold(command.request, await look(command.endpoint)))

    async def _look(self, command: AskServer) -> Event:
        url = check_url(command.url)
        given = keys.check(command.secret)
        kept = "" if given else await asyncio.to_thread(keys.find, url)  # a keyring may ask the person first
        async with Client(url, given or kept) as client:
            state = await client.look()
        source = "given" if given else "keyring" if kept else ""
        return ServerTold(command.request, msgspec.structs.replace(state, key=source))

    async def _keep_key(self, command: KeepKey) -> Event:
        why = await asyncio.to_thread(keys.keep, check_url(command.url), command.secret)
        return KeyTold(command.request, not why, why)

    async def _hear(self, served: _Served, command: Generate, progress: _Progress) -> None:
        pieces = served.client.chat(
            served.model, command.messages, command.sampling, served.software,
            continue_last=command.continue_last, constraint=command.constraint,
        )  # fmt: skip
        async for piece in pieces:
            progress.add(piece)

    async def _reply(self, command: Generate, progress: _Progress) -> None:
        async with self._at_work(command, progress) as served:
            await self._hear(served, command, progress)
            progress.end()

    async def _score(self, command: Score, progress: _Progress) -> None:
        async with self._at_work(command, progress) as served:
            self._connection.send(await served.score(command))

    @contextlib.asynccontextmanager
    async def _at_work(self, command: Generate | Score, progress: _Progress) -> AsyncIterator[_Served]:
        """The model, when it is this one's turn. What goes wrong is told; what should not, also to the log."""
        try:
            async with self._turn:
                if self._served is None:
                    raise QuenchError(
                        "not_loaded", "No server is connected.", "", "Connect to one first.", exit_status=2
                    )
                progress.begin()
                beat = self._keep(_beat(progress))
                try:
                    yield self._served
                finally:
                    beat.cancel()
        except Exception as error:
            progress.flush()
            self._connection.send(failed(_known(error), command.request))
            if not isinstance(error, QuenchError):
                raise


async def _beat(progress: _Progress) -> None:
    """At least one event a second: the worker lives, whatever the server does."""
    while True:
        await asyncio.sleep(_HEARTBEAT)
        progress.flush(always=True)


class _Progress:
    """What comes of one reply: Tokens events, coalesced, and the figures of its end.

    Until the server has counted them, each piece of text counts as a token, which is what servers send.
    """

    def __init__(self, connection: Connection, request: int) -> None:
        self._connection = connection
        self._request = request
        self._throttle = Throttle(TOKENS_PER_SECOND)
        self._start = self._last = time.monotonic()
        self._first: float | None = None
        self._text = ""
        self._tokens = 0
        self._usage: Usage | None = None
        self._finish = ""
        self._times: deque[tuple[float, int]] = deque()

    def begin(self) -> None:
        """Its turn has come: now a person waits for the server, not for other replies."""
        self._start = self._last = time.monotonic()

    def add(self, piece: Piece) -> None:
        self._usage = piece.usage or self._usage
        self._finish = piece.finish or self._finish
        if not piece.text:
            return
        now = self._last = time.monotonic()
        self._first = self._first or now
        self._text += piece.text
        self._tokens += 1
        self._times.append((now, self._tokens))
        while now - self._times[0][0] > 1.0 and len(self._times) > 2:
            self._times.popleft()
        if self._throttle.ready():
            self.flush()

    def flush(self, *, always: bool = False) -> None:
        """Send what has come; ``always``: also if that is nothing."""
        if not self._text and not always:
            return
        text, self._text = self._text, ""
        (first, before), (last, after) = (self._times[0], self._times[-1]) if self._times else ((0.0, 0), (0.0, 0))
        rate = (after - before) / (last - first) if last > first else 0.0
        self._connection.send(Tokens(self._request, text, self._tokens, rate, self._used(), 0))

    def end(self, stop: str = "") -> None:
        """The last words and the figures; ``stop`` empty: as the server said."""
        self.flush()
        usage = self._usage or Usage()
        tokens = max(0, usage.completion_tokens) or self._tokens
        writing = self._last - self._first if self._first is not None else 0.0
        self._connection.send(
            Replied(
                self._request,
                stop or _STOPS.get(self._finish, "end"),
                tokens,
                (tokens - 1) / writing if writing > 0 and tokens > 1 else 0.0,
                (self._first or self._last) - self._start,
                max(0, usage.prompt_tokens),
                usage.reused,
                0.0,
                self._used(),
                _NO_MEMORY,
            )
        )

    def _used(self) -> int:
        usage = self._usage or Usage()
        return max(0, usage.prompt_tokens) + (max(0, usage.completion_tokens) or self._tokens)


def _known(error: Exception) -> QuenchError:
    if isinstance(error, QuenchError):
        return error
    return QuenchError("internal", "Something went wrong that should not.", type(error).__name__, exit_status=1)


def _cannot_count() -> QuenchError:
    return QuenchError("cannot_count", "A server does not count tokens.", "", "It says when a text is too long.")


__all__ = ["TOKENS_PER_SECOND", "serve"]
