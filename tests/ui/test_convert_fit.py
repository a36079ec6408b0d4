"""Fit to size and recipe files on the Convert page, with the real workers on Pocket."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import gguf
import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog, QScrollArea
from pytestqt.qtbot import QtBot

import converter
from app import cli, jobs, paths, recipe_files
from app.fit_messages import STEPS, FitDomain, FitPlanned, Fitted, FittedTensor, Size, Wish
from app.jobs import CANCELLED, DONE, FAILED, PAUSED
from app.ui.context import Context
from app.ui.convert import FIT, RECIPE, TYPES, ConvertPage
from app.ui.convert_costs import NEW, NONE, OPEN
from app.ui.convert_fit import FREE, LIKE, MINUTES, NOTHING, parse_floors
from app.ui.fit_figures import ratio_of, sentence
from app.ui.job_center import Job, kept_fraction
from app.ui.window import MainWindow
from converter.spec import ConversionSpec, QuenchError
from tests.ui.conftest import nameless, red_cards
from tests.ui.test_convert_page import press

WHOLE_FIT = 3_600_000
"""Milliseconds that a machine may take over a whole fit when it is busy with other things."""

MARGIN = 512
"""Bytes of a header that a budget leaves for the facts about an importance matrix."""


@pytest.fixture
def page(shown: Callable[[type[ConvertPage]], ConvertPage]) -> ConvertPage:
    return shown(ConvertPage)


@pytest.fixture
def fitting(qtbot: QtBot, page: ConvertPage, pocket: Path) -> ConvertPage:
    """The page in the mode Fit to size with Pocket chosen, and what that comes to known."""
    page.set_mode(FIT)
    page.receive({"source": str(pocket)})
    settle(qtbot, page)
    return page


def settle(qtbot: QtBot, page: ConvertPage) -> None:
    """Wait until what the present choices come to is told."""
    qtbot.waitUntil(lambda: page.source.info is not None and bool(page._planned))
    page.fit.timer.stop()
    page.fit.pane.preview = None
    page.fit.error.clear()
    page.fit.ask()
    asked = page.fit.asked
    qtbot.waitUntil(
        lambda: (page.fit.pane.preview is not None or page.fit.error.error is not None) and page.fit.asked == asked
    )


def choose(page: ConvertPage, kind: str, like: str = "") -> None:
    page.fit.pane.kind.setCurrentIndex(page.fit.pane.kind.findData(kind))
    if like:
        page.fit.pane.like.setCurrentIndex(page.fit.pane.like.findData(like))


def start(page: ConvertPage) -> Job:
    assert page.convert_button.isEnabled() and page.convert_button.text() == "Start fit"
    QTest.mouseClick(page.convert_button, Qt.MouseButton.LeftButton)
    assert page.fit.job is not None
    return page.fit.job


# ---- before it begins ----------------------------------------------------------------------------------------------


def test_what_a_fit_comes_to(qtbot: QtBot, fitting: ConvertPage, pocket_gguf: Callable[[str], Path]) -> None:
    page, preview = fitting, fitting.fit.pane.preview
    assert preview is not None and page.convert_button.isEnabled() and not nameless(page)
    assert 0 <= preview.largest - pocket_gguf("Q8_0").stat().st_size <= MARGIN
    assert list(preview.standards) == [name for name, _ in page.fit.pane.slider.strip.marks]
    assert preview.smallest < preview.standards["Q2_K"] < preview.standards["Q4_K_M"] < preview.largest
    assert preview.budget.standard == "Q4_K_M" and preview.budget.file == preview.standards["Q4_K_M"]
    assert set(preview.seconds) == set(STEPS) and "20.0 MiB while it works" in page.sum.text()
    assert "Q4_K_M" in page.fit.result.note.text() and page.fit.result.map.grid.type_counts()["Q4_K"] > 30
    # the slider, and a click on a mark
    page.fit.pane.slider.slider.setValue(0)
    settle(qtbot, page)
    smallest = page.fit.pane.preview
    assert smallest is not None and not smallest.refusals and smallest.budget.file == preview.smallest
    assert "No standard type is that small" in page.fit.pane.words.text()
    page.fit.pane.slider.strip.chosen.emit(preview.standards["Q5_K_M"])
    settle(qtbot, page)
    assert page.fit.pane.preview is not None and page.fit.pane.preview.budget.standard == "Q5_K_M"
    assert f"{page.fit.pane.number.value():.2f}" == f"{preview.standards['Q5_K_M'] / (1 << 20):.2f}"
    # what must stay large makes the smallest larger, by the sizes of blocks that gguf-py knows
    page.fit.pane.floors.setPlainText("attn_v=Q6_K\nnothing=Q8_0")
    settle(qtbot, page)
    after = page.fit.pane.preview
    assert after is not None and after.floors == (6, 0)
    sizes = {name: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] for name in ("Q2_K", "Q6_K")}
    tensors = [t for t in gguf.GGUFReader(pocket_gguf("Q8_0")).tensors if "attn_v" in t.name]
    more = sum(int(t.n_elements) * (sizes["Q6_K"][1] - sizes["Q2_K"][1]) // sizes["Q6_K"][0] for t in tensors)
    assert after.smallest - preview.smallest == more
    assert "attn_v: at least Q6_K, 6 tensors" in page.fit.pane.counts.text()
    assert "nothing: matches no tensor" in page.fit.pane.counts.text()
    page.fit.pane.floors.setPlainText("attn_v=Q9_K")
    assert not page.convert_button.isEnabled() and "attn_v=Q9_K" in page.note.text()
    page.fit.pane.floors.clear()
    # the time
    seconds = []
    for effort, minutes in (("quick", 1), ("thorough", 1), (MINUTES, 1000)):
        page.fit.pane.effort.setCurrentIndex(page.fit.pane.effort.findData(effort))
        page.fit.pane.minutes.setValue(minutes)
        settle(qtbot, page)
        assert page.fit.pane.preview is not None
        seconds.append(page.fit.pane.preview.seconds["probing"])
    assert 3.5 < seconds[1] / seconds[0] < 4.1 and seconds[2] == pytest.approx(seconds[1])
    page.fit.pane.feedback.setChecked(True)
    settle(qtbot, page)
    assert page.fit.pane.preview is not None and page.fit.pane.preview.seconds["probing"] > seconds[2]
    # the speed
    assert "tokens/s" not in page.fit.pane.words.text()
    page.fit.pane.speed.setValue(20)
    settle(qtbot, page)
    wish = page.fit.wish()
    assert wish is not None and wish.speed == 20.0 and not page.fit.pane.preview.refusals
    assert "a guess until this model was measured" in page.fit.pane.words.text() and not nameless(page)


def test_what_cannot_be_fitted_is_said_before(
    qtbot: QtBot, fitting: ConvertPage, pocket_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    page = fitting

    def refused() -> QuenchError:
        settle(qtbot, page)
        assert page.fit.error.error is not None and not page.convert_button.isEnabled()
        assert red_cards(page) == [page.fit.error]
        return page.fit.error.error

    choose(page, FREE)
    page.fit.pane.free.setValue(0.1)
    settle(qtbot, page)
    preview = page.fit.pane.preview
    assert preview is not None and not preview.refusals
    running = preview.running
    assert running.weights == preview.budget.file == preview.largest, "a small model: the 8-bit file leaves more"
    assert running.weights + running.kv + running.compute <= running.available - (1 << 30) // 10
    assert "3.0 MiB to the KV cache of 1,024 tokens" in page.fit.pane.sum_words.text()
    page.fit.pane.free.setValue(4000)
    error = refused()
    assert error.code == "too_small" and "3.91 TiB are to be left" in error.detail
    choose(page, LIKE, "Q3_K_M")
    taken = tmp_path / "file"
    taken.write_text("here")
    page.output.setText(str(taken))
    assert refused().code == "bad_output"
    page.output.setText(str(tmp_path))
    page.fit.pane.use_texts([str(tmp_path / "nowhere.txt")])
    assert refused().code == "text_unreadable"
    page.fit.pane.calibration.setCurrentIndex(0)
    page.fit.pane.calibration.activated.emit(0)
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    page.fit.pane.costs.set_path(str(damaged))
    assert refused().code == "bad_sensitivity"
    page.receive({"source": str(pocket_gguf("Q8_0"))})
    assert refused().code == "quantized_source"
    page.set_mode(TYPES)
    assert not red_cards(page), "the other modes have nothing against it"


def test_probes_are_kept_in_a_file_of_ones_own(
    qtbot: QtBot, window: MainWindow, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Advanced; the keyboard alone opens it, and in a small window the scroll bar covers nothing of it. Another
    model starts without the file."""
    window.resize(960, 600)
    page = window.show_page("convert")
    assert isinstance(page, ConvertPage)
    page.set_mode(FIT)
    page.receive({"source": str(pocket)})
    settle(qtbot, page)
    pane = page.fit.pane
    assert not pane.costs.isVisible()
    pane.more.toggle.setFocus()
    QTest.keyClick(pane.more.toggle, Qt.Key.Key_Space)
    assert pane.costs.isVisible() and not nameless(page)
    area = next(each for each in page.findChildren(QScrollArea) if each.isAncestorOf(pane))
    qtbot.waitUntil(area.verticalScrollBar().isVisible)
    assert area.widget().width() <= area.viewport().width()
    wish = page.fit.wish()
    assert wish is not None and wish.sensitivity == ""
    target = str(tmp_path / "pocket.json")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (target, ""))
    pane.costs.activated.emit(pane.costs.findData(NEW))
    settle(qtbot, page)
    wish = page.fit.wish()
    assert wish is not None and wish.sensitivity == target and pane.costs.currentText() == "pocket.json"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    pane.costs.activated.emit(pane.costs.findData(OPEN))
    assert pane.costs.path() == target, "nothing was chosen: it stays"
    pane.costs.activated.emit(pane.costs.findData(NONE))
    assert pane.costs.path() == "" and pane.costs.currentIndex() == 0
    pane.costs.set_path(target)
    pane.set_source(None, [])
    assert pane.costs.path() == ""


