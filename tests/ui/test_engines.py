"""Loaded models: real workers, sharing, options, stopping, death and coming back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pytestqt.qtbot import QtBot

from app.protocol import ChatMessage, LoadOptions, Replied, Sampling, Tokens
from app.ui.context import Context
from app.ui.engines import DEAD, READY, Engine
from app.ui.window import MainWindow
from converter.spec import QuenchError
from tests.models import ENDLESS

GREEDY = Sampling(temperature=0.0, max_tokens=24)
QUESTION = (ChatMessage("user", "What is the capital of France?"),)


@pytest.fixture
def model(pocket_gguf: Callable[[str], Path]) -> str:
    return str(pocket_gguf("Q8_0"))


def ready(qtbot: QtBot, engine: Engine) -> Engine:
    qtbot.waitUntil(lambda: engine.state == READY)
    return engine


def reply(qtbot: QtBot, engine: Engine, sampling: Sampling = GREEDY) -> tuple[str, Replied]:
    pieces: list[str] = []
    collect: Callable[[Tokens], object] = lambda message: pieces.append(message.text)  # noqa: E731
    engine.tokens.connect(collect)
    with qtbot.waitSignal(engine.replied) as answered:
        number = engine.generate(QUESTION, sampling)
    engine.tokens.disconnect(collect)
    assert answered.args[0].request == number
    return "".join(pieces), answered.args[0]


def test_a_model_loads_answers_and_says_what_it_takes(qtbot: QtBot, context: Context, model: str) -> None:
    engine = ready(qtbot, context.engines.get(model))
    assert engine.loaded.parameters == 5_246_208
    assert engine.memory.weights > 5_000_000
    text, end = reply(qtbot, engine)
    assert text.strip()
    assert 0 < end.tokens <= 24
    assert (engine.state, engine.rate) == (READY, 0.0)
    assert reply(qtbot, engine)[0] == text  # greedy


def test_a_request_may_come_before_the_model_is_there(qtbot: QtBot, context: Context, model: str) -> None:
    text, _ = reply(qtbot, context.engines.get(model))
    assert text.strip()


def test_asking_twice_is_one_process_until_the_last_holder_lets_go(qtbot: QtBot, context: Context, model: str) -> None:
    first = context.engines.get(model, owner="chat")
    assert context.engines.get(model, owner="compare") is first
    pid = ready(qtbot, first).pid()
    context.engines.release(model, "chat")
    assert context.engines.find(model) is first
    context.engines.release(model, "compare")
    assert context.engines.engines == []
    qtbot.waitUntil(lambda: not psutil.pid_exists(pid))


def test_other_options_load_the_model_again(qtbot: QtBot, context: Context, model: str) -> None:
    engine = ready(qtbot, context.engines.get(model, LoadOptions(context=256)))
    assert engine.loaded.context == 256
    before = engine.pid()
    assert context.engines.get(model, LoadOptions(context=512)) is engine
    qtbot.waitUntil(lambda: engine.state == READY and engine.pid() != before)
    assert engine.loaded.context == 512
    assert context.engines.get(model).pid() == engine.pid()  # no options: as it is


def test_stop_ends_the_reply_early(qtbot: QtBot, context: Context, endless_gguf: Path) -> None:
    engine = ready(qtbot, context.engines.get(str(endless_gguf)))
    with qtbot.waitSignal(engine.tokens):
        number = engine.generate(QUESTION, ENDLESS)
    with qtbot.waitSignal(engine.replied) as answered:
        engine.stop(number)
    assert answered.args[0].stop == "cancelled"
    assert answered.args[0].tokens < ENDLESS.max_tokens


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_killed_engine_fails_its_request_and_reloads(qtbot: QtBot, context: Context, model: str) -> None:
    engine = ready(qtbot, context.engines.get(model))
    failures: list[QuenchError] = []
    engine.failed.connect(failures.append)
    number = engine.generate(QUESTION, Sampling(max_tokens=1000))
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: engine.state == DEAD)
    (error,) = failures
    assert (error.code, error.request) == ("engine_died", number)
    late = engine.generate(QUESTION, GREEDY)
    qtbot.waitUntil(lambda: len(failures) == 2)
    assert failures[1].request == late
    engine.reload()
    ready(qtbot, engine)
    assert reply(qtbot, engine)[0].strip()


def test_a_file_that_is_no_model_is_an_error_with_words(qtbot: QtBot, context: Context, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 100)
    engine = context.engines.get(str(bad))
    with qtbot.waitSignal(engine.failed) as failed:
        pass
    error = failed.args[0]
    assert error.title
    assert error.hint
    assert error.request == 0
    qtbot.waitUntil(lambda: engine.state == DEAD)


def test_the_status_bar_names_the_model_and_its_memory(
    qtbot: QtBot, window: MainWindow, context: Context, library: Callable[..., None], model: str
) -> None:
    library(model)
    engine = context.engines.get(model)
    assert window.status.model.text().strip().startswith("Loading Pocket")
    ready(qtbot, engine)
    assert window.status.model.text().strip().startswith("Pocket · Q8_0 · ")
    assert window.status.model.text().strip().endswith("MiB")
    tip = window.status.model.toolTip()
    assert all(part in tip for part in ("weights", "KV cache", "compute buffer", "highest so far"))
    context.engines.release(model)
    assert window.status.model.text().strip() == "No model loaded"
