"""Phi-3.5-MoE: a mixture of experts with layer norms and biases, and Phi-3's stretched context."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    attention_biases,
    layer,
    not_run,
    output_or_embedding,
    weight_and_bias,
)
from converter.architectures.phi3 import PHI3, long_and_short


def _check(found: Parameters) -> None:
    if not found.values.get("attention_bias") or not found.values.get("lm_head_bias"):
        raise not_run(found, "Its attention or its output matrix has no biases")


def _notes(found: Parameters) -> list[str]:
    return [
        "The engine computes this model's norms without centring and chooses its experts by plain softmax, other than "
        "its authors' code: answers differ from theirs."
    ]


PHIMOE = Family(
    title="Phi-3.5-MoE",
    architecture="phimoe",
    classes=("PhiMoEForCausalLM", "PhimoeForCausalLM"),
    model_types=("phimoe",),
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_key_value_heads": 8,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    aliases={"num_experts": ("num_local_experts",)},
    tensors=(
        EMBEDDING,
        *output_or_embedding("lm_head.weight", "model.embed_tokens.weight"),
        TensorRule("lm_head.bias", "output.bias", ("vocabulary",)),
        *weight_and_bias("model.norm", "output_norm", "embedding"),
        *weight_and_bias("model.layers.{i}.input_layernorm", "blk.{i}.attn_norm", "embedding"),
        *weight_and_bias("model.layers.{i}.post_attention_layernorm", "blk.{i}.ffn_norm", "embedding"),
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        *attention_biases("q", "k", "v", "o", paired=False),
        layer("block_sparse_moe.gate.weight", "ffn_gate_inp.weight", "experts", "embedding"),
        layer("block_sparse_moe.experts.{e}.w1.weight", "ffn_gate_exps.weight", "feed_forward", "embedding"),
        layer("block_sparse_moe.experts.{e}.w2.weight", "ffn_down_exps.weight", "embedding", "feed_forward"),
        layer("block_sparse_moe.experts.{e}.w3.weight", "ffn_up_exps.weight", "feed_forward", "embedding"),
    ),
    keys=(
        *PHI3.keys,
        KeyRule("expert_count", "UINT32", "num_experts"),
        KeyRule("expert_used_count", "UINT32", "num_experts_per_tok"),
    ),
    rope_kinds=PHI3.rope_kinds,
    rope_keys=PHI3.rope_keys,
    activations=SILU,
    computed=long_and_short,
    own_output=True,
    check=_check,
    notes=_notes,
    vocabulary="phi3",
)
