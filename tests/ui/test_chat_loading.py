"""Loading and context in the Chat page: plan and truth, what does not fit, old turns that give way, adapters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QUrl
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app import child, prompt_files, settings
from app.adapter_messages import Adapter
from app.protocol import Sampling
from app.ui.chat import ChatPage
from app.ui.context import Context
from app.ui.engines import READY
from tests.lora_files import pairs, write_adapter

GREEDY = Sampling(temperature=0.0, max_tokens=12)
LONG = "bear and lamp " * 45


@pytest.fixture
def page(qtbot: QtBot, context: Context) -> ChatPage:
    context.update_settings(sampling=GREEDY)
    made = ChatPage(context)
    qtbot.addWidget(made)
    made.resize(1192, 772)
    made.show()
    made.inspector.tabs.setCurrentIndex(1)
    return made


@pytest.fixture
def model(pocket_gguf: Callable[[str], Path]) -> str:
    return str(pocket_gguf("Q4_K_M"))


def loaded(qtbot: QtBot, page: ChatPage, model: str) -> None:
    page.receive({"model": model})
    qtbot.waitUntil(lambda: page.engine() is not None and page.engine().state == READY)


def ask(qtbot: QtBot, page: ChatPage, text: str) -> None:
    page.send(text)
    qtbot.waitUntil(lambda: not page.busy())


def table(page: ChatPage) -> dict[str, tuple[str, str]]:
    """The plan as it is shown: name -> (planned, taken)."""
    cells = page.inspector.loading.plan._cells
    return {name.text(): (a.text(), b.text()) for name, a, b in cells if not name.isHidden()}


def press(page: ChatPage, text: str) -> None:
    [found] = [each for each in page.error.findChildren(QPushButton) if each.text() == text and not each.isHidden()]
    found.click()


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers see forty MiB of free memory, which is less than any model needs."""
    code = "from app import hardware; hardware.memory_available = lambda: 40 << 20\n"
    code += "import sys; from app.workers import runtime; runtime.main(sys.argv[1])"
    monkeypatch.setattr(child, "worker_command", lambda kind: [sys.executable, "-c", code, kind])


def test_the_plan_stands_beside_what_was_taken(qtbot: QtBot, page: ChatPage, context: Context, model: str) -> None:
    loaded(qtbot, page, model)
    ask(qtbot, page, LONG * 6)
    shown = table(page)
    assert shown["Memory"] == ("planned", "taken")
    for name in ("Weights", "Weights, repacked", "KV cache"):
        assert shown[name][0] == shown[name][1] or name == "Weights, repacked", name
    engine = page.engine()
    assert engine is not None and engine.loaded is not None and engine.loaded.plan is not None and engine.memory
    plan, memory = engine.loaded.plan, engine.memory
    assert plan.total == pytest.approx(memory.weights + memory.anonymous, rel=0.1)
    # What it took teaches the next plan.
    assert context.settings.memory_ratios["llama"] == pytest.approx(1.0, abs=0.1)
    # Other options are planned before they are applied, and nothing stands beside the plan then.
    page.inspector.loading.context_spin.setValue(65536)
    qtbot.waitUntil(lambda: table(page).get("KV cache", ("", ""))[0] not in ("", shown["KV cache"][0]))
    assert table(page)["Memory"] == ("planned", "")
    assert "Fits" in page.inspector.loading.plan.verdict.text()
    assert page.inspector.loading.apply_button.isVisible()


def test_what_does_not_fit_is_refused_with_the_numbers_and_loads_anyway(
    qtbot: QtBot, page: ChatPage, context: Context, model: str, little_memory: None
) -> None:
    page.use_model(model)
    qtbot.waitUntil(page.error.isVisible)
    error = page.error.error
    assert error is not None and error.code == "no_memory" and error.exit_status == 4
    for part in ("weights", "repacked weights", "KV cache for 1,024 tokens", "compute buffer", "40.0 MiB can be had"):
        assert part in error.detail, part
    qtbot.waitUntil(lambda: "Does not fit" in page.inspector.loading.plan.verdict.text())
    press(page, "Load anyway")
    qtbot.waitUntil(lambda: page.engine() is not None and page.engine().state == READY)
    assert page.error.isHidden()
    page.send("What is the capital of France?")
    qtbot.waitUntil(lambda: not page.busy())
    assert "Paris" in page.transcript.toPlainText()


