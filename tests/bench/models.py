"""Model folders of any size with random weights, as the benchmarks read them: a Llama in bfloat16 shards.

The weights are gaussian, with the scales of a trained model: every tensor around its own, rows around the tensor's.
The vocabulary is a SentencePiece model of made-up words (32,000 unless the shape says otherwise), which our converter
and llama.cpp's both read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

VOCABULARY = 32000
_SHARD = 1 << 30
_POOL = 1 << 24
_PIECE = 1 << 22
_TRAINED = b"\x12\x05\x18\x02\x98\x02\x01"
"""The model's ``trainer_spec``: ``model_type`` BPE, ``byte_fallback`` true."""
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; ``tied`` shares the embedding with the output, ``vocabulary`` is its rows."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool = False
    vocabulary: int = VOCABULARY


SHAPES = {
    "0.1B": Shape(768, 2048, 12, 12, 4, tied=True),
    "0.2B-128k": Shape(768, 2048, 12, 12, 4, tied=True, vocabulary=128_256),
    "0.5B": Shape(1280, 3584, 24, 20, 4),
    "1B-128k": Shape(2048, 8192, 16, 32, 8, tied=True, vocabulary=128_256),
    "1B": Shape(2048, 5632, 22, 32, 4),
    "2B": Shape(2048, 8192, 30, 32, 8),
}


def write_model(folder: Path, shape: Shape, seed: int = 1) -> int:
    """Writes the folder (which must not exist) and returns the number of parameters."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(shape)))
    (folder / "tokenizer.model").write_bytes(sentencepiece(shape.vocabulary))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **special}))
    tensors = list(_tensors(shape))
    shards = list(_shards(tensors))
    random = np.random.default_rng(seed)
    pool = random.standard_normal(_POOL, np.float32)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys((name for name, _ in names), file)
        with (folder / file).open("wb") as handle:
            _write_shard(handle, names, pool, random)
    total = sum(2 * int(np.prod(dims)) for _, dims in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total // 2


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of a published checkpoint."""
    hidden, inner = shape.hidden, shape.inner
    kv = hidden // shape.heads * shape.kv_heads
    yield "model.embed_tokens.weight", (shape.vocabulary, hidden)
    for layer in range(shape.layers):
        for name, dims in {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (kv, hidden),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", dims
    yield "model.norm.weight", (hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocabulary, hidden)


def _shards(tensors: list[tuple[str, tuple[int, ...]]]) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    shard: list[tuple[str, tuple[int, ...]]] = []
    filled = 0
    for name, dims in tensors:
        size = 2 * int(np.prod(dims))
        if shard and filled + size > _SHARD:
            yield shard
            shard, filled = [], 0
        shard.append((name, dims))
        filled += size
    yield shard


def _write_shard(
    handle: BinaryIO, tensors: list[tuple[str, tuple[int, ...]]], pool: npt.NDArray[np.float32], random: Any
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dims in tensors:
        count = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [at, at + count]}
        at += count
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    handle.write(struct.pack("<Q", len(raw)) + raw)
    for _, dims in tensors:
        for rows in _weights(dims, pool, random):
            handle.write((rows.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def _weights(dims: tuple[int, ...], pool: npt.NDArray[np.float32], random: Any) -> Iterator[npt.NDArray[np.float32]]:
    """A tensor's rows in pieces. Numbers come from a pool at a random place: drawing them anew takes a minute a GB."""
    if len(dims) == 1:
        yield (1 + random.standard_normal(dims, np.float32) / 8).astype(np.float32)
        return
    rows, columns = dims
    scale = np.float32(0.7 / np.sqrt(columns) * np.exp(random.normal(0, 0.2)))
    step = max(1, _PIECE // columns)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        at = int(random.integers(_POOL - count * columns + 1))
        spread = np.exp(random.standard_normal((count, 1), np.float32) / 4) * scale
        yield pool[at : at + count * columns].reshape(count, columns) * spread


def sentencepiece(count: int) -> bytes:
    """A SentencePiece model of ``count`` pieces: the control pieces, the 256 bytes, and made-up words."""
    pieces = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]
    letters = "\u2581etaoinshrdlu"
    words = ("".join(word) for length in range(1, 9) for word in product(letters, repeat=length))
    pieces += [(word, -float(rank), _NORMAL) for rank, word in enumerate(islice(words, count - len(pieces)))]
    return b"".join(map(_piece, pieces)) + _TRAINED


def _piece(piece: tuple[str, float, int]) -> bytes:
    text, score, kind = piece
    raw = text.encode()
    body = b"\x0a" + bytes([len(raw)]) + raw + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body
