"""The Quality page with the real measuring worker on Pocket."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QFileDialog
from pytestqt.qtbot import QtBot

from app import measurements, paths
from app.child import run_job
from app.measure_messages import CandidateQuality, MeasureQuality, QualityResult, ServedCandidate, Told
from app.quality.texts import DEFAULT, LANGUAGES
from app.remote.address import Server
from app.remote.messages import ServedModel, ServerState
from app.ui.context import Context
from app.ui.quality import QualityPage
from app.ui.quality_setup import KEPT_REPORTS
from app.ui.quality_table import SORT_ROLE, advice_first
from tests.ui.conftest import nameless, red_cards

Fill = Callable[..., None]
Make = Callable[[str], Path]


@pytest.fixture
def page(shown: Callable[[type[QualityPage]], QualityPage]) -> QualityPage:
    return shown(QualityPage)


@pytest.fixture
def chosen(page: QualityPage, library: Fill, pocket_gguf: Make) -> QualityPage:
    """BF16 against Q8_0 and Q2_K on two windows of two texts, without tasks."""
    files = {name: str(pocket_gguf(name)) for name in ("BF16", "Q8_0", "Q2_K")}
    library(*files.values())
    page.receive({"reference": files["BF16"], "candidates": [files["Q8_0"], files["Q2_K"]]})
    page.setup.set_texts(["prose", "dialogue"])
    page.setup.chunks.setValue(2)
    page.setup.tasks.choose(None)
    return page


@pytest.fixture(scope="module")
def result(pocket_gguf: Make, tested_kernels: bytes, tmp_path_factory: pytest.TempPathFactory) -> QualityResult:
    """What such a run finds, measured once."""
    home = tmp_path_factory.mktemp("home")
    (home / "kernels.json").write_bytes(tested_kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUENCH_HOME", str(home))
        files = [str(pocket_gguf(name)) for name in ("BF16", "Q8_0", "Q2_K")]
        command = MeasureQuality(files[0], (files[1], files[2]), ("prose", "dialogue"), chunks=2)
        found = run_job("measure", command, lambda event: None)
    assert isinstance(found, QualityResult)
    return found


@pytest.fixture
def measured(
    shown: Callable[[type[QualityPage]], QualityPage], library: Fill, context: Context, result: QualityResult
) -> QualityPage:
    """The page at a start after such a run."""
    library(result.reference.path, *(each.path for each in result.candidates))
    measurements.keep_quality(context.store, result)
    page = shown(QualityPage)
    assert len(page.measured()) == 2
    return page


def start(page: QualityPage) -> None:
    QTest.mouseClick(page.run_button, Qt.MouseButton.LeftButton)
    assert page.job is not None


def run_to_end(qtbot: QtBot, page: QualityPage) -> None:
    start(page)
    job = page.job
    assert job is not None
    qtbot.waitUntil(lambda: not job.is_active)


@pytest.mark.parametrize("tasks", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_candidates_fill_table_charts_and_store(
    qtbot: QtBot, chosen: QualityPage, context: Context, tmp_path: Path, tasks: bool
) -> None:
    page = chosen
    page.setup.tasks.choose("pocket" if tasks else None)
    run_to_end(qtbot, page)
    assert page.job is not None and page.job.state == "done", page.job.error
    small, large = sorted(page.measured(), key=lambda item: item.bytes)
    assert (small.type, large.type) == ("Q2_K", "Q8_0")
    assert large.kld.mean.value < small.kld.mean.value / 10
    assert large.top1.value > small.top1.value
    assert large.verdict == "pass" and small.verdict != "pass"

    table = page.table
    shown = {
        str(table.model().index(row, 0).data()): [
            str(table.model().index(row, c).data()) for c in range(table.model().columnCount())
        ]
        for row in range(3)
    }
    assert set(shown) == {"BF16", "Q8_0", "Q2_K"}
    assert shown["BF16"][1] == "reference" and shown["Q8_0"][1] == "✓ Pass"
    assert "±" in shown["Q2_K"][3] and not any("e-" in text for row in shown.values() for text in row)

    assert {point.label for point in page.charts.pareto.points} == {"Q8_0", "Q2_K"}
    empty = []
    for tab in range(page.charts.tabs.count()):
        page.charts.tabs.setCurrentIndex(tab)
        if page.charts.tabs.widget(tab).is_empty():
            empty.append(page.charts.tabs.widget(tab))
    assert page.charts.history.series[0].results[0].tokens == page.job.result.tokens
    assert empty == [page.charts.costs, page.charts.methods, *([] if tasks else [page.charts.tasks, page.charts.flips])]

    passages = page.charts.passages
    assert [passages.model.itemText(row) for row in range(2)] == ["Q2_K", "Q8_0"]
    assert not passages.back.isEnabled() and passages.next.isEnabled()
    worst = small.passages[0]
    assert [token.text for token in passages.view.tokens()] == [token.text for token in worst.tokens]
    QTest.mouseClick(passages.next, Qt.MouseButton.LeftButton)
    assert [token.kld for token in passages.view.tokens()] == [token.kld for token in small.passages[1].tokens]
    passages.model.setCurrentIndex(1)
    assert [token.kld for token in passages.view.tokens()] == [token.kld for token in large.passages[0].tokens]
    passages.view.go(3)
    assert passages.words.text().startswith("Token 4 ") and "The reference said" in passages.words.text()

    for item in (small, large):
        stored = context.store.latest(item.path, "quality")
        assert stored is not None and stored.payload["kld"]["mean"]["value"] == pytest.approx(item.kld.mean.value)
    page.save_report(str(tmp_path / "mine.html"))
    assert "Q2_K" in (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))["quality"]["tokens"] > 0


@pytest.mark.slow
def test_the_last_measurement_is_there_again(qtbot: QtBot, chosen: QualityPage, context: Context) -> None:
    run_to_end(qtbot, chosen)
    again = QualityPage(context)
    qtbot.addWidget(again)
    assert {item.path: item.kld.mean for item in again.measured()} == {
        item.path: item.kld.mean for item in chosen.measured()
    }
    assert again.table.rows.rows[0].reference
    assert again.report_button.isEnabled()


def test_figures_come_while_it_runs_and_what_was_finished_before_a_cancel_is_gone_on_with(
    qtbot: QtBot, chosen: QualityPage, context: Context
) -> None:
    assert not chosen.afresh_button.isVisible()
    chosen.setup.tasks.choose("pocket")
    start(chosen)
    job = chosen.job
    assert job is not None
    qtbot.waitUntil(lambda: len(chosen.measured()) > 0)
    assert job.is_active and not chosen.charts.pareto.is_empty()
    QTest.mouseClick(chosen.progress.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "cancelled"
    assert context.store.measurements(None, "quality") == []
    assert chosen.run_button.isEnabled() and not red_cards(chosen)
    assert "goes on from there" in chosen.subtitle.text()

    chosen.setup_button.setChecked(True)
    assert chosen.run_button.text() == "Resume" and chosen.afresh_button.isVisible()
    assert chosen.missing.text().startswith("Interrupted at ")
    chosen.setup.chunks.setValue(5)
    assert chosen.run_button.text() == "Run" and not chosen.afresh_button.isVisible(), "that is another measurement"
    chosen.setup.chunks.setValue(2)
    QTest.mouseClick(chosen.run_button, Qt.MouseButton.LeftButton)
    again = chosen.job
    assert again is not None and again is not job
    labels: list[str] = []
    again.event.connect(lambda event: labels.append(getattr(event, "label", "")))
    qtbot.waitUntil(lambda: any(label.startswith("Went on from an interrupted run") for label in labels))
    again.pause()
    qtbot.waitUntil(lambda: not again.is_active)
    assert again.state == "paused" and again.kept is not None and chosen.progress.isHidden()
    again.go_on()
    assert not chosen.progress.isHidden() and again.is_active
    again.cancel()
    qtbot.waitUntil(lambda: not again.is_active)


def test_every_chart_can_be_reached_where_not_all_tabs_are_in_sight(measured: QualityPage) -> None:
    charts = measured.charts
    measured.resize(872, 572)
    assert charts.all_button.isVisible() and charts.all_button.menu() is charts.all_menu
    charts.all_menu.aboutToShow.emit()
    names = [action.text() for action in charts.all_menu.actions()]
    assert names == [charts.tabs.tabText(place) for place in range(charts.tabs.count())]
    for action in charts.all_menu.actions():
        action.trigger()
        assert charts.tabs.tabText(charts.tabs.currentIndex()) == action.text()
        assert charts.tabs.currentWidget().isVisible()


def test_earlier_results_stand_under_what_they_belong_to(
    measured: QualityPage, context: Context, result: QualityResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same again is told apart by nothing; another machine is another heading."""
    measurements.keep_quality(context.store, result)
    monkeypatch.setattr("app.hardware.cpu_name", lambda: "Another CPU")
    measurements.keep_quality(context.store, result)
    history = measured.charts.history
    measured.charts.tabs.setCurrentWidget(history)
    tree = history.tree
    headings = [tree.topLevelItem(row) for row in range(tree.topLevelItemCount())]
    assert [heading.childCount() for heading in headings] == [1, 1, 2, 2]
    assert ["Another CPU" in heading.text(0) for heading in headings] == [True, True, False, False]
    assert all("prose, dialogue" in heading.text(0) and "against" in heading.text(0) for heading in headings)
    assert [headings[2].child(row).text(2) for row in range(2)] == ["not told apart", "–"]
    assert {heading.text(0).split(" · ")[0] for heading in headings} == {"Q8_0", "Q2_K"}


