"""The desktop program: one QApplication, one context, one window."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from PySide6.QtCore import QLocale
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QApplication

import resources
from app import paths
from app.store import unusable
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.window import MainWindow

MAX_LOG_BYTES = 1 << 20


def create_application(argv: Sequence[str]) -> QApplication:
    """The QApplication of this process, made if there is none."""
    existing = QApplication.instance()
    app = existing if isinstance(existing, QApplication) else QApplication(list(argv) or ["quench"])
    if QLocale().language() == QLocale.Language.C:
        QLocale.setDefault(QLocale(QLocale.Language.English))  # "C" writes long numbers without separators
    app.setApplicationName("quench")
    app.setApplicationDisplayName("Quench")
    app.setDesktopFileName("quench")
    app.setWindowIcon(QIcon(str(resources.path("icons/quench.svg"))))
    return app


def create_window(context: Context) -> MainWindow:
    """The main window around a context; not shown yet. The caller closes the window and then the context."""
    from app.ui.window import MainWindow

    return MainWindow(context)


def main(argv: Sequence[str], *, home: str | os.PathLike[str] | None = None) -> int:
    """Open the window and run until it is closed; returns the exit status.

    ``home`` puts all data under one folder, like ``QUENCH_HOME``. A database that cannot be used is said in a dialog,
    and the status is that of the error.
    """
    if home is not None:
        os.environ["QUENCH_HOME"] = os.fspath(home)
    app = create_application(argv)
    # Ctrl-C in the terminal ends the window at once; workers notice that their input has closed and leave.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from app.ui.context import Context

    try:
        context = Context()
    except QuenchError as error:
        _say(error)
        return error.exit_status
    window = create_window(context)
    sys.excepthook = lambda kind, error, trace: _unexpected(context, kind, error, trace)
    window.show()
    context.library.rescan()
    context.check_kernels()
    status = app.exec()
    context.close()
    return status


def _unexpected(context: Context, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error that nobody expected costs a notice and a line in the log, never the window."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(text, file=sys.stderr)
    log = paths.logs() / "window.log"
    try:
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))
        with log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError:
        pass  # the notice below carries the text too
    if isinstance(error, sqlite3.DatabaseError):
        context.notify.error(unusable(paths.database(), error))
        return
    context.notify.error(
        QuenchError(
            "internal",
            context.tr("Something went wrong that should not."),
            text,
            context.tr("You can go on. Copy the details if you want to report it."),
            exit_status=1,
        )
    )


def _say(error: QuenchError) -> None:
    from PySide6.QtWidgets import QMessageBox

    box = QMessageBox(QMessageBox.Icon.Critical, "Quench", error.title)
    box.setInformativeText(f"{error.detail}\n\n{error.hint}".strip())
    box.exec()
