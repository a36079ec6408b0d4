"""The Chat page with real workers on Pocket: asking, stopping, acting on messages, and what a dead engine costs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app import paths
from app.protocol import Sampling
from app.store import Store
from app.ui.chat import ChatPage
from app.ui.context import Context
from app.ui.engines import DEAD
from app.ui.reply import prompt_of, without_thought
from tests.models import ENDLESS

GREEDY = Sampling(temperature=0.0, max_tokens=60)


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


def ask(qtbot: QtBot, page: ChatPage, text: str) -> None:
    page.composer.set_text(text)
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    assert page.busy()


def finished(qtbot: QtBot, page: ChatPage) -> None:
    qtbot.waitUntil(lambda: not page.busy())


def rows(context: Context, page: ChatPage) -> list[tuple[str, str, bool]]:
    conversation = page.conversation()
    assert conversation is not None
    return [(row.role, row.content, row.partial) for row in context.store.messages(conversation)]


@pytest.fixture
def endless(endless_gguf: Path) -> str:
    return str(endless_gguf)


def running(qtbot: QtBot, page: ChatPage, context: Context) -> None:
    """Ask the endless model, and wait for its first words."""
    page.inspector.preset.setCurrentIndex(page.inspector.preset.findData("own"))
    for name in ("temperature", "top_k", "top_p", "min_p", "max_tokens"):
        page.inspector.spins[name].setValue(getattr(ENDLESS, name))
    ask(qtbot, page, "Tell me a long story about a fox, a bear and the sea.")
    conversation = page.conversation()
    assert conversation is not None
    qtbot.waitUntil(lambda: bool(context.store.messages(conversation)[-1].content))


def test_a_question_streams_ends_and_is_kept(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    page.receive({"model": model})
    ask(qtbot, page, "What is the capital of France?")
    assert page.composer.text() == ""
    finished(qtbot, page)
    assert "Paris" in page.transcript.toPlainText()
    assert "tokens/s" in page.transcript.toPlainText()
    [question, answer] = rows(context, page)
    assert question == ("user", "What is the capital of France?", False)
    assert answer[0] == "assistant" and "Paris" in answer[1] and answer[2] is False
    assert [row.title for row in context.store.conversations()] == ["What is the capital of France?"]
    assert page.list.model.rowCount() == 1
    assert not page.inspector.speed.is_empty() and not page.inspector.memory.is_empty()
    assert page.inspector.fill.value() > 0
    # Another page, as after a new start of the program, shows the same.
    again = ChatPage(context)
    qtbot.addWidget(again)
    again.open_conversation(context.store.conversations()[0].id)
    assert "Paris" in again.transcript.toPlainText() and "tokens/s" in again.transcript.toPlainText()


def test_the_answer_is_in_the_store_while_it_comes(
    qtbot: QtBot, page: ChatPage, context: Context, endless: str
) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    other = Store(paths.database())
    try:
        conversation = page.conversation()
        assert conversation is not None
        last = other.messages(conversation)[-1]
        assert last.role == "assistant" and last.partial and last.content
    finally:
        other.close()
    page.stop()
    finished(qtbot, page)


def test_closing_saves_every_word_that_was_shown(qtbot: QtBot, page: ChatPage, context: Context, endless: str) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    page.closing()
    assert rows(context, page)[-1] == ("assistant", page.transcript.text_of(page.transcript.keys()[-1]), True)


def test_escape_stops_and_keeps_what_came(qtbot: QtBot, page: ChatPage, context: Context, endless: str) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    assert page.composer.stop_button.isVisible() and not page.composer.send_button.isVisible()
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Escape)
    finished(qtbot, page)
    role, content, partial = rows(context, page)[-1]
    assert role == "assistant" and content and not partial
    assert "stopped" in page.transcript.toPlainText()
    assert page.composer.send_button.isVisible()


def test_regenerate_replaces_the_answer(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    page.receive({"model": model})
    ask(qtbot, page, "What is the capital of France?")
    finished(qtbot, page)
    before = rows(context, page)
    page.transcript.act("regenerate", page.transcript.keys()[-1])
    assert page.busy()
    finished(qtbot, page)
    assert rows(context, page) == before  # greedy: the same words, in a new row
    assert page.transcript.toPlainText().count("Paris") == before[1][1].count("Paris")


def test_edit_and_ask_again_can_be_undone(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    page.receive({"model": model})
    ask(qtbot, page, "What is the capital of France?")
    finished(qtbot, page)
    ask(qtbot, page, "What is 2 plus 3?")
    finished(qtbot, page)
    first = page.transcript.keys()[0]
    page.transcript.act("edit", first)
    assert page.composer.text() == "What is the capital of France?"
    ask(qtbot, page, "What is the capital of Italy?")
    finished(qtbot, page)
    assert rows(context, page)[0][1] == "What is the capital of Italy?"
    assert len(rows(context, page)) == 2
    assert "France" not in page.transcript.toPlainText()


def test_delete_takes_question_and_answer_and_can_be_undone(
    qtbot: QtBot, page: ChatPage, context: Context, model: str
) -> None:
    page.receive({"model": model})
    for text in ("What is the capital of France?", "What is 2 plus 3?"):
        ask(qtbot, page, text)
        finished(qtbot, page)
    before = rows(context, page)
    with qtbot.waitSignal(context.notify.posted) as posted:
        page.transcript.act("delete", page.transcript.keys()[0])
    assert rows(context, page) == before[2:]
    [(text, undo)] = posted.args[0].actions
    assert text == "Undo"
    undo()
    assert rows(context, page) == before
    assert "Paris" in page.transcript.toPlainText()


def test_continue_goes_on_with_the_same_message(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    context.update_settings(sampling=Sampling(temperature=0.0, max_tokens=12))
    page.inspector.spins["max_tokens"].setValue(12)
    page.receive({"model": model})
    ask(qtbot, page, "Tell me a story about a fox.")
    finished(qtbot, page)
    start = rows(context, page)[-1][1]
    assert "token limit" in page.transcript.toPlainText()
    page.transcript.act("continue", page.transcript.keys()[-1])
    finished(qtbot, page)
    [_, answer] = rows(context, page)
    assert answer[1].startswith(start) and len(answer[1]) > len(start)
    assert answer[1].split()[-1] in page.transcript.toPlainText()


def test_a_killed_worker_costs_one_card_and_retry_answers(
    qtbot: QtBot, page: ChatPage, context: Context, endless: str
) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    engine = page.engine()
    assert engine is not None
    child = psutil.Process(engine.pid())
    assert child.is_running()
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(page.error.isVisible)
    assert not page.busy() and engine.state == DEAD
    assert page.error.error is not None and page.error.error.code == "engine_died"
    _, content, partial = rows(context, page)[-1]
    assert content and partial
    page.inspector.spins["max_tokens"].setValue(20)
    retry = next(made for made in page.error.findChildren(QPushButton) if made.text() == "Retry")
    qtbot.mouseClick(retry, Qt.MouseButton.LeftButton)
    assert page.busy() and page.error.isHidden()
    finished(qtbot, page)
    assert [row[0] for row in rows(context, page)] == ["user", "assistant"]
    assert rows(context, page)[-1][2] is False


def test_an_idle_worker_that_dies_is_loaded_again_by_the_next_question(
    qtbot: QtBot, page: ChatPage, context: Context, model: str
) -> None:
    page.receive({"model": model})
    engine = page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.state == "ready")
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(page.error.isVisible)
    ask(qtbot, page, "What is the capital of France?")
    assert page.error.isHidden()
    finished(qtbot, page)
    assert "Paris" in page.transcript.toPlainText()


def test_a_file_that_is_no_model_is_one_card(qtbot: QtBot, page: ChatPage, tmp_path: Path) -> None:
    broken = tmp_path / "brøken model.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    page.receive({"model": str(broken)})
    qtbot.waitUntil(page.error.isVisible)
    assert page.error.error is not None and page.error.error.title
    assert not page.busy() and page.composer.isEnabled()


def test_a_hidden_conversation_gets_its_answer_too(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    page.receive({"model": model})
    ask(qtbot, page, "What is the capital of France?")
    first = page.conversation()
    assert first is not None
    page.new_chat()
    assert page.transcript.keys() == []
    finished(qtbot, page)
    assert "Paris" in context.store.messages(first)[-1].content
    assert page.transcript.keys() == []
    page.open_conversation(first)
    assert "Paris" in page.transcript.toPlainText()


def test_going_back_while_the_answer_comes_shows_all_of_it(
    qtbot: QtBot, page: ChatPage, context: Context, endless: str
) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    first = page.conversation()
    assert first is not None
    page.new_chat()
    page.open_conversation(first)
    page.stop()
    finished(qtbot, page)
    assert page.transcript.text_of(page.transcript.keys()[-1]) == context.store.messages(first)[-1].content


def test_conversations_are_searched_renamed_pinned_deleted_and_saved(
    qtbot: QtBot, page: ChatPage, context: Context, tmp_path: Path
) -> None:
    made = [context.store.create_conversation(title, "", "") for title in ("Foxes", "Bears", "Seas")]
    context.store.add_message(made[1].id, "user", "where does the honey come from")
    page.list.refresh()
    titles = lambda: [row.title for row in page.list.model.rows]  # noqa: E731
    assert sorted(titles()) == ["Bears", "Foxes", "Seas"]
    qtbot.keyClicks(page.list.search, "honey")
    qtbot.waitUntil(lambda: titles() == ["Bears"])
    page.list.search.clear()
    qtbot.waitUntil(lambda: len(titles()) == 3)
    index = page.list.model.index(titles().index("Foxes"))
    assert page.list.model.setData(index, "Red foxes")
    qtbot.waitUntil(lambda: "Red foxes" in titles())
    page.list.pin(made[0].id)
    assert titles()[0] == "Red foxes"
    page.list.export(made[1].id, "md", str(tmp_path / "bears.md"))
    page.list.export(made[1].id, "json", str(tmp_path / "bears.json"))
    assert "where does the honey come from" in (tmp_path / "bears.md").read_text()
    assert json.loads((tmp_path / "bears.json").read_text())["messages"][0]["role"] == "user"
    with qtbot.waitSignal(context.notify.posted) as posted:
        page.list.delete(made[2].id)
    assert "Seas" not in titles()
    posted.args[0].actions[0][1]()
    assert "Seas" in titles()


def test_enter_follows_the_setting(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    context.update_settings(enter_sends=False)
    field = page.composer.field
    qtbot.keyClicks(field, "one")
    height = field.height()
    qtbot.keyClick(field, Qt.Key.Key_Return)
    qtbot.keyClicks(field, "two")
    assert page.composer.text() == "one\ntwo" and field.height() > height
    with qtbot.waitSignal(page.composer.sent) as sent:
        qtbot.keyClick(field, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert sent.args == ["one\ntwo"]
    context.update_settings(enter_sends=True)
    page.composer.set_text("three")
    qtbot.keyClick(field, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert page.composer.text() == "three\n"
    with qtbot.waitSignal(page.composer.sent):
        qtbot.keyClick(field, Qt.Key.Key_Return)


def test_a_text_file_goes_with_the_question(qtbot: QtBot, page: ChatPage, context: Context, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("a fence:\n```\ncode\n```\n")
    page.composer.attach(str(notes))
    page.composer.set_text("Summarise.")
    with qtbot.waitSignal(page.composer.sent) as sent:
        qtbot.mouseClick(page.composer.send_button, Qt.MouseButton.LeftButton)
    assert sent.args[0].startswith("````md notes.md\na fence:") and sent.args[0].endswith("````\n\nSummarise.")
    picture = tmp_path / "picture.bin"
    picture.write_bytes(b"\xff\xfe\x00")
    with qtbot.waitSignal(context.notify.posted) as posted:
        page.composer.attach(str(picture))
    assert posted.args[0].error.code == "bad_attachment"


def test_sampling_presets_and_reset(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    page.receive({"model": model})
    engine = page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.state == "ready")
    inspector = page.inspector
    inspector.reset_button.click()
    assert inspector.sampling() is None
    assert engine.loaded is not None
    assert inspector.spins["temperature"].value() == pytest.approx(engine.loaded.defaults.temperature)
    inspector.spins["temperature"].setValue(1.11)
    assert inspector.preset.currentData() == "own"
    assert inspector.sampling().temperature == pytest.approx(1.11)
    assert context.settings.sampling.temperature == pytest.approx(1.11)
    inspector.preset.setCurrentIndex(inspector.preset.findData("exact"))
    inspector.preset.activated.emit(inspector.preset.currentIndex())
    assert inspector.sampling().temperature == 0.0


def test_other_load_options_offer_to_load_again(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    page.receive({"model": model})
    engine = page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.state == "ready")
    page.inspector.tabs.setCurrentIndex(1)
    assert not page.inspector.loading.apply_button.isVisible()
    page.inspector.loading.context_spin.setValue(512)
    page.inspector.loading.gpu_spin.setValue(2)  # an engine without a GPU takes it and computes as before
    page.inspector.loading.flash_combo.setCurrentIndex(page.inspector.loading.flash_combo.findData("off"))
    page.inspector.loading.flash_combo.activated.emit(2)
    assert page.inspector.loading.apply_button.isVisible()
    qtbot.mouseClick(page.inspector.loading.apply_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: engine.loaded is not None and engine.loaded.context == 512)
    assert not page.inspector.loading.apply_button.isVisible()
    assert (engine.options.gpu_layers, engine.options.flash_attention) == (2, "off")
    assert context.settings.load_options() == engine.options


def test_another_model_in_the_middle_of_an_answer_keeps_what_came(
    qtbot: QtBot, page: ChatPage, context: Context, endless: str, pocket_gguf: Callable[[str], Path]
) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    page.use_model(str(pocket_gguf("Q2_K")))
    assert not page.busy()
    role, content, partial = rows(context, page)[-1]
    assert role == "assistant" and content and partial
    page.inspector.spins["max_tokens"].setValue(10)
    ask(qtbot, page, "What is the capital of France?")
    finished(qtbot, page)
    assert len(rows(context, page)) == 4
    qtbot.waitUntil(lambda: [engine.path for engine in context.engines.engines] == [str(pocket_gguf("Q2_K"))])


def test_loading_again_in_the_middle_of_an_answer_keeps_what_came(
    qtbot: QtBot, page: ChatPage, context: Context, endless: str
) -> None:
    page.receive({"model": endless})
    running(qtbot, page, context)
    page.inspector.loading.context_spin.setValue(512)
    page.inspector.loading.apply_button.click()
    assert not page.busy() and rows(context, page)[-1][2]
    engine = page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.loaded is not None and engine.loaded.context == 512)


def test_chat_with_pocket_makes_the_model_and_loads_it(qtbot: QtBot, page: ChatPage, context: Context) -> None:
    start = next(made for made in page.findChildren(QPushButton) if made.text() == "Chat with Pocket")
    qtbot.mouseClick(start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page.engine() is not None and page.engine().state == "ready")
    suggestion = page.suggestions[0]
    qtbot.waitUntil(suggestion.isVisible)
    qtbot.mouseClick(suggestion, Qt.MouseButton.LeftButton)
    finished(qtbot, page)
    assert rows(context, page)[0][1] == suggestion.text()
    assert rows(context, page)[1][1]


def test_without_a_model_the_page_says_what_to_do(page: ChatPage) -> None:
    texts = [made.text() for made in page.stack.currentWidget().findChildren(QPushButton)]
    assert texts == ["Chat with Pocket", "Open a file…"]


def test_panels_step_aside_in_a_small_window_and_come_back(qtbot: QtBot, page: ChatPage) -> None:
    assert page.list.isVisible() and page.inspector.isVisible()
    page.resize(872, 572)
    assert page.list.isVisible() and not page.inspector.isVisible()
    toggle = next(made for made in page.findChildren(QAbstractButton) if made.accessibleName() == "Inspector")
    qtbot.mouseClick(toggle, Qt.MouseButton.LeftButton)
    assert page.inspector.isVisible()


def test_everything_that_takes_the_focus_has_a_name(page: ChatPage) -> None:
    nameless = [
        widget
        for widget in page.findChildren(QWidget)
        if widget.window() is page.window()
        and widget.isEnabled()
        and widget.focusProxy() is None
        and widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        and not widget.accessibleName()
        and not (isinstance(widget, QAbstractButton) and widget.text())
        and not widget.objectName().startswith("qt_")
    ]
    assert nameless == []


def test_the_prompt_leaves_old_thoughts_out_and_keeps_roles_alternating(context: Context) -> None:
    conversation = context.store.create_conversation("t", "", "")
    for role, text in (
        ("user", "one"),
        ("user", "two"),
        ("assistant", "<think>secret</think>\nthree"),
        ("user", "four"),
    ):
        context.store.add_message(conversation.id, role, text)
    prompt = prompt_of(context.store.messages(conversation.id), "be brief")
    assert [(m.role, m.content) for m in prompt] == [
        ("system", "be brief"),
        ("user", "one\n\ntwo"),
        ("assistant", "three"),
        ("user", "four"),
    ]
    assert without_thought("still thinking</think>\n\nyes") == "yes"
