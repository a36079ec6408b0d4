"""The tasks that only the reference or only a candidate solved: a list, and beside it both answers in full."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter, QPen, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QListView,
    QSplitter,
    QStackedWidget,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from app.measure_messages import CandidateQuality, TaskFlip
from app.ui.markdown import clean
from app.ui.widgets import badge_size, label, paint_badge

if TYPE_CHECKING:
    from app.ui.theme import Theme

FLIP_ROLE = Qt.ItemDataRole.UserRole + 1
ROW = 46


@dataclass(frozen=True)
class Entry:
    """A flip of the model that is called ``name``."""

    name: str
    type: str
    flip: TaskFlip


class FlipModel(QAbstractListModel):
    """One row a flip. ``named``: they are of several models, so that each row names its own."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.entries: list[Entry] = []
        self.named = True

    def set_entries(self, entries: list[Entry], named: bool) -> None:
        self.beginResetModel()
        self.entries, self.named = entries, named
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.entries)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        entry = self.entries[index.row()]
        if role == FLIP_ROLE:
            return entry
        if role == Qt.ItemDataRole.DisplayRole:
            return one_line(entry.flip.prompt)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return self.words(entry)
        return None

    def words(self, entry: Entry) -> str:
        """A flip in words."""
        flip = entry.flip
        solved = self.tr("gained by {0}") if flip.gained else self.tr("lost by {0}")
        return self.tr("{0}, {1}: {2} Expected {3}. The reference answered: {4}. {5} answered: {6}.").format(
            solved.format(entry.name),
            clean(flip.category),
            *(one_line(text) for text in (flip.prompt, flip.expected, flip.reference)),
            entry.name,
            one_line(flip.candidate),
        )


def one_line(text: str) -> str:
    """``text`` without control characters and line ends."""
    return " ".join(clean(text).split())


