"""The Bench page with the real measuring worker on Pocket."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.measure_messages import BenchMemory, ModelBench, Roofline, SpeedPoint, Spread
from app.ui.bench import BenchPage, parse_depths, sweep
from app.ui.bench_results import BenchRow, recommended_threads, shallow_best
from app.ui.context import Context
from tests.ui.conftest import nameless, red_cards

Fill = Callable[..., None]
Make = Callable[[str], Path]


@pytest.fixture
def page(shown: Callable[[type[BenchPage]], BenchPage]) -> BenchPage:
    return shown(BenchPage)


@pytest.fixture
def chosen(page: BenchPage, library: Fill, pocket_gguf: Make) -> BenchPage:
    """Two models, few tokens, two depths."""
    files = [str(pocket_gguf("Q8_0")), str(pocket_gguf("Q4_K_M"))]
    library(*files)
    page.receive({"models": files})
    for box, value in ((page.setup.prompt, 32), (page.setup.generate, 8), (page.setup.repeat, 2)):
        box.setValue(value)
    page.setup.depths.setText("0, 64")
    return page


def start(page: BenchPage) -> None:
    QTest.mouseClick(page.run_button, Qt.MouseButton.LeftButton)
    assert page.job is not None


def point(tokens_per_second: float, threads: int = 1, depth: int = 0) -> SpeedPoint:
    return SpeedPoint(8, depth, threads, Spread(tokens_per_second, tokens_per_second * 0.9, tokens_per_second * 1.1))


def test_two_models_fill_table_charts_and_store(qtbot: QtBot, chosen: BenchPage, context: Context) -> None:
    chosen.setup.sweep.setChecked(True)
    start(chosen)
    job = chosen.job
    assert job is not None
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "done", job.error
    assert len(chosen.measured()) == 2
    model = chosen.table.model()
    for row in range(2):
        texts = [str(model.index(row, column).data()) for column in range(model.columnCount())]
        assert all(texts) and texts[-1].endswith("%") and "±" in texts[2]
    sentence = chosen.model.sentence(chosen.model.rows[0])
    assert "a token" in sentence and "MiB" in sentence and "/s" in sentence
    assert not chosen.charts.speed.is_empty()
    for tab in range(chosen.charts.tabs.count()):
        chosen.charts.tabs.setCurrentIndex(tab)
        chart = chosen.charts.tabs.widget(tab)
        if chart is not chosen.charts.by_threads or len(sweep(os.cpu_count() or 1)) > 1:
            assert not chart.is_empty()
    for result in chosen.measured():
        stored = context.store.latest(result.path, "bench")
        assert stored is not None
        assert stored.payload["generate"][0]["tokens_per_second"]["median"] > 0
    again = BenchPage(context)
    qtbot.addWidget(again)
    assert [item.path for item in again.measured()] == [item.path for item in chosen.measured()]


def test_the_recommended_threads_go_into_the_settings(qtbot: QtBot, chosen: BenchPage, context: Context) -> None:
    row = chosen._row("/model.gguf")
    row.generate = [point(100, 1), point(198, 2), point(200, 4), point(150, 8)]
    chosen._advise([row])
    assert chosen.threads_button.text() == "Use 2 threads"
    QTest.mouseClick(chosen.threads_button, Qt.MouseButton.LeftButton)
    assert context.settings.threads == 2


@pytest.mark.parametrize(
    ("points", "threads"),
    [
        ([(100, 1), (101, 2)], 1),  # one thread is nearly as good
        ([(100, 1), (150, 2), (149, 4)], 2),
        ([(100, 1), (180, 2), (260, 4)], 4),
        ([(100, 2)], None),  # nothing to choose from
        ([], None),
    ],
)
def test_recommendation(points: list[tuple[float, int]], threads: int | None) -> None:
    assert recommended_threads([point(speed, count) for speed, count in points]) == threads


def test_only_the_smallest_depth_counts_for_the_table() -> None:
    assert shallow_best([point(50, 1, 0), point(90, 1, 64), point(60, 2, 0)]) == point(60, 2, 0)
    assert shallow_best([]) is None


@pytest.mark.parametrize(
    ("text", "depths"),
    [("0", (0,)), ("2048, 0;64", (0, 64, 2048)), ("", None), ("a", None), ("-1", None), ("1.5", None)],
)
def test_depths(text: str, depths: tuple[int, ...] | None) -> None:
    assert parse_depths(text) == depths


def test_sweep_covers_one_to_all() -> None:
    for cores in (1, 2, 6, 12, 64):
        tried = sweep(cores)
        assert tried[0] == 1 and tried[-1] == cores and list(tried) == sorted(set(tried))


def test_run_says_what_is_missing(page: BenchPage, library: Fill, pocket_gguf: Make) -> None:
    assert not page.run_button.isEnabled() and page.missing.text()
    library(pocket_gguf("Q8_0"))
    page.receive({"models": [str(pocket_gguf("Q8_0"))]})
    assert page.run_button.isEnabled()
    page.setup.depths.setText("deep")
    assert not page.run_button.isEnabled() and "0, 2048" in page.missing.text()


def test_cancel_and_kill(qtbot: QtBot, chosen: BenchPage, context: Context) -> None:
    chosen.setup.generate.setValue(512)
    chosen.setup.repeat.setValue(50)
    start(chosen)
    job = chosen.job
    assert job is not None
    qtbot.waitUntil(lambda: job.progress > 0)
    QTest.mouseClick(chosen.progress.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "cancelled"
    start(chosen)
    second = chosen.job
    assert second is not None and second is not job
    os.kill(second.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: not second.is_active)
    assert [card.error.code for card in red_cards(chosen) if card.error is not None] == ["engine_died"]
    assert context.store.measurements(None, "bench") == []


def test_everything_has_a_name(chosen: BenchPage) -> None:
    assert nameless(chosen) == []


def test_the_sentence_says_with_how_many_threads(chosen: BenchPage) -> None:
    roof = Roofline(1 << 20, 10e9, 0.01)
    result = ModelBench("/m.gguf", 0.1, 0.1, 0.01, (), (point(100, 3),), BenchMemory(1, 1, 1, 1, 1), roof)

    def said(automatic: bool, *points: SpeedPoint) -> str:
        row = BenchRow("/m.gguf", "Q4_K_M", 1, [], list(points), result, automatic)
        return chosen.model.sentence(row)

    assert said(True, point(100, 3)).endswith("3 threads, chosen automatically")
    assert said(False, point(100, 1)).endswith("1 thread")
    assert said(False, point(100, 1), point(200, 2)).endswith("2 threads, fastest of those tried")
    result = msgspec.structs.replace(result, roofline=Roofline(1 << 20, 10e9, 1.2))
    assert said(False, point(100, 1)).startswith("It stays in the processor's caches")


def test_narrow_columns_keep_their_whole_titles(qtbot: QtBot, chosen: BenchPage) -> None:
    chosen.model.set_rows([BenchRow("/m.gguf", "Q4_K_M", 1 << 20, [point(5000)], [point(100)])])
    chosen.results.show()
    chosen.resize(840, 540)
    table = chosen.table
    for column in range(table.model().columnCount()):
        assert table.isColumnHidden(column) or table.columnWidth(column) >= table.head.needed_width(column)
