"""Model folders for tests: Pocket's vocabulary and configuration around random weights of any number of layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from app.protocol import Sampling
from resources import path as resource

HIDDEN, HEADS, KV_HEADS = 1024, 16, 4
SPECIAL = 3
"""Pocket's first tokens, which end or part a text."""

ENDLESS = Sampling(temperature=1.0, top_k=40, top_p=1.0, min_p=0.0, max_tokens=8000, seed=3)


def write_model(folder: Path, layers: int, hidden: int = HIDDEN) -> int:
    """A Llama of random bfloat16 weights with Pocket's vocabulary and a long context; returns its parameters.

    ``hidden`` is its width, a multiple of 256: a layer has 11 million weights at the usual one.

    The special tokens are embedded as zeros and so have a score of 0 in the middle of all others: among its 40
    likeliest tokens, which are random ones, there is never an end.
    """
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(resource(f"pocket/{name}"), folder / name)
    config = json.loads(resource("pocket/config.json").read_text())
    inter = hidden * 11 // 4
    config |= {"hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": hidden // HEADS}
    config["max_position_embeddings"] = 8192
    (folder / "config.json").write_text(json.dumps(config))
    kv = hidden // HEADS * KV_HEADS
    shapes = {"model.embed_tokens.weight": (2048, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inter, hidden),
            "mlp.up_proj": (inter, hidden),
            "mlp.down_proj": (hidden, inter),
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
        for name, shape in shapes.items():
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            if name == "model.embed_tokens.weight":
                values[:SPECIAL] = 0
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return at // 2
