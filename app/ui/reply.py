"""One answer on its way from an engine into the store: what was shown is kept, whatever ends the program."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app.chat_messages import NEVER, Constraint, TokenChoice, TokenChoices
from app.marks import without_thought
from app.protocol import ChatMessage, Failed, Replied, Sampling, Tokens
from app.store import Store, StoredMessage
from app.ui import format as fmt
from app.ui.engines import Engine
from converter.spec import QuenchError


def prompt_of(messages: list[StoredMessage], system: str = "", *, continue_last: bool = False) -> list[ChatMessage]:
    """The conversation for the engine. Neighbours of one role are joined: most templates want them to alternate."""
    prompt = [ChatMessage("system", system.strip())] if system.strip() else []
    for position, message in enumerate(messages):
        content = message.content
        whole = continue_last and position == len(messages) - 1
        if message.role == "assistant" and not whole:
            content = without_thought(content)
        if not content.strip() and not whole:
            continue
        if prompt and prompt[-1].role == message.role and message.role != "tool":
            prompt[-1] = ChatMessage(message.role, f"{prompt[-1].content}\n\n{content}")
        else:
            prompt.append(ChatMessage(message.role, content))
    return prompt


class Reply(QObject):
    """An answer that is being written. ``ended`` or ``failed`` comes exactly once, after the last save.

    ``text`` carries new text, ``figures`` the engine's :class:`Tokens`, ``ended`` its :class:`Replied`, ``failed`` a
    QuenchError. The message row must exist; it stays ``partial`` until the end. Text is in the store before it is
    told: what a person has seen outlives the process.
    """

    text = Signal(str)
    figures = Signal(object)
    ended = Signal(object)
    failed = Signal(object)

    def __init__(
        self,
        store: Store,
        engine: Engine,
        conversation: int,
        message: int,
        parent: QObject | None = None,
        *,
        beside: int | None = None,
    ) -> None:
        super().__init__(parent)
        self.beside = beside
        self.engine = engine
        self.conversation = conversation
        self.message = message
        self.content = ""
        self.stats: dict[str, Any] | None = None
        self.request = 0
        self.over = False
        self._store = store
        self._unsaved = ""
        self._choices: list[TokenChoice] = []
        self._constraint = Constraint()

    def start(
        self,
        messages: list[ChatMessage],
        sampling: Sampling | None,
        *,
        before: str = "",
        continue_last: bool = False,
        constraint: Constraint | None = None,
        probabilities: str = NEVER,
    ) -> None:
        """Ask the engine; ``before`` is what the message holds already. Errors and ends come as signals."""
        self.content = before
        if before:
            self._save()  # it is unfinished from now on
        engine = self.engine
        engine.tokens.connect(self._tokens)
        engine.replied.connect(self._replied)
        engine.failed.connect(self._trouble)
        engine.choices.connect(self._chosen)
        wanted = NEVER if continue_last else probabilities  # of an answer in two parts only one would be known
        self._constraint = constraint or Constraint()
        self.request = engine.generate(messages, sampling, continue_last, self._constraint, wanted)

    def stop(self) -> None:
        """Ask the engine to stop; ``ended`` follows."""
        self.engine.stop(self.request)

    def give_up(self) -> None:
        """Let go without an end: the engine is about to be taken away. What came is saved; no signal follows."""
        if not self.over:
            self._leave()
            self._save()

    def _tokens(self, event: Tokens) -> None:
        if event.request != self.request:
            return
        self.content += event.text
        self._unsaved += event.text
        try:
            if self._unsaved:
                self._store.append_text(self.message, self._unsaved)
                self._unsaved = ""
        finally:  # a full disk is told, and the answer is seen all the same
            if event.text:
                self.text.emit(event.text)
            self.figures.emit(event)

    def _replied(self, event: Replied) -> None:
        if event.request != self.request:
            return
        self._leave()
        self.stats = stats_of(event, self.engine.path, self._constraint)
        self._store.update_message(self.message, self.content, self.stats, partial=False)
        self._store.keep_choices(self.message, pack(self._choices) if self._choices else None)
        self.ended.emit(event)

    def _chosen(self, event: TokenChoices) -> None:
        if event.request == self.request:
            self._choices += event.tokens

    def _trouble(self, failure: Failed | QuenchError) -> None:
        if isinstance(failure, Failed) and failure.request != self.request:
            return
        self._leave()
        self._save()
        self.failed.emit(failure.to_error() if isinstance(failure, Failed) else failure)

    def _save(self) -> None:
        self._store.update_message(self.message, self.content, None, partial=True)

    def _leave(self) -> None:
        self.over = True
        self.engine.tokens.disconnect(self._tokens)
        self.engine.replied.disconnect(self._replied)
        self.engine.failed.disconnect(self._trouble)
        self.engine.choices.disconnect(self._chosen)


def pack(choices: Sequence[TokenChoice]) -> bytes:
    """The probabilities of an answer as they are kept: about 40 bytes a token."""
    return zlib.compress(msgspec.json.encode(choices), 1)


def unpack(data: bytes) -> tuple[TokenChoice, ...]:
    """What :func:`pack` made; nothing if it is damaged."""
    try:
        return msgspec.json.decode(zlib.decompress(data), type=tuple[TokenChoice, ...])
    except (zlib.error, msgspec.DecodeError):
        return ()


def stats_of(event: Replied, path: str, constraint: Constraint | None = None) -> dict[str, Any]:
    """The figures that are kept with an answer."""
    held = {"constraint": constraint.kind} if constraint is not None and constraint.kind else {}
    return {
        "model": path,
        "stop": event.stop,
        "tokens": event.tokens,
        "tokens_per_second": event.tokens_per_second,
        "first_token": event.first_token,
        "prompt_tokens": event.prompt_tokens,
        "prompt_reused": event.prompt_reused,
        "seed": event.seed,
        **held,
    }


def unfinished(stats: dict[str, Any] | None, partial: bool) -> bool:
    """Was the answer cut short, so that it can go on?"""
    return partial or (stats or {}).get("stop") in ("cancelled", "max_tokens")


def note_of(tr: Any, stats: dict[str, Any] | None, partial: bool) -> str:
    """The muted line under an answer. ``tr`` is the page's translation function."""
    if partial:
        return tr("Not finished")
    if not stats:
        return ""
    parts = [
        tr("{0} tokens").format(fmt.number(stats.get("tokens"))),
        fmt.tokens_per_second(stats.get("tokens_per_second")),
        tr("first token {0}").format(fmt.seconds(stats.get("first_token"))),
    ]
    ends = {
        "cancelled": tr("stopped"),
        "max_tokens": tr("token limit reached"),
        "context": tr("the context is full"),
    }
    end = ends.get(str(stats.get("stop")))
    held = {"schema": tr("held to a JSON schema"), "grammar": tr("held to a grammar")}.get(str(stats.get("constraint")))
    return " · ".join([*parts, *(part for part in (held, end) if part)])


def seed_of(stats: dict[str, Any] | None) -> int:
    """The seed that an answer was drawn with, -1 if nothing was drawn or it is not known."""
    seed = (stats or {}).get("seed", -1)
    return seed if isinstance(seed, int) else -1
