"""Size against divergence: a dot a model, its error bar, its name beside it, and the front of the best trades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter
from PySide6.QtWidgets import QWidget

from app.ui.chart_frame import Cell, ChartFrame
from app.ui.chart_parts import SeriesStyle, byte_unit, decimal, quantity, significant, step_digits

LOG_RATIO = 12.0
"""A spread of divergences wider than this is drawn on a logarithmic axis."""


class ParetoPoint(NamedTuple):
    label: str
    type: str
    bytes: float
    kld: float
    error: float


def pareto_front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """The points that no other beats: nothing is both at most as large and at most as divergent. Sorted by size."""
    front: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (p.bytes, p.kld)):
        if not front or point.kld < front[-1].kld:
            front.append(point)
    return front


class LabelLayer(pg.GraphicsObject):
    """Names beside dots, in pixels of the view box: placed anew whenever the view changes, never one over another."""

    GAP = 9.0

    def __init__(self, view: Any) -> None:
        super().__init__(view)
        self._view = view
        self._anchors: list[tuple[QPointF, str]] = []
        self._corners: list[tuple[float, float]] = []
        self._font = QFont()
        self._color = QColor("black")
        self.placed: list[tuple[QRectF, str]] = []
        self.setZValue(50)
        view.sigRangeChanged.connect(self._moved)
        view.sigResized.connect(self._moved)

    def set_labels(
        self, anchors: list[tuple[QPointF, str]], corners: list[tuple[float, float]], font: QFont, color: QColor
    ) -> None:
        """Name the points ``anchors`` (view coordinates) and keep off the line through ``corners``."""
        self._anchors, self._corners, self._font, self._color = anchors, corners, font, color
        self._moved()

    def _moved(self, *_: object) -> None:
        self.prepareGeometryChange()
        self.update()

    def place(self) -> None:
        """Find a spot for every name. Done when painting: only then is the view's geometry final."""
        metrics = QFontMetricsF(self._font)
        bounds = self._view.rect().adjusted(2, 2, -2, -2)
        dots = [self._view.mapFromView(point) for point, _ in self._anchors]
        taken = [QRectF(dot.x() - 7, dot.y() - 7, 14, 14) for dot in dots]
        bends = [self._view.mapFromView(QPointF(x, y)) for x, y in self._corners]
        taken += [QRectF(one, two).normalized().adjusted(-2, -2, 2, 2) for one, two in pairwise(bends)]
        self.placed = []
        for dot, text in zip(dots, (text for _, text in self._anchors), strict=True):
            if not bounds.contains(dot):
                continue
            width, height = metrics.horizontalAdvance(text) + 2, metrics.height()
            spots = self._spots(dot, width, height)
            costs = [self._cost(rect, bounds, taken) + 4.0 * rank for rank, rect in enumerate(spots)]
            best = spots[costs.index(min(costs))]
            taken.append(best)
            self.placed.append((best, text))

    def _spots(self, dot: QPointF, width: float, height: float) -> list[QRectF]:
        """Places around a dot, the most readable first: above right, right, below right, left, above, below ..."""
        x, y, gap = dot.x(), dot.y(), self.GAP
        corners = [
            (x + gap * 0.7, y - height - gap * 0.4),
            (x + gap, y - height / 2),
            (x + gap * 0.7, y + gap * 0.5),
            (x - gap - width, y - height / 2),
            (x - width / 2, y - height - gap),
            (x - width / 2, y + gap),
            (x - gap * 0.7 - width, y - height - gap * 0.5),
            (x - gap * 0.7 - width, y + gap * 0.5),
            (x + gap * 2.5, y - height * 1.8),
            (x + gap * 2.5, y + height * 0.8),
        ]
        return [QRectF(left, top, width, height) for left, top in corners]

    @staticmethod
    def _cost(rect: QRectF, bounds: QRectF, taken: list[QRectF]) -> float:
        inside = rect.intersected(bounds)
        outside = rect.width() * rect.height() - inside.width() * inside.height()
        overlap = sum(hit.width() * hit.height() for hit in (rect.intersected(other) for other in taken))
        return outside * 2.0 + overlap

    def boundingRect(self) -> QRectF:
        return self._view.rect()

    def paint(self, painter: QPainter, *_: object) -> None:
        self.place()
        painter.setFont(self._font)
        painter.setPen(self._color)
        for rect, text in self.placed:
            painter.drawText(rect, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextDontClip, text)


