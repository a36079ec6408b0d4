"""The Compare page's further views, with real workers: free run, own texts, the queue, the blind test, documents."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible
from pytestqt.qtbot import QtBot

from app.compare import align, recipes, rounds
from app.compare.results import Column as Answer
from app.protocol import ChatMessage, LoadOptions
from app.quality import prompts
from app.quality.prompts import Prompt
from app.remote.address import Server, model_path
from app.remote.messages import ServedModel, ServerState
from app.ui.compare import BLIND, PROMPTS, ComparePage
from app.ui.compare_column import DIVERGENCE, FREE_RUN
from app.ui.compare_queue import QueueRun
from app.ui.compare_run import DONE, FAILED, MAKING, TIMED_TOKENS
from app.ui.context import Context
from app.ui.free_run_view import FreeRunView
from tests.fakeserver import FakeServer
from tests.fakeserver.server import WORDS
from tests.remote.test_llama_server import start
from tests.ui.conftest import nameless

PROMPT = "Tell me a story about a fox."


@pytest.fixture
def page(shown: Callable[[type[ComparePage]], ComparePage]) -> ComparePage:
    made = shown(ComparePage)
    made.options.max_tokens.setValue(40)
    return made


@pytest.fixture
def models(pocket_gguf: Callable[[str], Path]) -> list[str]:
    return [str(pocket_gguf("Q8_0")), str(pocket_gguf("Q2_K"))]


def done(qtbot: QtBot, page: ComparePage) -> None:
    qtbot.waitUntil(lambda: not page.busy())


def queue_over(page: ComparePage, models: list[str], questions: list[str]) -> QueueRun:
    """A queue that has begun; its prompts come from a file of one's own."""
    page.receive({"reference": models[0], "models": models[1:]})
    page.show_view(PROMPTS)
    file = Path(os.environ["QUENCH_HOME"]) / "own.jsonl"
    prompts.save([Prompt("other", each) for each in questions], file)
    page.prompts_pane().load(str(file))
    page.prompts_pane().run_button.click()
    queue = page.queue()
    assert queue is not None and queue.running
    return queue


def test_one_question_in_all_views_and_documents(
    qtbot: QtBot, page: ComparePage, models: list[str], tmp_path: Path
) -> None:
    page.receive({"reference": models[0], "models": models[1:]})
    page.ask(PROMPT)
    done(qtbot, page)
    run = page.run()
    assert run is not None and [part.state for part in run.parts] == [DONE, DONE] and run.together
    # Timed by itself, from a context that knew nothing of the prompt but the token that begins every text.
    for part in run.parts:
        assert part.timed is not None and part.timed.prompt_reused <= 1 and part.timed.tokens == TIMED_TOKENS
        assert part.timed.tokens_per_second > 0 and part.timed.first_token > 0
    assert page.columns[0]._captions[2][0].text() == "Speed alone"
    # Own answers are aligned, and their cursors go together.
    page.show_view(FREE_RUN)
    theirs, own = (tuple(token.text for token in column.free.tokens()) for column in page.columns)
    assert ["".join(theirs), "".join(own)] == [part.text for part in run.parts]
    view = page.columns[1].free
    common = align.common_prefix(theirs, own)
    assert view.first_divergence() == common < len(own) and "Same for" in page.columns[1].status.text()
    page.columns[1].jump_button.click()
    assert view.index == common and "Here they part" in page.columns[1].words.text()
    assert f"the reference says ‘{theirs[common].strip()}’ there" in page.columns[1].words.text()
    qtbot.keyClick(view, Qt.Key.Key_Home)
    assert page.columns[0].free.index == 0
    assert view.token_color(0).alphaF() == 0 < view.token_color(common).alphaF()
    # What is written out is what is shown.
    for ending in ("html", "md", "json", "csv"):
        assert page.export(str(tmp_path / f"out.{ending}"))
    data = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert data["entries"][0]["prompt"] == PROMPT
    small = data["entries"][0]["columns"][1]
    assert small["kld"] == run.parts[1].scored.mean_kld and small["common"] == common and small["speed_alone"]
    lines = io.StringIO((tmp_path / "out.csv").read_text("utf-8"))
    (row,) = [row for row in csv.DictReader(lines) if row["reference"] == "0"]
    assert float(row["kld"]) == small["kld"] and int(row["bytes"]) == Path(models[1]).stat().st_size
    assert "this model" in (tmp_path / "out.html").read_text("utf-8")
    assert not page.export(str(tmp_path / "out.exe")) and not (tmp_path / "out.exe").exists()
    assert nameless(page) == []
    # A text of one's own, with the models that are loaded.
    page.options.what.setCurrentIndex(1)
    page.composer.set_text("Once upon a time there was a fox. Zyx!")
    qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
    done(qtbot, page)
    reference, candidate = (column.divergence for column in page.columns)
    assert page.divergence_button.isChecked() and candidate.isVisible()
    for view in (reference, candidate):
        assert "".join(token.text for token in view.tokens()) == "Once upon a time there was a fox. Zyx!"
    assert sum(token.kld for token in candidate.tokens()) > 0 and page.run().parts[1].timed is None


