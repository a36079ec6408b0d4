"""One server over HTTP: which models it has, and answers as they are written. Everything that it sends is bounded.

No redirect is followed and certificates are verified, so that key and conversation go to the named server alone. A
proxy of the environment is used, but never for this machine itself.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2
import msgspec

from app.chat_messages import GRAMMAR, SCHEMA, Constraint
from app.constraints import grammar_of
from app.protocol import ChatMessage, Sampling
from app.remote import errors
from app.remote.address import MAX_MODEL, host, is_loopback
from app.remote.messages import ServedModel, ServerState
from converter.spec import QuenchError

CONNECT_TIMEOUT = 10.0
LOOK_TIMEOUT = 20.0
SILENCE = 600.0
"""Seconds without a byte: a long prompt on a slow server takes its time before the first word."""
LIST_LIMIT = 4 << 20
ERROR_LIMIT = 64 << 10
WHOLE_LIMIT = 16 << 20
MAX_MODELS = 1000
MAX_TYPE = 40
MAX_CHARACTERS = 4 << 20
"""Of one answer; it is kept up to here."""
MAX_CHARACTERS_PER_TOKEN = 512
"""No tokenizer of today has longer tokens: an answer of more characters ignores its limit."""

LLAMA, VLLM, OLLAMA, TGI = "llama.cpp", "vLLM", "Ollama", "TGI"
_OWNERS = {"llamacpp": LLAMA, "vllm": VLLM, "library": OLLAMA}
"""``owned_by`` of a listed model -> the program that writes so."""

# How programs call what OpenAI's form has no name for; nothing of it is sent to a program that is not known.
_EXTRAS: Mapping[str, Mapping[str, str]] = {
    LLAMA: {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty"},
    VLLM: {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
}
_EXTRA_NAMES = {"top_k": "top-k", "min_p": "min-p", "repeat_penalty": "repeat penalty"}

_CONTINUING = frozenset({LLAMA, VLLM})
"""Programs that go on with the last message when they are told so."""

THINK, END_OF_THOUGHT = "<think>\n", "\n</think>\n\n"


NO_CONSTRAINT = Constraint()


class Piece(NamedTuple):
    """Something of an answer: text, what the server says to be the reason of its end, and its own count of tokens."""

    text: str = ""
    finish: str = ""
    usage: Usage | None = None


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the server counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None

    @property
    def reused(self) -> int:
        details = self.prompt_tokens_details
        return min((details.cached_tokens or 0) if details is not None else 0, self.prompt_tokens)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_vocab: int | None = None
    size: int | None = None
    ftype: str | None = None


class _Listed(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None


class _List(msgspec.Struct):
    data: list[_Listed]


_chunks: msgspec.json.Decoder[_Chunk] = msgspec.json.Decoder(_Chunk)
_lists: msgspec.json.Decoder[_List] = msgspec.json.Decoder(_List)


class Client:
    """A way to one server. An async context manager; every call raises ``QuenchError`` (:mod:`app.remote.errors`)."""

    def __init__(self, url: str, secret: str = "", silence: float = SILENCE) -> None:
        self.url = url
        self._secret = secret
        self._silence = silence
        headers = {"accept-encoding": "identity", "user-agent": "quench"}
        if secret:
            headers["authorization"] = f"Bearer {secret}"
        name = httpx2.URL(url).host
        direct: dict[str, httpx2.AsyncBaseTransport | None] = {}
        if is_loopback(url):
            direct[f"all://[{name}]" if ":" in name else f"all://{name}"] = None
        try:
            self._http = httpx2.AsyncClient(
                headers=headers,
                follow_redirects=False,
                timeout=httpx2.Timeout(CONNECT_TIMEOUT, read=LOOK_TIMEOUT),
                mounts=direct,
            )
        except (ImportError, ValueError) as error:  # SOCKS without its package; a proxy that is no address
            raise QuenchError(
                "proxy", "The proxy cannot be used.", type(error).__name__, "Check HTTPS_PROXY in the environment."
            ) from error
        except OSError as error:
            raise QuenchError(
                "tls",
                "The certificates of this machine cannot be read.",
                str(error)[:300],
                "Check the file that SSL_CERT_FILE names.",
            ) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def look(self) -> ServerState:
        """What runs there, and its models."""
        start = time.monotonic()
        request = self._http.build_request("GET", f"{self.url}/models")
        body = await self._whole(request, LIST_LIMIT)
        try:
            listed = _lists.decode(body).data[:MAX_MODELS]
        except (msgspec.DecodeError, RecursionError) as error:
            raise errors.bad_answer(self.url, f"no list of models ({error})") from error
        software = next((_OWNERS[m.owned_by] for m in listed if m.owned_by in _OWNERS), "")
        models = {m.id: _described(m) for m in listed if _usable_id(m.id)}
        return ServerState(software, tuple(models.values()), time.monotonic() - start)

    async def ask(self, address: str, body: Mapping[str, Any], limit: int) -> bytes:
        """What ``address`` answers to ``body``, at most ``limit`` bytes."""
        request = self._http.build_request("POST", address, json=dict(body))
        request.extensions["timeout"] = httpx2.Timeout(CONNECT_TIMEOUT, read=self._silence).as_dict()
        return await self._whole(request, limit)

    async def read(self, address: str, limit: int) -> bytes:
        """What is to be read at ``address``, at most ``limit`` bytes."""
        return await self._whole(self._http.build_request("GET", address), limit)

    async def chat(
        self,
        model: str,
        messages: tuple[ChatMessage, ...],
        sampling: Sampling,
        software: str = "",
        *,
        continue_last: bool = False,
        constraint: Constraint = NO_CONSTRAINT,
    ) -> AsyncIterator[Piece]:
        """An answer, piece by piece; its end is known when the iterator ends without an error."""
        body = request_body(model, messages, sampling, software, continue_last=continue_last)
        body |= _held(constraint, software)
        request = self._http.build_request("POST", f"{self.url}/chat/completions", json=body)
        request.extensions["timeout"] = httpx2.Timeout(CONNECT_TIMEOUT, read=self._silence).as_dict()
        limit = min(MAX_CHARACTERS, max(4096, MAX_CHARACTERS_PER_TOKEN * sampling.max_tokens))
        written, thinking = 0, False
        try:
            async for chunk in self._chunks(request):
                if chunk.error is not None:
                    raise errors.from_event(self.url, chunk.error, self._secret)
                choice = chunk.choices[0] if chunk.choices else None
                text, thinking = _text(choice, thinking)
                finish = (choice.finish_reason or "") if choice is not None else ""
                written += len(text)
                if written > limit:
                    raise errors.too_much(self.url, f"more than {limit} characters for {sampling.max_tokens} tokens")
                if text or finish or chunk.usage is not None:
                    yield Piece(text, finish, chunk.usage)
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise errors.from_transport(self.url, error, self._secret) from error
        if thinking:
            yield Piece(END_OF_THOUGHT)

    async def _chunks(self, request: httpx2.Request) -> AsyncIterator[_Chunk]:
        """The events of a stream, or the one answer of a server that does not stream."""
        response = await self._http.send(request, stream=True)
        try:
            await self._check(response)
            if not _is(response, "text/event-stream"):
                yield self._decode(await self._read(response, WHOLE_LIMIT))
                return
            finished = False
            async for event in httpx2.EventSource(response):
                data = event.data.strip()
                if data == "[DONE]":
                    return
                if not data:
                    continue
                chunk = self._decode(data.encode())
                finished = finished or any(choice.finish_reason for choice in chunk.choices or ())
                yield chunk
            if not finished:
                raise errors.cut_off(self.url)
        finally:
            await response.aclose()

    def _decode(self, data: bytes) -> _Chunk:
        try:
            return _chunks.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise errors.bad_answer(self.url, f"no part of an answer ({error})") from error

    async def _whole(self, request: httpx2.Request, limit: int) -> bytes:
        try:
            response = await self._http.send(request, stream=True)
            try:
                await self._check(response)
                return await self._read(response, limit)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise errors.from_transport(self.url, error, self._secret) from error

    async def _check(self, response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise errors.bad_answer(self.url, "it is compressed, which nobody asked for")
        if response.status_code != 200:
            body = await self._read(response, ERROR_LIMIT, cut=True)
            location = response.headers.get("location", "")
            raise errors.from_status(self.url, response.status_code, location, body, self._secret)

    async def _read(self, response: httpx2.Response, limit: int, *, cut: bool = False) -> bytes:
        """The body; what is longer than ``limit`` is cut there, or an error."""
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > limit:
                if cut:
                    break
                raise errors.bad_answer(self.url, f"it is longer than {limit >> 20} MiB")
        return bytes(body[:limit])


def request_body(
    model: str, messages: tuple[ChatMessage, ...], sampling: Sampling, software: str, *, continue_last: bool = False
) -> dict[str, Any]:
    """What is asked of a server: OpenAI's names, and others only of a program that knows them.

    ``QuenchError`` ``cannot_continue`` if it is not known to go on with an answer, ``usage`` if there is none.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.seed >= 0:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    for ours, theirs in _EXTRAS.get(software, {}).items():
        body[theirs] = getattr(sampling, ours)
    if continue_last:
        if not messages or messages[-1].role != "assistant":
            raise QuenchError("usage", "There is no answer to go on with.", "", "", exit_status=2)
        if software not in _CONTINUING:
            raise QuenchError(
                "cannot_continue",
                "This server is not known to go on with an answer.",
                "llama.cpp's and vLLM's servers do.",
                "Ask it to continue, or answer again with a higher token limit.",
            )
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