class ParetoChart(ChartFrame):
    """Size (x) against mean KL divergence (y, logarithmic when the values spread widely)."""

    def __init__(self, theme: Any, parent: QWidget | None = None, title: str = "", empty: str = "") -> None:
        self.points: list[ParetoPoint] = []
        self.log = False
        self._log_choice: bool | None = None
        self._scale = 1.0
        super().__init__(theme, title or "Size against divergence", empty, parent)
        self._labels_layer = LabelLayer(self.plot.getViewBox())
        action = self.plot_menu().addAction(self.tr("Logarithmic divergence axis"))
        action.setCheckable(True)
        action.setChecked(False)
        action.triggered.connect(self.set_log)
        self._log_action = action
        self.ready = True
        self.refresh()

    def plot_menu(self) -> Any:
        return self._menu_button.menu()

    def set_points(self, points: Sequence[tuple[str, str, float, float, float]]) -> None:
        """``(label, type, bytes, mean KLD in nats, its standard error)`` of every model."""
        self.points = [ParetoPoint(*point) for point in points]
        self.refresh()

    def set_log(self, on: bool | None) -> None:
        """Force the axis, or ``None`` to let the spread of the values decide."""
        self._log_choice = on
        self.reset_zoom()
        self.refresh()

    def front(self) -> list[ParetoPoint]:
        return pareto_front(self.points)

    def label_rects(self) -> list[tuple[QRectF, str]]:
        """Where the names were put, in pixels of the drawing area."""
        self._labels_layer.place()
        return self._labels_layer.placed

    def is_empty(self) -> bool:
        return not self.points

    def styles(self) -> list[SeriesStyle]:
        """The front's line; the dots are named where they stand."""
        accent = QColor(self.theme.tokens.accent)
        name = self.tr("front: no smaller file stays closer to the reference")
        return [SeriesStyle(name, accent, Qt.PenStyle.DashLine)]

    def legend_styles(self) -> list[SeriesStyle]:
        return self.styles() if len(self.front()) > 1 else []

    def x_axis(self) -> tuple[str, float]:
        """The words under the axis across, and what its values are divided by."""
        unit, scale = byte_unit(max(point.bytes for point in self.points))
        return self.tr("size (%1)").replace("%1", unit), scale

    def x_words(self, point: ParetoPoint) -> str:
        """What stands on the axis across, of one point."""
        return quantity(point.bytes, "B")

    def symbol(self, point: ParetoPoint) -> str:
        """The shape of its dot."""
        return "o"

    def _choose_log(self) -> bool:
        positive = [point.kld for point in self.points if point.kld > 0]
        if self._log_choice is not None:
            return self._log_choice and bool(positive)
        return len(positive) > 1 and max(positive) / min(positive) > LOG_RATIO

    def _floor(self) -> float:
        """The lowest divergence that a logarithmic axis shows; a zero is drawn there."""
        return min((point.kld for point in self.points if point.kld > 0), default=1e-6) / 3.0

    def _y(self, value: float) -> float:
        return math.log10(max(value, self._floor())) if self.log else value

    def redraw(self) -> None:
        self.plot.clear()
        self.log = self._choose_log()
        self._log_action.setChecked(self.log)
        x_label, self._scale = self.x_axis()
        self.plot.axes["left"].log = self.log
        self.plot.axes["left"].picture = None
        self.plot.axes["bottom"].text = lambda value, spacing: decimal(value, step_digits(spacing))
        y_label = self.tr("mean KLD (nats, log)") if self.log else self.tr("mean KLD (nats)")
        self.set_axis_labels(x_label, y_label)
        corners = self._front_corners()
        if corners:
            pen = pg.mkPen(self.theme.tokens.accent, width=1, style=Qt.PenStyle.DashLine)
            self.plot.addItem(pg.PlotDataItem(*np.array(corners).T, pen=pen))
        for point in self.points:
            self._draw_point(point)
        anchors = [(QPointF(p.bytes / self._scale, self._y(p.kld)), p.label) for p in self.points]
        self._labels_layer.set_labels(anchors, corners, self.theme.font(12), QColor(self.theme.tokens.text))

    def _front_corners(self) -> list[tuple[float, float]]:
        """The stepped line of the front in view coordinates; nothing for a single point."""
        corners: list[tuple[float, float]] = []
        front = self.front()
        for point, following in pairwise(front):
            corners.append((point.bytes / self._scale, self._y(point.kld)))
            corners.append((following.bytes / self._scale, self._y(point.kld)))
        if corners:
            corners.append((front[-1].bytes / self._scale, self._y(front[-1].kld)))
        return corners

    def _draw_point(self, point: ParetoPoint) -> None:
        x = point.bytes / self._scale
        if point.error > 0:
            low, high = self._y(point.kld - point.error), self._y(point.kld + point.error)
            middle = (low + high) / 2
            bars = pg.ErrorBarItem(
                x=np.array([x]),
                y=np.array([middle]),
                height=np.array([high - low]),
                pen=pg.mkPen(self.theme.tokens.text, width=1),
            )
            bars.setZValue(25)
            self.plot.addItem(bars)
        dot = pg.ScatterPlotItem(
            [x],
            [self._y(point.kld)],
            size=12,
            symbol=self.symbol(point),
            brush=self.theme.type_color(point.type),
            pen=self.outline(),
        )
        dot.setZValue(20)
        self.plot.addItem(dot)

    def fit(self) -> None:
        if not self.points:
            return
        xs = [point.bytes / self._scale for point in self.points]
        lows = [self._y(point.kld - point.error) for point in self.points]
        highs = [self._y(point.kld + point.error) for point in self.points]
        room = (max(xs) - min(xs)) * 0.12 or max(xs) * 0.2 or 1.0
        self.plot.setXRange(min(xs) - room, max(xs) + room, padding=0)
        low, high = min(lows), max(highs)
        tall = (high - low) * 0.14 or (0.5 if self.log else high * 0.5 or 0.01)
        self.plot.setYRange(low - tall if self.log else min(0.0, low) - tall * 0.2, high + tall, padding=0)

    def hover(self, x: float, y: float, pixel: tuple[float, float]) -> str:
        def distance(point: ParetoPoint) -> float:
            return math.hypot((point.bytes / self._scale - x) / pixel[0], (self._y(point.kld) - y) / pixel[1])

        nearest = min(self.points, key=distance)
        if distance(nearest) > 28:
            return ""
        on_front = self.tr("on the front: nothing smaller is closer")
        return "\n".join(
            [
                nearest.label,
                self.x_words(nearest),
                f"KLD {significant(nearest.kld)} ± {significant(nearest.error, 2)} nats",
                *([on_front] if nearest in self.front() else []),
            ]
        )

    def data(self) -> tuple[list[str], list[list[Cell]]]:
        front = set(self.front())
        headers = [
            self.tr("Model"),
            self.tr("Type"),
            self.tr("Bytes"),
            self.tr("Mean KLD (nats)"),
            self.tr("± (nats)"),
            self.tr("On the front"),
        ]
        return headers, [[*point, self.tr("yes") if point in front else self.tr("no")] for point in self.points]