def test_a_queue_fills_the_table_and_a_blind_test_goes_over_it(
    qtbot: QtBot, page: ComparePage, context: Context, models: list[str]
) -> None:
    questions = ["Say hello.", PROMPT, "What is the capital of France?", "Count to ten."]
    queue = queue_over(page, models, questions)
    pane = page.prompts_pane()
    seen = []
    queue.changed.connect(lambda: seen.append(len([engine for engine in context.engines.engines if engine._open])))
    qtbot.waitUntil(lambda: queue.done >= 3)
    pane.run_button.click()  # stop, and go on
    assert not queue.running and pane.run_button.text() == "Go on"
    pane.run_button.click()
    done(qtbot, page)
    assert page.queue() is queue and queue.done == queue.total == 8 and max(seen) <= 1
    for row in queue.rows:
        reference, column = row
        assert isinstance(reference, Answer) and isinstance(column, Answer) and not column.error
        assert column.scored and column.speed_alone and column.kld >= 0
        assert column.common == align.common_prefix(reference.own, column.own)
        assert "".join(column.own) == column.text and (column.kld > 0 or not column.tokens)
    assert pane.model.rowCount() == 4 and pane.model.index(1, 1).data() != "" and not pane.chart.is_empty()
    headers, rows = pane.chart.data()
    assert len(headers) == 4 and rows[0][1:3] == [0.0, 100.0] and rows[-1][2] <= 100.0
    # A row opens in the columns.
    pane.table.activated.emit(pane.model.index(1, 0))
    assert page.columns[1].divergence.tokens() == queue.rows[1][1].tokens and PROMPT in page.prompt.text()
    # Votes by keys, without a name in sight.
    page.show_view(BLIND)
    blind = page.blind_pane()
    qtbot.mouseClick(blind.start_button, Qt.MouseButton.LeftButton)
    total = len(blind._rounds)
    assert 0 < total <= 4 and not page.divergence_button.isEnabled() and not page.export_button.isEnabled()
    assert not any(column.isVisible() for column in page.columns)
    for key in (Qt.Key.Key_1, Qt.Key.Key_2, Qt.Key.Key_Equal, Qt.Key.Key_S)[:total]:
        made = blind.round
        texts = [queue.rows[made.prompt][place].text.split() for place in made.shown]
        assert [shown.text_of(1).split() for shown in blind.answers] == texts
        assert "Q2_K" not in blind.prompt.text() + blind.count.text() + blind.advice.text()
        qtbot.keyClick(blind, key)
        if len(blind.votes()) == 1 and blind.round is not None:
            qtbot.keyClick(blind, Qt.Key.Key_Backspace)
            assert blind.votes() == [] and blind.round == made
            qtbot.keyClick(blind, key)
    assert len(blind.votes()) == total and blind.revealed and page.divergence_button.isEnabled()
    kept = context.store.votes(*models)
    words = [
        {None: "tie" if key == rounds.TIE else "skip", 0: "reference", 1: "model"}[made.winner(key)]
        for made, key in blind.votes()
    ]
    assert [vote.choice for vote in kept] == words and {vote.prompt for vote in kept} <= set(questions)
    assert "Q2_K" in blind.result.text() and "p = " in blind.result.text() and "95" in blind.result.text()
    assert nameless(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["server", "file"])
