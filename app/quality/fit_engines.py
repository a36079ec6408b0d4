"""What a fit measures with: the loaded reference, windows of text with its answers, and who is told how far it is."""

from __future__ import annotations

import math
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from app import hardware, paths
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.protocol import Event, Status
from app.quality import feedback
from app.quality.divergence import Rows, compare, first_scored, score, scored_per_window
from app.quality.spreads import Spread
from converter.spec import Cancelled

By = dict[str, float]
"""Mean divergence by text."""

STATUS_SECONDS = 0.2

FEWEST = 6
"""Windows of which half would say too little."""


class Engines:
    """The reference, loaded once where it uses all cores, else once a core; jobs are spread over them."""

    def __init__(self, models: Sequence[Model], stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._free: queue.SimpleQueue[tuple[Model, Grafts]] = queue.SimpleQueue()
        for model in models:
            self._free.put((model, Grafts(model)))
        self._count = len(models)

    def run(self, jobs: Sequence[Callable[[Model, Grafts], Any]], did: Callable[[], None]) -> list[Any]:
        """The results of ``jobs``, in order; ``did`` is called after each, in whatever thread."""

        def one(job: Callable[[Model, Grafts], Any]) -> Any:
            if self._stopped():
                raise Cancelled
            engine = self._free.get()
            try:
                return job(*engine)
            finally:
                self._free.put(engine)
                did()

        with ThreadPoolExecutor(self._count, "engines") as pool:
            return list(pool.map(one, jobs))


class Sample:
    """Windows of several texts, and the reference's logits of them in a file without a name."""

    def __init__(self, windows: feedback.Windows, context: int, vocabulary: int) -> None:
        self.windows = windows
        self._file = tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-")  # noqa: SIM115 - closed on leaving
        shape = (max(1, self.count), scored_per_window(context), vocabulary)
        self._kept = np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape)
        self._rows: dict[tuple[str, int], Rows] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self.windows.values()))

    def places(self) -> list[tuple[str, int, int]]:
        """(text, window of it, place among all)."""
        found = [(name, number) for name, windows in self.windows.items() for number in range(len(windows))]
        return [(name, number, place) for place, (name, number) in enumerate(found)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.clear()
        self._file.close()

    def keep(self, where: tuple[str, int, int], model: Model, grafts: Grafts) -> None:
        """Keep the reference's logits of one window."""
        name, number, place = where
        window = self.windows[name][number]
        first = first_scored(len(window))
        self._kept[place] = model.window_logits(window, first)[:-1]
        self._rows[name, number] = score(self._kept[place], window[first + 1 :], keep=False)

    def forget_unknown(self) -> None:
        """Leave out texts that the reference does not know, such as languages that it never learned."""
        losses = {
            name: float(np.mean([self._rows[name, number].nll.mean() for number in range(len(windows))]))
            for name, windows in self.windows.items()
        }
        strange = feedback.unknown(losses)
        self.windows = {name: windows for name, windows in self.windows.items() if name not in strange}

    def first(self) -> set[tuple[str, int]]:
        """Half of the windows (text, number), of as many texts as can be: what is looked at first. All of a few."""
        most = max(map(len, self.windows.values()), default=0)
        turns = [(name, number) for number in range(most) for name in self.windows if number < len(self.windows[name])]
        return set(turns[::2] if len(turns) >= FEWEST else turns)

    def divergence(self, model: Model, places: Collection[tuple[str, int]] | None = None) -> Spread:
        """The mean KLD of the model as it is now, by text and window; ``places``: of these windows alone."""
        return {
            name: [
                self._window(model, name, number) if places is None or (name, number) in places else math.nan
                for number in range(len(windows))
            ]
            for name, windows in self.windows.items()
        }

    def _window(self, model: Model, name: str, number: int) -> float:
        window = self.windows[name][number]
        logits = model.window_logits(window, first_scored(len(window)))[:-1]
        return float(compare(self._rows[name, number], logits).kld.mean())


class Teller:
    """Progress, in windows that were computed."""

    def __init__(self, emit: Callable[[Event], None], stopped: Callable[[], bool]) -> None:
        self._emit = emit
        self._stopped = stopped
        self._began = self._start = time.monotonic()
        self._label = ""
        self._done, self._total = 0, 1
        self._next = 0.0
        self._lock = threading.Lock()

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def plan(self, total: int) -> None:
        """So many windows are to be computed from now on."""
        self._done, self._total = 0, max(1, total)
        self._start = time.monotonic()

    def say(self, label: str) -> None:
        if self._stopped():
            raise Cancelled
        self._label = label
        self.tick(0)

    def note(self, label: str) -> None:
        """What is done now, which is not measured in windows."""
        self._label = label
        self.tick(0)

    def tick(self, windows: int = 1) -> None:
        """``windows`` more are done."""
        with self._lock:
            self._done = min(self._total, self._done + windows)
            now = time.monotonic()
            if windows and now < self._next:
                return
            self._next = now + STATUS_SECONDS
            spent = now - self._start
            left = spent / self._done * (self._total - self._done) if self._done > 4 else None
            self._emit(Status(self._label, self._done, self._total, left, hardware.anonymous_memory()))


__all__ = ["By", "Engines", "Sample", "Teller"]
