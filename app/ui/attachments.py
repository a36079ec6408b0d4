"""Text files that go with a question: read within bounds, counted in tokens by the engine, refused when they do not
fit beside the conversation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from app.protocol import ChatMessage, Counted, Failed
from app.ui import format as fmt
from app.ui.engines import Engine
from converter.spec import QuenchError

MAX_FILE = 1 << 20
HEAD = 8192
"""Bytes at the front of a file that are looked at before the rest is read."""
ANSWER_ROOM = 64
"""Tokens of the context that must be left for the answer."""


def fenced(name: str, content: str) -> str:
    """A file as part of a question: a code block with a fence that its content cannot close."""
    fence = "```"
    while fence in content:
        fence += "`"
    kind = Path(name).suffix.lstrip(".") or "text"
    body = content if content.endswith("\n") else content + "\n"
    return f"{fence}{kind} {name}\n{body}{fence}\n"


def read_text(path: str, tr: Callable[[str], str]) -> str:
    """A file's text. ``QuenchError`` ``bad_attachment``: no file, too large, binary, or not UTF-8; never more than
    ``MAX_FILE`` bytes are read, of a binary file ``HEAD``."""
    too_large = tr("It has {0}; at most {1} can go into a question.")
    try:
        size = Path(path).stat().st_size
        if not Path(path).is_file():
            raise refusal(path, tr("It is no file."), tr)  # a pipe would never come to its end
        if size > MAX_FILE:
            raise refusal(path, too_large.format(fmt.size(size), fmt.size(MAX_FILE)), tr)
        with Path(path).open("rb") as file:
            data = file.read(HEAD)
            if b"\0" in data:
                raise refusal(path, tr("It is a binary file, not a text."), tr)
            data += file.read(MAX_FILE + 1 - len(data))
    except OSError as error:
        raise refusal(path, error.strerror or str(error), tr) from error
    if len(data) > MAX_FILE:  # it grew, or has no size of its own
        raise refusal(path, too_large.format(fmt.size(len(data)), fmt.size(MAX_FILE)), tr)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(path, tr("It is not a UTF-8 text."), tr) from error


def refusal(path: str, why: str, tr: Callable[[str], str]) -> QuenchError:
    """Why a file does not go with the question."""
    title = tr("{0} cannot be attached.").format(Path(path).name)
    return QuenchError("bad_attachment", title, why, tr("Attach a text file, or paste the part you need."))


class TokenCounter(QObject):
    """Asks an engine how long files are. ``counted(file, tokens)`` or ``refused(file, error)`` follows, a file being
    its (name, content); neither comes when the engine goes away."""

    counted = Signal(object, int)
    refused = Signal(object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._engine: Engine | None = None
        self._asked: dict[int, tuple[str, str]] = {}
        self._known: set[tuple[str, str]] = set()  # asked once; one that failed is not asked again and again

    def follow(self, engine: Engine | None) -> None:
        """Ask this engine from now on; what was asked before is forgotten."""
        if engine is self._engine:
            return
        if self._engine is not None:
            self._engine.counted.disconnect(self._heard)
            self._engine.failed.disconnect(self._failed)
        self._engine = engine
        self._asked.clear()
        self._known.clear()
        if engine is not None:
            engine.counted.connect(self._heard)
            engine.failed.connect(self._failed)

    def ask(self, file: tuple[str, str], messages: list[ChatMessage]) -> bool:
        """Count a file, and the conversation ``messages`` of which it is a part. False if it cannot be asked now: no
        model is loaded, another file is being counted, or this one could not be."""
        if self._engine is None or self._engine.loaded is None or self._asked or file in self._known:
            return False
        self._known.add(file)
        self._asked[self._engine.count(messages, file[1])] = file
        return True

    def _heard(self, event: Counted) -> None:
        file = self._asked.pop(event.request, None)
        if file is None:
            return
        self._known.discard(file)
        if event.prompt_tokens + ANSWER_ROOM <= event.context:
            self.counted.emit(file, event.tokens)
            return
        others = event.prompt_tokens - event.tokens
        why = self.tr("It has {0} tokens; the context of {1} has room for {2} beside the conversation and an answer.")
        room = max(0, event.context - others - ANSWER_ROOM)
        self._refuse(file, why.format(fmt.number(event.tokens), fmt.number(event.context), fmt.number(room)))

    def _failed(self, failure: Failed | QuenchError) -> None:
        if not isinstance(failure, Failed):
            self._asked.clear()
            return
        file = self._asked.pop(failure.request, None)
        if file is not None and failure.code == "context_full":
            self._refuse(file, self.tr("It is longer than the model's context.") + " " + failure.detail)

    def _refuse(self, file: tuple[str, str], why: str) -> None:
        self._known.discard(file)
        error = refusal(file[0], why, self.tr)
        hint = self.tr("Paste the part you need, or load the model with a larger context.")
        self.refused.emit(file, QuenchError(error.code, error.title, why, hint))
