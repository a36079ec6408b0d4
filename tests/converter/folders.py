"""Tiny model folders with random weights, written by helpers of our own so that they can also be written wrong."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_REGEX = QWEN2_REGEX.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)

# What each class's config.json says beside the sizes; as published checkpoints of the family have it.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        "max_position_embeddings": 32768,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "max_position_embeddings": 40960,
        "head_dim": 32,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
}


def to_bytes(values: np.ndarray, dtype: str) -> bytes:
    """float32 values as the bytes of a safetensors dtype; bfloat16 by cutting (random weights need no rounding)."""
    if dtype == "BF16":
        return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "U8": "u1"}[dtype]).tobytes()


def safetensors(
    tensors: dict[str, np.ndarray], dtype: str = "BF16", dtypes: dict[str, str] | None = None
) -> tuple[dict[str, Any], bytes]:
    """``(header, data)`` of a well-formed file; :func:`join` makes it one."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        kind = (dtypes or {}).get(name, dtype)
        raw = to_bytes(values, kind)
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data


def join(header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    """The file's bytes, with a lie about the header's length if asked."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def weights(kind: str, config: dict[str, Any], seed: int = 7) -> dict[str, np.ndarray]:
    """Scattered float32 weights of the right names and shapes, in the order of a published checkpoint.

    Made by integer arithmetic: the golden file depends on every bit.
    """
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.mlp.down_proj.weight": (hidden, ffn),
            f"{layer}.mlp.gate_proj.weight": (ffn, hidden),
            f"{layer}.mlp.up_proj.weight": (ffn, hidden),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.k_proj.weight": (key, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, query),
            f"{layer}.self_attn.q_proj.weight": (query, hidden),
            f"{layer}.self_attn.v_proj.weight": (key, hidden),
        }
        if kind == "qwen2" or config.get("attention_bias"):
            shapes |= {f"{layer}.self_attn.{n}_proj.bias": (query if n == "q" else key,) for n in "qkv"}
        if kind == "llama" and config.get("attention_bias"):
            shapes[f"{layer}.self_attn.o_proj.bias"] = (hidden,)
        if kind == "qwen3":
            shapes |= {f"{layer}.self_attn.{n}_norm.weight": (head,) for n in "qk"}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {name: scattered(shape, seed + number) for number, (name, shape) in enumerate(shapes.items())}


def scattered(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers between -2 and 2 without a visible pattern, the same on every machine."""
    index = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mixed = index * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 22) - np.float32(2)).reshape(shape)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_folder(
    folder: Path, kind: str, *, vocab_size: int, dtype: str = "BF16", shards: int = 1, **changes: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A model folder without tokenizer files; ``changes`` go into config.json. Returns the config and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIGS[kind], **SIZES, "vocab_size": vocab_size, **changes}
    write_json(folder / "config.json", config)
    tensors = weights(kind, config)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(join(*safetensors(tensors, dtype)))
        return config, tensors
    names = list(tensors)
    weight_map = {}
    for i in range(shards):
        part = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        chosen = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        (folder / part).write_bytes(join(*safetensors({n: tensors[n] for n in chosen}, dtype)))
        weight_map |= dict.fromkeys(chosen, part)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return config, tensors


def byte_alphabet() -> list[str]:
    """The 256 letters of byte-level vocabularies, by byte value: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [letters[b] for b in range(256)]


def bpe_tokenizer(
    regex: str | None = QWEN2_REGEX,
    *,
    specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    extra: tuple[dict[str, Any], ...] = (),
    pairs: bool = True,
    **model: Any,
) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json with a handful of merges; ``regex`` None means GPT-2's own splitting."""
    vocab = {letter: i for i, letter in enumerate(byte_alphabet())}
    merges = []
    for word in ("Ġthe", "Ġand", "ing", "1234", "ĊĊ", "Ġ我", "'ve", "ll", "Ġwhe", "...."):
        for end in range(2, len(word) + 1):
            left, right = word[: end - 1], word[end - 1]
            if right in vocab and left in vocab and word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append([left, right] if pairs else f"{left} {right}")
    added = [
        {
            "id": len(vocab) + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, token in enumerate(specials)
    ]
    added += [{"id": len(vocab) + len(added) + i, **token} for i, token in enumerate(extra)]
    bytes_step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex is None}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": bytes_step if regex is None else {"type": "Sequence", "pretokenizers": [split, bytes_step]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab, "merges": merges, **model},
    }


def tokenizer_size(tokenizer: dict[str, Any]) -> int:
    return len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
