"""The chat template: its source, a conversation to try it on, and the prompt that it makes of that."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QTextCharFormat, QTextCursor
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QPlainTextEdit,
    QScrollArea,
    QSplitter,
    QStackedLayout,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from app.inspect_messages import PROMPT_LIMIT, RenderTemplate, TemplateRendered, Turn
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.inspect_reader import Reader
from app.ui.markdown import clean
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, button, icon_button, label, tip
from converter.spec import ModelInfo, QuenchError

SAMPLE = (
    Turn("system", "You are brief."),
    Turn("user", "What is a quantized model?"),
    Turn("assistant", "One whose weights are rounded to a few bits."),
    Turn("user", "Is it still good?"),
)
ROLES = ("system", "user", "assistant")
MOST_TURNS = 32
SOURCE_SHOWN = 200_000
"""Characters of a template that are shown."""
TYPING_MS = 250


class TemplateTab(QWidget):
    """Rendered anew at every change, in the worker that the reader asks."""

    def __init__(self, context: Context, reader: Reader, info: ModelInfo, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context, self._reader, self._info = context, reader, info
        self.rows: list[_TurnRow] = []
        self.answer: TemplateRendered | None = None
        source = info.chat_template
        self.source = QPlainTextEdit(clean((source or "")[:SOURCE_SHOWN]))
        self.source.setReadOnly(True)
        self.source.setFont(context.theme.mono(12))
        self.source.setAccessibleName(self.tr("Chat template"))
        self.source.setTabChangesFocus(True)
        words = self.tr("{0} characters").format(fmt.number(len(source))) if source else ""
        left = self._column(self.tr("Template"), words, self.source)
        if source is None:
            self.source.setPlainText(self.tr("The model brings none. Chat uses ChatML, which is rendered here."))
        self.open = QCheckBox(self.tr("Begin the assistant's next answer"))
        self.open.setChecked(True)
        self.add_button = button(self.tr("Add a turn"), self.add_turn)
        self.reset_button = button(self.tr("Sample"), self.reset, "quiet")
        self._turns = QVBoxLayout()
        self._turns.setContentsMargins(0, 0, 8, 0)
        self._turns.setSpacing(8)
        inside = QWidget()
        set_role(inside, "page")
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self._turns)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setWidget(inside)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(self.add_button)
        buttons.addWidget(self.reset_button)
        buttons.addStretch(1)
        conversation = QWidget()
        holder = QVBoxLayout(conversation)
        holder.setContentsMargins(12, 0, 0, 0)
        holder.setSpacing(8)
        holder.addWidget(label(self.tr("Conversation"), "heading"))
        holder.addWidget(area, 1)
        holder.addLayout(buttons)
        holder.addWidget(self.open)
        self.prompt = QTextEdit()
        self.prompt.setReadOnly(True)
        self.prompt.setTabChangesFocus(True)
        self.prompt.setFont(context.theme.mono(12))
        self.prompt.setAccessibleName(self.tr("Prompt"))
        self.words = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.words, "small")
        self.error = ErrorCard()
        trouble = QWidget()
        box = QVBoxLayout(trouble)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.error)
        box.addStretch(1)
        self._stack = QStackedLayout()
        self._stack.addWidget(self.prompt)
        self._stack.addWidget(trouble)
        right = QWidget()
        result = QVBoxLayout(right)
        result.setContentsMargins(12, 0, 0, 0)
        result.setSpacing(8)
        result.addWidget(label(self.tr("Prompt"), "heading"))
        result.addLayout(self._stack, 1)
        result.addWidget(self.words)
        split = QSplitter()
        split.setChildrenCollapsible(False)
        for part in (left, conversation, right):
            split.addWidget(part)
        split.setSizes([280, 300, 340])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 12, 0, 0)
        layout.addWidget(split)
        self._timer = QTimer(self, singleShot=True, interval=TYPING_MS)
        self._timer.timeout.connect(self._ask)
        self.open.toggled.connect(self._ask)
        context.theme.changed.connect(self._draw)
        self.reset()

    def _column(self, title: str, words: str, part: QWidget) -> QWidget:
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 12, 0)
        column.setSpacing(8)
        column.addWidget(label(title, "heading"))
        column.addWidget(part, 1)
        if words:
            column.addWidget(label(words, "small"))
        return holder

    # ---- the conversation

    def turns(self) -> tuple[Turn, ...]:
        return tuple(row.turn() for row in self.rows)

    def reset(self) -> None:
        """The sample conversation again."""
        self.set_turns(SAMPLE)

    def set_turns(self, turns: tuple[Turn, ...]) -> None:
        for row in self.rows:
            row.hide()
            row.deleteLater()
        self.rows = []
        for turn in turns[:MOST_TURNS]:
            self._add(turn)
        self._changed()

    def add_turn(self) -> None:
        """One more, by whoever's turn it is."""
        last = self.rows[-1].turn().role if self.rows else "system"
        self._add(Turn("assistant" if last == "user" else "user", ""))
        self.rows[-1].content.setFocus()
        self._changed()

    def _add(self, turn: Turn) -> None:
        row = _TurnRow(self._context, len(self.rows) + 1, turn, self)
        row.role.currentIndexChanged.connect(self._changed)
        row.content.textChanged.connect(self._changed)
        row.remove.clicked.connect(lambda: self._remove(row))
        self.rows.append(row)
        self._turns.addWidget(row)

    def _remove(self, row: _TurnRow) -> None:
        self.rows.remove(row)
        row.hide()
        row.deleteLater()
        self.add_button.setFocus()
        self._changed()

    def _changed(self) -> None:
        self.add_button.setEnabled(len(self.rows) < MOST_TURNS)
        self._timer.start()

    # ---- the prompt

    def _ask(self) -> None:
        self._reader.ask(
            "template",
            lambda number: RenderTemplate(
                number, self._info.path, self._info.chat_template, self.turns(), self.open.isChecked()
            ),
            self._answered,
        )

    def _answered(self, answer: TemplateRendered | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self.answer = None
            self.words.setText("")
            self.error.show_error(answer, [(self.tr("Retry"), self._ask)])
            self._stack.setCurrentIndex(1)
            return
        self.answer = answer
        self._draw()

    def _draw(self) -> None:
        answer = self.answer
        if answer is None:
            return
        self._stack.setCurrentIndex(0)
        theme = self._context.theme
        plain, special = QTextCharFormat(), QTextCharFormat()
        plain.setForeground(theme.color("text"))
        special.setForeground(theme.color("accent"))
        special.setBackground(theme.color("accent_soft"))
        self.prompt.clear()
        cursor = QTextCursor(self.prompt.document())
        cursor.beginEditBlock()
        for part in answer.parts:
            cursor.insertText(clean(part.text), special if part.special else plain)
        cursor.endEditBlock()
        self.prompt.moveCursor(QTextCursor.MoveOperation.Start)
        words = [self.tr("{0} characters").format(fmt.number(answer.characters))]
        if answer.tokens >= 0:
            words.append(self.tr("{0} tokens").format(fmt.number(answer.tokens)))
        if answer.characters > PROMPT_LIMIT:
            words.append(self.tr("the first {0} are shown").format(fmt.number(PROMPT_LIMIT)))
        self.words.setText(" · ".join([*words, answer.note] if answer.note else words))
        self.words.setToolTip(tip(answer.note))


class _TurnRow(QWidget):
    """One message: who says it, what, and a button that takes it out."""

    def __init__(self, context: Context, number: int, turn: Turn, parent: QWidget) -> None:
        super().__init__(parent)
        self.role = QComboBox()
        self.role.setAccessibleName(self.tr("Role of turn {0}").format(number))
        self.role.addItems(list(ROLES))
        self.role.setCurrentText(turn.role)
        self.content = QPlainTextEdit(turn.content)
        self.content.setAccessibleName(self.tr("Text of turn {0}").format(number))
        self.content.setTabChangesFocus(True)
        self.content.setFixedHeight(56)
        self.remove = icon_button(context.theme, "close", self.tr("Remove turn {0}").format(number))
        top = QHBoxLayout()
        top.setSpacing(4)
        top.addWidget(self.role)
        top.addStretch(1)
        top.addWidget(self.remove)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(top)
        layout.addWidget(self.content)

    def turn(self) -> Turn:
        return Turn(self.role.currentText(), self.content.toPlainText())
