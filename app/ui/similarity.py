"""What an embeddings model is for: a table of how alike texts are, to sort, copy and save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QPoint, Qt
from PySide6.QtGui import QAction, QBrush, QColor, QGuiApplication, QKeySequence, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QPlainTextEdit,
    QSplitter,
    QStackedLayout,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from app import similarity
from app.child import Verdict
from app.files import write_atomically
from app.protocol import Failed, Load, Loaded, Loading, LoadOptions
from app.serving.messages import Embed, Embedded
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.process import WorkerProcess
from app.ui.theme import Theme
from app.ui.widgets import EmptyState, ErrorCard, ProgressLine, button, label, title_of
from converter.spec import QuenchError

_Index = QModelIndex | QPersistentModelIndex
COLUMN = 76
SHADE_ROLE = int(Qt.ItemDataRole.UserRole)
TEXT_COLUMN = 260


class SimilarityTable(QAbstractTableModel):
    """Texts down and, by number, across; a click on a number sorts by likeness to that text, the most alike first."""

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.texts: tuple[str, ...] = ()
        self.table: Any = None
        self._order: list[int] = []
        self._cut: frozenset[int] = frozenset()
        self._least = self._most = 0.0
        theme.changed.connect(self._repaint)

    def show_table(self, texts: tuple[str, ...], table: Any, cut: tuple[int, ...]) -> None:
        """``table`` (n, n) of the cosines of ``texts``; ``cut`` are those that were too long."""
        self.beginResetModel()
        self.texts, self.table, self._cut = texts, table, frozenset(cut)
        self._order = list(range(len(texts)))
        others = [float(table[a][b]) for a in range(len(texts)) for b in range(a)]
        self._least, self._most = min(others, default=0.0), max(others, default=0.0)
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """By the texts themselves in column 0, else by likeness to that column's text."""
        if not self.texts:
            return
        self.layoutAboutToBeChanged.emit()
        if column == 0:
            self._order.sort(key=lambda row: self.texts[row].lower())
        else:
            self._order.sort(key=lambda row: -self.table[row][column - 1])
        if order == Qt.SortOrder.DescendingOrder:
            self._order.reverse()
        self.layoutChanged.emit()

    def rows(self) -> list[int]:
        """The texts' numbers as they stand now."""
        return list(self._order)

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.texts)

    def columnCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.texts) + 1

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Vertical:
            return str(self._order[section] + 1) if role == Qt.ItemDataRole.DisplayRole else None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.tr("Text") if section == 0 else str(section)
        if role == Qt.ItemDataRole.ToolTipRole and section > 0:
            return self.texts[section - 1]
        return None

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self._order[index.row()], index.column() - 1
        if column < 0:
            if role == Qt.ItemDataRole.DisplayRole:
                return self.texts[row]
            if role == Qt.ItemDataRole.ToolTipRole:
                cut = "\n" + self.tr("It was too long for the model, which saw its beginning only.")
                return self.texts[row] + (cut if row in self._cut else "")
            if role == Qt.ItemDataRole.ForegroundRole and row in self._cut:
                return QBrush(QColor(self._theme.color("warn")))
            return None
        value = float(self.table[row][column])
        if role == Qt.ItemDataRole.DisplayRole:
            return fmt.number(value, 3)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.FontRole:
            return self._theme.mono(12)
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{fmt.number(value, 5)}\n{self.texts[row]}\n{self.texts[column]}"
        if role == SHADE_ROLE and row != column:
            return (value - self._least) / (self._most - self._least) if self._most > self._least else 0.0
        if role == Qt.ItemDataRole.ForegroundRole and row == column:
            return QBrush(QColor(self._theme.color("muted")))
        return None

    def _repaint(self) -> None:
        if self.texts:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.texts) - 1, len(self.texts)))


