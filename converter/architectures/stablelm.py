"""StableLM 3B, Zephyr 3B, StableLM 2 1.6B and 12B. The 12B runs attention and feed-forward side by side on one norm,
and normalises every head's queries and keys."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    layer,
    not_run,
    output_or_embedding,
    weight_and_bias,
)
from converter.architectures.rope import rope_dimensions


def _one_after_the_other(found: Parameters, i: int) -> bool:
    return not found.values["use_parallel_residual"]


def _biased(found: Parameters, i: int) -> bool:
    return bool(found.values.get("use_qkv_bias"))


def _normalised(found: Parameters, i: int) -> bool:
    return bool(found.values.get("qk_layernorm"))


def _check(found: Parameters) -> None:
    if found.sizes.query != found.sizes.embedding:
        raise not_run(found, f"Its {found.sizes.heads} heads of {found.sizes.head} are not as wide as the model")


STABLELM = Family(
    title="StableLM",
    architecture="stablelm",
    classes=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    model_types=("stablelm", "stablelm_epoch"),
    aliases={"layer_norm_eps": ("norm_eps",), "partial_rotary_factor": ("rope_pct",)},
    defaults={
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "tie_word_embeddings": False,
    },
    reals=("layer_norm_eps",),
    tensors=(
        EMBEDDING,
        *output_or_embedding("lm_head.weight", "model.embed_tokens.weight"),
        *weight_and_bias("model.norm", "output_norm", "embedding"),
        layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
        layer("input_layernorm.bias", "attn_norm.bias", "embedding"),
        layer("post_attention_layernorm.weight", "ffn_norm.weight", "embedding", when=_one_after_the_other),
        layer("post_attention_layernorm.bias", "ffn_norm.bias", "embedding", when=_one_after_the_other),
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        layer("self_attn.q_proj.bias", "attn_q.bias", "query", when=_biased),
        layer("self_attn.k_proj.bias", "attn_k.bias", "key", when=_biased),
        layer("self_attn.v_proj.bias", "attn_v.bias", "key", when=_biased),
        layer("self_attn.q_layernorm.norms.{e}.weight", "attn_q_norm.weight", "head", each="heads", when=_normalised),
        layer("self_attn.k_layernorm.norms.{e}.weight", "attn_k_norm.weight", "head", each="kv_heads",
              when=_normalised),
        *FEED_FORWARD,
    ),
    keys=(
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps"),
        KeyRule("use_parallel_residual", "BOOL", "use_parallel_residual"),
        KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
    ),
    rope_keys="unusual",
    own_output=True,
    activations=SILU,
    check=_check,
)  # fmt: skip
