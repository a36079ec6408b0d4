"""OpenAI's form of requests and answers: hostile JSON in, bounded typed values out. Pure.

Names and shapes after the public API reference of OpenAI (chat completions, completions, embeddings, models).
"""

from __future__ import annotations

import base64
import math
from typing import Any, NoReturn

import msgspec

from app.protocol import ChatMessage, Sampling
from converter.spec import QuenchError

MAX_BODY = 8 << 20
MAX_MESSAGES = 4096
MAX_TEXTS = 2048
MAX_TEXT = 4 << 20
MAX_STOPS = 16
MAX_TOKENS = 1 << 20
"""Where a request names no limit: the context is one."""

_FINISH = {"max_tokens": "length", "context": "length"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_STATUS = {"context_full": 400, "empty_prompt": 400, "bad_sampling": 400, "template_failed": 400, "busy": 429}
"""Codes of our errors that are not the server's fault, and their HTTP status."""


class RefusedError(Exception):
    """A request that is not answered: the HTTP status and OpenAI's error body."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Part(msgspec.Struct):
    type: str
    text: str | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class Drawing(msgspec.Struct, kw_only=True):
    """What chat and completion requests have in common."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = 1
    logprobs: bool | int | None = None

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options is not None and self.stream_options.include_usage)


class ChatRequest(Drawing, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class CompletionRequest(Drawing, kw_only=True):
    prompt: str | list[str]
    echo: bool | None = False
    best_of: int | None = 1
    suffix: str | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    input: str | list[str]
    model: str | None = None
    encoding_format: str | None = "float"
    dimensions: int | None = None


def read(data: bytes, form: type[Any]) -> Any:
    """A request body as one of the forms above; unknown fields are ignored, as clients send many."""
    try:
        return msgspec.json.decode(data, type=form)
    except RecursionError:
        _refuse("The body is nested too deeply.")
    except msgspec.DecodeError as error:
        _refuse(f"The body cannot be used: {error}")


def messages(request: ChatRequest) -> tuple[ChatMessage, ...]:
    """The conversation, checked."""
    if not request.messages or len(request.messages) > MAX_MESSAGES:
        _refuse(f"'messages' has none, or more than {MAX_MESSAGES}.")
    if request.tools:
        _refuse("'tools' is not supported.", "unsupported")
    if request.response_format and request.response_format.get("type", "text") != "text":
        _refuse("'response_format' is not supported.", "unsupported")
    found = []
    for message in request.messages:
        role = _ROLES.get(message.role)
        if role is None:
            _refuse(f"The role {message.role[:40]!r} is not supported.", "unsupported")
        found.append(ChatMessage(role, _content(message)))
    return tuple(found)


def prompt(request: CompletionRequest) -> str:
    """The one prompt of a completion, checked."""
    given = request.prompt if isinstance(request.prompt, list) else [request.prompt]
    if len(given) != 1:
        _refuse("Exactly one prompt is supported.", "unsupported")
    if request.echo or request.suffix or (request.best_of or 1) > 1:
        _refuse("'echo', 'suffix' and 'best_of' are not supported.", "unsupported")
    if not given[0]:
        _refuse("The prompt is empty.")
    return given[0]


def texts(request: EmbeddingRequest) -> tuple[str, ...]:
    """The texts of an embedding request, checked."""
    given = request.input if isinstance(request.input, list) else [request.input]
    if not given or len(given) > MAX_TEXTS:
        _refuse(f"'input' has no text, or more than {MAX_TEXTS}.")
    if not all(given):
        _refuse("A text of 'input' is empty.")
    if request.dimensions is not None:
        _refuse("'dimensions' is not supported.", "unsupported")
    if request.encoding_format not in (None, "float", "base64"):
        _refuse("'encoding_format' is 'float' or 'base64'.")
    return tuple(given)


def sampling(request: Drawing, defaults: Sampling) -> Sampling:
    """How tokens are drawn: what the request says, else the model's own."""
    if (request.n or 1) != 1:
        _refuse("'n' other than 1 is not supported.", "unsupported")
    if request.logprobs:
        _refuse("'logprobs' is not supported.", "unsupported")
    limit = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        limit = request.max_completion_tokens
    stop = request.stop if isinstance(request.stop, list) else [request.stop] if request.stop else []
    if len(stop) > MAX_STOPS or not all(0 < len(text) <= 1000 for text in stop):
        _refuse(f"'stop' has at most {MAX_STOPS} texts, none of them empty.")
    seed = -1 if request.seed is None else request.seed % (1 << 31)
    return msgspec.structs.replace(
        defaults,
        temperature=_number("temperature", request.temperature, defaults.temperature, 0, 10),
        top_p=_number("top_p", request.top_p, defaults.top_p, 0, 1),
        top_k=round(_number("top_k", request.top_k, defaults.top_k, 0, 1 << 20)),
        min_p=_number("min_p", request.min_p, defaults.min_p, 0, 1),
        repeat_penalty=_number("repeat_penalty", request.repeat_penalty, defaults.repeat_penalty, 0.1, 10),
        max_tokens=round(_number("max_tokens", limit, MAX_TOKENS, 1, MAX_TOKENS)),
        seed=seed,
        stop=tuple(stop),
    )


def _content(message: Message) -> str:
    if isinstance(message.content, list):
        if any(part.type != "text" or part.text is None for part in message.content):
            _refuse("Only text is supported as content.", "unsupported")
        content = "".join(part.text or "" for part in message.content)
    else:
        content = message.content or ""
    if len(content) > MAX_TEXT:
        _refuse("A message is too long.")
    return content


def _number(name: str, value: float | None, default: float, low: float, high: float) -> float:
    if value is None:
        return default
    if not math.isfinite(value) or not low <= value <= high:
        _refuse(f"'{name}' is not between {low} and {high}.")
    return value


def _refuse(message: str, code: str | None = None) -> NoReturn:
    raise RefusedError(400, message, code=code)


# ---- answers ---------------------------------------------------------------------------------------------------


def refusal(error: QuenchError) -> RefusedError:
    """One of our errors as OpenAI's."""
    status = _STATUS.get(error.code, 500)
    words = " ".join(part for part in (error.title, error.detail[:300], error.hint) if part)
    code = "context_length_exceeded" if error.code == "context_full" else error.code
    return RefusedError(status, words, "invalid_request_error" if status == 400 else "server_error", code)


class Answer(msgspec.Struct):
    """What all parts of one answer share. ``chat``: a chat completion, else a plain one."""

    id: str
    created: int
    model: str
    chat: bool

    def whole(self, text: str, stop: str, usage: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish(stop), "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": [choice],
            "usage": usage,
        }

    def begin(self) -> dict[str, Any] | None:
        """The first part of a stream, if it has one before the words."""
        return self._part({"role": "assistant", "content": ""}) if self.chat else None

    def words(self, text: str) -> dict[str, Any]:
        """Words of a stream."""
        return self._part({"content": text} if self.chat else text)

    def end(self, stop: str) -> dict[str, Any]:
        """The end of a stream."""
        return self._part({} if self.chat else "", finish(stop))

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The figures at the end of a stream, if they were asked for."""
        return {
            **self._head("chat.completion.chunk" if self.chat else "text_completion"),
            "choices": [],
            "usage": usage,
        }

    def _part(self, what: Any, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta" if self.chat else "text": what, "finish_reason": reason, "logprobs": None}
        return {**self._head("chat.completion.chunk" if self.chat else "text_completion"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def finish(stop: str) -> str:
    """``finish_reason`` of one of our ways to end."""
    return _FINISH.get(stop, "stop")


def usage(prompt_tokens: int, tokens: int, reused: int) -> dict[str, Any]:
    """Counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": reused},
    }


def embeddings(model: str, vectors: list[bytes], tokens: int, form: str | None) -> dict[str, Any]:
    """Vectors, float32 little-endian each, as an answer."""
    data = []
    for index, vector in enumerate(vectors):
        values: Any = base64.b64encode(vector).decode() if form == "base64" else memoryview(vector).cast("f").tolist()
        data.append({"object": "embedding", "index": index, "embedding": values})
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "data": data, "usage": counts}


def event(value: dict[str, Any]) -> bytes:
    """A part of a stream."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
