"""The table of methods: bits, divergence and agreement of each, and under it what it is and what runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, Qt

from app.measure_messages import MethodQuality
from app.quality.numbers import Z95
from app.ui import format as fmt
from app.ui.two_line_table import SENTENCE_ROLE, SORT_ROLE, TYPE_ROLE, TwoLineDelegate, TwoLineTable

if TYPE_CHECKING:
    from app.ui.theme import Theme


@dataclass(frozen=True)
class Column:
    """``value`` sorts, ``text`` shows. ``spare``: left out of a narrow table, the lowest first; 0: never."""

    title: str
    tip: str
    value: Callable[[MethodQuality], float]
    text: Callable[[MethodQuality], str]
    spare: int = 0


COLUMNS = (
    Column(
        "Bits/weight",
        "Bits a weight of the whole model. Other engines keep the embedding and the output matrix in 16 bits.",
        lambda row: row.bpw,
        lambda row: fmt.number(row.bpw, 2),
    ),
    Column(
        "of these",
        "Bits of a weight that the method rounds, with its scales",
        lambda row: row.bits,
        lambda row: fmt.number(row.bits, 2),
        spare=1,
    ),
    Column(
        "KLD ± 95 %",
        "How far the odds of the next token are from the full model's, in nats: 0 is the same",
        lambda row: row.kld.value,
        lambda row: f"{fmt.significant(row.kld.value, 2)} ± {fmt.significant(Z95 * row.kld.error, 1)}",
    ),
    Column(
        "Same first",
        "How often the likeliest token is the full model's",
        lambda row: row.top1.value,
        lambda row: fmt.percent(row.top1.value, 1),
    ),
)
"""After the method's name."""


class MethodModel(QAbstractTableModel):
    """A row a method."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.rows: list[MethodQuality] = []

    def set_rows(self, rows: list[MethodQuality]) -> None:
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(COLUMNS) + 1

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if section == 0 else Qt.AlignmentFlag.AlignRight
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.ToolTipRole and section:
            return self.tr(COLUMNS[section - 1].tip)
        if role == Qt.ItemDataRole.DisplayRole:
            return self.tr(COLUMNS[section - 1].title) if section else self.tr("Method")
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row = self.rows[index.row()]
        if role == SENTENCE_ROLE:
            return self.sentence(row)
        if role == TYPE_ROLE:
            return row.name
        if role == Qt.ItemDataRole.ToolTipRole:
            return self.words(row)
        if index.column() == 0:
            if role == Qt.ItemDataRole.AccessibleTextRole:
                return f"{row.name}, {self.sentence(row)}"
            return row.name if role in (Qt.ItemDataRole.DisplayRole, SORT_ROLE) else None
        column = COLUMNS[index.column() - 1]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return {Qt.ItemDataRole.DisplayRole: column.text(row), SORT_ROLE: column.value(row)}.get(role)

    def sentence(self, row: MethodQuality) -> str:
        """Where it runs, and what it is."""
        engines = ", ".join(row.engines)
        if not row.simulated:
            where = self.tr("Runs here, in {0}").format(engines) if engines else self.tr("Runs here")
        else:
            where = self.tr("Simulated; needs {0}").format(engines)
        return f"{where}. {row.what}"

    def words(self, row: MethodQuality) -> str:
        """All of a row, with its divergence by text."""
        lines = [row.name, self.sentence(row)]
        lines += [f"{self.tr(column.title)} {column.text(row)}" for column in COLUMNS]
        lines += [f"{name} {fmt.estimate(each, 1)}" for name, each in row.slices.items()]
        if row.calibrated:
            lines.append(self.tr("Has seen calibration text, none of the texts that it is judged on."))
        if row.inputs:
            lines.append(self.tr("Rounds what goes into products too."))
        return "\n".join([*lines, row.reason])

    def empty_columns(self) -> list[int]:
        return []

    def spare_columns(self) -> list[int]:
        spare = [(column.spare, place) for place, column in enumerate(COLUMNS, start=1) if column.spare]
        return [place for _, place in sorted(spare)]


class MethodTable(TwoLineTable):
    """The smallest first."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        self.rows = MethodModel()
        super().__init__(theme, self.rows, TwoLineDelegate(theme), parent)
        self.rows.setParent(self)
        self.setAccessibleName(self.tr("Methods"))
        self.sortByColumn(1, Qt.SortOrder.AscendingOrder)


__all__ = ["COLUMNS", "MethodModel", "MethodTable"]
