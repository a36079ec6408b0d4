"""How smoothly a long compared answer scrolls: the time of every frame while a shaded answer goes by.

    python -m tests.bench.compare_scroll [--tokens 2000] [--frames 300]

A frame is one step of the scroll bar and the painting of everything that it uncovers, offscreen, on one core: what a
compositor and a screen add is not in it. On a machine that has other work the second line, the processor's time of the
window's thread, says what a frame costs by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QUENCH_HOME", tempfile.mkdtemp(prefix="quench-bench-"))

from PySide6.QtWidgets import QApplication, QWidget

from app import hardware
from app.protocol import Alternative, ScoredToken
from app.ui.application import create_application
from app.ui.compare import ComparePage
from app.ui.compare_column import ANSWERS, DIVERGENCE, FREE_RUN
from app.ui.context import Context

WORDS = (
    "the",
    "a",
    "fox",
    "river",
    "mill",
    "lamp",
    "boat",
    "old",
    "kind",
    "little",
    "found",
    "lost",
    ".",
    ",",
    "!",
    "-",
)
BREAK = "\n\n"


def tokens(count: int, seed: int) -> tuple[ScoredToken, ...]:
    """An answer with everything that a model writes: words, marks, paragraphs."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        text = chance.choice(WORDS) if chance.random() < 0.98 else BREAK
        text = text if text in (*".,!", BREAK) else f" {text}"
        top = tuple(Alternative(chance.choice(WORDS), 0.5 / rank) for rank in range(1, 6))
        made.append(ScoredToken(text, 0.4, chance.expovariate(8), chance.random() < 0.9, top, top))
    return tuple(made)


def frames(view: QWidget, count: int) -> list[tuple[float, float]]:
    """Seconds of each frame on the way from the top to the end, and what of them this thread computed."""
    bar = view.verticalScrollBar()
    spent = []
    for number in range(count):
        bar.setValue(round(bar.maximum() * number / (count - 1)))
        start, before = time.perf_counter(), time.thread_time()
        view.viewport().repaint()
        QApplication.processEvents()
        spent.append((time.perf_counter() - start, time.thread_time() - before))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args()
    create_application(["quench"])
    context = Context()
    page = ComparePage(context)
    page.resize(1192, 772)
    page.show()
    scored = [tokens(options.tokens, seed) for seed in (1, 2)]
    texts = ["".join(token.text for token in each) for each in scored]
    theirs, own = (tuple(token.text for token in each) for each in scored)
    column = page.columns[1]
    print(f"{hardware.cpu_name()}, {options.tokens} tokens, {options.frames} frames")
    for name, fill in (
        (DIVERGENCE, lambda: column.divergence.set_tokens(scored[0], 30)),
        (FREE_RUN, lambda: column.free.set_answer(own, theirs, scored[1])),
        (ANSWERS, lambda: column.feed(texts[0])),
    ):
        start = time.perf_counter()
        fill()
        column.show_view(name)
        QApplication.processEvents()
        shown = time.perf_counter() - start
        view = {DIVERGENCE: column.divergence, FREE_RUN: column.free, ANSWERS: column.transcript}[name]
        spent = frames(view, options.frames)
        print(f"{name}: shown in {1000 * shown:.0f} ms")
        for what, seconds in zip(("a frame", "computed"), zip(*spent, strict=True), strict=True):
            ranked = sorted(1000 * each for each in seconds)
            middle, most = ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.95)]
            print(f"  {what:9} median {middle:5.2f} ms, 95 % under {most:5.2f} ms, all under {ranked[-1]:5.2f} ms")
    page.closing()
    context.close()


if __name__ == "__main__":
    main()
