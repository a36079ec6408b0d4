"""How likely a server's model finds given text: its odds of the next token, position by position.

OpenAI's form of the API has no way to ask this that every server knows, so there are three, and the first that works is
taken:

* llama.cpp's server: ``/completion`` with the tokens so far as the prompt, one token to be written, and ``n_probs``.
  The log-probabilities are of the softmax over the whole vocabulary, before any sampling. One request a position; with
  ``cache_prompt`` the server computes only the token that is new.
* vLLM: ``/v1/completions`` with ``prompt_logprobs``: the likeliest tokens of every position and the right one, in one
  request for all positions.
* OpenAI's older form: ``/v1/completions`` with ``echo`` and ``logprobs``: of the right token alone.

What comes is believed only as far as it can be true: known token ids, each once, probabilities that are numbers and not
more than one together.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from app.protocol import ChatMessage
from app.remote.address import host
from app.remote.client import LLAMA, VLLM, Client
from app.remote.errors import RemoteError
from converter.spec import QuenchError

FLOOR = math.log(2.0**-149)
"""Below it float32 has no probability but 0; servers then write the lowest number there is."""

USUAL_TOP = 1024
WHOLE_TOP = 4096
"""Tokens of the vocabulary that are asked for at each position; all of them if there are no more than the latter."""

VLLM_TOPS = (20, 5, 1)
"""What vLLM may allow where it refuses more: 20 unless its ``--max-logprobs`` says otherwise."""

TOO_MUCH = 2e-3
"""How far above 1 probabilities may add up: servers add them in float32."""

_ENTRY_BYTES = 1 << 10
_REST_BYTES = 1 << 20
_TRIAL = (1, 2, 3)

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Position:
    """Natural log-probabilities ``logs`` (n,) of the tokens ``ids`` (n,) at one position.

    ``top``: these are the likeliest of all (there may be one less likely, the right one); if not, the right one alone.
    ``names`` (n,): what the server calls them, empty where it does not say.
    """

    ids: Ids
    logs: Floats
    top: bool
    names: tuple[str, ...] = ()


class Way(Protocol):
    """One of the ways above. ``asked`` is how many of the likeliest tokens it asks for, 0 for the right one alone."""

    asked: int

    async def trial(self) -> None:
        """A short question; ``QuenchError`` if the server cannot answer it."""

    def odds(self, tokens: Sequence[int], first: int) -> AsyncIterator[Position]:
        """What the model expects after position ``first`` of ``tokens``, after the next one ..., up to the last but one
        position: ``len(tokens) - 1 - first`` answers."""
        ...


class Scorer:
    """Asks the model ``model`` of a server, whose vocabulary has ``vocabulary`` tokens. ``top`` 0: the usual number.

    ``pieces`` are the bytes of tokens, to compare with what the server calls them.

    Every method raises ``QuenchError``: those of :mod:`app.remote.errors`, ``no_probabilities`` for a server that has
    none to give, ``bad_probabilities`` for what cannot be true.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        software: str,
        vocabulary: int,
        *,
        top: int = 0,
        pieces: Mapping[int, bytes] | None = None,
    ) -> None:
        self._client = client
        self._pieces = pieces or {}
        self._model = model
        self._software = software
        self._vocabulary = vocabulary
        self._top = min(vocabulary, top or (vocabulary if vocabulary <= WHOLE_TOP else USUAL_TOP))
        self._way: Way | None = None
        self.requests = 0

    @property
    def asked(self) -> int:
        """Of how many of the likeliest tokens the server is asked; 0: of the right one alone. Known after a trial."""
        return self._way.asked if self._way is not None else 0

    @property
    def tells_tokens(self) -> bool:
        """Whether what it answers names the tokens, so that they are compared there."""
        return isinstance(self._way, _Echo) and bool(self._pieces)

    async def begin(self) -> None:
        """Find out how this server is asked."""
        known: Mapping[str, tuple[type[_Base], ...]] = {LLAMA: (_Completion,), VLLM: (_PromptOdds, _Echo)}
        reasons = []
        for kind in known.get(self._software, (_Completion, _PromptOdds, _Echo)):
            way = kind(self, self._top)
            try:
                await way.trial()
            except QuenchError as error:
                if not _is_a_no(error):
                    raise
                reasons.append(f"{kind.name}: {error.detail.removeprefix(f'{host(self._client.url)}: ')}")
                continue
            self._way = way
            return
        raise QuenchError(
            "no_probabilities",
            "This server does not say how likely a given text is.",
            f"{host(self._client.url)}. {' '.join(reasons)}",
            "llama.cpp's server and vLLM do, and others that know echo and logprobs. Compare its answers by reading.",
        )

    def odds(self, tokens: Sequence[int], first: int) -> AsyncIterator[Position]:
        """See :meth:`Way.odds`."""
        if self._way is None:
            raise RuntimeError("begin() comes first")
        return self._way.odds(tokens, first)

    async def tokenize(self, text: str, *, special: bool, ends: bool = False) -> list[int] | None:
        """How the server cuts ``text``; None if it does not say. ``special``: names of special tokens are such;
        ``ends``: with the tokens that the model puts before a text."""
        content = {"content": text, "add_special": ends, "parse_special": special}  # llama.cpp's
        content |= {"prompt": text, "add_special_tokens": ends}  # vLLM's
        return await self._tokens(content, len(text))

    async def prompt(self, messages: Sequence[ChatMessage]) -> list[int] | None:
        """The tokens of a conversation in the model's own template, up to where it would answer; None if the server
        does not say."""
        told = [{"role": message.role, "content": message.content} for message in messages]
        size = sum(len(message.content) for message in messages)
        if self._software != VLLM:  # llama.cpp's server writes the prompt out, and then cuts it
            try:
                body = await self.ask(f"{self.root}/apply-template", {"messages": told}, _REST_BYTES + 8 * size)
                return await self.tokenize(msgspec.json.decode(body, type=_Rendered).prompt, special=True, ends=True)
            except (RemoteError, msgspec.DecodeError) as error:
                if isinstance(error, RemoteError) and not _is_a_no(error):
                    raise
        return await self._tokens({"messages": told, "add_generation_prompt": True}, size)

    async def opening(self) -> list[int] | None:
        """What stands before a text that stands by itself: what the model puts there, else the token that begins or
        ends a text; empty without one, None if the server does not say how it cuts text."""
        found = await self.tokenize("", special=True, ends=True)
        if found != []:
            return found
        try:  # llama.cpp's server names them
            props = msgspec.json.decode(await self._client.read(f"{self.root}/props", _REST_BYTES), type=_Props)
        except (RemoteError, msgspec.DecodeError) as error:
            if isinstance(error, RemoteError) and not _is_a_no(error):
                raise
            return []
        named = [await self.tokenize(name, special=True) for name in (props.bos_token, props.eos_token) if name]
        return next((tokens for tokens in named if tokens is not None and len(tokens) == 1), [])

    async def _tokens(self, content: Mapping[str, Any], size: int) -> list[int] | None:
        """What ``/tokenize`` answers; None for a no, or for what are no tokens."""
        try:
            body = await self.ask(f"{self.root}/tokenize", content, _REST_BYTES + 32 * size)
            return msgspec.json.decode(body, type=_Tokens).tokens
        except (RemoteError, msgspec.DecodeError) as error:
            if isinstance(error, RemoteError) and not _is_a_no(error):
                raise
            return None

    # ---- for the ways

    @property
    def root(self) -> str:
        """The server's own address, above the API's."""
        return self._client.url.removesuffix("/v1")

    @property
    def api(self) -> str:
        return self._client.url

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    async def ask(self, address: str, body: Mapping[str, Any], limit: int) -> bytes:
        """One question. A connection that broke off is tried once more: servers close those that were idle."""
        body = {"model": self._model, **body}
        self.requests += 1
        try:
            return await self._client.ask(address, body, limit)
        except RemoteError as error:
            if error.code != "connection_lost":
                raise
        return await self._client.ask(address, body, limit)

    def lie(self, detail: str) -> QuenchError:
        """The error of an answer that cannot be true."""
        return RemoteError(
            "bad_probabilities",
            "The server's probabilities cannot be true.",
            f"{host(self._client.url)}: {detail}",
            "Look whether another program or an old version runs there.",
        )

    def same_token(self, token: int, name: str) -> bool:
        """Whether a server may call ``token`` so; names that hold part of a character, or nothing, tell nothing."""
        piece = self._pieces.get(token)
        if piece is None or not name or "\N{REPLACEMENT CHARACTER}" in name or name.startswith("bytes:"):
            return True
        try:
            return piece.decode().strip() == name.strip()
        except UnicodeDecodeError:
            return True

    def decode(self, body: bytes, form: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=form)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self.lie(f"no log-probabilities ({error})") from error

    def checked(self, ids: Sequence[int], logs: Sequence[float], *, top: bool, names: Sequence[str] = ()) -> Position:
        """``ids`` and ``logs`` of one position, if they can be true."""
        found, values = np.asarray(ids, np.int64), np.asarray(logs, np.float64)
        if not len(found) or found.min() < 0 or found.max() >= self._vocabulary:
            raise self.lie(f"a token that is not in the vocabulary of {self._vocabulary}")
        if len(np.unique(found)) != len(found):
            raise self.lie("the same token more than once")
        if np.isnan(values).any() or values.max() > TOO_MUCH:
            raise self.lie("a log-probability that is none")
        values = np.maximum(values, FLOOR)
        total = float(np.exp(values).sum())
        if total > 1.0 + TOO_MUCH:
            raise self.lie(f"probabilities that add up to {total:.4f}")
        if len(found) == self._vocabulary and total < 1.0 - 10 * TOO_MUCH:
            raise self.lie(f"probabilities of the whole vocabulary that add up to {total:.4f}")
        return Position(found, values, top, tuple(names))


