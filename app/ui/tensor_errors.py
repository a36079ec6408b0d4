"""How far tensors moved: the steps of the error map's colours, and the same figures as a table that sorts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QCoreApplication, QModelIndex, QSortFilterProxyModel, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from app.ui import format as fmt
from app.ui.chart_parts import significant
from converter.spec import PlannedOutput, TensorDone

if TYPE_CHECKING:
    from app.ui.theme import Theme

_BOUNDS = (0.01, 0.025, 0.05, 0.07, 0.09, 0.13, 0.2)
"""Where the steps of the scale end: 8-bit types lie in the first, 6-bit in the second, and so on down to 2-bit ones."""
_COLORS = ("#FFF6D0", "#FFE08A", "#FFC04D", "#F9963B", "#E8652F", "#CB3A31", "#9F1A36", "#630B33")
"""Each darker than the one before, so that the order is seen without hues; the same in both themes."""

TENSOR, OUTPUT, TYPE, RELATIVE, RMSE, REASON = range(6)
_SORT_ROLE = int(Qt.ItemDataRole.UserRole) + 1
_OUTPUT_ROLE = int(Qt.ItemDataRole.UserRole) + 2


def _tr(text: str) -> str:
    return QCoreApplication.translate("tensor_errors", text)


def error_step(relative: float) -> int:
    """The step of the scale that a relative error is on; 0 is exact."""
    return 0 if relative <= 0 else bisect_right(_BOUNDS, relative) + 1


def error_step_words() -> list[str]:
    """What each step says in the legend."""
    ends = [fmt.percent(bound, 1 if bound * 1000 % 10 else 0) for bound in _BOUNDS]
    between = [f"{low} – {high}" for low, high in pairwise(ends)]
    return [_tr("exact"), f"< {ends[0]}", *between, f"≥ {ends[-1]}"]


def error_step_color(step: int, theme: Theme) -> QColor:
    """The colour of a step; exact is as the border is, for there is nothing to see."""
    return QColor(theme.tokens.border) if step == 0 else QColor(_COLORS[step - 1])


def error_color(relative: float, theme: Theme) -> QColor:
    return error_step_color(error_step(relative), theme)


def error_words(relative: float) -> str:
    """A relative error as a person reads it."""
    return fmt.percent(relative, 2 if relative < 0.1 else 1)


class _Model(QAbstractTableModel):
    """One row for each tensor of each output."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._outputs: list[str] = []
        self._rows: list[tuple[int, str, str, str]] = []
        self._places: dict[tuple[int, str], int] = {}
        self._done: dict[int, TensorDone] = {}

    def set_outputs(self, outputs: Sequence[PlannedOutput]) -> None:
        self.beginResetModel()
        self._outputs = [output.type for output in outputs]
        self._rows = [
            (number, tensor.name, tensor.type, tensor.reason)
            for number, output in enumerate(outputs)
            for tensor in output.tensors
        ]
        self._places = {(number, name): row for row, (number, name, _, _) in enumerate(self._rows)}
        self._done = {}
        self.endResetModel()

    def set_done(self, event: TensorDone) -> None:
        row = self._places.get((event.output, event.name))
        if row is not None:
            self._done[row] = event
            self.dataChanged.emit(self.index(row, TYPE), self.index(row, RMSE))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else 6

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return (_tr("Tensor"), _tr("File"), _tr("Type"), _tr("Error"), _tr("RMSE"), _tr("Why this type"))[section]
        if role == Qt.ItemDataRole.ToolTipRole and section == RELATIVE:
            return _tr("Error as a part of the weights' own size; with an importance matrix, by importance")
        if role == Qt.ItemDataRole.TextAlignmentRole:
            # In the middle, because the mark of the sorted column would cover the end of its title.
            side = Qt.AlignmentFlag.AlignHCenter if section in (RELATIVE, RMSE) else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        number, name, kind, reason = self._rows[index.row()]
        done = self._done.get(index.row())
        column = index.column()
        if role == _OUTPUT_ROLE:
            return number
        if role == _SORT_ROLE and column in (RELATIVE, RMSE):
            return -1.0 if done is None else done.relative_error if column == RELATIVE else done.rmse
        if role in (Qt.ItemDataRole.DisplayRole, _SORT_ROLE, Qt.ItemDataRole.ToolTipRole):
            texts = (name, self._outputs[number], kind, *self._figures(done), reason)
            return texts[column]
        if role == Qt.ItemDataRole.TextAlignmentRole and column in (RELATIVE, RMSE):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    @staticmethod
    def _figures(done: TensorDone | None) -> tuple[str, str]:
        if done is None:
            return "", ""
        if done.rmse == 0:
            return _tr("exact"), "0"
        return error_words(done.relative_error), significant(done.rmse)


class _Filter(QSortFilterProxyModel):
    """The rows of one output, or of all."""

    output: int | None = None

    def filterAcceptsRow(self, row: int, parent: Any) -> bool:
        model = self.sourceModel()
        return self.output is None or model.data(model.index(row, 0), _OUTPUT_ROLE) == self.output


class ErrorTable(QTableView):
    """The error map in figures: the worst tensor first, any column sorts."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows = _Model(self)
        self._filter = _Filter(self)
        self._filter.setSourceModel(self._rows)
        self._filter.setSortRole(_SORT_ROLE)
        self.setModel(self._filter)
        self.setAccessibleName(QCoreApplication.translate("tensor_errors", "Errors of the tensors"))
        self.setSortingEnabled(True)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(24)
        self.setFont(theme.font(12))
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        header.moveSection(header.visualIndex(RELATIVE), 1)  # what it is about comes first, also in a narrow window
        for column, wide in ((TENSOR, 156), (RELATIVE, 84), (OUTPUT, 76), (TYPE, 60), (RMSE, 88)):
            self.setColumnWidth(column, wide)
        self.sortByColumn(RELATIVE, Qt.SortOrder.DescendingOrder)

    def set_outputs(self, outputs: Sequence[PlannedOutput]) -> None:
        """Show planned tensors, without figures until :meth:`set_done`."""
        self._rows.set_outputs(outputs)

    def set_done(self, event: TensorDone) -> None:
        self._rows.set_done(event)

    def show_output(self, number: int | None) -> None:
        """The tensors of one output alone, or of all."""
        self._filter.output = number
        self._filter.invalidate()
        self.setColumnHidden(OUTPUT, number is not None)
