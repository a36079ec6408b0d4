"""Qwen 3, dense. No biases by default; each head's queries and keys are normalised."""

from __future__ import annotations

from converter.architectures.base import KEYS, LAYOUT, PLAIN_ATTENTION, Family, TensorRule, attention_biases

QWEN3 = Family(
    title="Qwen3",
    architecture="qwen3",
    classes=("Qwen3ForCausalLM",),
    model_types=("qwen3",),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
    tensors=(
        *LAYOUT,
        *PLAIN_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=False, required=False),
        TensorRule("model.layers.{i}.self_attn.q_norm.weight", "blk.{i}.attn_q_norm.weight", ("head",)),
        TensorRule("model.layers.{i}.self_attn.k_norm.weight", "blk.{i}.attn_k_norm.weight", ("head",)),
    ),
    keys=KEYS,
    writes_head_dim=True,
    window_key="sliding_window",
    vocabulary="qwen",
)