def test_a_context_that_does_not_fit_can_be_made_smaller(
    qtbot: QtBot, page: ChatPage, context: Context, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from app import hardware; hardware.memory_available = lambda: 60 << 20\n"
    code += "import sys; from app.workers import runtime; runtime.main(sys.argv[1])"
    monkeypatch.setattr(child, "worker_command", lambda kind: [sys.executable, "-c", code, kind])
    context.update_settings(context=65536)
    page.use_model(model)
    qtbot.waitUntil(page.error.isVisible)
    press(page, "Smaller context")
    qtbot.waitUntil(lambda: page.engine() is not None and page.engine().state == READY)
    engine = page.engine()
    assert engine is not None and engine.loaded is not None and engine.loaded.context == 1024


def test_a_quantized_cache_without_flash_attention_is_explained(qtbot: QtBot, page: ChatPage, model: str) -> None:
    loaded(qtbot, page, model)
    loading = page.inspector.loading
    for combo, value in ((loading.kv_combo, "q8_0"), (loading.flash_combo, "off")):
        combo.setCurrentIndex(combo.findData(value))
        combo.activated.emit(combo.currentIndex())
    assert "needs flash attention" in loading.problem.text() and loading.problem.isVisible()
    assert not loading.apply_button.isEnabled()
    loading.flash_combo.setCurrentIndex(loading.flash_combo.findData("on"))
    loading.flash_combo.activated.emit(1)
    assert loading.problem.isHidden()
    loading.apply_button.click()
    qtbot.waitUntil(lambda: page.engine() is not None and page.engine().state == READY)
    assert page.engine().options.kv_type == "q8_0"


WAYS = {
    "shift": ("Leave out old turns", "The model does not see what stands above"),
    "summarise": ("Sum them up", "The model sees a summary of what stands above"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_conversation_that_is_too_long_gives_way_as_the_person_chooses(
    qtbot: QtBot, page: ChatPage, context: Context, model: str, way: str
) -> None:
    words, mark = WAYS[way]
    context.update_settings(context=512)
    loaded(qtbot, page, model)
    ask(qtbot, page, f"One. {LONG}")
    ask(qtbot, page, f"Two. {LONG}")
    while page.error.isHidden():
        ask(qtbot, page, f"More. {LONG}")
    assert page.error.error is not None and page.error.error.code == "context_full"
    conversation = page.conversation()
    assert conversation is not None
    before = [(row.id, row.content) for row in context.store.messages(conversation)]
    press(page, words)
    qtbot.waitUntil(lambda: not page.busy())
    assert context.settings.overflow == way
    text = page.transcript.toPlainText()
    assert mark in text and text.index(mark) > text.index("One. bear")
    rows = context.store.messages(conversation)
    assert [(row.id, row.content) for row in rows][: len(before)] == before  # nothing stored was changed
    assert rows[-1].role == "assistant" and not rows[-1].partial and rows[-1].stats["seen_from"] != rows[0].id
    # It is still said after a new start, and what the summary says can be read.
    again = ChatPage(context)
    qtbot.addWidget(again)
    again.open_conversation(conversation)
    assert mark in again.transcript.toPlainText()
    if way == "summarise":
        summary = rows[-1].stats["summary"]
        first = rows[-1].stats["seen_from"]
        assert summary and summary not in again.transcript.toPlainText()
        again.transcript.anchorClicked.emit(QUrl(f"quench:fold/{first}/-1"))
        assert summary in again.transcript.toPlainText().replace("\u2028", "\n")
    # The next question goes on from there.
    ask(qtbot, page, "What is the capital of France?")
    assert page.error.isHidden()


def test_adapters_are_added_turned_down_and_refused_in_the_inspector(
    qtbot: QtBot, page: ChatPage, model: str, tmp_path: Path
) -> None:
    loaded(qtbot, page, model)
    adapters, engine = page.inspector.adapters, page.engine()
    assert engine is not None
    path = write_adapter(tmp_path / "bears.gguf", pairs(model, ("blk.0.attn_q.weight",)))
    pid = engine.pid()
    adapters.add(path)
    qtbot.waitUntil(lambda: engine.adapters == (Adapter(path, 1.0),))
    [row] = adapters.rows
    row.slider.setFocus()
    qtbot.keyClick(row.slider, Qt.Key.Key_PageDown)
    qtbot.waitUntil(lambda: engine.adapters == (Adapter(path, 0.9),))
    assert engine.pid() == pid  # live, without loading again
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"garbage" * 50)
    adapters.add(str(garbage))
    qtbot.waitUntil(adapters.problem.isVisible)
    assert [each.path for each in adapters.rows] == [path] and engine.adapters == (Adapter(path, 0.9),)
    assert settings.load().adapters == {model: (Adapter(path, 0.9),)}
    # They stay when the model is loaded again.
    page.inspector.loading.context_spin.setValue(512)
    page.inspector.loading.apply_button.click()
    qtbot.waitUntil(lambda: engine.state == READY and engine.adapters == (Adapter(path, 0.9),))
    adapters.remove(path)
    qtbot.waitUntil(lambda: engine.adapters == () and engine.state == READY)
    assert adapters.rows == [] and settings.load().adapters == {}


def test_a_models_adapters_are_there_again_the_next_time(
    qtbot: QtBot, context: Context, page: ChatPage, model: str, tmp_path: Path
) -> None:
    path, gone = write_adapter(tmp_path / "bears.gguf", pairs(model, ("blk.0.attn_q.weight",))), tmp_path / "gone.gguf"
    kept = (Adapter(path, 0.35), Adapter(str(gone), 1.0))
    context.update_settings(adapters={model: kept, "another.gguf": (Adapter(str(gone)),)})
    loaded(qtbot, page, model)
    adapters, engine = page.inspector.adapters, page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.adapters == (Adapter(path, 0.35),))
    assert [(row.path, row.slider.value()) for row in adapters.rows] == [(path, 35)]
    assert adapters.problem.isVisible() and adapters.problem.text() == "gone.gguf is gone and was left out."
    qtbot.waitUntil(lambda: settings.load().adapters[model] == (Adapter(path, 0.35),))
    assert "another.gguf" in settings.load().adapters


def test_a_deleted_conversation_leaves_nothing_behind_on_disk(
    qtbot: QtBot, page: ChatPage, context: Context, model: str
) -> None:
    loaded(qtbot, page, model)
    ask(qtbot, page, LONG * 2)
    conversation = page.conversation()
    state = prompt_files.folder() / f"{conversation}.state"
    qtbot.waitUntil(state.exists)
    page._conversation_gone(conversation)
    assert not state.exists()
