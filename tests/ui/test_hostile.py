"""The window under attack: bad files dropped on every page, files that go away, killed workers, a hostile home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app import paths
from app.protocol import ChatMessage, Convert, LoadOptions, Tokens
from app.store import Store
from app.ui.application import create_window
from app.ui.chat import ChatPage
from app.ui.compare import ComparePage
from app.ui.compare_run import DONE, SCORING
from app.ui.context import Context
from app.ui.engines import READY
from app.ui.job_center import FAILED
from app.ui.library import LibraryPage
from app.ui.widgets import ErrorCard
from app.ui.window import MainWindow
from converter import convert
from converter.spec import ConversionSpec, QuenchError, TensorDone
from tests.models import ENDLESS

LEFT = Qt.MouseButton.LeftButton
STORY = [ChatMessage("user", "Tell me a story about a bear.")]
needs_signals = pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")


@pytest.fixture
def model(pocket_gguf: Callable[[str], Path]) -> str:
    return str(pocket_gguf("Q8_0"))


@pytest.fixture
def endless(endless_gguf: Path) -> str:
    return str(endless_gguf)


@pytest.fixture
def own_model(endless: str, tmp_path: Path) -> Path:
    """A copy of the endless model that a test may damage."""
    return Path(shutil.copy(endless, tmp_path / "mine.gguf"))


def drop(widget: QWidget, *files: Path) -> bool:
    """Drop ``files``; False if the widget does not want them."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(file)) for file in files])
    copy, no = Qt.DropAction.CopyAction, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPoint(9, 9), copy, mime, LEFT, no)
    QApplication.sendEvent(widget, enter)
    if not enter.isAccepted():
        return False
    QApplication.sendEvent(widget, QDropEvent(QPointF(9, 9), copy, mime, LEFT, no))
    return True


def red_cards(widget: QWidget) -> list[ErrorCard]:
    return [card for card in widget.findChildren(ErrorCard) if card.isVisible()]


def press(card: QWidget, text: str) -> None:
    next(made for made in card.findChildren(QPushButton) if made.text() == text).click()


def chat_with(qtbot: QtBot, window: MainWindow, path: str) -> ChatPage:
    window.navigate("chat", {"model": path})
    page = window.page("chat")
    assert isinstance(page, ChatPage)
    page.inspector.preset.setCurrentIndex(page.inspector.preset.findData("own"))
    for name in ("temperature", "top_k", "top_p", "min_p", "max_tokens"):
        page.inspector.spins[name].setValue(getattr(ENDLESS, name))
    return page


def loaded(qtbot: QtBot, page: ChatPage) -> None:
    engine = page.engine()
    assert engine is not None
    qtbot.waitUntil(lambda: engine.state == READY)


def streaming(qtbot: QtBot, page: ChatPage, context: Context) -> int:
    """Ask the endless model and wait for its first words; the conversation's number."""
    page.send("Tell me a story that does not end.")
    conversation = page.conversation()
    assert conversation is not None
    qtbot.waitUntil(lambda: bool(context.store.messages(conversation)[-1].content))
    assert page.busy()
    return conversation


# ---- bad files -------------------------------------------------------------------------------------------------


