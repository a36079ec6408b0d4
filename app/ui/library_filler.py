"""Puts the rows of a long list together in a thread, so that the window goes on drawing and answering."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PySide6.QtCore import QObject, Qt, QTimer, Signal

from app.local.entry import Listed
from app.ui.library_rows import Quality, Room, Row, rows_of
from app.ui.library_table import Group, arranged

POLL_MS = 20
PAUSE = 4
"""After a filling comes a pause of this many times what it took: during a scan there is always a newer one."""
_View = tuple[str, int, Qt.SortOrder]
_Measured = tuple[dict[str, Quality], dict[str, float]]
_Work = tuple[list[Listed], _Measured, Room, _View]


@dataclass(frozen=True)
class Filling:
    """Rows, how they stand in the table, and for which filter and order."""

    rows: list[Row]
    groups: list[Group]
    view: _View


class Filler(QObject):
    """``start`` asks for a filling, ``filled`` carries it; of several that are asked for meanwhile the last counts.

    The thread is given plain data and gives plain data back: it knows no widget and no store.
    """

    filled = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pool: ThreadPoolExecutor | None = None
        self._future: Future[Filling] | None = None
        self._next: _Work | None = None
        self._begun = 0.0
        self._resume = 0.0
        self._closed = False
        self._timer = QTimer(self, interval=POLL_MS)
        self._timer.timeout.connect(self._look)

    def start(self, models: list[Listed], measurements: _Measured, room: Room, view: _View) -> None:
        self._next = (models, measurements, room, view)
        if not self._closed:
            self._timer.start()

    def close(self) -> None:
        """Nothing is filled any more."""
        self._closed = True
        self._timer.stop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _look(self) -> None:
        now = time.monotonic()
        if self._future is not None and self._future.done():
            filling, self._future = self._future.result(), None
            self._resume = now + PAUSE * (now - self._begun)
            self.filled.emit(filling)
        elif self._future is None and self._next is not None and now >= self._resume:
            work, self._next = self._next, None
            self._begun = now
            self._pool = self._pool or ThreadPoolExecutor(1, "library")
            self._future = self._pool.submit(_fill, work)
        elif self._future is None and self._next is None:
            self._timer.stop()


def _fill(work: _Work) -> Filling:
    models, measurements, room, view = work
    rows = rows_of(models, measurements, room)
    return Filling(rows, arranged(rows, *view), view)
