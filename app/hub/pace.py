"""How fast a transfer goes: a limit that several threads share, and a rate that says how long it will take."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

LEAST_RATE = 16 << 10
"""Bytes a second: below it a limit would look like a connection that has died."""

_WINDOW = 6.0


class Bucket:
    """A token bucket: on average ``rate`` bytes a second for all threads together; 0 for no limit.

    It holds a quarter of a second's worth, so that the flow is even.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._level = 0.0
        self._filled = clock()
        self._rate = 0
        self.set_rate(rate)

    def set_rate(self, rate: int) -> None:
        """Another limit from now on."""
        with self._lock:
            self._rate = max(LEAST_RATE, rate) if rate > 0 else 0
            self._level, self._filled = 0.0, self._clock()

    def take(self, count: int) -> float:
        """Take ``count`` bytes, and say for how many seconds to wait before going on."""
        with self._lock:
            if not self._rate:
                return 0.0
            now = self._clock()
            self._level = min(self._rate / 4, self._level + (now - self._filled) * self._rate) - count
            self._filled = now
            return max(0.0, -self._level / self._rate)


class Meter:
    """Bytes a second over the last six seconds. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        """So many bytes have been fetched since the start."""
        now = self._clock()
        self._marks.append((now, done))
        while len(self._marks) > 2 and self._marks[1][0] < now - _WINDOW:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        if len(self._marks) < 2:
            return 0.0
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return max(0.0, (last - first) / (end - start)) if end > start else 0.0
