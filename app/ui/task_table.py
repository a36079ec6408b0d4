"""Solved tasks by slice: a row a slice, a column a model, each share with its 95 % interval as a dot on a whisker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter, QPen
from PySide6.QtWidgets import (
    QHeaderView,
    QLabel,
    QStackedWidget,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from app.measure_messages import CandidateQuality, TaskScore, TaskShift
from app.ui import format as fmt
from app.ui.markdown import clean
from app.ui.widgets import badge_size, label, paint_badge

if TYPE_CHECKING:
    from app.ui.theme import Theme

SCORE_ROLE = Qt.ItemDataRole.UserRole + 1
SHIFT_ROLE = Qt.ItemDataRole.UserRole + 2
TYPE_ROLE = Qt.ItemDataRole.UserRole + 3

LOW = 240
"""Pixels of height below which the rows are worth more than the note under them."""

CLEAR = 0.05
"""p below which a change is marked."""

ROW, NARROW, ROOMY = 36, 74, 130
"""Pixels: a row's height, the least width of a model's column, and that from which numbers of tasks stand in it too."""


def total(figures: CandidateQuality) -> TaskScore | None:
    """All slices together; None without tasks."""
    scores = figures.tasks.values()
    n = sum(score.n for score in scores)
    return TaskScore(n, sum(score.correct for score in scores)) if n else None


class TaskModel(QAbstractTableModel):
    """Column 0 names the slices, the first of which is all of them; then the reference, then the candidates."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.models: list[CandidateQuality] = []
        self.names: list[str] = []
        self.slices: list[str] = []

    def set_models(self, models: list[CandidateQuality], names: list[str]) -> None:
        """The models with tasks, the reference first, and what they are called."""
        self.beginResetModel()
        self.models, self.names = models, names
        self.slices = list(dict.fromkeys(name for item in models for name in item.tasks))
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if (parent is not None and parent.isValid()) or not self.slices else len(self.slices) + 1

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.models) + 1

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.tr("Slice") if section == 0 else self.names[section - 1]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if section == 0 else Qt.AlignmentFlag.AlignHCenter
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == TYPE_ROLE and section > 0:
            return self.models[section - 1].type
        return None

    def slice_name(self, row: int) -> str:
        return clean(self.slices[row - 1]) if row else self.tr("all tasks")

    def score(self, row: int, column: int) -> TaskScore | None:
        figures = self.models[column - 1]
        return figures.tasks.get(self.slices[row - 1]) if row else total(figures)

    def shift(self, row: int, column: int) -> TaskShift | None:
        figures = self.models[column - 1]
        return figures.task_shifts.get(self.slices[row - 1]) if row else figures.task_shift

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row, column = index.row(), index.column()
        if column == 0:
            if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
                return self.slice_name(row)
            return None
        score = self.score(row, column)
        if role == Qt.ItemDataRole.DisplayRole:
            return fmt.percent(score.correct / score.n, 0) if score is not None and score.n else fmt.DASH
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleTextRole):
            return self.words(row, column)
        return {SCORE_ROLE: score, SHIFT_ROLE: self.shift(row, column), TYPE_ROLE: self.models[column - 1].type}.get(
            role
        )

    def words(self, row: int, column: int) -> str:
        """A cell in words."""
        score, shift = self.score(row, column), self.shift(row, column)
        where = f"{self.slice_name(row)}, {self.names[column - 1]}"
        if score is None or not score.n:
            return self.tr("%1: not asked").replace("%1", where)
        low, high = score.interval
        text = self.tr("{0}: {1} of {2} solved, {3}, 95 % interval {4} to {5}.").format(
            where,
            score.correct,
            score.n,
            fmt.percent(score.correct / score.n),
            fmt.percent(low, 0),
            fmt.percent(high, 0),
        )
        if shift is not None:
            text += " " + self.tr("Against the reference {0} lost, {1} gained, p {2}.").format(
                shift.lost, shift.gained, fmt.significant(shift.p, 2)
            )
        if score.choices is not None:
            text += " " + self.tr("Multiple choice: acc {0}, acc_norm {1} of {2}; {3} counts.").format(
                score.choices.acc, score.choices.acc_norm, score.choices.n, score.choices.counted
            )
        return text