def test_a_server_stands_in_the_queue(
    qtbot: QtBot, page: ComparePage, context: Context, models: list[str], first: bool
) -> None:
    with FakeServer() as server:
        known = tuple(ServedModel(model, 4096) for model in server.names)
        context.servers.put(Server("Desk", server.url), ServerState("llama.cpp", known, 0.01))
        served = model_path("Desk", server.names[0])
        queue = queue_over(page, [served, models[0]] if first else [models[0], served], ["Say hello.", PROMPT])
        done(qtbot, page)
    for row in queue.rows:
        remote, local = row if first else row[::-1]
        assert remote.text == "".join(WORDS) and not remote.error and not remote.scored
        assert local.text and not local.error and local.scored == (not first)
        assert row[1].unscored == "This server does not say how likely a given text is."
        assert row[1].common == align.common_prefix(align.pieces(row[0].text), align.pieces(row[1].text))
    page.show_entry(1)
    assert "does not say how likely" in page.columns[1]._hint.text() and page.columns[1]._hint.isVisible()
    page.show_view(FREE_RUN)
    assert "".join(token.text for token in page.columns[1].free.tokens()) == queue.rows[1][1].text


@pytest.mark.slow
@pytest.mark.timeout(3600)  # the first run builds the server
def test_a_served_column_is_shaded_like_one_of_this_machine(
    qtbot: QtBot, page: ComparePage, context: Context, models: list[str], tmp_path: Path
) -> None:
    """Against llama.cpp's own server, as the model and as the reference; figures are those of the same two files."""
    page.receive({"reference": models[0], "models": models[1:]})
    page.ask(PROMPT)
    done(qtbot, page)
    answers = [column.divergence.tokens() for column in page.columns]
    expected = page.run().parts[1].scored
    for served in (0, 1):
        server = start(Path(models[served]), tmp_path, "-c", "1024", "--alias", "pocket")
        try:
            known = ServerState("llama.cpp", (ServedModel("pocket", 1024, 2048),), 0.01)
            context.servers.put(Server(f"Desk {served}", server.url), known)
            paths = [*models[:served], model_path(f"Desk {served}", "pocket"), *models[served + 1 :]]
            page.receive({"reference": paths[0], "models": paths[1:]})
            page.ask(PROMPT)
            done(qtbot, page)
            found = page.run().parts[1].scored
            assert [token.text for token in found.tokens] == [token.text for token in expected.tokens]
            # A row alone is computed a little otherwise than one of a batch.
            assert found.mean_kld == pytest.approx(expected.mean_kld, rel=0.02) and not found.bounds
            klds = [[token.kld for token in each.tokens] for each in (found, expected)]
            assert klds[0] == pytest.approx(klds[1], abs=0.02)
            page.show_view(DIVERGENCE)
            for column, tokens in zip(page.columns, answers, strict=True):
                assert [token.text for token in column.divergence.tokens()] == [token.text for token in tokens]
            worst = int(np.argmax(klds[0]))
            assert page.columns[1].divergence.token_color(worst).alphaF() > 0
            # A text of one's own too.
            page.options.what.setCurrentIndex(1)
            page.composer.set_text("Once upon a time there was a fox. Zyx!")
            qtbot.keyClick(page.composer.field, Qt.Key.Key_Return)
            done(qtbot, page)
            assert page.run().parts[1].scored.mean_kld > 0
            page.options.what.setCurrentIndex(0)
        finally:
            server.process.terminate()
            server.process.wait(60)


