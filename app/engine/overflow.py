"""A conversation that is longer than the context: which turns go, and what stands for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.context_messages import Summary
from app.engine.held import context_full
from app.engine.model import Model, never
from app.protocol import ChatMessage, Sampling
from converter.spec import Cancelled, QuenchError

_REPLY_SHARE = 4  # a quarter of the context is kept for the answer, or what it may be at most
_CUT_SHARE = 2  # once turns must go, so many go that half of the context is left: the next turns reuse what stays
_SUMMARY_SHARE = 8
_SUMMARY_MOST = 512  # tokens
_MOST_PORTIONS = 64  # contexts' worth of characters; what stands before them is not even summed up
_ASK = (
    "Below is the beginning of a conversation. Sum it up in a few sentences: names, facts, decisions, and what was "
    "asked for. Write only the summary."
)
_BEFORE = "What was said before, in short:"


class Fitted(NamedTuple):
    """A prompt that fits. ``left_out`` messages after the system prompt are not in it; the first ``keep`` tokens stay
    when the context runs full during the answer (-1: the answer ends). ``text`` is the prompt up to the answer."""

    tokens: list[int]
    left_out: int
    summary: Summary | None
    keep: int
    text: str


def fitted(
    model: Model,
    messages: Sequence[ChatMessage],
    *,
    overflow: str,
    most: int,
    continue_last: bool = False,
    left_out: int = 0,
    summary: Summary | None = None,
    on_summary: Callable[[int], None] = lambda count: None,
    cancelled: Callable[[], bool] = never,
    tools: str = "",
) -> Fitted:
    """The prompt for a conversation, without its oldest turns if ``overflow`` allows it and they do not fit.

    Args:
        most: tokens that the answer may have.
        left_out: how many messages were left out the last time; if that is enough, it stays so.
        summary: what was written about the oldest messages before.
        on_summary: called with the number of messages before a summary of them is written.
        tools: what may be called, for the template.

    Raises:
        QuenchError: ``context_full`` where even the last turn does not fit, or ``overflow`` is ``stop``; the template's
            own errors.
        converter.spec.Cancelled: while summarising.
    """
    talk = _Talk(model, messages, continue_last, tools)
    room = model.context - min(most, model.context // _REPLY_SHARE)
    if overflow == "stop":
        return Fitted(talk.tokens(0, None), 0, None, -1, talk.text(0, None))
    whole = talk.measured(0, None)
    if whole is not None and len(whole) <= room:
        return Fitted(whole, 0, None, talk.keep(whole, None), talk.text(0, None))
    if overflow == "shift":
        summary = None
    cuts = talk.cuts()
    before = summary.covers if summary is not None else left_out
    if before in cuts:
        tokens = talk.measured(before, summary)
        if tokens is not None and len(tokens) <= room:
            return Fitted(tokens, before, summary, talk.keep(tokens, summary), talk.text(before, summary))
    goal = min(room, model.context // _CUT_SHARE)
    cut, tokens = _cut(talk, [each for each in cuts if each >= before], goal, room)
    if overflow == "summarise":
        on_summary(cut)
        summary = summarised(model, talk.spoken(cut), summary, cancelled=cancelled)
        told = talk.measured(cut, summary)
        if told is None or len(told) > room:
            summary = None  # the last turn takes all there is; better without a summary than not at all
        else:
            tokens = told
    return Fitted(tokens, cut, summary, talk.keep(tokens, summary), talk.text(cut, summary))


def _cut(talk: _Talk, cuts: list[int], goal: int, room: int) -> tuple[int, list[int]]:
    """The first cut whose prompt has at most ``goal`` tokens, else the last one, if it has ``room``."""
    tokens: list[int] | None = None
    for cut in cuts:
        tokens = talk.measured(cut, None)
        if tokens is not None and (len(tokens) <= goal or (cut == cuts[-1] and len(tokens) <= room)):
            return cut, tokens
    if tokens is not None and len(tokens) < talk.model.context:
        return cuts[-1], tokens
    raise context_full(
        f"The last message alone is longer than the context of {talk.model.context} tokens.",
        "Shorten the message, or load the model with a larger context.",
    )


class _Talk:
    """A conversation whose beginning may be left out."""

    def __init__(self, model: Model, messages: Sequence[ChatMessage], continue_last: bool, tools: str) -> None:
        self.model = model
        self._tools = tools
        self._system = [message for message in messages[:1] if message.role == "system"]
        self._rest = list(messages[len(self._system) :])
        self._continue = continue_last

    def spoken(self, cut: int) -> list[ChatMessage]:
        """The first ``cut`` messages after the system prompt."""
        return self._rest[:cut]

    def cuts(self) -> list[int]:
        """Where the conversation may begin: at each question, the last one included."""
        last = len(self._rest) - (2 if self._continue else 1)
        return [at for at, message in enumerate(self._rest[: last + 1]) if message.role == "user" or at == last]

    def text(self, cut: int, summary: Summary | None) -> str:
        """The rendered prompt, up to where the answer begins."""
        rest = self._rest[cut : -1 if self._continue else None]
        if summary is not None and rest:
            rest[0] = ChatMessage(rest[0].role, f"{_told(summary)}{rest[0].content}")
        return self.model.render([*self._system, *rest], tools=self._tools)

    def tokens(self, cut: int, summary: Summary | None) -> list[int]:
        written = self._rest[-1].content if self._continue else ""
        return self.model.prompt_tokens(self.text(cut, summary) + written)

    def measured(self, cut: int, summary: Summary | None) -> list[int] | None:
        """As :meth:`tokens`; None where the length of the text alone says that it does not fit."""
        try:
            return self.tokens(cut, summary)
        except QuenchError as error:
            if error.code == "context_full":
                return None
            raise

    def keep(self, tokens: list[int], summary: Summary | None) -> int:
        """How many tokens the prompt has in common with one of the same beginning and another question."""
        told = _told(summary) if summary is not None else ""
        try:
            question = ChatMessage("user", f"{told}\x1f")
            other = self.model.prompt_tokens(self.model.render([*self._system, question], tools=self._tools))
        except QuenchError:
            return 0  # the template wants more than a question
        common = 0
        for ours, theirs in zip(tokens, other, strict=False):
            if ours != theirs:
                break
            common += 1
        return common if common <= self.model.context // 2 else 0


def _told(summary: Summary) -> str:
    return f"[{_BEFORE} {summary.text}]\n\n"


def summarised(
    model: Model, spoken: Sequence[ChatMessage], before: Summary | None, *, cancelled: Callable[[], bool] = never
) -> Summary:
    """The model's own summary of ``spoken``, in as many steps as its context takes; ``before`` covers the first ones.

    Raises:
        converter.spec.Cancelled: ``cancelled`` became true.
    """
    text = before.text if before is not None else ""
    done = before.covers if before is not None and before.covers <= len(spoken) else 0
    length = max(16, min(_SUMMARY_MOST, model.context // _SUMMARY_SHARE))
    lines = "\n\n".join(f"{message.role}: {message.content}" for message in spoken[done:])
    tokens = model.continuation_tokens(lines[-_MOST_PORTIONS * model.context :])
    portion = model.context // 2
    for at in range(0, len(tokens), portion):
        part = model.detokenize(tokens[at : at + portion])
        known = f"{_BEFORE} {text}\n\n" if text else ""
        text = _written(model, f"{_ASK}\n\n{known}{part}", length, cancelled) or text
    return Summary(len(spoken), text)


def _written(model: Model, ask: str, length: int, cancelled: Callable[[], bool]) -> str:
    tokens = model.prompt_tokens(model.render([ChatMessage("user", ask)]))
    if len(tokens) + length >= model.context:
        tokens = model.prompt_tokens(model.render([ChatMessage("user", ask[: model.context // 2])]))
    sampling = Sampling(temperature=0, max_tokens=length)
    pieces = []
    for step in model.generate(tokens, sampling, cancelled=cancelled):
        pieces.append(step.text)
        if step.stats is not None and step.stats.stop == "cancelled":
            raise Cancelled
    return " ".join("".join(pieces).split())


__all__ = ["Fitted", "fitted", "summarised"]
