"""GLM-4.5 and 4.6: half of every head rotates, and DeepSeek's experts beside some that every token uses."""

from __future__ import annotations

from dataclasses import replace

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    HEAD_NORMS,
    KEYS,
    OUTPUT,
    OUTPUT_NORM,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    attention_biases,
    layer,
)
from converter.architectures.deepseek import DEEPSEEK3
from converter.architectures.moe import (
    CORRECTED_CHOICE,
    ROUTER_KEYS,
    SHARED_EXPERTS,
    ahead_left_out,
    experts,
    follows_dense,
    leads_dense,
)
from converter.architectures.rope import rope_dimensions


def _has_head_norms(found: Parameters, i: int) -> bool:
    return bool(found.values.get("use_qk_norm"))


GLM4_MOE = Family(
    title="GLM-4.5",
    architecture="glm4moe",
    classes=("Glm4MoeForCausalLM",),
    model_types=("glm4_moe",),
    aliases={"num_experts": ("n_routed_experts",)},
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "num_key_value_heads": 8,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "n_group": 1,
        "topk_group": 1,
        "scoring_func": "sigmoid",
    },
    sizes={
        "expert": "moe_intermediate_size",
        "shared_experts": "n_shared_experts",
        "shared": "shared_experts * expert",
    },
    tensors=(
        EMBEDDING,
        OUTPUT,
        OUTPUT_NORM,
        layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
        layer("post_attention_layernorm.weight", "post_attention_norm.weight", "embedding"),
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        *attention_biases("q", "k", "v", paired=False, required=False),
        *(replace(rule, when=_has_head_norms) for rule in HEAD_NORMS),
        *(replace(rule, when=leads_dense) for rule in FEED_FORWARD),
        *experts("expert", follows_dense),
        CORRECTED_CHOICE,
        *SHARED_EXPERTS,
    ),
    keys=(*KEYS, *ROUTER_KEYS, KeyRule("rope.dimension_count", "UINT32", rope_dimensions)),
    activations=SILU,
    later_layers_left_out=True,
    notes=ahead_left_out,
    vocabulary="glm",
)

# GLM-4.7-Flash is a DeepSeek V3 to the engine.
GLM4_MOE_LITE = replace(
    DEEPSEEK3,
    title="GLM-4.7-Flash",
    classes=("Glm4MoeLiteForCausalLM",),
    model_types=("glm4_moe_lite",),
    defaults={
        **DEEPSEEK3.defaults,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 4,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 1536,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.8,
    },
    vocabulary="glm",
)
