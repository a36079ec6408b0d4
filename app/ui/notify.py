"""Short messages to the user. Pages post; the window shows them and takes them away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QObject, Signal

from converter.spec import QuenchError

Action = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Notice:
    """One message. ``kind`` is ``info``, ``good`` or ``bad``; a bad one carries its error and stays until closed."""

    kind: str
    text: str
    error: QuenchError | None = None
    actions: tuple[Action, ...] = ()


class Notify(QObject):
    """The message board; ``posted`` carries a :class:`Notice`."""

    posted = Signal(object)

    def info(self, text: str, actions: list[Action] | None = None) -> None:
        self.posted.emit(Notice("info", text, None, tuple(actions or ())))

    def good(self, text: str, actions: list[Action] | None = None) -> None:
        self.posted.emit(Notice("good", text, None, tuple(actions or ())))

    def error(self, error: QuenchError, actions: list[Action] | None = None) -> None:
        self.posted.emit(Notice("bad", error.title, error, tuple(actions or ())))