class ShadeDelegate(QStyledItemDelegate):
    """Lays a shade under the numbers: the darker, the more alike two texts are among those in the table."""

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        share = index.data(SHADE_ROLE)
        if share is not None:
            shade = QColor(self._theme.color("accent"))
            shade.setAlphaF(0.4 * share)
            painter.fillRect(option.rect, shade)
        super().paint(painter, option, index)


class SimilarityDialog(QDialog):
    """Texts at the left, one a line; their table at the right. The model is loaded with the first question."""

    def __init__(self, context: Context, path: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._context = context
        self._path = path
        self._process: WorkerProcess | None = None
        self._request = 0
        self._asked: tuple[str, ...] = ()
        info = context.library.entry(path)
        self.setWindowTitle(self.tr("Similarity: {0}").format(title_of(info) if info is not None else Path(path).stem))
        self.resize(960, 560)
        self.field = QPlainTextEdit()
        self.field.setAccessibleName(self.tr("Texts"))
        self.field.setPlaceholderText(self.tr("One text a line"))
        self.field.setTabChangesFocus(True)
        self.table = SimilarityTable(context.theme, self)
        self.view = self._make_view()
        self.error = ErrorCard()
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self.stop)
        self.facts = label("", "small", wrap=True)
        self._stack = QStackedLayout()
        self._stack.addWidget(
            EmptyState("compare", self.tr("Nothing compared yet"), self.tr("Write or open some texts, then compare."),
                       theme=context.theme)
        )  # fmt: skip
        self._stack.addWidget(self.view)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setChildrenCollapsible(False)
        self.splitter.addWidget(self._make_left())
        right = QWidget()
        right.setLayout(self._stack)
        self.splitter.addWidget(right)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([280, 640])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 16, 16, 12)
        layout.setSpacing(8)
        layout.addWidget(self.splitter, 1)
        for part in (self.progress, self.error):
            part.hide()
            layout.addWidget(part)
        layout.addLayout(self._make_foot())
        context.closing.connect(self._leave)
        self.finished.connect(self._leave)
        self.field.setFocus()

    def _make_left(self) -> QWidget:
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 8, 0)
        column.setSpacing(8)
        column.addWidget(self.field, 1)
        row = QHBoxLayout()
        row.addWidget(button(self.tr("Open a file…"), self._open))
        row.addStretch(1)
        self.compare_button = button(self.tr("Compare"), self.compare, "primary")
        row.addWidget(self.compare_button)
        column.addLayout(row)
        return left

    def _make_foot(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.facts, 1)
        self.copy_button = button(self.tr("Copy"), self.copy)
        self.save_button = button(self.tr("Save as CSV…"), self._save)
        for made in (self.copy_button, self.save_button):
            made.setEnabled(False)
            row.addWidget(made)
        row.addWidget(button(self.tr("Close"), self.reject))
        return row

    def _make_view(self) -> QTableView:
        view = QTableView()
        view.setModel(self.table)
        view.setItemDelegate(ShadeDelegate(self._context.theme, view))
        view.setAccessibleName(self.tr("Similarity"))
        view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        view.setWordWrap(False)
        view.setTextElideMode(Qt.TextElideMode.ElideRight)
        view.verticalHeader().setDefaultSectionSize(28)
        header = view.horizontalHeader()
        header.setDefaultSectionSize(COLUMN)
        header.setSectionsClickable(True)
        header.setSortIndicatorShown(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        header.sortIndicatorChanged.connect(self.table.sort)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._menu)
        copy = QAction(self.tr("Copy"), view)
        copy.setShortcut(QKeySequence.StandardKey.Copy)
        copy.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        copy.triggered.connect(lambda checked=False: self.copy())
        view.addAction(copy)
        return view

    def _menu(self, where: QPoint) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction(self.tr("Copy the table"), self.copy)
        menu.addAction(self.tr("Save as CSV…"), self._save)
        menu.popup(self.view.viewport().mapToGlobal(where))

    # ---- asking ------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Ask the model for vectors of all texts."""
        self.error.clear()
        try:
            self._asked = similarity.lines(self.field.toPlainText())
        except QuenchError as error:
            self.error.show_error(error)
            return
        if self._process is None:
            process = self._process = WorkerProcess("embed", self)
            process.event.connect(self._heard)
            process.finished.connect(lambda verdict: self._died(process, verdict))
            process.start()
            settings = self._context.settings
            process.send(Load(self._path, LoadOptions(threads=settings.threads, gpu_layers=settings.gpu_layers)))
        self._request += 1
        self._process.send(Embed(self._request, self._asked))
        self._busy(self.tr("Comparing {0} texts").format(fmt.number(len(self._asked))))

    def stop(self) -> None:
        """Give the question up; the model is let go of with it."""
        self._leave()
        self._busy("")

    def _heard(self, message: object) -> None:
        if isinstance(message, Loading):
            self.progress.set_progress(message.fraction, self.tr("Loading"))
        elif isinstance(message, Loaded):
            self._busy(self.tr("Comparing {0} texts").format(fmt.number(len(self._asked))))
        elif isinstance(message, Embedded) and message.request == self._request:
            self._show(message)
        elif isinstance(message, Failed) and message.request == self._request:
            self._busy("")
            self.error.show_error(message)

    def _died(self, process: WorkerProcess, verdict: Verdict) -> None:
        process.deleteLater()
        if process is not self._process:
            return
        self._process = None
        self._busy("")
        if verdict.error is not None:
            self.error.show_error(verdict.error, [(self.tr("Retry"), self.compare)])

    def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.event.disconnect(self._heard)
            process.kill()  # it has nothing to lose, and is gone at once
            process.wait(2000)

    def _busy(self, words: str) -> None:
        self.compare_button.setEnabled(not words)
        self.progress.setVisible(bool(words))
        if words:
            self.progress.set_progress(None, words)

    def _show(self, made: Embedded) -> None:
        self._busy("")
        table = similarity.cosines(similarity.unpack(made.vectors, made.width))
        self.table.show_table(self._asked, table, made.cut)
        self.view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.view.setColumnWidth(0, TEXT_COLUMN)
        self._stack.setCurrentWidget(self.view)
        words = self.tr("{0} texts, vectors of {1} numbers. 1 is the same, 0 has nothing in common.")
        text = words.format(fmt.number(len(self._asked)), fmt.number(made.width))
        if made.cut:
            text += " " + self.tr("{0} were too long and seen in part.").format(fmt.number(len(made.cut)))
        self.facts.setText(text)
        for part in (self.copy_button, self.save_button):
            part.setEnabled(True)

    # ---- files and clipboard -----------------------------------------------------------------------------------

    def _open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Open texts"), "", self.tr("Texts (*.txt *.md);;All (*)"))
        if path:
            self.open_texts(path)

    def open_texts(self, path: str) -> None:
        """Take the lines of a file."""
        self.error.clear()
        try:
            self.field.setPlainText(similarity.read(path))
        except QuenchError as error:
            self.error.show_error(error)

    def copy(self) -> None:
        """The table as it stands, for a spreadsheet."""
        if self.table.texts:
            QGuiApplication.clipboard().setText(self._csv("\t"))

    def _save(self) -> None:
        name = f"{Path(self._path).stem}-similarity.csv"
        path, _ = QFileDialog.getSaveFileName(self, self.tr("Save the table"), name, "*.csv")
        if path:
            self.save(path)

    def save(self, path: str) -> None:
        """Write the table as it stands; a disk that refuses is told."""
        try:
            write_atomically(Path(path), self._csv(",").encode())
        except OSError as error:
            hint = self.tr("Choose another folder.")
            self.error.show_error(QuenchError("not_saved", self.tr("The table was not saved."), str(error), hint))

    def _csv(self, separator: str) -> str:
        rows = self.table.rows()
        return similarity.as_csv(self.table.texts, self.table.table, rows, separator)
