"""How long the engine's threads should look for work before they sleep: milliseconds a token for each way of waiting.

Usage: python -m tests.bench.waiting MODEL.gguf [--threads N] [--tokens 16] [--repeat 9] [--ways ours,settled]

Prints one JSON object. Every way has a process with the model loaded; they take turns, on a quiet machine, beside a
program that works in short bursts as a window does, and beside one that takes a core. ``ours`` is our own library of
threads where it can be used (the log says so), ``settled`` what :mod:`app.engine.waiting` tells the runtime elsewhere,
``default`` what the runtime does unasked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

from app import hardware
from app.engine import waiting

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
    "ours": {},
    "settled": {},
    "100": {"GOMP_SPINCOUNT": "100"},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "10000": {"GOMP_SPINCOUNT": "10000"},
    "100000": {"GOMP_SPINCOUNT": "100000"},
}
BURSTS = """
import time
while True:
    end = time.perf_counter() + 0.003
    while time.perf_counter() < end:
        pass
    time.sleep(0.03)
"""
BESIDE = {"quiet": "", "bursts": BURSTS, "a busy core": "while True: pass"}


def serve(path: str, threads: int) -> None:
    """Answers every number of tokens on the standard input with milliseconds a token."""
    from app.engine.model import Model
    from app.protocol import LoadOptions

    with Model.load(path, LoadOptions(context=512, threads=threads)) as model:
        model.bench_generate(2)
        print("ready", flush=True)
        for line in sys.stdin:
            print(1000 * model.bench_generate(int(line)) / int(line), flush=True)


def start(way: str, path: str, threads: int) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment.update(WAYS[way])
    if way == "settled":
        waiting.settle(environment)
    elif way == "default":
        environment["OMP_WAIT_POLICY"] = "undefined"  # no policy of the runtime: it says so and goes by its own
    command = [sys.executable, "-m", "tests.bench.waiting", path, "--threads", str(threads), "--serve"]
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


def ask(child: subprocess.Popen[str], tokens: int) -> float:
    assert child.stdin is not None and child.stdout is not None
    print(tokens, file=child.stdin, flush=True)
    return float(child.stdout.readline())


def measure(path: str, threads: int, tokens: int, repeat: int, ways: Sequence[str]) -> dict[str, dict[str, float]]:
    children = {way: start(way, path, threads) for way in ways}
    found: dict[str, dict[str, float]] = {}
    try:
        for name, program in BESIDE.items():
            beside = subprocess.Popen([sys.executable, "-c", program]) if program else None
            times: dict[str, list[float]] = {way: [] for way in ways}
            try:
                for _ in range(repeat):
                    for way, child in children.items():
                        times[way].append(ask(child, tokens))
            finally:
                if beside is not None:
                    beside.kill()
            found[name] = {way: round(statistics.median(values), 3) for way, values in times.items()}
    finally:
        for child in children.values():
            child.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=hardware.physical_cores())
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--ways", default=",".join(WAYS), help="some of these, by commas")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.model, options.threads)
        return
    found = measure(options.model, options.threads, options.tokens, options.repeat, options.ways.split(","))
    print(json.dumps({"cpu": hardware.cpu_name(), "threads": options.threads, "ms_per_token": found}, indent=1))


if __name__ == "__main__":
    main()
