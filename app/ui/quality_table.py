"""The table of the Quality page: a row of figures a model, and under it the verdict as one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPen
from PySide6.QtWidgets import QStyleOptionViewItem

from app.measure_messages import CandidateQuality
from app.quality.figures import told
from app.quality.numbers import AT_LEAST
from app.remote.address import is_remote, split_path
from app.ui import format as fmt
from app.ui.glossary import explain
from app.ui.two_line_table import LINE, SENTENCE_ROLE, SORT_ROLE, TYPE_ROLE, TwoLineDelegate, TwoLineTable

if TYPE_CHECKING:
    from app.ui.theme import Theme

ROW_ROLE = Qt.ItemDataRole.UserRole + 10
VERDICTS = {"pass": ("✓", "good"), "review": ("?", "warn"), "fail": ("✕", "bad")}


@dataclass
class Row:
    """One model. ``figures`` is None until the first windows are scored."""

    path: str
    type: str
    bytes: int
    reference: bool = False
    figures: CandidateQuality | None = None
    windows: int = 0
    windows_total: int = 0
    problem: str = ""
    kv: str = ""

    @property
    def key(self) -> str:
        """As :attr:`CandidateQuality.key`."""
        return f"{self.path} {self.kv}".rstrip()

    @property
    def name(self) -> str:
        """The type, and whose it is where a server has it."""
        if is_remote(self.path):
            server, model = split_path(self.path)
            return f"{model or self.type} · {server}"
        return self.type or Path(self.path).stem

    @property
    def finished(self) -> bool:
        return self.figures is not None and (self.windows_total == 0 or self.windows >= self.windows_total)


def advice_first(reason: str) -> str:
    """``facts: advice.`` turned round, so that what to do is read before the figures that stand above anyway."""
    facts, colon, advice = reason.rpartition(": ")
    text = f"{advice.rstrip('.')}: {facts}." if colon else reason
    return text[:1].upper() + text[1:]


def solved(figures: CandidateQuality) -> float | None:
    """Share of graded tasks answered right; None without tasks."""
    asked = sum(score.n for score in figures.tasks.values())
    return sum(score.correct for score in figures.tasks.values()) / asked if asked else None


@dataclass(frozen=True)
class Column:
    """``value`` sorts, ``text`` shows; both get the figures of a measured model. ``candidates_only``: not of itself."""

    title: str
    tip: str
    value: Callable[[CandidateQuality], float | None]
    text: Callable[[CandidateQuality], str]
    candidates_only: bool = False
    optional: bool = False
    spare: int = 0
    """Left out of a narrow table, the lowest number first; 0: never. The row's tooltip has every figure."""


def _nats(value: float) -> str:
    return fmt.significant(value, 2)


def _plus_minus(value: float, error: float) -> str:
    """Both with the digits that the error justifies."""
    return fmt.estimate(_Pair(value, error), 1) if error > 0 else fmt.significant(value, 3)


@dataclass(frozen=True)
class _Pair:
    value: float
    error: float


def _shift(figures: CandidateQuality) -> str:
    if figures.shift is None:
        return fmt.DASH
    ends = (figures.shift.p5.value, figures.shift.p95.value)
    return "{} to {} %".format(*(f"{'+' if end > 0 else ''}{fmt.number(100 * end, 1)}" for end in ends))


def _least(figures: CandidateQuality) -> str:
    """In front of a divergence: nothing, or a sign that it is a lower bound."""
    return AT_LEAST if figures.at_least else ""


def _hidden(figures: CandidateQuality) -> str:
    """The same for a perplexity."""
    return AT_LEAST if figures.told is not None and figures.told.hidden else ""


