"""Mixtral: Mistral with experts in place of the feed-forward layers. GGUF knows it as Llama."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    NORMS,
    OUTPUT,
    PAIRED_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    layer,
)
from converter.architectures.llama import LLAMA_KEYS, LLAMA_ROPE
from converter.architectures.rope import frequency_factors

MIXTRAL = Family(
    title="Mixtral",
    architecture="llama",
    classes=("MixtralForCausalLM",),
    model_types=("mixtral",),
    aliases={"num_experts": ("num_local_experts",)},
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_key_value_heads": 8,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        *PAIRED_ATTENTION,
        *VALUE_AND_OUTPUT,
        layer("block_sparse_moe.gate.weight", "ffn_gate_inp.weight", "experts", "embedding"),
        layer("block_sparse_moe.experts.{e}.w1.weight", "ffn_gate_exps.weight", "feed_forward", "embedding"),
        layer("block_sparse_moe.experts.{e}.w2.weight", "ffn_down_exps.weight", "embedding", "feed_forward"),
        layer("block_sparse_moe.experts.{e}.w3.weight", "ffn_up_exps.weight", "feed_forward", "embedding"),
    ),
    keys=LLAMA_KEYS,
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    window_key="sliding_window",
    vocabulary="llama",
)