@pytest.mark.slow
def test_without_time_nothing_is_measured_and_the_page_says_so(
    qtbot: QtBot, fitting: ConvertPage, tmp_path: Path
) -> None:
    page, pane = fitting, fitting.fit.pane
    pane.feedback.setChecked(True)
    pane.speed.setValue(20)
    pane.effort.setCurrentIndex(pane.effort.findData(NOTHING))
    page.output.setText(str(tmp_path))
    settle(qtbot, page)
    wish = page.fit.wish()
    assert wish is not None and wish.unmeasured and not (wish.feedback or wish.speed)
    assert not pane.feedback.isEnabled() and "Not measured" in pane.words.text()
    assert "nothing is measured" in page.fit.result.note.text() and not red_cards(page)
    job = start(page)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == DONE and page.fit.result.summary.text().startswith("Not measured: Q4_K_M with types exchanged")
    assert not page.fit.result.domains.isVisible() and "%" not in page.fit.result.figures.text()


@pytest.mark.parametrize(
    ("text", "floors", "bad"),
    [
        ("", (), ""),
        (" attn_v = q4_k\n\na=b=Q8_0", (("attn_v", "Q4_K"), ("a=b", "Q8_0")), ""),
        ("attn_v", (), "attn_v"),
        ("(=Q4_K", (), "(=Q4_K"),
        ("a=F16", (), "a=F16"),
    ],
)
def test_floors(text: str, floors: tuple[tuple[str, str], ...], bad: str) -> None:
    assert parse_floors(text) == (floors, bad)


