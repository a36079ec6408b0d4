"""The map of what each tensor costs, with the real measuring worker on Pocket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app import measurements
from app.measure_messages import Estimate, SensitivityResult, TensorCost
from app.ui.context import Context
from app.ui.convert import ConvertPage
from app.ui.tensor_costs import STEPS, TensorCosts
from tests.quality.test_report import candidate
from tests.ui.conftest import nameless, red_cards

Fill = Callable[..., None]
Make = Callable[[str], Path]

NAMES = ("blk.0.ffn_down.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight", "token_embd.weight")


def result(path: str, reference: str) -> SensitivityResult:
    costs = tuple(
        TensorCost(name, "Q4_K", "BF16", 1000, 4000, Estimate(0.08 / 4**number, 0.001), 10, 0.07)
        for number, name in enumerate(NAMES)
    )
    return SensitivityResult(reference, path, "Q4_K_M", costs, Estimate(0.1, 0.01), 10, 512, ("prose",), 1.0)


@pytest.fixture
def panel(qtbot: QtBot, context: Context, tmp_path: Path) -> TensorCosts:
    """A stored result of a file that was measured before."""
    path, reference = str(tmp_path / "small.gguf"), str(tmp_path / "large.gguf")
    measurements.keep_sensitivity(context.store, result(path, reference))
    made = TensorCosts(context)
    qtbot.addWidget(made)
    made.resize(560, 400)
    with qtbot.waitExposed(made):
        made.show()
    made.set_results({path: "Q4_K_M"}, [candidate("Q4_K_M", 1000, 0.1, path=path)], reference)
    return made


def test_the_dearest_tensor_is_darkest_and_said_in_words(panel: TensorCosts) -> None:
    steps = [panel.grid.step(panel.grid.costs[name]) for name in NAMES]
    assert steps == [STEPS, STEPS - 2, STEPS - 4, STEPS - 6], "each costs a quarter of the one before it"
    shades = [panel.grid.colour(panel.grid.tensors[name], panel.grid.tensors[name].entries[0]) for name in NAMES]
    assert [shade.lightness() for shade in shades] == sorted(shade.lightness() for shade in shades)
    words = panel.grid.words(NAMES[0])
    assert "0.080 ± 0.001 nats alone" in words and "error 7.0" in words
    assert "0.11, all together 0.10 ± 0.01 nats" in panel.sum.text()
    assert nameless(panel) == []


def test_picks_by_pointer_and_keys_become_rules_in_convert(
    qtbot: QtBot, panel: TensorCosts, context: Context, shown: Callable[..., ConvertPage]
) -> None:
    assert not panel.keep_button.isEnabled()
    centre = panel.grid._rects[NAMES[0]].center()
    QTest.mouseClick(panel.grid, Qt.MouseButton.LeftButton, pos=QPoint(centre))
    panel.grid.setFocus()
    QTest.keyClick(panel.grid, Qt.Key.Key_Up)
    assert "attn_q" in panel.where.text()
    QTest.keyClick(panel.grid, Qt.Key.Key_Space)
    assert panel.grid.picks == [NAMES[0], NAMES[1]] and "2" in panel.keep_button.text()
    QTest.keyClick(panel.grid, Qt.Key.Key_Space)
    assert panel.grid.picks == [NAMES[0]]
    panel.keep.setCurrentText("Q8_0")
    with qtbot.waitSignal(context.navigate) as told:
        QTest.mouseClick(panel.keep_button, Qt.MouseButton.LeftButton)
    page, request = told.args
    assert page == "convert" and request["types"] == ["Q4_K_M"] and request["source"].endswith("large.gguf")
    convert = shown(ConvertPage)
    convert.receive({"rules": request["rules"]})
    assert convert.advanced.choices().tensor_types == ((r"^blk\.0\.ffn_down\.weight$", "Q8_0"),)


def test_without_a_measurement_it_says_what_to_do(qtbot: QtBot, context: Context) -> None:
    panel = TensorCosts(context)
    qtbot.addWidget(panel)
    assert panel.is_empty() and "Measure the quality" in panel.nothing.text() and not panel.run_button.isEnabled()


def test_a_stored_map_of_another_version_is_left_alone(context: Context) -> None:
    payload = msgspec.to_builtins(result("/a.gguf", "/b.gguf"))
    payload["costs"][0]["kld"] = "much"
    context.store.add_measurement("/a.gguf", "sensitivity", payload)
    assert measurements.sensitivity_of(context.store, "/a.gguf") is None


@pytest.mark.slow
def test_tensors_are_measured_and_kept(qtbot: QtBot, context: Context, library: Fill, pocket_gguf: Make) -> None:
    """The map fills while it runs; an error is a card; the result is there again."""
    reference, path = str(pocket_gguf("BF16")), str(pocket_gguf("Q2_K"))
    library(reference, path)
    panel = TensorCosts(context)
    qtbot.addWidget(panel)
    panel.show()
    panel.set_results({path: "Q2_K"}, [candidate("Q2_K", 1000, 0.1, path=path)], reference)
    QTest.mouseClick(panel.run_button, Qt.MouseButton.LeftButton)
    job = panel.job
    assert job is not None and not panel.run_button.isEnabled()
    qtbot.waitUntil(lambda: len(panel.grid.costs) > 5)
    assert job.is_active and panel.progress.isVisible()
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "done" and len(panel.grid.costs) == 43 and not panel.progress.isVisible()
    kept = measurements.sensitivity_of(context.store, path)
    assert kept is not None and {cost.name for cost in kept.costs} == set(panel.grid.costs)
    panel.set_results({reference: "BF16"}, [candidate("BF16", 1000, 0.1, path=reference)], reference)
    QTest.mouseClick(panel.run_button, Qt.MouseButton.LeftButton)
    again = panel.job
    assert again is not None and again is not job
    qtbot.waitUntil(lambda: not again.is_active)
    assert [card.error.code for card in red_cards(panel)] == ["nothing_differs"]
