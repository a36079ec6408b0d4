"""Settings, "Hugging Face": the token goes into the keyring and nowhere else; the environment wins over the fields."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from app import settings
from app.ui.context import Context
from app.ui.find import FindPage
from app.ui.settings_hub import HubCard
from app.ui.settings_page import SettingsPage
from app.ui.window import MainWindow
from tests.fakehub import FakeHub
from tests.hub.test_token import keyring_environment, written_with
from tests.ui.test_find_page import looked_up, red_cards, settled
from tests.ui.test_window import unnamed

TOKEN = "hf_Geheim0123456789abcdefGeheim"


@pytest.fixture
def card(qtbot: QtBot, window: MainWindow, hub_environment: Path, monkeypatch: pytest.MonkeyPatch) -> HubCard:
    """The card in its page, in front."""
    for name in ("HF_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name)
    window.navigate("settings", {"section": "hub"})
    page = window.page("settings")
    assert isinstance(page, SettingsPage)
    qtbot.waitUntil(lambda: page.hub.visibleRegion().boundingRect().height() > 100)
    return page.hub


def told(qtbot: QtBot, card: HubCard, words: str) -> None:
    qtbot.waitUntil(lambda: words in card.state.text())


def words(widget: QWidget) -> str:
    return "\n".join(made.text() for made in widget.findChildren(QLabel) if made.isVisible())


def card_of(qtbot: QtBot, page: FindPage) -> str:
    """The model card, which is shown to those that may see the model."""
    page.details.tabs.setCurrentIndex(1)
    qtbot.waitUntil(lambda: page.details.card.is_whole)
    return page.details.card.toPlainText().strip()


def type_token(qtbot: QtBot, card: HubCard, token: str) -> None:
    qtbot.keyClicks(card.token, token)
    card.save.click()
    assert card.token.text() == "", "the field never keeps it"


def command_lines() -> bytes:
    """Those of this process and of all that it has started."""
    me = psutil.Process()
    lines = []
    for process in [me, *me.children(recursive=True)]:
        try:
            lines.append("\0".join(process.cmdline()))
        except psutil.Error:
            continue  # it has just left
    return "\n".join(lines).encode()


@pytest.fixture
def gated(fakehub: FakeHub) -> FakeHub:
    fakehub.tokens.add(TOKEN)
    fakehub.add("org/gated", {"a-Q4_K_M.gguf": b"GGUF", "README.md": b"# In"}, gated="manual", readers=(TOKEN,))
    return fakehub


def test_a_token_in_the_keyring_opens_gated_models_and_is_nowhere_else(
    *, qtbot: QtBot, gated: FakeHub, quench_home: Path, hub_environment: Path, tmp_path: Path, card: HubCard,
    context: Context, window: MainWindow, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in keyring_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    context.hub.restart()
    card.ask()
    told(qtbot, card, "No token")
    assert f"{gated.url}/settings/tokens" in card.state.text()
    assert card.token.echoMode() == QLineEdit.EchoMode.Password
    assert not card.save.isEnabled() and not card.remove.isEnabled()
    type_token(qtbot, card, TOKEN)
    told(qtbot, card, "kept in the system's keyring")
    assert "HF_TOKEN" not in os.environ
    page = window.show_page("find")
    settled(qtbot, page)
    page.field.setText("org/gated")
    qtbot.keyClick(page.field, Qt.Key.Key_Return)
    looked_up(qtbot, page)
    assert card_of(qtbot, page) == "Written by org\nIn"
    qtbot.waitUntil(lambda: page.details.panel.plan is not None)
    page.details.panel.download.click()
    assert TOKEN.encode() not in command_lines()
    (job,) = context.jobs.jobs
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "done", job.error and job.error.detail
    assert written_with(TOKEN, quench_home.parent, hub_environment) == []
    window.show_page("settings")
    card.remove.click()
    told(qtbot, card, "No token")
    assert not card.remove.isEnabled()


def test_without_a_keyring_it_lasts_until_the_end_and_says_so(
    *, qtbot: QtBot, gated: FakeHub, quench_home: Path, hub_environment: Path, card: HubCard, context: Context,
    window: MainWindow, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "")  # so that it is what it was afterwards
    told(qtbot, card, "no keyring")
    assert "forgotten when Quench ends" in card.state.text()
    type_token(qtbot, card, TOKEN)
    told(qtbot, card, "until Quench ends")
    page = window.show_page("find")
    page.receive({"model": "org/gated"})
    looked_up(qtbot, page)
    assert card_of(qtbot, page) == "Written by org\nIn"
    assert TOKEN.encode() not in command_lines()
    assert written_with(TOKEN, quench_home.parent, hub_environment) == []
    context.library.rescan()
    qtbot.waitUntil(lambda: not context.library.scanning)
    assert psutil.Process(context.hub.pid()).environ()["HF_TOKEN"] == TOKEN
    assert "HF_TOKEN" not in psutil.Process(context.scout.pid()).environ(), "only those that ask the hub have it"
    window.show_page("settings")
    card.remove.click()
    told(qtbot, card, "No token")
    assert not os.environ.get("HF_TOKEN")


def test_what_is_no_token_is_refused_in_words(qtbot: QtBot, fakehub: FakeHub, card: HubCard) -> None:
    told(qtbot, card, "No token")
    type_token(qtbot, card, "two words")
    told(qtbot, card, "This is not a token.")
    assert "two words" not in card.state.text()


def test_a_new_token_lets_what_was_refused_in(
    qtbot: QtBot, gated: FakeHub, card: HubCard, window: MainWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    gated.add("org/secret", {"config.json": b"{}"}, private=True, readers=(TOKEN,))
    page = window.show_page("find")
    page.receive({"model": "org/secret"})
    looked_up(qtbot, page)
    assert red_cards(page)[0].error.code == "repo_not_found"
    window.show_page("settings")
    type_token(qtbot, card, TOKEN)
    told(qtbot, card, "until Quench ends")
    looked_up(qtbot, page)
    assert page.details.repository is not None and page.details.repository.private


@pytest.mark.parametrize(
    ("field", "name", "bad", "good"),
    [
        ("endpoint", "hub_endpoint", "not an address", "https://mirror.example"),
        ("proxy", "hub_proxy", "ftp://proxy", "http://proxy.example:8080"),
        ("proxy", "hub_proxy", "http://me:secret@proxy.example:8080", "http://proxy.example:8080"),
    ],
)
def test_addresses_are_checked_before_they_are_saved(
    *, qtbot: QtBot, card: HubCard, context: Context, field: str, name: str, bad: str, good: str
) -> None:
    edit = getattr(card, field)
    for text, saved in ((bad, ""), (good, good), ("", "")):
        edit.clear()
        qtbot.keyClicks(edit, text)
        qtbot.keyClick(edit, Qt.Key.Key_Return)
        assert getattr(settings.load(), name) == saved
        assert ("It looks like" in words(card) or "environment" in words(card)) == (text == bad)


def test_another_endpoint_is_asked_at_once(qtbot: QtBot, card: HubCard, window: MainWindow, context: Context) -> None:
    with FakeHub() as one, FakeHub() as other:
        one.add("org/one", {"config.json": b"{}"})
        other.add("org/other", {"config.json": b"{}"})
        context.update_settings(hub_endpoint=one.url)
        page = window.show_page("find")
        settled(qtbot, page)
        assert [model.id for model in page.results.models] == ["org/one"]
        context.update_settings(hub_endpoint=other.url)
        settled(qtbot, page)
        assert [model.id for model in page.results.models] == ["org/other"]


def test_the_rest_is_saved(card: HubCard, context: Context) -> None:
    card.at_once.setValue(7)
    card.limit.setValue(2.5)
    card.offline.click()
    saved = settings.load()
    assert (saved.downloads_at_once, saved.download_limit, saved.hub_offline) == (7, 5 << 19, True)
    context.update_settings(download_limit=0, hub_offline=False)
    assert card.limit.text() == "No limit"
    assert not card.offline.isChecked()


def test_what_the_environment_decides_is_shown_and_cannot_be_set(
    qtbot: QtBot, card: HubCard, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:8080")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", "/somewhere/else")
    card.fill()
    assert (card.endpoint.text(), card.endpoint.isEnabled()) == ("https://mirror.example", False)
    assert (card.proxy.text(), card.proxy.isEnabled()) == ("http://***@proxy.example:8080", False)
    assert (card.offline.isChecked(), card.offline.isEnabled()) == (True, False)
    assert card.cache.text().startswith("/somewhere/else")
    shown = words(card)
    assert all(f"Set by {name}" in shown for name in ("HF_ENDPOINT", "HTTPS_PROXY", "HF_HUB_OFFLINE"))


def test_the_card_asks_only_when_it_is_seen(qtbot: QtBot, window: MainWindow, context: Context) -> None:
    page = window.show_page("settings")
    assert page.hub.visibleRegion().isEmpty()
    assert context.hub.processes() == []


def test_everything_has_a_name(card: HubCard) -> None:
    assert unnamed(card) == []
