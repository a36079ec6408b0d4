"""Other machines in the window: entered and asked in Settings, given a part of a model in Chat, lost in mid-answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app import settings
from app.protocol import Sampling
from app.ui.chat import ChatPage
from app.ui.context import Context
from app.ui.engines import DEAD
from app.ui.settings_machines import MachinesCard
from app.ui.settings_page import SettingsPage
from tests.models import ENDLESS
from tests.remote.listener import Listener
from tests.remote.rpc_workers import RpcWorker, rpc_workers  # noqa: F401 - a fixture
from tests.remote.test_machines import DEVICES, MEMORY, closed_port, hello
from tests.ui.conftest import nameless, red_cards

GREEDY = Sampling(temperature=0.0, max_tokens=60)


def enter(qtbot: QtBot, card: MachinesCard, text: str) -> None:
    card.address.clear()
    qtbot.keyClicks(card.address, text)
    qtbot.keyClick(card.address, Qt.Key.Key_Return)


def told(qtbot: QtBot, card: MachinesCard, endpoint: str, words: str) -> None:
    qtbot.waitUntil(lambda: words in card.state_of(endpoint))


def test_machines_are_entered_asked_and_told_apart(
    qtbot: QtBot, context: Context, shown: Callable[[type[SettingsPage]], SettingsPage]
) -> None:
    card = shown(SettingsPage).machines
    assert "trusted networks only" in card.warning.text()
    assert not card.adding.isEnabled() and card.again.isHidden()
    enter(qtbot, card, "http://10.0.0.5:50052")
    assert "not the address of a machine" in card.problem.text() and context.settings.machines == ()
    with (
        Listener(hello(), DEVICES, MEMORY, MEMORY) as worker,
        Listener(greeting=b"SSH-2.0-x\r\n", mute=True) as other,
        Listener(hello(9), mute=True) as newer,
    ):
        nobody = closed_port()
        for endpoint in (worker.endpoint, other.endpoint, newer.endpoint, nobody, worker.endpoint):
            enter(qtbot, card, endpoint)
        told(qtbot, card, worker.endpoint, "Ready · 8")
        told(qtbot, card, other.endpoint, "No RPC worker.")
        told(qtbot, card, newer.endpoint, "another release")
        told(qtbot, card, nobody, "Cannot be reached. Nothing listens")
    kept = (worker.endpoint, other.endpoint, newer.endpoint, nobody)
    assert settings.load().machines == kept
    assert nameless(card) == []
    remove = next(each for each in card.findChildren(QPushButton) if each.accessibleName() == f"Remove {nobody}")
    qtbot.mouseClick(remove, Qt.MouseButton.LeftButton)
    assert settings.load().machines == kept[:3]
    # It is gone there now, and asking again says so.
    qtbot.mouseClick(card.again, Qt.MouseButton.LeftButton)
    told(qtbot, card, worker.endpoint, "Cannot be reached")


def test_nobody_is_asked_before_the_card_is_seen(qtbot: QtBot, context: Context) -> None:
    with Listener(hello(), DEVICES, MEMORY, MEMORY) as worker:
        context.update_settings(machines=(worker.endpoint,))
        page = SettingsPage(context)
        qtbot.addWidget(page)
        page.machines.fill()
        assert page.machines.state_of(worker.endpoint) == "Not asked yet."
        assert worker.heard == []


def test_a_spread_model_keeps_that_and_others_do_not(
    qtbot: QtBot, context: Context, pocket_gguf: Callable[[str], Path]
) -> None:
    page = ChatPage(context)
    qtbot.addWidget(page)
    page.show()
    form = page.inspector.loading
    assert form.machines_combo.isHidden()
    context.update_settings(machines=("127.0.0.1:9",))
    page.inspector.set_model("/models/large.gguf")
    assert not form.machines_combo.isHidden() and form.options().machines == ()
    form.machines_combo.setCurrentIndex(1)
    form.machines_combo.activated.emit(1)
    assert form.options().machines == ("127.0.0.1:9",) and form.gpu_spin.text() == "by memory"
    assert settings.load().spread == ("/models/large.gguf",)
    page.inspector.set_model("/models/other.gguf")
    assert form.options().machines == () and form.gpu_spin.text() == "none"
    page.inspector.set_model("/models/large.gguf")
    assert form.options().machines == ("127.0.0.1:9",)


def test_one_that_cannot_be_reached_is_a_card_and_the_model_loads_here(
    qtbot: QtBot, context: Context, pocket_gguf: Callable[[str], Path]
) -> None:
    model = str(pocket_gguf("Q8_0"))
    nobody = closed_port()
    context.update_settings(sampling=GREEDY, machines=(nobody,), spread=(model,))
    page = ChatPage(context)
    qtbot.addWidget(page)
    page.show()
    page.receive({"model": model})
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    [card] = red_cards(page)
    assert card.error is not None and card.error.code in ("machine_unreachable", "no_rpc")
    alone = next(each for each in card.findChildren(QPushButton) if each.text() == "On this machine alone")
    qtbot.mouseClick(alone, Qt.MouseButton.LeftButton)
    page.composer.set_text("What is the capital of France?")
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not page.busy())
    assert "Paris" in page.transcript.toPlainText() and red_cards(page) == []
    assert settings.load().spread == () and settings.load().machines == (nobody,)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_machine_that_goes_in_mid_answer_costs_one_card(
    *,
    qtbot: QtBot,
    context: Context,
    endless_gguf: Path,
    pocket_gguf: Callable[[str], Path],
    rpc_workers: Callable[[], RpcWorker],  # noqa: F811
    shown: Callable[[type[SettingsPage]], SettingsPage],
) -> None:
    workers = [rpc_workers(), rpc_workers()]
    endpoints = tuple(worker.endpoint for worker in workers)
    model = str(endless_gguf)
    context.update_settings(
        sampling=ENDLESS, sampling_preset="own", machines=endpoints, spread=(model,), context=1024, gpu_layers=4
    )
    page = ChatPage(context)
    qtbot.addWidget(page)
    page.resize(1192, 772)
    page.show()
    page.receive({"model": model})
    page.composer.set_text("Tell me a long story about a fox.")
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    conversation = page.conversation()
    assert conversation is not None
    qtbot.waitUntil(lambda: bool(context.store.messages(conversation)[-1].content))
    card = shown(SettingsPage).machines
    assert card.state_of(endpoints[0]) == f"Computes for {Path(model).name}"
    workers[1].kill()
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    [red] = red_cards(page)
    assert red.error is not None
    assert (red.error.code, red.error.title) == ("machine_lost", f"The machine {endpoints[1]} stopped answering.")
    engine = page.engine()
    assert engine is not None and engine.state == DEAD and not page.busy()
    question, answer = context.store.messages(conversation)
    assert question.content == "Tell me a long story about a fox." and answer.content and answer.partial
    qtbot.mouseClick(card.again, Qt.MouseButton.LeftButton)
    told(qtbot, card, endpoints[0], "Ready")
    told(qtbot, card, endpoints[1], "Cannot be reached")
    # The next message, with this machine alone, in the same conversation.
    page.use_model(str(pocket_gguf("Q8_0")))
    context.update_settings(sampling=GREEDY)
    page.composer.set_text("What is the capital of France?")
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not page.busy())
    assert len(context.store.messages(conversation)) == 4 and red_cards(page) == []
