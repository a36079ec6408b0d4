"""Servers in the window: added, chatted with, compared, gone; the key in the keyring and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from app import settings
from app.local.entry import Listed
from app.protocol import Sampling
from app.remote.address import MAX_SERVERS, Server, model_path
from app.remote.messages import ServedModel, ServerState
from app.ui.chat import ChatPage
from app.ui.compare import ComparePage
from app.ui.compare_run import DONE
from app.ui.context import Context
from app.ui.library import LibraryPage
from app.ui.server_dialog import ServerDialog
from app.ui.window import MainWindow
from converter.spec import QuenchError
from tests.fakeserver import FakeServer
from tests.fakeserver.server import WORDS
from tests.hub.test_token import keyring_environment, written_with
from tests.ui.conftest import nameless, red_cards

KEY = "sk-Geheim-0123456789-abcdef"
TEXT = "".join(WORDS)
NO_KEYRING = "keyring.backends.fail.Keyring"


@pytest.fixture(autouse=True)
def no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as made:
        yield made


@pytest.fixture
def library_page(window: MainWindow) -> LibraryPage:
    page = window.page("library")
    assert isinstance(page, LibraryPage)
    return page


def put(context: Context, server: FakeServer, name: str = "Desk") -> str:
    """A server in the library that has answered; returns the path of its first model."""
    models = tuple(ServedModel(model, 4096) for model in server.names)
    context.servers.put(Server(name, server.url), ServerState("llama.cpp", models, 0.01))
    return model_path(name, server.names[0])


def type_in(qtbot: QtBot, dialog: ServerDialog, url: str, key: str = "") -> None:
    dialog.url.clear()
    qtbot.keyClicks(dialog.url, url)
    dialog.key.clear()
    qtbot.keyClicks(dialog.key, key)
    qtbot.mouseClick(dialog.ok, Qt.MouseButton.LeftButton)


def settled(qtbot: QtBot, dialog: ServerDialog) -> None:
    qtbot.waitUntil(dialog.error.isVisible)


def served(context: Context) -> list[Listed]:
    return context.servers.listed()


def test_a_server_is_asked_before_it_is_kept(
    qtbot: QtBot, context: Context, library_page: LibraryPage, server: FakeServer, quench_home: Path
) -> None:
    server.key = KEY
    dialog = library_page.open_server()
    assert nameless(dialog) == []
    assert not dialog.ok.isEnabled()
    type_in(qtbot, dialog, server.root)
    settled(qtbot, dialog)
    assert dialog.error.error is not None and dialog.error.error.code == "key_needed"
    assert dialog.name.text() == server.root.removeprefix("http://")
    assert served(context) == []
    type_in(qtbot, dialog, "http://127.0.0.1:9")
    settled(qtbot, dialog)
    assert dialog.error.error.code == "server_unreachable"
    with qtbot.waitSignal(dialog.accepted):
        type_in(qtbot, dialog, server.root, KEY)
    assert [listed.info.name for listed in served(context)] == ["pocket", "second"]
    qtbot.waitUntil(lambda: library_page.select(served(context)[0].path))
    shown = {row.info.name: row.fit.text for row in library_page.table.shown() if row.is_served and row.fit}
    assert shown == {"pocket": "Answers", "second": "Answers"}
    allowed = {name for name, action in library_page.actions_by_name.items() if action.isEnabled()}
    assert allowed == {"chat", "compare", "path", "server", "remove"}
    # There is no keyring here: the key is used until the end, and lies nowhere.
    assert written_with(KEY, quench_home.parent) == []
    assert settings.load().servers == context.settings.servers
    library_page.remove()
    assert served(context) == [] and settings.load().servers == ()


def test_the_key_goes_into_the_keyring(
    *, qtbot: QtBot, context: Context, server: FakeServer, tmp_path: Path, quench_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in keyring_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    server.key = KEY
    dialog = ServerDialog(context)
    qtbot.addWidget(dialog)
    dialog.show()
    with qtbot.waitSignal(dialog.accepted):
        type_in(qtbot, dialog, server.root, KEY)
    assert written_with(KEY, quench_home) == []
    answers: list[object] = []
    other = Context()  # as after a restart
    try:
        other.servers.ask(server.url, "", answers.append)
        qtbot.waitUntil(lambda: bool(answers))
        assert not isinstance(answers[0], QuenchError), answers
    finally:
        other.close()


def test_what_is_typed_is_checked_and_what_is_open_is_said(qtbot: QtBot, context: Context, server: FakeServer) -> None:
    put(context, server)
    dialog = ServerDialog(context)
    qtbot.addWidget(dialog)
    dialog.show()
    for url, name, code in (("ftp://x", "", "bad_server"), ("http://127.0.0.1:9", "desk", "bad_server_name")):
        dialog.url.setText(url)
        dialog.name.setText(name)
        dialog.ask()
        assert dialog.error.error is not None and dialog.error.error.code == code
    dialog.url.setText("http://192.0.2.1:8080")
    assert dialog.warning.isVisible() and "the key" not in dialog.warning.text()
    dialog.key.setText(KEY)
    assert "the key" in dialog.warning.text()
    dialog.url.setText("https://192.0.2.1:8080")
    assert not dialog.warning.isVisible()


def test_what_a_server_lists_cannot_fill_the_settings(qtbot: QtBot, context: Context) -> None:
    names = tuple(f"{number:04}" + "\U0001f43b" * 252 for number in range(1000))
    with FakeServer(names=names) as server:
        for number in range(4):
            context.servers.put(Server(f"{number}", server.url), ServerState("", (), 0.0))
        context.servers.look()
        qtbot.waitUntil(lambda: len(served(context)) == 4000)
    assert settings.load() == context.settings  # not set aside as too large
    for number in range(MAX_SERVERS):
        context.servers.put(Server(f"{number}", "http://127.0.0.1:9/v1"), ServerState("", (), 0.0))
    dialog = ServerDialog(context)
    qtbot.addWidget(dialog)
    dialog.url.setText("http://127.0.0.1:9")
    dialog.ask()
    assert dialog.error.error is not None and dialog.error.error.code == "too_many_servers"


@pytest.fixture
def chat(qtbot: QtBot, context: Context) -> ChatPage:
    context.update_settings(sampling=Sampling(temperature=0.5, max_tokens=60))
    page = ChatPage(context)
    qtbot.addWidget(page)
    page.resize(1192, 772)
    page.show()
    return page


def ask(qtbot: QtBot, page: ChatPage, text: str) -> None:
    page.composer.set_text(text)
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    assert page.busy()


def test_a_chat_with_a_server_and_its_death(
    qtbot: QtBot, context: Context, chat: ChatPage, server: FakeServer, window: MainWindow
) -> None:
    path = put(context, server)
    chat.receive({"model": path})
    ask(qtbot, chat, "Bears?")
    qtbot.waitUntil(lambda: not chat.busy())
    conversation = chat.conversation()
    assert conversation is not None
    assert [row.content for row in context.store.messages(conversation)] == ["Bears?", TEXT]
    texts = [label.text() for label in chat.inspector.findChildren(QLabel)]
    assert any("llama.cpp at 127.0.0.1" in text for text in texts)
    assert not chat.inspector.memory.isVisible()
    assert window.status.model.text().strip() == "pocket · Desk"
    assert server.bodies()[-1]["temperature"] == 0.5
    # It breaks off in the middle: what came stays, the card says why, and the next try goes on.
    server.fault = "cut"
    ask(qtbot, chat, "And lamps?")
    qtbot.waitUntil(lambda: bool(red_cards(chat)))
    assert red_cards(chat)[0].error.code == "connection_lost"
    assert context.store.messages(conversation)[-1].content == "Bears like"
    server.fault = ""
    retry = next(made for made in red_cards(chat)[0].findChildren(QPushButton) if made.text() == "Retry")
    qtbot.mouseClick(retry, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not chat.busy())
    assert context.store.messages(conversation)[-1].content == TEXT
    assert red_cards(chat) == []
    # A stop is at once.
    server.fault = "stall"
    ask(qtbot, chat, "And the sea?")
    qtbot.waitUntil(server.half_way.is_set)
    chat.stop()
    qtbot.waitUntil(lambda: not chat.busy())
    assert red_cards(chat) == []


def test_a_server_that_is_off_costs_a_card(qtbot: QtBot, context: Context, chat: ChatPage) -> None:
    with FakeServer() as gone:
        path = put(context, gone)
    chat.receive({"model": path})
    qtbot.waitUntil(lambda: bool(red_cards(chat)))
    assert red_cards(chat)[0].error.code == "server_unreachable"
    context.servers.look()
    qtbot.waitUntil(lambda: isinstance(context.servers.health("Desk"), QuenchError))
    assert all(listed.info.problems for listed in served(context))
    context.servers.remove("Desk")
    chat.receive({"model": path})
    qtbot.waitUntil(lambda: bool(red_cards(chat)) and red_cards(chat)[0].error.code == "no_server")


def test_a_server_stands_in_a_column_with_its_answer(
    qtbot: QtBot, context: Context, server: FakeServer, pocket_gguf: Callable[[str], Path]
) -> None:
    path = put(context, server)
    page = ComparePage(context)
    qtbot.addWidget(page)
    page.resize(1192, 772)
    page.show()
    for models in ([str(pocket_gguf("Q8_0")), path], [path, str(pocket_gguf("Q8_0"))]):
        page.receive({"reference": models[0], "models": models[1:]})
        page.composer.set_text("What is the capital of France?")
        qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
        qtbot.waitUntil(lambda: not page.busy())
        run = page.run()
        assert run is not None
        at = models.index(path)
        assert [part.state for part in run.parts] == [DONE, DONE]
        assert run.parts[at].text == TEXT and run.parts[at].scored is None
        assert "Paris" in run.parts[1 - at].text
        page.show_divergence(True)
        words = page.columns[1].findChildren(QLabel)
        shown = " ".join(label.text() for label in words if label.isVisible())
        assert "This server does not say how likely" in shown
        assert ("There is nothing to hold this model against" in shown) == (at == 0)
        page.show_divergence(False)