class _Delegate(QStyledItemDelegate):
    """The share as a number, and below it a dot on its interval, on a line from 0 to 100 %."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        font = self._theme.font(12)
        wide = QFontMetrics(font).horizontalAdvance(str(index.data() or "")) + 18
        return QSize(wide if index.column() == 0 else max(NARROW, wide), ROW)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRect(option.rect)
        if option.state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(QPen(self._theme.color("accent"), 1.5))
            painter.drawRoundedRect(QRectF(area).adjusted(1, 1, -1, -2), 4, 4)
        first = index.row() == 0
        if index.column() == 0:
            painter.setFont(self._theme.font(12, bold=first))
            painter.setPen(self._theme.color("text"))
            flags = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(area.adjusted(8, 0, -4, 0), flags, str(index.data()))
        else:
            self._share(painter, area, index)
        painter.setPen(self._theme.color("border"))
        painter.drawLine(area.left(), area.bottom(), area.right() + 1, area.bottom())
        painter.restore()

    def _share(self, painter: QPainter, area: QRect, index: QModelIndex) -> None:
        score: TaskScore | None = index.data(SCORE_ROLE)
        shift: TaskShift | None = index.data(SHIFT_ROLE)
        painter.setFont(self._theme.mono(12))
        painter.setPen(self._theme.color("text" if score is not None else "muted"))
        upper = QRect(area.left(), area.top() + 2, area.width(), 18)
        text = str(index.data())
        if score is not None and area.width() >= ROOMY:
            text += f" · {score.correct}/{score.n}"
        painter.drawText(upper, Qt.AlignmentFlag.AlignCenter, text)
        if score is None or not score.n:
            return
        if shift is not None and shift.p < CLEAR:
            role, mark = ("good", "▲") if shift.gained > shift.lost else ("bad", "▼")
            painter.setPen(self._theme.color(role))
            wide = QFontMetrics(self._theme.mono(12)).horizontalAdvance(text)
            beside = QRect(area.center().x() + wide // 2 + 3, upper.top(), 14, 18)
            painter.setFont(self._theme.font(12))
            painter.drawText(beside, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, mark)
        left, right, y = area.left() + 9.0, area.right() - 8.0, area.bottom() - 9.5
        (low, high), share = score.interval, score.correct / score.n
        at = lambda value: left + value * (right - left)  # noqa: E731
        painter.setPen(QPen(self._theme.color("border"), 1))
        painter.drawLine(QPointF(left, y), QPointF(right, y))
        painter.setPen(QPen(self._theme.color("muted"), 1.5))
        painter.drawLine(QPointF(at(low), y), QPointF(at(high), y))
        for end in (low, high):
            painter.drawLine(QPointF(at(end), y - 3), QPointF(at(end), y + 3))
        painter.setPen(QPen(self._theme.color("muted"), 1))
        painter.setBrush(self._theme.type_color(str(index.data(TYPE_ROLE))))
        painter.drawEllipse(QPointF(at(share), y), 4.5, 4.5)


class _Head(QHeaderView):
    """Titles of the columns: a model's as its type's badge where it is named by its type."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._theme = theme
        self.setHighlightSections(False)
        self.setMinimumSectionSize(40)
        theme.changed.connect(self.viewport().update)

    def needed_width(self, section: int) -> int:
        text = str(self.model().headerData(section, Qt.Orientation.Horizontal) or "")
        return (
            max(badge_size(self._theme, text).width(), QFontMetrics(self._theme.font(12)).horizontalAdvance(text)) + 14
        )

    def paintSection(self, painter: QPainter, rect: QRect, section: int) -> None:
        if not rect.isValid():
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(rect, self._theme.color("surface"))
        painter.setPen(self._theme.color("border"))
        painter.drawLine(rect.bottomLeft(), rect.bottomRight())
        text = str(self.model().headerData(section, Qt.Orientation.Horizontal) or "")
        kind = self.model().headerData(section, Qt.Orientation.Horizontal, TYPE_ROLE)
        if kind and kind == text:
            size = badge_size(self._theme, text)
            corner = QPointF(rect.center().x() - size.width() / 2 + 1, rect.center().y() - 9)
            paint_badge(painter, QRectF(corner.x(), corner.y(), size.width(), 20), text, self._theme)
        else:
            painter.setFont(self._theme.font(12))
            painter.setPen(self._theme.color("muted"))
            side = Qt.AlignmentFlag.AlignLeft if section == 0 else Qt.AlignmentFlag.AlignHCenter
            shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, rect.width() - 12)
            painter.drawText(rect.adjusted(8, 0, -4, 0), side | Qt.AlignmentFlag.AlignVCenter, shown)
        painter.restore()