def test_a_set_that_is_no_set_leaves_the_old_one_and_words_stay_words(
    page: ComparePage, tmp_path: Path, models: list[str], context: Context
) -> None:
    page.show_view(PROMPTS)
    pane = page.prompts_pane()
    assert len(pane.prompts()) == 60
    (tmp_path / "bad.jsonl").write_text('{"prompt": 3}\n')
    pane.load(str(tmp_path / "bad.jsonl"))
    assert pane.error.isVisible() and pane.error.error.code == "bad_prompt" and len(pane.prompts()) == 60
    pane.load(str(tmp_path / "gone.jsonl"))
    assert pane.error.error.code == "text_unreadable" and pane.source.currentText().startswith("Bundled")
    pane.save(str(tmp_path / "all.jsonl"))
    pane.load(str(tmp_path / "all.jsonl"))
    assert not pane.error.isVisible() and pane.prompts() == prompts.load(prompts.BUNDLED)
    hostile = Prompt("<b>x", '<img src="file:///etc/passwd">\nWhy?')
    queue = QueueRun(context, models, [hostile], page.options.sampling(context.settings.sampling), together=True)
    pane.follow(queue)
    shown = pane.model.index(0, 0)
    assert shown.data() == '<b>x · <img src="file:///etc/passwd"> Why?'
    assert "<img" not in shown.data(Qt.ItemDataRole.ToolTipRole) and "&lt;img" in shown.data(
        Qt.ItemDataRole.ToolTipRole
    )
    page.prompt.setText(hostile.prompt)
    assert "<img" not in page.prompt.toolTip()
    pane.follow(None)


@pytest.mark.slow
def test_the_queue_goes_on_without_a_worker_that_was_killed(qtbot: QtBot, page: ComparePage, models: list[str]) -> None:
    queue = queue_over(page, models, ["Say hello.", PROMPT, "Count to ten."])
    page.options.max_tokens.setValue(200)

    def kill() -> None:
        engine = queue._engines.get(1)
        if engine is not None and queue._step == queue._step.__class__(1, 1, True) and engine.pid():
            queue.changed.disconnect(kill)
            os.kill(engine.pid(), signal.SIGKILL)

    queue.changed.connect(kill)
    done(qtbot, page)
    errors = [[bool(column.error) for column in row] for row in queue.rows]
    assert errors == [[False, False], [False, True], [False, False]]
    assert page.prompts_pane().model.index(1, 1).data() == "failed"
    assert all(row[1].scored for row in (queue.rows[0], queue.rows[2]))


@pytest.mark.slow
def test_a_recipe_is_made_on_the_way_and_found_again(
    qtbot: QtBot, page: ComparePage, context: Context, pocket: Path, models: list[str]
) -> None:
    context.library.add(str(pocket))
    qtbot.waitUntil(lambda: context.library.entry(str(pocket)) is not None)
    before = {info.path for info in context.library.entries}
    wanted = recipes.with_recipe(str(pocket), "Q2_K")
    page.receive({"reference": models[0], "models": [wanted]})
    assert page.models() == [models[0], wanted] and page.columns[1].recipe.isVisible()
    states: list[str] = []
    page.ask("Say hello.")
    run = page.run()
    run.changed.connect(lambda index: states.append(run.parts[index].state))
    assert run.parts[1].state == MAKING and [job.kind for job in context.jobs.active()] == ["convert"]
    done(qtbot, page)
    assert [part.state for part in run.parts] == [DONE, DONE] and run.parts[1].scored is not None
    made = Path(run.parts[1].file)
    assert made.read_bytes() == Path(models[1]).read_bytes()
    assert {info.path for info in context.library.entries} == before  # no model that somebody has made
    page.ask("Say hello.")
    done(qtbot, page)
    assert MAKING not in {part.state for part in page.run().parts} and len(context.jobs.jobs) == 1
    page.columns[1].recipe.setCurrentIndex(page.columns[1].recipe.findData("Q4_K_M"))
    page.columns[1].recipe.activated.emit(page.columns[1].recipe.currentIndex())
    assert page.models()[1].endswith("=Q4_K_M") and page.run() is None


