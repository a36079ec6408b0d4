"""Parts shared by every chart: axes with human numbers, series styles, the legend, the hover box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QLocale, QPointF, QRect, QRectF, Qt, QTimer
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPen, QPolygonF
from PySide6.QtWidgets import QGraphicsLayout, QLabel, QSizePolicy, QWidget

DASHES = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine, Qt.PenStyle.DashDotLine)
SYMBOLS = ("o", "s", "t1", "d", "t", "star", "h", "p")
CATEGORICAL = {
    # Kept apart for colour-blind eyes by lightness as well as by hue; every one is above 3:1 on its surface.
    True: ("#3CCFBE", "#F2B84B", "#8AB4F8", "#F29BC1", "#C3B1F5", "#D8DDE0"),
    False: ("#0F6E66", "#A65E00", "#2B5FC4", "#A8326F", "#6B4FC0", "#4A4F54"),
}
MOST_ROWS = 4
"""Lines on which names under an axis stand in turn; one fewer where that many would not show them whole."""
BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn and shown in the legend. ``kind`` is ``line``, ``dot`` or ``box``."""

    name: str
    color: QColor
    dash: Qt.PenStyle = Qt.PenStyle.SolidLine
    symbol: str = "o"
    kind: str = "line"


def byte_unit(largest: float) -> tuple[str, float]:
    """Unit and divisor in which ``largest`` bytes reads as 1 to 1024."""
    power = 0 if largest < 1 else min(int(math.log(largest, 1024)), len(BYTE_UNITS) - 1)
    return BYTE_UNITS[power], float(1024**power)