COLUMNS = (
    Column("Size", "Bytes of the file", lambda q: q.bytes, lambda q: fmt.size(q.bytes) if q.bytes else fmt.DASH),
    Column(
        "KLD mean ±",
        "KLD",
        lambda q: q.kld.mean.value,
        lambda q: _least(q) + _plus_minus(q.kld.mean.value, q.kld.mean.error),
        True,
    ),
    Column(
        "median", "KLD", lambda q: q.kld.median.value, lambda q: _least(q) + _nats(q.kld.median.value), True, spare=5
    ),
    Column("99 %", "KLD", lambda q: q.kld.p99.value, lambda q: _least(q) + _nats(q.kld.p99.value), True, spare=8),
    Column("max", "KLD", lambda q: q.kld.max.value, lambda q: _least(q) + _nats(q.kld.max.value), True, spare=6),
    Column(
        "reverse",
        "Reverse KLD",
        lambda q: q.reverse_kld.value if q.reverse_kld else None,
        lambda q: _nats(q.reverse_kld.value) if q.reverse_kld else fmt.DASH,
        True,
        optional=True,
        spare=1,
    ),
    Column(
        "Same first ±",
        "Top-1 agreement",
        lambda q: q.top1.value if q.top1 else None,
        lambda q: _plus_minus(q.top1.value * 100, q.top1.error * 100) + " %" if q.top1 else fmt.DASH,
        True,
    ),
    Column(
        "Same five",
        "Top-5 agreement",
        lambda q: q.top5.value if q.top5 else None,
        lambda q: fmt.percent(q.top5.value) if q.top5 else fmt.DASH,
        True,
        optional=True,
        spare=3,
    ),
    Column(
        "Δp 5 % to 95 %",
        "Shift of the right token",
        lambda q: q.rms_dp.value if q.rms_dp else None,
        _shift,
        True,
        spare=2,
    ),
    Column(
        "Perplexity",
        "Perplexity",
        lambda q: q.perplexity.value,
        lambda q: _hidden(q) + fmt.significant(q.perplexity.value, 4),
        spare=9,
    ),
    Column(
        "ratio ±",
        "Perplexity",
        lambda q: q.ln_ratio.value,
        lambda q: _hidden(q) + _plus_minus(*_ratio(q)),
        True,
        spare=7,
    ),
    Column("Tasks", "Tasks solved", solved, lambda q: fmt.percent(solved(q)), optional=True, spare=12),
    Column(
        "Tokens/s",
        "Speed",
        lambda q: q.tokens_per_second or None,
        lambda q: fmt.number(q.tokens_per_second, 0) if q.tokens_per_second else fmt.DASH,
        optional=True,
        spare=11,
    ),
    Column(
        "Memory",
        "Memory",
        lambda q: q.memory.peak or None,
        lambda q: fmt.size(q.memory.peak) if q.memory.peak else fmt.DASH,
        optional=True,
        spare=10,
    ),
)
"""After the model and its verdict."""


def _ratio(figures: CandidateQuality) -> tuple[float, float]:
    """Ratio of perplexities and its 95 % half-interval from the logarithm's standard error."""
    from math import exp

    ratio = exp(figures.ln_ratio.value)
    return ratio, ratio * figures.ln_ratio.error * 1.96


