"""The charts of the program, following its theme. Import late: pyqtgraph costs half a second.

Each is a QWidget with a title, hover values, a legend, zoom (drag a box, Ctrl and wheel), saving as PNG, SVG and CSV,
and its numbers as a table. ``append``/``set_*`` change the data; nothing is drawn while a chart is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QWidget

from app.ui.chart_frame import Cell, ChartFrame
from app.ui.chart_pareto import ParetoChart, pareto_front
from app.ui.chart_parts import SeriesStyle, byte_unit, decimal, plain, quantity, significant, step_digits
from app.ui.chart_time import TimeChart

__all__ = ["BarChart", "HistogramChart", "LineChart", "ParetoChart", "TimeChart", "pareto_front"]


class LineChart(ChartFrame):
    """Lines with markers through few points, optionally with error bars and one marked x value.

    Not ``connected``: markers alone, for x values that are names.
    """

    def __init__(
        self,
        theme: Any,
        title: str,
        x_label: str,
        y_label: str,
        parent: QWidget | None = None,
        *,
        empty: str = "",
        unit: str = "",
        log_y: bool = False,
        connected: bool = True,
    ) -> None:
        self.unit = unit
        self.log_y = log_y
        self.connected = connected
        self._series: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None, str | None]] = {}
        self._names: list[tuple[float, str]] = []
        self._mark: tuple[float, str] | None = None
        super().__init__(theme, title, empty, parent)
        self.set_axis_labels(x_label, y_label)
        self.plot.axes["left"].log = log_y
        self.plot.axes["bottom"].text = lambda value, spacing: decimal(value, step_digits(spacing))
        self.plot.getViewBox().sigResized.connect(self._on_resized)
        self.ready = True
        self.refresh()

    def set_series(
        self,
        name: str,
        xs: Sequence[float],
        ys: Sequence[float],
        errors: Sequence[float] | None = None,
        type_name: str | None = None,
    ) -> None:
        """Set or replace a line. ``errors`` are half-lengths of the bars. ``type_name`` gives it a type's colour."""
        spread = None if errors is None else np.asarray(errors, float)
        self._series[name] = (np.asarray(xs, float), np.asarray(ys, float), spread, type_name)
        self.refresh()

    def set_ticks(self, names: Sequence[tuple[float, str]]) -> None:
        """Name positions of the x axis instead of numbering them."""
        self._names = list(names)
        self.plot.axes["bottom"].names = self._names
        self.plot.axes["bottom"].setGrid(False)

    def mark(self, x: float | None, text: str = "") -> None:
        """A vertical line at ``x`` with words, or none."""
        self._mark = None if x is None else (x, text)
        self.refresh()

    def clear(self) -> None:
        self._series.clear()
        self._mark = None
        self.reset_zoom()
        self.refresh()

    def is_empty(self) -> bool:
        return not any(len(xs) for xs, *_ in self._series.values())

    def styles(self) -> list[SeriesStyle]:
        found, seen = [], dict[str, int]()
        for index, (name, (_, _, _, type_name)) in enumerate(self._series.items()):
            key = QColor(self.theme.type_color(type_name)).name() if type_name else ""
            twin = seen.get(key, 0) if key else 0
            seen[key] = twin + 1
            found.append(self.style_for(name, type_name, index, "line" if self.connected else "dot", twin))
        return found

    def _shown(self, ys: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(ys, 1e-9)) if self.log_y else ys

    def redraw(self) -> None:
        self.plot.clear()
        for style in self.styles():
            xs, ys, errors, _ = self._series[style.name]
            shown = self._shown(ys)
            if self.connected:
                self.plot.addItem(pg.PlotDataItem(xs, shown, pen=self.casing(), antialias=True))
            if errors is not None:
                low, high = self._shown(ys - errors), self._shown(ys + errors)
                bars = np.column_stack([low, high]).ravel()
                pen = pg.mkPen(self.theme.tokens.muted, width=1)
                self.plot.addItem(pg.PlotDataItem(np.repeat(xs, 2), bars, pen=pen, connect="pairs"))
            self.plot.addItem(
                pg.PlotDataItem(
                    xs,
                    shown,
                    pen=pg.mkPen(style.color, width=1, style=style.dash) if self.connected else None,
                    symbol=style.symbol,
                    symbolSize=8,
                    symbolBrush=style.color,
                    symbolPen=self.outline(),
                    antialias=True,
                )
            )
        if self._mark is not None:
            self._draw_mark(*self._mark)

    def _draw_mark(self, x: float, text: str) -> None:
        accent = self.theme.tokens.accent
        options = {"position": 0.93, "color": accent, "movable": False, "anchors": [(0, 0.5), (1, 0.5)]}
        pen = pg.mkPen(accent, width=1, style=Qt.PenStyle.DashLine)
        line = pg.InfiniteLine(x, angle=90, pen=pen, label=text, labelOpts=options)
        line.label.setFont(self.theme.font(12))
        self.plot.addItem(line)

    def fit(self) -> None:
        filled = [(xs, ys, errors) for xs, ys, errors, _ in self._series.values() if len(xs)]
        if not filled:
            return
        left, right = min(xs.min() for xs, *_ in filled), max(xs.max() for xs, *_ in filled)
        tops = [float((ys if errors is None else ys + errors).max()) for _, ys, errors in filled]
        room = 0.5 if self._names and not self.connected else (right - left) * 0.05 or 0.5
        self.plot.setXRange(left - room, right + max(room, self._room_for_last(right - left + room)), padding=0)
        if self.log_y:
            lows = [float(np.maximum(ys[ys > 0], 1e-9).min()) for _, ys, _ in filled if (ys > 0).any()] or [1e-3]
            low, high = np.log10(min(lows)), np.log10(max(*tops, 1e-9))
            self.plot.setYRange(low - 0.15, max(high, low + 0.3) + 0.15, padding=0)
        else:
            self.plot.setYRange(0, max(tops) * 1.15 if max(tops) > 0 else 1.0, padding=0)

    def _room_for_last(self, span: float) -> float:
        """How far the x axis must go beyond the last of its names, at the end of ``span``, to show it whole."""
        axis = self.plot.axes["bottom"]
        over = axis.overhang()
        return span * over / max(1.0, axis.width() - over)

    def _on_resized(self, *_: object) -> None:
        if self._names and not self._zoomed and not self.is_empty():
            self.fit()

    def hover(self, x: float, y: float, pixel: tuple[float, float]) -> str:
        positions = np.unique(np.concatenate([xs for xs, *_ in self._series.values() if len(xs)]))
        nearest = float(positions[np.abs(positions - x).argmin()])
        lines = [dict(self._names).get(nearest) or f"{self._labels[0]}: {significant(nearest, 4)}"]
        for name, (xs, ys, errors, _) in self._series.items():
            at = np.flatnonzero(xs == nearest)
            if len(at):
                more = "" if errors is None else f" ± {significant(float(errors[at[0]]), 2)}"
                lines.append(f"{name}: {significant(float(ys[at[0]]))}{more} {self.unit}".rstrip())
        return "\n".join(lines)

    def data(self) -> tuple[list[str], list[list[Cell]]]:
        rows: list[list[Cell]] = []
        names = dict(self._names)
        for name, (xs, ys, errors, _) in self._series.items():
            for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
                rows.append(
                    [name, names.get(float(x), float(x)), float(y), None if errors is None else float(errors[i])]
                )
        return [self.tr("Series"), self._labels[0], self._labels[1], self.tr("±")], rows


