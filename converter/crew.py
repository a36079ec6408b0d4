"""Threads that take tasks off one list: whoever is free takes the next one, nobody waits for a thread that hands out.

The thread that owns the crew only looks on (progress, cancel). A task that is a few milliseconds of C without the
interpreter's lock then costs two short steps under it, not a round trip through another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Task = TypeVar("Task")


class Crew(Generic[Task]):
    """Runs ``work(task, crew)`` for every task of ``tasks`` in ``threads`` threads.

    ``tasks`` is advanced by one thread at a time. The first error, of either, ends the crew and comes out of
    :meth:`watch`. Leaving the ``with`` block stops the threads after what they are at and waits for them.
    """

    def __init__(self, threads: int, tasks: Iterator[Task], work: Callable[[Task, Crew[Task]], None]) -> None:
        self._tasks = tasks
        self._work = work
        self._taking = threading.Lock()
        self._change = threading.Condition()
        self._called = False
        self._error: BaseException | None = None
        self._stop = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"quantize {number}", daemon=True) for number in range(threads)
        ]
        self._at_work = 0

    @property
    def stopping(self) -> bool:
        """Whether a task may end early, because nothing will come of it."""
        return self._stop

    def call(self) -> None:
        """Makes :meth:`watch` return at once: there is something to look at."""
        with self._change:
            self._called = True
            self._change.notify()

    def watch(self, timeout: float) -> bool:
        """Waits for :meth:`call`, the end or ``timeout`` seconds; False once all tasks are done."""
        with self._change:
            self._change.wait_for(lambda: self._called or not self._at_work, timeout)
            self._called = False
            if self._error is not None:
                raise self._error
            return self._at_work > 0

    def _serve(self) -> None:
        try:
            while not self._stop:
                with self._taking:
                    task = next(self._tasks, None)
                if task is None:
                    break
                self._work(task, self)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that watches
            with self._change:
                self._error = self._error or error
                self._stop = True
        finally:
            with self._change:
                self._at_work -= 1
                self._called = self._called or self._error is not None
                self._change.notify()

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                with self._change:
                    self._at_work += 1
                thread.start()
        except BaseException:
            with self._change:
                self._at_work -= 1
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._stop = True
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
