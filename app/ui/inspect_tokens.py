"""The tokenizer to play with: a text in coloured pieces, each token in a table, and how another model splits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QPlainTextEdit,
    QSplitter,
    QStackedLayout,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from app.inspect_messages import TEXT_LIMIT, SplitText, TextSplit, TokenPiece
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.filtered_table import FilteredTable, Row, Table
from app.ui.inspect_reader import Reader
from app.ui.theme import Theme, set_role
from app.ui.widgets import ElidedLabel, ErrorCard, ModelPicker, button, label, title_of
from converter.spec import ModelInfo, QuenchError

SAMPLE = "Quantizing rounds 7,241,732,096 weights.\nGrüße, 你好 🎉\n\tdef f(x): return x**2"
PIECES_SHOWN = 2000
"""Tokens drawn as coloured pieces; the table has all of them."""
TYPING_MS = 150
HUES = ("Q5_K", "Q8_0", "Q4_K", "Q6_K", "Q3_K")
"""Whose colours the pieces have, in turn: neighbours differ in light as well as in hue."""
OPACITY_LIGHT, OPACITY_DARK = 0.30, 0.45


def visible(data: bytes) -> str:
    """The bytes of a token for the eye: what cannot be seen, or is no text, is written out."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "⟨" + data.hex(" ").upper() + "⟩"
    shown = {"\n": "↵\n", "\t": "⇥", " ": "·"}
    return "".join(shown.get(c) or (c if c.isprintable() else f"⟨U+{ord(c):04X}⟩") for c in text)


def spans(pieces: Sequence[TokenPiece], text: str) -> list[tuple[int, int]]:
    """Where each token lies in the bytes of the text; a special one, which may not be in it, lies nowhere: (-1, -1).

    A space that a vocabulary puts in front of the text is not counted.
    """
    ordinary = next((piece for piece in pieces if not piece.special), None)
    at = -1 if ordinary is not None and ordinary.data.startswith(b" ") and not text.startswith(" ") else 0
    found = []
    for piece in pieces:
        if piece.special and piece.data.decode("utf-8", "replace") not in text:
            found.append((-1, -1))
            continue
        found.append((max(at, 0), at + len(piece.data)))
        at += len(piece.data)
    return found


