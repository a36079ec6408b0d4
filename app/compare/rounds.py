"""The rounds of a blind test: which two answers stand where, and what a key means then."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from app.compare.results import Entry
from app.compare.votes import Tally

FIRST, SECOND, TIE, SKIP = "1", "2", "=", "s"
KEYS = (FIRST, SECOND, TIE, SKIP)


@dataclass(frozen=True)
class Round:
    """The answers of models ``shown`` (their places among the models) to a prompt; one of them is the reference, 0."""

    prompt: int
    shown: tuple[int, int]

    @property
    def model(self) -> int:
        """The model that is held against the reference."""
        return max(self.shown)

    def winner(self, key: str) -> int | None:
        """The place of the model that a vote is for; None for a tie and for none."""
        return {FIRST: self.shown[0], SECOND: self.shown[1]}.get(key)


def draw(prompts: int, models: int, seed: int) -> list[Round]:
    """Every model against the reference on every prompt, in a random order; each stands first half of the time."""
    chance = random.Random(seed)
    made: list[Round] = []
    for model in range(1, models):
        swapped = [number % 2 == 1 for number in range(prompts)]
        chance.shuffle(swapped)
        made += [Round(prompt, (model, 0) if turn else (0, model)) for prompt, turn in enumerate(swapped)]
    chance.shuffle(made)
    return made


def alike(entry: Entry, made: Round) -> bool:
    """Whether there is nothing to choose: both said the same words."""
    first, second = (entry.columns[place] for place in made.shown)
    return first is not None and second is not None and first.text.split() == second.text.split()


def ready(entry: Entry, made: Round) -> bool:
    """Whether both answers are there and can be judged."""
    both = [entry.columns[place] for place in made.shown]
    return all(column is not None and not column.error for column in both)


def count(votes: Iterable[tuple[Round, str]], models: int) -> list[Tally]:
    """One tally for each model but the reference."""
    numbers = [dict.fromkeys(("wins", "losses", "ties", "skipped"), 0) for _ in range(models - 1)]
    for made, key in votes:
        winner = made.winner(key)
        undecided = "ties" if key == TIE else "skipped"
        name = undecided if winner is None else "losses" if winner == 0 else "wins"
        numbers[made.model - 1][name] += 1
    return [Tally(**each) for each in numbers]


MODEL, REFERENCE, OPEN, TOO_CLOSE = "model", "reference", "open", "too_close"


def outcome(tally: Tally, left: int) -> str:
    """Who is preferred, ``MODEL`` or ``REFERENCE``; where nobody is, whether ``left`` more rounds could decide it."""
    if tally.decided:
        return MODEL if tally.wins > tally.losses else REFERENCE
    return OPEN if left and tally.can_decide(left) else TOO_CLOSE


__all__ = [
    "FIRST", "KEYS", "MODEL", "OPEN", "REFERENCE", "SECOND", "SKIP", "TIE", "TOO_CLOSE", "Round", "alike", "count",
    "draw", "outcome", "ready",
]  # fmt: skip
