"""A table that is filtered by its first column and sorted by any: rows of text, each cell with a key to sort by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QSortFilterProxyModel, Qt
from PySide6.QtWidgets import QHBoxLayout, QHeaderView, QLineEdit, QTableView, QVBoxLayout, QWidget

from app.ui.markdown import clean
from app.ui.widgets import tip

_Index = QModelIndex | QPersistentModelIndex
SORT_ROLE = int(Qt.ItemDataRole.UserRole)


Row = list[tuple[str, Any]]
Cells = list[Row]


class Table(QAbstractTableModel):
    """Rows of (text, sort key) pairs; ``numbers`` are the columns with figures. Cells are cut to :data:`CELL` for the
    eye: a value of a stranger's file may have a million characters."""

    CELL = 400

    def __init__(self, headers: list[str], cells: Cells, numbers: set[int], parent: QObject) -> None:
        super().__init__(parent)
        self._headers, self._numbers = headers, numbers
        self._cells: Sequence[Row] = cells

    def append(self, cells: Cells) -> None:
        """More rows at the end."""
        if cells:
            first = len(self._cells)
            self.beginInsertRows(QModelIndex(), first, first + len(cells) - 1)
            self._cells = [*self._cells, *cells]
            self.endInsertRows()

    def replace(self, cells: Sequence[Row]) -> None:
        """Other rows instead of all; a sequence that makes its rows when they are asked for stays as it is."""
        self.beginResetModel()
        self._cells = cells
        self.endResetModel()

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._cells)

    def columnCount(self, parent: _Index | None = None) -> int:
        return len(self._headers)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return self._headers[section]
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(section)
        return None

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        text, key = self._cells[index.row()][index.column()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            shown = clean(text if len(text) <= self.CELL else text[: self.CELL] + "…")
            return shown if role == Qt.ItemDataRole.DisplayRole else tip(shown)
        if role == SORT_ROLE:
            return key
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(index.column())
        return None

    def _alignment(self, column: int) -> int:
        side = Qt.AlignmentFlag.AlignRight if column in self._numbers else Qt.AlignmentFlag.AlignLeft
        return int(side | Qt.AlignmentFlag.AlignVCenter)


class FilteredTable(QWidget):
    """A table with a field that filters its first column. ``beside`` has room for more, right of the field."""

    def __init__(self, model: Table, name: str, mono: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model = model
        self.proxy = QSortFilterProxyModel(self)
        self.proxy.setSourceModel(model)
        self.proxy.setSortRole(SORT_ROLE)
        self.proxy.setFilterKeyColumn(0)
        self.proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.view = QTableView()
        self.view.setModel(self.proxy)
        self.view.setAccessibleName(name)
        self.view.setFont(mono)
        self.view.setShowGrid(False)
        self.view.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
        self.view.setEditTriggers(QTableView.EditTrigger.NoEditTriggers)
        self.view.setTabKeyNavigation(False)
        self.view.setWordWrap(False)
        self.view.verticalHeader().hide()
        self.view.verticalHeader().setDefaultSectionSize(28)
        header = self.view.horizontalHeader()
        header.setHighlightSections(False)
        header.setStretchLastSection(False)
        header.setResizeContentsPrecision(100)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.view.setSortingEnabled(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.proxy.sort(-1)
        self.search = search = QLineEdit()
        search.setPlaceholderText(self.tr("Filter by name"))
        search.setAccessibleName(self.tr("Filter {0}").format(name))
        search.setClearButtonEnabled(True)
        search.textChanged.connect(self.proxy.setFilterFixedString)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 12, 0, 0)
        layout.setSpacing(8)
        self.beside = QHBoxLayout()
        self.beside.setSpacing(8)
        self.beside.addWidget(search, 1)
        layout.addLayout(self.beside)
        layout.addWidget(self.view, 1)

    def share(self, column: int) -> None:
        """One more column that takes a part of the room left."""
        self.view.horizontalHeader().setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)

    def chosen(self) -> int:
        """The row of the model that is current, -1 if none is."""
        index = self.view.currentIndex()
        return self.proxy.mapToSource(index).row() if index.isValid() else -1

    def set_widths(self, stretch: int) -> None:
        """Columns as wide as their contents; ``stretch`` takes the rest."""
        header = self.view.horizontalHeader()
        for column in range(self.proxy.columnCount()):
            mode = QHeaderView.ResizeMode.Stretch if column == stretch else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(column, mode)