def decimal(value: float, digits: int) -> str:
    """``value`` with ``digits`` decimals, by locale, with a true minus sign."""
    return QLocale().toString(float(value), "f", digits).replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """``value`` rounded to ``digits`` significant figures, never in scientific notation above 1e-7."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return decimal(round(value, places), max(0, min(places, 9)))


def plain(value: float) -> str:
    """Two figures without idle zeros, for the ticks of a logarithmic axis: ``0.001``, ``0.15``, ``20``."""
    text, point = significant(value, 2), QLocale().decimalPoint()
    return text.rstrip("0").rstrip(point) if point in text else text


def quantity(value: float, unit: str) -> str:
    """A number with its unit for people: bytes in binary units, everything else with three figures."""
    if unit in ("B", "B/s"):
        name, divisor = byte_unit(abs(value))
        return f"{decimal(value / divisor, 0 if name == 'B' else 1)} {name}{unit[1:]}"
    if unit == "%":
        return f"{decimal(value, 1)} %"
    text = decimal(value, 0) if abs(value) >= 1000 else significant(value)
    return f"{text} {unit}".strip()


def step_digits(spacing: float) -> int:
    """Decimals needed to tell ticks ``spacing`` apart."""
    return 0 if spacing >= 1 or spacing <= 0 else min(9, math.ceil(-math.log10(spacing) - 1e-9))


class ChartAxis(pg.AxisItem):
    """An axis that speaks to people: plain decimals, decades when ``log``, names when ``names`` is set.

    With ``log`` the data are log10 of the value and ticks show the value itself. ``names`` are (position, text); each
    is elided to the room between neighbours.
    """

    def __init__(self, orientation: str) -> None:
        super().__init__(orientation, maxTickLength=-4)
        self.enableAutoSIPrefix(False)
        self.log = False
        self.names: list[tuple[float, str]] = []
        # A height set within the layout's own pass is lost: the lines that the names need are counted after it.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._settle)
        self.text: Callable[[float, float], str] | None = None
        self.setStyle(tickTextOffset=6, autoExpandTextSpace=True, hideOverlappingLabels=False)

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[tuple[float, list[float]]]:
        if self.names:
            return [(1.0, [position for position, _ in self.names if minVal <= position <= maxVal])]
        if not self.log:
            levels = super().tickValues(minVal, maxVal, size)
            return self._thinned(levels[:1] if len(levels[0][1]) >= 3 else levels[:2], size)
        low, high = math.floor(minVal), math.ceil(maxVal)
        room = 28 if self.orientation in ("left", "right") else 60
        every = max(1, math.ceil((maxVal - minVal) / max(1.0, size / room)))
        low -= low % every
        steps: tuple[float, ...] = (1,)
        if maxVal - minVal < 2.6:
            steps = (1, 2, 5)
        if maxVal - minVal < 0.7:
            steps = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        values = [
            power + math.log10(step)
            for power in range(low, high + 1, every)
            for step in steps
            if minVal <= power + math.log10(step) <= maxVal
        ]
        return [(1.0, values)]

    def _thinned(self, levels: list[tuple[float, list[float]]], size: float) -> list[tuple[float, list[float]]]:
        """Every second tick of a horizontal axis for as long as their texts would touch."""
        if self.orientation in ("left", "right"):
            return levels
        spacing, values = min(level[0] for level in levels), sorted(v for _, found in levels for v in found)
        wide = max((self._metrics().horizontalAdvance(t) for t in self.tickStrings(values, 1.0, spacing)), default=0)
        while len(values) > 2 and len(values) * (wide + 10) > size:
            values = values[1::2]
        return [(spacing, values)]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        if self.names:
            known = dict(self.names)
            return self._named([known[value] for value in values])
        if self.text is not None:
            return [self.text(value, spacing) for value in values]
        if self.log:
            return [plain(10.0**value) for value in values]
        return [decimal(value, step_digits(spacing)) for value in values]

    def _metrics(self) -> QFontMetrics:
        return QFontMetrics(self.style["tickFont"]) if self.style["tickFont"] else QFontMetrics(self.font())

    def _room(self) -> float:
        return self.width() / max(1, len(self.names))

    def resizeEvent(self, event: Any = None) -> None:
        super().resizeEvent(event)
        if getattr(self, "names", None):  # called by the base class before they are there
            self._later.start()

    def _settle(self) -> None:
        self.reserve()
        layout = self.parentLayoutItem()
        if isinstance(layout, QGraphicsLayout):
            layout.activate()

    def reserve(self) -> None:
        """Height for the names of a bottom axis: of itself the axis grows only after it was painted once."""
        if not self.names or self.orientation != "bottom":
            if self.fixedHeight is not None:  # setting it draws the whole axis again
                self.setHeight(None)
            return
        label = self.label.boundingRect().height() * 0.8 if self.label.isVisible() else 0
        self.setHeight(self._rows() * self._metrics().height() + self.style["tickTextOffset"][1] + 6 + label)

    def _rows(self) -> int:
        widest = max((self._metrics().horizontalAdvance(text) for _, text in self.names), default=0)
        needed = math.ceil((widest + 6) / max(1.0, self._room()))
        return max(1, needed if needed <= MOST_ROWS else MOST_ROWS - 1)

    def overhang(self) -> float:
        """Pixels by which the last name of a bottom axis reaches to the right of its place."""
        texts = [text.strip("\n") for text in self._named([text for _, text in self.names])]
        return self._metrics().horizontalAdvance(texts[-1]) / 2 if texts else 0.0

    def _named(self, texts: list[str]) -> list[str]:
        """Whole names, on up to ``MOST_ROWS`` lines in turn where they lack room, at last shortened in the middle."""
        metrics, middle = self._metrics(), Qt.TextElideMode.ElideMiddle
        if self.orientation not in ("bottom", "top"):
            return [metrics.elidedText(text, middle, 144) for text in texts]
        rows = self._rows()
        texts = [metrics.elidedText(text, middle, int(rows * self._room()) - 4) for text in texts]
        return ["\n" * (i % rows) + text + "\n" * (rows - 1 - i % rows) for i, text in enumerate(texts)]


class Legend(QWidget):
    """A row of swatches and names, closer together before it wraps; also painted into exported pictures."""

    ROW = 20
    SWATCH = 18
    LOOSE, DENSE = (6, 16), (4, 8)
    """Pixels between swatch and name, and after the name."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.styles: list[SeriesStyle] = []
        self._text = QColor("black")
        self._outline = QColor("grey")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.hide()

    def set_styles(self, styles: Sequence[SeriesStyle], text: QColor, outline: QColor) -> None:
        self.styles, self._text, self._outline = list(styles), text, outline
        self.setVisible(bool(self.styles))
        self.setAccessibleName(self.tr("Legend: %1").replace("%1", ", ".join(style.name for style in self.styles)))
        self._fit()
        self.update()

    def rects(self, width: int) -> list[QRect]:
        """Where each entry goes in ``width`` pixels, row after row."""
        metrics = QFontMetrics(self.font())
        found, x, y = [], 0, 0
        swatch, spaces = self._swatch_width(width), self._spaces(width)
        for style in self.styles:
            wide = min(swatch + metrics.horizontalAdvance(style.name) + sum(spaces), width)
            if x and x + wide > width:
                x, y = 0, y + self.ROW
            found.append(QRect(x, y, wide, self.ROW))
            x += wide
        return found

    def _is_dense(self, width: int) -> bool:
        metrics = QFontMetrics(self.font())
        names = sum(metrics.horizontalAdvance(style.name) for style in self.styles)
        return names + len(self.styles) * (self.SWATCH + sum(self.LOOSE)) > width

    def _swatch_width(self, width: int) -> int:
        return self.SWATCH - 6 if self._is_dense(width) else self.SWATCH

    def _spaces(self, width: int) -> tuple[int, int]:
        return self.DENSE if self._is_dense(width) else self.LOOSE

    def height_for(self, width: int) -> int:
        rects = self.rects(width)
        return rects[-1].bottom() + 1 if rects else 0

    def draw(self, painter: QPainter, width: int) -> None:
        metrics = QFontMetrics(self.font())
        painter.setFont(self.font())
        for style, rect in zip(self.styles, self.rects(width), strict=True):
            swatch, (before, after) = self._swatch_width(width), self._spaces(width)
            self._swatch(painter, style, QRect(rect.x(), rect.y(), swatch, self.ROW))
            painter.setPen(self._text)
            area = rect.adjusted(swatch + before, 0, -after // 2, 0)
            text = metrics.elidedText(style.name, Qt.TextElideMode.ElideMiddle, area.width())
            painter.drawText(area, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, text)

    def _swatch(self, painter: QPainter, style: SeriesStyle, box: QRect) -> None:
        centre = QPointF(box.center())
        if style.kind == "line":
            casing = QColor(self._text)
            casing.setAlpha(70)
            for pen in (QPen(casing, 4), QPen(style.color, 2, style.dash)):
                pen.setCapStyle(Qt.PenCapStyle.FlatCap)
                painter.setPen(pen)
                painter.drawLine(QPointF(box.left() + 1, centre.y()), QPointF(box.right() + 1, centre.y()))
            return
        painter.setPen(QPen(self._outline, 1))
        painter.setBrush(style.color)
        if style.kind == "dot":
            draw_symbol(painter, style.symbol, centre, 5)
        else:
            painter.drawRect(QRectF(centre.x() - 5, centre.y() - 5, 10, 10))
        painter.setBrush(Qt.BrushStyle.NoBrush)

    def _fit(self) -> None:
        self.setFixedHeight(max(1, self.height_for(max(60, self.width()))))

    def resizeEvent(self, event: object) -> None:
        self._fit()

    def paintEvent(self, event: object) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.draw(painter, self.width())
        painter.end()


def draw_symbol(painter: QPainter, symbol: str, centre: QPointF, radius: float) -> None:
    """A marker as pyqtgraph draws it, for legends: circle, square, triangle up, diamond; others as a circle."""
    x, y = centre.x(), centre.y()
    corners = {
        "s": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "t1": [(0, -1), (1, 1), (-1, 1)],
        "t": [(0, 1), (1, -1), (-1, -1)],
        "d": [(0, -1.2), (1, 0), (0, 1.2), (-1, 0)],
    }.get(symbol)
    if corners is None:
        painter.drawEllipse(centre, radius, radius)
        return
    painter.drawPolygon(QPolygonF([QPointF(x + dx * radius, y + dy * radius) for dx, dy in corners]))


class HoverBox(QLabel):
    """The values under the pointer, beside it and always inside the chart."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setObjectName("hoverBox")
        self.hide()

    def show_at(self, text: str, x: float, y: float) -> None:
        self.setText(text)
        self.adjustSize()
        area = self.parentWidget().rect()
        left = x + 14 if x + 14 + self.width() < area.width() else x - 14 - self.width()
        top = min(max(4.0, y - self.height() / 2), area.height() - self.height() - 4.0)
        self.move(int(max(2.0, left)), int(top))
        self.show()
        self.raise_()