def test_a_killed_worker_is_one_red_card_with_retry(qtbot: QtBot, chosen: QualityPage) -> None:
    start(chosen)
    job = chosen.job
    assert job is not None
    os.kill(job.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: not job.is_active)
    (card,) = red_cards(chosen)
    assert card.error is not None and card.error.code == "engine_died"
    assert card.height() < chosen.height() / 2
    retry = next(b for b in card.findChildren(QAbstractButton) if b.text() == "Retry")
    QTest.mouseClick(retry, Qt.MouseButton.LeftButton)
    again = chosen.job
    assert again is not None and again is not job
    qtbot.waitUntil(lambda: not again.is_active)
    assert again.state == "done" and not red_cards(chosen)


def test_a_broken_candidate_is_left_out_in_words(
    qtbot: QtBot, page: QualityPage, library: Fill, pocket_gguf: Make, tmp_path: Path
) -> None:
    good, bad = str(pocket_gguf("Q8_0")), tmp_path / "broken.gguf"
    bad.write_bytes(pocket_gguf("Q2_K").read_bytes()[:200_000])
    library(pocket_gguf("BF16"), good)
    page.receive({"reference": str(pocket_gguf("BF16")), "candidates": [good, str(bad)]})
    page.setup.set_texts(["prose"])
    page.setup.chunks.setValue(2)
    page.setup.tasks.choose(None)
    run_to_end(qtbot, page)
    assert page.job is not None and page.job.state == "done", page.job.error
    assert [item.type for item in page.measured()] == ["Q8_0"]
    rows = page.table.rows
    (left_out,) = [row for row in rows.rows if row.path == str(bad)]
    assert "Could not be measured" in rows.sentence(left_out)


