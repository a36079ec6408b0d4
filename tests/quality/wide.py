"""A Llama of random weights with as many tokens as Llama 3 has: what the size of a vocabulary costs is seen on it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

VOCABULARY = 128_256
_FEED_FORWARD = 64


def write(path: Path, hidden: int, seed: int = 1, vocabulary: int = VOCABULARY, noise: float = 0.0) -> None:
    """One layer, the embedding as its output matrix, all float16; ``noise`` is the relative error of every weight.

    The output is so scaled that odds are about as uneven as a trained model's.
    """
    random, errors = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    writer = gguf.GGUFWriter(path, "llama")
    heads = max(1, hidden // 64)
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    alphabet = [*_alphabet(), "th"]
    writer.add_token_list([*alphabet, *(f"<{number}>" for number in range(vocabulary - len(alphabet)))])
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges(["t h"])

    def put(name: str, rows: int, scale: float) -> None:
        values = random.standard_normal(
            (rows, hidden if name != "blk.0.ffn_down.weight" else _FEED_FORWARD), np.float32
        )
        if noise:
            values *= 1 + noise * errors.standard_normal(values.shape, np.float32)
        writer.add_tensor(name, (values * np.float32(scale)).astype(np.float16))

    put("token_embd.weight", vocabulary, 2.5 / hidden**0.5)
    for norm in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(hidden, np.float32))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        put(f"blk.0.{part}.weight", hidden, hidden**-0.5)
    for part in ("ffn_gate", "ffn_up"):
        put(f"blk.0.{part}.weight", _FEED_FORWARD, hidden**-0.5)
    put("blk.0.ffn_down.weight", hidden, _FEED_FORWARD**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _alphabet() -> list[str]:
    """GPT-2's letters for the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]
