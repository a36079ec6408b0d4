"""What is inside a model: facts, metadata, every tensor, the chat template. Read by the scout, shown as plain text."""

from __future__ import annotations

import math
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QSortFilterProxyModel, Qt
from PySide6.QtWidgets import (
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPlainTextEdit,
    QScrollArea,
    QStackedLayout,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from app import library
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, TypeBadge, button, label
from converter.spec import ModelInfo, QuenchError

_Index = QModelIndex | QPersistentModelIndex
SORT_ROLE = int(Qt.ItemDataRole.UserRole)


class Table(QAbstractTableModel):
    """A fixed table. ``cells`` are (text, sort key) pairs; ``numbers`` are the columns with figures."""

    def __init__(
        self, headers: list[str], cells: list[list[tuple[str, Any]]], numbers: set[int], parent: QObject
    ) -> None:
        super().__init__(parent)
        self._headers, self._cells, self._numbers = headers, cells, numbers

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
            return text
        if role == SORT_ROLE:
            return key
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(index.column())
        return None

    def _alignment(self, column: int) -> int:
        side = Qt.AlignmentFlag.AlignRight if column in self._numbers else Qt.AlignmentFlag.AlignLeft
        return int(side | Qt.AlignmentFlag.AlignVCenter)


class FilteredTable(QWidget):
    """A table with a field that filters its first column."""

    def __init__(self, model: Table, name: str, mono: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
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
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.view.setSortingEnabled(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.proxy.sort(-1)
        search = QLineEdit()
        search.setPlaceholderText(self.tr("Filter by name"))
        search.setAccessibleName(self.tr("Filter {0}").format(name))
        search.setClearButtonEnabled(True)
        search.textChanged.connect(self.proxy.setFilterFixedString)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 12, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(search)
        layout.addWidget(self.view, 1)

    def set_widths(self, stretch: int) -> None:
        """Columns as wide as their contents; ``stretch`` takes the rest."""
        header = self.view.horizontalHeader()
        for column in range(self.proxy.columnCount()):
            mode = QHeaderView.ResizeMode.Stretch if column == stretch else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(column, mode)


class InspectDialog(QDialog):
    """A window beside the page, filled as soon as the header is read; a header that cannot be read says why."""

    def __init__(self, context: Context, path: str, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self._path = path
        self._request = 0
        self.info: ModelInfo | None = None
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Inspect"))
        self.resize(880, 640)
        self._title = ElidedLabel(path)
        set_role(self._title, "title")
        self._badge = TypeBadge("", context.theme)
        top = QHBoxLayout()
        top.setSpacing(12)
        top.addWidget(self._title, 1)
        top.addWidget(self._badge)
        self._place = ElidedLabel(path)
        set_role(self._place, "small")
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setAccessibleName(self.tr("Parts of the model"))
        self.tabs.tabBar().setDrawBase(False)
        self.error = ErrorCard()
        self._waiting = label(self.tr("Reading the header…"), "muted")
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        trouble = QWidget()
        column = QVBoxLayout(trouble)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.error)
        column.addStretch(1)
        self._stack = QStackedLayout()
        for part in (self._waiting, self.tabs, trouble):
            self._stack.addWidget(part)
        close = button(self.tr("Close"), self.close)
        bottom = QHBoxLayout()
        bottom.addStretch(1)
        bottom.addWidget(close)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(8)
        layout.addLayout(top)
        layout.addWidget(self._place)
        layout.addLayout(self._stack, 1)
        layout.addLayout(bottom)
        self._ask()

    def done(self, result: int) -> None:
        self._context.scout.forget(self._request)
        super().done(result)

    def _ask(self) -> None:
        self._stack.setCurrentIndex(0)
        self._request = self._context.scout.inspect(self._path, self._answered)

    def _answered(self, answer: ModelInfo | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self.error.show_error(answer, [(self.tr("Retry"), self._ask)])
            self._stack.setCurrentIndex(2)
            return
        self.info = answer
        self._title.setText(library.base_name(answer))
        kind = library.type_label(answer)
        self._badge.setVisible(bool(kind))
        self._badge.set_type(kind)
        self.tabs.clear()
        self.tabs.addTab(self._facts(answer), self.tr("Overview"))
        self.tabs.addTab(self._metadata(answer), self.tr("Metadata"))
        self.tabs.addTab(self._tensors(answer), self.tr("Tensors ({0})").format(fmt.number(len(answer.tensors))))
        if answer.chat_template:
            self.tabs.addTab(self._template(answer.chat_template), self.tr("Chat template"))
        self._stack.setCurrentIndex(1)
        self.tabs.tabBar().setFocus()

    def _facts(self, info: ModelInfo) -> QWidget:
        bpw = sum(tensor.bytes for tensor in info.tensors) * 8 / info.parameters if info.parameters else None
        kinds = sorted(info.types.items(), key=lambda pair: -pair[1])
        facts = [
            (self.tr("Architecture"), info.architecture),
            (self.tr("Parameters"), f"{fmt.parameters(info.parameters)} ({fmt.number(info.parameters)})"),
            (self.tr("Size on disk"), f"{fmt.size(info.bytes)} ({fmt.number(info.bytes)} B)"),
            (self.tr("Bits per weight"), fmt.number(bpw, 2)),
            (self.tr("Tensor types"), ", ".join(f"{name} × {count}" for name, count in kinds)),
            (self.tr("Layers"), fmt.number(info.layers)),
            (self.tr("Context it was trained for"), self.tr("{0} tokens").format(fmt.number(info.context_length))),
            (self.tr("Embedding length"), fmt.number(info.embedding_length)),
            (self.tr("Attention heads, of them for keys and values"), f"{info.heads}, {info.kv_heads}"),
            (self.tr("Experts"), fmt.number(info.experts) if info.experts else self.tr("none")),
            (self.tr("Vocabulary"), self.tr("{0} tokens").format(fmt.number(info.vocabulary))),
            (self.tr("Tokenizer"), " · ".join(part for part in (info.tokenizer, info.pre_tokenizer) if part)),
            (self.tr("Input and output share one matrix"), self.tr("yes") if info.tied_embeddings else self.tr("no")),
        ]
        inside = QWidget()
        set_role(inside, "page")
        form = QFormLayout(inside)
        form.setContentsMargins(0, 16, 0, 16)
        form.setHorizontalSpacing(32)
        form.setVerticalSpacing(8)
        for name, value in facts:
            shown = label(value or fmt.DASH, wrap=True)
            shown.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            form.addRow(label(name, "muted"), shown)
        for problem in info.problems:
            form.addRow(label(self.tr("Problem"), "bad"), label(problem, "bad", wrap=True))
        for note in info.notes:
            form.addRow(label(self.tr("Note"), "muted"), label(note, wrap=True))
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setWidget(inside)
        return area

    def _metadata(self, info: ModelInfo) -> QWidget:
        # Seven figures are what a 32-bit number of the file has: 0.9, not 0.8999999761581421.
        plain = {k: f"{v:.7g}" if isinstance(v, float) else str(v) for k, v in info.metadata.items()}
        cells = [[(key, key), (value, value)] for key, value in plain.items()]
        table = Table([self.tr("Key"), self.tr("Value")], cells, set(), self)
        made = FilteredTable(table, self.tr("Metadata"), self._context.theme.mono(12))
        made.set_widths(1)
        return made

    def _tensors(self, info: ModelInfo) -> QWidget:
        cells = [
            [
                (tensor.name, number),
                (" × ".join(str(side) for side in tensor.shape), math.prod(tensor.shape)),
                (tensor.type, tensor.type),
                (fmt.size(tensor.bytes), tensor.bytes),
            ]
            for number, tensor in enumerate(info.tensors)
        ]
        headers = [self.tr("Tensor"), self.tr("Shape"), self.tr("Type"), self.tr("Size")]
        made = FilteredTable(Table(headers, cells, {1, 3}, self), self.tr("Tensors"), self._context.theme.mono(12))
        made.set_widths(0)
        return made

    def _template(self, text: str) -> QWidget:
        shown = QPlainTextEdit(text)
        shown.setReadOnly(True)
        shown.setFont(self._context.theme.mono(12))
        shown.setAccessibleName(self.tr("Chat template"))
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 12, 0, 0)
        column.addWidget(shown)
        return holder