def _is_a_no(error: QuenchError) -> bool:
    """Whether it is this question that the server does not answer, and not the server that is in trouble."""
    return error.code in ("not_found", "refused", "bad_answer", "bad_probabilities", "context_full") or (
        isinstance(error, RemoteError) and error.status in (405, 415, 422, 500, 501)
    )


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Base:
    name = ""

    def __init__(self, scorer: Scorer, top: int) -> None:
        self._scorer = scorer
        self.asked = top

    async def trial(self) -> None:
        raise NotImplementedError

    def odds(self, tokens: Sequence[int], first: int) -> AsyncIterator[Position]:
        raise NotImplementedError


class _Props(msgspec.Struct):
    bos_token: str = ""
    eos_token: str = ""


class _Rendered(msgspec.Struct):
    prompt: str


class _Likely(msgspec.Struct):
    id: int
    logprob: float
    token: str = ""


class _Written(msgspec.Struct):
    top_logprobs: list[_Likely]


class _Completed(msgspec.Struct):
    completion_probabilities: list[_Written]
    tokens_evaluated: int | None = None


class _Completion(_Base):
    """llama.cpp's ``/completion``, a request a position."""

    name = "/completion with n_probs"

    async def trial(self) -> None:
        await self._one(_TRIAL)

    async def odds(self, tokens: Sequence[int], first: int) -> AsyncIterator[Position]:
        for last in range(first, len(tokens) - 1):
            yield await self._one(tokens[: last + 1])

    async def _one(self, tokens: Sequence[int]) -> Position:
        scorer = self._scorer
        body = {
            "prompt": list(tokens), "n_predict": 1, "n_probs": self.asked, "cache_prompt": True, "stream": False,
            "temperature": 0.0, "top_k": 1, "post_sampling_probs": False,
            # Without it the whole prompt comes back as text.
            "response_fields": ["completion_probabilities", "tokens_evaluated"],
        }  # fmt: skip
        limit = _REST_BYTES + _ENTRY_BYTES * self.asked
        found = scorer.decode(await scorer.ask(f"{scorer.root}/completion", body, limit), _Completed)
        if found.tokens_evaluated not in (None, len(tokens)):
            raise scorer.lie(f"it read {found.tokens_evaluated} tokens where {len(tokens)} were sent")
        if not found.completion_probabilities:
            raise scorer.lie("no log-probabilities")
        likely = found.completion_probabilities[0].top_logprobs
        if len(likely) != self.asked:
            raise scorer.lie(f"{len(likely)} probabilities where {self.asked} were asked for")
        ids, logs, names = ([getattr(each, key) for each in likely] for key in ("id", "logprob", "token"))
        return scorer.checked(ids, logs, top=True, names=names)


