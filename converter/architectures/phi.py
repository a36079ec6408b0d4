"""Phi-1, Phi-1.5 and Phi-2. Attention and feed-forward run side by side on one norm."""

from __future__ import annotations

from converter.architectures.base import (
    GELU,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    not_run,
    output_or_embedding,
    weight_and_bias,
)
from converter.architectures.config import real_number


def _rotated(found: Parameters) -> int:
    """Elements of a head that rotate, rounded as llama.cpp's converter does: over the whole width."""
    share = real_number(found.rope, "partial_rotary_factor")
    return int(share * found.sizes.embedding) // found.sizes.heads


def _check(found: Parameters) -> None:
    if found.values.get("qk_layernorm"):
        raise not_run(found, "It normalises its queries and keys")


_LAYER = "model.layers.{i}"

PHI = Family(
    title="Phi",
    architecture="phi2",
    classes=("PhiForCausalLM",),
    model_types=("phi",),
    defaults={
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    reals=("layer_norm_eps",),
    tensors=(
        TensorRule("model.embed_tokens.weight", "token_embd.weight", ("vocabulary", "embedding")),
        *output_or_embedding("lm_head.weight", "model.embed_tokens.weight"),
        TensorRule("lm_head.bias", "output.bias", ("vocabulary",)),
        *weight_and_bias("model.final_layernorm", "output_norm", "embedding"),
        *weight_and_bias(f"{_LAYER}.input_layernorm", "blk.{i}.attn_norm", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.q_proj", "blk.{i}.attn_q", "query", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.k_proj", "blk.{i}.attn_k", "key", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.v_proj", "blk.{i}.attn_v", "key", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.dense", "blk.{i}.attn_output", "embedding", "query"),
        *weight_and_bias(f"{_LAYER}.mlp.fc1", "blk.{i}.ffn_up", "feed_forward", "embedding"),
        *weight_and_bias(f"{_LAYER}.mlp.fc2", "blk.{i}.ffn_down", "embedding", "feed_forward"),
    ),
    keys=(
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps"),
        KeyRule("rope.dimension_count", "UINT32", _rotated),
    ),
    rope_keys="unusual",
    own_output=True,
    activations=GELU,
    vocabulary="phi2",
    check=_check,
)
