"""One whole fit, in a process of its own that starts a worker for each step: whichever dies, the window hears of it.

``Wish`` is answered by ``FitProgress`` messages and, of the last step, by ``FitChosen``, ``Planned`` and
``TensorDone``; then comes ``Fitted``. A cancel or a pause goes on to the worker of the step, which leaves by itself if
this process is killed: its input ends then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app import fitting
from app.child import Child, run_job
from app.fit_messages import (
    IMPORTANCE,
    JUDGED,
    JUDGING,
    PROBING,
    STEPS,
    WRITING,
    FitChosen,
    FitProgress,
    Wish,
)
from app.measure_messages import ImatrixUpdate
from app.protocol import Cancel, Command, Event, KernelsChecked, Status
from app.workers.runtime import Connection, Throttle
from converter.spec import Cancelled, Planned, Progress, TensorDone

PER_SECOND = 10
_PARTS = 10_000
"""What a whole fit is divided into for its progress."""


def serve(connection: Connection) -> None:
    """Answer one :class:`Wish`. Raises what :func:`app.fitting.run` raises."""
    workers = _Workers(connection)
    for command in connection.commands():
        if isinstance(command, Wish):
            steps = Steps(fitting.preview(command).seconds, connection.send)
            connection.send(fitting.run(command, steps.heard, steps.begin, workers.run))
            return


class _Workers:
    """The worker of the step that runs, to which a stop is passed on at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now: Child | None = None
        self._lock = threading.Lock()
        connection.intercept(self._stop)

    def run(self, kind: str, command: Command, on_event: Callable[[Event], None]) -> Event:
        """As :func:`app.child.run_job`."""
        try:
            return run_job(kind, command, on_event, started=self._started)
        finally:
            with self._lock:
                self._now = None

    def _started(self, child: Child) -> None:
        with self._lock:
            if self._connection.cancelled.is_set():
                child.kill()
                raise Cancelled
            self._now = child

    def _stop(self, command: Command) -> bool:
        if isinstance(command, Cancel):
            with self._lock:
                if self._now is not None:
                    self._now.cancel(keep=self._connection.paused.is_set())
        return False


class Steps:
    """From the events of single steps to the progress of the whole. ``expected``: seconds by step, for those to come.

    ``clock`` gives seconds (tests have their own).
    """

    def __init__(
        self, expected: dict[str, float], send: Callable[[Event], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._expected = expected
        self._send = send
        self._clock = clock
        self._throttle = Throttle(PER_SECOND)
        self._step = ""
        self._begun = 0.0
        self._before = 0.0
        self._most = 0.0

    def begin(self, step: str, words: str) -> None:
        """A step begins; those before it are done, or were not to be done."""
        self._step, self._begun, self._before = step, self._clock(), 0.0
        self._tell(0.0, words, None, 0, None)

    def heard(self, event: Event) -> None:
        """An event of the step's worker."""
        if isinstance(event, FitChosen | KernelsChecked) or (
            isinstance(event, Planned | TensorDone) and self._step == WRITING
        ):
            self._send(event)
        elif isinstance(event, Progress) and (self._throttle.ready() or event.done == event.total):
            part = event.done / event.total if event.total else 0.0
            self._tell(part, event.label, event.seconds_left, event.memory, event.rate or None)
        elif isinstance(event, ImatrixUpdate):
            label = f"Window {event.chunks} of {event.total}"
            self._tell(event.chunks / event.total, label, event.seconds_left, event.memory, None)
        elif isinstance(event, Status):
            self._status(event)

    def _status(self, event: Status) -> None:
        done = event.done / event.total if event.total else 0.0
        if self._step == PROBING and event.label == JUDGING:
            self._step, self._begun, self._before = JUDGED, self._clock(), done
        elif self._step == IMPORTANCE:
            if event.seconds_left is not None:
                return  # an ImatrixUpdate says the same
            done = 0.0  # the model is loaded
        part = (done - self._before) / (1 - self._before) if self._before < 1 else 1.0
        left = event.seconds_left
        if self._step == PROBING and left is not None:  # what it says is for judging as well
            left = max(0.0, left - self._expected.get(JUDGED, 0.0))
        self._tell(part, event.label, left, event.memory, None)

    def _tell(self, part: float, label: str, left: float | None, memory: int, rate: float | None) -> None:
        done, later = self._weights()
        here = self._expected.get(self._step, 0.0)
        whole = done + here + later
        self._most = max(self._most, (done + part * here) / whole if whole else part)
        if left is None and part > 0:
            left = (self._clock() - self._begun) / part * (1 - part)
        elif left is None and here:
            left = here
        all_left = None if left is None else left + later
        message = FitProgress(
            self._step, label, round(_PARTS * self._most), _PARTS, all_left, part, left, memory=memory, rate=rate
        )
        self._send(message)

    def _weights(self) -> tuple[float, float]:
        """Expected seconds of the steps before and after the present one."""
        at = STEPS.index(self._step)
        seconds = [self._expected.get(step, 0.0) for step in STEPS]
        return sum(seconds[:at]), sum(seconds[at + 1 :])


__all__ = ["Steps", "serve"]
