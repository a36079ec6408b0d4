"""Pictures of the real window with real data in it: every page, in light and dark, at the usual and the smallest size.

Used by ``quench demo`` and by whoever wants to look at a change. The pages are driven as other pages drive them and by
their own public methods; workers and models are real.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop, QTimer

import resources
from converter.spec import QuenchError

SIZES = {"": (1280, 800), "-small": (960, 600)}
THEMES = ("light", "dark")
PATIENCE = 300.0  # seconds for the slowest page on a busy machine
CONVERTED = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
LONG_ANSWER = "Write a short story about Anna and a fox."
PARTING = "Lily has 24 apples and gives half of them to a friend. How many apples are left?"
"""A question on which the smallest file of Pocket goes wrong in the middle of its answer."""


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
    """Write ``<scene>-<theme>[-small].png`` for every scene into ``folder`` and return the paths.

    ``models`` are GGUF files of one model, the reference first and the smallest last; ``questions`` are asked in Chat.
    QuenchError ``picture_failed`` when a page does not get where it should.
    """
    if not has_display():
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from app.ui import application
    from app.ui.context import Context

    folder.mkdir(parents=True, exist_ok=True)
    application.create_application(["quench"])
    context = Context()
    context.update_settings(first_start=True, reduce_motion=True)
    window = application.create_window(context)
    window.confirm_quit = lambda count: True  # type: ignore[method-assign]  # nobody answers when a job runs at the end
    window.resize(*SIZES[""])
    window.show()
    window.activateWindow()
    shots: list[Path] = []
    try:
        for scene in _scenes(context, models, questions):
            page = window.show_page(scene.page)
            play = scene.play(page)
            next(play)
            shots += _shoot(context, window, folder / scene.name)
            for _ in play:  # to its end: what runs comes to rest
                pass
    finally:
        window.close()
        window.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
        context.close()
    return shots


def _shoot(context: Any, window: Any, stem: Path) -> list[Path]:
    """The window as it is now, in all themes and sizes; first in the theme that it has: a change takes a second."""
    shots = []
    for theme in sorted(THEMES, key=lambda theme: theme != context.theme.mode):
        context.theme.set_mode(theme)
        for suffix, size in SIZES.items():
            window.resize(*size)
            _settle()
            path = stem.with_name(f"{stem.name}-{theme}{suffix}.png")
            if not window.grab().save(str(path)):
                raise QuenchError("picture_failed", "A picture could not be written.", str(path))
            shots.append(path)
    window.resize(*SIZES[""])
    return shots


@dataclass(frozen=True)
class Scene:
    """``play(page)`` brings the page where it should be, yields for the pictures, and then puts things to rest."""

    name: str
    page: str
    play: Callable[[Any], Iterator[None]]


def _scenes(context: Any, models: list[str], questions: list[str]) -> list[Scene]:
    reference, small = models[0], models[-1]
    middle = next((path for path in models if "Q4_K_M" in path), models[len(models) // 2])

    def first_start(page: Any) -> Iterator[None]:
        yield

    def library(page: Any) -> Iterator[None]:
        context.update_settings(first_start=False)
        context.library.rescan()
        wanted = set(models)
        _until(lambda: wanted <= {entry.path for entry in context.library.entries}, "the library lists the models")
        _until(lambda: page.select(middle), "the list shows the models")
        yield

    def convert(page: Any) -> Iterator[None]:
        page.receive({"source": str(resources.path("pocket")), "types": list(CONVERTED)})
        _until(page.convert_button.isEnabled, "the plan is made")
        with _slowly():
            page.convert_button.click()
        job = page.job
        _until(lambda: job.progress >= 0.5 or not job.is_active, "the conversion is half done", 2)
        with _held(job):
            yield
        job.cancel()
        _until(lambda: not job.is_active, "the slow conversion is stopped")
        page.convert_button.click()
        job = page.job
        _until(lambda: not job.is_active, "the conversion is done")

    def chat(page: Any) -> Iterator[None]:
        page.receive({"model": middle})
        for question in (*questions, LONG_ANSWER):
            page.send(question)
            _until(page.busy, "the answer begins")
            _until(lambda: not page.busy(), "the answer ends")
        yield

    def compare(page: Any) -> Iterator[None]:
        page.receive({"reference": reference, "models": [middle, small]})
        page.ask(PARTING)
        _until(page.busy, "the answers begin")
        _until(lambda: not page.busy(), "the answers are compared")
        page.show_divergence(True)
        view = page.columns[-1].divergence
        page.window().activateWindow()
        _turn(100)  # without a window manager it may never have the focus; then the pop-over is missing
        view.setFocus()
        view.jump()
        yield

    def measuring(page: Any) -> Iterator[None]:
        page.receive({"reference": reference, "candidates": [models[1], middle, small]})
        _until(page.run_button.isEnabled, "the choice is complete")
        page.run_button.click()
        job = page.job
        _until(lambda: job.progress >= 0.1 or not job.is_active, "the measurement has its first figures")
        with _held(job):
            yield
        job.cancel()
        _until(lambda: not job.is_active, "the measurement is stopped")

    def as_it_is(page: Any) -> Iterator[None]:
        """The page shows what the store has."""
        yield

    def scrolled(page: Any) -> Iterator[None]:
        page.scroll_to_end()
        yield

    return [
        Scene("first-start", "library", first_start),
        Scene("library", "library", library),
        Scene("convert", "convert", convert),
        Scene("convert-done", "convert", as_it_is),
        Scene("chat", "chat", chat),
        Scene("compare", "compare", compare),
        Scene("quality", "quality", as_it_is),
        Scene("quality-running", "quality", measuring),
        Scene("bench", "bench", as_it_is),
        Scene("settings", "settings", as_it_is),
        Scene("settings-end", "settings", scrolled),
    ]


@contextmanager
def _slowly() -> Iterator[None]:
    """Workers that start meanwhile use the reference kernels; else Pocket is converted before a picture is taken."""
    before = os.environ.get("QUENCH_KERNELS")
    os.environ["QUENCH_KERNELS"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["QUENCH_KERNELS"]
        else:
            os.environ["QUENCH_KERNELS"] = before


@contextmanager
def _held(job: Any) -> Iterator[None]:
    """The worker of ``job`` stands still meanwhile, so that four pictures show one moment. Nothing if it has ended."""
    held = None
    if job.pid():
        with suppress(psutil.Error):
            held = psutil.Process(job.pid())
            held.suspend()
    try:
        yield
    finally:
        if held is not None:
            with suppress(psutil.Error):
                held.resume()


def _until(done: Callable[[], Any], what: str, step: int = 20) -> None:
    """Run the event loop until ``done()``, asked every ``step`` ms; QuenchError when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise QuenchError("picture_failed", "A page did not get where it should.", f"Waited in vain until {what}.")
        _turn(step)


def _settle() -> None:
    """Let layouts, throttled charts and fades finish."""
    _turn(250)


def _turn(milliseconds: int) -> None:
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()
