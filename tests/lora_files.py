"""LoRA adapters for tests: small random matrices in files by gguf-py."""

from __future__ import annotations

import gguf
import numpy as np

from converter import open_model

RANK, ALPHA = 4, 8.0
TARGETS = ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.5.attn_v.weight", "token_embd.weight")


def pairs(path, targets=TARGETS, seed=1):
    """{name: (A, B)} of small random matrices for these tensors of a model."""
    random = np.random.default_rng(seed)
    found = {}
    with open_model(path) as model:
        shapes = {tensor.name: tensor.shape for tensor in model.info.tensors}
    for name in targets:
        rows, columns = shapes[name]
        if name == "token_embd.weight":
            rows, columns = columns, rows
        a = random.standard_normal((RANK, columns), np.float32) * np.float32(0.05)
        b = random.standard_normal((rows, RANK), np.float32) * np.float32(0.05)
        found[name] = (np.ascontiguousarray(a.T) if name == "token_embd.weight" else a, b)
    return found


def write_adapter(path, changes, *, architecture="llama", kind="adapter", lora="lora", alpha=ALPHA):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", lora)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in changes.items():
        if name == "x":
            continue
        if a is not None:
            writer.add_tensor(f"{name}.lora_a", a)
        if b is not None:
            writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)