# ---- how it came out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "ratio", "size", "words"),
    [
        (True, 0.63, 100, "37\N{NO-BREAK SPACE}% less divergence than Q2_K, at the same size,"),
        (True, 0.8, 110, "20\N{NO-BREAK SPACE}% less divergence than Q2_K, in 10\N{NO-BREAK SPACE}% more bytes,"),
        (True, 1.5, 90, "50\N{NO-BREAK SPACE}% more divergence than Q2_K, in 10\N{NO-BREAK SPACE}% fewer bytes,"),
        (False, 1.1, 100, "Q2_K was as good on texts that no step saw, and was kept."),
    ],
)
def test_the_gain_in_a_sentence(kept: bool, ratio: float, size: int, words: str) -> None:
    domain = FitDomain("prose", ratio, 1.0, ratio)
    plan = FitPlanned(
        (), size, 100, ratio, ratio, ratio, 0.0, (domain,), kept=kept, shared=False, refined=False, seconds=1.0
    )
    assert sentence(plan, "Q2_K", str).startswith(words)
    assert ratio_of(domain) == ratio and ratio_of(FitDomain("x", 0.0, 0.0, 0.0)) == 1.0


# ---- the run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of Pocket in a file."""
    target = tmp_path_factory.mktemp("fit") / "Small.gguf"
    converter.convert(ConversionSpec(str(pocket), str(target), ("BF16",), prune_layers=(2, 3, 4, 5)))
    return target


