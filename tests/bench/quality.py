"""What comparing a candidate costs a window: `quench quality` with a kept reference against llama-perplexity, in turns.

Usage: python -m tests.bench.quality [--models pocket,0.2B-128k] [--windows 2,8] [--repeat 3] [--threads 2]
       [--text FILE] [--type Q4_K_M] [--keep FOLDER]

Prints one JSON object. Both read the same two files and the same windows of 512 tokens of one text, on as many threads:
we have the reference's answers in a ``.qref`` file, the tool has them in its base file (``--kl-divergence``). Every run
is a whole process, whose threads wait as the program has it by itself. A window costs the difference of a long and a
short run over the difference of their windows, so that loading and starting do not count; ``processor`` is the
processor's time of all threads, which other programs on the machine disturb less than ``seconds``. ``both``
(``--both``) is the same for a reference that has to compute as well: our run of two models, and the tool's two passes.
Ratios are the tool's time over ours within a repeat, their median.

``inside`` is our run looked at from within, once: which part of the time from its first window to its last is the
engine's decode, the product of the kept states with the output matrix, the kernels' walk over the logits, and all else.

The tool is built from the pinned engine's sources the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import converter
import kernels
from app import hardware
from app.engine.head import Head
from app.engine.model import Model
from app.measure_messages import MeasureQuality
from app.quality.lab import QualityRun
from app.quality.texts import BUNDLED
from resources import path as resource_path
from tests.bench.models import SHAPES, write_model
from tests.quality import reference_tool

CONTEXT = 512


class Cost:
    """Seconds and processor seconds of whole processes, by the number of windows that they took."""

    def __init__(self) -> None:
        self.times: dict[int, list[tuple[float, float]]] = {}

    def run(self, windows: int, command: Sequence[str]) -> None:
        usage, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(list(command), capture_output=True, text=True, check=False)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        spent = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        self.times.setdefault(windows, []).append((wall, spent))

    def a_window(self) -> list[tuple[float, float]]:
        """Seconds and processor seconds of a window, one pair a repeat."""
        few, many = sorted(self.times)
        return [
            ((long[0] - short[0]) / (many - few), (long[1] - short[1]) / (many - few))
            for short, long in zip(self.times[few], self.times[many], strict=True)
        ]

    def whole(self) -> float:
        """Seconds of the longer runs as they are, with loading; their median."""
        return round(statistics.median(wall for wall, _ in self.times[max(self.times)]), 2)


def row(ours: Cost, tool: Cost) -> dict[str, Any]:
    mine, theirs = ours.a_window(), tool.a_window()

    def middle(values: Sequence[float]) -> float:
        return round(statistics.median(values), 4)

    return {
        "seconds": {"ours": middle([a for a, _ in mine]), "tool": middle([a for a, _ in theirs])},
        "processor": {"ours": middle([b for _, b in mine]), "tool": middle([b for _, b in theirs])},
        "ratio": middle([b[0] / a[0] for a, b in zip(mine, theirs, strict=True)]),
        "ratio_processor": middle([b[1] / a[1] for a, b in zip(mine, theirs, strict=True)]),
        "ratios_processor": [round(b[1] / a[1], 3) for a, b in zip(mine, theirs, strict=True)],
        "whole_run": {"ours": ours.whole(), "tool": tool.whole()},
    }


class Pair:
    """A reference and a candidate, both as files."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        source = folder / name
        if name == "pocket":
            source = resource_path("pocket")
        elif not source.is_dir():
            write_model(source, SHAPES[name])
        self.reference, self.candidate = (self._file(source, name, kind) for kind in ("F16", options.type))

    def _file(self, source: Path, name: str, kind: str) -> Path:
        target = self.folder / f"{name}-{kind}.gguf"
        if not target.exists():
            converter.convert(converter.ConversionSpec(str(source), str(target), (kind,)))
        return target

    def ours(self, reference: Path, windows: int, *more: str) -> list[str]:
        text = ["--text", str(self.options.text), "--context", str(CONTEXT), "--chunks", str(windows)]
        threads = ["--threads", str(self.options.threads), "--json"]
        return [sys.executable, "-m", "app", "--home", str(self.folder / "home"), "quality", str(reference), *more,
                *text, *threads]  # fmt: skip

    def tool(self, model: Path, windows: int, *more: str) -> list[str]:
        base = self.folder / f"{model.parent.name}-{windows}.kld"
        return [str(self.options.tool), "-m", str(model), "-f", str(self.options.text), "-c", str(CONTEXT),
                "--chunks", str(windows), "-t", str(self.options.threads), "--kl-divergence-base", str(base),
                *more]  # fmt: skip

    def measure(self) -> dict[str, Any]:
        saved = {windows: self.folder / f"answers-{windows}.qref" for windows in self.options.windows}
        kept, alone, two, first = Cost(), Cost(), Cost(), Cost()
        for _ in range(self.options.repeat):
            for windows, answers in saved.items():
                if self.options.both or not answers.exists():
                    first.run(windows, self.tool(self.reference, windows))
                if not answers.exists():
                    Cost().run(windows, self.ours(self.reference, windows, "--fingerprint", str(answers)))
                kept.run(windows, self.ours(answers, windows, str(self.candidate)))
                alone.run(windows, self.tool(self.candidate, windows, "--kl-divergence"))
                if self.options.both:
                    two.run(windows, self.ours(self.reference, windows, str(self.candidate)))
        found = {"kept": row(kept, alone)}
        if self.options.both:
            passes = Cost()
            passes.times = {
                windows: [(a[0] + b[0], a[1] + b[1]) for a, b in zip(first.times[windows], found_, strict=True)]
                for windows, found_ in alone.times.items()
            }
            found["both"] = row(two, passes) | {"inside": self.inside(self.reference)}
        found["kept"]["inside"] = self.inside(saved[max(saved)])
        return found

    def inside(self, reference: Path) -> dict[str, Any]:
        """One run in this process, and what its time went into."""
        watch = Watch()
        command = MeasureQuality(
            str(reference), (str(self.candidate),), (str(self.options.text),), context=CONTEXT,
            chunks=max(self.options.windows), threads=self.options.threads,
        )  # fmt: skip
        with (
            watch.on(Model, "window_logits", "decode"),
            watch.on(Head, "logits", "product"),
            watch.on(kernels, "score_rows", "score"),
            watch.on(kernels, "compare_rows", "compare"),
        ):
            QualityRun(command, lambda event: None, lambda: False).run()
        return watch.shares()