def test_a_folder_as_reference_offers_the_conversion(
    qtbot: QtBot, page: QualityPage, context: Context, library: Fill, pocket: Path
) -> None:
    library(pocket)
    page.receive({"reference": str(pocket)})
    assert page.setup.bf16_button.isVisible() and not page.run_button.isEnabled()
    with qtbot.waitSignal(context.navigate) as asked:
        QTest.mouseClick(page.setup.bf16_button, Qt.MouseButton.LeftButton)
    assert asked.args == ["convert", {"source": str(pocket), "types": ["BF16"]}]


def test_run_says_what_is_missing(qtbot: QtBot, page: QualityPage, library: Fill, pocket_gguf: Make) -> None:
    assert not page.run_button.isEnabled() and "reference" in page.missing.text()
    library(pocket_gguf("BF16"), pocket_gguf("Q8_0"))
    qtbot.waitUntil(lambda: page.setup.reference.path() == str(pocket_gguf("BF16")))  # the obvious one
    assert "candidate" in page.missing.text()
    assert page.setup.candidates.paths() == [str(pocket_gguf("Q8_0"))]  # not the reference itself
    tree = page.setup.candidates.tree
    QTest.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=tree.visualItemRect(tree.topLevelItem(0)).center())
    assert page.run_button.isEnabled() and page.missing.text() == ""
    page.setup.set_texts([])
    page.setup.tasks.choose(None)
    assert not page.run_button.isEnabled()


def test_the_limits_come_from_the_settings(chosen: QualityPage, context: Context) -> None:
    context.update_settings(pass_kld=0.001, fail_kld=0.5, pass_top1=0.9, threads=1)
    command = chosen.setup.command()
    assert command is not None
    assert (command.pass_kld, command.fail_kld, command.pass_top1, command.threads) == (0.001, 0.5, 0.9, 1)
    assert command.texts == ("prose", "dialogue") and command.chunks == 2 and command.tasks is None


