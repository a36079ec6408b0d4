"""How likely given continuations are after a prompt, many at once.

The choices of one question share its prompt: it is computed once, and each choice goes on from a copy of what the
context then holds, in a sequence of its own. As with :mod:`app.engine.greedy`, a comparison uses the same batches for
all its models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.greedy import check_fits, fill
from app.engine.model import Logits, Model, Part, never
from converter.spec import Cancelled

Tokens = Sequence[int]


class _Unit(NamedTuple):
    """Some choices of one question; they take the sequences from ``first`` on."""

    question: int
    choices: range
    first: int


def likelihoods(
    model: Model,
    questions: Sequence[tuple[Tokens, Sequence[Tokens]]],
    *,
    cancelled: Callable[[], bool] = never,
) -> list[list[float]]:
    """The logarithm of the probability (nats) of each choice after its prompt; ``questions`` are prompts with choices.

    A choice's probability is the product of its tokens', each given the prompt and the tokens before it. The context
    is empty afterwards.

    Raises:
        ValueError: a choice without tokens.
        QuenchError: ``empty_prompt``, ``context_full`` (a prompt and a choice do not fit), ``decode_failed``.
        converter.spec.Cancelled: ``cancelled`` became true, or :meth:`Model.interrupt` was called.
    """
    for prompt, choices in questions:
        if not all(choices):
            raise ValueError("a choice has no tokens")
        check_fits(model, prompt, max(map(len, choices), default=0))
    found = [[0.0] * len(choices) for _, choices in questions]
    for units in _groups(questions, model.sequences):
        if cancelled():
            raise Cancelled
        _score(model, questions, units, found)
    return found


def _groups(questions: Sequence[tuple[Tokens, Sequence[Tokens]]], sequences: int) -> Iterator[list[_Unit]]:
    """What is computed together: in order, never more choices than there are sequences."""
    units: list[_Unit] = []
    taken = 0
    for number, (_, choices) in enumerate(questions):
        for at in range(0, len(choices), sequences):
            some = range(at, min(at + sequences, len(choices)))
            if taken + len(some) > sequences:
                yield units
                units, taken = [], 0
            units.append(_Unit(number, some, taken))
            taken += len(some)
    if units:
        yield units


def _score(
    model: Model,
    questions: Sequence[tuple[Tokens, Sequence[Tokens]]],
    units: Sequence[_Unit],
    found: list[list[float]],
) -> None:
    """Add the likelihoods of ``units`` to ``found``."""
    model.forget()
    answered = 0
    for parts in fill([(unit.first, questions[unit.question][0]) for unit in units], model.batch_capacity):
        for row in model.parts_logits(parts):
            question, some, _ = units[answered]
            tokens = [questions[question][1][choice][0] for choice in some]
            for choice, value in zip(some, log_probabilities(row[None], [tokens])[0], strict=True):
                found[question][choice] += float(value)
            answered += 1
    tails: list[tuple[int, int, Part]] = []  # question, choice, what comes before each of its tokens but the first
    for question, some, first in units:
        prompt, choices = questions[question]
        model.share(first, range(first + 1, first + len(some)))
        tails += [
            (question, choice, Part(first + place, len(prompt), choices[choice][:-1], True))
            for place, choice in enumerate(some)
            if len(choices[choice]) > 1
        ]
    for pieces in _cut(tails, min(model.batch_capacity, model.output_capacity)):
        rows = model.parts_logits([part for _, _, part in pieces], every=True)
        at = 0
        for question, choice, part in pieces:
            prompt, choices = questions[question]
            start = part.position - len(prompt) + 1
            wanted = choices[choice][start : start + len(part.tokens)]
            block = rows[at : at + len(wanted)]
            found[question][choice] += float(log_probabilities(block, [[token] for token in wanted]).sum())
            at += len(wanted)
    model.forget()


def _cut(tails: Sequence[tuple[int, int, Part]], capacity: int) -> Iterator[list[tuple[int, int, Part]]]:
    """Decode calls of at most ``capacity`` tokens, all of whose logits are wanted."""
    call: list[tuple[int, int, Part]] = []
    room = capacity
    for question, choice, part in tails:
        at = 0
        while at < len(part.tokens):
            piece = part.tokens[at : at + room]
            call.append((question, choice, Part(part.sequence, part.position + at, piece, True)))
            at += len(piece)
            room -= len(piece)
            if room == 0:
                yield call
                call, room = [], capacity
    if call:
        yield call


def log_probabilities(rows: Logits, tokens: Sequence[Tokens]) -> npt.NDArray[np.float64]:
    """ln of the probability of some tokens in each row: float64, the shape of ``tokens`` (rows, as many in each)."""
    wide = rows.astype(np.float64)
    peak = wide.max(axis=1, keepdims=True)
    total = peak + np.log(np.exp(wide - peak).sum(axis=1, keepdims=True))
    picked: npt.NDArray[np.float64] = np.take_along_axis(wide, np.asarray(tokens, np.int64), axis=1) - total
    return picked


__all__ = ["likelihoods", "log_probabilities"]