class Watch:
    """Seconds and processor seconds inside some functions, and of all from the first call to the end of the last."""

    def __init__(self) -> None:
        self.spent: dict[str, list[tuple[float, float]]] = {}
        self.first: tuple[float, float] | None = None
        self.last = (0.0, 0.0)

    @contextmanager
    def on(self, owner: Any, name: str, label: str) -> Iterator[None]:
        true = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            start = _now()
            self.first = self.first or start
            try:
                return true(*given, **named)
            finally:
                self.last = end = _now()
                self.spent.setdefault(label, []).append((end[0] - start[0], end[1] - start[1]))

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, true)

    def shares(self) -> dict[str, Any]:
        assert self.first is not None
        whole = [self.last[kind] - self.first[kind] for kind in (0, 1)]
        found: dict[str, Any] = {}
        for kind, name in enumerate(("seconds", "processor")):
            parts = {label: sum(each[kind] for each in calls) / whole[kind] for label, calls in self.spent.items()}
            parts["else"] = 1 - sum(parts.values())
            found[name] = {label: round(part, 4) for label, part in parts.items()}
        return found


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description="Comparing a candidate, against llama-perplexity.")
    parser.add_argument("--models", default="pocket,0.2B-128k", help=f"pocket, {', '.join(SHAPES)}")
    parser.add_argument("--windows", default="2,8", help="of the short and of the long run")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--type", default="Q4_K_M", help="of the candidate; the reference is F16")
    parser.add_argument("--text", type=Path, help="a plain text; all bundled ones together unless given")
    parser.add_argument("--both", action="store_true", help="with the reference's pass as well")
    parser.add_argument("--keep", type=Path, help="where models are kept for the next time")
    options = parser.parse_args()
    options.windows = tuple(int(count) for count in options.windows.split(","))
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # as in a worker; numpy reads it when it is loaded
        command = [sys.executable, "-m", "tests.bench.quality", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    options.tool = reference_tool.build()
    report: dict[str, Any] = {
        "cpu": kernels.cpu() or hardware.cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernels": kernels.active(),
        "threads": options.threads,
        "windows": options.windows,
        "repeat": options.repeat,
        "load": os.getloadavg()[0],
        "models": {},
    }
    with tempfile.TemporaryDirectory(dir=options.keep) as temporary:
        if options.text is None:
            options.text = Path(temporary) / "text.txt"
            parts = [resource_path(place) for place in BUNDLED.values() if place.endswith(".txt")]
            options.text.write_text("\n\n".join(part.read_text("utf-8") for part in parts), "utf-8")
        for name in options.models.split(","):
            folder = (options.keep or Path(temporary)) / f"pair-{name}"
            folder.mkdir(exist_ok=True)
            report["models"][name] = Pair(name, folder, options).measure()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
