"""The Methods tab and the guide, with stored results and, slowly, with the real worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app import measurements
from app.measure_messages import Estimate, MethodLeft, MethodQuality, MethodsResult
from app.ui.context import Context
from app.ui.convert import ConvertPage
from app.ui.guide_dialog import GuideDialog
from app.ui.method_lab import MethodLabPanel
from app.ui.quality import QualityPage
from tests.quality.test_report import candidate
from tests.ui.conftest import nameless, red_cards

Fill = Callable[..., None]
Make = Callable[[str], Path]


def row(key: str, name: str, bpw: float, kld: float, *, simulated: bool = True) -> MethodQuality:
    return MethodQuality(
        key=key,
        name=name,
        what="What it is.",
        engines=("vLLM",) if simulated else ("llama.cpp",),
        simulated=simulated,
        calibrated=key == "gptq",
        inputs=False,
        bits=bpw - 0.5,
        bpw=bpw,
        bytes=round(bpw * 1e6),
        kld=Estimate(kld, kld / 10),
        top1=Estimate(0.9, 0.01),
        slices={"prose": Estimate(kld, kld / 8)},
        verdict="pass",
        reason="A reason.",
        seconds=1.0,
        type="" if simulated else name,
    )


def result(path: str) -> MethodsResult:
    rows = (
        row("int8", "int8, groups of 128", 8.9, 0.0001),
        row("gptq", "GPTQ, 4 bits", 5.4, 0.004),
        row("q4_k_m", "Q4_K_M", 4.9, 0.006, simulated=False),
    )
    left = (MethodLeft("awq", "AWQ, 4 bits", "The time was up."),)
    return MethodsResult(path, rows, left, Estimate(2e-6, 1e-7), 12, 3060, 512, ("prose",), (), 60.0)


@pytest.fixture
def panel(qtbot: QtBot, context: Context, tmp_path: Path) -> MethodLabPanel:
    """A stored result of the model that is chosen."""
    path = str(tmp_path / "full.gguf")
    measurements.keep_methods(context.store, result(path))
    made = MethodLabPanel(context)
    qtbot.addWidget(made)
    made.resize(1000, 420)
    with qtbot.waitExposed(made):
        made.show()
    made.set_results(path, [candidate("Q2_K", 1000, 0.1, path=str(tmp_path / "small.gguf"))])
    return made


def test_what_was_measured_of_a_folder_is_shown_and_cannot_be_measured_here(
    panel: MethodLabPanel, context: Context, tmp_path: Path
) -> None:
    folder = str(tmp_path / "folder")
    panel.model.set_path(folder)
    assert panel.is_empty() and panel.nothing.isVisible() and "convert this folder" in panel.nothing.text()
    measurements.keep_methods(context.store, result(folder))
    panel.model.set_path(None)
    panel.model.set_path(folder)
    assert not panel.is_empty() and not panel.run_button.isEnabled()


def test_a_table_and_a_chart_say_what_runs_where(panel: MethodLabPanel) -> None:
    model = panel.table.model()
    texts = [[str(model.index(r, c).data()) for c in range(model.columnCount())] for r in range(model.rowCount())]
    assert [line[0] for line in texts] == ["Q4_K_M", "GPTQ, 4 bits", "int8, groups of 128"], "the smallest first"
    assert texts[1][1:] == ["5.40", "4.90", "0.0040 ± 0.0008", "90.0\u00a0%"]
    words = [str(model.index(r, 0).data(Qt.ItemDataRole.AccessibleTextRole)) for r in range(2)]
    assert "Runs here" in words[0] and "llama.cpp" in words[0]
    assert "Simulated; needs vLLM" in words[1]
    assert "calibration" in str(model.index(1, 2).data(Qt.ItemDataRole.ToolTipRole))
    assert "0.000002 nats nothing is told apart" in panel.note.text() and "AWQ, 4 bits: The time" in panel.note.text()
    headers, rows = panel.chart.data()
    assert headers[2] == "Bits per weight" and {line[1] for line in rows} == {"simulated", "runs here"}
    assert panel.chart.log and panel.chart.symbol(panel.chart.points[1]) != panel.chart.symbol(panel.chart.points[2])
    assert nameless(panel) == []


def test_in_a_narrow_place_one_of_both_is_shown(panel: MethodLabPanel) -> None:
    assert panel.table.isVisible() and panel.chart.isVisible() and not panel.views.isVisible()
    panel.resize(560, 300)
    assert panel.table.isVisible() and not panel.chart.isVisible() and panel.views.isVisible()
    panel.views.setFocus()
    QTest.keyClick(panel.views, Qt.Key.Key_Right)
    assert panel.chart.isVisible() and not panel.table.isVisible()


def test_methods_and_files_are_chosen(panel: MethodLabPanel, tmp_path: Path) -> None:
    command = panel.command()
    assert command is not None and command.methods == () and command.files == ()
    for key, action in panel.methods.items():
        action.setChecked(key in ("nf4", "q4_k_m"))
    panel.with_files.setChecked(True)
    panel.minutes.setValue(5)
    command = panel.command()
    assert command is not None and command.methods == ("nf4", "q4_k_m") and command.minutes == 5
    assert command.files == (str(tmp_path / "small.gguf"),)
    assert panel.chosen.text() == "2 methods"
    for action in panel.methods.values():
        action.setChecked(False)
    assert panel.command() is None and not panel.run_button.isEnabled()


def test_nothing_measured_yet_and_results_of_another_version(qtbot: QtBot, context: Context) -> None:
    payload = msgspec.to_builtins(result("/a.gguf"))
    payload["rows"][0]["kld"] = "much"
    context.store.add_measurement("/a.gguf", "methods", payload)
    panel = MethodLabPanel(context)
    qtbot.addWidget(panel)
    assert "K-quants" in panel.nothing.text() and not panel.run_button.isEnabled()
    panel.model.set_path("/a.gguf")
    assert not panel.table.rows.rows and panel.run_button.isEnabled()


def test_the_guide_answers_and_opens_convert(qtbot: QtBot, context: Context, shown: Callable[..., ConvertPage]) -> None:
    dialog = GuideDialog(context)
    qtbot.addWidget(dialog)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, on=False)
    dialog.show()
    dialog.memory.setValue(16)
    dialog.parameters.setValue(8)
    assert dialog.recipe.text() == "Q4_K_M" and "importance matrix" in dialog.reason.text()
    assert nameless(dialog) == []
    dialog.use.setCurrentIndex(1)
    assert dialog.recipe.text() == "Q6_K"
    with qtbot.waitSignal(context.navigate) as told:
        QTest.mouseClick(dialog.make_button, Qt.MouseButton.LeftButton)
    page, request = told.args
    assert (page, request) == ("convert", {"types": ["Q6_K"]})
    convert = shown(ConvertPage)
    convert.receive(request)
    assert convert.recipes.model.ticked_names() == ("Q6_K",)
    dialog.parameters.setValue(70)
    assert dialog.recipe.text() == "Nothing fits" and not dialog.make_button.isEnabled()


@pytest.mark.slow
def test_methods_are_measured_and_kept(qtbot: QtBot, context: Context, library: Fill, pocket_gguf: Make) -> None:
    """The table fills while it runs; it can be stopped; a file that is quantized itself is not offered to run."""
    reference, small = str(pocket_gguf("BF16")), str(pocket_gguf("Q2_K"))
    library(reference, small)
    panel = MethodLabPanel(context)
    qtbot.addWidget(panel)
    panel.show()
    panel.model.set_path(small)
    assert not panel.run_button.isEnabled() and "quantized itself" in panel.nothing.text()
    panel.model.set_path(reference)
    for key, action in panel.methods.items():
        action.setChecked(key in ("int8", "int4", "q2_k"))
    QTest.mouseClick(panel.run_button, Qt.MouseButton.LeftButton)
    job = panel.job
    assert job is not None and not panel.run_button.isEnabled()
    qtbot.waitUntil(lambda: panel.table.rows.rowCount() > 0)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "done" and red_cards(panel) == []
    kept = measurements.methods_of(context.store, reference)
    assert kept is not None and [each.key for each in kept.rows] == ["int8", "int4", "q2_k"]
    assert panel.table.rows.rows == list(kept.rows)
    QTest.mouseClick(panel.run_button, Qt.MouseButton.LeftButton)
    again = panel.job
    assert again is not None and again is not job
    qtbot.waitUntil(lambda: again.state == "running" or not again.is_active)
    panel.progress.cancelled.emit()
    qtbot.waitUntil(lambda: not again.is_active)
    assert panel.table.rows.rows == list(kept.rows), "the last whole result is shown again"


@pytest.mark.parametrize("width", [1192, 872], ids=["usual", "small"])
def test_methods_are_there_before_anything_was_measured(shown: Callable[..., QualityPage], width: int) -> None:
    page = shown(QualityPage)
    page.resize(width, 572)
    assert not page.charts.isVisible()
    QTest.mouseClick(page.methods_button, Qt.MouseButton.LeftButton)
    QApplication.processEvents()  # now the charts have their room, and are arranged for it
    assert (page.charts.tabs.indexOf(page.charts.pareto) >= 0) == (width < 1000)
    assert page.charts.methods.isVisible() and page.charts.methods.nothing.isVisible()
    assert not page.table.isVisible() and not page.empty.isVisible()
    charts = page.charts
    assert charts.pareto.empty_text == charts.by_text.empty_text == "No quality was measured yet", "nothing runs"
    assert nameless(page) == []
