"""StarCoder 2. Norms that centre, grouped heads, rotary positions, biases everywhere."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    GELU,
    KEYS,
    OUTPUT,
    Family,
    Parameters,
    not_run,
    weight_and_bias,
)

_LAYER = "model.layers.{i}"


def _check(found: Parameters) -> None:
    if found.values.get("use_bias") is False:
        raise not_run(found, "It has no biases")
    if found.sizes.query != found.sizes.embedding:
        raise not_run(found, f"Its {found.sizes.heads} heads of {found.sizes.head} are not as wide as the model")


STARCODER2 = Family(
    title="StarCoder 2",
    architecture="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    model_types=("starcoder2",),
    aliases={"layer_norm_eps": ("norm_epsilon",)},
    defaults={
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_key_value_heads": 2,
    },
    reals=("layer_norm_eps",),
    tensors=(
        EMBEDDING,
        OUTPUT,
        *weight_and_bias("model.norm", "output_norm", "embedding"),
        *weight_and_bias(f"{_LAYER}.input_layernorm", "blk.{i}.attn_norm", "embedding"),
        *weight_and_bias(f"{_LAYER}.post_attention_layernorm", "blk.{i}.ffn_norm", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.q_proj", "blk.{i}.attn_q", "query", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.k_proj", "blk.{i}.attn_k", "key", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.v_proj", "blk.{i}.attn_v", "key", "embedding"),
        *weight_and_bias(f"{_LAYER}.self_attn.o_proj", "blk.{i}.attn_output", "embedding", "query"),
        *weight_and_bias(f"{_LAYER}.mlp.c_fc", "blk.{i}.ffn_up", "feed_forward", "embedding"),
        *weight_and_bias(f"{_LAYER}.mlp.c_proj", "blk.{i}.ffn_down", "embedding", "feed_forward"),
    ),
    keys=KEYS,
    window_key="sliding_window",
    activations=GELU,
    check=_check,
)