def test_what_a_server_has_is_a_candidate_with_its_key_of_this_session(chosen: QualityPage, context: Context) -> None:
    state = ServerState("llama.cpp", (ServedModel("pocket", 1024),), 0.01)
    context.servers.put(Server("Desk", "http://127.0.0.1:9/v1"), state)
    context.servers._keys["http://127.0.0.1:9"] = "sk-Geheim"
    path = "server:Desk/pocket"
    assert path in chosen.setup.candidates.paths()
    q8 = chosen.setup.candidates.checked()[0]
    chosen.setup.candidates.set_checked([q8, path])
    chosen.setup.cache.setCurrentIndex(1)
    command = chosen.setup.command()
    assert command is not None
    assert list(zip(command.candidates, command.kv, strict=True)) == [(q8, ""), (q8, "q8_0"), (path, "")]
    assert command.served == (ServedCandidate(path, "http://127.0.0.1:9/v1", "pocket", "sk-Geheim"),)
    context.servers.remove("Desk")
    assert path not in [each for each in chosen.setup.candidates.paths() if context.library.entry(each)]


def test_a_lower_bound_is_shown_as_one(
    qtbot: QtBot, chosen: QualityPage, context: Context, result: QualityResult
) -> None:
    told = Told("llama.cpp", 1024, 0.02, False, 3, 1020, 12.0)
    change = {"told": told, "path": "server:Desk/pocket", "top5": None, "rms_dp": None, "shift": None}
    served = msgspec.structs.replace(result.candidates[0], reverse_kld=None, content="", **change)
    alone = msgspec.structs.replace(served, path="server:Desk/right", top1=None)
    measurements.keep_quality(
        context.store, msgspec.structs.replace(result, candidates=(result.candidates[1], served, alone))
    )
    page = QualityPage(context)
    qtbot.addWidget(page)
    model = page.table.rows
    rows = {str(model.index(row, 0).data()): row for row in range(4)}
    assert {"BF16", "Q2_K", "pocket · Desk", "right · Desk"} == set(rows)
    titles = [str(model.headerData(column, Qt.Orientation.Horizontal)) for column in range(model.columnCount())]

    def cell(name: str, title: str) -> str:
        return str(model.index(rows[name], titles.index(title)).data())

    assert cell("pocket · Desk", "KLD mean ±").startswith("≥ ") and cell("pocket · Desk", "Perplexity").startswith("≥ ")
    assert not cell("Q2_K", "KLD mean ±").startswith("≥")
    assert (cell("pocket · Desk", "Same five"), cell("right · Desk", "Same first ±")) == ("–", "–")
    tip = str(model.index(rows["pocket · Desk"], 0).data(Qt.ItemDataRole.ToolTipRole))
    assert "lower bound" in tip and "1,024 likeliest tokens" in tip and "2 % of the odds" in tip
    assert [point.label for point in page.charts.pareto.points] == ["Q2_K"]


def test_languages_are_one_folded_row_that_ticks_all(page: QualityPage) -> None:
    tree = page.setup.texts
    rows = [tree.topLevelItem(row) for row in range(tree.topLevelItemCount())]
    assert [row.text(0) for row in rows] == [*(name.capitalize() for name in DEFAULT), "Languages"]
    group = rows[-1]
    assert page.setup.chosen_texts() == list(DEFAULT) and not group.isExpanded()
    tree.setFocus()
    tree.setCurrentItem(group)
    QTest.keyClick(tree, Qt.Key.Key_Space)
    assert page.setup.chosen_texts() == [*DEFAULT, *LANGUAGES]
    QTest.keyClick(tree, Qt.Key.Key_Right)
    assert group.isExpanded()
    tree.setCurrentItem(group.child(0))
    QTest.keyClick(tree, Qt.Key.Key_Space)
    assert page.setup.chosen_texts() == [*DEFAULT, *LANGUAGES[1:]]
    assert group.checkState(0) == Qt.CheckState.PartiallyChecked
    page.setup.set_texts(["russian"])
    assert page.setup.chosen_texts() == ["russian"]


def test_columns_sort_by_number(measured: QualityPage) -> None:
    model = measured.table.model()
    for column in range(2, model.columnCount()):
        measured.table.sortByColumn(column, Qt.SortOrder.AscendingOrder)
        values = [model.index(row, column).data(SORT_ROLE) for row in range(model.rowCount())]
        assert values == sorted(values)


