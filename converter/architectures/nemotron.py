"""Nemotron 4 and Minitron. Norms are stored less one; the feed-forward squares what is positive."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    KEYS,
    PLAIN_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    attention_biases,
    feed_forward_biases,
    layer,
    not_run,
    output_or_embedding,
    with_changes,
)
from converter.architectures.config import head_size, real_number


def _rotated(found: Parameters) -> int:
    """Elements of a head that rotate, rounded as llama.cpp's converter does: over the whole width."""
    share = real_number(found.rope, "partial_rotary_factor")
    return int(share * found.sizes.embedding) // found.sizes.heads


def _no_scaling(found: Parameters) -> str | None:
    return "none" if found.rope["rope_type"] == "default" else None


def _check(found: Parameters) -> None:
    if found.sizes.query != found.sizes.embedding:
        raise not_run(found, f"Its {found.sizes.heads} heads of {found.sizes.head} are not as wide as the model")


_NORMS = (
    TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
    TensorRule("model.norm.bias", "output_norm.bias", ("embedding",)),
    layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
    layer("input_layernorm.bias", "attn_norm.bias", "embedding"),
    layer("post_attention_layernorm.weight", "ffn_norm.weight", "embedding"),
    layer("post_attention_layernorm.bias", "ffn_norm.bias", "embedding"),
)

NEMOTRON = Family(
    title="Nemotron",
    architecture="nemotron",
    classes=("NemotronForCausalLM",),
    model_types=("nemotron",),
    defaults={
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "head_dim": head_size,
        "tie_word_embeddings": False,
    },
    aliases={"partial_rotary_factor": ("rope_percent",)},
    reals=("norm_eps",),
    tensors=(
        EMBEDDING,
        *output_or_embedding("lm_head.weight", "model.embed_tokens.weight"),
        *with_changes(_NORMS, "plus one"),
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        *attention_biases("q", "k", "v", "o", paired=False, required=False),
        layer("mlp.up_proj.weight", "ffn_up.weight", "feed_forward", "embedding"),
        layer("mlp.down_proj.weight", "ffn_down.weight", "embedding", "feed_forward"),
        *feed_forward_biases("up", "down", required=False),
    ),
    keys=(
        *KEYS,
        KeyRule("vocab_size", "UINT32", "vocab_size"),
        # Under both names, as llama.cpp's converter has it; the engine reads the second.
        KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "norm_eps"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "norm_eps"),
        KeyRule("rope.dimension_count", "UINT32", _rotated),
        KeyRule("rope.scaling.type", "STRING", _no_scaling),
    ),
    rope_kinds=frozenset({"default", "linear"}),
    own_output=True,
    vocabulary="nemotron",
    activations=frozenset({"relu2"}),
    check=_check,
)
