"""Pictures of the real window with real data in it: every page, in light and dark, at the usual and the smallest size.

Used by ``quench demo`` and by whoever wants to look at a change. The pages are driven as other pages drive them and by
their own public methods; workers and models are real.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop, QTimer
from PySide6.QtWidgets import QWidget

import resources
from converter.spec import QuenchError

SIZES = {"": (1280, 800), "-small": (960, 600)}
THEMES = ("light", "dark")
PATIENCE = 90.0  # seconds for the slowest page


def has_display() -> bool:
    """Whether a window can be shown to a person."""
    if not sys.platform.startswith("linux"):
        return True
    asked = os.environ.get("QT_QPA_PLATFORM", "")
    return asked not in ("offscreen", "minimal") and bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def open_window() -> int:
    """Open the window as ``quench`` does, and run until it is closed."""
    from app.ui import application

    return application.main(sys.argv[:1])


def take(folder: Path, models: list[str], questions: list[str]) -> list[Path]:
    """Write ``<page>-<theme>[-small].png`` for every page into ``folder`` and return the paths.

    ``models`` are GGUF files of one model, the reference first and the smallest last; ``questions`` are asked in Chat
    and Compare. QuenchError ``picture_failed`` when a page does not get where it should.
    """
    if not has_display():
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from app.ui import application
    from app.ui.context import Context

    folder.mkdir(parents=True, exist_ok=True)
    application.create_application(["quench"])
    context = Context()
    context.update_settings(first_start=False, reduce_motion=True)
    window = application.create_window(context)
    window.resize(*SIZES[""])
    window.show()
    context.library.rescan()
    shots: list[Path] = []
    try:
        for key, prepare in _scenes(context, models, questions).items():
            page = window.page(key)
            window.show_page(key)
            prepare(page)
            for theme in THEMES:
                context.theme.set_mode(theme)
                for suffix, size in SIZES.items():
                    window.resize(*size)
                    _settle()
                    path = folder / f"{key}-{theme}{suffix}.png"
                    if not window.grab().save(str(path)):
                        raise QuenchError("picture_failed", "A picture could not be written.", str(path))
                    shots.append(path)
            window.resize(*SIZES[""])
    finally:
        window.close()
        window.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
        context.close()
    return shots


def _scenes(context: Any, models: list[str], questions: list[str]) -> dict[str, Callable[[Any], None]]:
    """What each page should show: a function that brings it there and returns when it is."""
    reference, small = models[0], models[-1]
    middle = next((path for path in models if "Q4_K_M" in path), models[len(models) // 2])

    def library(page: Any) -> None:
        wanted = set(models)
        _until(lambda: wanted <= {entry.path for entry in context.library.entries}, "the library lists the models")
        page.select(middle)

    def convert(page: Any) -> None:
        page.receive({"source": str(resources.path("pocket")), "types": ["Q8_0", "Q4_K_M", "Q2_K"]})
        _until(page.convert_button.isEnabled, "the plan is made")
        page.convert_button.click()
        _until(lambda: page.job is not None and not page.job.is_active, "the conversion is done")

    def chat(page: Any) -> None:
        page.receive({"model": middle})
        for question in questions:
            page.send(question)
            _until(page.busy, "the answer begins")
            _until(lambda: not page.busy(), "the answer ends")

    def compare(page: Any) -> None:
        page.receive({"reference": reference, "models": [middle, small]})
        page.ask(questions[-1])
        _until(page.busy, "the answers begin")
        _until(lambda: not page.busy(), "the answers are compared")

    def as_it_is(page: QWidget) -> None:
        """The page shows what the store has."""

    return {
        "library": library,
        "convert": convert,
        "chat": chat,
        "compare": compare,
        "quality": as_it_is,
        "bench": as_it_is,
        "settings": as_it_is,
    }


def _until(done: Callable[[], Any], what: str) -> None:
    """Run the event loop until ``done()``; QuenchError when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise QuenchError("picture_failed", "A page did not get where it should.", f"Waited in vain until {what}.")
        _turn(20)


def _settle() -> None:
    """Let layouts, throttled charts and fades finish."""
    _turn(350)


def _turn(milliseconds: int) -> None:
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()
