"""The HTTP application (ASGI): routes, streams, and what happens when somebody hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from app.chat_messages import ALWAYS, NEVER, TokenChoice, TokenChoices
from app.protocol import Command, Complete, Event, Failed, Generate, Replied, Sampling, Tokens
from app.serving import forms
from app.serving.calls import Reader
from app.serving.forms import Answer, RefusedError
from app.serving.guard import Guard, Receive, Scope, Send, read_body
from app.serving.messages import Embed, Embedded, StartServing

_JSON = (b"content-type", b"application/json")
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Exchange(Protocol):
    """One question to the model and what it answers; closing an unfinished one stops it."""

    async def next(self) -> Event: ...

    def close(self) -> None: ...


Ask = Callable[[Callable[[int], Command]], Exchange]
"""Passes on a question, made with the number that it gets; :class:`RefusedError` if too many wait."""


class Counts(NamedTuple):
    answered: int
    refused: int
    open: int


class _GoneError(Exception):
    """Whoever asked has hung up."""


class Service:
    """An ASGI application. ``ask`` passes questions to the model; ``counted`` hears of every request's end."""

    def __init__(self, start: StartServing, ask: Ask, counted: Callable[[Counts], None] = lambda counts: None) -> None:
        self._start = start
        self._ask = ask
        self._counted = counted
        self._guard = Guard(start.host, start.token)
        self._began = int(time.time())
        self._answered = self._refused = self._open = 0
        self._defaults = Sampling(start.temperature, start.top_k, start.top_p, start.min_p, start.repeat_penalty)
        self._routes: dict[str, dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]]] = {
            "/health": {"GET": self._health},
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/embeddings": {"POST": self._embeddings},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every one is answered with JSON, errors too."""
        if scope["type"] != "http":
            return
        self._open += 1
        try:
            self._guard.let_in(scope)
            methods = self._routes.get(scope["path"])
            if methods is None:
                raise RefusedError(404, "There is no such address.", code="unknown_url")
            handler = methods.get(scope["method"])
            if handler is None:
                raise RefusedError(405, f"This address takes {', '.join(methods)}.")
            await handler(scope, receive, send)
            self._answered += 1
        except RefusedError as refused:
            self._refused += 1
            with contextlib.suppress(OSError):
                await _send_json(send, refused.status, refused.body)
        except _GoneError:
            self._refused += 1
        finally:
            self._open -= 1
            self._counted(Counts(self._answered, self._refused, self._open))

    # ---- routes ------------------------------------------------------------------------------------------------

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_json(send, 200, {"status": "ok"})

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = {"id": self._start.model, "object": "model", "created": self._began, "owned_by": "quench"}
        if self._start.context:
            model["max_model_len"] = self._start.context
        await _send_json(send, 200, {"object": "list", "data": [model]})

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = forms.read(await read_body(receive), forms.ChatRequest)
        messages = forms.messages(request)
        continue_last = messages[-1].role == "assistant"
        drawn = forms.sampling(request, self._defaults)
        tools, held = forms.tools_text(request), forms.held(request)
        probabilities = NEVER if forms.alternatives(request) is None else ALWAYS
        self._must_write()
        reader = Reader([tool.function.name for tool in forms.tools(request)]) if tools else None
        await self._write(
            request, receive, send,
            lambda number: Generate(
                number, messages, drawn, continue_last, held, probabilities=probabilities, tools=tools
            ),
            reader=reader,
        )  # fmt: skip

    async def _completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = forms.read(await read_body(receive), forms.CompletionRequest)
        prompt = forms.prompt(request)
        drawn = forms.sampling(request, self._defaults)
        probabilities = NEVER if forms.alternatives(request) is None else ALWAYS
        self._must_write()
        await self._write(
            request, receive, send, lambda number: Complete(number, prompt, drawn, probabilities), chat=False
        )

    async def _embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = forms.read(await read_body(receive), forms.EmbeddingRequest)
        texts = forms.texts(request)
        if not self._start.embeds:
            raise RefusedError(
                400, "This model writes text; serve an embeddings model for vectors.", code="unsupported"
            )
        async with contextlib.aclosing(self._events(receive, lambda number: Embed(number, texts))) as events:
            async for event in events:
                if isinstance(event, Embedded):
                    size = 4 * event.width
                    vectors = [event.vectors[at : at + size] for at in range(0, len(event.vectors), size)]
                    form = request.encoding_format
                    answer = forms.embeddings(self._start.model, vectors, sum(event.tokens), form)
                    await _send_json(send, 200, answer)

    def _must_write(self) -> None:
        if self._start.embeds:
            raise RefusedError(400, "This model makes vectors: ask /v1/embeddings.", code="unsupported")

    # ---- answers -----------------------------------------------------------------------------------------------

    async def _write(
        self,
        request: forms.Drawing,
        receive: Receive,
        send: Send,
        make: Callable[[int], Command],
        *,
        chat: bool = True,
        reader: Reader | None = None,
    ) -> None:
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        answer = Answer(name, int(time.time()), self._start.model, chat, forms.alternatives(request))
        events = self._events(receive, make)
        async with contextlib.aclosing(events):
            if request.stream:
                await _stream(events, answer, send, reader, with_usage=request.with_usage)
                return
            text: list[str] = []
            choices: list[TokenChoice] = []
            async for event in events:
                if isinstance(event, Tokens):
                    text.append(reader.add(event.text) if reader is not None else event.text)
                elif isinstance(event, TokenChoices):
                    choices += event.tokens
                elif isinstance(event, Replied):
                    rest, calls = reader.end() if reader is not None else ("", ())
                    words = "".join([*text, rest])
                    words = words.rstrip() if calls else words
                    await _send_json(send, 200, answer.whole(words, event.stop, _usage(event), calls, choices))

    async def _events(self, receive: Receive, make: Callable[[int], Command]) -> AsyncGenerator[Event, None]:
        """What the model says, up to its end; ``RefusedError`` if that is an error, ``_GoneError`` if nobody hears."""
        exchange = self._ask(make)
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            while True:
                following = asyncio.ensure_future(exchange.next())
                await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    raise _GoneError
                event = following.result()
                if isinstance(event, Failed):
                    raise forms.refusal(event.to_error())
                yield event
                if isinstance(event, Replied | Embedded):
                    return
        finally:
            gone.cancel()
            exchange.close()


async def _stream(
    events: AsyncIterator[Event], answer: Answer, send: Send, reader: Reader | None, *, with_usage: bool
) -> None:
    """An answer as it is written. The status waits for the first words, so that an error before them has its own."""
    began = False
    choices: list[TokenChoice] = []
    try:
        async for event in events:
            if not began:
                began = True
                await _begin(send, 200, ((b"content-type", b"text/event-stream; charset=utf-8"),))
                if (first := answer.begin()) is not None:
                    await _more(send, forms.event(first))
            if isinstance(event, Tokens):
                words = reader.add(event.text) if reader is not None else event.text
                if words:
                    await _more(send, forms.event(answer.words(words)))
            elif isinstance(event, TokenChoices):
                choices += event.tokens
            elif isinstance(event, Replied):
                rest, calls = reader.end() if reader is not None else ("", ())
                end = forms.event(answer.words(rest)) if rest else b""
                end += forms.event(answer.calls(calls)) if calls else b""
                end += forms.event(answer.probabilities(choices)) if choices else b""
                end += forms.event(answer.end(event.stop, calls))
                if with_usage:
                    end += forms.event(answer.usage(_usage(event)))
                await _more(send, end + forms.DONE, last=True)
    except RefusedError as refused:
        if not began:
            raise
        await _more(send, forms.event(refused.body), last=True)


def _usage(event: Replied) -> dict[str, Any]:
    return forms.usage(event.prompt_tokens, event.tokens, event.prompt_reused)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_json(send: Send, status: int, value: dict[str, Any]) -> None:
    body = msgspec.json.encode(value)
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await _begin(send, status, tuple(headers))
    await _more(send, body, last=True)


async def _begin(send: Send, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})


async def _more(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


__all__ = ["Counts", "Exchange", "Service"]