class TaskTable(QWidget):
    """See the module. Empty until a model has tasks."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows = TaskModel(self)
        self.view = QTableView()
        self.view.setModel(self.rows)
        self.view.setItemDelegate(_Delegate(theme, self))
        self.head = _Head(theme, self.view)
        self.view.setHorizontalHeader(self.head)
        self.view.setShowGrid(False)
        self.view.setSelectionMode(QTableView.SelectionMode.NoSelection)
        self.view.setEditTriggers(QTableView.EditTrigger.NoEditTriggers)
        self.view.setTabKeyNavigation(False)
        self.view.setVerticalScrollMode(QTableView.ScrollMode.ScrollPerPixel)
        self.view.setHorizontalScrollMode(QTableView.ScrollMode.ScrollPerPixel)
        self.view.verticalHeader().hide()
        self.view.verticalHeader().setDefaultSectionSize(ROW)
        self.view.setAccessibleName(self.tr("Solved tasks by slice and model"))
        self._empty = label(self.tr("No tasks were asked"), "muted")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.note = label("", "muted", wrap=True)
        self.note.setSizePolicy(QLabel().sizePolicy())
        full = QWidget()
        inside = QVBoxLayout(full)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        inside.addWidget(self.view, 1)
        inside.addWidget(self.note)
        self._stack = QStackedWidget()
        self._stack.addWidget(self._empty)
        self._stack.addWidget(full)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(self._stack)
        theme.changed.connect(self.view.viewport().update)

    def is_empty(self) -> bool:
        return not self.rows.slices

    def set_results(
        self, reference: CandidateQuality | None, candidates: list[CandidateQuality], named: dict[str, str]
    ) -> None:
        """Show these models; ``named`` has a short name for the key of each candidate."""
        shown = [item for item in (reference, *candidates) if item is not None and item.tasks]
        names = [named.get(item.key) or item.label or Path(item.path).stem for item in shown]
        self.rows.set_models(shown, names)
        self._stack.setCurrentIndex(0 if self.is_empty() else 1)
        note = self.tr("Share solved with its 95 % interval. ▼ ▲: unlike the reference (McNemar, p < 0.05).")
        if any(item.tasks_asked == "plain" for item in shown):
            note += " " + self.tr("Without a chat template: asked in plain text, after three examples.")
        self.note.setText(note)
        self.view.setAccessibleDescription(note)
        self._fit()

    def _fit(self) -> None:
        columns = range(self.rows.columnCount())
        widths = [max(self.head.needed_width(c), self.view.sizeHintForColumn(c)) for c in columns]
        spare = self.view.viewport().width() - sum(widths)
        for column, width in zip(columns, widths, strict=True):
            self.view.setColumnWidth(column, width + max(0, spare) // max(1, len(widths)))

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self.note.setVisible(self.height() >= LOW)
        self._fit()
