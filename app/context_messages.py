"""What is told about a conversation that is longer than the model's context."""

from __future__ import annotations

import msgspec

OVERFLOWS = ("stop", "shift", "summarise")
"""What happens when the context is full. ``stop``: the answer ends, a conversation that does not fit is refused.
``shift``: the oldest turns are left out, the system prompt stays. ``summarise``: as shift, and the model is told in a
summary, which it wrote itself, what was left out."""


class Summary(msgspec.Struct, frozen=True):
    """What a model wrote about the oldest ``covers`` messages of a conversation (the system prompt is not counted)."""

    covers: int
    text: str


class ContextFitted(msgspec.Struct, frozen=True, tag_field="message", tag="context_fitted"):
    """The model does not see all of the conversation any more; comes before the answer's text, and again on a change.

    ``left_out`` of the messages after the system prompt are not in the prompt. ``summary`` stands for them, if there is
    one; ``summarising``: it is being written. ``shifted`` tokens were dropped while the answer was written.
    """

    request: int
    left_out: int
    summary: Summary | None = None
    summarising: bool = False
    shifted: int = 0


__all__ = ["OVERFLOWS", "ContextFitted", "Summary"]
