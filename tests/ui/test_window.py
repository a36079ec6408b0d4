"""The window as a whole: pages, keys, drawer, palette, notices, closing, and words for screen readers everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtGui import QAccessible
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QTextBrowser,
    QWidget,
)
from pytestqt.qtbot import QtBot

from app import settings
from app.protocol import Convert
from app.ui.application import create_window
from app.ui.context import Context
from app.ui.job_center import DONE, FAILED
from app.ui.toasts import Toast
from app.ui.window import KEYS, BrokenPage, MainWindow
from converter.spec import ConversionSpec, QuenchError


def unnamed(root: QWidget) -> list[str]:
    """Widgets that can have the focus, also when they are disabled now, but say nothing to a screen reader."""
    found = []
    for widget in root.findChildren(QWidget):
        if widget.focusPolicy() == Qt.FocusPolicy.NoFocus:
            continue
        inside = widget.parentWidget()
        if _is_part(widget) or (isinstance(widget, QLabel) and not widget.text()):
            continue  # the field around it has the name; an empty label says nothing on purpose
        if isinstance(widget, QAbstractButton) and widget.isHidden() and widget.icon().isNull():
            continue  # gets its text, and with it its name, when there is something to press it for
        face = QAccessible.queryAccessibleInterface(widget)
        if face is None or not face.text(QAccessible.Text.Name).strip():
            found.append(f"{type(widget).__name__} in {type(inside).__name__}: {widget.objectName()}")
    return found


def _is_part(widget: QWidget) -> bool:
    """Whether it is the inside of a field: the line of a spin box, the list of a combo box, a view's viewport."""
    inside = widget.parentWidget()
    if isinstance(inside, QAbstractScrollArea) and inside.viewport() is widget:
        return not isinstance(inside, QScrollArea)
    while inside is not None and not inside.isWindow():
        if isinstance(inside, QAbstractSpinBox | QComboBox):
            return True
        inside = inside.parentWidget()
    return inside is not None and isinstance(inside.parentWidget(), QComboBox)


@pytest.mark.parametrize("key", KEYS)
def test_everything_that_can_have_the_focus_has_a_name(window: MainWindow, key: str) -> None:
    page = window.show_page(key)
    assert not isinstance(page, BrokenPage), "the page did not open"
    assert unnamed(window) == []


def test_all_seven_pages_open_by_key(qtbot: QtBot, window: MainWindow) -> None:
    for number, key in enumerate(KEYS, 1):
        qtbot.keyClick(window, getattr(Qt.Key, f"Key_{number}"), Qt.KeyboardModifier.ControlModifier)
        assert window.current_key() == key
        page = window.page(key)
        assert page.isVisible()
        assert page.key == key
        assert page.help_text().strip()
        after = window.status.jobs.nextInFocusChain()
        while not after.focusPolicy() & Qt.FocusPolicy.TabFocus or not after.isVisible():
            after = after.nextInFocusChain()
        assert not page.isAncestorOf(after), "Tab comes to the status bar last"


def test_pages_are_made_at_the_first_visit_and_kept(window: MainWindow) -> None:
    assert window.stack.count() == 1
    settings_page = window.show_page("settings")
    window.show_page("library")
    assert window.show_page("settings") is settings_page
    assert window.stack.count() == 2


@pytest.mark.parametrize("key", ["convert", "quality", "bench"])
def test_dragged_splitters_are_remembered(window: MainWindow, context: Context, qtbot: QtBot, key: str) -> None:
    splitter = window.show_page(key).splitter
    first, *rest = splitter.sizes()
    splitter.setSizes([first + 24, *rest])
    dragged = splitter.sizes()
    assert dragged[0] > first
    window.close()
    assert f"{key}/{splitter.objectName()}" in settings.load().splitters
    again = create_window(context)
    qtbot.addWidget(again)
    again.resize(window.size())
    again.show()
    assert again.show_page(key).splitter.sizes()[0] == dragged[0]


def test_an_unknown_page_is_a_key_error(window: MainWindow) -> None:
    with pytest.raises(KeyError):
        window.show_page("nowhere")


def test_the_last_page_and_the_size_are_remembered(window: MainWindow, context: Context, qtbot: QtBot) -> None:
    window.resize(800, 520)  # the offscreen screen is no larger
    window.show_page("settings")
    window.close()
    assert settings.load().last_page == "settings"
    again = create_window(context)
    qtbot.addWidget(again)
    again.show()
    assert again.current_key() == "settings"
    assert (again.width(), again.height()) == (800, 520)


