"""Is the window as fast as the engine? Chat on a real window against llama-bench, in turns, on one file.

Usage: python -m tests.bench.window MODEL.gguf [--threads N] [--tokens 128] [--repeat 5]

MODEL should not end its answers by itself (random weights do not). llama-bench is built from the engine's pinned
sources the first time. Prints one JSON object:

``generation``: tokens/s under the answer in the window and of llama-bench at the same depth, threads and context, in
turns; ``by_quarter`` is milliseconds a token over the answer, first quarter first. ``own``: what the window itself took
meanwhile, in milliseconds of the processor a token and a second, and how often a second it was painted.
``second_turn``: seconds to the first token of a second question, against llama-bench's time for its new tokens alone
and one more.
``frames``: milliseconds of the window's event loop around each paint while answers stream (up to one too many), and
tokens/s then, of the model and of Pocket.
``start``: seconds from the start of the program to a painted window, with warm caches.
``pocket``: seconds from choosing Pocket and asking to the first words, the start of its engine included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

QUESTION = "Tell me a long story about a fox, a bear and the sea."
SECOND = "And what did the bear say to the fox when winter came, and the sea was frozen from one shore to the other?"


class Bench:
    """llama-bench on one file."""

    def __init__(self, model: str, threads: int) -> None:
        from tests.quality.reference_tool import build

        self._command = [str(build("llama-bench")), "-m", model, "-t", str(threads), "-r", "1", "-o", "json"]

    def rate(self, *, prompt: int = 0, tokens: int = 0, depth: int = 0) -> float:
        """tokens/s for one run."""
        sizes = ["-p", str(prompt), "-n", str(tokens), "-d", str(depth)]
        out = subprocess.run([*self._command, *sizes], capture_output=True, text=True, check=True).stdout
        return float(json.loads(out)[0]["avg_ts"])


class Window:
    """A window with its chat page in front, and what its loop did."""

    def __init__(self, model: str, **settings: Any) -> None:
        from app.ui import application
        from app.ui.context import Context

        self.qt = application.create_application(["quench"])
        self.context = Context()
        self.context.update_settings(first_start=False, **settings)
        self.window = application.create_window(self.context)
        self.window.resize(1280, 800)
        self.window.show()
        self.page: Any = self.window.show_page("chat")
        self.page.receive({"model": model})

    def until(self, done: Callable[[], bool], every: int = 100) -> None:
        """Let the window work; it is looked at rarely, which costs the engine nothing."""
        from PySide6.QtCore import QEventLoop, QTimer

        loop = QEventLoop()
        timer = QTimer(interval=every)
        timer.timeout.connect(lambda: loop.quit() if done() else None)
        timer.start()
        loop.exec()

    def ready(self) -> None:
        self.until(lambda: self.page.engine() is not None and self.page.engine().state == "ready")

    def ask(self, text: str) -> tuple[Any, list[tuple[float, int]]]:
        """The engine's figures of an answer, and (time, tokens so far) as they were told."""
        told: list[tuple[float, int]] = []
        ended: list[Any] = []
        engine = self.page.engine()
        heard = engine.tokens.connect(lambda event: told.append((time.perf_counter(), event.tokens)))
        over = engine.replied.connect(ended.append)
        self.page.send(text)
        self.until(lambda: bool(ended) and not self.page.busy())
        engine.tokens.disconnect(heard)
        engine.replied.disconnect(over)
        return ended[0], told

    def close(self) -> None:
        self.window.confirm_quit = lambda count: True
        self.window.close()
        self.context.close()


