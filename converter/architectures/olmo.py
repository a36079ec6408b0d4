"""OLMo 1, 2 and 3, and OLMoE."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    KEYS,
    NORMS,
    OUTPUT,
    OUTPUT_NORM,
    PAIRED_ATTENTION,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    layer,
    not_run,
    output_or_embedding,
)
from converter.architectures.windows import with_window

# All but every fourth layer have a window.
_EVERY = 4

# Queries and keys are normalised as wholes, not by head.
_WHOLE_NORMS = (
    layer("self_attn.q_norm.weight", "attn_q_norm.weight", "query"),
    layer("self_attn.k_norm.weight", "attn_k_norm.weight", "key"),
)
_OUTPUT = output_or_embedding("lm_head.weight", "model.embed_tokens.weight")
_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

# Norms without weights: no tensors, and an epsilon that no config names.
OLMO = Family(
    title="OLMo",
    architecture="olmo",
    classes=("OlmoForCausalLM",),
    model_types=("olmo",),
    defaults={"max_position_embeddings": 2048, "rope_theta": 10000.0},
    reals=(),
    tensors=(EMBEDDING, OUTPUT, *VALUE_AND_OUTPUT, *FEED_FORWARD, *PAIRED_ATTENTION),
    keys=(
        *KEYS,
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", lambda found: 1e-5),
        KeyRule("attention.clamp_kqv", "FLOAT32", "clip_qkv"),
    ),
    activations=SILU,
)

_OLMO2_TENSORS = (
    EMBEDDING,
    *_OUTPUT,
    OUTPUT_NORM,
    *VALUE_AND_OUTPUT,
    *FEED_FORWARD,
    *PLAIN_ATTENTION,
    *_WHOLE_NORMS,
    layer("post_attention_layernorm.weight", "post_attention_norm.weight", "embedding"),
    layer("post_feedforward_layernorm.weight", "post_ffw_norm.weight", "embedding"),
)

OLMO2 = Family(
    title="OLMo 2",
    architecture="olmo2",
    classes=("Olmo2ForCausalLM",),
    model_types=("olmo2",),
    defaults=_DEFAULTS,
    tensors=_OLMO2_TENSORS,
    keys=KEYS,
    own_output=True,
    activations=SILU,
)

OLMO3 = Family(
    title="OLMo 3",
    architecture="olmo2",
    classes=("Olmo3ForCausalLM",),
    model_types=("olmo3",),
    # Layers with a window have a base of their own, which published configs do not name.
    defaults={**_DEFAULTS, "rope_theta": 500000.0, "rope_local_base_freq": 500000.0, "sliding_window": 4096},
    tensors=_OLMO2_TENSORS,
    keys=(
        *KEYS,
        KeyRule("attention.sliding_window", "UINT32", "sliding_window"),
        KeyRule("attention.sliding_window_pattern", "BOOL[]", lambda found: with_window(found, _EVERY)),
    ),
    own_output=True,
    activations=SILU,
)


def _check_experts(found: Parameters) -> None:
    if found.sizes.key != found.sizes.query:
        raise not_run(found, "It groups its heads")
    if found.values.get("clip_qkv") is not None:
        raise not_run(found, "It clips its queries, keys and values")
    if found.values.get("norm_topk_prob"):
        raise not_run(found, "It makes the weights of the chosen experts add up to one")


OLMOE = Family(
    title="OLMoE",
    architecture="olmoe",
    classes=("OlmoeForCausalLM",),
    model_types=("olmoe",),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_experts": 64,
        "tie_word_embeddings": False,
        "num_experts_per_tok": 8,
    },
    tensors=(
        EMBEDDING,
        *_OUTPUT,
        *NORMS,
        *VALUE_AND_OUTPUT,
        *PLAIN_ATTENTION,
        *_WHOLE_NORMS,
        layer("mlp.gate.weight", "ffn_gate_inp.weight", "experts", "embedding"),
        layer("mlp.experts.{e}.gate_proj.weight", "ffn_gate_exps.weight", "feed_forward", "embedding"),
        layer("mlp.experts.{e}.up_proj.weight", "ffn_up_exps.weight", "feed_forward", "embedding"),
        layer("mlp.experts.{e}.down_proj.weight", "ffn_down_exps.weight", "embedding", "feed_forward"),
    ),
    # A constant in llama.cpp's converter, which all published models share.
    keys=(*KEYS, KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", lambda found: 1e-5)),
    own_output=True,
    activations=SILU,
    check=_check_experts,
)
