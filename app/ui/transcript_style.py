"""How a transcript's blocks look: text formats for one theme, made once and kept."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import (
    QColor,
    QFont,
    QTextBlockFormat,
    QTextCharFormat,
    QTextFormat,
    QTextFrameFormat,
    QTextLength,
    QTextOption,
    QTextTableFormat,
)

from app.ui.markdown import Block, Run
from app.ui.theme import Theme

KEY = QTextFormat.Property.UserProperty.value + 1
KIND = QTextFormat.Property.UserProperty.value + 2
QUOTE = QTextFormat.Property.UserProperty.value + 3
ROLE = QTextFormat.Property.UserProperty.value + 4

PAD = 12
STEP = 20
BODY, SMALL, CODE = 13, 12, 13
HEADINGS = {1: 20, 2: 15}

CODE_COLOURS = {
    # role: (light, dark), each 4.5 : 1 or better on the code block's surface
    "keyword": ("#7A3E9D", "#D3A4F9"),
    "string": ("#146C37", "#8FD9A8"),
    "number": ("#9A4A00", "#F2B84B"),
    "comment": ("#5C5C57", "#A6ACB0"),
    "function": ("#1F5FA8", "#8CC4FF"),
    "type": ("#0F6E66", "#5FDACB"),
    "deleted": ("#B3261E", "#FF8A80"),
}


class Formats:
    """Formats for blocks and runs under one theme; make a new one when the theme changes."""

    def __init__(self, theme: Theme) -> None:
        self._tokens = theme.tokens
        self._dark = theme.is_dark
        self._fonts = {size: theme.font(size) for size in (12, 13, 15, 20)}
        self._mono = theme.mono(CODE)
        self._chars: dict[tuple[Any, ...], QTextCharFormat] = {}
        self._blocks: dict[tuple[Any, ...], QTextBlockFormat] = {}
        self.rest = QTextBlockFormat()
        self.rest_text = QTextCharFormat()
        tiny = QFont(self._fonts[12])
        tiny.setPixelSize(4)
        self.rest_text.setFont(tiny)

    def char(self, run: Run, block: Block) -> QTextCharFormat:
        """The look of a run inside a block."""
        key = (run[1:5], run.role, run.link, block.kind, block.level if block.kind == "heading" else 0, block.thought)
        form = self._chars.get(key)
        if form is None:
            form = self._make_char(run, block)
            if not run.link:
                self._chars[key] = form
        return form

    def _make_char(self, run: Run, block: Block) -> QTextCharFormat:
        tokens = self._tokens
        form = QTextCharFormat()
        mono = run.code or block.kind == "code"
        size = BODY
        if block.kind == "heading":
            size = HEADINGS.get(block.level, BODY)
        elif block.kind in {"label", "note", "code_head", "fold"}:
            size = SMALL
        form.setFont(self._mono if mono else self._fonts[size])
        if run.bold or block.kind in {"heading", "label"}:
            form.setFontWeight(QFont.Weight.DemiBold)
        form.setFontItalic(run.italic)
        form.setFontStrikeOut(run.strike)
        colour = tokens.text
        if run.role in CODE_COLOURS:
            colour = CODE_COLOURS[run.role][self._dark]
        elif run.role == "muted" or block.thought or block.kind in {"note", "code_head", "fold"}:
            colour = tokens.muted
        if run.link:
            form.setAnchor(True)
            form.setAnchorHref(run.link)
            if run.role != "muted":
                colour = tokens.accent
            form.setFontUnderline(run.link.startswith("http"))
        form.setForeground(QColor(colour))
        if run.code and block.kind != "code":
            form.setBackground(QColor(tokens.raised))
        return form

    def block(self, block: Block, key: int, role: str) -> QTextBlockFormat:
        """The look of a paragraph of message ``key``."""
        cache = (block.kind, block.level, block.quote, block.last, block.thought, bool(block.marker), key, role)
        form = self._blocks.get(cache)
        if form is None:
            form = self._blocks[cache] = self._make_block(block, key, role)
        return form

    def _make_block(self, block: Block, key: int, role: str) -> QTextBlockFormat:
        form = QTextBlockFormat()
        form.setProperty(KEY, key)
        form.setProperty(ROLE, role)
        form.setProperty(KIND, block.kind)
        bars = block.quote + (1 if block.thought else 0)
        if bars:
            form.setProperty(QUOTE, bars)
        top, bottom, height = _SPACING.get(block.kind, (0, 8, 140))
        left = PAD + 14 * bars
        if block.kind == "heading":
            top = {1: 16, 2: 14}.get(block.level, 10)
        elif block.kind == "item":
            left += STEP * max(block.level, 1)
            form.setTextIndent(-STEP + 2)
            # Measured from the first line's own start.
            form.setTabPositions([QTextOption.Tab(STEP - 2, QTextOption.TabType.LeftTab)])
        elif block.kind in {"code", "code_head"}:
            left += PAD + STEP * block.level
            if block.last:
                bottom = 18
        elif block.kind == "paragraph":
            left += STEP * block.level
        form.setLeftMargin(left)
        form.setRightMargin(PAD * (2 if block.kind in {"code", "code_head"} else 1))
        form.setTopMargin(top)
        form.setBottomMargin(bottom)
        form.setLineHeight(height, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        return form

    def table(self, columns: int, key: int, role: str) -> QTextTableFormat:
        """The look of a table."""
        form = QTextTableFormat()
        form.setProperty(KEY, key)
        form.setProperty(ROLE, role)
        form.setBorder(1)
        form.setBorderStyle(QTextFrameFormat.BorderStyle.BorderStyle_Solid)
        form.setBorderBrush(QColor(self._tokens.border))
        form.setBorderCollapse(True)
        form.setCellPadding(5)
        form.setCellSpacing(0)
        form.setLeftMargin(PAD)
        form.setRightMargin(PAD)
        form.setTopMargin(4)
        form.setBottomMargin(12)
        form.setHeaderRowCount(1)
        form.setColumnWidthConstraints([QTextLength() for _ in range(columns)])
        return form

    def cell(self, side: str, key: int, role: str) -> QTextBlockFormat:
        """A paragraph in a table's cell."""
        cache = ("cell", side, key, role)
        form = self._blocks.get(cache)
        if form is None:
            form = QTextBlockFormat()
            form.setProperty(KEY, key)
            form.setProperty(ROLE, role)
            form.setProperty(KIND, "cell")
            form.setAlignment(_SIDES.get(side, Qt.AlignmentFlag.AlignLeft))
            self._blocks[cache] = form
        return form

    @property
    def header_cell(self) -> QColor:
        return QColor(self._tokens.raised)


_SIDES = {"c": Qt.AlignmentFlag.AlignHCenter, "r": Qt.AlignmentFlag.AlignRight}
_SPACING = {
    # kind: (space above, space below, line height in per cent)
    "paragraph": (0, 10, 145),
    "heading": (14, 6, 120),
    "item": (0, 4, 145),
    "code_head": (16, 4, 100),
    "code": (0, 0, 130),
    "rule": (10, 14, 100),
    "label": (22, 4, 120),
    "note": (0, 4, 120),
    "fold": (0, 8, 120),
}
