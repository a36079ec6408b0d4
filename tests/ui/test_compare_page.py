"""The Compare page with real workers on Pocket: both answer, the divergence is shown, and a dead column stays alone."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QAbstractButton, QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app import hardware, paths
from app.protocol import Alternative, ChatMessage, LoadOptions, Sampling, ScoredToken
from app.sessions import ChatSession
from app.ui import compare_run
from app.ui.compare import ComparePage
from app.ui.compare_run import DONE, FAILED
from app.ui.context import Context
from app.ui.divergence_view import DivergenceView
from app.ui.engines import DEAD
from tests.models import ENDLESS

PROMPT = "Tell me a story about a fox."
LENGTH = 32


@pytest.fixture
def page(qtbot: QtBot, context: Context) -> ComparePage:
    made = ComparePage(context)
    qtbot.addWidget(made)
    made.resize(1192, 772)
    made.options.max_tokens.setValue(LENGTH)
    made.show()
    return made


@pytest.fixture
def models(pocket_gguf: Callable[[str], Path]) -> list[str]:
    return [str(pocket_gguf("Q8_0")), str(pocket_gguf("Q2_K"))]


@pytest.fixture
def endless(pocket_gguf: Callable[[str], Path], endless_gguf: Path) -> list[str]:
    """Pocket, and a model of the same vocabulary that still answers when Pocket has long ended."""
    return [str(pocket_gguf("Q8_0")), str(endless_gguf)]


def ask(qtbot: QtBot, page: ComparePage, models: list[str], prompt: str = PROMPT) -> None:
    page.receive({"reference": models[0], "models": models[1:]})
    page.composer.set_text(prompt)
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    assert page.busy()


def finished(qtbot: QtBot, page: ComparePage) -> None:
    qtbot.waitUntil(lambda: not page.busy())


def test_two_models_answer_and_the_divergence_is_shown(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    ask(qtbot, page, models)
    finished(qtbot, page)
    run = page.run()
    assert run is not None and [part.state for part in run.parts] == [DONE, DONE]
    assert all(part.text in column.transcript.text_of(1) for part, column in zip(run.parts, page.columns, strict=True))
    page.divergence_button.click()
    reference, candidate = (column.divergence for column in page.columns)
    assert candidate.isVisible() and page.legend.isVisible()
    tokens = candidate.tokens()
    assert "".join(token.text for token in tokens) == run.parts[0].text
    assert all(math.isfinite(token.kld) and token.kld >= -1e-6 for token in tokens)
    assert sum(token.kld for token in tokens) > 0
    assert run.parts[0].text.split()[-1] in candidate.toPlainText()
    worst = max(range(len(tokens)), key=lambda index: tokens[index].kld)
    least = min(range(len(tokens)), key=lambda index: tokens[index].kld)
    assert candidate.token_color(worst).alphaF() > candidate.token_color(least).alphaF()
    assert reference.token_color(worst).alphaF() == 0
    # The engine's own figures, asked for without the window and in the same order.
    with ChatSession(models[0]) as session:
        messages = (ChatMessage("user", PROMPT),)
        reply = session.generate(messages, Sampling(temperature=0.0, max_tokens=LENGTH))
        assert reply.text == run.parts[0].text
        file = str(paths.cache() / "oracle.logp")
        session.score(messages, reply.text, write=file)
    with ChatSession(models[1]) as session:
        session.generate(messages, Sampling(temperature=0.0, max_tokens=LENGTH))
        scored = session.score(messages, reply.text, against=file)
    assert scored.mean_kld == pytest.approx(sum(token.kld for token in tokens) / len(tokens), rel=1e-5)
    assert candidate.first_divergence() == scored.first_divergence


def test_jump_goes_to_the_token_where_they_part(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    ask(qtbot, page, models)
    finished(qtbot, page)
    page.show_divergence(True)
    column = page.columns[1]
    view = column.divergence
    first = view.first_divergence()
    assert first >= 0
    token = view.tokens()[first]
    assert token.top[0].text != token.reference_top[0].text
    assert all(t.agree for t in view.tokens()[:first])
    qtbot.mouseClick(column.jump_button, Qt.MouseButton.LeftButton)
    assert view.index == first and page.columns[0].divergence.index == first
    assert "Here they part" in column.words.text()
    assert f"Token {first + 1} " in column.words.text()
    assert view.accessibleDescription() == column.words.text()


def test_arrow_keys_move_the_cursor_in_all_columns(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    ask(qtbot, page, models)
    finished(qtbot, page)
    page.show_divergence(True)
    reference, view = (column.divergence for column in page.columns)
    view.go(0)
    for key, wanted in ((Qt.Key.Key_Right, 1), (Qt.Key.Key_Right, 2), (Qt.Key.Key_Left, 1)):
        qtbot.keyClick(view, key)
        assert view.index == reference.index == wanted
    qtbot.keyClick(view, Qt.Key.Key_End)
    assert view.index == len(view.tokens()) - 1
    qtbot.keyClick(view, Qt.Key.Key_Home)
    qtbot.keyClick(view, Qt.Key.Key_Down)
    assert view.index > 1
    qtbot.keyClick(view, Qt.Key.Key_J)
    assert view.index == view.first_divergence()


def test_a_killed_column_leaves_the_other_answering(
    qtbot: QtBot, page: ComparePage, context: Context, endless: list[str]
) -> None:
    page.options.max_tokens.setValue(150)
    page.options.how.setCurrentIndex(1)
    context.update_settings(sampling=ENDLESS)
    ask(qtbot, page, endless)
    run = page.run()
    assert run is not None and run.together

    def kill(index: int, text: str) -> None:
        if index == 1:
            run.text.disconnect(kill)
            assert run.parts[1].engine is not None
            os.kill(run.parts[1].engine.pid(), signal.SIGKILL)

    run.text.connect(kill)
    column = page.columns[1]
    qtbot.waitUntil(column.error.isVisible)
    finished(qtbot, page)
    assert [part.state for part in run.parts] == [DONE, FAILED]
    assert run.parts[0].replied is not None and run.parts[0].scored is not None
    assert page.columns[0].error.isHidden()
    retry = next(made for made in column.error.findChildren(QPushButton) if made.text() == "Retry")
    qtbot.mouseClick(retry, Qt.MouseButton.LeftButton)
    assert page.busy() and column.error.isHidden()
    finished(qtbot, page)
    assert [part.state for part in run.parts] == [DONE, DONE]
    assert column.divergence.tokens()


def test_a_column_that_dies_when_all_is_done_is_no_trouble(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    ask(qtbot, page, models)
    finished(qtbot, page)
    engine = page.run().parts[1].engine
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: engine.state == DEAD)
    assert page.columns[1].error.isHidden() and page.run().parts[1].state == DONE
    page.ask("What is the capital of France?")
    finished(qtbot, page)
    assert [part.state for part in page.run().parts] == [DONE, DONE]


def test_loading_a_column_anew_elsewhere_fails_that_column_only(
    qtbot: QtBot, page: ComparePage, context: Context, endless: list[str]
) -> None:
    page.options.max_tokens.setValue(1000)
    page.options.how.setCurrentIndex(1)
    context.update_settings(sampling=ENDLESS)
    ask(qtbot, page, endless)
    run = page.run()

    def load_anew(index: int, text: str) -> None:
        if index == 1:
            run.text.disconnect(load_anew)
            context.engines.get(endless[1], LoadOptions(context=256), "somebody else")

    run.text.connect(load_anew)
    finished(qtbot, page)
    assert [part.state for part in run.parts] == [DONE, FAILED]
    assert run.parts[1].error.code == "reloaded"


def test_a_killed_reference_ends_nothing_but_itself(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    page.receive({"reference": models[0], "models": models[1:]})
    page.ask(PROMPT)
    run = page.run()
    assert run is not None
    qtbot.waitUntil(lambda: run.parts[0].engine is not None and run.parts[0].engine.pid() > 0)
    os.kill(run.parts[0].engine.pid(), signal.SIGKILL)
    finished(qtbot, page)
    assert [part.state for part in run.parts] == [FAILED, DONE]
    assert run.parts[1].text
    run.retry(0)
    finished(qtbot, page)
    assert [part.state for part in run.parts] == [DONE, DONE]
    assert page.columns[1].divergence.tokens()


def test_one_after_another_gives_the_same_words_and_frees_the_memory(
    qtbot: QtBot, page: ComparePage, context: Context, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(qtbot, page, models)
    finished(qtbot, page)
    together = [part.text for part in page.run().parts]
    page.closing()
    qtbot.waitUntil(lambda: context.engines.engines == [])
    monkeypatch.setattr(hardware, "memory_available", lambda: 1 << 20)
    page.ask(PROMPT)
    run = page.run()
    assert not run.together and "One after another" in page.mode.text()
    most = []
    run.changed.connect(lambda index: most.append(len(context.engines.engines)))
    finished(qtbot, page)
    assert [part.text for part in run.parts] == together
    assert run.parts[1].scored is not None
    assert max(most) == 1
    assert context.engines.engines == []


def test_stop_ends_all_columns(qtbot: QtBot, page: ComparePage, context: Context, endless: list[str]) -> None:
    page.options.max_tokens.setValue(8000)
    page.options.how.setCurrentIndex(1)
    context.update_settings(sampling=ENDLESS)
    ask(qtbot, page, endless)
    run = page.run()
    qtbot.waitUntil(lambda: bool(run.parts[1].text))
    assert page.busy()
    qtbot.keyClick(page, Qt.Key.Key_Escape)
    finished(qtbot, page)
    assert run.parts[1].replied is not None and run.parts[1].replied.stop == "cancelled"
    assert page.composer.send_button.isVisible()


def test_the_file_of_probabilities_does_not_stay(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    ask(qtbot, page, models)
    finished(qtbot, page)
    assert list(paths.cache().glob("compare-*"))
    page.closing()
    assert not list(paths.cache().glob("compare-*"))


def test_two_to_four_columns(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    page.receive({"reference": models[0], "models": [models[0], models[1], models[1] + "x", models[1] + "y"]})
    assert len(page.columns) == 4 and not page.add_button.isEnabled()
    assert page.models()[0] == models[0]
    page.columns[3].remove_button.click()
    page.columns[2].remove_button.click()
    assert len(page.columns) == 2 and not page.columns[1].remove_button.isVisible()


def test_a_model_is_asked_for_before_anything_runs(qtbot: QtBot, page: ComparePage) -> None:
    page.ask(PROMPT)
    assert not page.busy() and page.run() is None
    assert "Choose a model" in page.mode.text()


def test_memory_decides_whether_columns_run_at_once(
    context: Context, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "memory_available", lambda: 64 << 30)
    together, needed, available = compare_run.memory_plan(context, models)
    assert together and 0 < needed < available
    monkeypatch.setattr(hardware, "memory_available", lambda: needed)
    assert compare_run.memory_plan(context, models)[0] is False


def made_tokens() -> tuple[ScoredToken, ...]:
    def top(*pairs: tuple[str, float]) -> tuple[Alternative, ...]:
        return tuple(Alternative(text, share) for text, share in pairs)

    return (
        ScoredToken("The", 0.9, 0.0, True, top(("The", 0.9)), top(("The", 0.91))),
        ScoredToken(" cat", 0.4, 0.8, False, top((" dog", 0.5), (" cat", 0.4)), top((" cat", 0.61), (" dog", 0.2))),
        ScoredToken("\n", 0.5, 2.5, True, top(("\n", 0.5)), top(("\n", 0.9))),
        ScoredToken("<b>", 0.5, 0.1, True, top(("<b>", 0.5)), top(("<b>", 0.5))),
    )


def test_a_token_is_said_in_words(qtbot: QtBot, context: Context) -> None:
    view = DivergenceView(context.theme)
    qtbot.addWidget(view)
    view.set_tokens(made_tokens(), 1)
    assert view.words(1) == (
        "Token 2 ‘cat’: 0.80 nats. The reference said ‘cat’ with 61\u00a0%, this model ‘dog’ with 50\u00a0%."
        " Here they part."
    )
    assert view.toPlainText() == "The cat↵\n<b>"
    assert view.token_color(2) == context.theme.shade(2.5)
    context.theme.set_mode("dark")
    assert view.token_color(2) == context.theme.shade(2.5)


def test_hover_shows_what_both_would_have_said(qtbot: QtBot, context: Context) -> None:
    view = DivergenceView(context.theme)
    qtbot.addWidget(view)
    view.resize(400, 300)
    view.show()
    view.set_tokens(made_tokens(), 1)
    place = view._area(1).center().toPoint()
    assert view.popover.isHidden()
    qtbot.mouseMove(view.viewport(), QPoint(1, 280))
    qtbot.mouseMove(view.viewport(), place)
    qtbot.waitUntil(view.popover.isVisible)
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert view.index == 1


def test_everything_that_takes_the_focus_has_a_name(page: ComparePage) -> None:
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
    QApplication.processEvents()
