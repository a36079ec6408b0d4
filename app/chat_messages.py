"""What a chat asks beyond a question, and what it is told beyond text: constraints, and how sure the model was."""

from __future__ import annotations

import msgspec

SCHEMA, GRAMMAR = "schema", "grammar"
AUTOMATIC, ALWAYS, NEVER = "auto", "always", "never"
LOOKUP = "lookup"
"""Guesses come from the text itself; any other name of a draft is a model's file."""
WORTH_GUESSING = 1.05
"""How many times faster guesses must make a step to be made."""
ALTERNATIVES = 5
"""How many of the likeliest tokens are told."""
COST_LIMIT = 0.005
"""The share of a reply's time above which probabilities are not recorded where nobody insists."""


class GuessedAhead(msgspec.Struct, frozen=True):
    """How guessing ahead went in a reply: tokens ``guessed``, how many were ``right``, how many times faster than one
    by one that was (``gain``), and what guesses could gain here at best (``hoped``); where that is too little none are
    made."""

    guessed: int
    right: int
    gain: float
    hoped: float


class Constraint(msgspec.Struct, frozen=True):
    """What an answer must be: ``kind`` is ``schema`` (``text`` is a JSON schema), ``grammar`` (GBNF) or empty."""

    kind: str = ""
    text: str = ""


class CheckConstraint(msgspec.Struct, frozen=True, tag_field="message", tag="check_constraint"):
    """Can this be used (worker ``scout``)? Answered by :class:`ConstraintChecked` or ``Failed``."""

    request: int
    constraint: Constraint


class ConstraintChecked(msgspec.Struct, frozen=True, tag_field="message", tag="constraint_checked"):
    """It can. ``rules``: how large the grammar is with its repetitions."""

    request: int
    rules: int


class Likely(msgspec.Struct, frozen=True, array_like=True):
    """A token that could have come, and its probability."""

    text: str
    probability: float


class TokenChoice(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer: the text that it added, its probability by the model alone (before temperature, the cut
    of the unlikely, and any constraint), and the likeliest tokens there with theirs, the first one first."""

    text: str
    probability: float
    top: tuple[Likely, ...] = ()


class TokenChoices(msgspec.Struct, frozen=True, tag_field="message", tag="token_choices"):
    """Tokens of the answer ``request``, in order; all of them come just before ``Replied``, if they were recorded."""

    request: int
    tokens: tuple[TokenChoice, ...]