class HistogramChart(ChartFrame):
    """Share of counts in bins of a logarithmic quantity, one outline a series. Edges are log10 of the quantity."""

    def __init__(
        self,
        theme: Any,
        title: str,
        x_label: str,
        edges: Sequence[float],
        parent: QWidget | None = None,
        *,
        empty: str = "",
    ) -> None:
        self.edges = np.asarray(edges, float)
        self._series: dict[str, tuple[np.ndarray, str | None]] = {}
        super().__init__(theme, title, empty, parent)
        self.set_axis_labels(x_label, self.tr("share of tokens (%)"))
        self.plot.axes["bottom"].log = True
        self.ready = True
        self.refresh()

    def set_series(self, name: str, counts: Sequence[int], type_name: str | None = None) -> None:
        """Counts of each bin: one fewer than there are edges."""
        self._series[name] = (np.asarray(counts, float), type_name)
        self.refresh()

    def clear(self) -> None:
        self._series.clear()
        self.reset_zoom()
        self.refresh()

    def is_empty(self) -> bool:
        return not any(counts.sum() > 0 for counts, _ in self._series.values())

    def styles(self) -> list[SeriesStyle]:
        filled = [(name, kind) for name, (counts, kind) in self._series.items() if counts.sum() > 0]
        return [self.style_for(name, kind, index) for index, (name, kind) in enumerate(filled)]

    def _share(self, name: str) -> np.ndarray:
        counts = self._series[name][0]
        return counts / counts.sum() * 100.0

    def redraw(self) -> None:
        self.plot.clear()
        for style in self.styles():
            share = self._share(style.name)
            fill = QColor(style.color)
            fill.setAlpha(38)
            step = {"stepMode": "center", "antialias": True}
            self.plot.addItem(pg.PlotDataItem(self.edges, share, pen=self.casing(), **step))
            pen = pg.mkPen(style.color, width=1)
            self.plot.addItem(pg.PlotDataItem(self.edges, share, pen=pen, fillLevel=0, brush=fill, **step))

    def fit(self) -> None:
        shares = [self._share(style.name) for style in self.styles()]
        if not shares:
            return
        used = np.flatnonzero(np.sum(shares, axis=0) > 0)
        left, right = self.edges[max(0, used[0] - 1)], self.edges[min(len(self.edges) - 1, used[-1] + 2)]
        self.plot.setXRange(left, right, padding=0)
        self.plot.setYRange(0, max(float(share.max()) for share in shares) * 1.1, padding=0)

    def hover(self, x: float, y: float, pixel: tuple[float, float]) -> str:
        bin_index = int(np.searchsorted(self.edges, x) - 1)
        if not 0 <= bin_index < len(self.edges) - 1:
            return ""
        low, high = (plain(10.0 ** self.edges[bin_index + i]) for i in (0, 1))
        lines = [self.tr("%1 to %2 nats").replace("%1", low).replace("%2", high)]
        lines += [f"{style.name}: {decimal(self._share(style.name)[bin_index], 1)} %" for style in self.styles()]
        return "\n".join(lines)

    def data(self) -> tuple[list[str], list[list[Cell]]]:
        names = list(self._series)
        rows: list[list[Cell]] = []
        for i, (low, high) in enumerate(pairwise(self.edges)):
            rows.append([float(10**low), float(10**high), *(int(self._series[name][0][i]) for name in names)])
        return [self.tr("From (nats)"), self.tr("To (nats)"), *names], rows


