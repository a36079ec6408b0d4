"""The reference's answer, every token shaded by how far another model's distribution is from the reference's there.

The token cursor moves by arrow keys and by the pointer; what it stands on is also said in words, for screen readers.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import shiboken6
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QBrush,
    QColor,
    QFontMetrics,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QTextCharFormat,
    QTextCursor,
)
from PySide6.QtWidgets import QFrame, QSizePolicy, QTextEdit, QWidget

from app.protocol import Alternative, ScoredToken
from app.ui import format as fmt
from app.ui.markdown import clean
from app.ui.theme import Theme, set_role

SHOWN = 5
LOW = 200
FAR = 0.5
"""Nats from which on a token is one that N goes to."""
NARROW = 480
"""Pixels below which the legend says less."""
TICKS = ((0.0, 0), (0.05, 2), (0.5, 1), (1.0, 0), (2.0, 0))
"""Marks of the legend in nats, with their digits."""


def display(text: str) -> str:
    """A token as it is drawn: its line ends are marked, so that they can be shaded too."""
    return clean(text).replace("\n", "↵\n")


def quoted(text: str) -> str:
    """A token inside a sentence: without the space that most begin with; nothing but space is named by a mark."""
    shown = clean(text).replace("\n", "↵").replace("\t", "⇥")
    return "‘" + (shown.strip() or "␣" * len(shown)) + "’"


class Alternatives(QFrame):
    """What both models would have said at one token: the likeliest with their probabilities, as bars."""

    ROW, WIDTH = 18, 150

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        set_role(self, "popover")
        self._theme = theme
        self._sides: list[tuple[str, tuple[Alternative, ...]]] = []
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.hide()

    def show_token(self, sides: list[tuple[str, tuple[Alternative, ...]]]) -> None:
        self._sides = [(title, alternatives[:SHOWN]) for title, alternatives in sides]
        rows = max((len(alternatives) for _, alternatives in self._sides), default=0)
        self.resize(QSize(len(self._sides) * (self.WIDTH + 16) + 8, (rows + 1) * self.ROW + 16))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        tokens = self._theme.tokens
        metrics = QFontMetrics(self._theme.mono(12))
        for column, (title, alternatives) in enumerate(self._sides):
            left = 12 + column * (self.WIDTH + 16)
            painter.setFont(self._theme.font(12))
            painter.setPen(QColor(tokens.muted))
            painter.drawText(QRectF(left, 8, self.WIDTH, self.ROW), Qt.AlignmentFlag.AlignVCenter, title)
            painter.setFont(self._theme.mono(12))
            for row, alternative in enumerate(alternatives):
                area = QRectF(left, 8 + (row + 1) * self.ROW, self.WIDTH, self.ROW)
                bar = area.adjusted(0, 2, 0, -2)
                bar.setWidth(self.WIDTH * alternative.probability)
                painter.fillRect(bar, QColor(tokens.accent_soft))
                painter.setPen(QColor(tokens.text))
                share = fmt.percent(alternative.probability, 1)
                room = self.WIDTH - metrics.horizontalAdvance(share) - 12
                text = metrics.elidedText(quoted(alternative.text), Qt.TextElideMode.ElideRight, room)
                painter.drawText(area.adjusted(4, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, text)
                painter.drawText(
                    area.adjusted(0, 0, -4, 0), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, share
                )
        painter.end()


class DivergenceView(QTextEdit):
    """``moved(index)`` when the token cursor was moved here by a person; ``said(text)`` with the token in words."""

    moved = Signal(int)
    said = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._tokens: tuple[ScoredToken, ...] = ()
        self._starts: list[int] = []
        self._first = -1
        self._reference = False
        self._bounds = False
        self.index = -1
        self._hovered = -1
        set_role(self, "plain")
        self.setReadOnly(True)
        self.setUndoRedoEnabled(False)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.NoTextInteraction)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWordWrapMode(self.wordWrapMode().WrapAtWordBoundaryOrAnywhere)
        self.setAccessibleName(self.tr("Divergence, token by token"))
        self.document().setDocumentMargin(10)
        self.viewport().setMouseTracking(True)
        self.popover = Alternatives(theme, self)
        self.destroyed.connect(self.popover.deleteLater)  # it moves to the window when it is first shown
        self.verticalScrollBar().valueChanged.connect(self._show_popover)
        theme.changed.connect(self._write)

    def set_tokens(
        self,
        tokens: tuple[ScoredToken, ...],
        first_divergence: int,
        *,
        reference: bool = False,
        bounds: bool = False,
    ) -> None:
        """Show a scored answer. ``first_divergence`` is a token's index, or -1. The reference is not shaded.

        ``bounds``: divergences are at least what they say.
        """
        self._bounds = bounds
        self._tokens = tokens
        self._first = first_divergence
        self._reference = reference
        self.index = -1
        self._hovered = -1
        self._write()

    def clear_tokens(self) -> None:
        self.set_tokens((), -1)

    def tokens(self) -> tuple[ScoredToken, ...]:
        return self._tokens

    def first_divergence(self) -> int:
        return self._first

    def token_color(self, index: int) -> QColor:
        """The background that a token is drawn with."""
        cursor = QTextCursor(self.document())
        cursor.setPosition(self._starts[index] + 1)
        return cursor.charFormat().background().color()

    def shade_of(self, index: int) -> QColor:
        """The background that a token gets."""
        return QColor(Qt.GlobalColor.transparent) if self._reference else self._theme.shade(self._tokens[index].kld)

    def words(self, index: int) -> str:
        """A token in words."""
        token = self._tokens[index]
        number, text = index + 1, quoted(token.text)
        mine = token.top[0] if token.top else Alternative(token.text, token.probability)
        if self._reference or not token.reference_top:
            return self.tr("Token {0} {1}: probability {2}; likeliest was {3} with {4}.").format(
                number, text, fmt.percent(token.probability, 0), quoted(mine.text), fmt.percent(mine.probability, 0)
            )
        theirs = token.reference_top[0]
        sentence = self.tr("Token {0} {1}: {2} nats. The reference said {3} with {4}, this model {5} with {6}.")
        if self._bounds:
            sentence = self.tr(
                "Token {0} {1}: at least {2} nats. The reference said {3} with {4}, this model {5} with {6}."
            )
        sentence = sentence.format(
            number,
            text,
            fmt.number(token.kld, 2) if token.kld >= 0.005 else fmt.number(token.kld, 4),
            quoted(theirs.text),
            fmt.percent(theirs.probability, 0),
            quoted(mine.text),
            fmt.percent(mine.probability, 0),
        )
        return sentence + (" " + self.tr("Here they part.") if index == self._first else "")

    def go(self, index: int, *, announce: bool = False) -> None:
        """Put the token cursor on a token."""
        if not self._tokens:
            return
        self.index = min(max(index, 0), len(self._tokens) - 1)
        cursor = QTextCursor(self.document())
        cursor.setPosition(self._starts[self.index])
        self.setTextCursor(cursor)
        self.ensureCursorVisible()
        words = self.words(self.index)
        self.setAccessibleDescription(words)
        self.said.emit(words)
        if announce:
            QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self, words))
        self._show_popover()
        self.viewport().update()

    def jump(self) -> None:
        """Go to the first token where greedy decoding would part."""
        if self._first >= 0:
            self._move(self._first)

    def jump_far(self, step: int) -> None:
        """Go to the next token (``step`` 1) or the one before (-1) that is far from the reference's."""
        places = [index for index in range(len(self._tokens)) if self._is_far(index)]
        ahead = [index for index in places if (index - self.index) * step > 0]
        if ahead:
            self._move(ahead[0] if step > 0 else ahead[-1])

    def _is_far(self, index: int) -> bool:
        return not self._reference and self._tokens[index].kld >= FAR

    # ---- drawing -----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        document = self.document()
        document.clear()
        self._starts = []
        cursor = QTextCursor(document)
        cursor.beginEditBlock()
        form = QTextCharFormat()
        form.setFont(self._theme.font(15))
        text_color, muted = QColor(self._theme.tokens.text), QColor(self._theme.tokens.muted)
        block = cursor.blockFormat()
        block.setLineHeight(160, block.LineHeightTypes.ProportionalHeight.value)
        cursor.setBlockFormat(block)
        for index, token in enumerate(self._tokens):
            self._starts.append(cursor.position())
            form.setForeground(muted if token.text.strip() == "" else text_color)
            form.setBackground(QBrush(self.shade_of(index)))
            cursor.insertText(display(token.text), form)
        self._starts.append(cursor.position())
        cursor.endEditBlock()
        self.popover.hide()
        if self.index >= 0:
            self.go(self.index)

    def _area(self, index: int) -> QRectF:
        """A token's rectangle on the viewport; of one that is broken over lines, its first line's part."""
        start, end = QTextCursor(self.document()), QTextCursor(self.document())
        shown = display(self._tokens[index].text)
        lead = len(shown) - len(shown.lstrip(" "))
        start.setPosition(self._starts[index] + (lead if lead < len(shown) else 0))
        end.setPosition(self._starts[index + 1])
        first, last = QRectF(self.cursorRect(start)), QRectF(self.cursorRect(end))
        right = last.left() if abs(last.top() - first.top()) < 2 else self.viewport().width() - 10
        if right <= first.left():
            right = first.left() + 8
        return QRectF(first.left(), first.top(), right - first.left(), first.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._tokens:
            return
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self._first >= 0:
            area = self._area(self._first)
            painter.setPen(QPen(QColor(self._theme.tokens.bad), 1.5))
            painter.drawRoundedRect(area.adjusted(-1, -1, 1, 1), 3, 3)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(self._theme.tokens.bad))
            peak = QPointF(area.center().x(), area.top() - 1)
            painter.drawPolygon([peak, peak + QPointF(-4, -6), peak + QPointF(4, -6)])
        if self.index >= 0:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(self._theme.tokens.accent), 2 if self.hasFocus() else 1.5))
            painter.drawRoundedRect(self._area(self.index).adjusted(-3, -3, 3, 3), 4, 4)
        painter.end()

    def _show_popover(self) -> None:
        # In a low column it would hide the words below; they say the same.
        by_key = self.index if self.hasFocus() and self.viewport().height() >= LOW else -1
        index = self._hovered if self._hovered >= 0 else by_key
        if index < 0 or index >= len(self._tokens):
            self.popover.hide()
            return
        sides = self._sides(self._tokens[index])
        if not sides:
            self.popover.hide()
            return
        self.popover.show_token(sides)
        self._place_popover(self._area(index))

    def _sides(self, token: ScoredToken) -> list[tuple[str, tuple[Alternative, ...]]]:
        """What the pop-over has beside one another."""
        if self._reference or not token.reference_top:
            return [(self.tr("Reference"), token.top)]
        return [(self.tr("Reference"), token.reference_top), (self.tr("This model"), token.top)]

    def _place_popover(self, area: QRectF) -> None:
        """Below the token, above it where there is no room; over the whole window, as a column can be very low."""
        window = self.window()
        if self.popover.parentWidget() is not window:
            self.popover.setParent(window)
        size = self.popover.size()
        corner = self.viewport().mapTo(window, area.bottomLeft().toPoint())
        left = min(max(corner.x() - 12, 4), max(window.width() - size.width() - 4, 4))
        top = corner.y() + 8
        if top + size.height() > window.height() - 4:
            top = max(corner.y() - round(area.height()) - size.height() - 12, 4)
        self.popover.move(left, top)
        self.popover.show()
        self.popover.raise_()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._show_popover()

    def hideEvent(self, event: Any) -> None:
        super().hideEvent(event)
        if shiboken6.isValid(self.popover):  # the window may be on its way out, with the pop-over gone first
            self.popover.hide()

    # ---- pointer and keyboard ----------------------------------------------------------------------------------

    def _move(self, index: int) -> None:
        self.go(index, announce=True)
        self.moved.emit(self.index)

    def _index_at(self, position: int) -> int:
        return min(max(bisect_right(self._starts, position) - 1, 0), len(self._tokens) - 1)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = event.key()
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}
        if not self._tokens:
            super().keyPressEvent(event)
        elif key in steps:
            self._move(max(self.index, 0) + steps[Qt.Key(key)] if self.index >= 0 else 0)
        elif key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._move_line(up=key == Qt.Key.Key_Up)
        elif key == Qt.Key.Key_Home:
            self._move(0)
        elif key == Qt.Key.Key_End:
            self._move(len(self._tokens) - 1)
        elif key == Qt.Key.Key_J and event.modifiers() == Qt.KeyboardModifier.NoModifier:
            self.jump()
        elif key == Qt.Key.Key_N and not event.modifiers() & ~Qt.KeyboardModifier.ShiftModifier:
            self.jump_far(-1 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1)
        else:
            super().keyPressEvent(event)

    def _move_line(self, *, up: bool) -> None:
        cursor = QTextCursor(self.document())
        cursor.setPosition(self._starts[max(self.index, 0)])
        cursor.movePosition(QTextCursor.MoveOperation.Up if up else QTextCursor.MoveOperation.Down)
        self._move(self._index_at(cursor.position()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        self._hover(self._token_under(event.position()))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        index = self._token_under(event.position())
        if index >= 0:
            self._move(index)
        event.accept()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        event.accept()

    def _token_under(self, point: QPointF) -> int:
        if not self._tokens:
            return -1
        index = self._index_at(self.cursorForPosition(point.toPoint()).position())
        for near in (index, index - 1, index + 1):
            if 0 <= near < len(self._tokens) and self._area(near).contains(point):
                return near
        return -1

    def _hover(self, index: int) -> None:
        if index != self._hovered:
            self._hovered = index
            self._show_popover()

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._hover(-1)

    def focusInEvent(self, event: Any) -> None:
        super().focusInEvent(event)
        if self._tokens and self.index < 0:
            self._move(self._first if self._first >= 0 else 0)
        self._show_popover()
        self.viewport().update()

    def focusOutEvent(self, event: Any) -> None:
        super().focusOutEvent(event)
        self._show_popover()
        self.viewport().update()


class ShadeLegend(QWidget):
    """What the shading means: nats on a square-root scale, and the mark where greedy decoding would part."""

    title, mark = "", True
    ticks: tuple[tuple[float, int], ...] = TICKS

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(36)
        self.title = self.tr("Divergence in nats")
        self.setAccessibleName(
            self.tr("Legend: tokens are shaded by divergence, from clear at 0 nats to the strongest at 2 and more.")
        )
        theme.changed.connect(self.update)

    def caption(self, tick: float, digits: int) -> str:
        """The words at a mark of the scale, which is in nats."""
        return fmt.number(tick, digits) + ("+" if tick == TICKS[-1][0] else "")

    def sizeHint(self) -> QSize:
        return QSize(420, 36)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        tokens = self._theme.tokens
        painter.setFont(self._theme.font(12))
        metrics = QFontMetrics(self._theme.font(12))
        painter.setPen(QColor(tokens.muted))
        painter.drawText(QPointF(0, 14), self.title)
        left = metrics.horizontalAdvance(self.title) + 12
        narrow = self.width() < NARROW
        width = min(240, max(self.width() - left - (156 if narrow else 240), 100))
        scale = QLinearGradient(left, 0, left + width, 0)
        for step in range(21):
            scale.setColorAt(step / 20, self._theme.shade((step / 20) ** 2 * 2.0))
        painter.setPen(QPen(QColor(tokens.border), 1))
        painter.setBrush(QBrush(scale))
        painter.drawRoundedRect(QRectF(left, 4, width, 12), 3, 3)
        painter.setPen(QColor(tokens.muted))
        for tick, digits in [each for each in self.ticks if not (narrow and 0 < each[0] < 0.5)]:
            text = self.caption(tick, digits)
            x = left + width * (tick / 2.0) ** 0.5
            place = min(max(x - metrics.horizontalAdvance(text) / 2, left), left + width)
            painter.drawText(QPointF(place, 31), text)
        if not self.mark:
            painter.end()
            return
        mark = left + width + 32
        painter.setPen(QPen(QColor(tokens.bad), 1.5))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(QRectF(mark, 4, 18, 12), 3, 3)
        painter.setPen(QColor(tokens.muted))
        words = self.tr("first parting") if narrow else self.tr("first parting of greedy decoding")
        painter.drawText(QPointF(mark + 26, 14), words)
        painter.end()
