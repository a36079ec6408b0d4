"""What each tensor costs, as a map: layers across, tensors down, darker where squeezing it does more harm.

A cell that is too dear can be kept at a larger type: the picks go to the Convert page as rules.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QRect, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from app import measurements
from app.measure_messages import (
    CandidateQuality,
    MeasureSensitivity,
    SensitivityResult,
    SensitivityUpdate,
    TensorCost,
)
from app.ui import format as fmt
from app.ui.chart_parts import Legend, SeriesStyle
from app.ui.tensor_errors import error_step_color
from app.ui.tensor_map import Entry, MapGrid, Tensor
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, ProgressLine, button, label, tip
from converter.spec import PlannedOutput, PlannedTensor

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

ROOM = 300
"""Pixels of height from which on the legend has a place."""

KEEP = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
STEPS = 8
FALL = 2.0
"""Each step of the scale costs half of the one before it."""


class CostGrid(MapGrid):
    """The map of one file. ``picked`` changed when a cell was clicked or Space was pressed on it."""

    picked = Signal()

    def __init__(self, theme: Any, parent: QWidget | None = None) -> None:
        super().__init__(theme, parent)
        self.setMinimumSize(160, 72)
        self.costs: dict[str, TensorCost] = {}
        self.picks: list[str] = []
        self.bounds: list[float] = []
        self.setAccessibleName(self.tr("What each tensor costs"))

    def set_costs(self, kind: str, costs: Sequence[TensorCost], shapes: dict[str, tuple[int, ...]]) -> None:
        """Show a whole result; what was picked of another one is forgotten."""
        self.costs = {cost.name: cost for cost in costs}
        self.picks = [name for name in self.picks if name in self.costs]
        planned = tuple(PlannedTensor(cost.name, shapes.get(cost.name, ()), cost.type, cost.bytes) for cost in costs)
        self.set_outputs([PlannedOutput(kind, "", 0, 0.0, planned)] if planned else [])
        self._scale()

    def set_cost(self, cost: TensorCost) -> None:
        """One tensor's newer figures."""
        if cost.name in self.costs:
            self.costs[cost.name] = cost
            self._scale()

    def _scale(self) -> None:
        """Steps that halve from the dearest tensor down; the last one is open."""
        most = max((cost.kld.value for cost in self.costs.values()), default=0.0)
        self.bounds = [most / FALL**step for step in range(STEPS - 1, 0, -1)] if most > 0 else []
        self.update()

    def step(self, cost: TensorCost) -> int:
        """1 to :data:`STEPS`, the dearest last."""
        return bisect_right(self.bounds, cost.kld.value * (1 - 1e-12)) + 1

    def colour(self, tensor: Tensor, entry: Entry) -> QColor:
        cost = self.costs.get(tensor.name)
        measured = cost is not None and cost.windows > 0
        return error_step_color(self.step(cost), self.theme) if cost and measured else QColor(0, 0, 0, 0)

    def words(self, name: str) -> str:
        cost, (first, *rest) = self.costs[name], super().words(name).split("\n")
        place = rest[0].lstrip(" ·") if rest else ""
        figures = self.tr("{0} nats alone · {1}, {2}, error {3}").format(
            fmt.estimate(cost.kld, 1), cost.type, fmt.size(cost.bytes), fmt.percent(cost.error, 1)
        )
        kept = self.tr("kept larger") if name in self.picks else ""
        return "\n".join([first, " · ".join(filter(None, (figures, kept))), place])

    def pick(self, name: str) -> None:
        """Keep this tensor at a larger type, or no longer."""
        if name in self.picks:
            self.picks.remove(name)
        else:
            self.picks.append(name)
        self.update()
        self.picked.emit()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for name in self.picks:
            rect = self._rects.get(name, QRect())
            painter.setPen(QPen(QColor(self.theme.tokens.surface), 3))
            painter.drawRoundedRect(rect.adjusted(2, 2, -2, -2), 2, 2)
            painter.setPen(QPen(QColor(self.theme.tokens.accent), 2))
            painter.drawRoundedRect(rect.adjusted(1, 1, -1, -1), 2, 2)
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        super().mousePressEvent(event)
        name = self._at(event.position().toPoint())
        if name and event.button() == Qt.MouseButton.LeftButton:
            self.pick(name)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return) and self._cursor in self.costs:
            self.pick(str(self._cursor))
            self._move_to(str(self._cursor))
        else:
            super().keyPressEvent(event)


