"""The Library page with real files: what it lists, what it says of them, what its actions ask of other pages."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import QMimeData, QModelIndex, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QApplication, QLabel, QPushButton
from pytestqt.qtbot import QtBot

import resources
from app import hardware, library, paths, settings
from app.local.disk import Removal
from app.local.entry import BROKEN, Listed
from app.ui.context import Context
from app.ui.first_start import pocket_file
from app.ui.job_center import RUNNING
from app.ui.library import LibraryPage
from app.ui.library_keeper import question
from app.ui.library_rows import Quality, Row, fit_words, make_rows
from app.ui.library_table import FITS, NAME, QUALITY, SIZE, SPEED, TYPE, LibraryTable
from converter.identity import content_id
from converter.spec import QuenchError

LEFT = Qt.MouseButton.LeftButton
Fill = Callable[..., None]
Gguf = Callable[[str], Path]


@pytest.fixture
def page(qtbot: QtBot, context: Context) -> LibraryPage:
    made = LibraryPage(context)
    qtbot.addWidget(made)
    made.resize(1100, 700)
    made.show()
    return made


@pytest.fixture
def family(page: LibraryPage, library: Fill, pocket_gguf: Gguf, qtbot: QtBot) -> list[str]:
    """Pocket as a folder and in two types, shown."""
    files = [str(pocket_gguf("Q8_0")), str(pocket_gguf("Q4_K_M"))]
    library(resources.path("pocket"), *files)
    qtbot.waitUntil(lambda: len(page.table.shown()) == 3)
    return files


@pytest.fixture
def asked(context: Context) -> list[tuple[str, dict]]:
    """What was asked of other pages."""
    requests: list[tuple[str, dict]] = []
    context.navigate.connect(lambda key, request: requests.append((key, request)))
    return requests


def cell(page: LibraryPage, path: str, column: int, role: int = Qt.ItemDataRole.DisplayRole) -> object:
    return page.table.index_of(path).siblingAtColumn(column).data(role)


def make_row(name: str, size: int, type_name: str, **changes: object) -> Row:
    info = msgspec.structs.replace(
        library_entry(f"/models/{name}-{type_name}.gguf"), bytes=size, problems=(), name=name, parameters=size
    )
    return Row(info, name, type_name, None, **changes)


def library_entry(path: str):
    return library.broken(path, QuenchError("x", "t"))


# ---- the table -------------------------------------------------------------------------------------------------


def test_qts_own_checker_accepts_the_table_through_every_change(qtbot: QtBot, context: Context) -> None:
    table = LibraryTable(context.theme)
    tester = QAbstractItemModelTester(table, QAbstractItemModelTester.FailureReportingMode.Warning)
    rows = [make_row(name, size, kind) for name in ("a", "B", "c") for size, kind in ((9, "Q8_0"), (4, "Q4_K_M"))]
    table.set_rows([*rows, make_row("single", 5, "F16")])
    for column in range(table.columnCount()):
        for order in (Qt.SortOrder.DescendingOrder, Qt.SortOrder.AscendingOrder):
            table.sort(column, order)
    for query in ("q4", "b", "nothing at all", ""):
        table.set_filter(query)
    table.set_rows([])
    assert tester.model() is table
    assert table.rowCount() == 0


def test_models_of_one_origin_stand_together_largest_first(page: LibraryPage, family: list[str]) -> None:
    assert page.table.rowCount() == 1
    group = page.table.index(0, NAME)
    assert group.data() == "Pocket"
    assert page.view.isExpanded(group)
    types = [page.table.index(row, TYPE, group).data() for row in range(3)]
    assert types == ["BF16", "Q8_0", "Q4_K_M"]
    assert page.table.rows_at(group) == page.table.shown()


def test_sizes_and_fit_are_told_with_the_sum(page: LibraryPage, family: list[str], context: Context) -> None:
    path = family[1]
    assert cell(page, path, SIZE) == "3.1 MiB"
    assert cell(page, path, FITS) == "Fits"
    why = str(cell(page, path, FITS, Qt.ItemDataRole.ToolTipRole))
    fit = hardware.fits(context.library.entry(path))
    assert fit.weights + fit.kv + fit.compute == fit.total
    assert "3.0 MiB KV cache" in why  # 6 layers x 2 heads x (64 + 64) x 2 bytes x 1,024 tokens
    assert "free now" in why


@pytest.mark.parametrize(
    ("available", "word", "role"),
    [(10 << 30, "Fits", "good"), (0, "Too large", "bad")],
)
def test_fit_follows_the_memory_that_is_free(
    context: Context, pocket: Path, available: int, word: str, role: str
) -> None:
    words = fit_words(library.describe(pocket), context.settings, available, str)
    assert (words.text, words.role) == (word, role)


def test_a_long_context_that_does_not_fit_is_less_context(context: Context, pocket: Path) -> None:
    info = msgspec.structs.replace(library.describe(pocket), context_length=1 << 20)
    context.update_settings(context=1 << 20)
    small = hardware.fits(info, 4096)
    words = fit_words(info, context.settings, small.total * 2, str)
    assert (words.text, words.role) == ("Less context", "warn")
    assert "would fit" in words.why


def test_measurements_fill_their_columns(qtbot: QtBot, page: LibraryPage, family: list[str], context: Context) -> None:
    path = family[1]
    assert cell(page, path, QUALITY) == "–"
    quality = {"kld": {"mean": {"value": 0.0231, "error": 0.001}}, "verdict": "pass", "tokens_per_second": 90.0}
    context.store.add_measurement(path, "quality", quality)
    # A sweep of threads at two depths: the fastest of the shallow points counts.
    medians = ((0, 62.0), (0, 331.24), (512, 400.0))
    points = [{"depth": depth, "tokens_per_second": {"median": median}} for depth, median in medians]
    context.store.add_measurement(path, "bench", {"generate": points})
    page.refresh()
    assert cell(page, path, QUALITY) == "0.0231"
    assert cell(page, path, SPEED) == "331"
    good = context.theme.color("good")
    assert cell(page, path, QUALITY, Qt.ItemDataRole.ForegroundRole) == good


def test_sorting_by_a_measurement_puts_the_unmeasured_last(context: Context) -> None:
    table = LibraryTable(context.theme)
    far, near, same = Quality(0.2, "review", False), Quality(0.0, "pass", False), Quality(0.0, "pass", True)
    kinds = {"none": None, "far": far, "near": near, "same": same}
    table.set_rows([make_row(name, 1, "Q8_0", quality=quality) for name, quality in kinds.items()])
    table.sort(QUALITY)
    assert [row.base for row in table.shown()] == ["same", "near", "far", "none"]


def test_the_reference_of_a_measurement_is_called_so(page: LibraryPage, family: list[str], context: Context) -> None:
    large, small = family
    for path, value in ((large, 0.0), (small, 0.0231)):
        payload = {"path": path, "reference": large, "verdict": "pass", "kld": {"mean": {"value": value}}}
        context.store.add_measurement(path, "quality", payload)
    page.refresh()
    assert [cell(page, path, QUALITY) for path in family] == ["reference", "0.0231"]
    assert cell(page, large, QUALITY, Qt.ItemDataRole.ForegroundRole) == context.theme.color("muted")
    payload = {"path": large, "reference": "/other.gguf", "verdict": "pass", "kld": {"mean": {"value": 0.0004}}}
    context.store.add_measurement(large, "quality", payload)  # the newest measurement counts
    page.refresh()
    assert cell(page, large, QUALITY) == "0.0004"


def test_the_filter_looks_at_every_word(qtbot: QtBot, page: LibraryPage, family: list[str]) -> None:
    qtbot.keyClicks(page.filter, "pocket q4")
    assert [row.type for row in page.table.shown()] == ["Q4_K_M"]
    page.filter.clear()
    qtbot.keyClicks(page.filter, "no such thing")
    assert page.nothing.isVisible()
    page.filter.clear()
    assert page.view.isVisible()
    assert len(page.table.shown()) == 3


def test_selection_and_closed_groups_survive_a_refresh(page: LibraryPage, family: list[str]) -> None:
    page.select(family[1])
    page.refresh()
    assert [row.info.path for row in page.selected()] == [family[1]]
    page.view.collapse(page.table.index(0, 0))
    page.refresh()
    assert not page.view.isExpanded(page.table.index(0, 0))


# ---- adding ----------------------------------------------------------------------------------------------------


def test_a_dropped_file_is_added_and_selected(
    qtbot: QtBot, page: LibraryPage, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    file = tmp_path / "ein Mödel-Q4_K_M.gguf"
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(file))])
    copy, no = Qt.DropAction.CopyAction, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPoint(9, 9), copy, mime, LEFT, no)
    QApplication.sendEvent(page, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(page, QDropEvent(QPointF(9, 9), copy, mime, LEFT, no))
    qtbot.waitUntil(lambda: [row.info.path for row in page.selected()] == [str(file)])


def test_a_broken_file_is_listed_with_what_is_wrong(qtbot: QtBot, page: LibraryPage, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + b"\xff" * 60)
    page.receive({"add": str(file)})
    qtbot.waitUntil(lambda: bool(page.selected()))
    assert cell(page, str(file), FITS) == "Broken"
    problem = page.selected()[0].info.problems[0]
    assert any(label.text() == problem for label in page.findChildren(QLabel))
    enabled = {name for name, action in page.actions_by_name.items() if action.isEnabled()}
    assert enabled == {"show", "path", "remove", "delete"}
    page.remove()
    assert page.table.shown() == [] or qtbot.waitUntil(lambda: page.table.shown() == []) is None


def test_what_is_removed_stays_away_through_scans_and_comes_back_when_asked(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("one.gguf", "two.gguf"):
        shutil.copy(pocket_gguf("Q4_K_M"), shelf / name)
    page.add(str(shelf))
    one, two = str(shelf / "one.gguf"), str(shelf / "two.gguf")

    def listed() -> set[str]:
        return {row.info.path for row in page.table.shown()} & {one, two}

    def scanned() -> None:
        context.library.rescan()
        qtbot.waitUntil(lambda: not context.library.scanning)

    qtbot.waitUntil(lambda: listed() == {one, two})
    page.select(one)
    qtbot.waitUntil(lambda: [row.info.path for row in page.selected()] == [one])
    page.remove()
    qtbot.waitUntil(lambda: listed() == {two})
    scanned()
    qtbot.waitUntil(lambda: listed() == {two})
    assert settings.load().hidden == (one,) and Path(one).exists()
    page.put_back_action.trigger()
    qtbot.waitUntil(lambda: listed() == {one, two})
    assert context.settings.hidden == ()
    page.select(two)
    page.remove()
    qtbot.waitUntil(lambda: listed() == {one})
    page.add(two)  # asked for by name
    qtbot.waitUntil(lambda: listed() == {one, two})


def test_a_folder_of_models_becomes_a_place_to_look(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    shutil.copy(pocket_gguf("Q4_K_M"), shelf / "one.gguf")
    page.add(str(shelf))
    qtbot.waitUntil(lambda: context.library.entry(str(shelf / "one.gguf")) is not None)
    assert context.settings.folders == (str(shelf),)
    qtbot.waitUntil(lambda: not context.library.scanning)
    assert context.library.entry(str(resources.path("pocket"))) is not None  # the bundled model is always there
    (shelf / "one.gguf").unlink()
    context.library.rescan()
    qtbot.waitUntil(lambda: context.library.entry(str(shelf / "one.gguf")) is None)


# ---- actions ---------------------------------------------------------------------------------------------------


def test_actions_ask_the_other_pages(
    qtbot: QtBot, page: LibraryPage, family: list[str], asked: list[tuple[str, dict]]
) -> None:
    eight, four = family
    page.select(four)
    for name in ("chat", "convert", "compare", "measure", "bench"):
        page.actions_by_name[name].trigger()
    assert asked == [
        ("chat", {"model": four}),
        ("convert", {"source": four}),
        ("compare", {"reference": eight, "models": [four]}),
        ("quality", {"reference": eight, "candidates": [four]}),
        ("bench", {"models": [four]}),
    ]


def test_enter_chats_with_a_file_and_converts_a_folder(
    qtbot: QtBot, page: LibraryPage, family: list[str], asked: list[tuple[str, dict]]
) -> None:
    pocket = str(resources.path("pocket"))
    for path in (family[1], pocket):
        page.select(path)
        qtbot.keyClick(page.view, Qt.Key.Key_Return)
    assert asked == [("chat", {"model": family[1]}), ("convert", {"source": pocket})]


def test_without_a_selection_nothing_can_be_done(page: LibraryPage, family: list[str]) -> None:
    page.view.clearSelection()
    assert [name for name, action in page.actions_by_name.items() if action.isEnabled()] == []


def test_inspect_shows_facts_tensors_and_template(qtbot: QtBot, page: LibraryPage, family: list[str]) -> None:
    page.select(family[1])
    dialog = page.inspect()
    qtbot.waitUntil(lambda: dialog.info is not None)
    titles = [dialog.tabs.tabText(number) for number in range(dialog.tabs.count())]
    assert titles == ["Overview", "Metadata", "Tensors (56)", "Tokenizer", "Chat template", "Compare"]
    words = [label.text() for label in dialog.findChildren(QLabel)]
    assert "5.2 M (5,246,208)" in words
    dialog.close()


def test_inspecting_a_file_that_went_away_says_so_with_retry(
    qtbot: QtBot, page: LibraryPage, library: Fill, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    file = tmp_path / "gone.gguf"
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    library(file)
    qtbot.waitUntil(lambda: page.select(str(file)))
    file.unlink()
    dialog = page.inspect()
    qtbot.waitUntil(lambda: dialog.error.error is not None)
    assert dialog.error.isVisible()
    retry = next(made for made in dialog.error.findChildren(QPushButton) if made.text() == "Retry")
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    qtbot.mouseClick(retry, LEFT)
    qtbot.waitUntil(lambda: dialog.info is not None)
    dialog.close()


@pytest.fixture
def wastebasket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A wastebasket of the test's own, which is not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "Trash" / "files"


def test_delete_asks_and_moves_to_the_wastebasket(
    qtbot: QtBot, page: LibraryPage, context: Context, wastebasket: Path, tmp_path: Path
) -> None:
    file = tmp_path / "away.gguf"
    file.write_bytes(b"GGUF")
    page.add(str(file))
    qtbot.waitUntil(lambda: bool(page.selected()))
    page.keeper.confirm = lambda removal, names: False
    page.delete()
    assert file.exists()
    page.keeper.confirm = lambda removal, names: True
    page.delete()
    assert not file.exists()
    assert sys.platform != "linux" or (wastebasket / "away.gguf").exists()
    assert context.library.entry(str(file)) is None


def test_the_bundled_model_cannot_be_deleted(page: LibraryPage, family: list[str]) -> None:
    page.select(str(resources.path("pocket")))
    assert not page.actions_by_name["delete"].isEnabled()
    assert not page.actions_by_name["remove"].isEnabled()
    page.remove()
    assert page.table.index_of(str(resources.path("pocket"))).isValid()
    page.keeper.confirm = lambda removal, names: True
    page.delete()
    assert resources.path("pocket").exists()


# ---- what changes, what it takes up, whether it is whole ---------------------------------------------------------


def test_what_changes_on_disk_appears_without_a_click(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf
) -> None:
    context.library.rescan()
    qtbot.waitUntil(lambda: not context.library.scanning)
    file = paths.models() / "new.gguf"
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    qtbot.waitUntil(lambda: page.table.index_of(str(file)).isValid())
    renamed = file.rename(paths.models() / "other.gguf")
    qtbot.waitUntil(lambda: page.table.index_of(str(renamed)).isValid())
    qtbot.waitUntil(lambda: not page.table.index_of(str(file)).isValid())
    renamed.unlink()
    qtbot.waitUntil(lambda: not page.table.index_of(str(renamed)).isValid())


def test_a_moved_file_keeps_its_measurements(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf
) -> None:
    file, moved = paths.models() / "here.gguf", paths.models() / "deeper" / "there.gguf"
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    payload = {"kld": {"mean": {"value": 0.0231}}, "verdict": "pass", "tokens_per_second": 90.0}
    context.store.add_measurement(str(file), "quality", payload, content_id(file))
    moved.parent.mkdir()
    file.rename(moved)
    shutil.copy(pocket_gguf("Q2_K"), file)  # another model in its place does not inherit them
    context.library.rescan()
    qtbot.waitUntil(lambda: cell(page, str(moved), QUALITY) == "0.0231")
    qtbot.waitUntil(lambda: cell(page, str(file), QUALITY) == "–")


def test_disk_use_moves_what_is_ticked_to_the_wastebasket(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf, wastebasket: Path
) -> None:
    assert not wastebasket.exists()
    shelf = paths.home() / "shelf"
    kept, copy = paths.models() / "Pocket-Q4_K_M.gguf", shelf / "again.gguf"
    shelf.mkdir()
    for file in (kept, copy):
        shutil.copy(pocket_gguf("Q4_K_M"), file)
    context.update_settings(folders=(str(copy.parent),))
    context.library.rescan()
    qtbot.waitUntil(lambda: page.table.index_of(str(copy)).isValid() and not context.library.scanning)
    qtbot.mouseClick(page.disk_button, LEFT)
    assert page.disk.isVisible()
    assert not page.disk.delete.isEnabled()
    items = [page.disk.could.topLevelItem(number) for number in range(page.disk.could.topLevelItemCount())]
    (item,) = [item for item in items if item.text(0) == "again.gguf"]
    assert item.text(2) == "The same as Pocket-Q4_K_M.gguf"
    item.setCheckState(0, Qt.CheckState.Checked)
    asked: list[tuple[tuple[str, ...], int]] = []
    page.keeper.confirm = lambda removal, names: asked.append((removal.paths, removal.bytes)) or True
    size = copy.stat().st_size
    qtbot.mouseClick(page.disk.delete, LEFT)
    assert asked == [((str(copy),), size)]
    assert (copy.exists(), kept.exists()) == (False, True)
    qtbot.mouseClick(page.disk_button, LEFT)
    assert page.view.isVisible()


def test_the_question_says_what_goes_and_how_much(qtbot: QtBot) -> None:
    box = question(Removal(("/a/one.gguf", "/b/two.gguf"), 3 << 20), ["one.gguf", "two.gguf"])
    qtbot.addWidget(box)
    assert "2 models" in box.text()
    assert "/a/one.gguf" in box.informativeText()
    assert "3.0 MiB" in box.informativeText()
    assert box.defaultButton().text().replace("&", "") == "Cancel"


def test_a_flipped_bit_is_found_and_listed(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf
) -> None:
    file = paths.models() / "mine.gguf"
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    context.library.rescan()
    qtbot.waitUntil(lambda: page.table.index_of(str(file)).isValid() and not context.library.scanning)
    with qtbot.waitSignal(context.jobs.finished):
        page.disk.verify.click()
    assert not context.library.entry(str(file)).problems
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    with file.open("r+b") as stream:
        stream.write(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with qtbot.waitSignal(context.jobs.finished):
        page.disk.verify.click()
    qtbot.waitUntil(lambda: cell(page, str(file), FITS) == "Broken")
    assert "date has not" in context.library.entry(str(file)).problems[0]


def test_another_programs_files_are_not_deleted(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket_gguf: Gguf
) -> None:
    file = Path.home() / ".lmstudio" / "models" / "acme" / "tiny" / "tiny-Q4_K_M.gguf"
    file.parent.mkdir(parents=True)
    shutil.copy(pocket_gguf("Q4_K_M"), file)
    context.library.rescan()
    qtbot.waitUntil(lambda: page.select(str(file)))
    assert "LM Studio" in str(cell(page, str(file), NAME))
    told: list[QuenchError] = []
    context.notify.error = told.append
    page.keeper.confirm = lambda removal, names: True
    page.delete()
    assert [error.code for error in told] == ["not_ours"]
    assert file.exists()


# ---- first start -----------------------------------------------------------------------------------------------


def test_chat_with_pocket_converts_once_and_opens_the_chat(
    qtbot: QtBot, page: LibraryPage, context: Context, asked: list[tuple[str, dict]]
) -> None:
    assert page.first.isVisible()
    with qtbot.waitSignal(context.navigate):
        qtbot.mouseClick(page.first.chat, LEFT)
    assert asked == [("chat", {"model": str(pocket_file())})]
    assert pocket_file().parent == paths.models()
    assert library.describe(pocket_file()).problems == ()
    assert context.settings.first_start is False
    page.refresh()
    assert not page.first.isVisible()
    written = pocket_file().stat().st_mtime_ns
    with qtbot.waitSignal(context.navigate):
        page.pocket.start()
    assert len(context.jobs.jobs) == 1
    assert pocket_file().stat().st_mtime_ns == written


def test_a_damaged_pocket_file_is_made_anew(qtbot: QtBot, page: LibraryPage, context: Context) -> None:
    pocket_file().write_bytes(b"GGUF" + bytes(100))
    with qtbot.waitSignal(page.pocket.ready):
        page.pocket.start()
    assert library.describe(pocket_file()).problems == ()


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_killed_pocket_conversion_is_one_red_card_with_retry(
    qtbot: QtBot, page: LibraryPage, context: Context
) -> None:
    qtbot.mouseClick(page.first.chat, LEFT)
    (job,) = context.jobs.jobs
    assert job.state == RUNNING
    os.kill(job.pid(), signal.SIGKILL)  # before it has done anything, however fast it is
    qtbot.waitUntil(page.pocket.error.isVisible)
    assert page.pocket.error.error.code == "engine_died"
    assert not pocket_file().exists()
    retry = next(made for made in page.pocket.error.findChildren(QPushButton) if made.text() == "Retry")
    with qtbot.waitSignal(page.pocket.ready):
        qtbot.mouseClick(retry, LEFT)
    assert not page.pocket.error.isVisible()


def test_the_card_can_be_put_away(qtbot: QtBot, page: LibraryPage, context: Context) -> None:
    page.first.dismissed.emit()
    qtbot.waitUntil(lambda: not page.first.isVisible())
    assert context.settings.first_start is False


def test_find_models_opens_the_search(page: LibraryPage, asked: list[tuple[str, dict]]) -> None:
    page.find()
    assert asked == [("find", {})]


def test_without_models_the_page_says_what_to_do(page: LibraryPage) -> None:
    assert page.empty.isVisible()
    assert page.table.index_of("/nowhere") == QModelIndex()
    assert [made.text() for made in page.empty.buttons] == ["Open a GGUF file", "Open a folder"]


def test_the_scout_survives_a_killed_worker(
    qtbot: QtBot, page: LibraryPage, context: Context, pocket: Path, pocket_gguf: Gguf
) -> None:
    answers: dict[str, object] = {}
    context.scout.inspect(str(pocket), lambda answer: answers.update(first=answer))
    qtbot.waitUntil(lambda: context.scout.pid() > 0 and "first" in answers)
    os.kill(context.scout.pid(), signal.SIGSTOP)  # it takes no more questions, then it dies with two of them
    context.scout.inspect(str(pocket), lambda answer: answers.update(culprit=answer))
    context.scout.inspect(str(pocket_gguf("Q4_K_M")), lambda answer: answers.update(behind=answer))
    os.kill(context.scout.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: "behind" in answers)
    assert isinstance(answers["culprit"], QuenchError)
    assert answers["culprit"].code == "engine_died"
    assert answers["behind"].layers == 6


def test_rows_are_made_from_entries(context: Context, pocket: Path) -> None:
    broken = library_entry("/x/broken.gguf")
    models = [Listed(library.describe(pocket), "folder"), Listed(broken, "folder", state=BROKEN)]
    good, bad = make_rows(models, context.store, context.settings, str)
    assert (good.type, good.fit is not None, good.is_broken) == ("BF16", True, False)
    assert (bad.fit, bad.is_broken) == (None, True)