class _Logprob(msgspec.Struct):
    logprob: float
    decoded_token: str | None = None


class _WithPromptOdds(msgspec.Struct):
    prompt_logprobs: list[dict[str, _Logprob] | None] | None = None


class _PromptAnswer(msgspec.Struct):
    choices: list[_WithPromptOdds]


class _PromptOdds(_Base):
    """vLLM's ``prompt_logprobs``: a request a text. The right token is always among them."""

    name = "/v1/completions with prompt_logprobs"

    async def trial(self) -> None:
        wanted = self.asked
        for top in (wanted, *(each for each in VLLM_TOPS if each < wanted)):
            self.asked = top
            try:
                async for _ in self.odds(_TRIAL, 0):
                    pass
            except RemoteError as error:
                if error.code != "refused" or top == VLLM_TOPS[-1]:
                    raise
            else:
                return

    async def odds(self, tokens: Sequence[int], first: int) -> AsyncIterator[Position]:
        scorer = self._scorer
        body = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": self.asked}
        limit = _REST_BYTES + _ENTRY_BYTES * (self.asked + 1) * len(tokens)
        answer = scorer.decode(await scorer.ask(f"{scorer.api}/completions", body, limit), _PromptAnswer)
        found = answer.choices[0].prompt_logprobs if answer.choices else None
        if found is None:
            raise scorer.lie("no log-probabilities of the prompt")
        if len(found) != len(tokens):
            raise scorer.lie(f"{len(found)} positions where {len(tokens)} tokens were sent")
        for position in range(first + 1, len(tokens)):
            told = found[position] or {}
            if str(tokens[position]) not in told or not all(key.isascii() and key.isdigit() for key in told):
                raise scorer.lie(f"other tokens than were sent, at position {position}")
            if not self.asked <= len(told) <= self.asked + 1:
                raise scorer.lie(f"{len(told)} probabilities where {self.asked} were asked for")
            logs, names = zip(*((each.logprob, each.decoded_token or "") for each in told.values()), strict=True)
            yield scorer.checked([int(key) for key in told], logs, top=True, names=names)


