"""Writing a reply: a token at a time, within the sampling, the constraint and the limits that it was asked with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from app.chat_messages import NEVER
from app.engine.ahead import Ahead, Costs, Guesser, Outcome
from app.engine.choices import Choice, LogitsView, Recorder
from app.engine.constraint import Candidates, Restriction, no_way_on
from app.engine.native import lib
from app.engine.sampling import sampler_chain
from app.engine.text import TextStream
from app.marks import THOUGHT, THOUGHT_END
from app.protocol import Sampling

if TYPE_CHECKING:
    from app.engine.model import Model

_LIKELIEST = 1024
_TAIL = 64  # characters in which the end of a thought is looked for


class Stats(NamedTuple):
    """How a reply went. ``stop`` as in :class:`app.protocol.Replied`; seconds; ``rate`` in tokens/s.

    ``seed`` was drawn with, -1 for none. ``choices`` are the tokens with their probabilities, None if not recorded.
    ``shifted`` tokens went to make room. ``ahead``: how guesses did, None if there were to be none.
    """

    stop: str
    tokens: int
    prompt_tokens: int
    prompt_reused: int
    prompt_seconds: float
    first_token: float
    rate: float
    seed: int = -1
    choices: tuple[Choice, ...] | None = None
    shifted: int = 0
    ahead: Outcome | None = None


class Generated(NamedTuple):
    """One step of a reply: text to show (may be empty), tokens so far, and at the very end the statistics."""

    text: str
    tokens: int
    stats: Stats | None = None


class Extras(NamedTuple):
    """What a reply may be asked beside its sampling.

    ``grammar``: one that :func:`app.constraints.grammar_of` gave, empty for none. ``written``: the answer's
    beginning, when it goes on. ``thinking``: the prompt ends inside a reasoning section; such a section is left free,
    and what follows it is held to the grammar. ``probabilities`` as in :class:`app.protocol.Generate`. ``keep``: a full
    context ends the reply, or, from 0 on, loses the older half of what stands behind its first ``keep`` tokens.
    ``ahead``: who guesses tokens ahead, and what several at once cost; not with a grammar or probabilities, which look
    at one token at a time.
    """

    grammar: str = ""
    written: str = ""
    thinking: bool = False
    probabilities: str = NEVER
    keep: int = -1
    ahead: tuple[Guesser, Costs] | None = None


def never() -> bool:
    """A ``cancelled`` that never is."""
    return False


class Steps:
    """One token at a time: ``next`` draws it, ``advance`` computes it and is False when that was interrupted."""

    def __init__(self, draw: Callable[[], int], advance: Callable[[int], bool]) -> None:
        self.next = draw
        self.advance = advance

    def outcome(self) -> Outcome | None:
        """Of guesses that were not made."""
        return None


class Writer:
    """Writes one reply of a model. ``restriction`` is the constraint, while there is one."""

    def __init__(self, model: Model, sampling: Sampling, extras: Extras) -> None:
        self._model = model
        self._sampling = sampling
        self._extras = extras
        self.restriction: Restriction | None = None

    def write(self, tokens: Sequence[int], cancelled: Callable[[], bool] = never) -> Iterator[Generated]:
        """Answer the prompt ``tokens``; the contract is :meth:`app.engine.model.Model.generate`'s."""
        model, sampling, extras = self._model, self._sampling, self._extras
        start = time.perf_counter()
        model.prepare(tokens)
        stream = TextStream(sampling.stop)
        logits = LogitsView(model.context_pointer, model.vocabulary)
        recorder = Recorder(model.vocabulary, extras.probabilities)
        try:
            with sampler_chain(model.vocabulary, sampling, tokens) as (chain, seed):
                steps = self._steps(chain, logits, tokens)
                reused = model.held.reuse(tokens)
                count, shifted, stop = 0, 0, "cancelled"
                first = last = start
                prompt_seconds = 0.0
                if model.held.feed(tokens[reused:], cancelled):
                    prompt_seconds = time.perf_counter() - start
                    while True:
                        token = steps.next()
                        last = time.perf_counter()
                        if count == 0:
                            first = last
                        if token < 0 or lib.llama_vocab_is_eog(model.vocab_pointer, token):
                            stop = "end"
                            break
                        count += 1
                        if recorder.choices is not None:
                            recorder.add(token, logits.now())
                        yield Generated(stream.push(model.shown(token)), count)
                        reason = self._must_stop(stream, count, cancelled)
                        room = extras.keep if reason == "context" else -1
                        if room >= 0 and (dropped := model.held.make_room(room, cancelled)):
                            shifted += dropped
                        elif reason:
                            stop = reason
                            break
                        if not steps.advance(token):
                            break
            rate = (count - 1) / (last - first) if count > 1 and last > first else 0.0
            choices = tuple(recorder.choices) if recorder.choices is not None else None
            stats = Stats(stop, count, len(tokens), reused, prompt_seconds, first - start, rate, seed, choices, shifted)
            yield Generated(stream.finish(), count, stats._replace(ahead=steps.outcome()))
        finally:
            if self.restriction is not None:
                self.restriction.free()
                self.restriction = None

    def _must_stop(self, stream: TextStream, count: int, cancelled: Callable[[], bool]) -> str:
        if stream.stopped:
            return "stop_string"
        if cancelled():
            return "cancelled"
        if count >= self._sampling.max_tokens:
            return "max_tokens"
        return "context" if self._model.held.full else ""

    def _steps(self, chain: Any, logits: LogitsView, tokens: Sequence[int]) -> Steps | Ahead:
        """Where the tokens come from, one by one or some ahead."""
        model, extras = self._model, self._extras
        if extras.ahead is None or extras.grammar or extras.probabilities != NEVER:
            return Steps(self._picker(chain, logits), model.held.advance)
        guesser, costs = extras.ahead

        def draw(index: int) -> int:
            return int(lib.llama_sampler_sample(chain, model.context_pointer, index))

        return Ahead(model, guesser, costs, draw, tokens)

    def _picker(self, chain: Any, logits: LogitsView) -> Callable[[], int]:
        """The function that chooses the next token, -1 for the end where no token says it."""
        model = self._model
        if not self._extras.grammar:
            return lambda: int(lib.llama_sampler_sample(chain, model.context_pointer, -1))
        self.restriction = Restriction(model.vocab_pointer, model.vocabulary, self._extras.grammar, model.token_named)
        return _Constrained(model, chain, self.restriction, logits, (self._sampling, self._extras)).pick


