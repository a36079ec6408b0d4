"""A random model folder to a 16-bit GGUF by us and by llama.cpp's converter, in turns: seconds, and memory at its peak.

Usage: python -m tests.bench.sixteen_bit --torch-python PYTHON [--size 1B] [--type BF16] [--repeat 3] [--sdist FOLDER]
       [--models FOLDER] [--outputs FOLDER]

Prints one JSON object. Seconds are medians of whole processes with a warm page cache. ``quench`` is with all checks,
``unchecked`` without the engine's trial of the finished file (``--no-check``). Both flush their file to the disk, which
llama.cpp does not: for a comparison without the disk ``--outputs`` names a folder in memory (``/dev/shm``). Memory is
the largest sum over a program and its children, looked at every 20 ms: ``anonymous`` is what they own, ``resident`` has
the pages of mapped files too, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

import kernels
from app import hardware
from tests.bench.convert import ours, size_of, unpacked
from tests.bench.models import SHAPES, write_model

_LOOK = 0.02


class Runs:
    """What one program cost, time after time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.anonymous = 0
        self.resident = 0

    def run(self, command: Sequence[str]) -> None:
        """Runs a program to its end and watches its memory."""
        start = time.perf_counter()
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(list(command), stdout=subprocess.DEVNULL, stderr=errors) as child,
        ):
            tree = psutil.Process(child.pid)
            while child.poll() is None:
                self._look(tree)
                time.sleep(_LOOK)
            self.seconds.append(time.perf_counter() - start)
            if child.returncode:
                errors.seek(0)
                raise SystemExit(f"{' '.join(command)}\n{errors.read().decode(errors='replace')[-2000:]}")

    def _look(self, tree: psutil.Process) -> None:
        anonymous = resident = 0
        try:
            for process in [tree, *tree.children(recursive=True)]:
                own, all_of_it = _memory(process.pid)
                anonymous, resident = anonymous + own, resident + all_of_it
        except (psutil.NoSuchProcess, OSError):
            return  # one has just ended
        self.anonymous, self.resident = max(self.anonymous, anonymous), max(self.resident, resident)

    def row(self) -> dict[str, float]:
        return {
            "seconds": round(statistics.median(self.seconds), 2),
            "anonymous_mib": round(self.anonymous / 2**20),
            "resident_mib": round(self.resident / 2**20),
        }

    def over(self, other: Runs) -> dict[str, float]:
        """How many times as much it took as ``other``."""
        mine, its = self.row(), other.row()
        return {key: round(value / its[key], 2) for key, value in mine.items()}


def _memory(pid: int) -> tuple[int, int]:
    """Anonymous and resident bytes of a process, of Linux's ``/proc``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssA", "VmRSS"))}
    return sizes.get("RssAnon", 0), sizes.get("VmRSS", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Conversion to 16 bits against llama.cpp's converter.")
    parser.add_argument("--torch-python", required=True, help="a Python that has torch and transformers")
    parser.add_argument("--size", default="1B", choices=list(SHAPES))
    parser.add_argument("--type", default="BF16", choices=("BF16", "F16"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sdist", type=Path, help="llama.cpp's sources, unpacked")
    parser.add_argument("--outputs", type=Path, help="where the results are written")
    parser.add_argument("--models", type=Path, help="where models are kept for the next time")
    options = parser.parse_args()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.models)))
        script = (options.sdist or unpacked(work)) / "convert_hf_to_gguf.py"
        model = (options.models or work) / options.size
        if not model.is_dir():
            write_model(model, SHAPES[options.size])
        outputs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.outputs)))
        their_file, our_file = outputs / "theirs.gguf", outputs / "ours.gguf"
        their_options = ["--outfile", str(their_file), "--outtype", options.type.lower()]
        their_command = [options.torch_python, str(script), str(model), *their_options]
        mine, unchecked, theirs = Runs(), Runs(), Runs()
        for _ in range(options.repeat):
            theirs.run(their_command)
            mine.run(ours(model, our_file, options.type))
            unchecked.run([*ours(model, our_file, options.type), "--no-check"])
        if abs(their_file.stat().st_size - our_file.stat().st_size) > 1 << 20:
            raise SystemExit("the two files are not of the same size")
        report: dict[str, Any] = {
            "cpu": kernels.cpu() or hardware.cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "parameters": size_of(model) // 2,
            "type": options.type,
            "repeat": options.repeat,
            "quench": mine.row(),
            "unchecked": unchecked.row(),
            "llama.cpp": theirs.row(),
            "ratio": theirs.over(mine),
            "ratio_unchecked": theirs.over(unchecked),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