class BarChart(ChartFrame):
    """Groups of bars, one bar a series, side by side or stacked. Values may have errors; ``None`` leaves a gap."""

    def __init__(
        self,
        theme: Any,
        title: str,
        y_label: str,
        parent: QWidget | None = None,
        *,
        unit: str = "",
        stacked: bool = False,
        empty: str = "",
        top: float | None = None,
        legend: bool = True,
    ) -> None:
        self.unit, self.stacked, self.top, self.with_legend = unit, stacked, top, legend
        self._y_label = y_label
        self._groups: list[str] = []
        self._series: list[tuple[str, list[float | None], str | None, list[float] | None]] = []
        self._scale = 1.0
        super().__init__(theme, title, empty, parent)
        self.set_axis_labels("", y_label)
        self.ready = True
        self.refresh()

    def set_groups(self, groups: Sequence[str]) -> None:
        """Name the groups; the series are forgotten."""
        self._groups, self._series = list(groups), []
        self.refresh()

    def set_series(
        self,
        name: str,
        values: Sequence[float | None],
        type_name: str | None = None,
        errors: Sequence[float] | None = None,
    ) -> None:
        """One value a group."""
        row = (name, list(values), type_name, None if errors is None else list(errors))
        at = next((i for i, (known, *_) in enumerate(self._series) if known == name), None)
        if at is None:
            self._series.append(row)
        else:
            self._series[at] = row
        self.refresh()

    def clear(self) -> None:
        self.set_groups([])

    def is_empty(self) -> bool:
        return not any(value is not None for _, values, *_ in self._series for value in values)

    def styles(self) -> list[SeriesStyle]:
        return [self.style_for(name, kind, index, kind="box") for index, (name, _, kind, _) in enumerate(self._series)]

    def _bars(self) -> list[tuple[int, int, float, float, float]]:
        """(series, group, left, width, bottom) of every bar in axis units."""
        found = []
        count = 1 if self.stacked else max(1, len(self._series))
        width = min(0.8 / count, 0.3)
        bottoms = [0.0] * len(self._groups)
        for s, (_, values, _, _) in enumerate(self._series):
            for g, value in enumerate(values):
                if value is None:
                    continue
                slot = 0 if self.stacked else s
                left = g - width * count / 2 + slot * width
                found.append((s, g, left, width, bottoms[g] if self.stacked else 0.0))
                bottoms[g] += value
        return found

    def _value(self, series: int, group: int) -> float:
        value = self._series[series][1][group]
        return 0.0 if value is None else float(value)

    def legend_styles(self) -> list[SeriesStyle]:
        return super().legend_styles() if self.with_legend else []

    def _largest(self) -> float:
        return max((bottom + self._value(s, g) + self._error(s, g) for s, g, _, _, bottom in self._bars()), default=1.0)

    def _error(self, series: int, group: int) -> float:
        errors = self._series[series][3]
        return 0.0 if errors is None else errors[group]

    def redraw(self) -> None:
        self.plot.clear()
        if self.unit == "B":
            name, self._scale = byte_unit(self._largest())
            self.set_axis_labels("", f"{self._y_label} ({name})")
        self.plot.axes["bottom"].names = [(float(i), name) for i, name in enumerate(self._groups)]
        self.plot.axes["bottom"].setGrid(False)
        styles, bars = self.styles(), self._bars()
        for index, style in enumerate(styles):
            mine = [bar for bar in bars if bar[0] == index]
            if not mine:
                continue
            heights = [self._value(s, g) / self._scale for s, g, *_ in mine]
            lefts, widths = [bar[2] for bar in mine], [bar[3] * 0.92 for bar in mine]
            floors = [bar[4] / self._scale for bar in mine]
            item = pg.BarGraphItem(
                x0=lefts, width=widths, y0=floors, height=heights, brush=style.color, pen=self.outline()
            )
            self.plot.addItem(item)
            errors = self._series[index][3]
            if errors is not None:
                xs = np.repeat([left + wide / 2 for left, wide in zip(lefts, widths, strict=True)], 2)
                spread = [errors[g] / self._scale for _, g, *_ in mine]
                ys = np.array([(h - e, h + e) for h, e in zip(heights, spread, strict=True)]).ravel()
                self.plot.addItem(pg.PlotDataItem(xs, ys, pen=pg.mkPen(self.theme.tokens.text), connect="pairs"))

    def fit(self) -> None:
        self.plot.setXRange(-0.6, len(self._groups) - 0.4, padding=0)
        top = self.top if self.top is not None else self._largest() / self._scale * 1.1
        self.plot.setYRange(0, top or 1.0, padding=0)

    def hover(self, x: float, y: float, pixel: tuple[float, float]) -> str:
        group = round(x)
        if not 0 <= group < len(self._groups):
            return ""
        lines = [self._groups[group]]
        for name, values, _, errors in self._series:
            value = values[group]
            if value is not None:
                more = "" if errors is None else f" ± {significant(errors[group], 2)}"
                lines.append(f"{name}: {quantity(value, self.unit)}{more}")
        return "\n".join(lines)

    def data(self) -> tuple[list[str], list[list[Cell]]]:
        rows: list[list[Cell]] = [
            [group, *(values[i] for _, values, *_ in self._series)] for i, group in enumerate(self._groups)
        ]
        return [self.tr("Group"), *(name for name, *_ in self._series)], rows
