"""The table of the Library page: models grouped by what they were made from, filtered, sorted, and how they look."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPen
from PySide6.QtWidgets import QApplication, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.ui import format as fmt
from app.ui.glossary import explain
from app.ui.library_rows import Quality, Row
from app.ui.theme import Theme
from app.ui.widgets import badge_size, paint_badge, tip, type_words

_Index = QModelIndex | QPersistentModelIndex
NAME, PARAMETERS, TYPE, SIZE, FITS, QUALITY, SPEED = range(7)
NUMBERS = (PARAMETERS, SIZE, QUALITY, SPEED)
SORT_ROLE = int(Qt.ItemDataRole.UserRole) + 1


@dataclass
class Group:
    """Rows with one base name."""

    name: str
    rows: list[Row] = field(default_factory=list)

    @property
    def is_single(self) -> bool:
        return len(self.rows) == 1


def arranged(rows: Iterable[Row], query: str, column: int, order: Qt.SortOrder) -> list[Group]:
    """The groups of the rows that have every word of ``query``, sorted; pure, and of any thread."""
    words = query.lower().split()
    groups: dict[str, Group] = {}
    for row in rows:
        if not words or all(word in row.text for word in words):
            groups.setdefault(row.base.lower(), Group(row.base)).rows.append(row)
    reverse = order == Qt.SortOrder.DescendingOrder

    def key(row: Row) -> tuple[Any, ...]:
        return (_sort_value(row, column), row.base.lower(), -row.info.bytes, row.info.path)

    for group in groups.values():
        # By name means by size inside a group: the reference first, then ever smaller.
        group.rows.sort(key=lambda row: -row.info.bytes if column == NAME else key(row))
        if reverse and column != NAME:
            group.rows.reverse()
    return sorted(groups.values(), key=lambda group: key(group.rows[0]), reverse=reverse)


def _sort_value(row: Row, column: int) -> Any:
    """Only what is asked for: whether it fits takes a while to work out."""
    if column == FITS:
        return row.fit.rank if row.fit else 9
    if column == QUALITY:
        return _distance(row.quality)
    if column == SPEED:
        return -1.0 if row.speed is None else row.speed
    return {NAME: row.base.lower(), PARAMETERS: row.info.parameters, TYPE: row.type, SIZE: row.info.bytes}[column]


def _distance(quality: Quality | None) -> float:
    """For sorting: the reference before everything that was measured against it, the unmeasured last."""
    if quality is None:
        return math.inf
    return -math.inf if quality.is_reference else quality.kld


LINES = 500
"""Lines that the view is given at a time: laying out ten thousand at once would stop the window."""


class LibraryTable(QAbstractItemModel):
    """Groups at the top, their models below; a group of one is the model itself. Sorts and filters on its own."""

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._rows: list[Row] = []
        self._groups: list[Group] = []
        self._lines = 0
        self._query = ""
        self._column, self._order = NAME, Qt.SortOrder.AscendingOrder
        theme.changed.connect(self._repaint)

    # ---- contents ----------------------------------------------------------------------------------------------

    def set_rows(self, rows: Iterable[Row]) -> None:
        """Show these models."""
        self._rows = list(rows)
        self._arrange()

    def set_filter(self, query: str) -> None:
        """Show only models with every word of ``query`` in name, type, architecture, owner or path."""
        self._query = query
        self._arrange()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._column, self._order = column, order
        self._arrange()

    def shown(self) -> list[Row]:
        """The models that pass the filter, in order."""
        return [row for group in self._groups for row in group.rows]

    def rows_at(self, index: _Index) -> list[Row]:
        """The models of a line: one, or all of a group."""
        if not index.isValid():
            return []
        group = self._groups[index.row()] if index.internalId() == 0 else self._groups[index.internalId() - 1]
        if index.internalId() == 0:
            return group.rows
        return [group.rows[index.row()]]

    def index_of(self, path: str) -> QModelIndex:
        """Where a path is; an invalid index if it is not shown."""
        for number, group in enumerate(self._groups):
            for place, row in enumerate(group.rows):
                if row.info.path == path:
                    self._reach(number + 1)
                    return self.index(number, 0) if group.is_single else self.index(place, 0, self.index(number, 0))
        return QModelIndex()

    def view_of(self) -> tuple[str, int, Qt.SortOrder]:
        """What decides how rows are arranged: filter, sorted column, direction; for :func:`arranged`."""
        return self._query, self._column, self._order

    def show_arranged(self, rows: list[Row], groups: list[Group], view: tuple[str, int, Qt.SortOrder]) -> None:
        """Show rows that were arranged elsewhere; arranged again only if filter or order changed meanwhile."""
        self._rows = rows
        if view != self.view_of():
            self._arrange()
            return
        self.beginResetModel()
        self._groups = groups
        self._lines = min(len(groups), LINES)
        self.endResetModel()

    def group_lines(self) -> list[int]:
        """The lines that are groups of several models."""
        return [number for number, group in enumerate(self._groups[: self._lines]) if not group.is_single]

    def canFetchMore(self, parent: _Index) -> bool:
        return not parent.isValid() and self._lines < len(self._groups)

    def fetchMore(self, parent: _Index) -> None:
        if not parent.isValid():
            self._reach(self._lines + LINES)

    def _reach(self, lines: int) -> None:
        """Show so many lines: the view asks for more when it is scrolled to its end."""
        lines = min(lines, len(self._groups))
        if lines > self._lines:
            self.beginInsertRows(QModelIndex(), self._lines, lines - 1)
            self._lines = lines
            self.endInsertRows()

    def _arrange(self) -> None:
        self.show_arranged(self._rows, arranged(self._rows, *self.view_of()), self.view_of())

    def _repaint(self) -> None:
        for number in range(self._lines):
            parent = self.index(number, 0)
            self.dataChanged.emit(parent, self.index(number, SPEED))
            if count := self.rowCount(parent):
                self.dataChanged.emit(self.index(0, 0, parent), self.index(count - 1, SPEED, parent))

    # ---- QAbstractItemModel ------------------------------------------------------------------------------------

    def index(self, row: int, column: int, parent: _Index | None = None) -> QModelIndex:
        if parent is None or not parent.isValid():
            inside = 0 <= row < self._lines
            return self.createIndex(row, column, 0) if inside else QModelIndex()
        inside = 0 <= row < self.rowCount(parent)
        return self.createIndex(row, column, parent.row() + 1) if inside else QModelIndex()

    def parent(self, index: Any = None) -> Any:
        if index is None:
            return QObject.parent(self)
        if not index.isValid() or index.internalId() == 0:
            return QModelIndex()
        return self.createIndex(int(index.internalId()) - 1, 0, 0)

    def rowCount(self, parent: _Index | None = None) -> int:
        if parent is None or not parent.isValid():
            return self._lines
        if parent.internalId() != 0 or parent.column() > 0:
            return 0
        group = self._groups[parent.row()]
        return 0 if group.is_single else len(group.rows)

    def hasChildren(self, parent: _Index | None = None) -> bool:
        # Asked of every line: quicker than by way of two counts.
        if parent is None or not parent.isValid():
            return bool(self._groups)
        if parent.internalId() != 0 or parent.column() > 0:
            return False
        return len(self._groups[parent.row()].rows) > 1

    def columnCount(self, parent: _Index | None = None) -> int:
        return 7

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return (
                self.tr("Name"),
                self.tr("Parameters"),
                self.tr("Type"),
                self.tr("Size"),
                self.tr("Fits?"),
                self.tr("KLD"),
                self.tr("Tokens/s"),
            )[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if section in NUMBERS else Qt.AlignmentFlag.AlignLeft
            return int(side | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ToolTipRole:
            return {
                TYPE: explain("Quantization"),
                FITS: self.tr("Whether weights, KV cache and compute buffer fit into the memory that is free now"),
                QUALITY: explain("KLD"),
                SPEED: self.tr("Tokens per second that this model wrote on this machine, when it was measured last"),
            }.get(section)
        return None

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        rows = self.rows_at(index)
        if not rows:
            return None
        column = index.column()
        is_group = len(rows) > 1
        if role == Qt.ItemDataRole.DisplayRole:
            return self._group_text(rows, column) if is_group else self._text(rows[0], column, index)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if column in NUMBERS else Qt.AlignmentFlag.AlignLeft
            return int(side | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.FontRole:
            if column == QUALITY and not is_group and rows[0].quality is not None and rows[0].quality.is_reference:
                return self._theme.font(13)  # a word, not a number
            if column in NUMBERS:
                return self._theme.mono(13)
            return self._theme.font(13, bold=index.internalId() == 0) if column == NAME else None
        if role == Qt.ItemDataRole.ForegroundRole:
            name = "muted" if is_group and column != NAME else "" if is_group else self._role(rows[0], column)
            return QColor(self._theme.color(name)) if name else None
        if role == Qt.ItemDataRole.ToolTipRole:
            return None if is_group else tip(self._tip(rows[0], column))
        if role == Qt.ItemDataRole.AccessibleTextRole and column == NAME:
            return self._spoken(rows)
        return None

    def _group_text(self, rows: list[Row], column: int) -> str:
        if column == NAME:
            return rows[0].base
        if column == PARAMETERS:
            return fmt.parameters(max(row.info.parameters for row in rows))
        if rows[0].is_served:
            return self.tr("{0} models").format(len(rows)) if column == TYPE else ""
        if column == TYPE:
            return self.tr("{0} files").format(len(rows))
        if column == SIZE:
            return fmt.size(sum(row.info.bytes for row in rows))
        return ""

    def _text(self, row: Row, column: int, index: _Index) -> str:
        info = row.info
        if column == NAME:
            name = info.path.replace("\\", "/").rsplit("/", 1)[-1]
            if row.listed is not None and row.listed.title:
                name = row.listed.title
            elif index.internalId() == 0 or info.kind == "hf":
                name = row.base
            notes = [row.owner, self.tr("copy") if row.copies else ""]
            return " · ".join(filter(None, [name, *notes]))
        if column == SIZE:
            return fmt.DASH if row.is_served else fmt.size(info.bytes)
        if row.is_broken:
            if column != FITS:
                return ""
            if row.is_served:
                return self.tr("No answer")
            return self.tr("Not whole") if row.is_partial else self.tr("Broken")
        if column == PARAMETERS:
            return fmt.parameters(info.parameters)
        if column == TYPE:
            return row.type
        if column == FITS:
            return row.fit.text if row.fit else ""
        if column == QUALITY:
            if row.quality is None:
                return fmt.DASH
            return self.tr("reference") if row.quality.is_reference else fmt.number(row.quality.kld, 4)
        return fmt.DASH if row.speed is None else fmt.number(row.speed, 0 if row.speed >= 100 else 1)

    def _role(self, row: Row, column: int) -> str:
        if row.is_broken:
            strong = "warn" if row.is_partial else "bad"
            return strong if column in (NAME, FITS) else "muted"
        if column == FITS and row.fit is not None:
            return row.fit.role
        if column == QUALITY:
            if row.quality is None or row.quality.is_reference:
                return "muted"
            return {"pass": "good", "review": "warn", "fail": "bad"}.get(row.quality.verdict, "")
        if column == SPEED and row.speed is None:
            return "muted"
        return ""

    def _tip(self, row: Row, column: int) -> str:
        if row.is_broken:
            return "\n".join(row.info.problems)
        if column == TYPE:
            return "" if row.is_served else type_words(row.type)
        if column == FITS and row.fit is not None:
            return row.fit.why
        if column == QUALITY and row.quality is None:
            return self.tr("Not measured yet: choose Measure")
        if column == SPEED and row.speed is None:
            return self.tr("Not measured yet: choose Measure, or the Bench page")
        if column != NAME:
            return ""
        if row.is_served:
            return str(row.info.metadata.get("url", ""))
        return "\n".join([row.info.path, *(self.tr("The same as {0}").format(path) for path in row.copies[:3])])

    def _spoken(self, rows: list[Row]) -> str:
        if rows[0].is_served and not rows[0].is_broken:
            names = [row.listed.title for row in rows if row.listed is not None]
            return self.tr("{0} of a server").format(", ".join(names))
        if len(rows) > 1:
            return self.tr("{0}, {1} files").format(rows[0].base, len(rows))
        row = rows[0]
        if row.is_broken:
            return self.tr("{0}, broken: {1}").format(row.base, row.info.problems[0])
        return f"{row.base}, {row.type}, {fmt.size(row.info.bytes)}, {row.fit.text if row.fit else ''}"


class LibraryDelegate(QStyledItemDelegate):
    """Type badges, and a dot beside the verdict on memory (whose word says the same as its colour)."""

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: _Index) -> QSize:
        return QSize(super().sizeHint(option, index).width(), 32)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        text = index.data() or ""
        is_group = index.model().rowCount(index.siblingAtColumn(0)) > 0
        if index.column() == TYPE and text and not is_group:
            self._panel(painter, option, index)
            size = badge_size(self._theme, text)
            top = option.rect.center().y() - size.height() / 2 + 1
            area = QRectF(option.rect.x() + 9, top, size.width(), size.height())
            paint_badge(painter, area, text, self._theme)
            return
        if index.column() == FITS and text and not is_group:
            painter.save()
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self._panel(painter, option, index)
            color = index.data(Qt.ItemDataRole.ForegroundRole)
            painter.setBrush(color)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.drawEllipse(QRectF(option.rect.x() + 9, option.rect.center().y() - 4, 8, 8))
            painter.setPen(QPen(color))
            painter.drawText(
                option.rect.adjusted(25, 0, -4, -2),
                int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft),
                text,
            )
            painter.restore()
            return
        super().paint(painter, option, index)

    def _panel(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        """The row's own background: selection, hover."""
        own = QStyleOptionViewItem(option)
        self.initStyleOption(own, index)
        own.text = ""
        widget = option.widget
        style = widget.style() if widget is not None else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, own, painter, widget)
