"""OpenAI's form of requests and answers: hostile JSON in, bounded typed values out. Pure.

Names and shapes after the public API reference of OpenAI (chat completions, completions, embeddings, models).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from app.chat_messages import ALTERNATIVES, SCHEMA, Constraint, TokenChoice
from app.constraints import grammar_of
from app.marks import Call
from app.protocol import ChatMessage, Sampling
from app.serving.calls import EarlierCall, Tool, called, earlier, must_call, offered
from converter.spec import QuenchError

MAX_BODY = 8 << 20
MAX_MESSAGES = 4096
MAX_TEXTS = 2048
MAX_TEXT = 4 << 20
MAX_STOPS = 16
MAX_TOKENS = 1 << 20
"""Where a request names no limit: the context is one."""

_FINISH = {"max_tokens": "length", "context": "length"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_LEAST_LOG = -9999.0
"""What stands for the logarithm of a probability of 0."""

_STATUS = {
    **dict.fromkeys(("context_full", "empty_prompt", "bad_sampling", "template_refused", "no_tools"), 400),
    **dict.fromkeys(("bad_schema", "bad_grammar", "template_limit"), 400),
    "busy": 429,
}
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
    tool_calls: list[EarlierCall] | None = None
    tool_call_id: str | None = None


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

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options is not None and self.stream_options.include_usage)


class ChatRequest(Drawing, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class CompletionRequest(Drawing, kw_only=True):
    prompt: str | list[str]
    echo: bool | None = False
    best_of: int | None = 1
    logprobs: int | None = None
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
    found = []
    for message in request.messages:
        role = _ROLES.get(message.role)
        if role is None:
            _refuse(f"The role {message.role[:40]!r} is not supported.", "unsupported")
        calls = earlier(message.tool_calls) if message.tool_calls and role == "assistant" else ""
        found.append(ChatMessage(role, _content(message), calls, (message.tool_call_id or "")[:100]))
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


def tools(request: ChatRequest) -> list[Tool]:
    """The tools that may be called."""
    choice = request.tool_choice
    given = request.tools or []
    if choice is None or isinstance(choice, str):
        if choice not in (None, "none", "auto", "required"):
            _refuse("'tool_choice' is 'none', 'auto', 'required' or a function.")
        if choice == "required" and not given:
            _refuse("'tool_choice' requires a tool, and there is none.")
        return [] if choice == "none" else given
    named = choice.get("function")
    name = named.get("name") if isinstance(named, dict) else None
    if choice.get("type") != "function" or name not in [tool.function.name for tool in given]:
        _refuse("'tool_choice' names no function of 'tools'.")
    return given


def tools_text(request: ChatRequest) -> str:
    """:func:`tools` as JSON for the template, empty without any."""
    given = tools(request)
    try:
        return offered(given) if given else ""
    except ValueError as error:
        _refuse(f"'tools' {error}.")


def held(request: ChatRequest) -> Constraint:
    """What the answer is held to: a form of response, or a call that must be made.

    What a grammar cannot say is refused here, before the model is asked.
    """
    form = request.response_format or {}
    kind = form.get("type", "text")
    choice = request.tool_choice
    if choice not in (None, "none", "auto"):
        if kind != "text":
            _refuse("'response_format' does not go with a call that must be made.", "unsupported")
        wanted = [t for t in tools(request) if isinstance(choice, str) or t.function.name == choice["function"]["name"]]
        try:
            return _held("tools", must_call(wanted))
        except ValueError as error:
            _refuse(f"'tools' {error}.")
    if kind == "text":
        return Constraint()
    if tools(request):
        _refuse("'response_format' does not go with 'tools'.", "unsupported")
    if kind == "json_object":
        return _held("response_format", '{"type": "object", "additionalProperties": true}')
    inside = form.get("json_schema")
    if kind != "json_schema" or not isinstance(inside, dict) or not isinstance(inside.get("schema"), dict):
        _refuse("'response_format' is of the type 'text', 'json_object', or 'json_schema' with a schema in it.")
    return _held("response_format", msgspec.json.encode(inside["schema"]).decode())


def _held(name: str, schema: str) -> Constraint:
    constraint = Constraint(SCHEMA, schema)
    try:
        grammar_of(constraint)
    except QuenchError as error:
        _refuse(f"'{name}': {error.title} {error.detail}", error.code)
    return constraint


def alternatives(request: Drawing) -> int | None:
    """How many of the likeliest tokens are told with each token; None: no probabilities are wanted."""
    if isinstance(request, ChatRequest):
        count = (request.top_logprobs or 0) if request.logprobs else None
        if request.top_logprobs and not request.logprobs:
            _refuse("'top_logprobs' needs 'logprobs'.")
    else:
        count = request.logprobs if isinstance(request, CompletionRequest) else None
    if count is not None and not 0 <= count <= ALTERNATIVES:
        _refuse(f"At most {ALTERNATIVES} of the likeliest tokens are told.", "unsupported")
    return count


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
    """What all parts of one answer share. ``chat``: a chat completion, else a plain one. ``top``: how many of the
    likeliest tokens are told with each one, None: no probabilities."""

    id: str
    created: int
    model: str
    chat: bool
    top: int | None = None

    def whole(
        self,
        text: str,
        stop: str,
        usage: dict[str, Any],
        calls: Sequence[Call] = (),
        choices: Sequence[TokenChoice] = (),
    ) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish(stop, calls), "logprobs": self.logs(choices)}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if calls:
                message |= {"content": text or None, "tool_calls": called(calls)}
            choice["message"] = message
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

    def calls(self, calls: Sequence[Call]) -> dict[str, Any]:
        """The tool calls of a stream, each whole."""
        return self._part({"tool_calls": [{"index": index, **each} for index, each in enumerate(called(calls))]})

    def probabilities(self, choices: Sequence[TokenChoice]) -> dict[str, Any]:
        """How likely the tokens of a stream were: all at once, behind its words."""
        part = self._part({"content": ""} if self.chat else "")
        part["choices"][0]["logprobs"] = self.logs(choices)
        return part

    def end(self, stop: str, calls: Sequence[Call] = ()) -> dict[str, Any]:
        """The end of a stream."""
        return self._part({} if self.chat else "", finish(stop, calls))

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The figures at the end of a stream, if they were asked for."""
        return {
            **self._head("chat.completion.chunk" if self.chat else "text_completion"),
            "choices": [],
            "usage": usage,
        }

    def logs(self, choices: Sequence[TokenChoice]) -> dict[str, Any] | None:
        """Log-probabilities as a chat or a plain completion has them."""
        if self.top is None or not choices:
            return None
        if self.chat:
            entries = []
            for each in choices:
                top = [_log_entry(likely.text, likely.probability) for likely in each.top[: self.top]]
                entries.append({**_log_entry(each.text, each.probability), "top_logprobs": top})
            return {"content": entries, "refusal": None}
        offsets, at = [], 0
        for each in choices:
            offsets.append(at)
            at += len(each.text)
        return {
            "tokens": [each.text for each in choices],
            "token_logprobs": [_log(each.probability) for each in choices],
            "top_logprobs": [
                {likely.text: _log(likely.probability) for likely in each.top[: self.top]} for each in choices
            ],
            "text_offset": offsets,
        }

    def _part(self, what: Any, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta" if self.chat else "text": what, "finish_reason": reason, "logprobs": None}
        return {**self._head("chat.completion.chunk" if self.chat else "text_completion"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else _LEAST_LOG


def _log_entry(text: str, probability: float) -> dict[str, Any]:
    return {"token": text, "logprob": _log(probability), "bytes": list(text.encode())}


def finish(stop: str, calls: Sequence[Call] = ()) -> str:
    """``finish_reason`` of one of our ways to end."""
    return "tool_calls" if calls else _FINISH.get(stop, "stop")


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