@pytest.fixture
def own_text(tmp_path: Path, pocket: Path) -> Path:
    text = tmp_path / "own.txt"
    whole = pocket.parent / "calibration" / "prose.txt"
    text.write_text(whole.read_text("utf-8")[:8000], "utf-8")
    return text


@pytest.mark.slow
def test_cancel_leaves_nothing(qtbot: QtBot, page: ConvertPage, small: Path, quench_home: Path) -> None:
    page.set_mode(FIT)
    page.receive({"source": str(small)})
    settle(qtbot, page)
    job = start(page)
    qtbot.waitUntil(lambda: "Window" in job.label)
    assert page.fit.result.steps.words()["reference"].endswith("done")
    QTest.mouseClick(page.fit.result.progress.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == CANCELLED and not red_cards(page)
    assert not list((quench_home / "models").iterdir()) and not list(paths.jobs().iterdir())
    assert page.convert_button.isEnabled() and "No file was left" in page.fit.result.state_words.text()


@pytest.mark.slow
def test_what_dies_costs_a_red_card_and_finished_steps_are_kept(
    qtbot: QtBot, fitting: ConvertPage, own_text: Path, quench_home: Path
) -> None:
    """A step's worker killed, then a pause: the 16-bit file and the matrix are made once."""
    page = fitting
    page.fit.pane.use_texts([str(own_text)])
    page.fit.pane.effort.setCurrentIndex(0)
    settle(qtbot, page)
    job = start(page)
    qtbot.waitUntil(lambda: "Probing" in job.label)
    work = Path(job.command.work)
    made = {file: file.stat().st_mtime_ns for file in work.glob("*.gguf")}
    assert len(made) == 2
    (step,) = psutil.Process(job.pid()).children()
    os.kill(step.pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == FAILED and job.error is not None and job.error.code == "engine_died"
    assert job.kept == 0.4 and len(red_cards(page)) == 1
    press(page.fit.result.error, "Resume")
    qtbot.waitUntil(lambda: job.is_active and "Probing" in job.label and job.progress > 0)
    QTest.mouseClick(page.fit.result.pause, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == PAUSED and not red_cards(page) and not list((quench_home / "models").iterdir())
    assert {file: file.stat().st_mtime_ns for file in work.glob("*.gguf")} == made
    QTest.mouseClick(page.fit.result.discard, Qt.MouseButton.LeftButton)
    assert job.state == CANCELLED and not work.exists()


@pytest.mark.slow
def test_a_fit_from_the_folder_to_the_file_and_again_from_its_recipe(
    qtbot: QtBot, fitting: ConvertPage, context: Context, own_text: Path, tmp_path: Path
) -> None:
    page = fitting
    choose(page, LIKE, "Q2_K")
    page.fit.pane.effort.setCurrentIndex(0)
    page.fit.pane.use_texts([str(own_text)])
    settle(qtbot, page)
    job = start(page)
    seen: list[float] = []
    job.changed.connect(lambda: seen.append(job.progress))
    qtbot.waitUntil(lambda: not job.is_active, timeout=WHOLE_FIT)
    assert job.state == DONE and isinstance(job.result, Fitted) and seen == sorted(seen)
    made = paths.models() / "pocket-Fit-Q2_K.gguf"
    names = {made.name, "pocket-Fit-Q2_K.imatrix.gguf", "pocket-Fit-Q2_K.recipe"}
    assert {file.name for file in made.parent.iterdir()} == names and not list(paths.jobs().iterdir())
    assert made.stat().st_size <= job.result.budget.file
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(made).tensors}
    grid = page.fit.result.map.grid
    assert {name: tensor.entries[0].type for name, tensor in grid.tensors.items()} == types
    plan = job.result.plan
    if plan.kept:
        assert page.fit.result.summary.text().endswith("on texts that no step saw")
        assert "would" in grid.words("blk.0.ffn_down.weight") and "of the damage" in grid.words("token_embd.weight")
    texts = page.fit.result.domains.texts()
    assert all(domain.name in texts for domain in plan.domains)
    asked: list[tuple[str, object]] = []
    context.navigate.connect(lambda key, request: asked.append((key, request)))
    (row,) = page.fit.result.rows()
    QTest.mouseClick(row.buttons["chat"], Qt.MouseButton.LeftButton)
    assert asked == [("chat", {"model": str(made)})]
    qtbot.waitUntil(lambda: any(Path(info.path) == made for info in context.library.usable({"gguf"})))
    recipe = made.with_suffix(".recipe")
    QTest.mouseClick(page.fit.result.copy_button, Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == recipe.read_text("utf-8")
    page.fit.result.save_recipe(str(tmp_path / "saved.recipe"))
    assert (tmp_path / "saved.recipe").read_bytes() == recipe.read_bytes()
    page.receive({"recipe": str(recipe)})
    page.output.setText(str(tmp_path / "again"))
    qtbot.waitUntil(lambda: page._by_recipe is not None and page.convert_button.isEnabled())
    assert "own importance matrix" in page.recipe_file._words.text()
    QTest.mouseClick(page.convert_button, Qt.MouseButton.LeftButton)
    again = page.job
    assert again is not None
    qtbot.waitUntil(lambda: not again.is_active)
    assert (tmp_path / "again" / made.name).read_bytes() == made.read_bytes()


def test_a_fit_of_an_earlier_run_goes_on_in_its_folder(qtbot: QtBot, context: Context, tmp_path: Path) -> None:
    """What was finished is there when it goes on, is kept when that fails, and goes when it is given up."""
    wish = Wish(str(tmp_path / "gone"), str(tmp_path / "x.gguf"), Size(like="Q2_K"))
    jobs.remember(jobs.Record("earlier", "fit", "Fit", jobs.placed(wish, "earlier"), state=PAUSED))
    made = paths.jobs() / "earlier" / "reference.gguf"
    made.write_bytes(b"made")
    (record,) = context.jobs.unfinished()
    assert Path(record.command.work) == made.parent and kept_fraction(record.command, ()) == 0.2
    job = context.jobs.resume(record)
    assert job.command == record.command and not context.jobs.unfinished()
    qtbot.waitUntil(lambda: not job.is_active)
    assert (job.state, job.kept) == (FAILED, 0.2) and made.read_bytes() == b"made"
    assert job.retry() is job
    job.cancel()
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == CANCELLED and not made.parent.exists()


# ---- recipe files --------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Q2_K with two tensors in other types, of which Pocket has one; its matrix is not beside it any more."""
    tensors = tuple(
        FittedTensor(name, "Q6_K", 1, 0.5, "50.0% of the damage")
        for name in ("blk.0.ffn_down.weight", "blk.77.ffn_down.weight")
    )
    matrix = tmp_path / "m.imatrix.gguf"
    matrix.write_bytes(b"matrix")
    plan = FitPlanned(tensors, 2, 2, 0.5, 0.5, 0.5, 0.0, (), kept=True, shared=False, refined=False, seconds=1.0)
    found = recipe_files.write(tmp_path / "Fox-Fit-Q2_K.gguf", "Q2_K", plan, matrix)
    matrix.unlink()
    return found


def test_recipe_files(qtbot: QtBot, page: ConvertPage, pocket: Path, recipe: Path, tmp_path: Path) -> None:
    """Rules without a tensor, a matrix that is missing or another one, and files that are no recipes, are said."""
    page.receive({"source": str(pocket), "recipe": str(recipe)})
    assert page.mode() == RECIPE and not page.convert_button.isEnabled()
    qtbot.waitUntil(lambda: page._by_recipe is not None and page.convert_button.isEnabled())
    pane = page.recipe_file
    assert "1 of 2 rules match no tensor here: blk.77.ffn_down.weight" in pane._matches.text()
    assert "m.imatrix.gguf" in pane._words.text() and pane._words.property("role") == "warn"
    types = page.result.map.grid.type_counts()
    assert types["Q6_K"] == 2 and not nameless(page), "the rule's, and the embeddings as Q2_K has them"
    for content, words in ((b"other", "Another importance matrix"), (b"matrix", "the recipe's own importance matrix")):
        matrix = tmp_path / f"{content.decode()}.gguf"
        matrix.write_bytes(content)
        page.importance.choose(str(matrix))
        qtbot.waitUntil(lambda words=words: words in pane._words.text())
    page.importance.choose("")
    for content in (b"\xff\xfe", recipe.read_bytes() + b"(=Q4_K\n"):
        bad = tmp_path / "bad.recipe"
        bad.write_bytes(content)
        pane.open(str(bad))
        qtbot.waitUntil(lambda: pane.error.error is not None)
        assert pane.error.error is not None and pane.error.error.code == "bad_recipe"
        assert not page.convert_button.isEnabled()
    pane.open(str(recipe))
    qtbot.waitUntil(lambda: pane.recipe is not None and page.convert_button.isEnabled())
    assert not red_cards(page)


@pytest.mark.slow
def test_a_recipe_makes_of_a_sibling_what_the_command_line_makes(
    qtbot: QtBot, page: ConvertPage, pocket: Path, recipe: Path, tmp_path: Path
) -> None:
    page.receive({"source": str(pocket), "recipe": str(recipe)})
    qtbot.waitUntil(lambda: page._by_recipe is not None and page.convert_button.isEnabled())
    QTest.mouseClick(page.convert_button, Qt.MouseButton.LeftButton)
    job = page.job
    assert job is not None
    qtbot.waitUntil(lambda: not job.is_active)
    made = paths.models() / "pocket-Fit-Q2_K.gguf"
    theirs = tmp_path / "theirs.gguf"
    assert cli.main(["convert", str(pocket), "-o", str(theirs), "--recipe", str(recipe)]) == 0
    assert made.read_bytes() == theirs.read_bytes()
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(made).tensors}
    assert types["blk.0.ffn_down.weight"] == "Q6_K" and types["blk.0.ffn_up.weight"] == "Q2_K"
