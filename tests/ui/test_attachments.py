"""Text files with a question: counted by a real engine, refused in words when they do not fit or are no text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app.ui.attachments import MAX_FILE, read_text
from app.ui.chat import ChatPage
from app.ui.context import Context
from converter.spec import QuenchError
from tests.ui.test_chat_page import GREEDY, finished, rows


@pytest.fixture
def page(qtbot: QtBot, context: Context) -> ChatPage:
    context.update_settings(sampling=GREEDY, context=512)
    made = ChatPage(context)
    qtbot.addWidget(made)
    made.resize(1192, 772)
    made.show()
    return made


@pytest.fixture
def model(pocket_gguf: Callable[[str], Path]) -> str:
    return str(pocket_gguf("Q8_0"))


def chips(page: ChatPage) -> list[str]:
    found = [made for made in page.composer.findChildren(QPushButton) if made.text().endswith("✕")]
    return [made.text() for made in found if made.isVisible()]


def test_a_file_is_counted_as_soon_as_there_is_an_engine(
    qtbot: QtBot, page: ChatPage, context: Context, model: str, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("The fox sleeps in a den.\n")
    page.composer.attach(str(notes))
    assert "tokens" not in chips(page)[-1]
    page.use_model(model)
    qtbot.waitUntil(lambda: "tokens" in chips(page)[-1])
    shown = int(chips(page)[-1].split("·")[1].split()[0])
    page.composer.set_text("Where does the fox sleep?")
    page.composer.field.submitted.emit()
    finished(qtbot, page)
    stats = context.store.messages(page.conversation() or 0)[-1].stats
    assert stats is not None
    assert 4 <= shown < stats["prompt_tokens"]
    assert "The fox sleeps in a den." in rows(context, page)[0][1]
    assert chips(page) == []


def test_a_file_that_does_not_fit_is_refused_in_words_and_leaves_the_draft(
    qtbot: QtBot, page: ChatPage, context: Context, model: str, tmp_path: Path
) -> None:
    page.use_model(model)
    engine = page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.state == "ready")
    long, short = tmp_path / "long.txt", tmp_path / "short.txt"
    long.write_text("bear and lamp " * 400)
    short.write_text("a bear")
    page.composer.set_text("What is this?")
    with qtbot.waitSignal(context.notify.posted) as posted:
        page.composer.attach(str(long))
        page.composer.attach(str(short))
    error = posted.args[0].error
    assert error.code == "bad_attachment" and error.title.startswith("long.txt")
    assert "512" in error.detail and "room for" in error.detail
    qtbot.waitUntil(lambda: len(chips(page)) == 1 and "tokens" in chips(page)[0])
    assert [name for name, _ in page.composer.files()] == ["short.txt"]
    draft = context.store.draft(None)
    assert (draft.content, draft.files) == ("What is this?", (("short.txt", "a bear"),))
    huge = tmp_path / "huge.txt"
    huge.write_text("bear " * 200_000)
    with qtbot.waitSignal(context.notify.posted) as posted:
        page.composer.attach(str(huge))
    assert posted.args[0].error.title.startswith("huge.txt")
    assert [name for name, _ in page.composer.files()] == ["short.txt"]
    assert engine.state == "ready"


def test_binary_and_huge_files_are_refused_without_reading_them(tmp_path: Path) -> None:
    def why(path: Path) -> str:
        with pytest.raises(QuenchError) as caught:
            read_text(str(path), str)
        assert caught.value.code == "bad_attachment"
        return caught.value.detail

    huge, binary, latin = tmp_path / "huge", tmp_path / "binary", tmp_path / "latin"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take minutes, and more memory than there is
    binary.write_bytes(b"\x7fELF\0" + b"x" * 1000)
    latin.write_bytes(b"caf\xe9")
    assert "at most" in why(huge)
    assert "binary" in why(binary)
    assert "UTF-8" in why(latin)
    assert "no file" in why(tmp_path)
    assert why(tmp_path / "missing")
    (tmp_path / "full").write_text("x" * MAX_FILE)
    assert len(read_text(str(tmp_path / "full"), str)) == MAX_FILE
    (tmp_path / "marked").write_bytes("\ufeffwörter".encode())
    assert read_text(str(tmp_path / "marked"), str) == "wörter"
