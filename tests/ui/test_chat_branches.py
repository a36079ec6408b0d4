"""Branches, search, undo, drafts and what a kill leaves, on the Chat page with real workers on Pocket."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6 import QtGui
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QTextDocument
from pytestqt.qtbot import QtBot

from app import paths
from app.store import Store
from app.ui.chat import ChatPage
from app.ui.context import Context
from tests.ui.test_chat_page import GREEDY, ask, finished, rows, running

FRANCE, ITALY = "What is the capital of France?", "What is the capital of Italy?"


@pytest.fixture
def page(qtbot: QtBot, context: Context) -> ChatPage:
    context.update_settings(sampling=GREEDY)
    made = ChatPage(context)
    qtbot.addWidget(made)
    made.resize(1192, 772)
    made.show()
    return made


@pytest.fixture
def model(pocket_gguf: Callable[[str], Path]) -> str:
    return str(pocket_gguf("Q8_0"))


@pytest.fixture
def endless(endless_gguf: Path) -> str:
    return str(endless_gguf)


def texts(context: Context, page: ChatPage) -> list[str]:
    return [content for _, content, _ in rows(context, page)]


def shown(page: ChatPage) -> list[str]:
    keys = page.transcript.keys()
    return [page.transcript.text_of(key) for key in keys]


def click_link(page: ChatPage, text: str) -> None:
    """Follow the link with this text, the last one if there are several, as a click on it does."""
    transcript = page.transcript
    block = transcript.document().lastBlock()
    while block.isValid():
        pieces = block.begin()
        while not pieces.atEnd():
            form = pieces.fragment().charFormat()
            if form.isAnchor() and pieces.fragment().text().strip() == text:
                transcript.anchorClicked.emit(QUrl(form.anchorHref()))
                return
            pieces += 1
        block = block.previous()
    raise AssertionError(f"no link {text!r}")


def test_another_answer_and_an_edited_question_stay_beside_the_first(
    qtbot: QtBot, page: ChatPage, context: Context, model: str
) -> None:
    page.receive({"model": model})
    ask(qtbot, page, FRANCE)
    finished(qtbot, page)
    paris = texts(context, page)
    page.inspector.spins["max_tokens"].setValue(3)
    page.transcript.act("regenerate", page.transcript.keys()[-1])
    finished(qtbot, page)
    short = texts(context, page)
    assert short[0] == FRANCE and paris[1].startswith(short[1]) and short != paris
    assert "2 / 2" in page.transcript.toPlainText()
    page.transcript.act("edit", page.transcript.keys()[0])
    ask(qtbot, page, ITALY)
    finished(qtbot, page)
    assert texts(context, page)[0] == ITALY and len(texts(context, page)) == 2
    # By keyboard: the first message, its previous version, then the answer's.
    transcript = page.transcript
    transcript.setFocus()
    for _ in range(2):
        qtbot.keyClick(transcript, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    qtbot.keyClick(transcript, Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    assert shown(page) == short == texts(context, page)
    qtbot.keyClick(transcript, Qt.Key.Key_Down, Qt.KeyboardModifier.AltModifier)
    qtbot.keyClick(transcript, Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    assert shown(page) == paris == texts(context, page)
    # By the links under the message.
    click_link(page, "›")
    assert shown(page) == short
    # Another page, as after a new start, shows the branch that was left.
    again = ChatPage(context)
    qtbot.addWidget(again)
    again.open_conversation(page.conversation() or 0)
    assert shown(again) == short


def test_after_a_switch_the_engine_computes_only_what_differs(
    qtbot: QtBot, page: ChatPage, context: Context, model: str
) -> None:
    page.receive({"model": model})
    for text in (FRANCE, "What is 2 plus 3?"):
        ask(qtbot, page, text)
        finished(qtbot, page)
    conversation = page.conversation()
    assert conversation is not None
    page.transcript.act("edit", page.transcript.keys()[2])
    ask(qtbot, page, ITALY)
    finished(qtbot, page)
    page.transcript.act("previous", page.transcript.keys()[2])
    page.transcript.act("regenerate", page.transcript.keys()[-1])
    finished(qtbot, page)
    stats = context.store.messages(conversation)[-1].stats
    assert stats is not None
    # The first question and its answer are the same in both branches; what follows them is computed anew.
    first = context.store.messages(conversation)[1].stats
    assert first is not None
    assert first["prompt_tokens"] <= stats["prompt_reused"] < stats["prompt_tokens"]
    assert texts(context, page)[2] == "What is 2 plus 3?" and "5" in texts(context, page)[3]


def test_a_stopped_answer_offers_to_go_on(qtbot: QtBot, page: ChatPage, context: Context, endless: str) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    page.stop()
    finished(qtbot, page)
    before = texts(context, page)[-1]
    click_link(page, "Continue")
    assert page.busy()
    conversation = page.conversation()
    assert conversation is not None
    assert context.store.messages(conversation)[-1].partial  # a kill from now on leaves it unfinished
    qtbot.waitUntil(lambda: len(texts(context, page)[-1]) > len(before))
    page.stop()
    finished(qtbot, page)
    assert texts(context, page)[-1].startswith(before)
    assert shown(page) == texts(context, page)
    # What comes next takes the offer away from it.
    page.inspector.spins["max_tokens"].setValue(4)
    ask(qtbot, page, "Go on.")
    finished(qtbot, page)
    assert page.transcript.toPlainText().count("Continue") == 1


def talk_with_branches(context: Context) -> tuple[int, list[int]]:
    store = context.store
    talk = store.create_conversation("Animals", "").id
    first = store.add_message(talk, "user", "Where do herons nest?")
    answer = store.add_message(talk, "assistant", "In trees, near **water** and reeds.")
    other = store.add_alternative(first, "user", "Where do foxes sleep?")
    store.add_message(talk, "assistant", "In dens.")
    return talk, [first, answer, other]


def test_deleting_a_version_takes_its_branch_and_ctrl_z_brings_it_back(
    qtbot: QtBot, page: ChatPage, context: Context
) -> None:
    talk, [first, answer, other] = talk_with_branches(context)
    page.open_conversation(talk)
    page.transcript.act("delete", other)
    assert page.transcript.keys() == [first, answer]
    assert "1 / 1" not in page.transcript.toPlainText()
    page.transcript.act("delete", answer)
    assert page.transcript.keys() == [first]
    page.transcript.setFocus()
    qtbot.waitUntil(page.transcript.hasFocus)
    for _ in range(2):
        qtbot.keyClick(page.transcript, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert shown(page) == ["Where do foxes sleep?", "In dens."]
    page.transcript.act("previous", other)
    assert page.transcript.keys() == [first, answer]


def test_a_deleted_conversation_comes_back_by_ctrl_z_without_its_notice(
    qtbot: QtBot, page: ChatPage, context: Context
) -> None:
    talk, _ = talk_with_branches(context)
    page.list.refresh()
    page.list.delete(talk)
    assert page.list.model.rows == []
    other = context.store.create_conversation("Other", "").id
    page.list.refresh()
    page.list.view.setFocus()
    qtbot.waitUntil(page.list.view.hasFocus)
    qtbot.keyClick(page.list.view, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert {row.id for row in page.list.model.rows} == {talk, other}
    assert page.conversation() == talk


def test_a_hit_opens_its_branch_with_the_words_marked(qtbot: QtBot, page: ChatPage, context: Context) -> None:
    _, [_, answer, _] = talk_with_branches(context)
    qtbot.keyClicks(page.list.search, "water")
    qtbot.waitUntil(lambda: [row.hit is not None for row in page.list.model.rows] == [True])
    page.list.view.clicked.emit(page.list.model.index(0))
    assert shown(page)[0] == "Where do herons nest?"
    marks = page.transcript.extraSelections()
    assert [mark.cursor.selectedText() for mark in marks] == ["water"]
    assert page.transcript.keys()[1] == answer
    accessible = page.list.model.index(0).data(Qt.ItemDataRole.AccessibleTextRole)
    assert accessible.startswith("Animals: ") and "water" in accessible
    page.list.search.clear()
    qtbot.waitUntil(lambda: page.list.model.rows[0].hit is None)


def test_a_saved_conversation_is_read_back_and_a_wrong_one_is_one_notice(
    qtbot: QtBot, page: ChatPage, context: Context, tmp_path: Path
) -> None:
    talk, _ = talk_with_branches(context)
    page.list.export(talk, "json", str(tmp_path / "a.json"))
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(tmp_path / "a.json"))])
    none, left = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    drop = QDropEvent(QPointF(20, 200), Qt.DropAction.CopyAction, data, left, none)
    page.list.dropEvent(drop)
    assert page.conversation() not in (None, talk)
    assert shown(page) == ["Where do foxes sleep?", "In dens."]
    assert "2 / 2" in page.transcript.toPlainText()
    (tmp_path / "a.json").write_text('{"format": "quench-conversation"}')
    with qtbot.waitSignal(context.notify.posted) as posted:
        page.list.read(str(tmp_path / "a.json"))
    assert posted.args[0].error.code == "bad_import"
    assert len(context.store.conversations()) == 2


def test_drafts_belong_to_their_conversation(qtbot: QtBot, page: ChatPage, context: Context, tmp_path: Path) -> None:
    talk, [_, _, other] = talk_with_branches(context)
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes")
    page.composer.set_text("a new question")
    page.open_conversation(talk)
    assert page.composer.text() == ""
    page.composer.attach(str(notes))
    qtbot.keyClicks(page.composer.field, "about these")
    page.transcript.act("edit", other)
    assert page.composer.text() == "Where do foxes sleep?" and page.composer.files() == ()
    page.composer.set_text("Where do foxes hunt?")
    page.new_chat()
    assert page.composer.text() == "a new question"
    page.open_conversation(talk)
    assert (page.composer.text(), page.composer.files()) == ("about these", (("notes.txt", "some notes"),))
    page.transcript.act("edit", other)
    assert page.composer.text() == "Where do foxes hunt?"
    page.composer.leave_edit()
    assert page.composer.text() == "about these"
    page.transcript.act("edit", other)
    assert page.composer.text() == "Where do foxes sleep?"


_SHOWING = """
import sys
from app.ui.application import create_application, create_window
from app.ui.context import Context
from tests.models import ENDLESS
app = create_application(["quench"])
context = Context()
window = create_window(context)
window.show()
window.navigate("chat", {"model": sys.argv[1]})
page = window.page("chat")
page.inspector.preset.setCurrentIndex(page.inspector.preset.findData("own"))
for name in ("temperature", "top_k", "top_p", "min_p", "max_tokens"):
    page.inspector.spins[name].setValue(getattr(ENDLESS, name))
