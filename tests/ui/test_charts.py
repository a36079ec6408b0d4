"""The charts: what they compute, what they show, what they save, and that they rest when nobody looks."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QImage, QWheelEvent
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot

from app.measure_messages import HISTOGRAM_EDGES
from app.quality.texts import BUNDLED
from app.ui.chart_frame import ChartFrame
from app.ui.chart_pareto import ParetoPoint
from app.ui.chart_parts import ChartAxis, byte_unit, quantity
from app.ui.chart_time import Ring
from app.ui.charts import BarChart, HistogramChart, LineChart, ParetoChart, TimeChart, pareto_front
from app.ui.theme import Theme

MIB = 1 << 20
SIX = [
    ("Q8_0", "Q8_0", 5_646_848, 0.00034, 0.00005),
    ("Q6_K", "Q6_K", 4_377_088, 0.0020, 0.0003),
    ("Q5_K_M", "Q5_K_M", 3_811_328, 0.0040, 0.0006),
    ("Q4_K_M", "Q4_K_M", 3_278_848, 0.012, 0.002),
    ("Q3_K_M", "Q3_K_M", 2_777_088, 0.029, 0.004),
    ("Q2_K", "Q2_K", 2_234_368, 0.13, 0.02),
]


@pytest.fixture
def theme(qapp: object) -> Iterator[Theme]:
    made = Theme("light")
    yield made
    made.deleteLater()


@pytest.fixture
def show(qtbot: QtBot) -> Callable[..., None]:
    """Show a widget in a given size and let it paint."""

    def shown(widget: QWidget, width: int = 560, height: int = 320) -> None:
        qtbot.addWidget(widget)
        widget.resize(width, height)
        with qtbot.waitExposed(widget):
            widget.show()
        widget.grab()

    return shown


def filled(theme: Theme) -> list[ChartFrame]:
    """One of each kind, with data."""
    pareto = ParetoChart(theme)
    pareto.set_points(SIX)
    histogram = HistogramChart(theme, "Tokens", "KLD (nats)", HISTOGRAM_EDGES)
    histogram.set_series("Q4_K_M", [i % 5 for i in range(32)], "Q4_K_M")
    histogram.set_series("Q2_K", [1] * 32, "Q2_K")
    line = LineChart(theme, "Position", "part", "mean KLD (nats)", log_y=True)
    line.set_series("Q4_K_M", [1, 2, 3], [0.01, 0.02, 0.03], [0.001] * 3, "Q4_K_M")
    bar = BarChart(theme, "Memory", "memory", unit="B", stacked=True)
    bar.set_groups(["one", "two"])
    bar.set_series("weights", [3.0 * MIB, 5.0 * MIB])
    bar.set_series("cache", [1.0 * MIB, None])
    time = TimeChart(theme, "Speed", "B/s", ["read"])
    for second in range(5):
        time.append("read", 1.2e9 + second, float(second))
    return [pareto, histogram, line, bar, time]


def test_the_front_is_what_no_other_point_beats() -> None:
    rng = random.Random(7)
    points = [ParetoPoint(str(i), "Q4_K", rng.randint(1, 30), rng.choice([0.1, 0.2, 0.3, 0.4]), 0.0) for i in range(60)]

    def beaten(point: ParetoPoint) -> bool:
        return any(
            o.bytes <= point.bytes and o.kld <= point.kld and (o.bytes, o.kld) != (point.bytes, point.kld)
            for o in points
        )

    front = pareto_front(points)
    assert {(p.bytes, p.kld) for p in front} == {(p.bytes, p.kld) for p in points if not beaten(p)}
    assert [p.bytes for p in front] == sorted(p.bytes for p in front)


@pytest.mark.parametrize(("width", "height"), [(1000, 400), (560, 320), (360, 230)])
def test_pareto_labels_stay_inside_and_apart(theme: Theme, show: Callable[..., None], width: int, height: int) -> None:
    chart = ParetoChart(theme)
    chart.set_points(SIX)
    show(chart, width, height)
    placed = chart.label_rects()
    assert sorted(text for _, text in placed) == sorted(point[0] for point in SIX)
    bounds = chart.plot.getViewBox().rect()
    for i, (rect, _) in enumerate(placed):
        assert bounds.contains(rect)
        assert not any(rect.intersects(other) for other, _ in placed[i + 1 :])


def test_pareto_axis_is_logarithmic_only_for_a_wide_spread(theme: Theme, show: Callable[..., None]) -> None:
    chart = ParetoChart(theme)
    chart.set_points(SIX)
    show(chart)
    assert chart.log
    chart.set_points([("a", "Q4_K", 3 * MIB, 0.02, 0.001), ("b", "Q5_K", 4 * MIB, 0.01, 0.001)])
    assert not chart.log
    chart.set_log(True)
    assert chart.log
    chart.set_points([("same", "F16", 9 * MIB, 0.0, 0.0)])  # a divergence of nothing has no logarithm
    assert not chart.log


def test_a_zero_divergence_is_drawn_on_the_logarithmic_axis(theme: Theme, show: Callable[..., None]) -> None:
    chart = ParetoChart(theme)
    chart.set_points([*SIX, ("F16", "F16", 10 * MIB, 0.0, 0.0)])
    show(chart)
    (low, _), (_, high) = chart.plot.getViewBox().viewRange()[1], chart.plot.getViewBox().viewRange()[1]
    assert np.isfinite([low, high]).all()
    assert len(chart.label_rects()) == 7


def test_hover_speaks_of_units_and_the_front(theme: Theme, show: Callable[..., None]) -> None:
    chart = ParetoChart(theme)
    chart.set_points(SIX)
    show(chart)
    pixel = chart.plot.getViewBox().viewPixelSize()
    words = chart.hover(3_278_848 / MIB, np.log10(0.012), pixel)
    assert words.splitlines()[0] == "Q4_K_M"
    assert "3.1 MiB" in words and "0.0120 ± 0.0020 nats" in words and "front" in words
    assert chart.hover(3_278_848 / MIB, np.log10(0.012) + 80 * pixel[1], pixel) == ""


def test_log_ticks_are_plain_numbers(qapp: object) -> None:
    axis = ChartAxis("left")
    axis.log = True
    (_, values), *_ = axis.tickValues(-4.0, 0.0, 300.0)
    assert axis.tickStrings(values, 1.0, 1.0) == ["0.0001", "0.001", "0.01", "0.1", "1"]
    (_, few), *_ = axis.tickValues(-8.0, 0.0, 60.0)
    assert len(few) <= 4


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (1.5 * (1 << 30), "B", "1.5 GiB"),
        (1.5 * (1 << 30), "B/s", "1.5 GiB/s"),
        (17, "B", "17 B"),
        (41.26, "tokens/s", "41.3 tokens/s"),
        (0.00001234, "nats", "0.0000123 nats"),
        (66.6667, "%", "66.7 %"),
    ],
)
def test_quantities_are_for_people(qapp: object, value: float, unit: str, words: str) -> None:
    assert quantity(value, unit) == words


def test_byte_units_are_binary() -> None:
    assert byte_unit(1023) == ("B", 1)
    assert byte_unit(5 * 1024**3) == ("GiB", float(1024**3))
    assert byte_unit(0) == ("B", 1)


def test_ring_keeps_the_newest_in_order() -> None:
    ring = Ring(5)
    for i in range(12):
        ring.append(float(i), float(i * i))
    assert len(ring) == 5
    assert ring.ordered().tolist() == [[7, 8, 9, 10, 11], [49, 64, 81, 100, 121]]


def test_time_chart_rests_while_hidden_and_catches_up(qtbot: QtBot, theme: Theme) -> None:
    chart = TimeChart(theme, "Speed", "tokens/s", ["rate"])
    qtbot.addWidget(chart)
    chart.append("rate", 10.0, 0.0)
    assert not chart.running
    with qtbot.waitExposed(chart):
        chart.show()
    assert chart.readout.text() == "10.0 tokens/s"
    chart.append("rate", 15.0, 1.0)
    assert chart.readout.text() == "15.0 tokens/s"  # with the message that brings it
    chart.append("rate", 20.0, 1.1)
    assert chart.running  # drawn just now: later
    qtbot.waitUntil(lambda: chart.readout.text() == "20.0 tokens/s")
    assert not chart.running  # nothing new: the timer sleeps
    chart.append("rate", 30.0, 2.0)
    chart.hide()
    assert not chart.running
    assert chart.readout.text() == "20.0 tokens/s"


def test_the_view_of_live_values_grows_in_steps(theme: Theme, show: Callable[..., None]) -> None:
    chart = TimeChart(theme, "Speed", "tokens/s", ["rate"])
    show(chart)
    seen = []
    for second in range(100):
        chart.append("rate", 80.0 + second % 7, float(second))
        chart.refresh()
        (left, right), (bottom, top) = chart.plot.getViewBox().viewRange()
        assert left <= 0 <= second <= right <= 2 * max(second, 5) and bottom == 0 and 86 < top <= 150
        seen.append((right, top))
    assert len(set(seen)) < 15  # its axes are drawn again as often, not with every value


def test_time_chart_shows_binary_units(theme: Theme, show: Callable[..., None]) -> None:
    chart = TimeChart(theme, "Read", "B/s", ["rate"])
    for second in range(3):
        chart.append("rate", 1.2e9, float(second))
    show(chart)
    assert chart.readout.text() == "1.1 GiB/s"
    assert chart.plot.axes["left"].labelText == "GiB/s"
    assert chart.plot.getViewBox().viewRange()[1][1] < 2


@pytest.mark.parametrize("kind", range(5))
def test_every_chart_saves_itself(theme: Theme, show: Callable[..., None], tmp_path: Path, kind: int) -> None:
    chart = filled(theme)[kind]
    show(chart)
    chart.save_png(str(tmp_path / "chart.png"))
    image = QImage(str(tmp_path / "chart.png"))
    colours = {image.pixelColor(x, y).name() for x in range(0, image.width(), 2) for y in range(0, image.height(), 2)}
    assert chart.theme.tokens.surface.lower() in colours and len(colours) > 3
    chart.save_svg(str(tmp_path / "chart.svg"))
    renderer = QSvgRenderer(str(tmp_path / "chart.svg"))
    assert renderer.isValid()
    assert b"<text" in (tmp_path / "chart.svg").read_bytes()
    chart.save_csv(str(tmp_path / "chart.csv"))
    with (tmp_path / "chart.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    headers, rows = chart.data()
    assert read[0] == headers and len(read) == len(rows) + 1


def test_csv_holds_the_exact_numbers(theme: Theme, tmp_path: Path, qtbot: QtBot) -> None:
    chart = ParetoChart(theme)
    qtbot.addWidget(chart)
    chart.set_points(SIX)
    chart.save_csv(str(tmp_path / "pareto.csv"))
    with (tmp_path / "pareto.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [(r[0], r[1], int(r[2]), float(r[3]), float(r[4])) for r in rows] == SIX
    assert {r[5] for r in rows} == {"yes"}


def test_saving_where_it_cannot_be_is_an_error(theme: Theme, show: Callable[..., None], tmp_path: Path) -> None:
    chart = filled(theme)[0]
    show(chart)
    for save in (chart.save_png, chart.save_csv):
        with pytest.raises(OSError, match="missing"):
            save(str(tmp_path / "missing" / "chart.x"))


@pytest.mark.parametrize("kind", range(5))
def test_show_data_is_a_table_for_screen_readers(theme: Theme, show: Callable[..., None], kind: int) -> None:
    chart = filled(theme)[kind]
    show(chart)
    assert chart.plot.isVisible() and not chart.table.isVisible()
    chart.show_data(True)
    assert chart.table.isVisible() and not chart.plot.isVisible()
    headers, rows = chart.data()
    model = chart.table.model()
    assert (model.rowCount(), model.columnCount()) == (len(rows), len(headers))
    texts = [str(model.index(0, c).data()) for c in range(len(headers))]
    assert all(texts) and not any("e-" in text for text in texts)
    chart.show_data(False)
    assert chart.plot.isVisible()


def test_an_empty_chart_says_what_will_be_there(theme: Theme, show: Callable[..., None]) -> None:
    chart = ParetoChart(theme, empty="Measure something first")
    show(chart)
    assert [label.text() for label in chart.findChildren(QLabel) if label.isVisible()][-1] == "Measure something first"
    assert not chart.plot.isVisible()
    chart.set_points(SIX)
    assert chart.plot.isVisible()
    chart.set_points([])
    assert not chart.plot.isVisible()


def test_charts_follow_the_theme(theme: Theme, show: Callable[..., None], tmp_path: Path) -> None:
    charts = filled(theme)
    for chart in charts:
        show(chart)
    theme.set_mode("dark")
    for number, chart in enumerate(charts):
        assert chart.plot.axes["left"].textPen().color() == QColor(theme.tokens.muted)
        chart.save_png(str(tmp_path / f"{number}.png"))
        assert QImage(str(tmp_path / f"{number}.png")).pixelColor(1, 1) == QColor(theme.tokens.surface)
    theme.set_mode("light")


def test_the_type_has_its_colour(theme: Theme, show: Callable[..., None]) -> None:
    chart = BarChart(theme, "Solved", "solved (%)", unit="%", top=100)
    chart.set_groups(["one"])
    chart.set_series("Q2_K", [90.0], "Q2_K")
    show(chart)
    picture = chart.plot.grab().toImage()
    wanted = theme.type_color("Q2_K").name()
    found = {picture.pixelColor(x, picture.height() // 2).name() for x in range(picture.width())}
    assert wanted in found


def test_zoom_shows_a_way_back(theme: Theme, show: Callable[..., None], qtbot: QtBot) -> None:
    chart = filled(theme)[0]
    show(chart)
    view = chart.plot.getViewBox()
    whole = view.viewRange()
    point = chart.plot.viewport().rect().center()

    def wheel(modifier: Qt.KeyboardModifier) -> QWheelEvent:
        where = QPointF(point)
        return QWheelEvent(
            where,
            QPointF(chart.plot.viewport().mapToGlobal(point)),
            QPointF(0, 0).toPoint(),
            QPointF(0, 240).toPoint(),
            Qt.MouseButton.NoButton,
            modifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )

    plain = wheel(Qt.KeyboardModifier.NoModifier)
    chart.plot.wheelEvent(plain)
    assert not plain.isAccepted() and view.viewRange() == whole  # the page scrolls instead
    with qtbot.waitSignal(chart.zoomed):
        chart.plot.wheelEvent(wheel(Qt.KeyboardModifier.ControlModifier))
    assert view.viewRange() != whole
    chart.set_points([*SIX, ("Q5_0", "Q5_0", 4 * MIB, 0.005, 0.001)])  # new data leave a zoomed view alone
    assert view.viewRange() != whole
    chart.reset_zoom()
    np.testing.assert_allclose(view.viewRange(), whole)


def test_line_chart_marks_and_names(theme: Theme, show: Callable[..., None]) -> None:
    chart = LineChart(theme, "Threads", "threads", "tokens/s", unit="tokens/s")
    chart.set_series("Q4_K_M", [1, 2, 4], [100, 180, 240], [5, 6, 9], "Q4_K_M")
    chart.set_series("Q4_K_S", [1, 2, 4], [110, 190, 250], None, "Q4_K_S")
    chart.mark(4, "recommended: 4")
    show(chart)
    assert chart.hover(3.9, 0.0, (0.01, 1.0)).splitlines() == [
        "threads: 4.000",
        "Q4_K_M: 240 ± 9.0 tokens/s",
        "Q4_K_S: 250 tokens/s",
    ]
    first, second = chart.styles()
    assert first.color == second.color and (first.dash, first.symbol) != (second.dash, second.symbol)


def test_histogram_shows_shares(theme: Theme, qtbot: QtBot) -> None:
    chart = HistogramChart(theme, "Tokens", "KLD (nats)", HISTOGRAM_EDGES)
    qtbot.addWidget(chart)
    counts = [0] * 32
    counts[16], counts[17] = 30, 10
    chart.set_series("Q4_K_M", counts, "Q4_K_M")
    assert chart.hover(HISTOGRAM_EDGES[16] + 0.1, 0.0, (1, 1)).splitlines() == ["0.01 to 0.018 nats", "Q4_K_M: 75.0 %"]


def test_names_under_an_axis_are_written_whole_on_more_lines(qtbot: QtBot, theme: Theme) -> None:
    chart = BarChart(theme, "Speed", "tokens/s")
    qtbot.addWidget(chart)
    names = ["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
    chart.set_groups(names)
    chart.set_series("a", [1.0] * len(names))
    axis = chart.plot.axes["bottom"]
    chart.resize(700, 240)
    with qtbot.waitExposed(chart):
        chart.show()
    assert axis.tickStrings(list(range(len(names))), 1.0, 1.0) == names
    one_line = axis.height()
    chart.resize(300, 240)
    qtbot.waitUntil(lambda: axis.height() > 1.4 * one_line)
    assert [text.strip() for text in axis.tickStrings(list(range(len(names))), 1.0, 1.0)] == names


@pytest.mark.parametrize("width", [700, 520, 400])
def test_every_bundled_text_has_its_whole_name_under_the_axis(qtbot: QtBot, theme: Theme, width: int) -> None:
    chart = LineChart(theme, "Divergence by text", "", "mean KLD (nats)", connected=False)
    qtbot.addWidget(chart)
    chart.set_ticks([(float(i), name) for i, name in enumerate(BUNDLED)])
    chart.set_series("a", list(range(len(BUNDLED))), [1.0] * len(BUNDLED))
    axis = chart.plot.axes["bottom"]
    chart.resize(900, 330)
    with qtbot.waitExposed(chart):
        chart.show()
    chart.resize(width, 330)
    lines = QFontMetrics(axis.style["tickFont"])

    def fits() -> bool:
        texts = axis.tickStrings(list(range(len(BUNDLED))), 1.0, 1.0)
        low, high = chart.plot.getViewBox().viewRange()[0]
        end = (len(BUNDLED) - 1 - low) / (high - low) * axis.width() + lines.horizontalAdvance(texts[-1].strip()) / 2
        rows = 1 + texts[0].count("\n")
        return (
            [text.strip() for text in texts] == list(BUNDLED)
            and axis.height() >= rows * lines.height()
            and end <= axis.width() + 1
        )

    qtbot.waitUntil(fits)


def test_numbers_in_the_table_are_grouped(qtbot: QtBot, theme: Theme) -> None:
    chart = ParetoChart(theme)
    qtbot.addWidget(chart)
    chart.set_points([("a", "Q4_K_M", 5646848, 0.1, 0.01)])
    chart.show_data(True)
    assert chart.table.model().index(0, 2).data() == "5,646,848"
