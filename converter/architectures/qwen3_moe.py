"""Qwen 3 with experts."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    HEAD_NORMS,
    KEYS,
    NORMS,
    OUTPUT,
    PLAIN_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    attention_biases,
)
from converter.architectures.moe import experts, is_sparse, normalised_note

QWEN3_MOE = Family(
    title="Qwen3-MoE",
    architecture="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    model_types=("qwen3_moe",),
    aliases={"num_experts": ("num_local_experts",)},
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "use_sliding_window": False,
    },
    sizes={"expert": "moe_intermediate_size"},
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        *PLAIN_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=False, required=False),
        *HEAD_NORMS,
        *VALUE_AND_OUTPUT,
        *experts("expert", is_sparse),
    ),
    keys=(*KEYS, KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size")),
    window_key="sliding_window",
    vocabulary="qwen",
    notes=normalised_note(True),
)