def test_a_damaged_geometry_is_no_trouble(context: Context, qtbot: QtBot) -> None:
    context.update_settings(geometry="not base64 at all", last_page="gone")
    made = create_window(context)
    qtbot.addWidget(made)
    made.show()
    assert made.current_key() == "library"


def test_it_is_usable_at_960_by_600(window: MainWindow) -> None:
    window.resize(960, 600)
    for key in KEYS:
        page = window.show_page(key)
        QApplication.processEvents()
        assert (window.width(), window.height()) == (960, 600), key
        assert page.width() <= 960 - 80, key


def test_help_has_the_pages_words_the_keys_and_the_glossary(qtbot: QtBot, window: MainWindow) -> None:
    window.show_page("settings")
    qtbot.keyClick(window, Qt.Key.Key_F1)
    (browser,) = [made for made in window.findChildren(QTextBrowser) if "Help" in made.accessibleName()]
    text = browser.toPlainText()
    assert "Changes hold at once" in text
    assert "Ctrl+K" in text
    assert "Perplexity" in text


# ---- palette ---------------------------------------------------------------------------------------------------


def test_the_palette_goes_to_a_page_by_a_few_letters(qtbot: QtBot, window: MainWindow) -> None:
    qtbot.keyClick(window, Qt.Key.Key_K, Qt.KeyboardModifier.ControlModifier)
    palette = window.commands_palette
    assert palette.isVisible()
    field = palette.findChild(QLineEdit)
    qtbot.keyClicks(field, "go sett")
    assert palette.texts() == ["Go to Settings"]
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert not palette.isVisible()
    assert window.current_key() == "settings"


def test_the_palette_knows_every_model(
    qtbot: QtBot, window: MainWindow, library: Callable[..., None], pocket_gguf: Callable[[str], Path]
) -> None:
    library(pocket_gguf("Q4_K_M"))
    window.show_palette()
    field = window.commands_palette.findChild(QLineEdit)
    qtbot.keyClicks(field, "q4_k_m")
    assert window.commands_palette.texts() == ["Chat with Pocket · Q4_K_M", "Convert Pocket · Q4_K_M"]
    qtbot.keyClick(field, Qt.Key.Key_Down)
    with qtbot.waitSignal(window.page_shown) as shown:
        qtbot.keyClick(field, Qt.Key.Key_Return)
    assert shown.args == ["convert"]


def test_escape_closes_the_palette_and_gives_the_focus_back(qtbot: QtBot, window: MainWindow) -> None:
    page = window.show_page("library")
    page.filter.setFocus()
    window.show_palette()
    qtbot.keyClick(window.commands_palette.findChild(QLineEdit), Qt.Key.Key_Escape)
    assert not window.commands_palette.isVisible()
    assert window.focusWidget() is page.filter


# ---- jobs, notices ---------------------------------------------------------------------------------------------


def job_spec(pocket: Path, target: Path) -> Convert:
    return Convert(ConversionSpec(source=str(pocket), output=str(target), types=("Q4_K_M",)))


def shown_toasts(window: MainWindow) -> list[Toast]:
    return window.toasts.toasts()


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_killed_worker_costs_one_red_card_with_retry_and_the_window_lives(
    qtbot: QtBot, window: MainWindow, context: Context, pocket: Path, tmp_path: Path
) -> None:
    window.show_page("settings")
    job = context.jobs.submit("convert", "Pocket", job_spec(pocket, tmp_path / "p.gguf"))
    os.kill(job.pid(), signal.SIGKILL)  # before it has done anything, however fast it is
    qtbot.waitUntil(lambda: job.state == FAILED)
    (toast,) = shown_toasts(window)
    assert toast.notice.kind == "bad"
    retry = next(made for made in toast.findChildren(QPushButton) if made.text() == "Retry")
    qtbot.mouseClick(retry, Qt.MouseButton.LeftButton)
    again = context.jobs.jobs[-1]
    assert again is not job
    qtbot.waitUntil(lambda: again.state == DONE)
    assert (tmp_path / "p.gguf").exists()
    assert [made.notice.kind for made in shown_toasts(window)] == ["good"]
    assert window.isVisible()


