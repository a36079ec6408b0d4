"""The importance matrix on the Convert page: made by the real worker on Pocket, stopped, killed, gone on with, used."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget
from pytestqt.qtbot import QtBot

from app import cli, library
from app.imatrix_files import checkpoint_path, describe
from app.measure_messages import MeasureImatrix
from app.quality.texts import CALIBRATION
from app.ui.context import Context
from app.ui.convert import ConvertPage
from app.ui.imatrix_setup import SetupDialog
from app.ui.imatrix_statistics import COLUMNS, BarDelegate, StatisticsDialog
from converter.imatrix_sums import Collected, Stored, encode
from converter.recipes import RECIPES
from tests.ui.conftest import nameless, red_cards
from tests.ui.test_convert_page import click_recipe, press, run_to_end

Pocket = Callable[[str], Path]


@pytest.fixture
def page(
    qtbot: QtBot, shown: Callable[[type[ConvertPage]], ConvertPage], pocket: Path, quench_home: Path
) -> ConvertPage:
    """The page with Pocket chosen, and nothing in the library that could be run."""
    made = shown(ConvertPage)
    made.receive({"source": str(pocket)})
    qtbot.waitUntil(lambda: bool(made._planned))
    return made


@pytest.fixture
def runnable(page: ConvertPage, quench_home: Path, pocket_gguf: Pocket, library: Callable[..., None]) -> Path:
    """A full-precision file of Pocket in the library, where a matrix can be put beside it."""
    place = quench_home / "models" / "pocket-F16.gguf"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(pocket_gguf("F16").read_bytes())
    library(place)
    return place


def setup(page: ConvertPage) -> SetupDialog:
    page.importance.list.activated.emit(page.importance.list.findData("make"))
    assert page.importance.setup is not None
    return page.importance.setup


def begin(page: ConvertPage, chunks: int = 0) -> None:
    dialog = setup(page)
    dialog.chunks.setValue(chunks)
    QTest.mouseClick(dialog.start_button, Qt.MouseButton.LeftButton)


def windows_done(page: ConvertPage) -> bool:
    return page.importance.figures.text().startswith("Window")


@pytest.mark.slow
def test_made_stopped_half_way_gone_on_with_and_used(
    qtbot: QtBot,
    page: ConvertPage,
    runnable: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, card = runnable, page.importance
    output = model.with_name("pocket.imatrix.gguf")
    page.recipes.model.set_ticked(["Q2_K"])
    assert "Q2_K" in card.words.text()
    begin(page, chunks=16)
    job = card.job
    assert job is not None and job.kind == "measure" and job.command.model == str(model)
    assert job.command.texts == tuple(CALIBRATION)
    qtbot.waitUntil(lambda: windows_done(page))
    assert "perplexity" in card.figures.text() and "of 16" in card.figures.text()
    QTest.mouseClick(card.progress.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: card.stopped is not None)
    assert job.state == "paused" and not output.exists() and not red_cards(page)
    left = describe(checkpoint_path(output)).checkpoint
    assert left is not None and 0 < left.done < 16
    assert card.go_on_button.text() == f"Go on from window {left.done} of 16"
    QTest.mouseClick(card.go_on_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: card.path() == str(output))
    assert "42 matrices · 16 windows · calibration text" in card.words.text()
    assert not checkpoint_path(output).exists() and not card.go_on_button.isVisible()

    theirs = tmp_path / "theirs.gguf"
    assert cli.main(["imatrix", str(model), "-o", str(theirs), "--chunks", "16"]) == 0
    assert output.read_bytes() == theirs.read_bytes()

    qtbot.waitUntil(lambda: "Q2_K_S" in page._planned)  # which needs a matrix
    run_to_end(qtbot, page)
    made, same = model.with_name("pocket-Q2_K.gguf"), tmp_path / "pocket-Q2_K.gguf"
    arguments = ["convert", page.source.info.path, "-o", str(same), "--type", "Q2_K", "--imatrix", str(output)]
    assert cli.main(arguments) == 0
    assert made.read_bytes() == same.read_bytes()
    assert gguf.GGUFReader(made).fields["quantize.imatrix.chunks_count"].contents() == 16
    capsys.readouterr()


def test_a_killed_worker_is_one_red_card_that_goes_on(qtbot: QtBot, page: ConvertPage, runnable: Path) -> None:
    card, output = page.importance, runnable.with_name("pocket.imatrix.gguf")
    begin(page)
    job = card.job
    assert job is not None
    qtbot.waitUntil(lambda: checkpoint_path(output).exists())
    os.kill(job.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    (told,) = red_cards(page)
    assert told.error is not None and told.error.code == "engine_died" and not output.exists()
    assert card.stopped is not None and card.stopped.checkpoint is not None
    done = card.stopped.checkpoint.done
    press(told, f"Go on from window {done} of {card.stopped.checkpoint.total}")
    assert not red_cards(page)
    again = card.job
    assert again is not None and again is not job
    first: list[int] = []
    again.event.connect(lambda event: first.append(getattr(event, "chunks", 0)))
    qtbot.waitUntil(lambda: any(first))
    assert min(filter(None, first)) > done
    again.cancel()  # as the drawer does: nothing is left
    qtbot.waitUntil(lambda: not again.is_active)
    assert not checkpoint_path(output).exists() and not card.go_on_button.isVisible()


def test_what_was_interrupted_is_offered_when_the_model_is_chosen_again(
    qtbot: QtBot, page: ConvertPage, pocket: Path, quench_home: Path
) -> None:
    output = quench_home / "models" / "pocket.imatrix.gguf"
    write_checkpoint(output, MeasureImatrix("model.gguf", ("prose",), str(output)), 37, 118)
    page.receive({"source": str(pocket)})
    card = page.importance
    qtbot.waitUntil(card.go_on_button.isVisible)
    assert card.go_on_button.text() == "Go on from window 37 of 118"
    assert card.again_button.isVisible() and nameless(card) == []
    for width, height in ((872, 572), (1192, 772), (872, 572)):  # side by side, or one under the other, never cut
        page.resize(width, height)
        qtbot.waitUntil(lambda: all(whole(made, card) for made in (card.go_on_button, card.again_button)))


def whole(made: QWidget, card: QWidget) -> bool:
    """Whether a button is as large as it wants to be and inside its card."""
    place = made.geometry().translated(made.parentWidget().pos())
    return made.width() >= made.sizeHint().width() and made.height() >= 30 and card.rect().contains(place)


def write_checkpoint(output: Path, command: MeasureImatrix, done: int, total: int) -> None:
    from app.imatrix_files import checkpoint_entries

    sums = {"blk.0.attn_q.weight": Stored(np.ones((1, 256), np.float32), np.array([512]))}
    extra = checkpoint_entries(command, "key", done, total, [1.0])
    checkpoint_path(output).write_bytes(encode(Collected(sums, ("a.txt",), 512, extra), "gguf"))


def test_without_a_file_to_run_one_is_made_first(qtbot: QtBot, page: ConvertPage, quench_home: Path) -> None:
    dialog = setup(page)
    offers = [dialog.model.itemData(row) for row in range(dialog.model.count())]
    assert offers == [("make", "Q8_0"), ("make", "BF16")]
    dialog.chunks.setValue(2)
    QTest.mouseClick(dialog.start_button, Qt.MouseButton.LeftButton)
    assert [job.kind for job in page.context.jobs.jobs] == ["convert"]
    qtbot.waitUntil(lambda: page.importance.path() is not None)
    assert [job.kind for job in page.context.jobs.jobs] == ["convert", "measure"]
    names = sorted(file.name for file in (quench_home / "models").iterdir())
    assert names == ["pocket-Q8_0.gguf", "pocket.imatrix.gguf"]
    found = [path.name for path in library.candidates([str(quench_home / "models")])]
    assert found == ["pocket-Q8_0.gguf"]  # a matrix is no model


def test_a_first_file_that_cannot_be_made_is_one_red_card(qtbot: QtBot, page: ConvertPage, quench_home: Path) -> None:
    blocker = quench_home / "models" / "pocket-Q8_0.gguf"
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_bytes(b"in the way")
    begin(page, chunks=2)
    qtbot.waitUntil(page.importance.error.isVisible)
    assert page.importance.error.error is not None and page.importance.error.error.code == "exists"
    assert not page.importance.is_running() and blocker.read_bytes() == b"in the way"


def test_a_matrix_of_another_model_is_refused_in_words(qtbot: QtBot, page: ConvertPage, tmp_path: Path) -> None:
    other = tmp_path / "other.imatrix.gguf"
    sums = {"blk.0.attn_q.weight": Stored(np.ones((1, 4096), np.float32), np.array([512]))}
    other.write_bytes(encode(Collected(sums, ("a.txt",), 512), "gguf"))
    page.importance.choose(str(other))
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    (card,) = red_cards(page)
    assert card.error is not None and card.error.code == "bad_imatrix"
    assert "blk.0.attn_q.weight has 4096 weights" in card.error.detail
    press(card, "Go on without it")
    qtbot.waitUntil(lambda: bool(page._planned))
    assert page.importance.path() is None and not red_cards(page)


def test_a_matrix_without_any_of_the_models_tensors_is_refused(qtbot: QtBot, page: ConvertPage, tmp_path: Path) -> None:
    other = tmp_path / "other.imatrix.gguf"
    sums = {"blk.0.ssm_in.weight": Stored(np.ones((1, 256), np.float32), np.array([512]))}
    other.write_bytes(encode(Collected(sums, ("a.txt",), 512), "gguf"))
    page.importance.choose(str(other))
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    (card,) = red_cards(page)
    assert card.error is not None and card.error.code == "bad_imatrix" and "none" in card.error.detail.lower()


def test_own_texts_come_by_button_and_by_drop(page: ConvertPage, tmp_path: Path) -> None:
    dialog = setup(page)
    files = [tmp_path / name for name in ("notes.txt", "chats.jsonl", "photo.png")]
    for file in files:
        file.write_text("x")
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(file)) for file in files])
    copy, left, no = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(dialog, QDragEnterEvent(QPoint(9, 9), copy, mime, left, no))
    QApplication.sendEvent(dialog, QDropEvent(QPointF(9, 9), copy, mime, left, no))
    assert dialog.chosen_texts() == (*CALIBRATION, str(files[0]), str(files[1]))
    assert ".jsonl" in dialog.note.text()
    for row in range(dialog.texts.count()):
        dialog.texts.item(row).setCheckState(Qt.CheckState.Unchecked)
    assert dialog.choice() is None and not dialog.start_button.isEnabled()
    assert nameless(dialog) == []


def test_statistics_are_sorted_and_explained(qtbot: QtBot, page: ConvertPage, context: Context, tmp_path: Path) -> None:
    one = np.zeros((1, 256), np.float32)
    one[0, 3] = 4000
    sums = {
        "blk.2.attn_q.weight": Stored(np.ones((1, 256), np.float32), np.array([512])),
        "blk.10.attn_q.weight": Stored(one, np.array([512])),
    }
    file = tmp_path / "two.imatrix.gguf"
    file.write_bytes(encode(Collected(sums, ("mine.txt",), 512), "gguf"))
    page.importance.choose(str(file))
    page.importance.show_statistics()
    dialog = page.importance.statistics
    assert isinstance(dialog, StatisticsDialog)
    qtbot.waitUntil(lambda: dialog.table is not None)
    assert dialog.table is not None
    view = dialog.table.view

    def names() -> list[str]:
        return [view.model().index(row, 0).data() for row in range(view.model().rowCount())]

    assert names() == ["blk.10.attn_q.weight", "blk.2.attn_q.weight"]
    view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    assert names() == ["blk.2.attn_q.weight", "blk.10.attn_q.weight"]
    evenness = 1 + [column.title for column in COLUMNS].index("Evenness")
    figures = [view.model().index(row, evenness).data().split() for row in (0, 1)]
    assert figures == [["100", "%"], ["0", "%"]]
    tip = view.model().headerData(evenness, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
    assert "matter alike" in tip
    assert not dialog.help.isVisible()
    QTest.mouseClick(dialog.help_button, Qt.MouseButton.LeftButton)
    assert dialog.help.isVisible() and "Evenness" in dialog.help.text()
    assert nameless(dialog) == []
    dialog.close()


def test_a_file_that_is_none_says_so_in_its_window(qtbot: QtBot, page: ConvertPage, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 40)
    dialog = StatisticsDialog(page.context, str(bad), page)
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.waitUntil(dialog.error.isVisible)
    assert dialog.error.error is not None and dialog.error.error.code == "bad_imatrix"
    assert any(b.text() == "Retry" for b in dialog.error.findChildren(QAbstractButton))


def test_bars_are_shares(page: ConvertPage) -> None:
    powers = BarDelegate(page.context.theme, [1.0, 10.0, 100.0], "powers", page)
    assert powers.share(100.0) == 1.0 and 0.4 < powers.share(10.0) < 0.6 and 0 < powers.share(1.0) < 0.2
    along = BarDelegate(page.context.theme, [0.5], "line", page)
    assert along.share(0.5) == 0.5 and along.share(-1.0) == 0.0
    assert BarDelegate(page.context.theme, [], "powers", page).share(1.0) == 0.0


def test_recipes_that_gain_say_so(page: ConvertPage, tmp_path: Path) -> None:
    names = ("Q8_0", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
    assert [name for name in names if RECIPES[name].gains] == ["IQ4_XS", "Q3_K_M", "Q2_K"]
    page.recipes.model.set_ticked(["Q4_K_M"])
    assert "Better with one" not in page.importance.words.text()
    click_recipe(page, "IQ4_XS")
    assert "IQ4_XS" in page.importance.words.text()
    assert "importance matrix" in page.recipes._words.text()
