"""The frame around every chart: title, legend, hover values, zoom with reset, saving, the data as a table.

A chart subclass keeps its data, draws them in :meth:`ChartFrame.redraw`, and answers three questions: what lies under
the pointer (:meth:`hover`), what the whole view is (:meth:`fit`), and what the numbers are (:meth:`data`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QAbstractTableModel, QEvent, QModelIndex, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QImage, QPainter, QResizeEvent, QWheelEvent
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMenu,
    QSizePolicy,
    QStackedWidget,
    QTableView,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.ui.chart_parts import (
    CATEGORICAL,
    DASHES,
    SYMBOLS,
    ChartAxis,
    HoverBox,
    Legend,
    SeriesStyle,
    decimal,
    significant,
)
from app.ui.widgets import LiveLabel

Cell = str | float | int | None

LOW = 210
"""A chart lower than this leaves out the name of its horizontal axis."""


class DataModel(QAbstractTableModel):
    """A chart's numbers, read-only."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.headers: list[str] = []
        self.rows: list[Sequence[Cell]] = []

    def set_data(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self.beginResetModel()
        self.headers, self.rows = list(headers), list(rows)
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.headers)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        value = self.rows[index.row()][index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            if isinstance(value, float):
                return significant(value, 4)
            if isinstance(value, int):
                return decimal(value, 0)
            return "–" if value is None else str(value)
        if role == Qt.ItemDataRole.TextAlignmentRole and not isinstance(value, str):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return self.headers[section] if orientation == Qt.Orientation.Horizontal else str(section + 1)


class ChartPlot(pg.PlotWidget):
    """The drawing area. The wheel zooms only with Ctrl held, so that a page scrolls over its charts."""

    def __init__(self) -> None:
        self.axes = {side: ChartAxis(side) for side in ("left", "bottom")}
        super().__init__(background=None, axisItems=self.axes)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.viewport().setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.getPlotItem().setMenuEnabled(False)
        self.getPlotItem().hideButtons()
        self.getViewBox().setMouseMode(pg.ViewBox.RectMode)
        self.getViewBox().disableAutoRange()
        self.setMinimumSize(120, 60)
        self.setStyleSheet("background: transparent; border: none;")
        for axis in self.axes.values():
            axis.setZValue(-1)  # the grid behind the data
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:
        return QSize(360, 200)

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            super().wheelEvent(event)
        else:
            event.ignore()


class ChartFrame(QWidget):
    """Base of the charts. ``theme`` gives tokens, fonts and type colours and says when it changed."""

    zoomed = Signal(bool)

    def __init__(self, theme: Any, title: str, empty: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme = theme
        self.title = title
        self.empty_text = empty or self.tr("Nothing measured yet")
        self.setAccessibleName(title)
        self._zoomed = False
        self._build()
        view = self.plot.getViewBox()
        view.sigRangeChangedManually.connect(self._on_manual_range)
        self.plot.scene().sigMouseMoved.connect(self._on_mouse)
        self.plot.installEventFilter(self)
        self.theme.changed.connect(self._restyle)
        self._restyle()

    # ---- what a subclass gives

    def redraw(self) -> None:
        """Draw everything anew from the data and the theme."""
        raise NotImplementedError

    def fit(self) -> None:
        """Show all data."""
        raise NotImplementedError

    def set_empty_text(self, text: str) -> None:
        """What stands where nothing is drawn."""
        self.empty_text = text
        self._empty.setText(text)

    def is_empty(self) -> bool:
        raise NotImplementedError

    def data(self) -> tuple[list[str], list[list[Cell]]]:
        """Column headers and rows of everything that the chart shows, in base units."""
        raise NotImplementedError

    def hover(self, x: float, y: float, pixel: tuple[float, float]) -> str:
        """Text for the point of the view under the pointer; empty for nothing. ``pixel`` is view units a pixel."""
        raise NotImplementedError

    def styles(self) -> list[SeriesStyle]:
        return []

    def legend_styles(self) -> list[SeriesStyle]:
        """A lone series needs no legend: the title names it."""
        shown = self.styles()
        return shown if len(shown) > 1 else []

    # ---- for users of a chart

    def refresh(self) -> None:
        """Call after the data changed."""
        empty = self.is_empty()
        showing_table = self._data_action.isChecked()
        self._stack.setCurrentIndex(0 if empty else 2 if showing_table else 1)
        self._menu_button.setEnabled(not empty)
        shown = self.legend_styles()
        text, outline = QColor(self.theme.tokens.text), QColor(self.theme.tokens.muted)
        self.legend.set_styles([] if empty or showing_table else shown, text, outline)
        if empty:
            self.plot.clear()
            self._box.hide()
            return
        self.redraw()
        self.plot.axes["bottom"].reserve()
        if not self._zoomed:
            self.fit()
        if showing_table:
            self._model.set_data(*self.data())

    def reset_zoom(self) -> None:
        self._zoomed = False
        self._reset_button.hide()
        self.fit()
        self.zoomed.emit(False)

    def show_data(self, on: bool) -> None:
        """Show the numbers as a table instead of the picture (also for screen readers)."""
        self._data_action.setChecked(on)

    def set_axis_labels(self, x_label: str, y_label: str) -> None:
        self._labels = (x_label, y_label)
        muted = self.theme.tokens.muted
        for side, text in (("bottom", x_label), ("left", y_label)):
            axis = self.plot.axes[side]
            axis.setLabel(text or None, color=muted, **{"font-size": "12px"})
        self._show_labels()

    def _show_labels(self) -> None:
        """The names of the axes, where there is room for them: title and hover say them too."""
        x_label, y_label = getattr(self, "_labels", ("", ""))
        low = self.height() < LOW
        upright = QFontMetrics(self.theme.font(12)).horizontalAdvance(y_label)
        for side, shown in (
            ("bottom", bool(x_label) and not low),
            ("left", bool(y_label) and upright < self.plot.height() - 36),
        ):
            if self.plot.axes[side].label.isVisible() != shown:
                self.plot.axes[side].showLabel(shown)
        self.plot.axes["bottom"].reserve()

    def save_png(self, path: str) -> None:
        size = self._picture_size()
        image = QImage(size * 2, QImage.Format.Format_ARGB32)
        image.fill(QColor(self.theme.tokens.surface))
        painter = QPainter(image)
        painter.scale(2, 2)
        self._paint_picture(painter, size)
        painter.end()
        if not image.save(path, "PNG"):
            raise OSError(f"could not write {path}")

    def save_svg(self, path: str) -> None:
        size = self._picture_size()
        generator = QSvgGenerator()
        generator.setFileName(path)
        generator.setSize(size)
        generator.setResolution(self.logicalDpiX())  # else the axes, recorded as pictures, come out in another scale
        generator.setViewBox(QRect(0, 0, size.width(), size.height()))
        generator.setTitle(self.title)
        painter = QPainter(generator)
        if not painter.isActive():
            raise OSError(f"could not write {path}")
        painter.fillRect(QRect(0, 0, size.width(), size.height()), QColor(self.theme.tokens.surface))
        self._paint_picture(painter, size)
        painter.end()

    def save_csv(self, path: str) -> None:
        headers, rows = self.data()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(headers)
            writer.writerows(["" if cell is None else cell for cell in row] for row in rows)

    # ---- colours

    def categorical(self, index: int) -> QColor:
        colours = CATEGORICAL[bool(self.theme.is_dark)]
        return QColor(colours[index % len(colours)])

    def style_for(self, name: str, type_name: str | None, index: int, kind: str = "line", twin: int = 0) -> SeriesStyle:
        """A type's own colour, or a categorical one. ``twin`` counts earlier series of that colour (dash, marker)."""
        if type_name:
            colour, step = QColor(self.theme.type_color(type_name)), twin
        else:
            colour, step = self.categorical(index), index
        return SeriesStyle(name, colour, DASHES[step % len(DASHES)], SYMBOLS[step % len(SYMBOLS)], kind)

    def outline(self) -> Any:
        """Pen around a filled mark, so that a light colour stays visible on a light surface."""
        return pg.mkPen(self.theme.tokens.muted, width=1)

    def casing(self) -> Any:
        """Wider, fainter pen drawn under short lines for the same reason."""
        colour = QColor(self.theme.tokens.text)
        colour.setAlpha(70)
        return pg.mkPen(colour, width=3)

    # ---- inside

    def _build(self) -> None:
        self._title = QLabel(self.title)
        self._title.setTextFormat(Qt.TextFormat.PlainText)
        self._title.setFont(self.theme.font(13, True))
        self._title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.readout = LiveLabel(self.theme.mono())
        self._reset_button = QToolButton()
        self._reset_button.setText(self.tr("Reset zoom"))
        self._reset_button.setAccessibleName(self.tr("Reset zoom of %1").replace("%1", self.title))
        self._reset_button.clicked.connect(self.reset_zoom)
        self._reset_button.hide()
        self._menu_button = QToolButton()
        self._menu_button.setText("⋯")
        self._menu_button.setToolTip(self.tr("Save this chart or show its numbers"))
        self._menu_button.setAccessibleName(self.tr("Menu of chart %1").replace("%1", self.title))
        self._menu_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu_button.setMenu(self._build_menu())
        self._menu_button.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        header = QHBoxLayout()
        header.setContentsMargins(0, 0, 0, 0)
        header.addWidget(self._title, 1)
        header.addWidget(self.readout)
        header.addWidget(self._reset_button)
        header.addWidget(self._menu_button)
        self.legend = Legend(self)
        self.plot = ChartPlot()
        self.plot.setAccessibleName(self.tr("%1, chart; its numbers are under Show data").replace("%1", self.title))
        self._box = HoverBox(self.plot)
        self._empty = QLabel(self.empty_text)
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._empty.setWordWrap(True)
        self._model = DataModel(self)
        self.table = QTableView()
        self.table.setModel(self._model)
        self.table.setAccessibleName(self.tr("Data of %1").replace("%1", self.title))
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.verticalHeader().hide()
        self._stack = QStackedWidget()
        for widget in (self._empty, self.plot, self.table):
            self._stack.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(header)
        layout.addWidget(self.legend)
        layout.addWidget(self._stack, 1)

    def _build_menu(self) -> QMenu:
        menu = QMenu(self)
        self._data_action = menu.addAction(self.tr("Show data"))
        self._data_action.setCheckable(True)
        self._data_action.toggled.connect(self.refresh)
        menu.addAction(self.tr("Reset zoom"), self.reset_zoom)
        menu.addSeparator()
        for text, suffix, save in (
            (self.tr("Save as PNG…"), "png", self.save_png),
            (self.tr("Save as SVG…"), "svg", self.save_svg),
            (self.tr("Save numbers as CSV…"), "csv", self.save_csv),
        ):
            menu.addAction(text).triggered.connect(lambda _=False, s=suffix, f=save: self._ask_and_save(s, f))
        return menu

    def _ask_and_save(self, suffix: str, save: Any) -> None:
        name = "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-") or "chart"
        path, _ = QFileDialog.getSaveFileName(self, self.title, f"{name}.{suffix}", f"*.{suffix}")
        if not path:
            return
        try:
            save(path)
        except OSError as error:
            self.readout.setText(self.tr("Not saved: %1").replace("%1", error.strerror or str(error)))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._show_labels()

    def _restyle(self) -> None:
        tokens = self.theme.tokens
        for axis in self.plot.axes.values():
            axis.setPen(pg.mkPen(tokens.border, width=1))
            axis.setTickPen(pg.mkPen(tokens.border, width=1))
            axis.setTextPen(tokens.muted)
            axis.setTickFont(self.theme.font(12))
            axis.setGrid(False if axis.names else 70)
        self.legend.setFont(self.theme.font(12))
        self._empty.setStyleSheet(f"color: {tokens.muted};")
        self.readout.setStyleSheet(f"color: {tokens.text};")
        self._box.setFont(self.theme.mono())
        self._box.setStyleSheet(
            f"QLabel#hoverBox {{ background: {tokens.raised}; color: {tokens.text};"
            f" border: 1px solid {tokens.border}; border-radius: 4px; padding: 4px 6px; }}"
        )
        self.set_axis_labels(*getattr(self, "_labels", ("", "")))
        if hasattr(self, "ready"):
            self.refresh()

    def _on_manual_range(self, *_: object) -> None:
        self._zoomed = True
        self._reset_button.show()
        self.zoomed.emit(True)

    def _on_mouse(self, position: QPointF) -> None:
        view = self.plot.getViewBox()
        if self.is_empty() or not view.sceneBoundingRect().contains(position):
            self._box.hide()
            return
        point = view.mapSceneToView(position)
        text = self.hover(point.x(), point.y(), view.viewPixelSize())
        if text:
            self._box.show_at(text, position.x(), position.y())
        else:
            self._box.hide()

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        if watched is self.plot and event.type() == QEvent.Type.Leave:
            self._box.hide()
        return super().eventFilter(watched, event)

    def _picture_size(self) -> QSize:
        plot = self.plot.size()
        width = max(plot.width(), 320)
        return QSize(width + 24, max(plot.height(), 180) + 40 + self.legend.height_for(width) + 12)

    def _paint_picture(self, painter: QPainter, size: QSize) -> None:
        self._box.hide()
        inner = size.width() - 24
        painter.setFont(self.theme.font(15, True))
        painter.setPen(QColor(self.theme.tokens.text))
        painter.drawText(QRect(12, 8, inner, 24), Qt.AlignmentFlag.AlignVCenter, self.title)
        painter.save()
        painter.translate(12, 36)
        self.legend.draw(painter, inner)
        painter.restore()
        top = 40 + self.legend.height_for(inner)
        self.plot.render(painter, QRectF(12, top, inner, size.height() - top - 12), self.plot.viewport().rect())
