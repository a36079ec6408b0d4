"""What can be taken back: offered in a notice, and by Ctrl+Z as long as the program runs."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QCoreApplication

from app.ui.notify import Notify

MAX_STEPS = 100


class UndoStack:
    """The last deletions, newest last."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def offer(self, text: str, undo: Callable[[], object]) -> None:
        """Tell what was done, and take it back when the person says so; ``undo`` runs at most once."""
        step = (text, undo)
        self._steps = [*self._steps, step][-MAX_STEPS:]
        caption = QCoreApplication.translate("UndoStack", "Undo")
        self._notify.info(text, [(caption, lambda: self._run(step))])

    def name(self) -> str:
        """What :meth:`undo` would take back; empty if there is nothing."""
        return self._steps[-1][0] if self._steps else ""

    def undo(self) -> bool:
        """Take the newest back. False if there is nothing."""
        if not self._steps:
            return False
        self._run(self._steps[-1])
        return True

    def _run(self, step: tuple[str, Callable[[], object]]) -> None:
        if step in self._steps:
            self._steps.remove(step)
            step[1]()