class TensorCosts(QWidget):
    """A candidate of the last measurement, a button that measures its tensors, and the map."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._reference = ""
        self._result: SensitivityResult | None = None
        self.job: Job | None = None
        theme = context.theme
        self.model = QComboBox()
        self.model.setAccessibleName(self.tr("File whose tensors are measured"))
        self.run_button = button(self.tr("Measure tensors"), self.measure)
        self.run_button.setToolTip(
            self.tr("Puts one tensor of this file after another into the reference, and measures the divergence")
        )
        self.keep = QComboBox()
        self.keep.addItems(list(KEEP))
        self.keep.setCurrentText("Q6_K")
        self.keep.setAccessibleName(self.tr("Type for the tensors that are picked"))
        self.keep_button = button("", self._to_convert)
        self.grid = CostGrid(theme)
        self.where = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self.sum = ElidedLabel("", Qt.TextElideMode.ElideRight)
        for quiet in (self.where, self.sum):
            set_role(quiet, "muted")
        self.legend = Legend()
        self.legend.setFont(theme.font(12))
        self.error = ErrorCard()
        self.progress = ProgressLine()
        self.progress.hide()
        self.nothing = label("", "muted", wrap=True)
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._lay_out()
        self.model.currentIndexChanged.connect(self._show)
        self.progress.cancelled.connect(self._cancel)
        self.grid.described.connect(self._describe)
        self.grid.picked.connect(self._count)
        context.jobs.added.connect(self._on_job)
        theme.changed.connect(self._relegend)
        self.set_results({}, [], "")

    def set_results(self, named: dict[str, str], candidates: Sequence[CandidateQuality], reference: str) -> None:
        """The files that can be looked at, by their short names, and what they are measured against."""
        self._reference = reference
        before = self.model.currentData()
        self.model.blockSignals(True)
        self.model.clear()
        for item in candidates:
            if not item.kv:
                self.model.addItem(named.get(item.key) or Path(item.path).stem, item.path)
        self.model.setCurrentIndex(max(0, self.model.findData(before)))
        self.model.blockSignals(False)
        self._show()

    def is_empty(self) -> bool:
        """Whether there is no map."""
        return not self.grid.costs

    def measure(self) -> None:
        """Measure the tensors of the chosen file on the bundled texts."""
        path = str(self.model.currentData() or "")
        if not path or not self._reference:
            return
        from app.quality.texts import DEFAULT

        command = MeasureSensitivity(self._reference, path, DEFAULT[:5])
        title = self.tr("Tensors of {0}").format(self.model.currentText())
        self._context.jobs.submit("measure", title, command, "quality")

    # ---- inside

    def _lay_out(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        for widget in (self.model, self.run_button):
            head.addWidget(widget)
        head.addWidget(self.sum, 1)
        foot = QHBoxLayout()
        foot.setSpacing(8)
        foot.addWidget(self.where, 1)
        foot.addWidget(self.keep)
        foot.addWidget(self.keep_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.error)
        layout.addWidget(self.progress)
        layout.addWidget(self.nothing, 1)
        layout.addWidget(self.grid, 1)
        layout.addWidget(self.legend)
        layout.addLayout(foot)

    def _describe(self, words: str) -> None:
        name, figures, *rest = words.split("\n")
        self.where.setText(f"{name.removesuffix('.weight')}: {figures}")
        self.where.setToolTip(tip("\n".join([name, figures, *rest])))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._make_room()

    def _make_room(self) -> None:
        """In a low place the cells need all of it: what the legend says, each cell's words say too."""
        self.legend.setVisible(bool(self.legend.styles) and self.height() >= ROOM)

    def _on_job(self, job: Job) -> None:
        if not isinstance(job.command, MeasureSensitivity) or (self.job is not None and self.job.is_active):
            return
        self.job = job
        self.error.clear()
        job.event.connect(self._on_event)
        job.changed.connect(self._on_changed)
        job.finished.connect(self._on_finished)
        self._on_changed()
        self._refresh()

    def _on_event(self, event: object) -> None:
        if isinstance(event, SensitivityUpdate) and self.job and self.job.command.candidate == self.model.currentData():
            if event.cost.name in self.grid.costs:
                self.grid.set_cost(event.cost)
            else:
                costs = [*self.grid.costs.values(), event.cost]
                self.grid.set_costs(self.model.currentText(), costs, self._shapes())
            self._refresh()

    def _on_changed(self) -> None:
        job = self.job
        if job is not None and job.is_active:
            waiting = job.state == "queued"
            words = self.tr("Waiting for the job before it") if waiting else job.label or self.tr("Starting")
            self.progress.button.setEnabled(True)
            self.progress.set_progress(
                job.progress if job.progress > 0 or waiting else None, words, "", job.seconds_left
            )

    def _on_finished(self) -> None:
        job = self.job
        if job is None:
            return
        if job.state == "done" and isinstance(job.result, SensitivityResult):
            measurements.keep_sensitivity(self._context.store, job.result)
        elif job.state == "failed" and job.error is not None:
            self.error.show_error(job.error, [(self.tr("Retry"), self.measure)])
        self._show()

    def _cancel(self) -> None:
        if self.job is not None:
            self.progress.button.setEnabled(False)
            self.progress.set_progress(None, self.tr("Stopping"))
            self.job.cancel()

    def _show(self) -> None:
        path = str(self.model.currentData() or "")
        running = self.job is not None and self.job.is_active and self.job.command.candidate == path
        if not running:
            self._result = measurements.sensitivity_of(self._context.store, path) if path else None
            found = self._result
            self.grid.set_costs(found.type if found else "", found.costs if found else (), self._shapes())
        self.where.setText(self.tr("Click a cell to keep its tensor at a larger type"))
        self._refresh()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        info = self._context.library.entry(str(self.model.currentData() or ""))
        return {tensor.name: tensor.shape for tensor in info.tensors} if info is not None else {}

    def _refresh(self) -> None:
        running = self.job is not None and self.job.is_active
        filled = bool(self.grid.costs)
        self.progress.setVisible(running)
        self.run_button.setEnabled(not running and bool(self.model.currentData()) and bool(self._reference))
        self.grid.setVisible(filled)
        for widget in (self.where, self.keep, self.keep_button):
            widget.setVisible(filled)
        self.nothing.setVisible(not filled)
        self.nothing.setText(
            self.tr("What each tensor costs when it alone is squeezed: the map fills tensor by tensor.")
            if self.model.count()
            else self.tr("Measure the quality of a file first.")
        )
        found = self._result
        total = sum(cost.kld.value for cost in self.grid.costs.values())
        self.sum.setText(
            self.tr("sum {0}, all together {1} nats").format(fmt.significant(total, 2), fmt.estimate(found.whole, 1))
            if found is not None and filled
            else ""
        )
        self._count()
        self._relegend()

    def _count(self) -> None:
        count = len(self.grid.picks)
        self.keep_button.setEnabled(count > 0)
        self.keep_button.setText(self.tr("Keep {0} in Convert").format(fmt.number(count)))
        self.keep_button.setAccessibleName(self.keep_button.text())

    def _relegend(self) -> None:
        styles = []
        if self.grid.bounds:
            ends = [fmt.significant(bound, 2) for bound in self.grid.bounds]
            names = [f"< {ends[0]}", *(f"{low} – {high}" for low, high in pairwise(ends)), f"≥ {ends[-1]}"]
            used = {self.grid.step(cost) for cost in self.grid.costs.values() if cost.windows}
            styles = [
                SeriesStyle(names[step - 1], error_step_color(step, self._context.theme), kind="box")
                for step in range(1, STEPS + 1)
                if step in used
            ]
        tokens = self._context.theme.tokens
        self.legend.set_styles(styles, QColor(tokens.text), QColor(tokens.border))
        self._make_room()

    def _to_convert(self) -> None:
        kind = self.keep.currentText()
        rules = [f"^{re.escape(name)}$={kind}" for name in self.grid.picks]
        self._context.navigate.emit("convert", {"source": self._reference, "types": [self._recipe()], "rules": rules})

    def _recipe(self) -> str:
        """The recipe of the file that is looked at."""
        return self._result.type if self._result is not None else self.model.currentText()