class _Constrained:
    """Draws as the chain would and asks the grammar; only where it says no, other tokens are gone through with it: the
    likeliest where they are certain to hold all that could be drawn, else all of them, which takes the library a tenth
    of a second in a vocabulary of 130,000.

    A reasoning section at the beginning is left free, whether the prompt has opened it or the model's first token does.
    """

    def __init__(
        self, model: Model, chain: Any, restriction: Restriction, logits: LogitsView, asked: tuple[Sampling, Extras]
    ) -> None:
        sampling, extras = asked
        self._model = model
        self._chain = chain
        self._restriction = restriction
        self._logits = logits
        self._candidates = Candidates(model.vocabulary)
        self._sampling = sampling
        self._thinking = extras.thinking
        self._begun = bool(extras.written)
        self._tail = ""
        if extras.written and not extras.thinking:
            restriction.read(model.continuation_tokens(extras.written))

    def pick(self) -> int:
        candidates = self._candidates.fill(self._logits.now())
        lib.llama_sampler_apply(self._chain, candidates)
        token = self._candidates.chosen
        if not self._thinking and not self._begun:
            self._thinking = THOUGHT.fullmatch(self._text(token).strip()) is not None
        if self._thinking:
            self._think(token)
        else:
            if token < 0 or not self._restriction.allows(token):
                token = self._again()
            if token < 0:
                return -1
            self._restriction.accept(token)
        self._begun = True
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _again(self) -> int:
        token = self._among_likeliest()
        if token >= 0:
            return token
        candidates = self._candidates.fill(self._logits.now())
        self._restriction.restrict(candidates)
        fallback = self._candidates.possible()
        if fallback < 0:
            if not self._model.ends():
                return -1
            raise no_way_on()
        lib.llama_sampler_apply(self._chain, candidates)
        token = self._candidates.chosen
        # Rounding in the draw may end on a token that is ruled out.
        return token if token >= 0 and self._restriction.allows(token) else fallback

    def _among_likeliest(self) -> int:
        """A draw from the likeliest tokens alone, -1 if others could be drawn too.

        They are enough if as many as top-k keeps are allowed among them, or if the least of them is one that min-p
        would cut. (Tokens behind it then only weigh in the sum that top-p goes by, with next to nothing.)
        """
        sampling = self._sampling
        if sampling.repeat_penalty != 1.0 or self._model.vocabulary <= _LIKELIEST:
            return -1
        candidates, least = self._candidates.fill_likeliest(self._logits.now(), _LIKELIEST)
        self._restriction.restrict(candidates)
        count, most = self._candidates.left()
        cut = sampling.min_p > 0 and least < most + math.log(sampling.min_p)
        if not count or not (sampling.temperature <= 0 or 0 < sampling.top_k <= count or cut):
            return -1
        lib.llama_sampler_apply(self._chain, candidates)
        token = self._candidates.chosen
        return token if token >= 0 and self._restriction.allows(token) else -1

    def _think(self, token: int) -> None:
        self._tail = (self._tail + self._text(token))[-_TAIL:]
        if THOUGHT_END.search(self._tail):
            self._thinking = False

    def _text(self, token: int) -> str:
        return self._model.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


__all__ = ["Extras", "Generated", "Stats", "Writer", "never"]
