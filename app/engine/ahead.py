"""Guessing some tokens ahead and checking the guesses in one computation.

A token is a pass over all weights; a few at once are the same pass and more arithmetic. Where a machine has arithmetic
to spare, tokens that were guessed right come nearly free; where it has not, guessing costs. So what several tokens at
once take is measured, and guesses are made only where they gain (an 0.1B model on a CPU gains, many larger ones do
not). Every token is drawn by the sampler from the model's own distribution at its place, and a guess is kept only if it
is that token: the text is the same as without, but for the last bits in which a batch differs from single tokens.

Not for models with recurrent state or a sliding window, whose memory cannot forget a wrong guess.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from app.chat_messages import WORTH_GUESSING
from app.engine.native import lib
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.engine.model import Model

MOST = 7
"""Tokens that are guessed at once."""
SIZES = (1, 2, 4, 8)
"""Numbers of tokens whose computation is timed."""
HOPED = 0.8
"""The share of right guesses with which guessing must gain on this machine to be tried at all."""
RETRY = 32
"""Where guessing has not paid, it is tried again after so many tokens."""
_FADE = 0.9
_SINGLES = 16  # tokens computed alone whose time is remembered
_LEARNED = 0.6  # what is expected of a guess before any was checked


class Costs(NamedTuple):
    """Seconds for computing :data:`SIZES` tokens at once; ``guess`` for guessing one."""

    seconds: tuple[float, ...]
    guess: float = 0.0

    def of(self, tokens: int) -> float:
        """Seconds for ``tokens`` at once."""
        for (low, fast), (high, slow) in zip(
            zip(SIZES, self.seconds, strict=True), list(zip(SIZES, self.seconds, strict=True))[1:], strict=False
        ):
            if tokens <= high:
                return fast + (slow - fast) * (tokens - low) / (high - low)
        return self.seconds[-1] * tokens / SIZES[-1]

    def gain(self, guesses: int, right: float) -> float:
        """How many times faster a step with ``guesses`` is, each of which is right with the probability ``right``."""
        expected = sum(right**power for power in range(guesses + 1))
        return expected * self.of(1) / (self.of(1 + guesses) + guesses * self.guess)

    def best(self, most: int, right: float) -> tuple[int, float]:
        """The number of guesses, up to ``most``, that gains most, and what it gains; 0 and 1.0 if none does."""
        found = max(((self.gain(count, right), count) for count in range(1, most + 1)), default=(1.0, 0))
        return (found[1], found[0]) if found[0] > 1.0 else (0, 1.0)


class Outcome(NamedTuple):
    """How guessing went: tokens ``guessed`` and ``right``, how many times faster the reply was than single tokens would
    have been (by the measured time of one), and what guesses could gain here if most were right (below
    :data:`WORTH_GUESSING` none are made)."""

    guessed: int
    right: int
    gain: float
    hoped: float


class Guesser(Protocol):
    """Says what may come. ``begin`` gets the whole text so far, ``add`` each token that follows."""

    def begin(self, tokens: Sequence[int]) -> None: ...

    def add(self, token: int) -> None: ...

    def guess(self, most: int) -> list[int]: ...


class Lookup:
    """What followed when the text's last tokens stood there before: summaries, code and edits repeat much."""

    LENGTHS = (4, 3, 2)

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}
        self._before: dict[int, int] = {}

    def begin(self, tokens: Sequence[int]) -> None:
        self.__init__()  # type: ignore[misc]
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        self._tokens.append(token)
        end = len(self._tokens)
        self._before.clear()
        for length in self.LENGTHS:
            if end >= length:
                key = tuple(self._tokens[-length:])
                earlier = self._last.get(key)
                if earlier is not None:
                    self._before[length] = earlier
                self._last[key] = end

    def guess(self, most: int) -> list[int]:
        for length in self.LENGTHS:
            if length in self._before:
                at = self._before[length]
                return self._tokens[at : at + most]
        return []


