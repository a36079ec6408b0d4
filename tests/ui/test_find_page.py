"""Find models with real workers against the fake hub: searches, files, plans, cards, and what stands in the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QApplication, QLabel, QMessageBox, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app.hub.messages import FoundModel, HubFound
from app.ui.context import Context
from app.ui.find import FindPage
from app.ui.find_card import card_markdown
from app.ui.find_groups import FITS, NEEDS, SIZE
from app.ui.find_results import DOWNLOADS, LIKES, NAME, ResultsModel
from app.ui.window import MainWindow
from tests.fakehub import FakeHub
from tests.ui.conftest import red_cards
from tests.ui.test_window import unnamed

CARD = """---
license: apache-2.0
---
<h1 align="center">Tiny</h1>
<p><img src="file:///etc/passwd" alt="A logo"><b>Bold</b> words, <a href="https://example.org/x">a page</a>.</p>
<script>alert(1)</script>

![remote](https://example.org/picture.png) and [local](file:///etc/passwd)

```python
print("</think>", "<b>kept</b>")
```
"""
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def fields(parameters: int) -> dict:
    return {
        "safetensors": {"parameters": {"BF16": parameters}, "total": parameters},
        "config": LLAMA,
        "pipeline_tag": "text-generation",
    }


@pytest.fixture
def hub(fakehub: FakeHub, pocket: Path) -> FakeHub:
    """Two whole models, and some names."""
    config = (pocket / "config.json").read_bytes()
    small = {path.name: path.read_bytes() for path in pocket.iterdir()} | {"README.md": CARD.encode()}
    fakehub.add(
        "org/Tiny", small, downloads=1_234_567, likes=12, tags=["safetensors", "license:mit"], fields=fields(5_000_000)
    )
    quants = {f"Tiny-{kind}.gguf": b"GGUF" + bytes(size) for kind, size in (("Q4_K_M", 3_000), ("Q8_0", 5_000))}
    quants |= {f"BF16/Tiny-BF16-0000{n}-of-00002.gguf": b"GGUF" + bytes([n] * 4_000) for n in (1, 2)}
    quants["Tiny-Q2_K-00001-of-00003.gguf"] = b"GGUF" + bytes(900)
    fakehub.add("org/Tiny-GGUF", {**quants, "config.json": config}, downloads=999, tags=["gguf"])
    for number in range(60):
        repo = f"many/model-{number:02}"
        fakehub.add(repo, {"config.json": b"{}"}, downloads=number, tags=["safetensors"], fields=fields(10**9))
    return fakehub


@pytest.fixture
def page(qtbot: QtBot, hub: FakeHub, window: MainWindow) -> FindPage:
    """The page in its window, with the first answer."""
    made = window.show_page("find")
    assert isinstance(made, FindPage)
    settled(qtbot, made)
    return made


def settled(qtbot: QtBot, page: FindPage) -> None:
    qtbot.waitUntil(lambda: not page.loading.isVisible() and not page._soon.isActive())


def search(qtbot: QtBot, page: FindPage, text: str) -> list[str]:
    page.field.clear()
    qtbot.keyClicks(page.field, text)
    settled(qtbot, page)
    return [model.id for model in page.results.models]


def choose(qtbot: QtBot, page: FindPage, name: str) -> None:
    """Pick a model of the list and wait for its details, plan and card."""
    page.list.setCurrentIndex(page.results.index(page.results.row_of(name), 0))
    looked_up(qtbot, page)


def looked_up(qtbot: QtBot, page: FindPage) -> None:
    qtbot.waitUntil(lambda: not page._look.isActive() and not page.details._requests)


def words(page: QWidget) -> str:
    return "\n".join(made.text() for made in page.findChildren(QLabel) if made.isVisible())


def press(page: QWidget, text: str) -> None:
    made = next(made for made in page.findChildren(QPushButton) if made.isVisible() and made.text() == text)
    made.click()


def files(page: FindPage) -> list[list[str]]:
    table = page.details.files.table
    return [[str(table.index(row, column).data()) for column in range(5)] for row in range(table.rowCount())]


# ---- searching -------------------------------------------------------------------------------------------------


def test_what_is_typed_is_searched(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    assert page.results.rowCount() == 40
    assert page._more.isVisible()
    page._more.click()
    settled(qtbot, page)
    assert page.results.rowCount() == 62
    assert not page._more.isVisible()
    assert search(qtbot, page, "tiny") == ["org/Tiny", "org/Tiny-GGUF"]
    row = [page.results.index(0, column).data() for column in range(page.results.columnCount())]
    assert row == ["org/Tiny", "5.0 M", "Fits", "1.2 M", "12", ""]
    assert search(qtbot, page, "no such thing") == []
    assert page.empty.isVisible()


def test_filters_ask_at_once(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    for field, value, expected in (
        (page.kind, "gguf", ["org/Tiny-GGUF"]),
        (page.licence, "mit", ["org/Tiny"]),
        (page.task, "translation", []),
        (page.gated, True, []),
    ):
        field.setCurrentIndex(field.findData(value))
        field.activated.emit(field.currentIndex())
        settled(qtbot, page)
        assert [model.id for model in page.results.models] == expected, value
        field.setCurrentIndex(0)
    page.fits.click()
    settled(qtbot, page)
    assert page.results.rowCount() == 40
    assert all(model.fits in ("good", "tight") for model in page.results.models)


def test_a_newer_question_overtakes_an_older(qtbot: QtBot, page: FindPage, hub: FakeHub, context: Context) -> None:
    hub.fail("api", "/api/models", "stall")
    qtbot.keyClicks(page.field, "model-0")
    qtbot.waitUntil(hub.stalled.is_set)
    assert page.loading.isVisible()
    assert search(qtbot, page, "tiny-gguf") == ["org/Tiny-GGUF"]
    late: list[object] = []
    (worker,) = context.hub.processes()
    worker.event.connect(late.append)
    hub.released.set()
    qtbot.waitUntil(lambda: any(isinstance(message, HubFound) for message in late))
    assert [model.id for model in page.results.models] == ["org/Tiny-GGUF"]


def test_a_search_can_be_stopped(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    hub.fail("api", "/api/models", "stall")
    qtbot.keyClicks(page.field, "tiny")
    qtbot.waitUntil(hub.stalled.is_set)
    press(page.loading, "Stop")
    assert not page.loading.isVisible()
    assert page.results.rowCount() == 40, "what was found before stays"


def test_an_error_says_what_to_do_and_can_be_tried_again(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    hub.fail("api", "/api/models", status=503, times=3)
    qtbot.keyClicks(page.field, "tiny")
    settled(qtbot, page)
    (card,) = red_cards(page)
    assert card.error.code == "hub_down"
    press(page, "Try again")
    settled(qtbot, page)
    assert page.results.rowCount() == 2
    assert red_cards(page) == []


def test_qts_own_checker_accepts_the_results(context: Context) -> None:
    table = ResultsModel(context.theme)
    tester = QAbstractItemModelTester(table, QAbstractItemModelTester.FailureReportingMode.Warning)
    models = [FoundModel(f"a/{n}", n, n, "", "", n, 0, "good") for n in range(5)]
    for shown in (models[:2], models, models[3:], []):
        table.set_models(shown)
        assert [table.index(row, NAME).data() for row in range(table.rowCount())] == [model.id for model in shown]
    assert tester.model() is table
    assert (DOWNLOADS, LIKES) == (3, 4)


# ---- one model -------------------------------------------------------------------------------------------------


def test_quants_and_shards_are_listed_with_what_they_need(qtbot: QtBot, page: FindPage) -> None:
    choose(qtbot, page, "org/Tiny-GGUF")
    assert [(row[0], row[1]) for row in files(page)] == [
        ("Q2_K", "Tiny-Q2_K.gguf"),
        ("Q4_K_M", "Tiny-Q4_K_M.gguf"),
        ("Q8_0", "Tiny-Q8_0.gguf"),
        ("BF16", "Tiny-BF16.gguf (2 parts)"),
    ]
    table = page.details.files.table
    assert table.index(0, FITS).data() == "Incomplete"
    assert "2 parts of it" in table.index(0, FITS).data(Qt.ItemDataRole.ToolTipRole)
    assert (table.index(1, SIZE).data(), table.index(1, FITS).data()) == ("2.9 KiB", "Fits")
    why = table.index(1, FITS).data(Qt.ItemDataRole.ToolTipRole)
    # Pocket's config: 6 layers x 2 heads x (64 + 64) x 2 bytes x 1,024 tokens, and the very file.
    assert "2.9 KiB weights + 3.0 MiB KV cache" in why and "free now" in why
    assert table.index(1, NEEDS).data() in why
    assert page.details.files.group().type == "Q4_K_M", "a usual type that fits is chosen"
    page.details.files.choose(0)
    assert "2 of its parts are not in the repository" in page.details.panel.words()
    assert not page.details.panel.download.isVisible()


def test_the_plan_is_exact_before_the_first_byte(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    choose(qtbot, page, "org/Tiny-GGUF")
    page.details.files.choose(3)
    panel = page.details.panel
    qtbot.waitUntil(lambda: panel.plan is not None)
    assert [file.path for file in panel.plan.files] == [f"BF16/Tiny-BF16-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert "2 files, 7.8 KiB" in panel.words()
    assert "7.8 KiB to download" in panel.words()
    assert "free on the disk" in panel.words()
    assert panel.plan.folder in panel.words()
    assert sum(hub.served[path] for path in hub.served if path.endswith(".gguf")) == 0
    choose(qtbot, page, "org/Tiny")
    qtbot.waitUntil(lambda: panel.plan is not None)
    assert panel.convert.isVisible()
    assert {file.path for file in panel.plan.files} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_disk_that_is_too_small_is_told_at_once(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    hub.repos["org/Tiny-GGUF"].commit({"Tiny-Q6_K.gguf": b"GGUF"}, listed=1 << 60)
    choose(qtbot, page, "org/Tiny-GGUF")
    page.details.files.choose([row[0] for row in files(page)].index("Q6_K"))
    panel = page.details.panel
    qtbot.waitUntil(lambda: panel.plan is not None)
    assert "not enough disk space" in panel.words()
    assert panel.download.isVisible() and not panel.download.isEnabled()


def test_the_card_is_words_only(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    choose(qtbot, page, "org/Tiny")
    page.details.tabs.setCurrentIndex(1)
    card = page.details.card
    qtbot.waitUntil(lambda: card.is_whole)
    text = card.toPlainText()
    assert "license: apache-2.0" not in text
    assert "Bold words, a page." in text
    assert "A logo" in text
    assert "alert" not in text
    assert 'print("</think>", "<b>kept</b>")' in text, "code stays as it is"
    document = card.document()
    links = set()
    block = document.begin()
    while block.isValid():
        for part in block:
            form = part.fragment().charFormat()
            assert not form.isImageFormat()
            links.add(form.anchorHref())
        block = block.next()
    assert {link for link in links if link and not link.startswith("quench:copy")} == {
        "https://example.org/x",
        "https://example.org/picture.png",
    }
    assert card.verticalScrollBar().value() == 0


def test_a_long_card_never_holds_up_the_window(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    text = "".join(f"# Part {n}\n\nSome **words**.\n\n```python\nprint({n})\n```\n\n" for n in range(400))
    hub.add("org/long", {"README.md": text.encode(), "x-Q8_0.gguf": b"GGUF"}, tags=["gguf"])
    search(qtbot, page, "org/long")
    choose(qtbot, page, "org/long")
    card = page.details.card
    assert not card.is_whole, "nothing is written before somebody looks"
    page.details.tabs.setCurrentIndex(1)
    turns = 0
    while not card.is_whole:
        with qtbot.waitSignal(card._writer.timeout):
            turns += 1
    assert turns > 5, "in pieces"
    assert "Part 399" in card.toPlainText()
    assert card.toPlainText().count("print(") == 400
    assert card.verticalScrollBar().value() == 0


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<div\nalign='center'>\n    <b>x</b>\n</div>", "**x**"),
        ("a<br>b", "a\nb"),
        ("<!-- never closed", ""),
        ('<a href="javascript:alert(1)">x</a>', "x"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<h2>Two</h2>", "## Two"),
        ("```\n<b>\n```", "```\n<b>\n```"),
    ],
)
def test_html_of_a_card_becomes_markdown(html: str, words: str) -> None:
    assert card_markdown(html).strip() == words


# ---- what stands in the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "buttons"),
    [
        ("org/absent", "repo_not_found", {"Check the spelling", "Set a token"}),
        ("org/secret", "repo_not_found", {"Check the spelling", "Set a token"}),
        ("org/banned", "disabled", {"Open its page"}),
    ],
)
def test_missing_private_and_disabled_are_told_apart(
    *, qtbot: QtBot, page: FindPage, hub: FakeHub, name: str, code: str, buttons: set[str]
) -> None:
    hub.add("org/secret", {"config.json": b"{}"}, private=True)
    hub.add("org/banned", {"config.json": b"{}"}, disabled=True)
    page.field.setText(name)
    qtbot.keyClick(page.field, Qt.Key.Key_Return)
    looked_up(qtbot, page)
    (card,) = red_cards(page)
    assert card.error.code == code
    assert {made.text() for made in card.findChildren(QPushButton) if made.isVisible()} == buttons | {"Copy details"}
    if "Check the spelling" in buttons:
        press(card, "Check the spelling")
        assert page.window().focusWidget() is page.field
        assert page.field.selectedText() == name


def test_a_renamed_model_says_its_new_name(qtbot: QtBot, page: FindPage, hub: FakeHub) -> None:
    hub.renamed["old/Name"] = "org/Tiny"
    page.field.setText(f"{hub.url}/old/Name")
    qtbot.keyClick(page.field, Qt.Key.Key_Return)
    looked_up(qtbot, page)
    assert page.details.repository.id == "org/Tiny"
    assert "old/Name is called org/Tiny now." in words(page.details)


def test_a_gated_model_leads_to_its_licence_and_to_the_token(
    qtbot: QtBot, page: FindPage, hub: FakeHub, window: MainWindow
) -> None:
    hub.add("org/gated", {"config.json": b"{}", "README.md": b"# x", "a-Q4_K_M.gguf": b"GGUF"}, gated="manual")
    assert search(qtbot, page, "gated") == ["org/gated"]
    assert page.results.access(page.results.models[0]) == "gated"
    choose(qtbot, page, "org/gated")
    assert "must be accepted" in words(page.details)
    press(page.details, "Open the licence page")
    (box,) = page.findChildren(QMessageBox)
    assert box.informativeText() == f"{hub.url}/org/gated"
    box.close()
    press(page.details, "Set a token")
    assert window.current_key() == "settings"


def test_a_killed_worker_costs_an_error_and_nothing_else(
    qtbot: QtBot, page: FindPage, hub: FakeHub, context: Context
) -> None:
    hub.fail("api", "/api/models", "stall")
    qtbot.keyClicks(page.field, "tiny")
    qtbot.waitUntil(hub.stalled.is_set)
    os.kill(context.hub.pid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    settled(qtbot, page)
    (card,) = red_cards(page)
    assert card.error.code == "engine_died"
    press(page, "Try again")
    settled(qtbot, page)
    assert page.results.rowCount() == 2


# ---- offline, and no network -----------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_page_is_shown(
    qtbot: QtBot, hub: FakeHub, window: MainWindow, context: Context
) -> None:
    window.show_page("library")
    context.library.rescan()
    qtbot.waitUntil(lambda: not context.library.scanning)
    assert context.hub.processes() == []
    assert hub.seen == []
    window.show_page("find")
    assert len(context.hub.processes()) == 1


def test_offline_mode_asks_nobody_and_can_be_left(
    qtbot: QtBot, hub: FakeHub, window: MainWindow, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    context.update_settings(hub_offline=True)
    page = window.show_page("find")
    assert page.offline.isVisible()
    assert "Everything on this machine works" in words(page)
    assert context.hub.processes() == []
    press(page, "Go online")
    settled(qtbot, page)
    assert not context.settings.hub_offline
    assert page.results.rowCount() == 40
    context.update_settings(hub_offline=True)
    assert page.offline.isVisible()


def test_offline_by_the_environment_says_so(hub: FakeHub, window: MainWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = window.show_page("find")
    assert "HF_HUB_OFFLINE" in words(page)
    assert not any(made.isVisible() for made in page.offline.buttons)


def test_without_a_network_it_says_so(
    qtbot: QtBot, hub_environment: Path, window: MainWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    page = window.show_page("find")
    settled(qtbot, page)
    (card,) = red_cards(page)
    assert card.error.code == "no_network"
    press(page, "Settings")
    assert window.current_key() == "settings"


# ---- keyboard, names, sizes ------------------------------------------------------------------------------------


def test_it_is_reached_from_the_library_and_by_the_palette(
    qtbot: QtBot, hub: FakeHub, window: MainWindow, context: Context
) -> None:
    library = window.show_page("library")
    library.find()
    assert window.current_key() == "find"
    page = window.page("find")
    settled(qtbot, page)
    qtbot.keyClick(page.field, Qt.Key.Key_Escape)
    assert window.current_key() == "library"
    library.first.find_model.emit()
    assert window.current_key() == "find"
    window.show_page("chat")
    next(command for command in window.commands() if command.text == "Find models").run()
    assert window.current_key() == "find"
    assert "Hugging Face" in window.show_help().browser.toPlainText()
    window.save_state()
    assert context.settings.last_page == "find"


def test_down_leads_from_the_field_into_the_list(qtbot: QtBot, page: FindPage) -> None:
    page.field.setFocus()
    qtbot.keyClick(page.field, Qt.Key.Key_Down)
    assert page.window().focusWidget() is page.list
    assert page.list.currentIndex().row() == 0
    looked_up(qtbot, page)
    assert page.details.repository.id == "org/Tiny"


def test_everything_has_a_name_and_fits_the_smallest_window(qtbot: QtBot, page: FindPage, window: MainWindow) -> None:
    window.resize(960, 600)
    choose(qtbot, page, "org/Tiny")
    for tab in range(3):
        page.details.tabs.setCurrentIndex(tab)
        QApplication.processEvents()
        assert (window.width(), window.height()) == (960, 600)
        assert unnamed(page) == []
