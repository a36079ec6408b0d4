"""The switch that offers the loaded model: one model in one process for the window and for other programs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.ui.context import Context
from app.ui.engines import DEAD, READY
from app.ui.serve_desk import OFF, ON
from app.ui.serve_dialog import ServeDialog
from app.ui.window import MainWindow
from tests.ui.conftest import red_cards
from tests.ui.test_window import unnamed

FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def model(qtbot: QtBot, context: Context, pocket_gguf: Callable[[str], Path]) -> str:
    """A model that Chat has loaded."""
    path = str(pocket_gguf("Q8_0"))
    engine = context.engines.get(path, None, "chat")
    qtbot.waitUntil(lambda: engine.state == READY)
    return path


def clicked(qtbot: QtBot, dialog: ServeDialog) -> None:
    qtbot.mouseClick(dialog.switch, Qt.MouseButton.LeftButton)


def asked(qtbot: QtBot, url: str, key: str = "none") -> list[Any]:
    """What the client got while the window went on."""
    got: list[Any] = []

    def ask() -> None:
        try:
            with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=200) as client:
                answer = client.chat.completions.create(model="x", messages=FRANCE, temperature=0, max_tokens=48)
                got.append(answer.choices[0].message.content)
        except openai.OpenAIError as error:
            got.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    qtbot.waitUntil(lambda: bool(got))
    thread.join()
    return got


def test_off_on_asked_and_off(qtbot: QtBot, context: Context, window: MainWindow, model: str) -> None:
    assert context.serving.state == OFF and context.serving.processes() == []
    dialog = window.show_serving()
    assert unnamed(dialog) == []
    dialog.port.setValue(free_port())
    clicked(qtbot, dialog)
    qtbot.waitUntil(lambda: context.serving.state == ON)
    assert dialog.address.text() == context.serving.url == f"http://127.0.0.1:{dialog.port.value()}/v1"
    assert window.status.serve.text().strip() == f"Serving at 127.0.0.1:{dialog.port.value()}"
    pid = context.engines.find(model).pid()
    assert "Paris" in asked(qtbot, context.serving.url)[0]
    qtbot.waitUntil(lambda: context.serving.counts.answered == 1)
    assert "1 answered" in dialog.counts.text()
    # Chat lets go: the model stays as long as it is served.
    context.engines.release(model, "chat")
    assert context.engines.find(model).pid() == pid
    # The engine dies: the next question loads it again.
    os.kill(pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: context.engines.find(model).state == DEAD)
    assert "Paris" in asked(qtbot, context.serving.url)[0]
    clicked(qtbot, dialog)
    qtbot.waitUntil(lambda: context.serving.processes() == [])
    assert context.serving.state == OFF and context.engines.find(model) is None
    assert not dialog.switch.isEnabled()


def test_the_network_needs_a_token(qtbot: QtBot, context: Context, window: MainWindow, model: str) -> None:
    dialog = window.show_serving()
    dialog.network.setChecked(True)
    assert len(dialog.token.text()) >= 32
    token = dialog.token.text()
    dialog.token.clear()
    clicked(qtbot, dialog)
    assert red_cards(dialog)[0].error.code == "token_needed"
    dialog.token.setText(token)
    dialog.port.setValue(free_port())
    clicked(qtbot, dialog)
    qtbot.waitUntil(lambda: context.serving.state == ON)
    url = f"http://127.0.0.1:{dialog.port.value()}/v1"
    assert isinstance(asked(qtbot, url, "wrong")[0], openai.AuthenticationError)
    assert "Paris" in asked(qtbot, url, token)[0]
    context.serving.stop()
    qtbot.waitUntil(lambda: refused(url))


def refused(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        httpx2.get(f"{url}/models", trust_env=False)
    except httpx2.TransportError:
        return True
    return False


def test_a_port_that_is_taken_is_said(qtbot: QtBot, context: Context, window: MainWindow, model: str) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        dialog = window.show_serving()
        dialog.port.setValue(other.getsockname()[1])
        clicked(qtbot, dialog)
        qtbot.waitUntil(lambda: bool(red_cards(dialog)))
        assert red_cards(dialog)[0].error.code == "cannot_listen"
        assert context.serving.state == OFF
        assert context.engines.find(model).owners == {"chat"}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
