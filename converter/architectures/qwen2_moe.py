"""Qwen 1.5 and 2 with experts, and one that every token uses."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    KEYS,
    NORMS,
    OUTPUT,
    PLAIN_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    attention_biases,
    layer,
)
from converter.architectures.moe import experts, is_sparse, normalised_note

SHARED_EXPERT = (
    layer("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", 1, "embedding", when=is_sparse),
    layer("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", "shared", "embedding", when=is_sparse),
    layer("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", "shared", "embedding", when=is_sparse),
    layer("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", "embedding", "shared", when=is_sparse),
)

QWEN2_MOE = Family(
    title="Qwen2-MoE",
    architecture="qwen2moe",
    classes=("Qwen2MoeForCausalLM",),
    model_types=("qwen2_moe",),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "use_sliding_window": False,
    },
    sizes={"expert": "moe_intermediate_size", "shared": "shared_expert_intermediate_size"},
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        *PLAIN_ATTENTION,
        *attention_biases("q", "k", "v", paired=False, required=False),
        *VALUE_AND_OUTPUT,
        *experts("expert", is_sparse),
        *SHARED_EXPERT,
    ),
    keys=(
        *KEYS,
        KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
        KeyRule("expert_shared_feed_forward_length", "UINT32", "shared_expert_intermediate_size"),
    ),
    window_key="sliding_window",
    vocabulary="qwen",
    notes=normalised_note(False),
)
