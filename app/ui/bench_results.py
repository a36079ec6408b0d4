"""The table and the charts of the Bench page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, Qt
from PySide6.QtWidgets import QSplitter, QTabWidget, QVBoxLayout, QWidget

from app.measure_messages import ModelBench, SpeedPoint
from app.ui import format as fmt
from app.ui.charts import BarChart, LineChart
from app.ui.glossary import explain
from app.ui.two_line_table import SENTENCE_ROLE, SORT_ROLE, TYPE_ROLE
from app.ui.widgets import tip

if TYPE_CHECKING:
    from app.ui.theme import Theme

GOOD_ENOUGH = 0.97
"""A smaller number of threads that reaches this share of the best speed is recommended instead."""


@dataclass
class BenchRow:
    """One model with the points measured so far; ``result`` when it is finished."""

    path: str
    type: str
    bytes: int
    prompt: list[SpeedPoint] = field(default_factory=list)
    generate: list[SpeedPoint] = field(default_factory=list)
    result: ModelBench | None = None
    automatic: bool = False
    """The number of threads was left to the model."""


def shallow_best(points: list[SpeedPoint]) -> SpeedPoint | None:
    """The fastest point at the smallest depth of context."""
    if not points:
        return None
    least = min(point.depth for point in points)
    return max((p for p in points if p.depth == least), key=lambda p: p.tokens_per_second.median)


def recommended_threads(points: list[SpeedPoint]) -> int | None:
    """The fewest threads that write nearly as fast as the best; None unless several were tried."""
    best = shallow_best(points)
    if best is None or len({point.threads for point in points}) < 2:
        return None
    enough = GOOD_ENOUGH * best.tokens_per_second.median
    return min(p.threads for p in points if p.depth == best.depth and p.tokens_per_second.median >= enough)


def _speed(points: list[SpeedPoint]) -> str:
    """Median with half the distance from the 10th to the 90th percentile."""
    best = shallow_best(points)
    if best is None:
        return ""
    spread = best.tokens_per_second
    return f"{fmt.number(spread.median, 1 if spread.median < 100 else 0)} ± {_half(best)}"


def _half(point: SpeedPoint) -> str:
    half = (point.tokens_per_second.p90 - point.tokens_per_second.p10) / 2
    return fmt.number(half, 1 if point.tokens_per_second.median < 100 else 0)


@dataclass(frozen=True)
class Column:
    title: str
    tip: str
    text: Callable[[BenchRow], str]
    value: Callable[[BenchRow], float | None]
    spare: int = 0


def _result(read: Callable[[ModelBench], float | None]) -> Callable[[BenchRow], float | None]:
    return lambda row: read(row.result) if row.result is not None else None


def _median(points: list[SpeedPoint]) -> float | None:
    best = shallow_best(points)
    return best.tokens_per_second.median if best is not None else None


COLUMNS = (
    Column("Size", "Bytes of the file", lambda r: fmt.size(r.bytes), lambda r: float(r.bytes)),
    Column(
        "Writes (tokens/s)",
        "Median over the repeats, ± half the distance from the slowest to the fastest tenth",
        lambda r: _speed(r.generate),
        lambda r: _median(r.generate),
    ),
    Column(
        "Reads (tokens/s)",
        "How fast a prompt is read",
        lambda r: _speed(r.prompt),
        lambda r: _median(r.prompt),
    ),
    Column(
        "First token",
        "From the end of the prompt's arrival to the first token of the answer",
        lambda r: fmt.seconds(r.result.first_token) if r.result else "",
        _result(lambda m: m.first_token),
        spare=4,
    ),
    Column(
        "Load, cold",
        "Loading a file that is not in the system's memory yet",
        lambda r: fmt.seconds(r.result.load_cold) if r.result else "",
        _result(lambda m: m.load_cold),
        spare=3,
    ),
    Column(
        "warm",
        "Loading it again",
        lambda r: fmt.seconds(r.result.load_warm) if r.result else "",
        _result(lambda m: m.load_warm),
        spare=2,
    ),
    Column(
        "Memory, peak",
        "The most memory that the model took",
        lambda r: fmt.size(r.result.memory.peak) if r.result else "",
        _result(lambda m: float(m.memory.peak)),
        spare=5,
    ),
    Column(
        "steady",
        "Memory after the work",
        lambda r: fmt.size(r.result.memory.steady) if r.result else "",
        _result(lambda m: float(m.memory.steady)),
        spare=1,
    ),
    Column(
        "Roofline",
        "Roofline",
        lambda r: fmt.percent(r.result.roofline.fraction, 0) if r.result else "",
        _result(lambda m: m.roofline.fraction),
    ),
)


class BenchModel(QAbstractTableModel):
    """Rows by model, in the order of the command."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.rows: list[BenchRow] = []

    def set_rows(self, rows: list[BenchRow]) -> None:
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def touch(self, position: int) -> None:
        """The row's data changed."""
        self.dataChanged.emit(self.index(position, 0), self.index(position, self.columnCount() - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(COLUMNS) + 1

    def empty_columns(self) -> set[int]:
        return set()

    def spare_columns(self) -> list[int]:
        """What a narrow table leaves out, in this order."""
        spare = sorted((column.spare, number + 1) for number, column in enumerate(COLUMNS) if column.spare)
        return [number for _, number in spare]

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if section == 0 else Qt.AlignmentFlag.AlignRight
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.ToolTipRole and section:
            return explain(self.tr(COLUMNS[section - 1].tip))
        if role == Qt.ItemDataRole.DisplayRole:
            return self.tr("Model") if section == 0 else self.tr(COLUMNS[section - 1].title)
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row, column = self.rows[index.row()], index.column()
        if role == SENTENCE_ROLE:
            return self.sentence(row)
        if role == TYPE_ROLE:
            return row.type or Path(row.path).stem
        if role == Qt.ItemDataRole.ToolTipRole:
            figures = [f"{self.tr(column.title)} {column.text(row)}" for column in COLUMNS if column.text(row)]
            return tip("\n".join((fmt.path(row.path), self.sentence(row), *figures)))
        if column == 0:
            if role == SORT_ROLE:
                return row.bytes
            return row.type or Path(row.path).stem if role == Qt.ItemDataRole.DisplayRole else None
        known = COLUMNS[column - 1]
        if role == Qt.ItemDataRole.DisplayRole:
            return known.text(row)
        if role == SORT_ROLE:
            value = known.value(row)
            return float("-inf") if value is None else float(value)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def sentence(self, row: BenchRow) -> str:
        """The roofline in plain words."""
        if row.result is None:
            return self.tr("Being measured") if row.prompt or row.generate else self.tr("Waiting")
        roof = row.result.roofline
        best = shallow_best(row.generate)
        if best is None or roof.bandwidth <= 0:
            return ""
        moved = roof.bytes_per_token * best.tokens_per_second.median
        text = self.tr("%5: %1 a token, %2 of the memory's %4%6")
        if roof.fraction > 1:
            text = self.tr("%5: %1 a token, %2, and memory gives %4%6")
            advice = self.tr("It stays in the processor's caches")
        elif roof.fraction >= 0.6:
            advice = self.tr("Near the limit of memory")
        elif roof.fraction >= 0.3:
            advice = self.tr("Computing and memory both count")
        else:
            advice = self.tr("Computing is the limit, not memory")
        for mark, value in (
            ("%1", fmt.size(roof.bytes_per_token)),
            ("%2", fmt.rate(moved)),
            ("%4", fmt.rate(roof.bandwidth)),
            ("%5", advice),
            ("%6", self._threads_words(best, row)),
        ):
            text = text.replace(mark, value)
        return text

    def _threads_words(self, best: SpeedPoint, row: BenchRow) -> str:
        """With how many threads, and whether that was the model's own choice."""
        tried = len({point.threads for point in row.generate}) > 1
        count = self.tr("1 thread") if best.threads == 1 else self.tr("%1 threads").replace("%1", str(best.threads))
        how = self.tr("fastest of those tried") if tried else self.tr("chosen automatically") if row.automatic else ""
        return f" · {count}, {how}" if how else f" · {count}"


class BenchCharts(QWidget):
    """Writing speed beside four closer looks. Shows whatever is measured so far."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        nothing = self.tr("Fills while the benchmark runs")
        self.speed = BarChart(
            theme,
            self.tr("Writing speed"),
            self.tr("tokens/s"),
            unit=self.tr("tokens/s"),
            stacked=True,  # one bar a group: it stands in the middle of its group
            legend=False,
            empty=nothing,
        )
        self.by_depth = LineChart(
            theme,
            self.tr("Writing speed over the context in use"),
            self.tr("tokens of context"),
            self.tr("tokens/s"),
            unit=self.tr("tokens/s"),
            empty=nothing,
        )
        self.by_threads = LineChart(
            theme,
            self.tr("Writing speed over threads"),
            self.tr("threads"),
            self.tr("tokens/s"),
            unit=self.tr("tokens/s"),
            empty=self.tr("Tick “Try several numbers of threads” to fill this"),
        )
        self.loading = BarChart(theme, self.tr("Loading"), self.tr("seconds"), unit="s", empty=nothing)
        self.memory = BarChart(theme, self.tr("Memory"), self.tr("memory"), unit="B", stacked=True, empty=nothing)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("Charts"))
        self.tabs.tabBar().setAccessibleName(self.tr("Charts"))
        for chart, title in (
            (self.by_depth, self.tr("Context")),
            (self.by_threads, self.tr("Threads")),
            (self.loading, self.tr("Loading")),
            (self.memory, self.tr("Memory")),
        ):
            self.tabs.addTab(chart, title)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setChildrenCollapsible(False)
        splitter.setHandleWidth(17)
        splitter.setObjectName("charts")
        splitter.setStyleSheet("QSplitter::handle { background: transparent; }")
        splitter.addWidget(self.speed)
        splitter.addWidget(self.tabs)
        splitter.setStretchFactor(0, 2)
        splitter.setStretchFactor(1, 3)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(splitter)
        self._rows: list[BenchRow] = []
        self.tabs.currentChanged.connect(self._draw_tab)

    def set_rows(self, rows: list[BenchRow]) -> None:
        self._rows = rows
        self._draw_speed()
        self._draw_tab()

    def _names(self) -> list[str]:
        kinds = [row.type for row in self._rows]
        return [r.type if r.type and kinds.count(r.type) == 1 else Path(r.path).stem for r in self._rows]

    def _draw_speed(self) -> None:
        """One bar a model in its type's colour: a series each, in a group each."""
        names = self._names()
        self.speed.set_groups(names)
        for position, (name, row) in enumerate(zip(names, self._rows, strict=True)):
            best = shallow_best(row.generate)
            if best is None:
                continue
            values: list[float | None] = [None] * len(names)
            errors = [0.0] * len(names)
            values[position] = best.tokens_per_second.median
            errors[position] = (best.tokens_per_second.p90 - best.tokens_per_second.p10) / 2
            self.speed.set_series(name, values, row.type, errors)

    def _draw_tab(self, *_: object) -> None:
        draw = {
            self.by_depth: self._draw_depth,
            self.by_threads: self._draw_threads,
            self.loading: self._draw_loading,
            self.memory: self._draw_memory,
        }.get(self.tabs.currentWidget())
        if draw is not None:
            draw()

    def _draw_depth(self) -> None:
        self._draw_lines(self.by_depth, lambda point: point.depth, lambda best, point: point.threads == best.threads)

    def _draw_threads(self) -> None:
        swept = [row for row in self._rows if len({point.threads for point in row.generate}) > 1]
        numbers = sorted({point.threads for row in swept for point in row.generate})
        self.by_threads.set_ticks([(float(number), str(number)) for number in numbers])
        self._draw_lines(
            self.by_threads, lambda point: point.threads, lambda best, point: point.depth == best.depth, swept
        )
        advised = [threads for row in swept if (threads := recommended_threads(row.generate)) is not None]
        if advised:
            best = max(set(advised), key=advised.count)
            self.by_threads.mark(best, self.tr("recommended: %1").replace("%1", str(best)))

    def _draw_lines(
        self,
        chart: LineChart,
        x: Callable[[SpeedPoint], int],
        keep: Callable[[SpeedPoint, SpeedPoint], bool],
        rows: list[BenchRow] | None = None,
    ) -> None:
        chart.clear()
        names = dict(zip((row.path for row in self._rows), self._names(), strict=True))
        for row in self._rows if rows is None else rows:
            best = shallow_best(row.generate)
            if best is None:
                continue
            points = sorted((p for p in row.generate if keep(best, p)), key=x)
            chart.set_series(
                names[row.path],
                [x(point) for point in points],
                [point.tokens_per_second.median for point in points],
                [(p.tokens_per_second.p90 - p.tokens_per_second.p10) / 2 for p in points],
                row.type,
            )

    def _finished(self) -> tuple[list[str], list[ModelBench]]:
        pairs = [(n, r.result) for n, r in zip(self._names(), self._rows, strict=True) if r.result is not None]
        return [name for name, _ in pairs], [result for _, result in pairs]

    def _draw_loading(self) -> None:
        names, results = self._finished()
        self.loading.set_groups(names)
        if results:
            if any(result.load_cold is not None for result in results):
                self.loading.set_series(self.tr("cold"), [result.load_cold for result in results])
            self.loading.set_series(self.tr("warm"), [result.load_warm for result in results])
            self.loading.set_series(self.tr("first token"), [result.first_token for result in results])

    def _draw_memory(self) -> None:
        names, results = self._finished()
        self.memory.set_groups(names)
        if results:
            self.memory.set_series(self.tr("weights"), [float(result.memory.weights) for result in results])
            self.memory.set_series(self.tr("KV cache"), [float(result.memory.kv) for result in results])
            self.memory.set_series(self.tr("buffers"), [float(result.memory.compute) for result in results])