class TokensTab(QWidget):
    """Type a text, see its tokens; choose a second model, see where they differ."""

    def __init__(self, context: Context, reader: Reader, info: ModelInfo, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context, self._reader = context, reader
        self.text = QPlainTextEdit(SAMPLE)
        self.text.setAccessibleName(self.tr("Text to split"))
        self.text.setTabChangesFocus(True)
        self.text.setMaximumHeight(80)
        self.special = QCheckBox(self.tr("Special tokens in the text count"))
        self.special.setChecked(True)
        self.ends = QCheckBox(self.tr("Begin and end as the model does"))
        self.other = ModelPicker(context, {"gguf", "hf"})
        self.other.setAccessibleName(self.tr("Compare with"))
        self.alone = button(self.tr("Alone again"), lambda: self.other.set_path(None))
        self.words = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.words, "small")
        options = QHBoxLayout()
        options.setSpacing(12)
        for part in (self.special, self.ends):
            options.addWidget(part)
        options.addStretch(1)
        options.addWidget(label(self.tr("Compare with"), "muted"))
        options.addWidget(self.other)
        options.addWidget(self.alone)
        self.other.setMaximumWidth(240)
        self.sides = [_Side(context, self), _Side(context, self)]
        self.sides[0].set_model(info.path, title_of(info))
        self.split = QSplitter()
        self.split.setChildrenCollapsible(False)
        for side in self.sides:
            self.split.addWidget(side)
        self.sides[1].layout().setContentsMargins(8, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 12, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.text)
        layout.addLayout(options)
        layout.addWidget(self.words)
        layout.addWidget(self.split, 1)
        self._timer = QTimer(self, singleShot=True, interval=TYPING_MS)
        self._timer.timeout.connect(self._ask)
        self.text.textChanged.connect(self._timer.start)
        self.special.toggled.connect(self._ask)
        self.ends.toggled.connect(self._ask)
        self.other.changed.connect(self._chosen)
        context.theme.changed.connect(self._draw)
        self._chosen()

    def _chosen(self) -> None:
        path = self.other.path()
        self.alone.setVisible(path is not None)
        self.sides[1].setVisible(path is not None)
        self.sides[0].layout().setContentsMargins(0, 0, 0 if path is None else 8, 0)
        self.sides[1].set_model(path or "", self.other.currentText())
        self._ask()

    def _ask(self) -> None:
        text, special, ends = self.text.toPlainText(), self.special.isChecked(), self.ends.isChecked()
        sent = text[:TEXT_LIMIT]
        for number, side in enumerate(self.sides):
            if side.path:
                self._ask_one(number, sent, special, ends)
        cut = self.tr("The text has {0} characters; the first {1} are split.")
        self.words.setText(cut.format(fmt.number(len(text)), fmt.number(TEXT_LIMIT)) if len(text) > TEXT_LIMIT else "")
        self.words.setVisible(len(text) > TEXT_LIMIT)

    def _ask_one(self, number: int, text: str, special: bool, ends: bool) -> None:
        side = self.sides[number]
        self._reader.ask(
            f"tokens {number}",
            lambda request: SplitText(request, side.path, text, special, ends),
            lambda answer: self._answered(number, side.path, text, answer),
        )

    def _answered(self, number: int, path: str, text: str, answer: TextSplit | QuenchError) -> None:
        side = self.sides[number]
        if path != side.path:
            return
        if isinstance(answer, QuenchError):
            side.fail(answer, self._ask)
        else:
            side.text, side.answer = text, answer
        self._draw()

    def _draw(self) -> None:
        first, second = self.sides
        if first.answer is not None:
            first.draw(second.boundaries() if second.path and second.text == first.text else None)
        if second.path and second.answer is not None:
            second.draw(first.boundaries() if second.text == first.text else None)