@pytest.mark.slow
@pytest.mark.usefixtures("slow_kernels")
def test_making_can_be_stopped_and_a_lost_source_fails_its_column_only(
    qtbot: QtBot, page: ComparePage, context: Context, long_model: Path, models: list[str]
) -> None:
    page.receive({"reference": models[0], "models": [f"{long_model}=Q4_K_M"]})
    page.ask("Say hello.")
    assert page.run().parts[1].state == MAKING
    qtbot.keyClick(page, Qt.Key.Key_Escape)
    done(qtbot, page)
    qtbot.waitUntil(lambda: not context.jobs.active())
    assert not list(recipes.folder().glob("*/*.gguf"))
    page.receive({"reference": models[0], "models": [f"{long_model.parent / 'gone'}=Q4_K_M"]})
    page.ask("Say hello.")
    done(qtbot, page)
    assert [part.state for part in page.run().parts] == [DONE, FAILED]
    assert page.run().parts[1].error.code == "not_found" and page.columns[1].error.isVisible()


def test_free_run_in_words(qtbot: QtBot, context: Context) -> None:
    view = FreeRunView(context.theme)
    qtbot.addWidget(view)
    view.resize(400, 200)
    view.show()
    view.set_answer(("The", " red", " fox", " sat"), ("The", " fox", " ran"))
    assert view.first_divergence() == 1 and view.summary().startswith("Same for 1 tokens")
    assert view.words(0) == "Token 1 ‘The’: the reference says it too, as token 1."
    assert view.words(1) == "Token 2 ‘red’: the reference has nothing there. Here they part."
    assert view.words(3) == "Token 4 ‘sat’: the reference says ‘ran’ there."
    view.go(0)
    qtbot.keyClick(view, Qt.Key.Key_N)
    assert view.index == 1
    qtbot.keyClick(view, Qt.Key.Key_N)
    assert view.index == 3 and view.popover.isHidden()
    qtbot.keyClick(view, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
    assert view.index == 1
    told = QAccessible.queryAccessibleInterface(view)
    assert told.text(QAccessible.Text.Description) == view.words(1)
    view.set_answer(("a",), ("a",))
    assert view.summary() == "The same answer" and view.first_divergence() == -1


@pytest.mark.slow
def test_divergence_is_the_command_lines_and_that_of_the_logits(
    qtbot: QtBot, page: ComparePage, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from app import cli
    from app.engine.model import Model

    page.receive({"reference": models[0], "models": models[1:]})
    page.ask(PROMPT)
    done(qtbot, page)
    shown = page.columns[1].divergence.tokens()
    text = page.run().parts[0].text
    page.closing()
    assert cli.main(["compare", *models, "-p", PROMPT, "--max-tokens", "40", "--json"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert columns[0]["text"] == text
    told = [token["kld"] for token in columns[1]["tokens"]]
    # From the logits themselves, in long doubles and without the file in between.
    rows = []
    for path in models:
        model = Model.load(path, LoadOptions(), lambda part: True, outputs=16)
        try:
            prompt = model.prompt_tokens(model.render((ChatMessage("user", PROMPT),)))
            answer = model.continuation_tokens(text)
            rows.append(np.concatenate([block.copy() for _, block in model.answer_logits(prompt, answer)]))
        finally:
            model.close()
    p, q = (np.exp(each.astype(np.longdouble) - each.max(1, keepdims=True)) for each in rows)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    divergence = (p * (np.log(p) - np.log(q))).sum(1).astype(float)
    assert len(divergence) == len(shown) == len(told) >= 30 and divergence.max() > 0.01
    np.testing.assert_allclose([token.kld for token in shown], divergence, rtol=0, atol=1e-5)
    np.testing.assert_allclose(told, divergence, rtol=0, atol=1e-5)
    parted = np.flatnonzero(p.argmax(1) != q.argmax(1))
    first = int(parted[0]) if len(parted) else -1
    assert first == columns[1]["first_divergence"] == page.columns[1].divergence.first_divergence()
