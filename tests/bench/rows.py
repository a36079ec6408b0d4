"""The row kernels against numpy, on one thread: what scoring a window costs beside the model's own work.

Usage: python -m tests.bench.rows [--vocabulary 128256] [--rows 64] [--repeat 15]. Prints one JSON object.

Everything runs in turns inside each repeat; a figure is the median of its processor time, scaled to the 255 rows of a
window of 512 tokens, and a ratio is the median of the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import kernels

WINDOW = 255
BLOCK = 1 << 18
Rows = np.ndarray[Any, np.dtype[np.float32]]


def blocks(logits: Rows) -> list[slice]:
    """Rows that fit a cache together, which numpy is much faster with."""
    step = max(1, BLOCK // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def numpy_score(logits: Rows, targets: Any) -> Any:
    """Log-sum, most likely token, right token's nll: float32 exponentials, float64 sums."""
    log_sum = np.empty(len(logits))
    top = np.empty(len(logits), np.int64)
    for part in blocks(logits):
        block = logits[part]
        top[part] = block.argmax(axis=1)
        peak = block[np.arange(len(block)), top[part]]
        log_sum[part] = peak + np.log(np.exp(block - peak[:, None]).sum(axis=1, dtype=np.float64))
    return log_sum, top, log_sum - logits[np.arange(len(logits)), targets]


def numpy_compare(reference: Rows, candidate: Rows, targets: Any) -> Any:
    """KL, agreement and both nll: what Quench did before it had kernels. No reverse KL, no overlap of five."""
    log_sum, top, nll = numpy_score(reference, targets)
    other_log_sum, other_top, other_nll = numpy_score(candidate, targets)
    kl = np.empty(len(reference))
    for part in blocks(reference):
        row = np.arange(len(top[part]))
        peak, other_peak = reference[part][row, top[part]], candidate[part][row, other_top[part]]
        shifted, other = reference[part] - peak[:, None], candidate[part] - other_peak[:, None]
        weight = np.exp(shifted)
        total = weight.sum(axis=1, dtype=np.float64)
        weight *= np.subtract(shifted, other, out=shifted)
        apart = (log_sum[part] - peak) - (other_log_sum[part] - other_peak)
        kl[part] = weight.sum(axis=1, dtype=np.float64) / total - apart
    return kl, top == other_top, nll, other_nll


def numpy_same_job(reference: Rows, candidate: Rows, targets: Any) -> Any:
    """All that compare_rows gives, in float32 with float64 sums."""
    parts = []
    for part in blocks(reference):
        x, y = reference[part], candidate[part]
        row = np.arange(len(x))
        tops = [np.argpartition(z, -5, axis=1)[:, -5:] for z in (x, y)]
        peaks = [z.max(axis=1, keepdims=True) for z in (x, y)]
        p, q = np.exp(x - peaks[0]), np.exp(y - peaks[1])
        sums = [z.sum(axis=1, dtype=np.float64) for z in (p, q)]
        difference = x - y
        apart = (peaks[0] - peaks[1])[:, 0] + np.log(sums[0]) - np.log(sums[1])
        p *= difference
        q *= difference
        kl = p.sum(axis=1, dtype=np.float64) / sums[0] - apart
        reverse = apart - q.sum(axis=1, dtype=np.float64) / sums[1]
        nll = [np.log(s) + m[:, 0] - z[row, targets[part]] for s, m, z in zip(sums, peaks, (x, y), strict=True)]
        overlap = [len(np.intersect1d(a, b)) / 5 for a, b in zip(*tops, strict=True)]
        parts.append((kl, reverse, nll, overlap))
    return parts


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(vocabulary: int, rows: int, repeat: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    reference = random.standard_normal((rows, vocabulary), np.float32) * 3
    candidate = reference + np.float32(0.05) * random.standard_normal((rows, vocabulary), np.float32)
    targets = random.integers(0, vocabulary, rows)
    jobs: dict[str, Callable[[], object]] = {
        "numpy score": lambda: numpy_score(reference, targets),
        "numpy compare": lambda: numpy_compare(reference, candidate, targets),
        "numpy same job": lambda: numpy_same_job(reference, candidate, targets),
    }
    for name in kernels.backends():
        jobs[f"{name} score"] = lambda name=name: kernels.score_rows(reference, targets, backend=name)  # type: ignore[misc]
        jobs[f"{name} compare"] = lambda name=name: kernels.compare_rows(  # type: ignore[misc]
            reference, candidate, targets, backend=name
        )
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeat + 1):
        for name, job in jobs.items():
            seconds = timed(job)
            if number:
                times[name].append(seconds)

    def ratio(slow: str, fast: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True)), 2)

    return {
        "cpu": kernels.cpu(),
        "numpy": np.__version__,
        "vocabulary": vocabulary,
        "rows": rows,
        "repeats": repeat,
        "ms_per_window": {
            name: round(statistics.median(found) * 1e3 * WINDOW / rows, 1) for name, found in times.items()
        },
        "ratios": {
            name: {
                "score": ratio("numpy score", f"{name} score"),
                "compare, against what numpy did here": ratio("numpy compare", f"{name} compare"),
                "compare, against numpy doing the same": ratio("numpy same job", f"{name} compare"),
            }
            for name in kernels.backends()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    print(json.dumps(measure(options.vocabulary, options.rows, options.repeat), indent=1))


if __name__ == "__main__":
    main()
