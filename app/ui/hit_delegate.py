"""A conversation's line in the list; under a title that a search has found the words around, the hits marked."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QIcon, QPainter, QTextCharFormat, QTextLayout, QTextOption
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from app.store import Hit
from app.ui.theme import Theme

HIT = Qt.ItemDataRole.UserRole + 1
LINES = 2
LEAD = 20
"""Characters before the first hit: it stands in the first line."""
SIDE = 8


class HitDelegate(QStyledItemDelegate):
    """Draws the usual line where the row has no :data:`HIT`; else the title and up to ``LINES`` lines of text."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: Any) -> QSize:
        size = super().sizeHint(option, index)
        if index.data(HIT) is None:
            return size
        return QSize(size.width(), (1 + LINES) * option.fontMetrics.lineSpacing() + 10)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        hit = index.data(HIT)
        if hit is None:
            super().paint(painter, option, index)
            return
        self.initStyleOption(option, index)
        title, option.text, option.icon = option.text, "", QIcon()
        style = option.widget.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        tokens = self._theme.tokens
        area = QRectF(option.rect).adjusted(SIDE, 4, -SIDE, -4)
        metrics = option.fontMetrics
        painter.save()
        painter.setFont(option.font)
        painter.setPen(QColor(tokens.text))
        shown = metrics.elidedText(title, Qt.TextElideMode.ElideRight, round(area.width()))
        painter.drawText(area, Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextSingleLine, shown)
        painter.setPen(QColor(tokens.muted))
        painter.setClipRect(area)
        layout = self._layout(hit, option, area.width())
        layout.draw(painter, area.topLeft() + self._below(metrics.lineSpacing()))
        painter.restore()

    @staticmethod
    def _below(height: float) -> Any:
        return QRectF(0, height + 2, 0, 0).topLeft()

    def _layout(self, hit: Hit, option: QStyleOptionViewItem, width: float) -> QTextLayout:
        text, formats = "", []
        for part, found in _from_hit(hit):
            if found:
                mark = QTextLayout.FormatRange()
                mark.start, mark.length = len(text), len(part)
                form = QTextCharFormat()
                form.setBackground(QColor(self._theme.tokens.accent_soft))
                form.setFontWeight(QFont.Weight.DemiBold)  # on the selected row the background is the same
                form.setForeground(QColor(self._theme.tokens.text))
                mark.format = form
                formats.append(mark)
            text += part
        layout = QTextLayout(text, option.font)
        layout.setTextOption(QTextOption(Qt.AlignmentFlag.AlignLeft))
        layout.setFormats(formats)
        layout.beginLayout()
        for line in range(LINES):
            made = layout.createLine()
            if not made.isValid():
                break
            made.setLineWidth(width)
            made.setPosition(QRectF(0, line * option.fontMetrics.lineSpacing(), 0, 0).topLeft())
        layout.endLayout()
        return layout


def _from_hit(hit: Hit) -> list[tuple[str, bool]]:
    """The parts on one line, without Markdown's marks, from a little before the first hit."""
    parts = [(part.replace("**", "").replace("\n", " "), found) for part, found in hit.parts]
    if parts and not parts[0][1] and len(parts[0][0]) > LEAD:
        parts[0] = ("…" + parts[0][0][-LEAD:], False)
    return parts
