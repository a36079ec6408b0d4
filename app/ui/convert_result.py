"""The right column of the Convert page: what will be made, how it is being made, what was made."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from app.ui import format as fmt
from app.ui.charts import TimeChart
from app.ui.tensor_errors import error_words
from app.ui.tensor_map import TensorMap
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ProgressLine, StatTile, TypeBadge, button, label
from converter.spec import (
    ConversionResult,
    OutputDone,
    Planned,
    PlannedOutput,
    Progress,
    QuenchError,
    TensorDone,
)

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

LOW = 620
WIDE_ROW = 400
"""A finished file's row that is narrower keeps its error in the tooltip, so that the name can be read."""
FULL_PRECISION = ("F32", "BF16", "F16")


def mean_error(output: OutputDone) -> float | None:
    """Mean relative error of the tensors that lost anything; None for a lossless file."""
    lossy = [value for value in output.relative_error.values() if value > 0]
    return fmean(lossy) if lossy else None


class Pane(Protocol):
    """Where a finished file is shown."""

    context: Context

    def act(self, key: str, paths: list[str]) -> None: ...


def open_output(context: Context, key: str, paths: list[str], reference: str | None) -> None:
    """What the button ``key`` of a finished file does; ``reference`` is a full-precision file to compare with."""
    if key == "chat":
        context.navigate.emit("chat", {"model": paths[0]})
    elif key == "compare":
        context.navigate.emit("compare", {"reference": reference or paths[0], "models": paths})
    elif key == "quality":
        context.navigate.emit("quality", {"reference": reference or None, "candidates": paths})
    else:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(Path(paths[0]).parent)))


class OutputRow(QFrame):
    """One finished file and what to do with it."""

    def __init__(self, pane: Pane, output: OutputDone, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "raised")
        self.path = output.path
        name = ElidedLabel(Path(output.path).name)
        error = mean_error(output)
        words = self.tr("exact copy") if error is None else self.tr("error %1").replace("%1", error_words(error))
        self._short, self._long = fmt.size(output.bytes), f"{fmt.size(output.bytes)} · {words}"
        self.figures = label(self._long, "number")
        tip = self.tr(
            "%1, %2 bits per weight. The error is the mean over the tensors that were squeezed, each as a part of its "
            "weights' own size."
        )
        self.figures.setToolTip(tip.replace("%1", words).replace("%2", fmt.number(output.bpw, 2)))
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(TypeBadge(output.type, pane.context.theme))
        top.addWidget(name, 1)
        top.addWidget(self.figures)
        bottom = QHBoxLayout()
        bottom.setSpacing(0)
        self.buttons = {}
        for key, text, tip in (
            ("chat", self.tr("Chat"), self.tr("Talk to it")),
            ("compare", self.tr("Compare"), self.tr("Its answers beside the reference's")),
            ("quality", self.tr("Measure"), self.tr("How far it is from the reference")),
            ("show", self.tr("Show"), self.tr("Show it in the file manager")),
        ):
            made = button(text, lambda k=key: pane.act(k, [self.path]), "quiet")
            made.setToolTip(tip)
            made.setAccessibleName(f"{text}: {Path(output.path).name}")
            self.buttons[key] = made
            bottom.addWidget(made)
        bottom.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 10, 4)
        layout.setSpacing(2)
        layout.addLayout(top)
        self.note = label(output.checked.note if output.checked else "", "warn", wrap=True)
        self.note.setVisible(bool(self.note.text()))
        layout.addWidget(self.note)
        layout.addLayout(bottom)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self.figures.setText(self._long if self.width() >= WIDE_ROW else self._short)