class Draft:
    """What a smaller model of the same vocabulary would write, always its likeliest token."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokens: list[int] = []

    def begin(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)

    def add(self, token: int) -> None:
        self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        model, text = self._model, self._tokens
        room = model.context - len(text) - 1
        found: list[int] = []
        if room < 1:
            return found
        held = model.held
        reused = held.reuse(text)
        if not held.feed(text[reused:], lambda: False):
            return found
        for _ in range(min(most, room)):
            token = model.likeliest()
            if model.is_end(token):
                break
            found.append(token)
            if len(found) == most or not held.advance(token):
                break
        return found


def check_draft(model: Model, draft: Model) -> None:
    """A draft model must mean the same by its tokens.

    Raises:
        QuenchError: ``other_vocabulary``.
    """
    step = max(1, model.vocabulary // 4096)
    same = model.vocabulary == draft.vocabulary and all(
        model.piece(token, special=True) == draft.piece(token, special=True)
        for token in range(0, model.vocabulary, step)
    )
    if not same:
        raise QuenchError(
            "other_vocabulary",
            "The draft model has another vocabulary than the model.",
            f"{draft.path} has {draft.vocabulary} tokens, {model.path} {model.vocabulary}.",
            "Choose a smaller model of the same family.",
        )


def can_go_back(model: Model) -> bool:
    """Whether the model's memory can forget its last tokens, which a wrong guess asks for."""
    pointer = model.model_pointer
    recurrent = lib.llama_model_is_recurrent(pointer) or lib.llama_model_is_hybrid(pointer)
    return not recurrent and int(lib.llama_model_n_swa(pointer)) == 0


class Ahead:
    """The steps of one reply with guesses. ``next`` and ``advance`` as in :class:`app.engine.reply.Steps`."""

    def __init__(
        self, model: Model, guesser: Guesser, costs: Costs, draw: Callable[[int], int], tokens: Sequence[int]
    ) -> None:
        self._model = model
        self._guesser = guesser
        self._costs = costs
        self._draw = draw
        self._ready: deque[int] = deque()
        self._computed = 0
        self._right = _LEARNED
        self._wait = 0
        self._guessed = self._kept = self._written = 0
        self._single = deque[float](maxlen=_SINGLES)
        self._begun = 0.0
        guesser.begin(tokens)

    def next(self) -> int:
        """The next token."""
        if not self._begun:
            self._begun = time.perf_counter()
        self._written += 1
        return self._ready.popleft() if self._ready else self._draw(-1)

    def advance(self, token: int) -> bool:
        """Compute ``token``, unless a guess has; False when it was interrupted."""
        self._guesser.add(token)
        if self._computed:
            self._computed -= 1
            return True
        guesses = self._guesses()
        if not guesses:
            start = time.perf_counter()
            went = self._model.held.advance(token)
            self._single.append(time.perf_counter() - start)
            return went
        before = len(self._model.held.tokens)
        if not self._model.advance_all([token, *guesses]):
            return False
        for index, guess in enumerate([*guesses, -1]):
            drawn = self._draw(index)
            self._ready.append(drawn)
            if drawn != guess or self._model.is_end(drawn):
                break
        self._computed = len(self._ready) - 1
        self._model.held.forget_after(before + 1 + self._computed)
        self._learn(len(guesses), self._computed)
        return True

    def outcome(self) -> Outcome:
        """How it went so far."""
        seconds = time.perf_counter() - self._begun if self._begun else 0.0
        one = statistics.median(self._single) if len(self._single) >= _SINGLES // 2 else self._costs.of(1)
        gain = (self._written - 1) * one / seconds if self._written > 1 and seconds > 0 else 1.0
        return Outcome(self._guessed, self._kept, gain, self._costs.best(MOST, HOPED)[1])

    def _guesses(self) -> list[int]:
        """As many as gain most; none near the end of the context, which a reply must not fill by guesses."""
        held = self._model.held
        room = held.size - len(held.tokens) - 2
        count, gain = self._costs.best(min(MOST, room), self._right)
        if gain < WORTH_GUESSING:
            self._wait += 1
            if self._wait < RETRY or room < 2:
                return []
            count, self._wait = 2, 0
        return self._guesser.guess(count)

    def _learn(self, guessed: int, right: int) -> None:
        self._guessed += guessed
        self._kept += right
        checked = right + (right < guessed)  # nothing is known of guesses behind the first wrong one
        self._right = _FADE * self._right + (1 - _FADE) * right / checked


def measure_costs(model: Model, draft: Model | None = None) -> Costs:
    """What tokens take at once on this machine now, each the best of two; some tokens' time in all.

    The model's context is empty afterwards.
    """
    seconds = tuple(min(model.bench_together(size) for _ in range(2)) for size in SIZES)
    guess = draft.bench_generate(4) / 4 if draft is not None else 0.0
    return Costs(seconds, guess)


__all__ = [
    "HOPED",
    "MOST",
    "Ahead",
    "Costs",
    "Draft",
    "Guesser",
    "Lookup",
    "Outcome",
    "can_go_back",
    "check_draft",
    "measure_costs",
]