def by_quarter(told: list[tuple[float, int]]) -> list[float]:
    """Milliseconds a token in each quarter of an answer."""
    found = []
    for quarter in range(4):
        part = told[quarter * len(told) // 4 : (quarter + 1) * len(told) // 4 + 1]
        found.append(round(1000 * (part[-1][0] - part[0][0]) / max(1, part[-1][1] - part[0][1]), 3))
    return found


class Own:
    """What the window takes while it is entered: seconds, its processor's time, and its paints."""

    def __init__(self, window: Window) -> None:
        from PySide6.QtCore import QEvent, QObject

        self.paints, self.seconds, self.processor = 0, 0.0, 0.0
        outer = self

        class Paints(QObject):
            def eventFilter(self, watched: QObject, event: QEvent) -> bool:
                outer.paints += event.type() == QEvent.Type.UpdateRequest
                return False

        self._window = window.window
        self._filter = Paints()

    def __enter__(self) -> Own:
        self._window.installEventFilter(self._filter)
        self._begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begin[0]
        self.processor += time.process_time() - self._begin[1]
        self._window.removeEventFilter(self._filter)

    def figures(self, tokens: int) -> dict[str, float]:
        return {
            "ms_per_token": round(1000 * self.processor / tokens, 3),
            "ms_per_second": round(1000 * self.processor / self.seconds, 1),
            "paints_per_second": round(self.paints / self.seconds, 1),
        }


def generation(window: Window, bench: Bench, tokens: int, repeat: int) -> dict[str, Any]:
    ours, theirs, quarters = [], [], []
    written, own = 0, Own(window)
    for _ in range(repeat):
        window.page.new_chat()
        with own:
            reply, told = window.ask(QUESTION)
        written += reply.tokens
        if reply.tokens < tokens:
            raise SystemExit(f"the model ended its answer after {reply.tokens} tokens; choose one that does not")
        ours.append(reply.tokens_per_second)
        quarters.append(by_quarter(told))
        theirs.append(bench.rate(tokens=tokens, depth=reply.prompt_tokens))
    return {
        "window": [round(rate, 2) for rate in ours],
        "llama_bench": [round(rate, 2) for rate in theirs],
        "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 4),
        "by_quarter": [statistics.median(column) for column in zip(*quarters, strict=True)],
        "own": own.figures(written),
    }


def second_turn(window: Window, bench: Bench, repeat: int) -> dict[str, Any]:
    ours, theirs = [], []
    for _ in range(repeat):
        window.page.new_chat()
        window.ask(QUESTION)
        reply, _ = window.ask(SECOND)
        new = reply.prompt_tokens - reply.prompt_reused
        ours.append(reply.first_token)
        theirs.append(new / bench.rate(prompt=new, depth=reply.prompt_reused))
    return {
        "window": [round(seconds, 4) for seconds in ours],
        "llama_bench": [round(seconds, 4) for seconds in theirs],
        "new_tokens": new,
        "reused": reply.prompt_reused,
        "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
    }


class Frames:
    """What passes between two beats of a timer of a millisecond, if the window was painted meanwhile."""

    def __init__(self, window: Window) -> None:
        from PySide6.QtCore import QEvent, QObject, Qt, QTimer

        self.milliseconds: list[float] = []
        self._painted, self._last = False, time.perf_counter()
        outer = self

        class Paints(QObject):
            def eventFilter(self, watched: QObject, event: QEvent) -> bool:
                if event.type() == QEvent.Type.UpdateRequest:
                    outer._painted = True
                return False

        self._paints = Paints()
        window.window.installEventFilter(self._paints)
        self._heart = QTimer(interval=1, timerType=Qt.TimerType.PreciseTimer)
        self._heart.timeout.connect(self._beat)
        self._heart.start()

    def _beat(self) -> None:
        now = time.perf_counter()
        if self._painted:
            self.milliseconds.append(1000 * (now - self._last))
        self._painted, self._last = False, now

    def stop(self) -> list[float]:
        self._heart.stop()
        return sorted(self.milliseconds)


def frames(window: Window, repeat: int) -> dict[str, float]:
    window.page.new_chat()
    beats = Frames(window)
    rates = [window.ask(QUESTION)[0].tokens_per_second for _ in range(repeat)]
    ordered = beats.stop()
    return {
        "tokens_per_second": round(statistics.median(rates), 1),
        "count": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * len(ordered))], 2),
        "longest": round(ordered[-1], 2),
    }


def start() -> None:
    """Prints the time at which the window of this process has been painted."""
    from app.ui import application
    from app.ui.context import Context

    qt = application.create_application(["quench"])
    context = Context()
    context.update_settings(first_start=False)
    window = application.create_window(context)
    window.show()
    qt.processEvents()
    print("painted", time.time(), flush=True)
    os._exit(0)  # what it would still do is not measured


def start_times(repeat: int) -> list[float]:
    command = [sys.executable, "-m", "tests.bench.window", "--start"]
    found = []
    for _ in range(repeat + 1):
        begin = time.time()
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append(round(float(out.split("painted")[1]) - begin, 3))
    return found[1:]


def pocket_time(window: Window, pocket: str) -> float:
    """From choosing a model and asking to its first words."""
    window.page.new_chat()
    begin = time.perf_counter()
    window.page.receive({"model": pocket})
    heard: list[float] = []
    window.page.engine().tokens.connect(lambda event: heard.append(time.perf_counter()))
    window.page.send("What is the capital of France?")
    window.until(lambda: bool(heard) and not window.page.busy())
    return round(heard[0] - begin, 3)


def main() -> None:
    from app import hardware

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=hardware.physical_cores())
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if not options.start:
            os.environ["QUENCH_HOME"] = str(Path(temporary) / "home")
        if options.start:
            start()
        if not options.model:
            parser.error("which model?")
        print(json.dumps(measured(options, Path(temporary)), indent=1))


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import converter
    import resources
    from app import hardware, kernel_check
    from app.protocol import Sampling

    kernel_check.check()  # once after an update, in processes of its own
    model, threads = str(Path(options.model).absolute()), options.threads
    pocket = str(folder / "pocket-Q8_0.gguf")
    spec = converter.ConversionSpec(source=str(resources.path("pocket")), output=pocket, types=("Q8_0",))
    converter.convert(spec, lambda event: None, lambda: False)
    result: dict[str, Any] = {"cpu": hardware.cpu_name(), "threads": threads, "start": start_times(options.repeat)}
    window = Window(model, threads=threads, sampling=Sampling(max_tokens=options.tokens, seed=1))
    window.ready()
    bench = Bench(model, threads)
    bench.rate(tokens=4)  # the file is in memory from now on
    result["generation"] = generation(window, bench, options.tokens, options.repeat)
    result["second_turn"] = second_turn(window, bench, options.repeat)
    result["frames"] = {"model": frames(window, options.repeat)}
    result["pocket"] = [pocket_time(window, pocket)]
    window.context.update_settings(threads=0)
    result["frames"]["pocket"] = frames(window, options.repeat)
    window.close()
    return result


if __name__ == "__main__":
    main()
