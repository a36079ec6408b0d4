"""Runs the unmodified program and uses it with the mouse and the keyboard of the X server that it is shown on.

Started by test_window.py on a virtual screen. A timer inside the program only looks: it finds the next control by what
a person would read on it and where it is on the screen; the clicks and the keys come from outside, through xdotool.
Prints one JSON line: what was seen. Usage: driver.py PICTURE
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PySide6.QtCore import QPoint, QTimer
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QApplication,
    QComboBox,
    QLabel,
    QPlainTextEdit,
    QTextBrowser,
    QWidget,
)

PATIENCE = 240.0
QUESTION = "What is the capital of France?"

Step = tuple[str, Callable[[], Any]]


def visible(kind: type[QWidget], matches: Callable[[Any], bool]) -> QWidget | None:
    """The first control of a kind that is shown, enabled and matches."""
    return next((w for w in QApplication.allWidgets() if isinstance(w, kind) and usable(w) and matches(w)), None)


def usable(widget: QWidget) -> bool:
    return widget.isVisible() and widget.isEnabled() and not widget.visibleRegion().isEmpty()


def button(*words: str) -> Callable[[], QWidget | None]:
    """A button whose text, or else whose accessible name, is one of ``words``."""
    return lambda: visible(QAbstractButton, lambda b: b.text() in words or b.accessibleName() in words)


def click(widget: QWidget) -> None:
    middle = widget.mapToGlobal(QPoint(widget.width() // 2, widget.height() // 2))
    xdotool("mousemove", str(middle.x()), str(middle.y()), "click", "1")


def row(picker: QComboBox, words: str) -> Any:
    """The index of the first entry of a combo box that begins with ``words``."""
    return next((i for i in range(picker.count()) if picker.itemText(i).startswith(words)), None)


def click_row(view: QAbstractItemView, number: int) -> None:
    middle = view.viewport().mapToGlobal(view.visualRect(view.model().index(number, 0)).center())
    xdotool("mousemove", str(middle.x()), str(middle.y()), "click", "1")


def xdotool(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["xdotool", *words])


def transcript() -> str:
    """All text that the chat page shows."""
    return "\n".join(
        w.toPlainText() for w in QApplication.allWidgets() if isinstance(w, QTextBrowser) and w.isVisible()
    )


def story(window: Callable[[], QWidget | None], models: Path, seen: dict[str, Any]) -> Iterator[Step]:
    """What the person does; each step waits until its condition gives something, which is sent back."""
    yield "the window is there", window
    top = window()
    assert top is not None
    # There is no window manager on the test's screen that would give the window the keyboard.
    xdotool("windowfocus", str(int(top.winId())))
    seen["title"] = top.windowTitle()

    page = yield "the rail", button("Convert")
    click(page)
    picker = yield "the source picker", lambda: visible(QComboBox, lambda w: w.accessibleName() == "Source model")
    pocket = yield "Pocket is offered", lambda: row(picker, "Pocket")
    click(picker)
    yield "the list is open", lambda: usable(picker.view())
    click_row(picker.view(), pocket)
    yield "Pocket is recognised", lambda: visible(QLabel, lambda label: label.text() in ("5.2 M", "5.2 million"))
    start = yield (
        "a plan was made",
        lambda: visible(QAbstractButton, lambda b: b.text() == "Convert" and not b.isCheckable()),
    )
    click(start)
    yield "the file is there", lambda: list(models.glob("*.gguf"))
    chat = yield "the result can be chatted with", button("Chat with it", "Chat: " + next(models.glob("*.gguf")).name)
    click(chat)
    field = yield "the message field", lambda: visible(QPlainTextEdit, lambda w: w.accessibleName() == "Message")
    click(field)
    yield "the field has the keyboard", field.hasFocus
    typing = xdotool("type", "--delay", "20", QUESTION)
    yield "the question is typed", lambda: field.toPlainText() == QUESTION
    # The key of the question mark holds Shift; with it a Return would begin a line.
    yield "the keys are released", lambda: typing.poll() is not None
    xdotool("key", "Return")
    yield "the answer came", lambda: "Paris" in transcript() and "tokens/s" in transcript()
    seen["answer"] = transcript()
    seen["files"] = sorted(path.name for path in models.iterdir())
    seen["picture"] = top.screen().grabWindow(0).save(sys.argv[1])
    top.close()


def main() -> int:
    from app import __main__ as program
    from app import paths
    from app.ui import application

    app = application.create_application(["quench"])
    seen: dict[str, Any] = {"steps": []}
    steps = story(lambda: next((w for w in app.topLevelWidgets() if w.isVisible()), None), paths.models(), seen)
    current: Step = next(steps)
    since = time.monotonic()

    def look() -> None:
        nonlocal current, since
        found = current[1]()
        if found is None or found is False or found == []:
            if time.monotonic() - since > PATIENCE:
                seen["stuck"] = current[0]
                app.primaryScreen().grabWindow(0).save(sys.argv[1])
                app.exit(9)
            return
        seen["steps"].append(current[0])
        since = time.monotonic()
        try:
            current = steps.send(found)
        except StopIteration:
            timer.stop()

    timer = QTimer(interval=50)
    timer.timeout.connect(look)
    timer.start()
    status = program.main([])
    print(json.dumps(seen), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