def _held(constraint: Constraint, software: str) -> dict[str, Any]:
    """What holds an answer to a schema (OpenAI's own form) or to a grammar, which llama.cpp's server alone takes."""
    if constraint.kind == SCHEMA:
        grammar_of(constraint)  # what our own engine would refuse is refused here too, in words
        schema = {"name": "answer", "strict": True, "schema": msgspec.json.decode(constraint.text)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if constraint.kind == GRAMMAR:
        if software != LLAMA:
            raise QuenchError(
                "cannot_constrain",
                "This server does not take a grammar.",
                "llama.cpp's server does.",
                "Use a JSON schema, or none.",
            )
        return {"grammar": grammar_of(constraint)}
    return {}


def unsent(software: str) -> tuple[str, ...]:
    """What of the sampling this program is not sent, because it is not known to understand it; names for people."""
    return tuple(words for name, words in _EXTRA_NAMES.items() if name not in _EXTRAS.get(software, {}))


def _text(choice: _Choice | None, thinking: bool) -> tuple[str, bool]:
    """The text of a choice with its reasoning between tags, and whether a reasoning section is open after it."""
    part = (choice.delta or choice.message) if choice is not None else None
    if part is None:
        return "", thinking
    text = ""
    if thought := part.reasoning_content or part.reasoning:
        text += thought if thinking else THINK + thought
        thinking = True
    if part.content:
        text += END_OF_THOUGHT + part.content if thinking else part.content
        thinking = False
    return text, thinking


def _context(model: _Listed) -> int:
    meta = model.meta or _Meta()
    return max(0, meta.n_ctx or model.max_model_len or meta.n_ctx_train or 0)


def _described(model: _Listed) -> ServedModel:
    meta = model.meta or _Meta()
    type_name = (meta.ftype or "").replace(" - ", "_")
    for word in ("Small", "Medium", "Large"):
        type_name = type_name.replace(word, word[0])  # llama.cpp writes "Q4_K - Medium" for Q4_K_M
    usable = type_name.isprintable() and len(type_name) <= MAX_TYPE
    sizes = (max(0, meta.n_vocab or 0), max(0, meta.size or 0))
    return ServedModel(model.id, _context(model), *sizes, type_name if usable else "")


def pick(state: ServerState, wanted: str, url: str) -> ServedModel:
    """The model called ``wanted`` (empty: the first) of those that a server lists.

    ``QuenchError`` ``model_not_served`` without one. A server that lists nothing is believed to have what is wanted.
    """
    found = next((model for model in state.models if model.id == wanted or not wanted), None)
    if found is not None:
        return found
    if wanted and not state.models:
        return ServedModel(wanted)
    ids = [model.id for model in state.models]
    raise QuenchError(
        "model_not_served",
        "The server does not have this model." if wanted else "The server has no model.",
        ", ".join([f"{host(url)}:", *ids[:10]]) if ids else host(url),
        "Look for models again, then choose one of those it has." if ids else "Load a model there first.",
    )


def _usable_id(name: str) -> bool:
    return 0 < len(name) <= MAX_MODEL and name.isprintable() and name == name.strip()


def _is(response: httpx2.Response, kind: str) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == kind


__all__ = [
    "LLAMA", "OLLAMA", "SILENCE", "TGI", "VLLM", "Client", "Piece", "Usage", "pick", "request_body", "unsent",
]  # fmt: skip