class _Echoed(msgspec.Struct):
    token_logprobs: list[float | None]
    tokens: list[str]


class _WithEcho(msgspec.Struct):
    logprobs: _Echoed | None = None


class _EchoAnswer(msgspec.Struct):
    choices: list[_WithEcho]


class _Echo(_Base):
    """OpenAI's older form: a request a text, and of each position the right token alone."""

    name = "/v1/completions with echo and logprobs"

    def __init__(self, scorer: Scorer, top: int) -> None:
        super().__init__(scorer, 0)

    async def trial(self) -> None:
        async for _ in self.odds(_TRIAL, 0):
            pass

    async def odds(self, tokens: Sequence[int], first: int) -> AsyncIterator[Position]:
        scorer = self._scorer
        # One token is written too: not every server can write none.
        body = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        limit = _REST_BYTES + 2 * _ENTRY_BYTES * len(tokens)
        answer = scorer.decode(await scorer.ask(f"{scorer.api}/completions", body, limit), _EchoAnswer)
        told = answer.choices[0].logprobs if answer.choices else None
        if told is None:
            raise scorer.lie("no log-probabilities of the prompt")
        logs = told.token_logprobs
        if len(logs) not in (len(tokens), len(tokens) + 1) or len(told.tokens) != len(logs):
            raise scorer.lie(f"{len(logs)} positions where {len(tokens)} tokens were sent")
        for position in range(first + 1, len(tokens)):
            log = logs[position]
            if log is None:
                raise scorer.lie(f"no log-probability at position {position}")
            if not scorer.same_token(tokens[position], told.tokens[position]):
                raise scorer.lie(f"other tokens than were sent, at position {position}")
            yield scorer.checked([tokens[position]], [log], top=False)


__all__ = ["FLOOR", "USUAL_TOP", "WHOLE_TOP", "Position", "Scorer"]