def bad_files(folder: Path, good: Path) -> Iterator[Path]:
    """Files and folders that are no usable models."""
    content = good.read_bytes()
    for name, data in {
        "empty.gguf": b"",
        "magic.gguf": b"GGUF",
        "noise.gguf": bytes(range(256)) * 40,
        "cut header.gguf": content[:5000],
        "cut weights.gguf": content[: len(content) // 2],
        "lying ünï 漢字.gguf": content[:8] + b"\xff" * 16 + content[24:],
        "block_count.gguf": content.replace(
            b"llama.block_count\x04\x00\x00\x00\x06", b"llama.block_count\x04\x00\x00\x00\x00"
        ),
        "x" * 200 + ".gguf": b"GGUF" + bytes(100),
    }.items():
        file = folder / name
        file.write_bytes(data)
        assert data != content
        yield file
    (folder / "folder.gguf").mkdir()
    yield folder / "folder.gguf"
    (folder / "loop.gguf").symlink_to(folder / "loop.gguf")
    yield folder / "loop.gguf"
    yield folder / "gone.gguf"


def test_bad_files_dropped_on_the_chat_are_a_card_each_and_the_next_good_one_works(
    qtbot: QtBot, window: MainWindow, context: Context, model: str, tmp_path: Path
) -> None:
    page = window.show_page("chat")
    assert isinstance(page, ChatPage)
    for file in bad_files(tmp_path, Path(model)):
        page.error.clear()
        assert drop(page, file)
        qtbot.waitUntil(page.error.isVisible)
        error = page.error.error
        assert error is not None and error.title and error.code not in ("internal", "engine_died"), file
        assert len(red_cards(window)) == 1
        assert not page.busy()
    assert drop(page, Path(model))
    loaded(qtbot, page)
    assert red_cards(window) == []


def test_bad_files_dropped_on_the_library_are_listed_with_their_problem(
    qtbot: QtBot, window: MainWindow, context: Context, model: str, tmp_path: Path
) -> None:
    page = window.show_page("library")
    assert isinstance(page, LibraryPage)
    files = [file for file in bad_files(tmp_path, Path(model)) if not file.is_dir()]
    assert drop(page, *files)
    qtbot.waitUntil(lambda: all(context.library.entry(str(file)) for file in files))
    for file in files:
        entry = context.library.entry(str(file))
        # A lie about the layers does not keep the header from being read: the engine refuses it.
        assert entry is not None and (entry.problems or file.name == "block_count.gguf"), file
    assert context.library.error is None


def test_bad_sources_dropped_on_convert_are_one_card_that_a_good_one_replaces(
    qtbot: QtBot, window: MainWindow, pocket: Path, model: str, tmp_path: Path
) -> None:
    page = window.show_page("convert")
    for file in bad_files(tmp_path, Path(model)):
        if file.name == "block_count.gguf":
            continue
        assert drop(page, file)
        qtbot.waitUntil(lambda: len(red_cards(page)) == 1)
    assert drop(page, pocket)
    qtbot.waitUntil(lambda: red_cards(page) == [])


def test_what_is_no_text_cannot_be_attached(qtbot: QtBot, window: MainWindow, context: Context, tmp_path: Path) -> None:
    page = window.show_page("chat")
    binary, huge = tmp_path / "b.bin", tmp_path / "huge.txt"
    binary.write_bytes(b"\xff\xfe\x00" * 100)
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    for file in (binary, huge, tmp_path, tmp_path / "gone.txt"):
        with qtbot.waitSignal(context.notify.posted) as posted:
            drop(page, file)
        assert posted.args[0].error.code == "bad_attachment"
    fifo = tmp_path / "pipe.txt"
    if hasattr(os, "mkfifo"):
        os.mkfifo(fifo)
        with qtbot.waitSignal(context.notify.posted):
            drop(page, fifo)  # a pipe has no end: reading it would hang the window


# ---- files that go away ----------------------------------------------------------------------------------------


@needs_signals
def test_a_model_file_deleted_while_loaded_goes_on_answering_and_its_end_is_a_card(
    qtbot: QtBot, window: MainWindow, context: Context, own_model: Path
) -> None:
    page = chat_with(qtbot, window, str(own_model))
    loaded(qtbot, page)
    own_model.unlink()
    streaming(qtbot, page, context)
    page.stop()
    qtbot.waitUntil(lambda: not page.busy())
    engine = page.engine()
    assert engine is not None
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(page.error.isVisible)
    press(page.error, "Retry")
    qtbot.waitUntil(lambda: page.error.error is not None and page.error.error.code == "not_found")
    assert len(red_cards(window)) == 1


@needs_signals
def test_a_model_file_cut_while_loaded_is_a_card(
    qtbot: QtBot, window: MainWindow, context: Context, own_model: Path
) -> None:
    page = chat_with(qtbot, window, str(own_model))
    loaded(qtbot, page)
    os.truncate(own_model, 4096)
    page.send("Hello")
    qtbot.waitUntil(page.error.isVisible)
    error = page.error.error
    assert error is not None and error.code == "engine_died"
    assert "file" in error.title
    press(page.error, "Retry")
    qtbot.waitUntil(lambda: page.error.error is not None and page.error.error.code != "engine_died")
    assert not page.busy()


@needs_signals
def test_a_source_that_is_cut_while_it_is_converted_is_a_failed_job(
    qtbot: QtBot, context: Context, long_model: Path, slow_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, target = Path(shutil.copytree(long_model, tmp_path / "source")), tmp_path / "out.gguf"
    spec = ConversionSpec(source=str(source), output=str(target), types=("Q2_K",), threads=1)
    job = context.jobs.submit("convert", "Long", Convert(spec))
    done: list[object] = []
    job.event.connect(lambda event: done.append(event) if isinstance(event, TensorDone) else None)
    qtbot.waitUntil(lambda: bool(done))
    os.truncate(source / "model.safetensors", 4096)
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == FAILED
    assert job.error is not None
    assert job.error.code == "truncated" or "cut short" in job.error.title  # noticed, or met by the kernels
    assert not target.exists()
    assert bool(list(tmp_path.glob("*.part"))) == (job.kept is not None)  # whether there was time to note anything


# ---- killed workers --------------------------------------------------------------------------------------------


@needs_signals
def test_a_worker_killed_while_it_loads_is_a_card_and_retry_loads(
    qtbot: QtBot, window: MainWindow, context: Context, model: str
) -> None:
    page = chat_with(qtbot, window, model)
    engine = page.engine()
    assert engine is not None
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(page.error.isVisible)
    assert len(red_cards(window)) == 1
    assert page.progress.isHidden()
    press(page.error, "Retry")
    loaded(qtbot, page)
    assert red_cards(window) == []


@needs_signals
def test_a_worker_killed_while_a_question_waits_for_it_keeps_the_question(
    qtbot: QtBot, window: MainWindow, context: Context, model: str
) -> None:
    page = chat_with(qtbot, window, model)
    page.send("What is the capital of France?")
    engine, conversation = page.engine(), page.conversation()
    assert engine is not None and conversation is not None
    os.kill(engine.pid(), signal.SIGKILL)
    qtbot.waitUntil(page.error.isVisible)
    assert [row.role for row in context.store.messages(conversation)] == ["user"]
    assert len(red_cards(window)) == 1
    page.inspector.spins["max_tokens"].setValue(8)
    press(page.error, "Retry")
    qtbot.waitUntil(lambda: not page.busy())
    assert [row.role for row in context.store.messages(conversation)] == ["user", "assistant"]


@needs_signals
def test_a_worker_killed_while_it_scores_fails_its_column_and_the_page_goes_on(
    qtbot: QtBot, window: MainWindow, context: Context, pocket_gguf: Callable[[str], Path]
) -> None:
    reference, candidate = str(pocket_gguf("F16")), str(pocket_gguf("Q8_0"))
    window.navigate("compare", {"reference": reference, "models": [candidate]})
    page = window.page("compare")
    assert isinstance(page, ComparePage)
    page.options.max_tokens.setValue(200)
    page.ask("Tell me a story about a bear.")
    run = page.run()
    assert run is not None

    def kill(index: int) -> None:
        part = run.parts[index]
        if index == 1 and part.state == SCORING and part.engine is not None:
            os.kill(part.engine.pid(), signal.SIGKILL)

    run.changed.connect(kill)
    qtbot.waitUntil(page.columns[1].error.isVisible)
    qtbot.waitUntil(lambda: not page.busy())
    assert [part.state for part in run.parts] == [DONE, FAILED]
    assert run.parts[1].text
    assert len(red_cards(window)) == 1
    run.changed.disconnect(kill)
    press(page.columns[1].error, "Retry")
    qtbot.waitUntil(lambda: not page.busy())
    assert [part.state for part in run.parts] == [DONE, DONE]
    assert red_cards(window) == []


# ---- engines that hang, prompts that do not fit ------------------------------------------------------------------


def picture(window: MainWindow, name: str) -> None:
    """Keep what a person sees, in the folder for things built: a fault is judged by its card."""
    folder = Path(__file__).resolve().parents[2] / "build" / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    assert window.grab().save(str(folder / f"{name}.png"))


@needs_signals
def test_an_engine_that_hangs_is_a_card_and_goes_on_or_is_ended(
    qtbot: QtBot, window: MainWindow, context: Context, endless: str
) -> None:
    page = chat_with(qtbot, window, endless)
    loaded(qtbot, page)
    conversation = streaming(qtbot, page, context)
    engine = page.engine()
    assert engine is not None
    engine.watchdog.set_patience(2500, 60_000)
    os.kill(engine.pid(), signal.SIGSTOP)
    qtbot.waitUntil(page.error.isVisible)
    assert page.error.error is not None and page.error.error.code == "engine_silent"
    assert len(red_cards(window)) == 1 and page.busy()
    picture(window, "engine hangs")
    os.kill(engine.pid(), signal.SIGCONT)  # only the machine was slow
    qtbot.waitUntil(page.error.isHidden)
    assert page.busy()
    os.kill(engine.pid(), signal.SIGSTOP)
    engine.watchdog.set_patience(60_000, 500)
    so_far = context.store.messages(conversation)[-1].content
    page.stop()
    qtbot.waitUntil(page.error.isVisible)
    assert page.error.error.code == "engine_hung"
    assert len(red_cards(window)) == 1 and not page.busy()
    picture(window, "engine does not stop")
    assert context.store.messages(conversation)[-1].content.startswith(so_far)
    press(page.error, "Retry")
    qtbot.waitUntil(page.busy)
    assert red_cards(window) == []
    page.stop()
    qtbot.waitUntil(lambda: not page.busy())


@needs_signals
def test_a_hanging_engine_can_be_ended_from_its_card(
    qtbot: QtBot, window: MainWindow, context: Context, endless: str
) -> None:
    page = chat_with(qtbot, window, endless)
    loaded(qtbot, page)
    streaming(qtbot, page, context)
    engine = page.engine()
    assert engine is not None
    engine.watchdog.set_patience(1500, 60_000)
    os.kill(engine.pid(), signal.SIGSTOP)
    qtbot.waitUntil(page.error.isVisible)
    press(page.error, "End the engine")
    qtbot.waitUntil(lambda: not page.busy())
    assert page.error.error is not None and page.error.error.code == "engine_died"
    press(page.error, "Retry")
    qtbot.waitUntil(page.busy)
    page.stop()
    qtbot.waitUntil(lambda: not page.busy())


def test_ten_megabytes_of_prompt_are_a_message_and_the_next_question_works(
    qtbot: QtBot, window: MainWindow, context: Context, model: str
) -> None:
    page = chat_with(qtbot, window, model)
    loaded(qtbot, page)
    engine = page.engine()
    assert engine is not None
    alive = engine.pid()
    page.send("word " * 2_000_000)
    qtbot.waitUntil(page.error.isVisible)
    assert page.error.error is not None and page.error.error.code == "context_full"
    assert len(red_cards(window)) == 1 and not page.busy()
    picture(window, "ten megabytes of prompt")
    page.new_chat()
    page.inspector.spins["max_tokens"].setValue(8)
    page.send("What is the capital of France?")
    qtbot.waitUntil(lambda: not page.busy())
    assert red_cards(window) == []
    assert engine.pid() == alive


def test_an_endless_template_is_a_message_and_the_engine_lives(
    qtbot: QtBot, window: MainWindow, context: Context, pocket: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "endless template"
    shutil.copytree(pocket, folder)
    template = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    file = tmp_path / "endless template.gguf"
    convert(ConversionSpec(source=str(folder), output=str(file), types=("Q8_0",), check=False), print, lambda: False)
    page = chat_with(qtbot, window, str(file))
    loaded(qtbot, page)
    engine = page.engine()
    assert engine is not None
    alive = engine.pid()
    page.send("Are you there?")
    qtbot.waitUntil(page.error.isVisible)
    assert page.error.error is not None and page.error.error.code.startswith("template")
    assert len(red_cards(window)) == 1 and not page.busy()
    picture(window, "endless template")
    assert engine.state == READY and engine.pid() == alive


# ---- other options ---------------------------------------------------------------------------------------------


def test_loading_again_fails_every_open_request_with_words(qtbot: QtBot, context: Context, endless: str) -> None:
    engine = context.engines.get(endless, LoadOptions(context=512))
    qtbot.waitUntil(lambda: engine.state == READY)
    failures: list[object] = []
    heard: list[Tokens] = []
    engine.failed.connect(failures.append)
    with qtbot.waitSignal(engine.tokens):
        running = engine.generate(STORY, ENDLESS)
    waiting = engine.generate(STORY, ENDLESS)
    engine.tokens.connect(heard.append)
    assert context.engines.get(endless, LoadOptions(context=256)) is engine
    assert [(failure.request, failure.code) for failure in failures] == [(running, "reloaded"), (waiting, "reloaded")]
    assert all(failure.title and failure.hint for failure in failures)
    states: list[str] = []
    engine.state_changed.connect(lambda: states.append(engine.state))
    qtbot.waitUntil(lambda: engine.state == READY)
    assert states[-1] == READY and states.count(READY) == 1  # the old worker's last words are not the new one's
    assert engine.loaded is not None and engine.loaded.context == 256
    assert heard == []
    assert len(failures) == 2


# ---- closing ---------------------------------------------------------------------------------------------------


def no_children() -> bool:
    return all(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process().children(recursive=True))


@pytest.mark.parametrize("window_first", [pytest.param(True, marks=pytest.mark.slow), False])
def test_quitting_in_the_middle_of_everything_keeps_what_was_shown(
    qtbot: QtBot, endless: str, long_model: Path, tmp_path: Path, window_first: bool
) -> None:
    context = Context()
    window = create_window(context)
    window.show()
    for key in ("library", "convert", "compare", "quality", "bench", "settings"):
        window.show_page(key)
    page = chat_with(qtbot, window, endless)
    conversation = streaming(qtbot, page, context)
    context.library.rescan()
    spec = ConversionSpec(source=str(long_model), output=str(tmp_path / "p.gguf"), types=("Q2_K",))
    context.jobs.submit("convert", "P", Convert(spec))
    page.inspector.system.setPlainText("Be brief.")
    shown = page.transcript.text_of(context.store.messages(conversation)[-1].id)
    assert shown
    window.confirm_quit = lambda count: True
    for closing in (window, context) if window_first else (context, window):
        closing.close()
    context.library.rescan()  # what is still on its way must find nothing to break
    context.library.changed.emit()
    context.update_settings(context=4096)
    QApplication.processEvents()
    assert no_children()
    assert not (tmp_path / "p.gguf").exists()
    assert list(tmp_path.glob("*.part")) == []
    store = Store(paths.database())
    try:
        last = store.messages(conversation)[-1]
        assert last.partial and last.content.startswith(shown)
        assert store.conversation(conversation).system == "Be brief."
    finally:
        store.close()
    again = Context()
    assert len(again.jobs.unfinished()) == 1
    again.close()
    window.deleteLater()
    context.deleteLater()
    again.deleteLater()


_STREAMING = """
import os, sys
from PySide6.QtCore import QTimer
from app.ui.application import create_application, create_window
from app.ui.context import Context
app = create_application(["quench"])
context = Context()
window = create_window(context)
window.show()
window.navigate("chat", {"model": sys.argv[1]})
page = window.page("chat")
page.inspector.preset.setCurrentIndex(page.inspector.preset.findData("own"))
from tests.models import ENDLESS
for name in ("temperature", "top_k", "top_p", "min_p", "max_tokens"):
    page.inspector.spins[name].setValue(getattr(ENDLESS, name))
page.send("Tell me a story that does not end.")
def look():
    rows = context.store.messages(page.conversation())
    if page.busy() and rows[-1].content:
        print(page.engine().pid(), page.conversation(), len(rows[-1].content), flush=True)
timer = QTimer(interval=10)
timer.timeout.connect(look)
timer.start()
app.exec()
"""


@needs_signals
def test_a_window_killed_in_the_middle_of_an_answer_has_it_at_the_next_start(
    qtbot: QtBot, quench_home: Path, endless: str
) -> None:
    process = subprocess.Popen([sys.executable, "-c", _STREAMING, endless], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        worker, conversation, length = map(int, process.stdout.readline().split())
    finally:
        process.kill()
        process.communicate()
    context = Context()
    try:
        page = ChatPage(context)
        qtbot.addWidget(page)
        [row] = context.store.conversations()
        assert row.id == conversation
        question, answer = context.store.messages(conversation)
        assert (question.role, answer.role) == ("user", "assistant")
        assert answer.partial and len(answer.content) >= length
        page.open_conversation(conversation)
        assert page.transcript.text_of(answer.id) == answer.content
        assert "Not finished" in page.transcript.toPlainText()
        qtbot.waitUntil(lambda: not psutil.pid_exists(worker))
    finally:
        context.close()
        context.deleteLater()


# ---- a hostile home --------------------------------------------------------------------------------------------


def test_two_windows_on_one_home_share_it(qtbot: QtBot, window: MainWindow, context: Context, endless: str) -> None:
    other = Context()
    second = create_window(other)
    second.show()
    try:
        page = chat_with(qtbot, window, endless)
        conversation = streaming(qtbot, page, context)
        other.store.add_message(other.store.create_conversation("Two", endless).id, "user", "x")
        other.update_settings(enter_sends=False)
        context.update_settings(context=2048)
        assert other.jobs.unfinished() == []
        assert {row.title for row in context.store.conversations()} >= {"Two"}
        page.stop()
        qtbot.waitUntil(lambda: not page.busy())
        assert other.store.messages(conversation)[-1].partial is False
    finally:
        second.close()
        other.close()
        second.deleteLater()
        other.deleteLater()


def unusable(home: Path) -> str:
    with pytest.raises(QuenchError) as raised:
        Context()
    error = raised.value
    assert error.title and error.detail and error.hint
    return error.code


@pytest.mark.fresh_home
def test_a_damaged_database_is_said_and_not_touched(qapp: QApplication, quench_home: Path) -> None:
    quench_home.mkdir()
    paths.database().write_bytes(b"no database at all " * 500)
    assert unusable(quench_home) == "store_damaged"
    assert paths.database().read_bytes() == b"no database at all " * 500


@pytest.mark.fresh_home
def test_a_home_that_cannot_be_used_is_said(
    qapp: QApplication, quench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quench_home.write_text("a file")
    assert unusable(quench_home) == "no_home"
    quench_home.unlink()
    quench_home.mkdir()
    paths.database().mkdir()
    assert unusable(quench_home) == "store_unwritable"


@pytest.mark.fresh_home
def test_a_damaged_settings_file_or_a_folder_of_its_name_are_no_trouble(qtbot: QtBot, quench_home: Path) -> None:
    quench_home.mkdir()
    paths.settings_file().write_bytes(b"\xff\x00{")
    first = Context()
    first.update_settings(theme="dark")
    first.close()
    paths.settings_file().unlink()
    paths.settings_file().mkdir()
    (paths.settings_file() / "x").touch()
    second = Context()
    assert second.settings.theme == "system"
    second.close()
    first.deleteLater()
    second.deleteLater()


def test_a_database_that_stops_taking_words_is_a_notice_in_words(
    window: MainWindow, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.ui import application

    for text, code in (("database or disk is full", "store_unwritable"), ("database is locked", "store_locked")):
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = {"store_unwritable": sqlite3.SQLITE_FULL, "store_locked": sqlite3.SQLITE_BUSY}[code]
        application._unexpected(context, type(error), error, None)
        assert code in [toast.notice.error.code for toast in window.toasts.toasts()]
    assert "disk is full" in capsys.readouterr().err
