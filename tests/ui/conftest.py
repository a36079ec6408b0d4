"""A context and a window per test, both taken down again; a picture of the window when a test fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PySide6.QtCore import QEvent, QProcess, Qt
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget
from pytestqt.qtbot import QtBot

from app.ui.application import create_application, create_window
from app.ui.context import Context
from app.ui.widgets import ErrorCard
from app.ui.window import MainWindow

# The fake hub, for pages that ask it.
from tests.hub.conftest import fakehub, hub_environment  # noqa: F401

Page = TypeVar("Page", bound=QWidget)
PATIENCE = 240_000
_reports = pytest.StashKey[dict[str, pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    item.stash.setdefault(_reports, {})[report.when] = report
    return report


class PatientBot(QtBot):
    """Waits as long as a busy machine may need: no test is about how soon something happens."""

    def waitUntil(self, callback: Callable[[], object], *, timeout: int = PATIENCE) -> None:
        super().waitUntil(callback, timeout=max(timeout, PATIENCE))

    def waitSignal(self, signal: Any, *, timeout: int = PATIENCE, **options: Any) -> Any:
        # No time at all is no wait: assertNotEmitted looks back so, when everything else is over.
        return super().waitSignal(signal, timeout=max(timeout, PATIENCE) if timeout else 0, **options)


@pytest.fixture
def qtbot(qapp: QApplication, request: pytest.FixtureRequest) -> QtBot:
    """The plugin's bot, with more patience."""
    return PatientBot(request)


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    """The program's own QApplication: name, icon, locale."""
    return create_application(["quench"])


@pytest.fixture
def context(qtbot: QtBot, quench_home: Path) -> Iterator[Context]:
    """Everything that pages are given, in a home of its own. At the end no worker is left."""
    made = Context()
    made.update_settings(reduce_motion=True)
    yield made
    made.close()
    left = [process for process in made.findChildren(QProcess) if process.state() != QProcess.ProcessState.NotRunning]
    made.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert left == []


@pytest.fixture
def window(qtbot: QtBot, context: Context, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MainWindow]:
    """The shown main window."""
    made = create_window(context)
    made.resize(1280, 800)
    made.show()
    qtbot.waitExposed(made)
    yield made
    report = request.node.stash.get(_reports, {}).get("call")
    if report is not None and report.failed:
        made.grab().save(str(tmp_path / "failed.png"))
        print(f"screenshot: {tmp_path / 'failed.png'}")
    made.confirm_quit = lambda count: True
    made.close()
    made.deleteLater()


@pytest.fixture
def shown(qtbot: QtBot, context: Context) -> Callable[[type[Page]], Page]:
    """``shown(QualityPage)`` is such a page by itself, of the size that it has in a usual window."""

    def show(kind: type[Page]) -> Page:
        made = kind(context)
        qtbot.addWidget(made)
        made.resize(1192, 772)
        with qtbot.waitExposed(made):
            made.show()
        return made

    return show


@pytest.fixture
def library(qtbot: QtBot, context: Context) -> Callable[..., None]:
    """``library(path, ...)`` puts models into the library and waits until their headers are read."""

    def fill(*paths: Path | str) -> None:
        for path in paths:
            context.library.add(str(path))
        qtbot.waitUntil(lambda: all(context.library.entry(str(path)) is not None for path in paths), timeout=20_000)

    return fill


def red_cards(page: QWidget) -> list[ErrorCard]:
    """The errors that are told."""
    return [card for card in page.findChildren(ErrorCard) if card.isVisible()]


def nameless(page: QWidget) -> list[str]:
    """Focusable visible widgets that a screen reader could not tell."""
    return [
        f"{type(widget).__name__} {widget.objectName()}"
        for widget in page.findChildren(QWidget)
        if widget.isVisible()
        and widget.isEnabled()
        and widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        and not widget.accessibleName()
        and not (isinstance(widget, QAbstractButton) and widget.text())
    ]
