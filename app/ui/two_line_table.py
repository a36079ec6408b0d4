"""A table with two lines a row: figures in columns, and under them one sentence over the whole width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QModelIndex, QPointF, QRect, QRectF, QSize, QSortFilterProxyModel, Qt
from PySide6.QtGui import QFontMetrics, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from app.ui.widgets import badge_size, paint_badge

if TYPE_CHECKING:
    from app.ui.theme import Theme

LINE = 26
SORT_ROLE = Qt.ItemDataRole.UserRole
TYPE_ROLE = Qt.ItemDataRole.UserRole + 1
SENTENCE_ROLE = Qt.ItemDataRole.UserRole + 2


class TwoLineDelegate(QStyledItemDelegate):
    """Paints a type badge in column 0 and figures in the others, in the upper line of the row."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        font = self._theme.font(12, bold=True) if index.column() < 2 else self._theme.mono(12)
        extra = 24 if index.column() < 2 else 14
        wide = QFontMetrics(font).horizontalAdvance(str(index.data() or ""))
        if index.column() == 0:
            wide = badge_size(self._theme, str(index.data(TYPE_ROLE))).width()
        return QSize(wide + extra, LINE)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        area = QRect(option.rect.left(), option.rect.top() + 2, option.rect.width(), LINE)
        if index.column() == 0:
            kind = str(index.data(TYPE_ROLE))
            wide = badge_size(self._theme, kind).width()
            paint_badge(painter, QRectF(area.left() + 6, area.top() + 3, wide, 20), kind, self._theme)
            return
        painter.setFont(self._theme.mono(12))
        painter.setPen(self._theme.color("text"))
        flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(area.adjusted(0, 0, -7, 0), flags, str(index.data() or ""))


class TableHead(QHeaderView):
    """Titles that are never shortened, the arrow of the sorted column beside its title.

    The style would put the arrow over a right-aligned title, or shorten the title whatever its width.
    """

    PAD = 9
    ARROW = 7
    GAP = 5

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._theme = theme
        self.setHighlightSections(False)
        self.setSectionsClickable(True)
        self.setMinimumSectionSize(40)
        self.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        theme.changed.connect(self.viewport().update)

    def needed_width(self, section: int) -> int:
        """Pixels for the title, and for the arrow where it is."""
        wide = QFontMetrics(self._theme.font(12)).horizontalAdvance(self._title(section)) + 2 * self.PAD
        return wide + (self.ARROW + self.GAP if section == self.sortIndicatorSection() else 0)

    def _title(self, section: int) -> str:
        return str(self.model().headerData(section, Qt.Orientation.Horizontal) or "")

    def paintSection(self, painter: QPainter, rect: QRect, section: int) -> None:
        if not rect.isValid():
            return
        painter.save()
        painter.fillRect(rect, self._theme.color("surface"))
        painter.setPen(self._theme.color("border"))
        painter.drawLine(rect.bottomLeft(), rect.bottomRight())
        ordered = self.isSortIndicatorShown() and section == self.sortIndicatorSection()
        painter.setFont(self._theme.font(12))
        painter.setPen(self._theme.color("text" if ordered else "muted"))
        side = self.model().headerData(section, Qt.Orientation.Horizontal, Qt.ItemDataRole.TextAlignmentRole)
        right = bool(Qt.AlignmentFlag(side or 0) & Qt.AlignmentFlag.AlignRight)
        title, area = self._title(section), rect.adjusted(self.PAD, 0, -self.PAD, -1)
        wide = painter.fontMetrics().horizontalAdvance(title)
        flags = Qt.AlignmentFlag.AlignVCenter | (Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft)
        painter.drawText(area, flags | Qt.TextFlag.TextSingleLine, title)
        if ordered:
            left = area.right() - wide - self.GAP - self.ARROW if right else area.left() + wide + self.GAP
            self._arrow(painter, QPointF(left, rect.center().y()))
        painter.restore()

    def _arrow(self, painter: QPainter, at: QPointF) -> None:
        """Points down for the largest first."""
        down = self.sortIndicatorOrder() == Qt.SortOrder.DescendingOrder
        base, tip = (-1.5, 2.5) if down else (2.5, -1.5)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(self._theme.color("text"), 1.4))
        painter.drawPolyline([at + QPointF(0, base), at + QPointF(self.ARROW / 2, tip), at + QPointF(self.ARROW, base)])


class TwoLineTable(QTableView):
    """Sorted by a click on a header. The sentence of a row runs over all its columns.

    The model answers ``SORT_ROLE``, ``SENTENCE_ROLE`` and, in column 0, ``TYPE_ROLE``; ``empty_columns()`` names the
    columns to hide, ``spare_columns()`` those that a narrow table leaves out, the first of them first.
    """

    def __init__(self, theme: Theme, model: Any, delegate: TwoLineDelegate, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._model = model
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(model)
        self._proxy.setSortRole(SORT_ROLE)
        self.setModel(self._proxy)
        self._delegate = delegate
        self._delegate.setParent(self)
        self.setItemDelegate(self._delegate)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(LINE + 26)
        self.head = TableHead(theme, self)
        self.setHorizontalHeader(self.head)
        header = self.head
        self.setSortingEnabled(True)
        theme.changed.connect(self.viewport().update)
        for signal in (model.modelReset, model.dataChanged):
            signal.connect(self._fit)
        header.sortIndicatorChanged.connect(self._fit)

    def needed_height(self) -> int:
        """Pixels that show all rows without scrolling."""
        rows = sum(self.rowHeight(i) for i in range(self._proxy.rowCount()))
        wide = sum(self.columnWidth(c) for c in range(self._model.columnCount()) if not self.isColumnHidden(c))
        bar = 14 if wide > self.viewport().width() else 0
        return self.horizontalHeader().height() + 12 + bar + rows

    def _fit(self, *_: object) -> None:
        columns = range(self._model.columnCount())
        widths = {c: max(self.head.needed_width(c), self.sizeHintForColumn(c)) for c in columns}
        hidden = set(self._model.empty_columns())
        for column in self._model.spare_columns():
            if sum(widths[c] for c in columns if c not in hidden) <= self.viewport().width():
                break
            hidden.add(column)
        for column in columns:
            self.setColumnHidden(column, column in hidden)
            self.setColumnWidth(column, widths[column])
        self._spread()

    def _spread(self) -> None:
        """Give what is left of the width to all columns alike, so that figures stand under their headers."""
        shown = [c for c in range(self._model.columnCount()) if not self.isColumnHidden(c)]
        spare = self.viewport().width() - sum(self.columnWidth(c) for c in shown)
        if spare > 0 and shown:
            for column in shown:
                self.setColumnWidth(column, self.columnWidth(column) + spare // len(shown))

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self.viewport())
        painter.setFont(self._theme.font(12))
        metrics = QFontMetrics(painter.font())
        for position in range(self._proxy.rowCount()):
            top = self.rowViewportPosition(position)
            height = self.rowHeight(position)
            area = QRect(8, top + LINE + 2, self.viewport().width() - 16, height - LINE - 8)
            painter.setPen(self._theme.color("muted"))
            text = str(self._proxy.index(position, 0).data(SENTENCE_ROLE) or "")
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, area.width())
            painter.drawText(area, Qt.AlignmentFlag.AlignTop, text)
            painter.setPen(self._theme.color("border"))
            painter.drawLine(0, top + height - 1, self.viewport().width(), top + height - 1)
        painter.end()
