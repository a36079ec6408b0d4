"""The command palette (Ctrl+K): every page, every action and every model, by a few letters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6.QtCore import QAbstractListModel, QEvent, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QFontMetrics, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QApplication,
    QFrame,
    QLineEdit,
    QListView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from app.ui.theme import Theme, set_role
from app.ui.widgets import tip

WIDTH, MAX_ROWS = 560, 12
HINT_ROLE = int(Qt.ItemDataRole.UserRole)
_Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class Command:
    """One line of the palette. ``hint`` (a shortcut, a path) is shown muted and is searched too."""

    text: str
    run: Callable[[], object]
    icon: str = "chevron-right"
    hint: str = ""


def rank(command: Command, query: str) -> int | None:
    """How well ``command`` answers ``query``, less is better; None if a word of the query is nowhere in it."""
    text, hint = command.text.lower(), command.hint.lower()
    score = 0
    for word in query.lower().split():
        place = text.find(word)
        if place == 0 or (place > 0 and not text[place - 1].isalnum()):
            continue  # at the start of a word
        if place > 0:
            score += 2
        elif word in hint:
            score += 5
        else:
            return None
    return score


class _Commands(QAbstractListModel):
    def __init__(self, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme
        self.all: list[Command] = []
        self.shown: list[Command] = []

    def filter(self, query: str) -> None:
        self.beginResetModel()
        ranked = [(score, n) for n, command in enumerate(self.all) if (score := rank(command, query)) is not None]
        self.shown = [self.all[n] for _, n in sorted(ranked)]
        self.endResetModel()

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.shown)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        command = self.shown[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return command.text
        if role == HINT_ROLE:
            return command.hint
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(command.hint) or None
        if role == Qt.ItemDataRole.DecorationRole:
            return self._theme.icon(command.icon, "muted")
        return None


class _Delegate(QStyledItemDelegate):
    """The hint on the right, muted, in the room that the text leaves."""

    def __init__(self, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        super().paint(painter, option, index)
        hint = index.data(HINT_ROLE)
        if not hint:
            return
        left = 48 + QFontMetrics(option.font).horizontalAdvance(index.data())
        area = option.rect.adjusted(left, 0, -12, 0)
        if area.width() < 40:
            return
        painter.save()
        painter.setPen(self._theme.color("muted"))
        painter.setFont(self._theme.font(12))
        text = painter.fontMetrics().elidedText(hint, Qt.TextElideMode.ElideMiddle, area.width())
        painter.drawText(area, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight), text)
        painter.restore()


class Palette(QFrame):
    """Floats over the top of ``parent``. Enter runs, Esc or a click elsewhere closes, arrows move in the list."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        set_role(self, "popover")
        self.setAccessibleName(self.tr("Command palette"))
        self._before: QWidget | None = None
        self._field = QLineEdit()
        self._field.setPlaceholderText(self.tr("Type a command, a page or a model"))
        self._field.setAccessibleName(self.tr("Command"))
        self._field.textChanged.connect(self._filter)
        self._field.installEventFilter(self)
        self._model = _Commands(theme, self)
        self._list = QListView()
        self._list.setModel(self._model)
        self._list.setItemDelegate(_Delegate(theme, self))
        self._list.setAccessibleName(self.tr("Commands"))
        self._list.setUniformItemSizes(True)
        self._list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.setFrameShape(QFrame.Shape.NoFrame)
        self._list.clicked.connect(lambda index: self._run())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(8)
        layout.addWidget(self._field)
        layout.addWidget(self._list)
        self.hide()

    def open_with(self, commands: list[Command]) -> None:
        """Show the palette with these commands."""
        self._before = QApplication.focusWidget()
        self._model.all = commands
        self._field.clear()
        self._filter("")
        below = self.parentWidget()
        width = min(WIDTH, below.width() - 64)
        row = max(self._list.sizeHintForRow(0), 24)
        height = min(72 + row * min(MAX_ROWS, max(len(commands), 3)), below.height() - 96)
        self.setGeometry((below.width() - width) // 2, 48, width, height)
        self.show()
        self.raise_()
        self._field.setFocus()

    def close_up(self) -> None:
        """Hide, and give the focus back to where it was."""
        self.hide()
        if self._before is not None and shiboken6.isValid(self._before) and self._before.isVisible():
            self._before.setFocus()

    def texts(self) -> list[str]:
        """The commands shown now."""
        return [command.text for command in self._model.shown]

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self._field and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            if event.key() in (Qt.Key.Key_Down, Qt.Key.Key_Up):
                self._move(1 if event.key() == Qt.Key.Key_Down else -1)
                return True
            if event.key() == Qt.Key.Key_Escape:
                self.close_up()
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._run()
                return True
        if watched is self._field and event.type() == QEvent.Type.FocusOut and not self.underMouse():
            self.hide()
        return super().eventFilter(watched, event)

    def _filter(self, query: str) -> None:
        self._model.filter(query)
        if self._model.shown:
            self._list.setCurrentIndex(self._model.index(0))

    def _move(self, step: int) -> None:
        count = self._model.rowCount()
        if count:
            row = (self._list.currentIndex().row() + step) % count
            self._list.setCurrentIndex(self._model.index(row))

    def _run(self) -> None:
        row = self._list.currentIndex().row()
        if 0 <= row < len(self._model.shown):
            command = self._model.shown[row]
            self.close_up()
            command.run()