page.send("Tell me a story that does not end.")
page.composer.attach(sys.argv[2])
page.composer.set_text("and then?")
def told(event):
    print(len(page.transcript.text_of(page.transcript.keys()[-1])), flush=True)
page.engine().tokens.connect(told)  # after the page's own: what is told here is what is on the page
app.exec()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process by a signal")
@pytest.mark.parametrize("events", [3, 40])
def test_a_kill_at_any_moment_loses_nothing_that_was_shown(
    quench_home: Path, endless: str, tmp_path: Path, events: int
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes")
    process = subprocess.Popen([sys.executable, "-c", _SHOWING, endless, str(notes)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(events)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    told += [int(line) for line in rest.splitlines() if line]
    store = Store(paths.database())
    try:
        [talk] = store.conversations()
        question, answer = store.messages(talk.id)
        assert question.content == "Tell me a story that does not end."
        assert answer.partial and len(answer.content) >= told[-1] > 0
        draft = store.draft(talk.id)
        assert (draft.content, draft.files) == ("and then?", (("notes.txt", "some notes"),))
    finally:
        store.close()


def test_a_suggested_question_leaves_what_was_written(
    qtbot: QtBot, page: ChatPage, context: Context, model: str
) -> None:
    page.receive({"model": model})
    page.composer.set_text("my own question")
    page.inspector.spins["max_tokens"].setValue(2)
    page.send(FRANCE)
    finished(qtbot, page)
    assert texts(context, page)[0] == FRANCE and page.composer.text() == ""
    page.new_chat()
    assert page.composer.text() == "my own question"


def test_a_system_prompt_is_stored_with_every_key(qtbot: QtBot, page: ChatPage, context: Context) -> None:
    talk, _ = talk_with_branches(context)
    page.open_conversation(talk)
    page.inspector.system.setPlainText("Be brief.")
    assert context.store.conversation(talk).system == "Be brief."
    page.new_chat()
    assert page.inspector.system.toPlainText() == ""
    assert context.store.conversation(talk).system == "Be brief."


def test_what_strangers_wrote_is_never_markup_in_a_tooltip(page: ChatPage, context: Context) -> None:
    marked = "<b>bold</b> & <img src='x'>"
    context.store.create_conversation(marked, "/models/x.gguf")
    page.list.refresh()
    tooltip = page.list.model.index(0).data(Qt.ItemDataRole.ToolTipRole)
    read = QTextDocument()
    if QtGui.Qt.mightBeRichText(tooltip):
        read.setHtml(tooltip)
    else:
        read.setPlainText(tooltip)
    assert marked in read.toPlainText()
