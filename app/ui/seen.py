"""What the model sees of a conversation that is longer than its context: from which message on, and what stands for the
rest. It is kept with the figures of each answer, so that no message is ever changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from app.context_messages import ContextFitted, Summary
from app.store import StoredMessage


class Seen(NamedTuple):
    """The first message that the model sees, and a summary of those above (empty: none), ``writing`` while it comes."""

    first: int
    summary: str = ""
    writing: bool = False


def groups_of(rows: list[StoredMessage]) -> list[int]:
    """For each message of the prompt that ``rows`` make, after the system prompt, the row that it begins with.

    As in :func:`app.ui.reply.prompt_of`: neighbours of one role are one message, empty ones are none.
    """
    begins: list[int] = []
    role = ""
    for row in rows:
        if not row.content.strip():
            continue
        if row.role != role or role == "tool":
            begins.append(row.id)
            role = row.role
    return begins


def seen_of(rows: list[StoredMessage], fit: ContextFitted | None) -> Seen | None:
    """What an answer's prompt had of ``rows``; None if all of it."""
    begins = groups_of(rows)
    if fit is None or not 0 < fit.left_out < len(begins):
        return None
    text = fit.summary.text if fit.summary is not None else ""
    return Seen(begins[fit.left_out], text, fit.summarising)


def kept_with(seen: Seen | None) -> dict[str, Any]:
    """What is added to an answer's figures."""
    return {} if seen is None else {"seen_from": seen.first, "summary": seen.summary}


def last_seen(rows: list[StoredMessage]) -> Seen | None:
    """What the last answer of a branch was told; None if that was everything."""
    stats = next((row.stats for row in reversed(rows) if row.role == "assistant" and row.stats), {})
    first = stats.get("seen_from")
    if not isinstance(first, int) or all(row.id != first for row in rows):
        return None
    return Seen(first, str(stats.get("summary") or ""))


def summary_for(rows: list[StoredMessage]) -> Summary | None:
    """The summary that the last answer was given, for the next one."""
    seen = last_seen(rows)
    if seen is None or not seen.summary:
        return None
    begins = groups_of(rows)
    return Summary(begins.index(seen.first), seen.summary) if seen.first in begins else None


__all__ = ["Seen", "groups_of", "kept_with", "last_seen", "seen_of", "summary_for"]
