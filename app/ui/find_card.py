"""A model card: Markdown and HTML by a stranger, shown as words."""

from __future__ import annotations

import html
import re

from PySide6.QtCore import QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QWidget

from app.ui.markdown import clean, safe_link
from app.ui.theme import Theme
from app.ui.transcript import Transcript
from app.ui.transcript_blocks import Message

MAX_CARD = 60_000
"""Characters that are shown: a longer card would hold up the window; the hub's page has the rest."""
PIECE = 1_500
"""Characters that are written at a time."""
PAUSE_MS = 10

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HIDDEN = re.compile(r"<(script|style)\b[^>]*>.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_IMAGE = re.compile(r"<img\b([^<>]{0,600})>", re.IGNORECASE)
_LINK = re.compile(r"<a\b([^<>]{0,600})>([^<]{0,600}(?:<(?!/?a\b)[^<]{0,600}){0,20})</a\s*>", re.DOTALL | re.IGNORECASE)
_BREAK = re.compile(r"<(?:br|/p|/div|/tr|/li|/h\d|/summary)\b[^>]{0,200}>", re.IGNORECASE)
_HEADING = re.compile(r"<h([1-6])\b[^<>]{0,600}>", re.IGNORECASE)
_BOLD = re.compile(r"</?(?:b|strong)\s*>", re.IGNORECASE)
_ITEM = re.compile(r"<li\b[^>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9-]{0,20}(?:\s[^<>]{0,600})?/?>")
_ATTRIBUTE = re.compile(r"""\b(alt|href)\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


def card_markdown(text: str) -> str:
    """The card as Markdown without HTML: tags become what they mean or nothing, code blocks stay as they are.

    Pictures become their descriptions: nothing of a card is loaded.
    """
    text = text[:MAX_CARD]
    parts: list[str] = []
    prose: list[str] = []
    fence = ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            parts.append(line)
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not line.strip(" \t`~"):
                fence = ""
        elif mark:
            parts.append(_without_html("\n".join(prose)))
            prose = []
            fence = mark[1]
            parts.append(line)
        else:
            prose.append(line)
    parts.append(_without_html("\n".join(prose)))
    return "\n".join(parts)


def _without_html(text: str) -> str:
    if "<" in text:
        text = _HIDDEN.sub("", _COMMENT.sub("", text))
        text = _IMAGE.sub(lambda found: _attributes(found[1]).get("alt", ""), text)
        text = _LINK.sub(_link, text)
        text = _HEADING.sub(lambda found: f"\n{'#' * int(found[1])} ", text)
        text = _BOLD.sub("**", _ITEM.sub("\n- ", text))
        text = _TAG.sub("", _BREAK.sub("\n", text))
        # What stood inside of tags is indented as HTML is; as Markdown that would be code.
        text = "\n".join(line.lstrip() if line.startswith("    ") else line for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text)


def _attributes(text: str) -> dict[str, str]:
    return {name.lower(): html.unescape(one or two) for name, one, two in _ATTRIBUTE.findall(text)}


def _link(found: re.Match[str]) -> str:
    inside = " ".join(_TAG.sub("", _IMAGE.sub(lambda image: _attributes(image[1]).get("alt", ""), found[2])).split())
    address = _attributes(found[1]).get("href", "")
    if not inside or not safe_link(address) or any(sign in address for sign in " ()<>"):
        return inside
    return f"[{inside.replace('[', '(').replace(']', ')')}]({address})"


class CardView(Transcript):
    """Shows one card. Nothing is loaded; links lead to the web only, and ask first.

    It is written in pieces while the view is in sight: a long card at once would hold up the window.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, parent, editable=False)
        self.setAccessibleName(self.tr("Model card"))
        self._rest = ""
        self._writer = QTimer(self, interval=PAUSE_MS)
        self._writer.timeout.connect(self._write_piece)

    def show_card(self, title: str, text: str, note: str = "") -> None:
        """Replace what is shown; begins at the top."""
        self.clear_messages()
        self._rest = clean(card_markdown(text)).rstrip() + "\n"
        message = Message(1, "assistant", title, text, note, streaming=True)
        self._messages.append(message)
        self._edit(lambda: self._write_message(message), follow=False)
        self.verticalScrollBar().setValue(0)
        self._go_on()

    @property
    def is_whole(self) -> bool:
        """Whether all of the card has been written."""
        return not self._rest

    def clear_messages(self) -> None:
        self._rest = ""
        super().clear_messages()

    def at_bottom(self) -> bool:
        """Never: a card is read from its beginning, however the page grows."""
        return False

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._go_on()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._writer.stop()

    def _go_on(self) -> None:
        if self._rest and self.isVisible():
            self._writer.start()

    def _write_piece(self) -> None:
        message = self._messages[0] if self._messages else None
        if message is None or not self._rest:
            self._writer.stop()
            return
        end = self._rest.find("\n", PIECE) + 1 or len(self._rest)
        message.shown += self._rest[:end]
        self._rest = self._rest[end:]
        self._edit(lambda: self._write_on(message), follow=False)

    def _write_on(self, message: Message) -> None:
        self._stream(message)
        if not self._rest:
            message.streaming = False
            self._stream(message)
            self._settle(message)
