"""The charts of the Quality page: size against divergence, and closer looks in tabs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMenu, QSplitter, QTabWidget, QToolButton, QVBoxLayout, QWidget

from app.measure_messages import HISTOGRAM_EDGES, CandidateQuality
from app.ui.charts import HistogramChart, LineChart, ParetoChart
from app.ui.method_lab import MethodLabPanel
from app.ui.passages_view import PassagesView
from app.ui.quality_history import QualityHistory
from app.ui.task_flips import TaskFlips
from app.ui.task_table import TaskTable
from app.ui.tensor_costs import TensorCosts
from app.ui.widgets import icon_button

if TYPE_CHECKING:
    from app.ui.context import Context

WIDE, LEAST = 720, 320
"""Pixels from which on two charts stand side by side, and those that the first of them has at least."""


def labels(figures: list[CandidateQuality]) -> dict[str, str]:
    """A short name for every row by its key: its type, or its file name where two share a type; and its cache."""
    kinds = [item.label for item in figures]
    return {
        item.key: item.label
        if item.type and kinds.count(item.label) == 1
        else Path(item.path).stem + (f" · KV {item.kv}" if item.kv else "")
        for item in figures
    }


class QualityCharts(QWidget):
    """Shows whatever is measured so far. Only the visible tab is drawn."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        theme = context.theme
        nothing = self.tr("No quality was measured yet")
        self.pareto = ParetoChart(theme, title=self.tr("Size against divergence"), empty=nothing)
        self.histogram = HistogramChart(
            theme, self.tr("Divergence of single tokens"), self.tr("KLD (nats, log)"), HISTOGRAM_EDGES, empty=nothing
        )
        self.position = LineChart(
            theme,
            self.tr("Divergence by position in the window"),
            self.tr("part of the scored half"),
            self.tr("mean KLD (nats)"),
            unit="nats",
            log_y=True,
            empty=nothing,
        )
        self.layers = LineChart(
            theme,
            self.tr("Drift from layer to layer"),
            self.tr("layer"),
            self.tr("relative error of the state"),
            log_y=True,
            empty=nothing,
        )
        self.by_text = LineChart(
            theme,
            self.tr("Divergence by text"),
            "",
            self.tr("mean KLD (nats)"),
            unit="nats",
            log_y=True,
            connected=False,
            empty=nothing,
        )
        self.tasks = TaskTable(theme)
        self.flips = TaskFlips(theme)
        self.passages = PassagesView(theme)
        self.costs = TensorCosts(context)
        self.methods = MethodLabPanel(context)
        self.history = QualityHistory(context)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)
        self.tabs.setAccessibleName(self.tr("Charts"))
        self.tabs.tabBar().setAccessibleName(self.tr("Charts"))
        for chart, title in (
            (self.histogram, self.tr("Tokens")),
            (self.position, self.tr("Position")),
            (self.by_text, self.tr("Texts")),
            (self.layers, self.tr("Layers")),
            (self.costs, self.tr("Tensors")),
            (self.methods, self.tr("Methods")),
            (self.tasks, self.tr("Tasks")),
            (self.flips, self.tr("Flipped")),
            (self.passages, self.tr("Passages")),
            (self.history, self.tr("Earlier")),
        ):
            self.tabs.addTab(chart, title)
        self.all_button = icon_button(theme, "chevron", self.tr("All charts"))
        self.all_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.all_menu = QMenu(self)
        self.all_menu.aboutToShow.connect(self._fill_menu)
        self.all_button.setMenu(self.all_menu)
        self.tabs.setCornerWidget(self.all_button)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(17)
        self.splitter.setObjectName("charts")
        self.splitter.setStyleSheet("QSplitter::handle { background: transparent; }")
        self.splitter.addWidget(self.pareto)
        self.splitter.addWidget(self.tabs)
        self.splitter.setStretchFactor(0, 1)
        self.splitter.setStretchFactor(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.splitter)
        self._candidates: list[CandidateQuality] = []
        self._reference: CandidateQuality | None = None
        self.tabs.currentChanged.connect(self._draw_tab)

    def set_results(self, reference: CandidateQuality | None, candidates: list[CandidateQuality]) -> None:
        self._reference, self._candidates = reference, candidates
        named = labels(candidates)
        self.pareto.set_points(
            [
                (named[c.key], c.type, c.bytes, c.kld.mean.value, c.kld.mean.error)
                for c in candidates
                if c.bytes and not c.at_least
            ]
        )
        self._draw_tab()

    def set_running(self, running: bool) -> None:
        """Whether a measurement runs that will fill what is empty."""
        words = self.tr("Fills while the measurement runs") if running else self.tr("No quality was measured yet")
        for chart in (self.pareto, self.histogram, self.position, self.by_text, self.layers):
            chart.set_empty_text(words)

    def _draw_tab(self, *_: object) -> None:
        named = labels(self._candidates)
        draw = {
            self.histogram: self._draw_histogram,
            self.position: self._draw_position,
            self.by_text: self._draw_texts,
            self.layers: self._draw_layers,
            self.tasks: self._draw_tasks,
            self.flips: self._draw_flips,
            self.passages: self._draw_passages,
            self.costs: self._draw_costs,
            self.methods: self._draw_methods,
            self.history: self._draw_history,
        }.get(self.tabs.currentWidget())
        if draw is not None:
            draw(named)

    def _draw_histogram(self, named: dict[str, str]) -> None:
        self.histogram.clear()
        for item in self._candidates:
            if len(item.histogram) == len(HISTOGRAM_EDGES) - 1:
                self.histogram.set_series(named[item.key], item.histogram, item.type)

    def _draw_position(self, named: dict[str, str]) -> None:
        self.position.clear()
        parts = max((len(item.by_position) for item in self._candidates), default=0)
        self.position.set_ticks([(float(i + 1), f"{i + 1}/{parts}") for i in range(parts)])
        for item in self._candidates:
            if item.by_position:
                spots = list(range(1, len(item.by_position) + 1))
                self.position.set_series(named[item.key], spots, item.by_position, None, item.type)

    def _draw_texts(self, named: dict[str, str]) -> None:
        self.by_text.clear()
        texts = list(dict.fromkeys(name for item in self._candidates for name in item.slices))
        self.by_text.set_ticks([(float(i), Path(name).stem) for i, name in enumerate(texts)])
        for item in self._candidates:
            known = [(i, item.slices[name]) for i, name in enumerate(texts) if name in item.slices]
            self.by_text.set_series(
                named[item.key],
                [i for i, _ in known],
                [part.kld.value for _, part in known],
                [part.kld.error for _, part in known],
                item.type,
            )

    def _draw_layers(self, named: dict[str, str]) -> None:
        self.layers.clear()
        for item in self._candidates:
            if item.drift:
                self.layers.set_series(named[item.key], list(range(len(item.drift))), item.drift, None, item.type)

    def _draw_tasks(self, named: dict[str, str]) -> None:
        self.tasks.set_results(self._reference, self._by_size(), named)

    def _draw_flips(self, named: dict[str, str]) -> None:
        self.flips.set_results(self._by_size(), named)

    def _by_size(self) -> list[CandidateQuality]:
        return sorted(self._candidates, key=lambda item: -item.bytes)

    def _draw_passages(self, named: dict[str, str]) -> None:
        self.passages.set_results(named, self._candidates)

    def _draw_costs(self, named: dict[str, str]) -> None:
        reference = self._reference.path if self._reference is not None else ""
        self.costs.set_results(named, self._candidates, reference)

    def _draw_methods(self, named: dict[str, str]) -> None:
        self.methods.set_results(self._reference.path if self._reference is not None else "", self._candidates)

    def _draw_history(self, named: dict[str, str]) -> None:
        self.history.set_results(named, self._candidates)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _fill_menu(self) -> None:
        """Every chart by its name: not all tabs are in sight where there is little room."""
        self.all_menu.clear()
        for place in range(self.tabs.count()):
            action = self.all_menu.addAction(self.tabs.tabText(place))
            action.setCheckable(True)
            action.setChecked(place == self.tabs.currentIndex())
            action.triggered.connect(lambda _=False, place=place: self.tabs.setCurrentIndex(place))

    def _arrange(self) -> None:
        """Side by side where there is room, else size against divergence becomes the first tab: it is shown unless
        another than the usual one was chosen."""
        wide = self.width() >= max(WIDE, LEAST + self.splitter.handleWidth() + self.tabs.minimumSizeHint().width())
        inside = self.tabs.indexOf(self.pareto) >= 0
        if wide and inside:
            self.tabs.removeTab(self.tabs.indexOf(self.pareto))
            self.splitter.insertWidget(0, self.pareto)
            self.pareto.show()
            self.splitter.setSizes([self.width() // 2, self.width() // 2])
        elif not wide and not inside:
            usual = self.tabs.currentWidget() is self.histogram
            self.tabs.insertTab(0, self.pareto, self.tr("Size"))
            if usual:
                self.tabs.setCurrentIndex(0)