class _Side(QWidget):
    """One model's tokens: pieces on top, the table under them, or why there are none."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme: Theme = context.theme
        self.path = ""
        self.text = ""
        self.answer: TextSplit | None = None
        self._name = ""
        self.title = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.title, "heading")
        self.count = label("", "small", wrap=True)
        self.pieces = QTextEdit()
        self.pieces.setReadOnly(True)
        self.pieces.setTabChangesFocus(True)
        self.pieces.setFont(self._theme.mono(13))
        headers = [self.tr("Piece"), self.tr("Number"), self.tr("Spelling"), self.tr("Bytes"), ""]
        self.table = FilteredTable(Table(headers, [], {1}, self), self.tr("Tokens"), self._theme.mono(12))
        self.table.layout().setContentsMargins(0, 8, 0, 0)
        self.table.search.hide()
        self.table.set_widths(3)
        self.error = ErrorCard()
        both = QSplitter(Qt.Orientation.Vertical)
        both.setChildrenCollapsible(False)
        both.addWidget(self.pieces)
        both.addWidget(self.table)
        both.setSizes([170, 230])
        trouble = QWidget()
        column = QVBoxLayout(trouble)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.error)
        column.addStretch(1)
        self._stack = QStackedLayout()
        self._stack.addWidget(both)
        self._stack.addWidget(trouble)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.title)
        layout.addWidget(self.count)
        layout.addLayout(self._stack, 1)

    def set_model(self, path: str, name: str) -> None:
        if path == self.path:
            return
        self.path, self._name, self.answer, self.text = path, name, None, ""
        self.title.setText(name)
        self.count.setText(self.tr("Reading the vocabulary…") if path else "")
        self.pieces.clear()
        self.pieces.setAccessibleName(self.tr("Text in pieces, {0}").format(name))
        self.table.view.setAccessibleName(self.tr("Tokens, {0}").format(name))
        self.table.model.replace([])
        self._stack.setCurrentIndex(0)

    def fail(self, error: QuenchError, again: object) -> None:
        self.answer = None
        self.count.setText("")
        self.error.show_error(error, [(self.tr("Retry"), again)])  # type: ignore[list-item]
        self._stack.setCurrentIndex(1)

    def boundaries(self) -> set[tuple[int, int]] | None:
        """Where its tokens lie in the text; None while that is not known."""
        return set(spans(self.answer.tokens, self.text)) if self.answer is not None else None

    def draw(self, others: set[tuple[int, int]] | None) -> None:
        """Show the tokens. Those that lie where the other model has none are marked; ``others`` None: nothing is."""
        answer = self.answer
        if answer is None:
            return
        where = spans(answer.tokens, self.text)
        apart = [others is not None and span[0] >= 0 and span not in others for span in where]
        self._stack.setCurrentIndex(0)
        data = sum(len(piece.data) for piece, span in zip(answer.tokens, where, strict=True) if span[0] >= 0)
        parts = [self._tokens_in_words(len(answer.tokens))]
        if answer.tokens and data:
            parts.append(self.tr("{0} bytes a token").format(fmt.number(data / len(answer.tokens), 2)))
        if others is not None:
            parts.append(self.tr("{0} cut differently").format(fmt.number(sum(apart))))
        parts.append(
            self.tr("{0} in the vocabulary, split by {1}").format(fmt.number(answer.vocabulary), answer.tokenizer)
        )
        self.count.setText(" · ".join(parts))
        self._draw_pieces(answer.tokens, apart)
        self._fill(answer.tokens, apart)

    def _tokens_in_words(self, count: int) -> str:
        return self.tr("1 token") if count == 1 else self.tr("{0} tokens").format(fmt.number(count))

    def _draw_pieces(self, tokens: Sequence[TokenPiece], apart: Sequence[bool]) -> None:
        tokens_of_theme = self._theme
        opacity = OPACITY_DARK if tokens_of_theme.is_dark else OPACITY_LIGHT
        formats = []
        for hue in HUES:
            tint = QColor(tokens_of_theme.type_color(hue))
            tint.setAlphaF(opacity)
            plain = QTextCharFormat()
            plain.setBackground(tint)
            plain.setForeground(tokens_of_theme.color("text"))
            formats.append(plain)
        named = QTextCharFormat()
        named.setBackground(tokens_of_theme.color("accent_soft"))
        named.setForeground(tokens_of_theme.color("accent"))
        self.pieces.clear()
        cursor = QTextCursor(self.pieces.document())
        cursor.beginEditBlock()
        for number, piece in enumerate(tokens[:PIECES_SHOWN]):
            chosen = QTextCharFormat(named if piece.special else formats[number % len(formats)])
            if apart[number]:
                chosen.setUnderlineStyle(QTextCharFormat.UnderlineStyle.SingleUnderline)
                chosen.setUnderlineColor(tokens_of_theme.color("bad"))
                chosen.setFontWeight(700)
            cursor.insertText(visible(piece.data), chosen)
        if len(tokens) > PIECES_SHOWN:
            rest = self.tr("… and {0} more in the table").format(fmt.number(len(tokens) - PIECES_SHOWN))
            cursor.insertText(f"\n{rest}", QTextCharFormat())
        cursor.endEditBlock()
        self.pieces.moveCursor(QTextCursor.MoveOperation.Start)

    def _fill(self, tokens: Sequence[TokenPiece], apart: Sequence[bool]) -> None:
        self.table.model.replace(_Rows(tokens, apart, self.tr("special"), self.tr("cut differently")))


class _Rows(Sequence[Row]):
    """The table's rows, made when they are looked at: there are tens of thousands, and a text changes at each key."""

    def __init__(self, tokens: Sequence[TokenPiece], apart: Sequence[bool], special: str, differs: str) -> None:
        self._tokens, self._apart, self._special, self._differs = tokens, apart, special, differs

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, number: Any) -> Any:
        piece = self._tokens[number]
        shown = visible(piece.data).replace("\n", "")
        mark = self._special if piece.special else self._differs if self._apart[number] else ""
        return [
            (shown, number),
            (fmt.number(piece.id), piece.id),
            (piece.spelling.replace("\n", "↵"), piece.spelling),
            (piece.data.hex(" ").upper(), piece.data.hex()),
            (mark, mark),
        ]