class ResultPane(QWidget):
    """Follows one job at a time; before that it shows the plan. ``retried`` carries the new job of a Retry."""

    retried = Signal(object)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.job: Job | None = None
        self._source = ""
        self._started = False
        self._known: set[str] = set()
        self._state = "empty"
        self._build()
        self._show("empty")

    # ---- faces

    def show_plan(self, outputs: list[PlannedOutput]) -> None:
        """What the ticks would make; kept back while a job runs and after one ended until the ticks change."""
        if self.job is not None and self.job.is_active:
            return
        self.job = None
        self.map.set_outputs(outputs)
        self._show("plan" if outputs else "empty")

    def watch(self, job: Job, source: str) -> None:
        """Follow a conversion from the queue to its end."""
        self.job, self._source, self._started = job, source, False
        self.error.clear()
        self.speed.clear()
        for tile in (self._tensors, self._memory, self._left):
            tile.set_value("")
        self._clear_rows()
        if job.id not in self._known:  # else it was paused, and is resumed after something else was shown
            self._known.add(job.id)
            job.event.connect(self._on_event)
            job.changed.connect(self._on_changed)
            job.finished.connect(self._on_finished)
        self._show("running")
        self._on_changed()

    def act(self, key: str, paths: list[str]) -> None:
        """A button of a finished file."""
        open_output(self.context, key, paths, self._reference(paths))

    def rows(self) -> list[OutputRow]:
        return [self._rows.itemAt(i).widget() for i in range(self._rows.count()) if self._rows.itemAt(i).widget()]

    # ---- building

    def _build(self) -> None:
        theme = self.context.theme
        self.empty = EmptyState(
            "convert",
            self.tr("Nothing to make yet"),
            self.tr("Choose a model and tick the types that you want: here you see what happens to every tensor."),
            theme=theme,
        )
        self.error = ErrorCard()
        self.map = TensorMap(theme)
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._cancel)
        self.speed = TimeChart(theme, self.tr("Read from the source"), "B/s", [self.tr("rate")])
        self.speed.setFixedHeight(150)
        self._tensors = StatTile(self.tr("Tensors done"))
        self._memory = StatTile(self.tr("Memory of the job"))
        self._left = StatTile(self.tr("Time left"))
        self._tiles = QWidget()
        tiles = QHBoxLayout(self._tiles)
        tiles.setContentsMargins(0, 0, 0, 0)
        tiles.setSpacing(8)
        for tile in (self._tensors, self._memory, self._left):
            tiles.addWidget(tile, 1)
        self.summary = label("", "good", wrap=True)
        self.note = label("", "muted", wrap=True)
        self._all = button(self.tr("Measure all"), self._measure_all)
        self.resume = button(self.tr("Resume"), self._go_on, "primary")
        self.discard = button(self.tr("Discard"), self._cancel)
        self._paused = QWidget()
        choices = QHBoxLayout(self._paused)
        choices.setContentsMargins(0, 0, 0, 0)
        choices.setSpacing(8)
        for made in (self.resume, self.discard):
            choices.addWidget(made)
        choices.addStretch(1)
        head = QHBoxLayout()
        head.addWidget(self.summary, 1)
        head.addWidget(self._all)
        self._rows = QVBoxLayout()
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setSpacing(6)
        inner = QWidget()
        inner.setProperty("role", "page")
        outer = QVBoxLayout(inner)
        outer.setContentsMargins(0, 0, 4, 0)
        outer.addLayout(self._rows)
        outer.addStretch(1)
        self._scroll = QScrollArea()
        self._scroll.setWidget(inner)
        self._scroll.setWidgetResizable(True)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(label(self.tr("3  Result"), "heading"))
        layout.addWidget(self.error)
        layout.addWidget(self.empty, 1)
        layout.addWidget(self.note)
        layout.addWidget(self._paused)
        layout.addLayout(head)
        layout.addWidget(self.progress)
        layout.addWidget(self.map, 3)
        layout.addWidget(self._tiles)
        layout.addWidget(self.speed)
        layout.addWidget(self._scroll, 2)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit_height()

    def _fit_height(self) -> None:
        """In a low window the map keeps its room: the tiles repeat what the lines above say."""
        low = self.height() < LOW
        self.speed.setFixedHeight(100 if low else 150)
        self._tiles.setVisible(self._state == "running" and not low)
        self.map.set_compact(low)

    def _show(self, state: str) -> None:
        visible: set[QWidget] = dict[str, set[QWidget]](
            {
                "empty": {self.empty},
                "plan": {self.map, self.note},
                "running": {self.progress, self.map, self._tiles, self.speed},
                "done": {self.summary, self._all, self.map, self._scroll},
                "failed": {self.error, self.map},
                "cancelled": {self.note, self.map},
                "paused": {self.note, self._paused, self.map},
            }
        )[state]
        self._state = state
        everything = (self.empty, self.map, self.note, self.progress, self._tiles, self.speed, self.summary, self._all)
        for widget in (*everything, self._scroll, self.error, self._paused):
            widget.setVisible(widget in visible)
        self._fit_height()
        if state == "plan":
            self.note.setText(self.tr("This is what each tensor will become. The cells fill when the work begins."))

    # ---- following a job

    def _on_event(self, event: object) -> None:
        if isinstance(event, Planned):
            self.map.set_outputs(event.plan.outputs)
            self._started = True
        elif isinstance(event, TensorDone):
            self.map.set_done(event)
            self._count()
        elif isinstance(event, Progress):
            if event.rate == 0:  # all is read and written, and the engine tries it
                self._left.set_value("")
                return
            self._memory.set_value(*_split(fmt.size(event.memory)))
            self._left.set_value(*_split(fmt.seconds(event.seconds_left)) if event.seconds_left is not None else ("",))
            self.speed.append(self.speed.series[0], event.rate)

    def _count(self) -> None:
        done, total = self.map.grid.counts()
        self._tensors.set_value(fmt.number(done, 0), self.tr("of %1").replace("%1", fmt.number(total, 0)))

    def _on_changed(self) -> None:
        job = self.job
        if job is None or not job.is_active:
            return
        if self._state != "running":
            self._started = False
            self._show("running")
        waiting = job.state == "queued"
        text = self.tr("Waiting for the job before it") if waiting else (job.label or self.tr("Starting"))
        rate = fmt.rate(job.rate) if job.rate else ""
        known = job.progress if self._started or waiting else None
        self.progress.set_progress(known, text, rate, job.seconds_left)
        self.progress.button.setEnabled(True)

    def _cancel(self) -> None:
        if self.job is not None:
            self.progress.button.setEnabled(False)
            self.progress.set_progress(None, self.tr("Stopping and cleaning up"))
            self.job.cancel()

    def _go_on(self) -> None:
        if self.job is not None:
            self.job.go_on()

    def _on_finished(self) -> None:
        job = self.job
        if job is None:
            return
        if job.state == "done" and isinstance(job.result, ConversionResult):
            self._finish(job.result)
        elif job.state == "cancelled":
            self.note.setText(self.tr("Stopped. No file was left behind."))
            self._show("cancelled")
        elif job.state == "paused":
            if job.kept is None:
                self.note.setText(self.tr("Paused."))
            else:
                text = self.tr("Paused at %1. What is finished is kept.")
                self.note.setText(text.replace("%1", fmt.percent(job.kept, 0)))
            self._show("paused")
        elif job.error is not None:
            self.show_error(job.error, self._retry)

    def show_error(self, error: QuenchError, retry: Any) -> None:
        """One red card with a Retry; with Resume where something was kept."""
        if self.job is not None and self.job.kept is not None:
            self.error.show_error(error, [(self.tr("Resume"), retry), (self.tr("Discard"), self._cancel)])
        else:
            self.error.show_error(error, [(self.tr("Retry"), retry)])
        self._show("failed")

    def _retry(self) -> None:
        if self.job is not None:
            self.retried.emit(self.job.retry())

    def _finish(self, result: ConversionResult) -> None:
        count = len(result.outputs)
        made = self.tr("1 file") if count == 1 else self.tr("%1 files").replace("%1", str(count))
        speed = fmt.rate(result.read_bytes / result.seconds) if result.seconds > 0 else fmt.DASH
        text = self.tr("%1 in %2 · %3 · %4 of memory")
        for mark, value in (
            ("%1", made),
            ("%2", fmt.seconds(result.seconds)),
            ("%3", speed),
            ("%4", fmt.size(result.peak_rss)),
        ):
            text = text.replace(mark, value)
        self.summary.setText(text)
        self.summary.setToolTip(self.tr("Kernels: %1").replace("%1", result.kernels))
        self._clear_rows()
        for output in result.outputs:
            self._rows.addWidget(OutputRow(self, output))
        self._show("done")
        self._all.setVisible(count > 1)

    def _measure_all(self) -> None:
        self.act("quality", [row.path for row in self.rows()])

    def _clear_rows(self) -> None:
        while self._rows.count():
            item = self._rows.takeAt(0)
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()

    def _reference(self, paths: list[str]) -> str | None:
        """A full-precision file to compare with: one just made, else the source if it is a GGUF itself."""
        result = self.job.result if self.job is not None else None
        if isinstance(result, ConversionResult):
            for kind in FULL_PRECISION:
                for output in result.outputs:
                    if output.type == kind and output.path not in paths[:1]:
                        return output.path
        return self._source or None


def _split(text: str) -> tuple[str, str]:
    """``12.3 MiB`` -> (``12.3``, ``MiB``) for a tile; text of several numbers stays whole."""
    number, _, unit = text.partition(" ")
    return (text, "") if " " in unit else (number, unit)
