"""What it costs to record how likely each token was, and to be held to a JSON schema: replies in turns, on one thread.

Usage: python -m tests.bench.choices [MODEL.gguf ...] [--tokens 128] [--repeat 11]. Without a model: Pocket (vocabulary
2,048) and random models of 127M and 226M parameters with 32,768 and 131,072 tokens, all as Q8_0. Prints one JSON
object a model: milliseconds a token, medians over the repeats, and whether ``auto`` records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import converter
from app import hardware
from app.chat_messages import ALWAYS, AUTOMATIC, NEVER, Constraint
from app.constraints import grammar_of
from app.engine.model import Extras, Model
from app.protocol import LoadOptions, Sampling
from resources import path as resource
from tests.models import HIDDEN, write_model

SCHEMA = '{"type": "array", "items": {"properties": {"name": {"type": "string"}}, "required": ["name"]}}'
PROMPT = "Once upon a time there was a fox who"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = options.models or [
            convert(resource("pocket"), Path(temporary) / "pocket.gguf"),
            *(wide(Path(temporary) / f"{vocabulary}", vocabulary) for vocabulary in (32_768, 131_072)),
        ]
        for path in paths:
            print(json.dumps(measure(path, options.tokens, options.repeat)), flush=True)


def convert(source: Path, target: Path) -> str:
    converter.convert(converter.ConversionSpec(str(source), str(target), ("Q8_0",)), lambda event: None, lambda: False)
    return str(target)


def wide(folder: Path, vocabulary: int) -> str:
    """A random model whose vocabulary is Pocket's and as many tokens more as are wanted, which no text has."""
    write_model(folder, 8)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for number in range(len(tokenizer["model"]["vocab"]), vocabulary):
        tokenizer["model"]["vocab"][f"<more {number}>"] = number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocabulary}))
    file = folder / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    begin, end = header["model.embed_tokens.weight"]["data_offsets"]
    more = np.random.default_rng(2).standard_normal((vocabulary - 2048, HIDDEN), dtype=np.float32) * np.float32(0.02)
    extra = (more.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    for name, entry in header.items():
        if name != "model.embed_tokens.weight":
            entry["data_offsets"] = [place + len(extra) for place in entry["data_offsets"]]
    header["model.embed_tokens.weight"] |= {"shape": [vocabulary, HIDDEN], "data_offsets": [begin, end + len(extra)]}
    raw = json.dumps(header).encode()
    body = data[8 + size :]
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + body[:end] + extra + body[end:])
    return convert(folder, folder.with_suffix(".gguf"))


def measure(path: str, tokens: int, repeat: int) -> dict[str, object]:
    with Model.load(path, LoadOptions(context=tokens + 64, threads=1)) as model:
        prompt = model.tokenize(PROMPT, special=False, add_special=True)
        sampling = Sampling(max_tokens=tokens, seed=1)
        held = grammar_of(Constraint("schema", SCHEMA))
        times: dict[str, list[float]] = {NEVER: [], ALWAYS: [], AUTOMATIC: [], "schema": []}
        recorded = None
        for _ in range(repeat):
            for mode, found in times.items():
                start = time.perf_counter()
                extras = Extras(held) if mode == "schema" else Extras(probabilities=mode)
                last = list(model.generate(prompt, sampling, extras=extras))[-1]
                assert last.stats is not None
                found.append((time.perf_counter() - start) / last.stats.tokens * 1000)
                if mode == AUTOMATIC:
                    recorded = last.stats.choices is not None
        medians = {mode: statistics.median(found) for mode, found in times.items()}
        return {
            "cpu": hardware.cpu_name(),
            "model": model.description,
            "vocabulary": model.vocabulary,
            "ms_per_token": {mode: round(value, 4) for mode, value in medians.items()},
            "cost": round(medians[ALWAYS] / medians[NEVER] - 1, 4),
            "auto_cost": round(medians[AUTOMATIC] / medians[NEVER] - 1, 4),
            "auto_records": recorded,
            "schema_cost": round(medians["schema"] / medians[NEVER] - 1, 4),
        }


if __name__ == "__main__":
    main()
