"""Live values over time, drawn seldom and only when somebody looks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt, QTimer
from PySide6.QtGui import QPainter, QPen
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

from app.ui.chart_frame import Cell, ChartFrame
from app.ui.chart_parts import SeriesStyle, byte_unit, decimal, quantity, step_digits

LATE_MS = 250
"""What may be drawn again waits so long for the next value: then all that a message changes is painted at once."""

GRID = 0.5
"""Seconds: charts are drawn again at multiples of it, so that those side by side are painted together."""


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


class LiveCurve(pg.GraphicsObject):
    """A line through values that come one by one. pyqtgraph's own curve looks through all its data several times for
    each picture, which was most of what a live chart cost."""

    DOT = 3.0
    """Radius in pixels of a lone point: a line through one is not seen."""
    ROOM = DOT + 1
    """Pixels around the values that may be painted on."""

    def __init__(self) -> None:
        super().__init__()
        self._times = self._values = np.zeros(0)
        self._bounds = self._room = QRectF()
        self._pen = pg.mkPen()

    def set_pen(self, pen: QPen) -> None:
        self._pen = pen
        self.update()

    def set_data(self, times: np.ndarray, values: np.ndarray) -> None:
        """Times (n,) ascending and values (n,), both finite."""
        self._times, self._values = times, values
        if len(times):
            low, high = float(values.min()), float(values.max())
            self._bounds = QRectF(times[0], low, times[-1] - times[0], high - low)
        else:
            self._bounds = QRectF()
        self.viewTransformChanged()
        self.update()

    def viewTransformChanged(self) -> None:
        """Where it paints: its values, and some pixels around them, whatever those are now."""
        across, up = self.pixelVectors()
        x, y = (0.0, 0.0) if across is None or up is None else (self.ROOM * across.x(), self.ROOM * abs(up.y()))
        self.prepareGeometryChange()
        self._room = self._bounds.adjusted(-x, -y, x, y)

    def boundingRect(self) -> QRectF:
        return self._room

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if len(self._times) == 1:
            at = painter.transform().map(QPointF(self._times[0], self._values[0]))
            painter.resetTransform()
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._pen.color())
            painter.drawEllipse(at, self.DOT, self.DOT)
            return
        painter.setPen(self._pen)
        painter.drawPath(pg.arrayToQPath(*self._thinned(painter.transform().m11())))

    def _thinned(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """What can be told apart at ``scale`` pixels a second: of each pixel's values the least and the largest."""
        columns = max(1, round((self._times[-1] - self._times[0]) * scale))
        count = len(self._times) // (2 * columns) if columns else 0
        if count < 2:
            return self._times, self._values
        whole = len(self._times) // count * count
        bins = self._values[:whole].reshape(-1, count)
        places = np.sort(np.stack([bins.argmin(axis=1), bins.argmax(axis=1)], axis=1), axis=1)
        kept = (places + count * np.arange(len(bins))[:, None]).ravel()
        kept = np.concatenate([kept, np.arange(whole, len(self._times))])
        return self._times[kept], self._values[kept]


class TimeChart(ChartFrame):
    """Values over the seconds since the first one. Unit ``B`` or ``B/s`` is shown in KiB, MiB, GiB.

    Drawn with a new value, but at most ten times a second, less often where drawing is slow, and only while visible:
    whose figures it shows wants the processor more.
    """

    FRAME_MS, SLOWEST_MS = 100, 1000
    SHARE = 5000
    """Preparing a picture, which is about a quarter of its cost, is followed by a pause of this many times what it
    took. An engine's threads wait for each other: what a picture takes from one of them, all lose."""
    SHORTEST = 5.0
    """Seconds that the view shows at least."""
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
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self._draw)
        self._dirty = False
        self._due = 0.0
        self._curves: dict[str, LiveCurve] = {}
        self.plot.axes["bottom"].text = seconds_tick
        for axis in self.plot.axes.values():  # a picture of an axis is dear, and the same for many values
            axis.setCacheMode(QGraphicsItem.CacheMode.DeviceCoordinateCache)
        self.ready = True
        self.refresh()

    def append(self, series: str, value: float, when: float | None = None) -> None:
        """Add a sample now, or at ``when`` (seconds on any steady clock, the same for all samples of this chart)."""
        now = time.monotonic() if when is None else when
        if self._start is None:
            self._start = now
        self._rings[series].append(now - self._start, value)
        self._dirty = True
        if not self.isVisible():
            return
        wait = self._due - time.monotonic()
        if wait <= 0 and len(self.series) == 1:
            self._draw()
        elif not self._timer.isActive():
            self._timer.start(max(0, round(1000 * wait)) + LATE_MS)

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
                curve = self._curves[style.name] = LiveCurve()
                self.plot.addItem(curve)
            curve.set_pen(pg.mkPen(style.color, width=1, style=style.dash))
        self._show_values()

    def _follow(self) -> None:
        """Show the new values, and nothing else anew where nothing else has changed: this is done while they come."""
        largest = max(float(ring.ordered()[1].max()) for ring in self._rings.values() if len(ring))
        plain = len(self._curves) == len(self.series) and all(
            curve.scene() is not None for curve in self._curves.values()
        )
        if not plain or self._data_action.isChecked() or self._unit_for(largest)[1] != self._scale:
            self.refresh()
            return
        self._show_values()
        if not self._zoomed:
            self.fit()

    def _show_values(self) -> None:
        for name, curve in self._curves.items():
            times, values = self._rings[name].ordered()
            curve.set_data(times, values / self._scale)
        self._show_latest()

    def fit(self) -> None:
        """The view grows in steps: while it stays, its axes need not be drawn again with every new value."""
        if self.is_empty():
            return
        spans = [ring.ordered() for ring in self._rings.values() if len(ring)]
        first, last = min(span[0, 0] for span in spans), max(span[0, -1] for span in spans)
        top = max(float(span[1].max()) for span in spans) / self._scale
        length = step_above(max(last - first, self.SHORTEST))
        begin = math.floor(8 * first / length) * length / 8
        across, up = (begin, max(begin + length, last)), (0.0, step_above(1.05 * top) if top > 0 else 1.0)
        view = self.plot.getViewBox()
        if [list(across), list(up)] != view.state["targetRange"]:
            view.setRange(xRange=across, yRange=up, padding=0)

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

    def _draw(self) -> None:
        self._timer.stop()
        if not self._dirty:
            return
        self._dirty = False
        begin = time.thread_time()
        self._follow()
        took = 1000 * (time.thread_time() - begin)
        due = time.monotonic() + min(self.SLOWEST_MS, max(self.FRAME_MS, self.SHARE * took)) / 1000
        self._due = math.ceil(due / GRID) * GRID if due - time.monotonic() > GRID else due

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        if self._dirty:
            self._dirty = False
            self.refresh()

    def hideEvent(self, event: Any) -> None:
        self._timer.stop()
        super().hideEvent(event)


STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)


def step_above(value: float) -> float:
    """The least round number from ``value`` on."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in STEPS if step * power >= value * (1 - 1e-9))


def seconds_tick(value: float, spacing: float) -> str:
    """``12 s`` or ``3:20 min``."""
    if abs(value) < 60:
        return f"{decimal(value, min(1, step_digits(spacing)))} s"
    return f"{int(value) // 60}:{int(value) % 60:02d} min"
