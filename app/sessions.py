"""A loaded model in a process of its own, driven by blocking calls: the command line's and the demo's chat worker."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from app.adapter_messages import Adapter, AdaptersSet, SetAdapters
from app.chat_messages import NEVER, Constraint, TokenChoice, TokenChoices
from app.child import Child
from app.context_messages import ContextFitted, Summary
from app.protocol import (
    ChatMessage,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    Loading,
    LoadOptions,
    Replied,
    Sampling,
    Score,
    Scored,
    Stop,
    Tokens,
)
from app.remote.messages import Connect
from converter.spec import Cancelled, QuenchError


class Reply(msgspec.Struct, frozen=True):
    """A finished answer and its figures; its tokens' probabilities if they were asked for; ``left_out`` messages of the
    conversation were not seen for it."""

    text: str
    end: Replied
    choices: tuple[TokenChoice, ...] = ()
    left_out: int = 0


class ChatSession:
    """One model, loaded: a file, or with a ``Connect`` in its place the model of a server. A context manager: leaving
    it ends the process. ``overflow`` is one of :data:`app.context_messages.OVERFLOWS`; ``on_fit`` hears what the model
    no longer sees.

    Every call raises :class:`QuenchError` (``engine_died``, exit status 5, when the process ended) and
    :class:`converter.spec.Cancelled` after Ctrl-C.
    """

    def __init__(
        self,
        path: str | Connect,
        options: LoadOptions | None = None,
        on_loading: Callable[[float], None] | None = None,
        *,
        anyway: bool = False,
        overflow: str = "stop",
        on_fit: Callable[[ContextFitted], None] | None = None,
    ) -> None:
        self._overflow = overflow
        self._on_fit = on_fit
        self._summary: Summary | None = None
        self._child = Child("server" if isinstance(path, Connect) else "chat")
        self._events = self._child.events()
        self._request = 0
        try:
            self._child.send(path if isinstance(path, Connect) else Load(path, options or LoadOptions(), anyway))
            self.loaded = self._await_loaded(on_loading)
        except KeyboardInterrupt:
            self._child.kill()
            self._child.close()
            raise Cancelled from None
        except BaseException:
            self._child.close()
            raise

    def generate(
        self,
        messages: tuple[ChatMessage, ...],
        sampling: Sampling,
        on_text: Callable[[str], None] | None = None,
        *,
        constraint: Constraint | None = None,
        probabilities: str = NEVER,
        draft: str = "",
    ) -> Reply:
        """Answer the conversation; ``on_text`` gets each new piece. Ctrl-C stops the answer and raises Cancelled."""
        self._request += 1
        request = self._request
        pieces: list[str] = []
        interrupted = False
        left_out = 0
        choices: list[TokenChoice] = []
        held = constraint or Constraint()
        self._child.send(
            Generate(
                request,
                messages,
                sampling,
                constraint=held,
                probabilities=probabilities,
                overflow=self._overflow,
                summary=self._summary,
                conversation="1",
                draft=draft,
            )
        )
        while True:
            try:
                event = self._next()
                if isinstance(event, Tokens) and event.request == request:
                    pieces.append(event.text)
                    if on_text is not None:
                        on_text(event.text)
                elif isinstance(event, TokenChoices) and event.request == request:
                    choices += event.tokens
                elif isinstance(event, ContextFitted):
                    left_out, self._summary = event.left_out, event.summary
                    if self._on_fit is not None:
                        self._on_fit(event)
                elif isinstance(event, Replied) and event.request == request:
                    if interrupted:
                        raise Cancelled
                    return Reply("".join(pieces), event, tuple(choices), left_out)
            except KeyboardInterrupt:
                if interrupted:
                    self._child.kill()
                    raise Cancelled from None
                interrupted = True
                self._child.send(Stop(request))

    def adapt(self, adapters: tuple[Adapter, ...]) -> None:
        """Use exactly these LoRA adapters from now on."""
        self._request += 1
        self._child.send(SetAdapters(self._request, adapters))
        while not isinstance(self._next(), AdaptersSet):
            pass

    def score(
        self, messages: tuple[ChatMessage, ...], answer: str, *, write: str | None = None, against: str | None = None
    ) -> Scored:
        """Teacher-force ``answer``; see :class:`app.protocol.Score`."""
        self._request += 1
        self._child.send(Score(self._request, messages, answer, write, against))
        while True:
            event = self._next()
            if isinstance(event, Scored) and event.request == self._request:
                return event

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Event:
        """The next event; a failure or the end of the process becomes an exception."""
        event = next(self._events, None)
        if event is None:
            end = self._child.wait()
            raise end.error or QuenchError("engine_died", "The engine process ended.", exit_status=5)
        if isinstance(event, Failed):
            raise event.to_error()
        return event

    def _await_loaded(self, on_loading: Callable[[float], None] | None) -> Loaded:
        while True:
            event = self._next()
            if isinstance(event, Loaded):
                return event
            if isinstance(event, Loading) and on_loading is not None:
                on_loading(event.fraction)