def test_the_status_bar_counts_jobs_and_opens_the_drawer(
    qtbot: QtBot, window: MainWindow, context: Context, pocket: Path, tmp_path: Path
) -> None:
    assert window.status.jobs.text().strip() == "No jobs"
    first = context.jobs.submit("convert", "One", job_spec(pocket, tmp_path / "1.gguf"))
    second = context.jobs.submit("convert", "Two", job_spec(pocket, tmp_path / "2.gguf"))
    assert window.status.jobs.text().strip().startswith("2 jobs")
    qtbot.mouseClick(window.status.jobs, Qt.MouseButton.LeftButton)
    assert window.drawer.isVisible()
    assert window.drawer.geometry().right() <= window.width()
    assert unnamed(window.drawer) == []
    qtbot.waitUntil(lambda: not first.is_active and not second.is_active)
    assert window.status.jobs.text().strip() == "No jobs"
    for toast in shown_toasts(window):
        toast.leave()
    window.escape()
    assert not window.drawer.isVisible()


def test_the_status_bar_shows_memory(window: MainWindow) -> None:
    assert "iB free" in window.status.memory.text()
    assert window.status.model.text().strip() == "No model loaded"


def test_notices_show_act_and_leave(qtbot: QtBot, window: MainWindow, context: Context) -> None:
    pressed: list[int] = []
    context.notify.info("Copied.", [("Undo", lambda: pressed.append(1))])
    context.notify.info("Copied.")
    context.notify.error(QuenchError("x", "It broke.", "detail", "Mend it."))
    info, bad = shown_toasts(window)
    assert unnamed(window.toasts) == []
    qtbot.mouseClick(info.findChildren(QPushButton)[0], Qt.MouseButton.LeftButton)
    assert pressed == [1]
    assert shown_toasts(window) == [bad]
    window.escape()
    assert shown_toasts(window) == []


def test_notices_leave_what_a_person_writes_in_free(window: MainWindow, context: Context) -> None:
    context.notify.info("The conversation is gone.", [("Undo", lambda: None)])
    for key in ("library", "chat", "compare", "chat"):
        page = window.show_page(key)
        for size in ((960, 600), (1280, 800)):
            window.resize(*size)
            QApplication.processEvents()
            notices = global_box(window.toasts)
            assert global_box(window).contains(notices)
            composer = getattr(page, "composer", None)
            assert composer is None or not notices.intersects(global_box(composer))


def global_box(widget: QWidget) -> QRect:
    return QRect(widget.mapToGlobal(QPoint(0, 0)), widget.size())


def test_notices_stay_inside_a_small_window(window: MainWindow, context: Context) -> None:
    window.resize(960, 600)
    for number in range(4):
        title = f"Trouble {number} " + "with a long story " * 6
        context.notify.error(QuenchError("x", title, "", "Do something. " * 8))
    QApplication.processEvents()
    assert len(shown_toasts(window)) == 3
    assert window.rect().contains(window.toasts.geometry())


# ---- closing ---------------------------------------------------------------------------------------------------


def test_closing_with_running_jobs_asks_once(
    qtbot: QtBot, window: MainWindow, context: Context, pocket: Path, tmp_path: Path
) -> None:
    asked: list[int] = []
    context.jobs.submit("convert", "Pocket", job_spec(pocket, tmp_path / "p.gguf"))
    window.confirm_quit = lambda count: bool(asked.append(count))
    window.close()
    assert window.isVisible()
    assert asked == [1]
    window.confirm_quit = lambda count: True
    window.close()
    assert not window.isVisible()


def test_closing_without_jobs_does_not_ask(window: MainWindow) -> None:
    window.confirm_quit = lambda count: pytest.fail("asked")
    window.close()
    assert not window.isVisible()


# ---- start -----------------------------------------------------------------------------------------------------


def test_starting_imports_nothing_heavy() -> None:
    """``-X importtime`` of what opens the window: no engine, no charts, no GGUF, no hub, no numpy."""
    program = "import app.ui.application, app.ui.context, app.ui.window, app.ui.library"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "PySide6" in loaded
    assert loaded & {"llama_cpp", "gguf", "pyqtgraph", "huggingface_hub", "numpy", "tokenizers", "jinja2"} == set()


def test_an_unexpected_error_becomes_a_notice_and_a_log_entry(
    window: MainWindow, context: Context, quench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.ui import application

    try:
        raise RuntimeError("nobody saw this coming")
    except RuntimeError as error:
        application._unexpected(context, type(error), error, error.__traceback__)
    (toast,) = shown_toasts(window)
    assert "nobody saw this coming" in toast.notice.error.detail
    assert "nobody saw this coming" in (quench_home / "logs" / "window.log").read_text()
    assert "nobody saw this coming" in capsys.readouterr().err
