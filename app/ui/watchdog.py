"""Notices an engine that has stopped answering: one that hangs says nothing, so somebody has to count the seconds.

A worker that writes an answer is heard of at least once a second, whatever it computes. Silence for much longer means
that it hangs, or that the machine does (memory that is being written to the disk): it is said, and a person decides. An
answer that was to stop is another matter. It ends within milliseconds, or its engine never will, and is ended.
"""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer, Signal

SILENT_MS = 20_000
STOP_MS = 5_000


class Watchdog(QObject):
    """``silent`` when a watched engine has not been heard of for too long, ``awake`` when it is after all, ``deaf``
    when one that was told to stop did not."""

    silent = Signal()
    awake = Signal()
    deaf = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.is_silent = False
        self._silence = QTimer(self, singleShot=True)
        self._silence.timeout.connect(self._say)
        self._stopping = QTimer(self, singleShot=True)
        self._stopping.timeout.connect(self.deaf)
        self.set_patience(SILENT_MS, STOP_MS)

    def set_patience(self, silent_ms: int, stop_ms: int) -> None:
        """How long silence, and going on after a stop, are nothing to speak of."""
        self._silence.setInterval(silent_ms)
        self._stopping.setInterval(stop_ms)

    def watch(self, on: bool) -> None:
        """From now on it is to be heard of; or nothing is expected of it any more."""
        if on:
            self._silence.start()
        else:
            self._silence.stop()
            self._stopping.stop()
            self._heard()

    def hear(self) -> None:
        """It said something."""
        if self._silence.isActive() or self.is_silent:
            self._silence.start()
            self._heard()

    def stopping(self) -> None:
        """It was told to stop."""
        if not self._stopping.isActive():
            self._stopping.start()

    def _say(self) -> None:
        self.is_silent = True
        self.silent.emit()

    def _heard(self) -> None:
        if self.is_silent:
            self.is_silent = False
            self.awake.emit()
