"""Our decode loop against llama-cpp-python's own two, on one thread, interleaved on one model.

Usage: python -m tests.bench.chat [MODEL.gguf] [--tokens 256] [--repeat 9]. Without a model Pocket is made as Q8_0.
Prints one JSON object: milliseconds a token, median over the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import llama_cpp

import converter
from app import hardware
from app.engine.model import Model
from app.protocol import LoadOptions, Sampling
from resources import path as resource

PROMPT = "Once upon a time there was a fox who"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = options.model or str(Path(temporary) / "pocket.gguf")
        if not options.model:
            spec = converter.ConversionSpec(source=str(resource("pocket")), output=path, types=("Q8_0",))
            converter.convert(spec, lambda event: None, lambda: False)
        print(json.dumps(measure(path, options.tokens, options.repeat), indent=1))


def measure(path: str, tokens: int, repeat: int) -> dict[str, object]:
    """Time every way in turns; each generates until ``tokens`` or its own end, so times are divided by what came."""
    context = tokens + 64
    model = Model.load(path, LoadOptions(context=context, threads=1), None)
    other = llama_cpp.Llama(path, n_ctx=context, n_threads=1, n_threads_batch=1, verbose=False)
    prompt = model.tokenize(PROMPT, special=False, add_special=True)
    sampling = Sampling(max_tokens=tokens, seed=1)

    def ours() -> int:
        return list(model.generate(prompt, sampling, cancelled=lambda: False))[-1].stats.tokens

    def generate() -> int:
        count = 0
        for token in other.generate(prompt, top_k=40, top_p=0.95, min_p=0.05, temp=0.8, repeat_penalty=1.0):
            count += 1
            if count == tokens or token == other.token_eos():
                break
        return count

    def complete() -> int:
        stream = other.create_completion(prompt, max_tokens=tokens, temperature=0.8, stream=True, seed=1)
        return sum(1 for _ in stream)

    ways: dict[str, Callable[[], int]] = {"quench": ours, "Llama.generate": generate, "create_completion": complete}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            count = way()
            times[name].append((time.perf_counter() - start) / count * 1000)
    model.close()
    return {
        "cpu": hardware.cpu_name(),
        "threads": 1,
        "ms_per_token": {name: round(statistics.median(values), 3) for name, values in times.items()},
    }


if __name__ == "__main__":
    main()
