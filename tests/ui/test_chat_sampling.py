"""Constraints, presets, stop strings, seeds, probabilities and tool calls on the Chat page, with Pocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog
from pytestqt.qtbot import QtBot

from app import settings
from app.chat_messages import ALWAYS, LOOKUP, NEVER, Constraint, Likely, TokenChoice
from app.protocol import Sampling
from app.ui.chat import ChatPage
from app.ui.context import Context
from app.ui.reply import pack, prompt_of, unpack
from app.ui.sampling_panel import SamplingPanel, spelled, stops_of
from app.ui.token_dialog import TokenDialog
from app.ui.transcript_blocks import Entry
from tests.ui.conftest import nameless, red_cards

GREEDY = Sampling(temperature=0.0, max_tokens=60)
CITY = '{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}'
CALL = 'I look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def page(qtbot: QtBot, context: Context, pocket_gguf: Callable[[str], Path]) -> ChatPage:
    context.update_settings(sampling=GREEDY, token_probabilities=ALWAYS)
    made = ChatPage(context)
    qtbot.addWidget(made)
    made.resize(1192, 772)
    made.show()
    made.receive({"model": str(pocket_gguf("Q8_0"))})
    return made


@pytest.fixture
def panel(qtbot: QtBot, context: Context) -> SamplingPanel:
    made = SamplingPanel(context)
    qtbot.addWidget(made)
    made.show()
    return made


def ask(qtbot: QtBot, page: ChatPage, text: str) -> str:
    """The answer."""
    page.composer.set_text(text)
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    assert page.busy()
    qtbot.waitUntil(lambda: not page.busy())
    return page.transcript.text_of(page.transcript.keys()[-1])


def hold(page: ChatPage, kind: str, text: str) -> None:
    panel = page.inspector.constraint_panel
    panel.kind.setCurrentIndex(panel.kind.findData(kind))
    panel.kind.activated.emit(panel.kind.currentIndex())
    panel.text.setPlainText(text)


def choose(panel: SamplingPanel, key: str) -> None:
    panel.preset.setCurrentIndex(panel.preset.findData(key))
    panel.preset.activated.emit(panel.preset.currentIndex())


# ---- constraints


def test_a_schema_holds_the_answers_of_its_conversation(qtbot: QtBot, page: ChatPage, context: Context) -> None:
    hold(page, "schema", CITY)
    panel = page.inspector.constraint_panel
    qtbot.waitUntil(lambda: panel.valid is True)
    assert "can be used" in panel.verdict.text()
    assert json.loads(ask(qtbot, page, "What is the capital of France?")) == {"city": "Paris"}
    assert "held to a JSON schema" in page.transcript.toPlainText()
    assert "json    Copy" in page.transcript.toPlainText()  # as code, in which no mark is Markdown
    first = page.conversation()
    assert first is not None
    assert page.frame.held_button.isVisible()
    page.inspector.tabs.setCurrentIndex(0)
    page.frame.held_button.click()
    assert panel.text.isVisible() and panel.text.hasFocus()
    page.new_chat()
    assert not page.frame.held_button.isVisible()
    assert panel.constraint() == Constraint()
    assert not panel.text.isVisible()
    assert ask(qtbot, page, "What is the capital of France?") == "The capital of France is Paris."
    page.open_conversation(first)
    assert panel.constraint() == Constraint("schema", CITY)
    # Another page, as after a new start, has it too.
    again = ChatPage(context)
    qtbot.addWidget(again)
    again.open_conversation(first)
    assert again.inspector.constraint_panel.constraint() == Constraint("schema", CITY)


def test_a_constraint_that_cannot_be_used_says_so_in_its_place_and_costs_one_answer(
    qtbot: QtBot, page: ChatPage
) -> None:
    hold(page, "grammar", 'root ::= "a"{5,2}')
    panel = page.inspector.constraint_panel
    qtbot.waitUntil(lambda: panel.valid is False)
    assert "ends before it begins" in panel.verdict.text()
    assert panel.verdict.text() in panel.text.accessibleDescription()
    page.composer.set_text("What is the capital of France?")
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not page.busy())
    [card] = red_cards(page)
    assert card.error is not None and card.error.code == "bad_grammar"
    hold(page, "grammar", 'root ::= "Rome"')
    assert ask(qtbot, page, "What is the capital of France?") == "Rome"
    hold(page, "", "")
    assert ask(qtbot, page, "What is the capital of France?") == "The capital of France is Paris."


def test_examples_are_ready_and_each_kind_keeps_its_text(qtbot: QtBot, page: ChatPage, tmp_path: Path) -> None:
    panel = page.inspector.constraint_panel
    for kind in ("schema", "grammar"):
        hold(page, kind, "")
        assert panel.constraint() == Constraint()
        panel.example_button.click()
        qtbot.waitUntil(lambda: panel.valid is True)
    hold(page, "schema", CITY)
    panel.kind.setCurrentIndex(panel.kind.findData("grammar"))
    panel.kind.activated.emit(0)
    assert "root" in panel.text.toPlainText()
    panel.kind.setCurrentIndex(panel.kind.findData("schema"))
    panel.kind.activated.emit(0)
    assert panel.text.toPlainText() == CITY
    file = tmp_path / "schema.json"
    file.write_text("{")
    panel.read_file(str(file))
    qtbot.waitUntil(lambda: panel.valid is False)
    panel.read_file(str(tmp_path / "nothing"))
    assert panel.text.toPlainText() == "{"


# ---- sampling


def test_presets_of_ones_own_are_saved_renamed_and_deleted(panel: SamplingPanel, context: Context) -> None:
    panel.spins["temperature"].setValue(0.55)
    panel.spins["seed"].setValue(9)
    assert panel.preset.currentData() == "own"
    panel.save_preset("  My   words ")
    assert panel.preset.currentData() == "user:My words"
    choose(panel, "exact")
    assert panel.sampling() == msgspec.structs.replace(Sampling(), temperature=0, top_k=1, top_p=1, min_p=0, seed=9)
    choose(panel, "user:My words")
    assert panel.spins["temperature"].value() == pytest.approx(0.55)
    panel.rename_preset("Other")
    assert list(context.settings.presets) == ["Other"]
    assert settings.load().presets["Other"].temperature == pytest.approx(0.55)
    assert settings.load().sampling_preset == "user:Other"
    rename, delete = panel.menu().actions()[1:]
    assert rename.isEnabled() and delete.isEnabled()
    panel.delete_preset()
    assert context.settings.presets == {}
    assert panel.preset.currentData() == "own"
    assert panel.spins["temperature"].value() == pytest.approx(0.55)
    assert not panel.menu().actions()[1].isEnabled()


def test_what_was_chosen_is_there_at_the_next_start(qtbot: QtBot, panel: SamplingPanel, context: Context) -> None:
    for key in ("balanced", "", "inventive"):
        choose(panel, key)
        again = SamplingPanel(context)
        qtbot.addWidget(again)
        assert again.preset.currentData() == key
        assert again.sampling() == panel.sampling()


def test_the_models_own_values_stay_its_own_beside_a_seed_and_stop_strings(panel: SamplingPanel) -> None:
    own = Sampling(temperature=0.123456, top_k=7, max_tokens=99)
    panel.set_defaults(own)
    assert panel.sampling() is None
    assert panel.spins["top_k"].value() == 7
    panel.use_seed(5)
    panel.stops.setPlainText("END\n\n\\n\\n\nEND")
    assert panel.preset.currentData() == ""
    assert panel.sampling() == msgspec.structs.replace(own, seed=5, stop=("END", "\n\n"))
    panel.set_defaults(Sampling(temperature=0.9))
    assert panel.sampling() == Sampling(temperature=0.9, seed=5, stop=("END", "\n\n"))
    panel.reset_button.click()
    assert panel.sampling() is None
    assert panel.stops.toPlainText() == ""


def test_stop_strings_are_read_as_they_are_spelled() -> None:
    stops = ("a b", "\n\n", "\t\\n", "\\")
    assert stops_of(spelled(stops)) == stops
    assert stops_of("a\\qb\n\\") == ("a\\qb", "\\")
    assert len(stops_of("\n".join(map(str, range(100))))) == 16
    assert len(stops_of("x" * 1000)[0]) == 200


def test_stop_strings_end_an_answer_and_the_seed_is_told_and_used_again(qtbot: QtBot, page: ChatPage) -> None:
    panel = page.inspector.sampling_panel
    choose(panel, "inventive")
    first = ask(qtbot, page, "Tell me a story about a bear.")
    key = page.transcript.keys()[-1]
    assert "seed" in page.transcript.toPlainText()
    assert "seed" in page.transcript.actions_for(key)
    page.transcript.act("seed", key)
    assert panel.spins["seed"].value() >= 0
    page.transcript.act("regenerate", key)
    qtbot.waitUntil(lambda: not page.busy())
    assert page.transcript.text_of(page.transcript.keys()[-1]) == first
    panel.stops.setPlainText(first[10:18])
    page.transcript.act("regenerate", page.transcript.keys()[-1])
    qtbot.waitUntil(lambda: not page.busy())
    assert page.transcript.text_of(page.transcript.keys()[-1]) == first[: first.index(first[10:18])]


# ---- probabilities


def test_tokens_are_shown_with_their_probabilities_by_key_and_pointer(
    qtbot: QtBot, page: ChatPage, context: Context
) -> None:
    answer = ask(qtbot, page, "What is the capital of France?")
    key = page.transcript.keys()[-1]
    kept = unpack(context.store.choices(key) or b"")
    assert "".join(choice.text for choice in kept) == answer
    page.transcript.setFocus()
    qtbot.keyClick(page.transcript, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    qtbot.keyClick(page.transcript, Qt.Key.Key_T)
    [dialog] = page.findChildren(TokenDialog)
    qtbot.waitExposed(dialog)
    assert not dialog.compute_button.isVisible()
    assert nameless(dialog) == []
    view = dialog.view
    assert [token.text for token in view.tokens()] == [choice.text for choice in kept]
    said: list[str] = []
    view.said.connect(said.append)
    qtbot.keyClick(view, Qt.Key.Key_Home)
    qtbot.keyClick(view, Qt.Key.Key_Right)
    assert "Token 2 ‘capital’: probability" in said[-1] and "Likeliest: ‘capital’" in said[-1]
    assert dialog.said.text() == said[-1]
    place = view._area(4).center().toPoint()
    qtbot.mouseMove(view.viewport(), QPoint(2, 200))
    qtbot.mouseMove(view.viewport(), place)
    qtbot.waitUntil(view.popover.isVisible)
    dialog.close()


def test_what_was_not_recorded_is_computed_when_it_is_wanted(qtbot: QtBot, page: ChatPage, context: Context) -> None:
    context.update_settings(token_probabilities=NEVER)
    answer = ask(qtbot, page, "What is the capital of France?")
    key = page.transcript.keys()[-1]
    assert context.store.choices(key) is None
    page.transcript.act("tokens", key)
    [dialog] = page.findChildren(TokenDialog)
    assert not dialog.view.isVisible()
    dialog.compute_button.click()
    qtbot.waitUntil(dialog.view.isVisible)
    assert "".join(token.text for token in dialog.view.tokens()) == answer
    assert all(token.probability > 0.5 for token in dialog.view.tokens())
    dialog.close()


def test_kept_probabilities_are_small_and_a_damaged_row_shows_none() -> None:
    top = tuple(Likely(text, 0.1234) for text in (" the", " a", " an", " this", " that"))
    choices = [TokenChoice(f" w{number}", 0.4321, top) for number in range(500)]
    assert unpack(pack(choices)) == tuple(choices)
    assert unpack(b"") == unpack(b"\0" * 40) == unpack(pack(choices)[:-9]) == ()


# ---- tool calls


def test_a_tool_call_is_a_card_that_is_never_run_and_can_be_answered(
    qtbot: QtBot, page: ChatPage, context: Context
) -> None:
    ask(qtbot, page, "What is the weather in Paris?")
    conversation = page.conversation()
    assert conversation is not None
    key = context.store.add_alternative(page.transcript.keys()[-1], "assistant", CALL)
    page.open_conversation(conversation)
    shown = page.transcript.toPlainText()
    assert "Tool call: get_weather" in shown and "not run" in shown and '"city": "Paris"' in shown
    assert "<tool_call>" not in shown
    assert len(context.store.messages(conversation)) == 2
    page.composer.set_text("a draft")
    page.transcript.act("tool", key)
    assert "get_weather" in page.composer._banner_text.text()
    assert page.composer.text() == ""
    page.composer.leave_edit()
    assert page.composer.text() == "a draft"
    page.transcript.act("tool", key)
    ask(qtbot, page, '{"sky": "clear"}')
    rows = context.store.messages(conversation)
    assert [row.role for row in rows] == ["user", "assistant", "tool", "assistant"]
    assert [message.role for message in prompt_of(rows)] == ["user", "assistant", "tool", "assistant"]
    assert rows[2].content == '{"sky": "clear"}' and rows[1].content == CALL
    assert "Tool\n" in page.transcript.toPlainText()
    assert page.composer.text() == "a draft"


def test_the_links_of_a_card_copy_and_ask(qtbot: QtBot, page: ChatPage) -> None:
    asked: list[tuple[int, str]] = []
    page.transcript.tool_wanted.connect(lambda key, name: asked.append((key, name)))
    page.transcript.set_messages([Entry(900, "assistant", CALL)])
    start = CALL.index("<tool_call>")
    page.transcript.anchorClicked.emit(f"quench:callcopy/900/{start}.0")
    assert json.loads(QGuiApplication.clipboard().text()) == {"city": "Paris"}
    page.transcript.set_busy(True)
    page.transcript.anchorClicked.emit(f"quench:tool/900/{start}.0")
    assert asked == []


# ---- guessing ahead


def guess_with(panel: SamplingPanel, key: str) -> None:
    panel.draft.setCurrentIndex(panel.draft.findData(key))
    panel.draft.activated.emit(panel.draft.currentIndex())


def test_guesses_are_told_under_the_answer(
    qtbot: QtBot, page: ChatPage, context: Context, pocket_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ask(qtbot, page, "What is the capital of France?")
    panel = page.inspector.sampling_panel
    assert [panel.draft.itemData(at) for at in range(2)] == ["", LOOKUP]
    guess_with(panel, LOOKUP)
    assert settings.load().draft == LOOKUP
    page.new_chat()
    assert ask(qtbot, page, "What is the capital of France?") == plain
    assert "guess" in page.transcript.toPlainText()
    smaller = str(pocket_gguf("Q2_K"))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (smaller, ""))
    panel.draft.setCurrentIndex(panel.draft.count() - 1)
    panel.draft.activated.emit(panel.draft.currentIndex())
    assert context.settings.draft == smaller == panel.draft.currentData()
    page.new_chat()
    assert ask(qtbot, page, "What is the capital of France?") == plain
    # Nothing is guessed where a constraint looks at one token at a time.
    hold(page, "schema", CITY)
    qtbot.waitUntil(lambda: page.inspector.constraint_panel.valid is True)
    assert json.loads(ask(qtbot, page, "What is the capital of France?")) == {"city": "Paris"}
    assert red_cards(page) == []


def test_a_draft_model_that_has_gone_is_a_card_and_off_works(
    qtbot: QtBot, page: ChatPage, context: Context, tmp_path: Path
) -> None:
    context.update_settings(draft=str(tmp_path / "gone.gguf"))
    page.composer.set_text("What is the capital of France?")
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    qtbot.waitUntil(page.error.isVisible)
    assert len(red_cards(page)) == 1 and not page.busy()
    guess_with(page.inspector.sampling_panel, "")
    assert context.settings.draft == ""
    assert "Paris" in ask(qtbot, page, "What is the capital of France?")
