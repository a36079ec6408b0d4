"""Live values over time, drawn seldom and only when somebody looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QWidget

from app.ui.chart_frame import Cell, ChartFrame
from app.ui.chart_parts import SeriesStyle, byte_unit, decimal, quantity, step_digits


class Ring:
    """The last ``size`` samples of one series: times and values, oldest first, without copying on append."""

    def __init__(self, size: int) -> None:
        self._data = np.zeros((2, size))
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, self._data.shape[1])

    def append(self, when: float, value: float) -> None:
        self._data[:, self._count % self._data.shape[1]] = when, value
        self._count += 1

    def ordered(self) -> np.ndarray:
        size = self._data.shape[1]
        if self._count <= size:
            return self._data[:, : self._count]
        return np.roll(self._data, -(self._count % size), axis=1)


class TimeChart(ChartFrame):
    """Values over the seconds since the first one. Unit ``B`` or ``B/s`` is shown in KiB, MiB, GiB.

    Drawn at most ten times a second, less often where drawing is slow, and only while visible, whatever the rate of
    :meth:`append`: whose figures it shows wants the processor more.
    """

    FRAME_MS, SLOWEST_MS = 100, 1000
    SHARE = 320
    """Preparing a picture, which is about half of its cost, is followed by a pause of this many times what it took."""
    CAPACITY = 6000

    def __init__(
        self,
        theme: Any,
        title: str,
        unit: str,
        series: Sequence[str],
        parent: QWidget | None = None,
        *,
        empty: str = "",
    ) -> None:
        self.unit = unit
        self.series = list(series)
        self._rings = {name: Ring(self.CAPACITY) for name in self.series}
        self._start: float | None = None
        self._scale = 1.0
        super().__init__(theme, title, empty, parent)
        self._timer = QTimer(self)
        self._timer.setInterval(self.FRAME_MS)
        self._timer.timeout.connect(self._tick)
        self._dirty = False
        self._curves: dict[str, Any] = {}
        self.plot.axes["bottom"].text = seconds_tick
        self.ready = True
        self.refresh()

    def append(self, series: str, value: float, when: float | None = None) -> None:
        """Add a sample now, or at ``when`` (seconds on any steady clock, the same for all samples of this chart)."""
        now = time.monotonic() if when is None else when
        if self._start is None:
            self._start = now
        self._rings[series].append(now - self._start, value)
        self._dirty = True
        if self.isVisible() and not self._timer.isActive():
            self._timer.start()

    def clear(self) -> None:
        self._rings = {name: Ring(self.CAPACITY) for name in self.series}
        self._start = None
        self.readout.setText("")
        self.reset_zoom()
        self.refresh()

    @property
    def running(self) -> bool:
        """True while the redraw timer ticks."""
        return self._timer.isActive()

    def is_empty(self) -> bool:
        return not any(len(ring) for ring in self._rings.values())

    def styles(self) -> list[SeriesStyle]:
        return [self.style_for(name, None, index) for index, name in enumerate(self.series)]

    def redraw(self) -> None:
        largest = max((float(ring.ordered()[1].max()) for ring in self._rings.values() if len(ring)), default=1.0)
        name, self._scale = self._unit_for(largest)
        if getattr(self, "_labels", ("", ""))[1] != name:
            self.set_axis_labels("", name)
        for style in self.styles():
            curve = self._curves.get(style.name)
            if curve is None or curve.scene() is None:
                curve = pg.PlotDataItem(antialias=True, skipFiniteCheck=True, autoDownsample=True, clipToView=True)
                self._curves[style.name] = curve
                self.plot.addItem(curve)
            times, values = self._rings[style.name].ordered()
            curve.setPen(pg.mkPen(style.color, width=1, style=style.dash))
            curve.setData(times, values / self._scale)
            curve.setSymbol("o" if len(times) == 1 else None)  # a line through one point is not seen
            curve.setSymbolSize(6)
            curve.setSymbolBrush(style.color)
            curve.setSymbolPen(None)
        self._show_latest()

    def fit(self) -> None:
        if self.is_empty():
            return
        spans = [ring.ordered() for ring in self._rings.values() if len(ring)]
        first, last = min(span[0, 0] for span in spans), max(span[0, -1] for span in spans)
        top = max(float(span[1].max()) for span in spans) / self._scale
        self.plot.setXRange(first, max(last, first + 1.0), padding=0)
        self.plot.setYRange(0, top * 1.15 if top > 0 else 1.0, padding=0)

    def hover(self, x: float, y: float, pixel: tuple[float, float]) -> str:
        lines = [seconds_tick(x, 0.1)]
        for name in self.series:
            times, values = self._rings[name].ordered()
            if len(times):
                value = quantity(values[int(np.abs(times - x).argmin())], self.unit)
                lines.append(f"{name}: {value}" if len(self.series) > 1 else value)
        return "\n".join(lines)

    def data(self) -> tuple[list[str], list[list[Cell]]]:
        rows: list[list[Cell]] = []
        for name in self.series:
            rows += [[name, float(t), float(v)] for t, v in self._rings[name].ordered().T]
        return [self.tr("Series"), self.tr("Time (s)"), f"{self.title} ({self.unit})"], rows

    def _unit_for(self, largest: float) -> tuple[str, float]:
        if self.unit in ("B", "B/s"):
            name, divisor = byte_unit(largest)
            return name + self.unit[1:], divisor
        return self.unit, 1.0

    def _show_latest(self) -> None:
        latest = [ring.ordered()[1, -1] for ring in self._rings.values() if len(ring)]
        if len(self.series) == 1 and latest:
            self.readout.setText(quantity(float(latest[0]), self.unit))

    def _tick(self) -> None:
        if not self._dirty:
            self._timer.stop()
            return
        self._dirty = False
        begin = time.perf_counter()
        self.refresh()
        took = 1000 * (time.perf_counter() - begin)
        self._timer.setInterval(round(min(self.SLOWEST_MS, max(self.FRAME_MS, self.SHARE * took))))

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        if self._dirty:
            self._dirty = False
            self.refresh()

    def hideEvent(self, event: Any) -> None:
        self._timer.stop()
        super().hideEvent(event)


def seconds_tick(value: float, spacing: float) -> str:
    """``12 s`` or ``3:20 min``."""
    if abs(value) < 60:
        return f"{decimal(value, min(1, step_digits(spacing)))} s"
    return f"{int(value) // 60}:{int(value) % 60:02d} min"