def test_a_measurement_of_another_version_is_left_alone(qtbot: QtBot, context: Context) -> None:
    context.store.add_measurement("/x.gguf", "quality", {"reference": "/y.gguf", "kld": "odd"})
    page = QualityPage(context)
    qtbot.addWidget(page)
    assert page.measured() == []


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("too far, by much: take a larger type.", "Take a larger type: too far, by much."),
        ("nothing to say", "Nothing to say"),
        ("", ""),
    ],
)
def test_the_advice_comes_first(reason: str, shown: str) -> None:
    assert advice_first(reason) == shown


def test_everything_has_a_name(measured: QualityPage) -> None:
    measured.setup_button.setChecked(True)
    assert nameless(measured) == []


def test_figures_survive_the_store(chosen: QualityPage, qtbot: QtBot, context: Context) -> None:
    run_to_end(qtbot, chosen)
    kept = context.store.measurements(None, "quality")
    fields = {field.name for field in msgspec.structs.fields(CandidateQuality)}
    read = {
        m.model_path: msgspec.convert({k: v for k, v in m.payload.items() if k in fields}, CandidateQuality)
        for m in kept
    }
    for item in chosen.measured():
        assert read[item.path] == item


def test_only_the_newest_reports_are_kept(chosen: QualityPage) -> None:
    folder = paths.cache() / "reports"
    folder.mkdir(exist_ok=True)
    for age in range(KEPT_REPORTS + 3):
        for suffix in ("html", "json"):
            file = folder / f"quality-{age:02}.{suffix}"
            file.touch()
            os.utime(file, (1e9 - age, 1e9 - age))
    (folder / "mine.html").touch()
    command = chosen.setup.command()
    assert command is not None
    kept = sorted(file.name for file in folder.glob("quality-*"))
    assert kept == sorted(f"quality-{age:02}.{s}" for age in range(KEPT_REPORTS - 1) for s in ("html", "json"))
    assert (folder / "mine.html").exists()


def test_a_narrow_table_leaves_columns_out_and_shortens_no_title(qtbot: QtBot, measured: QualityPage) -> None:
    table = measured.table
    shown = lambda: [c for c in range(table.model().columnCount()) if not table.isColumnHidden(c)]  # noqa: E731
    wide = shown()
    measured.resize(840, 540)
    qtbot.waitUntil(lambda: len(shown()) < len(wide))
    assert sum(table.columnWidth(c) for c in shown()) <= table.viewport().width()
    for column in shown():
        assert table.columnWidth(column) >= table.head.needed_width(column)
    index = table.model().index(1, 0)
    tip = str(index.data(Qt.ItemDataRole.ToolTipRole))
    assert "KLD median" in tip and "KLD max" in tip  # what is left out can still be read
    measured.resize(1192, 772)
    qtbot.waitUntil(lambda: shown() == wide)


def test_answers_are_saved_and_stand_for_the_reference(
    qtbot: QtBot, chosen: QualityPage, pocket_gguf: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, setup = chosen, chosen.setup
    target = tmp_path / "answers.qref"
    setup.candidates.set_checked([])
    setup.chunks.setValue(1)
    assert setup.missing() and not page.run_button.isEnabled()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    QTest.mouseClick(setup.save, Qt.MouseButton.LeftButton, pos=QPoint(8, setup.save.height() // 2))
    assert not setup.save.isChecked(), "no place was chosen"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target.with_suffix("")), ""))
    QTest.mouseClick(setup.save, Qt.MouseButton.LeftButton, pos=QPoint(8, setup.save.height() // 2))
    assert setup.save.isChecked() and str(target) in setup.note.text()
    run_to_end(qtbot, page)
    assert page.job is not None and page.job.state == "done", page.job.error
    assert target.is_file() and page.job.title == "Answers of BF16"

    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(target), ""))
    QTest.mouseClick(setup.saved_button, Qt.MouseButton.LeftButton)
    setup.candidates.set_checked([str(pocket_gguf("Q8_0"))])
    assert not setup.texts.isEnabled() and not setup.save.isVisible()
    run_to_end(qtbot, page)
    assert page.job is not None and page.job.state == "done", page.job.error
    (figures,) = page.measured()
    assert 0 < figures.kld.mean.value < 0.003
    assert "saved answers of" in page.subtitle.text() and "exact" in page.subtitle.toolTip()
    assert not red_cards(page) and not nameless(page)
