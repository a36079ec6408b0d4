"""The inspect window with real workers: edited copies, tokens, templates, comparisons, and files made to do harm."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QTextCursor
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot
from tokenizers import Tokenizer

import resources
from app.inspect_messages import TEXT_LIMIT, TokenPiece, Turn
from app.ui.context import Context
from app.ui.filtered_table import FilteredTable
from app.ui.inspect import InspectDialog
from app.ui.inspect_tokens import HUES, OPACITY_DARK, OPACITY_LIGHT, spans, visible
from app.ui.inspect_value import PagesDialog
from app.ui.theme import contrast
from app.ui.widgets import ErrorCard
from converter.difference import SAME
from tests.converter.gguf_files import GgufFile, number_key, string_key, tensor, text, u32, u64
from tests.ui.conftest import nameless

Gguf = Callable[[str], Path]
Inspected = Callable[[Path], InspectDialog]
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def inspected(qtbot: QtBot, context: Context) -> Iterator[Inspected]:
    """``inspected(path)`` is the open window, its header read."""
    made: list[InspectDialog] = []

    def show(path: Path) -> InspectDialog:
        dialog = InspectDialog(context, str(path), None)
        made.append(dialog)
        dialog.show()
        qtbot.waitUntil(lambda: dialog.info is not None)
        return dialog

    yield show
    for dialog in made:
        dialog.close()


def cells(table: FilteredTable) -> list[list[str]]:
    """What the table shows, in its order."""
    model = table.proxy
    return [[model.index(r, c).data() for c in range(model.columnCount())] for r in range(model.rowCount())]


def retry(card: ErrorCard) -> QPushButton:
    return next(made for made in card.findChildren(QPushButton) if made.text() == "Retry" and made.isVisibleTo(card))


def odd_gguf(path: Path, *keys: bytes) -> Path:
    path.write_bytes(GgufFile(keys=[string_key("general.architecture", "llama"), *keys]).build())
    return path


def folder_with(pocket: Path, target: Path, template: str) -> Path:
    """Pocket with another chat template."""
    shutil.copytree(pocket, target)
    config = json.loads((target / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


# ---- the window ----


@pytest.mark.parametrize("kind", ["Q4_K_M", "folder"])
def test_everything_has_a_name_and_its_room(qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf, kind: str) -> None:
    folder = resources.path("pocket")
    dialog = inspected(folder if kind == "folder" else pocket_gguf(kind))
    dialog.tokens.other.set_path(str(folder))
    for size in ((1280, 800), (960, 600)):
        dialog.resize(*size)
        for number in range(dialog.tabs.count()):
            dialog.tabs.setCurrentIndex(number)
            QApplication.processEvents()
            assert nameless(dialog) == []
            assert (dialog.width(), dialog.height()) == size
    qtbot.waitUntil(lambda: dialog.template.answer is not None and dialog.tokens.sides[1].answer is not None)


def test_the_tabs_are_reached_by_keyboard(qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf) -> None:
    dialog = inspected(pocket_gguf("Q4_K_M"))
    bar = dialog.tabs.tabBar()
    bar.setFocus()
    for number in range(1, dialog.tabs.count()):
        qtbot.keyClick(bar, Qt.Key.Key_Right)
        assert dialog.tabs.currentIndex() == number
    dialog.tabs.setCurrentWidget(dialog.metadata)
    seen: set[QWidget] = set()
    for _ in range(20):
        qtbot.keyClick(dialog.focusWidget() or dialog, Qt.Key.Key_Tab)
        if (focus := dialog.focusWidget()) is not None:
            seen.add(focus)
    assert {dialog.metadata.table.view, dialog.metadata.add_button} <= seen


def test_a_window_closed_at_once_leaves_nothing(qtbot: QtBot, context: Context, pocket_gguf: Gguf) -> None:
    """The fixture of the context counts the processes that are left."""
    dialog = InspectDialog(context, str(pocket_gguf("Q4_K_M")), None)
    dialog.show()
    qtbot.waitUntil(lambda: dialog.info is not None)
    dialog.compare.other.set_path(str(pocket_gguf("BF16")))
    dialog.compare.start()
    dialog.close()


# ---- metadata ----


def test_long_values_are_shown_bounded_and_page_by_page(qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf) -> None:
    tab = inspected(pocket_gguf("Q4_K_M")).metadata
    qtbot.waitUntil(lambda: bool(tab.entries))
    rows = {row[0]: row for row in cells(tab.table)}
    assert rows["tokenizer.ggml.tokens"][1] == "[string]"
    assert rows["tokenizer.ggml.tokens"][2].startswith("2,048 strings: ")
    assert rows["general.sampling.top_p"][1:3] == ["float32", "0.9"]
    choose(tab, "tokenizer.ggml.tokens")
    qtbot.mouseClick(tab.open_button, LEFT)
    pages = tab.findChild(PagesDialog)
    whole = gguf.GGUFReader(pocket_gguf("Q4_K_M")).fields["tokenizer.ggml.tokens"].contents()
    for start in (0, 1000, 2000):
        last = min(start + 999, 2047)
        qtbot.waitUntil(lambda start=start, last=last: pages.place.text() == f"Items {start:,} to {last:,} of 2,048")
        assert pages.list.count() == last - start + 1
        assert pages.list.item(0).text().endswith(repr(whole[start]))
        assert pages.forth.isEnabled() == (start < 2000)
        if start < 2000:
            qtbot.mouseClick(pages.forth, LEFT)
    pages.close()


def choose(tab: Any, key: str) -> None:
    names = [row[0] for row in cells(tab.table)]
    tab.table.view.setCurrentIndex(tab.table.proxy.index(names.index(key), 0))


def test_an_edited_copy_has_the_changes_and_the_same_tensors(
    qtbot: QtBot, inspected: Inspected, context: Context, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    source, target = pocket_gguf("Q4_K_M"), tmp_path / "edited.gguf"
    before = source.read_bytes()
    tab = inspected(source).metadata
    qtbot.waitUntil(lambda: bool(tab.entries))
    assert not tab.save_button.isEnabled()
    choose(tab, "general.name")
    dialog = tab.edit()
    dialog.value.setPlainText("Ein anderer\nName")
    qtbot.mouseClick(dialog.ok, LEFT)
    choose(tab, "tokenizer.chat_template")
    dialog = tab.edit()
    dialog.value.setPlainText("{{ messages }}")
    qtbot.mouseClick(dialog.ok, LEFT)
    choose(tab, "general.sampling.temp")
    qtbot.mouseClick(tab.remove_button, LEFT)
    dialog = tab.add()
    dialog.key.setText("quench.list")
    dialog.kind.setCurrentText("[int8]")
    dialog.value.setPlainText("[-1, 2]")
    qtbot.mouseClick(dialog.ok, LEFT)
    states = {row[0]: row[3] for row in cells(tab.table) if row[3]}
    assert states == {
        "general.name": "changed", "tokenizer.chat_template": "changed", "general.sampling.temp": "removed",
        "quench.list": "new",
    }  # fmt: skip
    tab.ask_target = lambda: str(target)
    with qtbot.waitSignal(tab.copied):
        qtbot.mouseClick(tab.save_button, LEFT)
    reader, original = gguf.GGUFReader(target), gguf.GGUFReader(source)
    assert reader.fields["general.name"].contents() == "Ein anderer\nName"
    assert reader.fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    assert reader.fields["quench.list"].contents() == [-1, 2]
    assert set(original.fields) - set(reader.fields) == {"general.sampling.temp"}
    ours, theirs = ([(t.name, t.data.tobytes()) for t in file.tensors] for file in (reader, original))
    assert ours == theirs
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["edited.gguf"]
    qtbot.waitUntil(lambda: context.library.entry(str(target)) is not None)
    assert not tab.changes and not tab.save_button.isEnabled()


def test_values_that_do_not_fit_their_type_are_refused_at_once(
    qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf
) -> None:
    tab = inspected(pocket_gguf("Q4_K_M")).metadata
    qtbot.waitUntil(lambda: bool(tab.entries))
    for kind, value in (("uint8", "256"), ("bool", "1"), ("[string]", "[1]"), ("float32", ""), ("int64", "1.5")):
        dialog = tab.add()
        dialog.key.setText("quench.test")
        dialog.kind.setCurrentText(kind)
        dialog.value.setPlainText(value)
        qtbot.mouseClick(dialog.ok, LEFT)
        assert dialog.trouble.isVisible() and dialog.isVisible(), (kind, value)
        dialog.close()
    assert not tab.changes
    for key in ("general.architecture", "tokenizer.ggml.tokens"):
        choose(tab, key)
        assert not tab.edit_button.isEnabled()
    choose(tab, "general.architecture")
    assert not tab.remove_button.isEnabled()


def test_a_copy_that_cannot_be_written_is_a_card_and_the_edits_stay(
    qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    tab = inspected(pocket_gguf("Q4_K_M")).metadata
    qtbot.waitUntil(lambda: bool(tab.entries))
    tab.set_change("general.name", "string", "x")
    (tmp_path / "file").write_text("no folder")
    tab.make_copy(str(tmp_path / "file" / "copy.gguf"))
    qtbot.waitUntil(lambda: tab.error.error is not None)
    assert tab.changes and tab.save_button.isEnabled()
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    with qtbot.waitSignal(tab.copied):
        qtbot.mouseClick(retry(tab.error), LEFT)
    assert (tmp_path / "file" / "copy.gguf").is_file()


def test_hostile_metadata_stays_in_its_rows(qtbot: QtBot, inspected: Inspected, tmp_path: Path) -> None:
    items = [b"\xff\xfe", b"x" * 100_000]
    strange = text("bytes") + u32(9) + u32(8) + u64(2) + b"".join(text(item) for item in items)
    path = odd_gguf(tmp_path / "odd.gguf", string_key("long", "ä\n" * 200_000), strange, number_key("<b>bold</b>", 7))
    tab = inspected(path).metadata
    qtbot.waitUntil(lambda: bool(tab.entries))
    rows = {row[0]: row[2] for row in cells(tab.table)}
    assert rows["<b>bold</b>"] == "7"
    assert rows["long"].startswith("400,000 characters: ä↵") and max(map(len, rows.values())) < 1000
    choose(tab, "long")
    dialog = tab.edit()
    qtbot.waitUntil(dialog.trouble.isVisible)
    assert not dialog.ok.isEnabled()
    dialog.close()


# ---- tokenizer ----


def test_tokens_follow_the_typing(qtbot: QtBot, inspected: Inspected, pocket: Path, pocket_gguf: Gguf) -> None:
    dialog = inspected(pocket_gguf("Q4_K_M"))
    tab = dialog.tokens
    library = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    dialog.tabs.setCurrentWidget(tab)
    tab.text.clear()
    qtbot.keyClicks(tab.text, "Hello <|im_end|> wide world")
    expected = library.encode(tab.text.toPlainText(), add_special_tokens=False)
    side = tab.sides[0]
    qtbot.waitUntil(lambda: side.answer is not None and [p.id for p in side.answer.tokens] == expected.ids)
    rows = cells(side.table)
    assert [row[1] for row in rows] == [f"{number:,}" for number in expected.ids]
    assert [row[2] for row in rows] == expected.tokens
    assert side.pieces.toPlainText() == tab.text.toPlainText().replace(" ", "·")
    assert side.count.text().startswith(f"{len(expected.ids)} tokens")
    tab.special.setChecked(False)
    qtbot.waitUntil(lambda: side.answer is not None and len(side.answer.tokens) > len(expected.ids))


def test_two_models_side_by_side_mark_where_they_differ(
    qtbot: QtBot, inspected: Inspected, pocket: Path, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    """A twin of Pocket that has lost all its merges splits everything into bytes."""
    twin = tmp_path / "twin"
    shutil.copytree(pocket, twin)
    files = json.loads((twin / "tokenizer.json").read_text())
    files["model"]["merges"] = []
    (twin / "tokenizer.json").write_text(json.dumps(files))
    tab = inspected(pocket_gguf("Q4_K_M")).tokens
    tab.text.setPlainText("a bit")
    tab.other.set_path(str(pocket))
    first, second = tab.sides
    qtbot.waitUntil(lambda: second.text == first.text == "a bit" and second.answer is not None)
    assert "0 cut differently" in first.count.text() and "0 cut differently" in second.count.text()
    tab.other.set_path(str(twin))
    qtbot.waitUntil(lambda: second.answer is not None and len(second.answer.tokens) == 5)
    ours, theirs = (set(spans(side.answer.tokens, "a bit")) for side in tab.sides)
    assert f"{len(theirs - ours)} cut differently" in second.count.text()
    assert f"{len(ours - theirs)} cut differently" in first.count.text()
    marked = [row[0] for row in cells(first.table) if row[4] == "cut differently"]
    assert marked and all(len(piece) > 1 for piece in marked)
    tab.alone.click()
    assert not second.isVisible()


def test_a_leading_space_of_the_vocabulary_is_not_counted() -> None:
    def piece(data: bytes, special: bool = False) -> TokenPiece:
        return TokenPiece(0, "", data, special)

    plain = [piece(b"He"), piece(b"llo")]
    spaced = [piece(b"<s>", True), piece(b" He"), piece(b"llo")]
    assert spans(plain, "Hello") == [(0, 2), (2, 5)]
    assert spans(spaced, "Hello") == [(-1, -1), (0, 2), (2, 5)]


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible(b"a b\n") == "a·b↵\n"
    assert visible("\u202e\x00".encode()) == "⟨U+202E⟩⟨U+0000⟩"
    assert visible(b"\xf0\x9f") == "⟨F0 9F⟩"


def test_pieces_can_be_read_in_both_themes(context: Context) -> None:
    for mode, opacity in (("light", OPACITY_LIGHT), ("dark", OPACITY_DARK)):
        context.theme.set_mode(mode)
        surface, words = context.theme.color("surface"), context.theme.color("text")
        for hue in HUES:
            tint = context.theme.type_color(hue)
            mixed = [int(a * opacity + b * (1 - opacity)) for a, b in zip(tint.getRgb(), surface.getRgb(), strict=True)]
            tint.setRgb(*mixed[:3])
            assert contrast(tint, words) >= 4.5, (mode, hue)


def test_a_long_text_is_cut_and_says_so(qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf) -> None:
    dialog = inspected(pocket_gguf("Q4_K_M"))
    dialog.tabs.setCurrentWidget(dialog.tokens)
    tab = dialog.tokens
    tab.text.setPlainText("\u202e a" * TEXT_LIMIT)
    side = tab.sides[0]
    qtbot.waitUntil(lambda: len(side.text) == TEXT_LIMIT)
    assert tab.words.isVisible() and "60,000" in tab.words.text()
    assert side.table.model.rowCount() == len(side.answer.tokens)
    assert len(side.pieces.toPlainText()) < 12 * TEXT_LIMIT


def test_a_file_without_a_vocabulary_says_so_and_its_template_still_works(
    qtbot: QtBot, inspected: Inspected, tmp_path: Path
) -> None:
    path = odd_gguf(tmp_path / "none.gguf", string_key("tokenizer.chat_template", "[{{ messages[0].content }}]"))
    dialog = inspected(path)
    qtbot.waitUntil(lambda: dialog.tokens.sides[0].error.error is not None)
    qtbot.waitUntil(lambda: dialog.template.answer is not None)
    assert dialog.template.prompt.toPlainText() == "[You are brief.]"


# ---- workers that die or hang ----


def test_a_dead_worker_is_a_card_and_a_retry_starts_another(
    qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf
) -> None:
    dialog = inspected(pocket_gguf("Q4_K_M"))
    side = dialog.tokens.sides[0]
    qtbot.waitUntil(lambda: side.answer is not None and dialog.template.answer is not None)
    dead = dialog.reader.pid()
    os.kill(dead, signal.SIGSTOP)
    dialog.tokens.text.setPlainText("again")
    qtbot.waitUntil(lambda: not dialog.tokens._timer.isActive())
    os.kill(dead, signal.SIGKILL)
    qtbot.waitUntil(lambda: side.error.error is not None)
    retry(side.error).click()
    qtbot.waitUntil(lambda: side.answer is not None and side.text == "again")
    assert dialog.reader.pid() not in (0, dead)


def test_a_worker_that_hangs_is_ended(qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf) -> None:
    dialog = inspected(pocket_gguf("Q4_K_M"))
    side = dialog.tokens.sides[0]
    qtbot.waitUntil(lambda: side.answer is not None and dialog.template.answer is not None)
    dialog.reader.patience = 200
    os.kill(dialog.reader.pid(), signal.SIGSTOP)
    dialog.tokens.text.setPlainText("again")
    qtbot.waitUntil(lambda: side.error.error is not None)
    assert side.error.error.code == "too_long"
    dialog.reader.patience = 30_000
    dialog.tokens.text.setPlainText("once more")
    qtbot.waitUntil(lambda: side.answer is not None and side.text == "once more")


# ---- chat template ----


def test_the_sample_is_rendered_and_edits_are_followed(
    qtbot: QtBot, context: Context, inspected: Inspected, pocket_gguf: Gguf
) -> None:
    dialog = inspected(pocket_gguf("Q4_K_M"))
    tab = dialog.template
    dialog.tabs.setCurrentWidget(tab)
    qtbot.waitUntil(lambda: tab.answer is not None)
    assert tab.prompt.toPlainText().startswith("<|im_start|>system\nYou are brief.<|im_end|>\n")
    assert tab.prompt.toPlainText().endswith("<|im_start|>assistant\n")
    assert tab.words.text().endswith("tokens")
    qtbot.waitUntil(lambda: dialog.tokens.sides[0].answer is not None)
    for mode in ("dark", "light"):
        context.theme.set_mode(mode)
        for written in (tab.prompt, dialog.tokens.sides[0].pieces):
            cursor = QTextCursor(written.document())
            cursor.setPosition(22)
            ink = cursor.charFormat().foreground().color()
            assert ink == QColor(context.theme.color("text")), "what is written follows the theme"
    tab.open.setChecked(False)
    qtbot.waitUntil(lambda: tab.prompt.toPlainText().endswith("Is it still good?<|im_end|>\n"))
    qtbot.mouseClick(tab.add_button, LEFT)
    qtbot.keyClicks(tab.rows[-1].content, "Yes.")
    qtbot.waitUntil(lambda: tab.prompt.toPlainText().endswith("<|im_start|>assistant\nYes.<|im_end|>\n"))
    qtbot.mouseClick(tab.rows[0].remove, LEFT)
    qtbot.waitUntil(lambda: "brief" not in tab.prompt.toPlainText())
    tab.set_turns((Turn("user", "<b>&amp;"),))
    qtbot.waitUntil(lambda: "<b>&amp;" in tab.prompt.toPlainText())
    assert nameless(dialog) == []


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "template_limit"),
        ("{% if %}", "bad_template"),
        ("{{ raise_exception('no') }}", "template_refused"),
    ],
)
def test_a_bad_template_is_a_card(qtbot: QtBot, inspected: Inspected, tmp_path: Path, template: str, code: str) -> None:
    dialog = inspected(folder_with(resources.path("pocket"), tmp_path / "bad", template))
    dialog.tabs.setCurrentWidget(dialog.template)
    qtbot.waitUntil(dialog.template.error.isVisible)
    assert dialog.template.error.error.code == code
    assert dialog.template.source.toPlainText() == template


def test_a_model_without_a_template_gets_chatml(qtbot: QtBot, inspected: Inspected, tmp_path: Path) -> None:
    tab = inspected(odd_gguf(tmp_path / "none.gguf")).template
    qtbot.waitUntil(lambda: tab.answer is not None)
    assert tab.prompt.toPlainText().startswith("<|im_start|>system\n")
    assert "brings none" in tab.source.toPlainText()


# ---- comparison ----


def test_two_files_are_compared_in_rows(qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf) -> None:
    dialog = inspected(pocket_gguf("BF16"))
    tab = dialog.compare
    assert not tab.start_button.isEnabled()
    tab.other.set_path(str(pocket_gguf("Q8_0")))
    dialog.tabs.setCurrentWidget(tab)
    qtbot.mouseClick(tab.start_button, LEFT)
    qtbot.waitUntil(tab.start_button.isEnabled)
    assert tab.done is not None and len(tab.tensors) == 56
    rows = cells(tab.tensor_table)
    assert len(rows) == 56
    told = next(row for row in rows if row[0] == "blk.0.attn_q.weight")
    assert told[1] == "BF16 → Q8_0" and told[4].endswith("%") and told[5].endswith("weights differ")
    tab.only_differences.setChecked(True)
    assert len(cells(tab.tensor_table)) == sum(entry.change != SAME for entry in tab.tensors) == 43
    assert tab.tabs.tabText(0) == "Tensors (43 differ)"
    keys = {row[0]: row for row in cells(tab.metadata_table)}
    assert keys["general.file_type"][1:3] == ["32 (uint32)", "7 (uint32)"]
    tab.tensor_table.view.sortByColumn(4, Qt.SortOrder.DescendingOrder)
    figures = [float(row[4].removesuffix("%").strip()) for row in cells(tab.tensor_table)]
    assert figures == sorted(figures, reverse=True)


def test_a_comparison_is_stopped_or_fails_in_words(
    qtbot: QtBot, inspected: Inspected, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    tab = inspected(pocket_gguf("BF16")).compare
    file = tmp_path / "cut.gguf"
    file.write_bytes(GgufFile(tensors=[tensor("x", (32, 4), 0, 0)], data=bytes(100)).build())
    tab.other.set_path(str(file))
    tab.start()
    qtbot.waitUntil(lambda: tab.error.error is not None)
    assert tab.error.error.code == "truncated"
    tab.other.set_path(str(pocket_gguf("Q8_0")))
    tab.start()
    tab.cancel()
    qtbot.waitUntil(tab.start_button.isEnabled)
    tab.start()
    qtbot.waitUntil(lambda: tab.done is not None and tab.start_button.isEnabled())
    assert tab.error.error is None