class _Delegate(QStyledItemDelegate):
    """First line: lost or gained, the slice, the model's badge. Second line: the question."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        return QSize(160, ROW)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        entry: Entry = index.data(FLIP_ROLE)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRect(option.rect)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(area, self._theme.color("accent_soft"))
        if option.state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(QPen(self._theme.color("accent"), 1.5))
            painter.drawRoundedRect(QRectF(area).adjusted(1, 1, -1, -1.5), 4, 4)
        role, words = ("good", self.tr("▲ gained")) if entry.flip.gained else ("bad", self.tr("▼ lost"))
        flags = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        upper = area.adjusted(8, 3, -8, -ROW // 2)
        painter.setFont(self._theme.font(12, bold=True))
        painter.setPen(self._theme.color(role))
        painter.drawText(upper, flags, words)
        x = upper.left() + QFontMetrics(painter.font()).horizontalAdvance(words) + 8
        named = bool(index.model().named)
        badge = badge_size(self._theme, entry.name).width() if named and entry.name == entry.type else 0
        painter.setFont(self._theme.font(12))
        painter.setPen(self._theme.color("muted"))
        room = upper.right() - badge - 8 - x
        text = clean(entry.flip.category) + ("" if badge or not named else f" · {entry.name}")
        text = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, room)
        painter.drawText(QRect(x, upper.top(), room, upper.height()), flags, text)
        if badge:
            corner = QRectF(upper.right() - badge, upper.top() + (upper.height() - 20) / 2, badge, 20)
            paint_badge(painter, corner, entry.type, self._theme)
        lower = area.adjusted(8, ROW // 2, -8, -3)
        painter.setFont(self._theme.font(12))
        painter.setPen(self._theme.color("text"))
        text = painter.fontMetrics().elidedText(str(index.data()), Qt.TextElideMode.ElideRight, lower.width())
        painter.drawText(lower, flags, text)
        painter.setPen(self._theme.color("border"))
        painter.drawLine(area.left(), area.bottom(), area.right(), area.bottom())
        painter.restore()


class TaskFlips(QWidget):
    """See the module. They come with the final result of a measurement."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._all: list[Entry] = []
        self._counts: dict[str, tuple[int, int]] = {}
        self.choice = QComboBox()
        self.choice.setAccessibleName(self.tr("Flipped tasks of which model"))
        self.choice.currentIndexChanged.connect(self._filter)
        self.count = label("", "muted")
        self.rows = FlipModel(self)
        self.list = QListView()
        self.list.setModel(self.rows)
        self.list.setItemDelegate(_Delegate(theme, self))
        self.list.setAccessibleName(self.tr("Tasks that flipped"))
        self.list.setUniformItemSizes(True)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setVerticalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        self.list.selectionModel().currentChanged.connect(self._show)
        self.detail = QTextEdit()
        self.detail.setReadOnly(True)
        self.detail.setUndoRedoEnabled(False)
        self.detail.setTabChangesFocus(True)
        self.detail.setFrameShape(QFrame.Shape.NoFrame)
        self.detail.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.detail.setAccessibleName(self.tr("The task and both answers"))
        self.detail.document().setDocumentMargin(8)
        self._lay_out()
        theme.changed.connect(self._restyle)

    def _lay_out(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.choice)
        head.addWidget(self.count, 1)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(9)
        self.splitter.setObjectName("flips")
        self.splitter.addWidget(self.list)
        self.splitter.addWidget(self.detail)
        self.splitter.setSizes([260, 320])
        full = QWidget()
        inside = QVBoxLayout(full)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(6)
        inside.addLayout(head)
        inside.addWidget(self.splitter, 1)
        self._empty = label("", "muted", wrap=True)
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._empty)
        self._stack.addWidget(full)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self._stack)
        self.set_results([], {})

    def is_empty(self) -> bool:
        return not self._all

    def set_results(self, candidates: list[CandidateQuality], named: dict[str, str]) -> None:
        """Show the flips of these; ``named`` has a short name for the key of each."""
        entries, counts = [], {}
        for item in candidates:
            name = named.get(item.key) or item.label or Path(item.path).stem
            entries += [Entry(name, item.type, flip) for flip in item.flips]
            if item.task_shift is not None:
                counts[name] = item.task_shift.lost, item.task_shift.gained
        if entries == self._all and counts == self._counts:
            return
        self._all, self._counts = entries, counts
        asked = any(item.tasks for item in candidates)
        running = any(sum(pair) for pair in counts.values())
        self._empty.setText(
            self.tr("What flipped is listed when the measurement is done.")
            if running
            else self.tr("Every model solved the same tasks as the reference.")
            if asked
            else self.tr("No tasks were asked")
        )
        before = self.choice.currentData()
        self.choice.blockSignals(True)
        self.choice.clear()
        self.choice.addItem(self.tr("All models"), "")
        for name in dict.fromkeys(entry.name for entry in entries):
            self.choice.addItem(name, name)
        self.choice.setCurrentIndex(max(0, self.choice.findData(before)))
        self.choice.blockSignals(False)
        self._stack.setCurrentIndex(1 if entries else 0)
        self._filter()

    def _filter(self, *_: object) -> None:
        wanted = self.choice.currentData()
        shown = [entry for entry in self._all if not wanted or entry.name == wanted]
        self.rows.set_entries(shown, named=not wanted and len(self._counts) > 1)
        pairs = [pair for name, pair in self._counts.items() if not wanted or name == wanted]
        lost, gained = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
        text = self.tr("{0} lost, {1} gained").format(lost, gained)
        if len(shown) < lost + gained:
            text += " · " + self.tr("{0} of them are kept").format(len(shown))
        self.count.setText(text)
        if shown:
            self.list.setCurrentIndex(self.rows.index(0, 0))
        else:
            self.detail.clear()

    def _show(self, index: QModelIndex, *_: object) -> None:
        self.detail.clear()
        if not index.isValid():
            return
        entry: Entry = index.data(FLIP_ROLE)
        flip = entry.flip
        cursor = QTextCursor(self.detail.document())
        for title, text, role in (
            (self.tr("Asked · %1").replace("%1", clean(flip.category)), flip.prompt, ""),
            (self.tr("Expected"), flip.expected, ""),
            (self.tr("The reference answered"), flip.reference, "bad" if flip.gained else "good"),
            (self.tr("%1 answered").replace("%1", entry.name), flip.candidate, "good" if flip.gained else "bad"),
        ):
            self._section(cursor, title, text, role)
        self.detail.moveCursor(QTextCursor.MoveOperation.Start)
        self.detail.setAccessibleDescription(self.rows.words(entry))

    def _section(self, cursor: QTextCursor, title: str, text: str, role: str) -> None:
        form = QTextCharFormat()
        form.setFont(self._theme.font(12, bold=True))
        form.setForeground(self._theme.color(role or "muted"))
        mark = {"good": "✓ ", "bad": "✕ "}.get(role, "")
        cursor.insertText(("" if cursor.atStart() else "\n\n") + mark + title, form)
        form.setFont(self._theme.font(13))
        form.setForeground(self._theme.color("text" if text else "muted"))
        cursor.insertText("\n" + (clean(text) or self.tr("nothing")), form)

    def _restyle(self) -> None:
        self.list.viewport().update()
        self._show(self.list.currentIndex())
