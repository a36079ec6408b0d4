"""One answer on its way from an engine into the store: what was shown is kept, whatever ends the program."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from PySide6.QtCore import QObject, Signal

from app.chat_messages import NEVER, WORTH_GUESSING, Constraint, GuessedAhead, TokenChoice, TokenChoices
from app.context_messages import ContextFitted
from app.marks import without_thought
from app.protocol import ChatMessage, Failed, Replied, Sampling, Tokens
from app.store import Store, StoredMessage
from app.ui import format as fmt
from app.ui.engines import Engine
from app.ui.seen import Seen, kept_with, seen_of, summary_for
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


class Prompt(NamedTuple):
    """What is answered: the messages of a branch, the system prompt, and what happens when they do not fit,
    and who guesses ahead."""

    rows: list[StoredMessage]
    system: str = ""
    overflow: str = "stop"
    draft: str = ""


class Reply(QObject):
    """An answer that is being written. ``ended`` or ``failed`` comes exactly once, after the last save.

    ``text`` carries new text, ``figures`` the engine's :class:`Tokens`, ``fitted`` that ``seen`` has changed, ``ended``
    its :class:`Replied`, ``failed`` a QuenchError. The message row must exist; it stays ``partial`` until the end. Text
    is in the store before it is told: what a person has seen outlives the process.
    """

    text = Signal(str)
    figures = Signal(object)
    fitted = Signal()
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
        self.seen: Seen | None = None
        self._rows: list[StoredMessage] = []
        self._store = store
        self._unsaved = ""
        self._choices: list[TokenChoice] = []
        self._constraint = Constraint()

    def start(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        *,
        before: str = "",
        continue_last: bool = False,
        constraint: Constraint | None = None,
        probabilities: str = NEVER,
    ) -> None:
        """Ask the engine; ``before`` is what the message holds already. Errors and ends come as signals."""
        self.content = before
        self._rows = prompt.rows
        if before:
            self._save()  # it is unfinished from now on
        engine = self.engine
        engine.tokens.connect(self._tokens)
        engine.fitted.connect(self._fitted)
        engine.replied.connect(self._replied)
        engine.failed.connect(self._trouble)
        engine.choices.connect(self._chosen)
        self._constraint = constraint or Constraint()
        # A constraint and probabilities look at one token at a time.
        draft = "" if self._constraint.kind or engine.is_remote else prompt.draft
        # Of an answer in two parts only one would be known.
        wanted = NEVER if continue_last or draft else probabilities
        self.request = engine.generate(
            prompt_of(prompt.rows, prompt.system, continue_last=continue_last),
            sampling,
            continue_last,
            self._constraint,
            wanted,
            overflow=prompt.overflow,
            summary=summary_for(prompt.rows),
            conversation=str(self.conversation),
            draft=draft,
        )

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

    def _fitted(self, event: ContextFitted) -> None:
        if event.request == self.request:
            self.seen = seen_of(self._rows, event)
            self.fitted.emit()

    def _replied(self, event: Replied) -> None:
        if event.request != self.request:
            return
        self._leave()
        self.stats = stats_of(event, self.engine.path, self._constraint) | kept_with(self.seen)
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
        self.engine.fitted.disconnect(self._fitted)
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
        **({"ahead": msgspec.to_builtins(event.ahead)} if event.ahead is not None else {}),
    }


def unfinished(stats: dict[str, Any] | None, partial: bool) -> bool:
    """Was the answer cut short, so that it can go on?"""
    return partial or (stats or {}).get("stop") in ("cancelled", "max_tokens", "context")


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
        "context": tr("stopped because the context is full: choose what happens then under Settings, When full"),
    }
    end = ends.get(str(stats.get("stop")))
    held = {"schema": tr("held to a JSON schema"), "grammar": tr("held to a grammar")}.get(str(stats.get("constraint")))
    return " · ".join([*parts, *(part for part in (_ahead(tr, stats.get("ahead")), held, end) if part)])


def _ahead(tr: Any, stats: object) -> str:
    """How guessing tokens ahead went."""
    try:
        ahead = msgspec.convert(stats, GuessedAhead)
    except msgspec.ValidationError:
        return ""
    if ahead.guessed:
        counts = fmt.number(ahead.right), fmt.number(ahead.guessed), fmt.number(ahead.gain, 1)
        return tr("{0} of {1} guessed tokens right, {2} times as fast").format(*counts)
    if ahead.hoped < WORTH_GUESSING:
        return tr("guessing ahead does not pay with this model here")
    return tr("nothing was guessed")


def seed_of(stats: dict[str, Any] | None) -> int:
    """The seed that an answer was drawn with, -1 if nothing was drawn or it is not known."""
    seed = (stats or {}).get("seed", -1)
    return seed if isinstance(seed, int) else -1
