"""What an answer can be held to: a JSON schema or a grammar, checked without an engine."""

from __future__ import annotations

from app.chat_messages import GRAMMAR, SCHEMA, Constraint
from app.constraints import grammar, schema


def grammar_of(constraint: Constraint) -> str:
    """The checked grammar of a constraint, empty for none. Raises ``QuenchError`` ``bad_grammar``, ``bad_schema``."""
    if constraint.kind == SCHEMA:
        return schema.to_grammar(constraint.text)
    if constraint.kind == GRAMMAR:
        grammar.check(constraint.text)
        return constraint.text
    if constraint.kind:
        raise grammar.bad_grammar(f"There is no constraint of the kind {constraint.kind!r}.")
    return ""


def check(constraint: Constraint) -> int:
    """How many rules the grammar of a constraint has. Errors as :func:`grammar_of`."""
    text = grammar_of(constraint)
    return grammar.read(text, limit=grammar.MAX_EXPANDED_TEXT).rules if text else 0


__all__ = ["check", "grammar_of"]
