"""Seed-OSS: Qwen's biases, and the norm before the feed-forward under another name."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    KEYS,
    OUTPUT,
    OUTPUT_NORM,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    Parameters,
    attention_biases,
    layer,
    not_run,
)


def _check(found: Parameters) -> None:
    if found.values.get("attention_out_bias") or found.values.get("mlp_bias"):
        raise not_run(found, "It has biases behind its attention or in its feed-forward")


SEED_OSS = Family(
    title="Seed-OSS",
    architecture="seed_oss",
    classes=("SeedOssForCausalLM",),
    model_types=("seed_oss",),
    defaults={
        "max_position_embeddings": 524288,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "head_dim": 128,
        "num_key_value_heads": 8,
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
        *FEED_FORWARD,
    ),
    keys=KEYS,
    activations=SILU,
    check=_check,
)
