"""The Convert page with the real workers on Pocket: by clicking, as a person does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLabel
from pytestqt.qtbot import QtBot

from app.conversion import kept_fraction
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.convert import ConvertPage
from app.ui.convert_advanced import parse_rules
from app.ui.convert_recipes import NAME, SHOWN, SIZE, TITLE
from app.ui.tensor_errors import error_step, error_words
from app.ui.tensor_map import place
from app.ui.widgets import ErrorCard
from converter.recipes import RECIPES
from converter.spec import ConversionResult
from tests.quantized import SCHEMES, write_pocket
from tests.ui.conftest import nameless, red_cards

EVERYTHING = tuple(name for name in SHOWN if not RECIPES[name].needs_imatrix)


@pytest.fixture
def page(shown: Callable[[type[ConvertPage]], ConvertPage]) -> ConvertPage:
    return shown(ConvertPage)


@pytest.fixture
def planned(qtbot: QtBot, page: ConvertPage, pocket: Path) -> ConvertPage:
    """The page with Pocket chosen and every size known."""
    page.receive({"source": str(pocket)})
    qtbot.waitUntil(lambda: page.recipes.model.index(0, 3).data() != "")
    return page


@pytest.fixture
def lengthy(qtbot: QtBot, page: ConvertPage, long_model: Path) -> ConvertPage:
    """The same with a model whose conversion takes a while."""
    page.receive({"source": str(long_model)})
    qtbot.waitUntil(lambda: page.recipes.model.index(0, 3).data() != "")
    return page


def click_recipe(page: ConvertPage, name: str) -> None:
    view = page.recipes.view
    row = [recipe.name for recipe in page.recipes.model.recipes].index(name)
    index = page.recipes.model.index(row, NAME)
    view.scrollTo(index)
    QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=view.visualRect(index).center())


def run_to_end(qtbot: QtBot, page: ConvertPage) -> None:
    QTest.mouseClick(page.convert_button, Qt.MouseButton.LeftButton)
    assert page.job is not None
    job = page.job
    qtbot.waitUntil(lambda: not job.is_active)


def press(card: ErrorCard, text: str) -> None:
    button = next(b for b in card.findChildren(QAbstractButton) if b.text() == text)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def test_pocket_by_clicking(qtbot: QtBot, planned: ConvertPage, context: Context, quench_home: Path) -> None:
    page = planned
    assert page.recipes.model.ticked_names() == ("Q4_K_M",)
    click_recipe(page, "Q8_0")
    predicted = {name: page._planned[name].bytes for name in ("Q4_K_M", "Q8_0")}
    assert page.sum.text().startswith("2 files")
    run_to_end(qtbot, page)
    made = sorted((quench_home / "models").iterdir())
    assert [file.name for file in made] == ["pocket-Q4_K_M.gguf", "pocket-Q8_0.gguf"]
    assert {file.stem.removeprefix("pocket-"): file.stat().st_size for file in made} == predicted
    types = {t.tensor_type.name for t in gguf.GGUFReader(made[1]).tensors}
    assert types == {"Q8_0", "F32"}
    assert page.result.map.grid.counts()[0] == page.result.map.grid.counts()[1] > 100
    assert [Path(row.path).name for row in page.result.rows()] == ["pocket-Q4_K_M.gguf", "pocket-Q8_0.gguf"]
    qtbot.waitUntil(lambda: {Path(i.path).name for i in context.library.usable({"gguf"})} == {f.name for f in made})
    assert not red_cards(page)


def test_the_engine_loads_what_was_made(qtbot: QtBot, planned: ConvertPage, quench_home: Path) -> None:
    from app.engine.model import Model
    from app.protocol import LoadOptions

    run_to_end(qtbot, planned)
    with Model.load(str(quench_home / "models" / "pocket-Q4_K_M.gguf"), LoadOptions(context=256), None) as model:
        assert model.vocabulary == 2048
        assert len(model.tokenize("hello", special=False, add_special=False)) > 0


def test_results_lead_to_the_other_pages(qtbot: QtBot, planned: ConvertPage, context: Context) -> None:
    planned.recipes.model.set_ticked(["BF16", "Q4_K_M"])
    run_to_end(qtbot, planned)
    asked: list[tuple[str, dict[str, object]]] = []
    context.navigate.connect(lambda key, request: asked.append((key, request)))
    small, full = planned.result.rows()
    for key in ("chat", "compare", "quality"):
        QTest.mouseClick(small.buttons[key], Qt.MouseButton.LeftButton)
    assert asked == [
        ("chat", {"model": small.path}),
        ("compare", {"reference": full.path, "models": [small.path]}),
        ("quality", {"reference": full.path, "candidates": [small.path]}),
    ]


def test_the_list_follows_the_advanced_choices(qtbot: QtBot, planned: ConvertPage) -> None:
    before = planned._planned["Q4_K_M"].bytes
    planned.advanced.rules.setPlainText("ffn_down=Q8_0")
    qtbot.waitUntil(lambda: planned._planned["Q4_K_M"].bytes > before)
    down = [t for t in planned._planned["Q4_K_M"].tensors if "ffn_down" in t.name]
    assert {t.type for t in down} == {"Q8_0"}
    planned.advanced.rules.setPlainText("ffn_down=Q9_Z")
    assert not planned.convert_button.isEnabled()
    assert "Q9_Z" in planned.note.text()


def test_an_adapter_is_a_part_of_the_plan(qtbot: QtBot, planned: ConvertPage, tmp_path: Path) -> None:
    """A folder that holds none is said before anything is made, and taking it away makes the plan again."""
    planned.advanced.lora.setText(str(tmp_path))
    qtbot.waitUntil(lambda: "LoRA" in planned.plan_error.accessibleName())
    planned.advanced.lora.clear()
    qtbot.waitUntil(lambda: not planned.plan_error.isVisibleTo(planned))


def test_rules_say_what_they_match_while_they_are_typed(qtbot: QtBot, planned: ConvertPage) -> None:
    pane = planned.advanced
    pane.rules.setPlainText("ffn_down=Q8_0\nffn_dwon=Q6_K")
    qtbot.waitUntil(lambda: "matches no tensor" in pane.counts.text())
    assert pane.counts.text().splitlines()[0] == "ffn_down=Q8_0: matches 6, decides 6"
    assert pane.counts.property("role") == "warn"
    pane.rules.setPlainText("ffn_down=Q8_0")
    qtbot.waitUntil(lambda: len(pane.counts.text().splitlines()) == 1)
    assert pane.counts.property("role") == "muted"


def test_more_files_fewer_layers_other_metadata(qtbot: QtBot, planned: ConvertPage, quench_home: Path) -> None:
    page, pane = planned, planned.advanced
    pane.split.setText("1M")
    pane.layers.setText("1, 3-4")
    pane.metadata.setPlainText("general.name=str:Small")
    qtbot.waitUntil(lambda: len(page._planned["Q4_K_M"].files) > 1)
    planned_files = page._planned["Q4_K_M"].files
    assert page.sum.text().startswith(f"{len(planned_files)} files")
    assert "of memory" in page.sum.text() and "about" in page.sum.text()
    run_to_end(qtbot, page)
    assert sorted(str(file) for file in (quench_home / "models").iterdir()) == sorted(planned_files)
    reader = gguf.GGUFReader(planned_files[0])
    assert reader.fields["general.name"].contents() == "Small"
    assert reader.fields["llama.block_count"].contents() == 3
    assert "Replaces" in page.note.text()
    for field, wrong in ((pane.split, "huge"), (pane.layers, "9-1")):
        field.setText(wrong)
        assert not page.convert_button.isEnabled()
        assert wrong in page.note.text()
        field.setText("")
    pane.metadata.setPlainText("nonsense")
    assert "nonsense" in page.note.text()


def test_less_memory_and_refined_rounding(
    qtbot: QtBot, planned: ConvertPage, pocket_gguf: Callable[[str], Path], quench_home: Path
) -> None:
    pane = planned.advanced
    assert planned._plan is not None
    before = planned._plan.memory_needed
    pane.memory.setValue(40)
    qtbot.waitUntil(lambda: planned._plan is not None and planned._plan.memory_needed < before, timeout=20_000)
    assert planned._plan.memory_needed <= 40 << 20
    pane.memory.setValue(20)
    qtbot.waitUntil(lambda: "memory limit" in planned.plan_error.accessibleName(), timeout=20_000)
    pane.memory.setValue(40)
    pane.refined.setChecked(True)
    qtbot.waitUntil(lambda: planned._plan is not None and planned.convert_button.isEnabled(), timeout=20_000)
    run_to_end(qtbot, planned)
    (made,) = (quench_home / "models").iterdir()
    assert made.stat().st_size == pocket_gguf("Q4_K_M").stat().st_size
    assert made.read_bytes() != pocket_gguf("Q4_K_M").read_bytes()


def test_copy_is_for_files_and_needs_no_leave(
    qtbot: QtBot, page: ConvertPage, pocket_gguf: Callable[[str], Path], quench_home: Path
) -> None:
    model = page.recipes.model
    assert "copy" in model.blocked
    page.receive({"source": str(pocket_gguf("Q4_K_M"))})
    qtbot.waitUntil(lambda: "copy" in page._planned)
    model.set_ticked(["copy"])
    assert not page.requantize.isVisible() and page.convert_button.isEnabled()
    run_to_end(qtbot, page)
    (made,) = (quench_home / "models").iterdir()
    theirs = {t.name: t.data.tobytes() for t in gguf.GGUFReader(pocket_gguf("Q4_K_M")).tensors}
    assert {t.name: t.data.tobytes() for t in gguf.GGUFReader(made).tensors} == theirs


def test_the_error_map_in_colours_and_in_figures(qtbot: QtBot, planned: ConvertPage) -> None:
    planned.recipes.model.set_ticked(["Q8_0", "Q3_K_S"])
    run_to_end(qtbot, planned)
    assert planned.job is not None and isinstance(planned.job.result, ConversionResult)
    result = planned.job.result
    chart = planned.result.map
    name = "blk.2.ffn_up.weight"
    words = chart.grid.words(name)
    for output in result.outputs:
        assert f"relative error {error_words(output.relative_error[name])}" in words
    choose(chart.look, "Errors")
    counts = chart.grid.error_counts()
    expected = Counter(error_step(e) for output in result.outputs for e in output.relative_error.values())
    assert counts == expected and len(counts) >= 3
    choose(chart.look, "Table")
    assert chart.table.isVisible() and not chart.grid.isVisible()
    rows = chart.table.model()
    assert rows.rowCount() == sum(len(output.tensors) for output in result.outputs)
    worst = max(result.outputs, key=lambda output: max(output.relative_error.values()))
    top = max(worst.relative_error, key=lambda key: worst.relative_error[key])
    assert [rows.index(0, column).data() for column in (0, 1, 3)] == [
        top, worst.type, error_words(worst.relative_error[top])
    ]  # fmt: skip
    choose(chart.selector, "Q8_0")
    assert {rows.index(row, 1).data() for row in range(rows.rowCount())} == {"Q8_0"}
    chart.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    names = [rows.index(row, 0).data() for row in range(rows.rowCount())]
    assert names == sorted(names)


def choose(box: QComboBox, text: str) -> None:
    """What a click on an entry does."""
    box.setCurrentIndex(box.findText(text))


def test_nothing_ticked_nothing_to_do(planned: ConvertPage) -> None:
    click_recipe(planned, "Q4_K_M")
    assert not planned.convert_button.isEnabled()
    planned.recipes.view.setFocus()
    QTest.keyClick(planned.recipes.view, Qt.Key.Key_Space)
    assert planned.recipes.model.ticked_names() == ("Q4_K_M",)
    assert planned.convert_button.isEnabled()


def test_a_recipe_that_needs_importance_is_blocked_until_there_is_some(planned: ConvertPage, tmp_path: Path) -> None:
    click_recipe(planned, "Q2_K_S")
    assert "Q2_K_S" not in planned.recipes.model.ticked_names()
    planned.importance.choose(str(tmp_path / "importance.gguf"))
    click_recipe(planned, "Q2_K_S")
    assert "Q2_K_S" in planned.recipes.model.ticked_names()


def test_cancel_leaves_nothing(
    qtbot: QtBot, lengthy: ConvertPage, slow_kernels: pytest.MonkeyPatch, quench_home: Path
) -> None:
    lengthy.recipes.model.set_ticked(EVERYTHING)
    QTest.mouseClick(lengthy.convert_button, Qt.MouseButton.LeftButton)
    job = lengthy.job
    assert job is not None
    qtbot.waitUntil(lambda: lengthy.result.map.grid.counts()[0] > 0)
    QTest.mouseClick(lengthy.result.progress.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "cancelled"
    assert list((quench_home / "models").iterdir()) == []
    assert not red_cards(lengthy)
    assert lengthy.convert_button.isEnabled()


@pytest.mark.parametrize("when", ["before it began", "when it had noted something"])
def test_a_killed_worker_costs_one_red_card(
    qtbot: QtBot, lengthy: ConvertPage, slow_kernels: pytest.MonkeyPatch, quench_home: Path, when: str
) -> None:
    types = ("Q6_K", "Q4_K_M", "Q2_K")
    lengthy.recipes.model.set_ticked(types)
    QTest.mouseClick(lengthy.convert_button, Qt.MouseButton.LeftButton)
    job = lengthy.job
    assert job is not None
    if when != "before it began":
        qtbot.waitUntil(lambda: kept_fraction(job.outputs) is not None)
    os.kill(job.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: not job.is_active)
    (card,) = red_cards(lengthy)
    assert card.error is not None and card.error.code == "engine_died"
    assert list((quench_home / "models").glob("*.gguf")) == []
    slow_kernels.undo()
    press(card, "Retry" if when == "before it began" else "Resume")
    again = lengthy.job
    assert again is not None
    qtbot.waitUntil(lambda: not again.is_active)
    assert again.state == "done"
    assert len(list((quench_home / "models").glob("*.gguf"))) == len(types)
    assert not red_cards(lengthy)


def _empty(folder: Path, pocket: Path) -> None:
    folder.mkdir()


def _truncated(folder: Path, pocket: Path) -> None:
    shutil.copytree(pocket, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:4000])


@pytest.mark.parametrize("make", [_empty, _truncated])
def test_a_bad_folder_is_one_red_card(
    qtbot: QtBot, page: ConvertPage, pocket: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    folder = tmp_path / "kaputt größe"
    make(folder, pocket)
    page.receive({"source": str(folder)})
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    (card,) = red_cards(page)
    assert card.error is not None and card.error.code not in {"internal", "engine_died"} and card.error.hint
    assert not page.convert_button.isEnabled()
    assert page.context.library.entry(str(folder)) is None
    page.receive({"source": str(pocket)})  # the page goes on
    qtbot.waitUntil(page.convert_button.isEnabled)
    assert not red_cards(page)


def test_files_of_the_same_name_are_announced(qtbot: QtBot, planned: ConvertPage, quench_home: Path) -> None:
    target = quench_home / "models" / "pocket-Q4_K_M.gguf"
    target.write_bytes(b"old")
    planned.recipes.model.set_ticked(["Q4_K_M"])
    assert "pocket-Q4_K_M.gguf" in planned.note.text()
    run_to_end(qtbot, planned)
    assert target.stat().st_size == planned._planned["Q4_K_M"].bytes


def test_a_quantized_source_must_be_wanted(
    qtbot: QtBot, page: ConvertPage, pocket_gguf: Callable[[str], Path], quench_home: Path
) -> None:
    page.receive({"source": str(pocket_gguf("Q8_0")), "types": ["Q4_K_M"]})
    qtbot.waitUntil(lambda: bool(page._planned))
    assert not page.convert_button.isEnabled() and page.requantize.isVisible()
    page.requantize.setChecked(True)
    run_to_end(qtbot, page)
    assert page.job is not None and page.job.state == "done"
    assert len(list((quench_home / "models").glob("*.gguf"))) == 1


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_too_small_is_one_card_and_nothing_on_it(
    qtbot: QtBot, planned: ConvertPage, tmp_path: Path, quench_home: Path
) -> None:
    disk = tmp_path / "small disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode != 0:
        pytest.skip("this system does not let root mount a file system")
    try:
        planned.output.setText(str(disk))
        qtbot.waitUntil(lambda: planned.convert_button.isEnabled() or bool(red_cards(planned)))
        if planned.convert_button.isEnabled():
            QTest.mouseClick(planned.convert_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: bool(red_cards(planned)))
        (card,) = red_cards(planned)
        assert card.error is not None and card.error.code == "no_space" and card.error.hint
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    planned.output.setText(str(quench_home / "models"))  # the page goes on
    run_to_end(qtbot, planned)
    assert planned.job is not None and planned.job.state == "done"


def test_a_source_that_cannot_be_read_leaves_no_sizes_of_the_last_one(
    qtbot: QtBot, planned: ConvertPage, tmp_path: Path
) -> None:
    model = planned.recipes.model
    assert model.index(0, SIZE).data()
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    planned.receive({"source": str(tmp_path / "cut.gguf")})
    qtbot.waitUntil(lambda: bool(red_cards(planned)))
    assert not model.index(0, SIZE).data() and "another source" in planned.sum.text()


def test_an_unusable_output_folder_is_said(qtbot: QtBot, planned: ConvertPage, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    planned.output.setText(str(blocker / "folder"))
    QTest.mouseClick(planned.convert_button, Qt.MouseButton.LeftButton)
    (card,) = red_cards(planned)
    assert card.error is not None and card.error.code == "bad_output"
    assert planned.job is None


def test_the_map_can_be_walked_by_keyboard(planned: ConvertPage) -> None:
    grid = planned.result.map.grid
    grid.setFocus()
    QTest.keyClick(grid, Qt.Key.Key_Down)
    assert grid.accessibleDescription().startswith("token_embd.weight")
    for _ in range(3):
        QTest.keyClick(grid, Qt.Key.Key_Down)
    assert grid.accessibleDescription().startswith("blk.1.attn_k.weight")
    QTest.keyClick(grid, Qt.Key.Key_Right)
    words = grid.accessibleDescription()
    assert words.startswith("blk.2.attn_k.weight") and "128 × 256" in words and "Q4_K" in words


def test_the_map_shows_one_recipe_or_all(planned: ConvertPage) -> None:
    planned.recipes.model.set_ticked(["Q8_0", "Q4_K_M"])
    tensor_map = planned.result.map
    assert [tensor_map.selector.itemText(i) for i in range(3)] == ["All", "Q4_K_M", "Q8_0"]
    both = tensor_map.grid.counts()[1]
    tensor_map.selector.setCurrentIndex(2)
    assert tensor_map.grid.counts()[1] == both // 2
    assert set(tensor_map.grid.type_counts()) == {"Q8_0", "F32"}
    cell = tensor_map.grid._rects["blk.0.attn_q.weight"]
    words = tensor_map.grid.words("blk.0.attn_q.weight")
    assert cell.width() > 8 and "attention queries" in words and "Q4_K" not in words


def test_tensor_names_have_places() -> None:
    assert place("blk.12.ffn_down.weight") == (12, "ffn_down")
    assert place("blk.0.attn_q.bias") == (0, "attn_q.bias")
    assert place("output.weight") == (None, "output")


@pytest.mark.parametrize(
    ("text", "rules", "bad"),
    [
        ("", (), ""),
        ("ffn_down = q6_k\n\nblk\\.0\\..*=Q8_0", (("ffn_down", "Q6_K"), ("blk\\.0\\..*", "Q8_0")), ""),
        ("a=b=Q8_0", (("a=b", "Q8_0"),), ""),
        ("ffn_down", (), "ffn_down"),
        ("(=Q8_0", (), "(=Q8_0"),
        ("x=Q4_K_M", (), "x=Q4_K_M"),
    ],
)
def test_rules(text: str, rules: tuple[tuple[str, str], ...], bad: str) -> None:
    assert parse_rules(text) == (rules, bad)


def test_everything_has_a_name(planned: ConvertPage) -> None:
    planned.advanced.toggle.setChecked(True)
    assert nameless(planned) == []


def test_cells_stay_in_the_window_at_the_smallest_size(planned: ConvertPage) -> None:
    planned.resize(872, 572)
    planned.grab()
    assert planned.width() == 872 and planned.height() == 572
    assert planned.recipes.view.isColumnHidden(TITLE)
    for area in (planned.recipes.view, planned.result.map.grid, planned.convert_button):
        corner = area.mapTo(planned, QPoint(area.width(), area.height()))
        assert corner.x() <= 872 and corner.y() <= 572
    planned.resize(1192, 772)
    planned.grab()
    assert planned.recipes.view.columnWidth(TITLE) > 120


def test_the_home_folder_is_written_short_and_understood(
    page: ConvertPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert fmt.path(tmp_path / "models" / "a") == str(Path("~") / "models" / "a")
    assert fmt.path(tmp_path) == "~"
    assert fmt.path(f"{tmp_path}-other") == f"{tmp_path}-other"
    page.output.setText(" ~/models/a ")
    assert page.folder() == str(tmp_path / "models" / "a")
    page.output.setText("~nobody-of-this-name/a")
    assert page.folder() == "~nobody-of-this-name/a"


def test_a_quantized_folder_says_what_it_lost(qtbot: QtBot, page: ConvertPage, pocket: Path, tmp_path: Path) -> None:
    folder = write_pocket(tmp_path / "packed", SCHEMES["GPTQ"])
    page.receive({"source": str(folder)})
    qtbot.waitUntil(page.convert_button.isEnabled, timeout=20_000)
    assert not red_cards(page)

    def reads(text: str) -> bool:
        return any(text in shown.text() for shown in page.findChildren(QLabel) if shown.isVisible())

    qtbot.waitUntil(lambda: reads("GPTQ 4-bit: what that rounding lost stays lost") and reads("GPTQ 4-bit (42)"))
    page.receive({"source": str(pocket)})
    qtbot.waitUntil(lambda: reads("BF16 ("), timeout=20_000)
    assert not reads("stays lost")
