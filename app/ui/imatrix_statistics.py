"""What an importance matrix says: a row of figures for every matrix of the model, with the words to read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QRect, QRectF, Qt
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QStackedLayout,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from app.measure_messages import ImatrixDescription, ImatrixStatistics
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.filtered_table import SORT_ROLE, FilteredTable, Table
from app.ui.theme import Theme, set_role
from app.ui.two_line_table import TableHead
from app.ui.widgets import ElidedLabel, ErrorCard, button, label
from converter.spec import QuenchError


@dataclass(frozen=True)
class Column:
    """One figure: ``value`` sorts, ``text`` shows. ``bar`` paints it too: along a line, or by powers of ten."""

    title: str
    words: str
    value: Callable[[ImatrixStatistics], float]
    text: Callable[[ImatrixStatistics], str]
    bar: str = ""


COLUMNS = (
    Column(
        "Sum",
        "How strongly the text drives the matrix, all its inputs together. Rounding does most harm where it is large.",
        lambda s: s.total,
        lambda s: fmt.significant(s.total, 3),
        "powers",
    ),
    Column(
        "Largest",
        "The strongest single input. Far above the others, it is a column that rounding must not touch.",
        lambda s: s.most,
        lambda s: fmt.significant(s.most, 3),
    ),
    Column(
        "Active",
        "How many of the inputs the text reached at all. Below 100 % a longer or broader text helps.",
        lambda s: s.active,
        lambda s: fmt.percent(s.active, 0),
    ),
    Column(
        "Evenness",
        "100 %: all inputs matter alike, and the importance matrix changes little. The lower, the more it helps.",
        lambda s: s.evenness,
        lambda s: fmt.percent(s.evenness, 0),
        "line",
    ),
    Column(
        "Like below",
        "How much the pattern is that of the same matrix one layer down. A low one marks a layer of its own kind.",
        lambda s: -1.0 if s.cosine is None else s.cosine,
        lambda s: fmt.percent(s.cosine, 0),
    ),
)
"""After the name of the matrix."""


class _Figures(Table):
    """The rows, with what each column means on its header."""

    def __init__(self, statistics: tuple[ImatrixStatistics, ...], parent: QObject) -> None:
        headers = [self.tr("Matrix"), *(self.tr(column.title) for column in COLUMNS)]
        cells: list[list[tuple[str, Any]]] = [
            [(item.name, _in_order(item.name)), *((column.text(item), column.value(item)) for column in COLUMNS)]
            for item in statistics
        ]
        super().__init__(headers, cells, set(range(1, len(headers))), parent)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role == Qt.ItemDataRole.ToolTipRole and orientation == Qt.Orientation.Horizontal and section > 0:
            return self.tr(COLUMNS[section - 1].words)
        return super().headerData(section, orientation, role)


def _in_order(name: str) -> str:
    """A key that sorts layer 10 behind layer 9."""
    return ".".join(part.zfill(6) if part.isdigit() else part for part in name.split("."))


class BarDelegate(QStyledItemDelegate):
    """A figure over a bar that is as long as its share of the largest one (``powers``: of the powers of ten)."""

    def __init__(self, theme: Theme, values: list[float], kind: str, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme
        self._powers = kind == "powers"
        known = [self._scaled(value) for value in values if value > 0] or [0.0]
        self._low = min(known) - 0.1 * (max(known) - min(known)) if self._powers else 0.0
        self._high = max(known) if self._powers else 1.0

    def share(self, value: float) -> float:
        """Length of the bar of ``value``, 0 to 1."""
        if value <= 0 or self._high <= self._low:
            return 0.0
        return min(max((self._scaled(value) - self._low) / (self._high - self._low), 0.0), 1.0)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, option.palette.highlight())
        area: QRect = option.rect.adjusted(6, 4, -6, -4)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        colour = self._theme.color("accent")
        colour.setAlphaF(0.28)
        painter.setBrush(colour)
        wide = self.share(float(index.data(SORT_ROLE))) * area.width()
        painter.drawRoundedRect(QRectF(area.left(), area.top(), wide, area.height()), 3, 3)
        painter.restore()
        painter.setFont(self._theme.mono(12))
        painter.setPen(self._theme.color("text"))
        side = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(area.adjusted(0, 0, -4, 0), side, str(index.data() or ""))

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._powers else value


class StatisticsDialog(QDialog):
    """A window beside the page. A description that is at hand is shown at once, a path is read first."""

    def __init__(self, context: Context, what: ImatrixDescription | str, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self._request = 0
        self.description: ImatrixDescription | None = None
        self.table: FilteredTable | None = None
        self._path = what if isinstance(what, str) else what.path
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Importance matrix"))
        self.resize(860, 620)
        self._build()
        if isinstance(what, str):
            self._ask()
        else:
            self._show(what)

    def done(self, result: int) -> None:
        self._context.scout.forget(self._request)
        super().done(result)

    def _build(self) -> None:
        title = ElidedLabel(Path(self._path).name)
        set_role(title, "title")
        self.help_button = button(self.tr("What is this?"), None, "quiet")
        self.help_button.setCheckable(True)
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(title, 1)
        head.addWidget(self.help_button)
        self._facts = label("", "muted", wrap=True)
        self.help = label(self._help_words(), "", wrap=True)
        self.help.hide()
        self.help_button.toggled.connect(self.help.setVisible)
        self.error = ErrorCard()
        waiting = label(self.tr("Reading the file…"), "muted")
        waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        trouble = QWidget()
        column = QVBoxLayout(trouble)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.error)
        column.addStretch(1)
        self._stack = QStackedLayout()
        self._stack.addWidget(waiting)
        self._stack.addWidget(trouble)
        bottom = QHBoxLayout()
        bottom.addStretch(1)
        bottom.addWidget(button(self.tr("Close"), self.close))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self._facts)
        layout.addWidget(self.help)
        layout.addLayout(self._stack, 1)
        layout.addLayout(bottom)

    def _help_words(self) -> str:
        first = self.tr(
            "The model was run over a text, and for every input of every matrix it was added up how strong it was, "
            "squared. A conversion with this file rounds most carefully where the inputs are strong."
        )
        return "\n".join([first, *(f"{self.tr(c.title)}: {self.tr(c.words)}" for c in COLUMNS)])

    def _ask(self) -> None:
        self._stack.setCurrentIndex(0)
        self._request = self._context.scout.read_imatrix(self._path, self._answered)

    def _answered(self, answer: ImatrixDescription | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self.error.show_error(answer, [(self.tr("Retry"), self._ask)])
            self._stack.setCurrentIndex(1)
        else:
            self._show(answer)

    def _show(self, found: ImatrixDescription) -> None:
        self.description = found
        self._facts.setText(" · ".join([*facts(found), *texts(found)]))
        name = self.tr("Statistics of the matrices")
        theme = self._context.theme
        self.table = FilteredTable(_Figures(found.statistics, self), name, theme.mono(12))
        for number, column in enumerate(COLUMNS, start=1):
            if column.bar:
                values = [column.value(item) for item in found.statistics]
                delegate = BarDelegate(theme, values, column.bar, self.table)
                self.table.view.setItemDelegateForColumn(number, delegate)
        header = TableHead(theme, self.table.view)
        self.table.view.setHorizontalHeader(header)
        self.table.view.setSortingEnabled(True)
        header.setSectionResizeMode(0, header.ResizeMode.Stretch)
        for number, column in enumerate(COLUMNS, start=1):
            header.setSectionResizeMode(number, header.ResizeMode.Fixed)
            self.table.view.setColumnWidth(number, 150 if column.bar else 96)
        self.table.view.sortByColumn(1, Qt.SortOrder.DescendingOrder)
        theme.changed.connect(self.table.view.viewport().update)
        self._stack.addWidget(self.table)
        self._stack.setCurrentWidget(self.table)
        self.table.view.setFocus()


def facts(found: ImatrixDescription) -> list[str]:
    """``42 matrices``, ``118 windows`` and, of a model of experts, how many of them the text reached."""
    words = [_count(found.entries, _tr("1 matrix"), _tr("{0} matrices"))]
    if found.chunks:
        words.append(_count(found.chunks, _tr("1 window"), _tr("{0} windows")))
    if found.experts.total:
        seen, total = fmt.number(found.experts.seen), fmt.number(found.experts.total)
        words.append(_tr("{0} of {1} experts reached").format(seen, total))
    return words


def texts(found: ImatrixDescription) -> list[str]:
    """What it was measured on, in a few words; an empty list if the file does not say."""
    own = [name for name in found.datasets if not name.startswith("calibration-")]
    words = [_tr("calibration text")] if len(own) < len(found.datasets) else []
    words += own[:2]
    if len(own) > 2:
        words.append(_count(len(own) - 2, _tr("1 more text"), _tr("{0} more texts")))
    return [", ".join(words)] if words else []


def _count(number: int, one: str, many: str) -> str:
    return one if number == 1 else many.format(fmt.number(number))


def _tr(text: str) -> str:
    from PySide6.QtCore import QCoreApplication

    return QCoreApplication.translate("imatrix", text)
