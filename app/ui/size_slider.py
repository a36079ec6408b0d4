"""A slider over sizes of files, with the sizes of standard recipes marked under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QEvent, QRect, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QSlider, QStyle, QToolTip, QVBoxLayout, QWidget

from app.ui import format as fmt

STEPS = 1000
_HANDLE = 16
_TICK, _LABEL = 8, 16
_NEAR = 8

Marks = Sequence[tuple[str, int]]


class _Strip(QWidget):
    """The marks. A click takes the size of the nearest one: ``chosen``."""

    chosen = Signal(object)

    def __init__(self, theme: Any, slider: QSlider) -> None:
        super().__init__()
        self._theme = theme
        self._slider = slider
        self.marks: Marks = ()
        self.span = (0, 1)
        self.judge = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(_TICK + _LABEL + 2)
        theme.changed.connect(self.update)

    def place(self, size: int) -> int:
        """Where a size stands, in pixels from the left."""
        least, most = self.span
        at = round(STEPS * (size - least) / max(1, most - least))
        return _HANDLE // 2 + QStyle.sliderPositionFromValue(0, STEPS, at, self.width() - _HANDLE)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(self._theme.font(12))
        tokens = self._theme.tokens
        for name, size in self.marks:
            painter.setPen(QPen(QColor(tokens.text if name == self.judge else tokens.muted), 1))
            painter.drawLine(self.place(size), 0, self.place(size), _TICK - 3)
        for name, area in self._labels().items():
            painter.setPen(QColor(tokens.text if name == self.judge else tokens.muted))
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextDontClip, name)
        painter.end()

    def _labels(self) -> dict[str, QRect]:
        """Names that have room: that of the recipe to beat first, then the mixes that most people take."""
        metrics = QFontMetrics(self._theme.font(12))
        found: dict[str, QRect] = {}
        for name, size in sorted(self.marks, key=lambda mark: (mark[0] != self.judge, mark[0].endswith("_S"))):
            wide = metrics.horizontalAdvance(name)
            left = min(max(0, self.place(size) - wide // 2), self.width() - wide)
            area = QRect(left, _TICK - 2, wide, _LABEL)
            if not any(area.adjusted(-6, 0, 6, 0).intersects(other) for other in found.values()):
                found[name] = area
        return found

    def _nearest(self, x: int) -> tuple[str, int] | None:
        near = min(self.marks, key=lambda mark: abs(self.place(mark[1]) - x), default=None)
        labelled = next((mark for mark in self.marks if self._labels().get(mark[0], QRect()).contains(x, _TICK)), None)
        return labelled or (near if near and abs(self.place(near[1]) - x) <= _NEAR else None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        found = self._nearest(round(event.position().x()))
        if found is not None:
            self.chosen.emit(found[1])

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            found = self._nearest(event.pos().x())
            if found is not None:
                QToolTip.showText(event.globalPos(), f"{found[0]}: {fmt.size(found[1])}", self)
            return True
        return super().event(event)


class SizeSlider(QWidget):
    """``changed`` carries the size in bytes when the person moves it or clicks a mark."""

    changed = Signal(object)

    def __init__(self, theme: Any, name: str) -> None:
        super().__init__()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setPageStep(STEPS // 20)
        self.slider.setSingleStep(STEPS // 200)
        self.slider.setAccessibleName(name)
        self.strip = _Strip(theme, self.slider)
        self.strip.chosen.connect(self.changed)
        self.slider.valueChanged.connect(self._moved)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.slider)
        layout.addWidget(self.strip)

    def sizeHint(self) -> QSize:
        return QSize(200, super().sizeHint().height())

    def set_span(self, least: int, most: int, marks: Marks, judge: str) -> None:
        """The smallest and the largest size, the marks, and which of them is the recipe to beat."""
        self.strip.span, self.strip.marks, self.strip.judge = (least, most), marks, judge
        words = ", ".join(f"{name} {fmt.size(size)}" for name, size in marks)
        self.slider.setAccessibleDescription(self.tr("Standard types: {0}").format(words))
        self.strip.update()

    def set_size(self, size: int) -> None:
        """Show a size; nothing is emitted."""
        least, most = self.strip.span
        self.slider.blockSignals(True)
        self.slider.setValue(round(STEPS * (size - least) / max(1, most - least)))
        self.slider.blockSignals(False)

    def _moved(self, value: int) -> None:
        least, most = self.strip.span
        self.changed.emit(least + round((most - least) * value / STEPS))


__all__ = ["STEPS", "SizeSlider"]