class QualityModel(QAbstractTableModel):
    """Rows by model path."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.rows: list[Row] = []

    def set_rows(self, rows: list[Row]) -> None:
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def update_row(self, position: int, figures: CandidateQuality, windows: int, total: int) -> None:
        row = self.rows[position]
        row.figures, row.windows, row.windows_total = figures, windows, total
        row.type, row.bytes = figures.type or row.type, figures.bytes or row.bytes
        self.dataChanged.emit(self.index(position, 0), self.index(position, self.columnCount() - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(COLUMNS) + 2

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if section < 2 else Qt.AlignmentFlag.AlignRight
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.ToolTipRole and section >= 2:
            return explain(COLUMNS[section - 2].tip)
        if role == Qt.ItemDataRole.DisplayRole:
            fixed = (self.tr("Model"), self.tr("Verdict"))
            return fixed[section] if section < 2 else self.tr(COLUMNS[section - 2].title)
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row, column = self.rows[index.row()], index.column()
        if role == ROW_ROLE:
            return row
        if role == SENTENCE_ROLE:
            return self.sentence(row)
        if role == TYPE_ROLE:
            return row.type
        if role == Qt.ItemDataRole.ToolTipRole:
            return "\n".join(filter(None, (fmt.path(row.path), self.sentence(row), *self._figures(row))))
        if column == 0:
            return {
                Qt.ItemDataRole.DisplayRole: row.name,
                Qt.ItemDataRole.AccessibleTextRole: f"{Path(row.path).name}, {self.sentence(row)}",
                SORT_ROLE: row.bytes,
            }.get(Qt.ItemDataRole(role) if role < SORT_ROLE else role)
        if column == 1:
            words = self.verdict_words(row)
            order = ["pass", "review", "fail"]
            place = order.index(row.figures.verdict) if row.figures and row.figures.verdict in order else 3
            return {Qt.ItemDataRole.DisplayRole: words, SORT_ROLE: -1 if row.reference else place}.get(role)
        return self._figure(row, COLUMNS[column - 2], role)

    def _figure(self, row: Row, column: Column, role: int) -> Any:
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if column.title == "Size":
            words = fmt.size(row.bytes) if row.bytes else fmt.DASH
            return {Qt.ItemDataRole.DisplayRole: words, SORT_ROLE: row.bytes}.get(role)
        hidden = row.figures is None or (row.reference and column.candidates_only)
        if role == Qt.ItemDataRole.DisplayRole:
            return "" if hidden or row.figures is None else column.text(row.figures)
        if role == SORT_ROLE:
            value = None if hidden or row.figures is None else column.value(row.figures)
            return float("-inf") if value is None else float(value)
        return None

    def set_problem(self, key: str, problem: str) -> None:
        """Say why a candidate was left out."""
        for position, row in enumerate(self.rows):
            if row.key == key:
                row.problem = problem
                self.dataChanged.emit(self.index(position, 0), self.index(position, self.columnCount() - 1))

    def verdict_words(self, row: Row) -> str:
        if row.problem:
            return self.tr("left out")
        if row.reference:
            return self.tr("reference")
        if row.figures is None or row.figures.verdict not in VERDICTS:
            return self.tr("waiting")
        named = {"pass": self.tr("Pass"), "review": self.tr("Review"), "fail": self.tr("Fail")}
        return f"{VERDICTS[row.figures.verdict][0]} {named[row.figures.verdict]}"

    def sentence(self, row: Row) -> str:
        """The verdict's reason; while windows are being scored it says that it is not final."""
        if row.problem:
            return self.tr("Could not be measured: %1").replace("%1", row.problem)
        if row.reference:
            return self.tr("All differences are measured from this model.")
        if row.figures is None:
            return self.tr("Not measured yet.")
        reason = advice_first(row.figures.reason)
        if row.kv:
            reason = self.tr("With a cache of %1. ").replace("%1", row.kv) + reason
        if is_remote(row.path):
            reason = self.tr("Served by %1. ").replace("%1", split_path(row.path)[0]) + reason
        if row.finished:
            return reason
        so_far = self.tr("After %1 of %2 windows: ")
        return so_far.replace("%1", str(row.windows)).replace("%2", str(row.windows_total)) + reason

    def _figures(self, row: Row) -> list[str]:
        """Every figure with its name, also those that a narrow table leaves out."""
        figures = row.figures
        if figures is None:
            return []
        shown = [column for column in COLUMNS if not (row.reference and column.candidates_only)]
        groups = ["KLD " if column.tip == "KLD" and "KLD" not in column.title else "" for column in shown]
        lines = [f"{group}{self.tr(c.title)} {c.text(figures)}" for group, c in zip(groups, shown, strict=True)]
        return [*lines, told(figures)] if figures.told is not None else lines

    def spare_columns(self) -> list[int]:
        """What a narrow table leaves out, in this order."""
        spare = sorted((column.spare, number + 2) for number, column in enumerate(COLUMNS) if column.spare)
        return [number for _, number in spare]

    def empty_columns(self) -> set[int]:
        """Columns that nobody has a figure for."""
        return {
            number + 2
            for number, column in enumerate(COLUMNS)
            if column.optional and not any(row.figures is not None and column.value(row.figures) for row in self.rows)
        }


class RowDelegate(TwoLineDelegate):
    """Adds the verdict's chip."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        row: Row = index.data(ROW_ROLE)
        if index.column() == 1:
            area = QRect(option.rect.left(), option.rect.top() + 2, option.rect.width(), LINE)
            self._chip(painter, area, row, str(index.data()))
        else:
            super().paint(painter, option, index)

    def _chip(self, painter: QPainter, area: QRect, row: Row, words: str) -> None:
        role = VERDICTS[row.figures.verdict][1] if row.figures and row.figures.verdict in VERDICTS else "muted"
        role = "muted" if row.reference else role
        colour = self._theme.color(role)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._theme.font(12, bold=True))
        wide = QFontMetrics(painter.font()).horizontalAdvance(words) + 14
        chip = QRectF(area.left() + 4.5, area.top() + 3.5, wide, 19)
        fill = QColor(colour)
        fill.setAlpha(26)
        painter.setBrush(fill if role != "muted" else Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(colour, 1) if role != "muted" else Qt.PenStyle.NoPen)
        painter.drawRoundedRect(chip, 4, 4)
        painter.setPen(colour)
        painter.drawText(chip, Qt.AlignmentFlag.AlignCenter, words)
        painter.restore()


class QualityTable(TwoLineTable):
    """Sorted by a click on a header, largest file first."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        self.rows = QualityModel(theme)
        super().__init__(theme, self.rows, RowDelegate(theme), parent)
        self.rows.setParent(self)
        self.sortByColumn(2, Qt.SortOrder.DescendingOrder)
        self.setAccessibleName(self.tr("Quality of the models"))

    def set_rows(self, rows: list[Row]) -> None:
        self.rows.set_rows(rows)
