"""A synthetic model folder to Q4_K_M by us, against llama.cpp's quantizer on the ready 16-bit file, in turns.

Usage: python -m tests.bench.convert [--layers 24] [--repeat 3] [--type Q4_K_M]. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from app import hardware
from resources import path as resource

HIDDEN, INTER, HEADS, KV_HEADS = 1024, 2816, 16, 4

QUANTIZE = """
import ctypes, sys, time, llama_cpp
source, target, ftype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = ftype, threads
start = time.perf_counter()
assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) == 0
print(time.perf_counter() - start)
"""


def write_model(folder: Path, layers: int) -> int:
    """A Llama of random bfloat16 weights with Pocket's vocabulary; returns its parameters."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(resource(f"pocket/{name}"), folder / name)
    config = json.loads(resource("pocket/config.json").read_text())
    config |= {"hidden_size": HIDDEN, "intermediate_size": INTER, "num_hidden_layers": layers}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {"model.embed_tokens.weight": (2048, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(layers):
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTER, HIDDEN),
            "mlp.up_proj": (INTER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTER),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        count = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + count]}
        at += count
    raw = json.dumps(header).encode()
    random = np.random.default_rng(1)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in shapes.values():
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return at // 2


def ours(folder: Path, target: Path, kind: str, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "app", "convert", str(folder), "-o", str(target), "--type", kind, "--overwrite"]
    result = subprocess.run([*command, *more, "--json"], check=True, capture_output=True, text=True)
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def theirs(source: Path, target: Path, kind: str) -> float:
    from converter.recipes import recipe

    arguments = [str(source), str(target), str(recipe(kind).file_type), str(os.cpu_count() or 1)]
    result = subprocess.run([sys.executable, "-c", QUANTIZE, *arguments], check=True, capture_output=True, text=True)
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--type", default="Q4_K_M")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        parameters = write_model(folder, options.layers)
        half, mine, other = (Path(temporary) / f"{name}.gguf" for name in ("half", "mine", "other"))
        ours(folder, half, "BF16")
        predicted, runs = [], []
        for _ in range(options.repeat):
            predicted.append(ours(folder, mine, options.type, "--dry-run")["seconds"])
            runs.append((ours(folder, mine, options.type), theirs(half, other, options.type)))
        assert mine.stat().st_size == other.stat().st_size
    seconds = statistics.median(run["seconds"] for run, _ in runs)
    reference = statistics.median(run for _, run in runs)
    print(
        json.dumps(
            {
                "cpu": hardware.cpu_name(),
                "cores": os.cpu_count(),
                "parameters": parameters,
                "type": options.type,
                "kernels": runs[0][0]["kernels"],
                "seconds": round(seconds, 2),
                "seconds_predicted": round(statistics.median(predicted), 2),
                "seconds_llama_quantize": round(reference, 2),
                "ratio": round(reference / seconds, 2),
                "peak_rss_mib": round(max(run["peak_rss"] for run, _ in runs) / 2**20, 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
