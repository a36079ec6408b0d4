"""Command R (Cohere 1) and Command R7B, Command A (Cohere 2). The output matrix is the embedding."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    KEYS,
    OUTPUT_NORM,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    layer,
    not_run,
)
from converter.architectures.config import head_size
from converter.architectures.rope import rope_dimensions
from converter.architectures.windows import unless_assumed

# From so many layers on, the engine's code for Command R looks for norms of queries and keys.
_LAYERS_WITH_NORMS = 64
# All but every so many layers of Command R7B have a window.
_EVERY = 4


def _untied(found: Parameters) -> None:
    if found.values.get("tie_word_embeddings") is False:
        raise not_run(found, "Its output matrix is not the embedding")


def _check(found: Parameters) -> None:
    _untied(found)
    large = found.sizes.layers >= _LAYERS_WITH_NORMS
    if bool(found.values.get("use_qk_norm")) != large:
        does, number = ("does not normalise", "from") if large else ("normalises", "below")
        raise not_run(found, f"It {does} its queries and keys with {found.sizes.layers} layers ({number} 64)")


def _has_norms(found: Parameters, layer: int) -> bool:
    return bool(found.values.get("use_qk_norm"))


def _no_scaling(found: Parameters) -> str | None:
    """Said where there is none, so that no program looks for one."""
    return "none" if found.rope["rope_type"] == "default" else None


_TENSORS: tuple[TensorRule, ...] = (
    EMBEDDING,
    OUTPUT_NORM,
    layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
    *VALUE_AND_OUTPUT,
    *FEED_FORWARD,
    *PLAIN_ATTENTION,
)
_DEFAULTS: dict[str, Any] = {
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "rope_theta": 10000.0,
}

COHERE = Family(
    title="Command R",
    architecture="command-r",
    classes=("CohereForCausalLM",),
    model_types=("cohere",),
    defaults={**_DEFAULTS, "max_position_embeddings": 8192, "rope_theta": 500000.0},
    # The length the model was trained for; the other one is that of its first stage.
    fixed={"max_position_embeddings": lambda v: v.get("model_max_length") or v["max_position_embeddings"]},
    reals=("layer_norm_eps", "logit_scale"),
    tensors=(
        *_TENSORS,
        layer("self_attn.q_norm.weight", "attn_q_norm.weight", "heads", "head", when=_has_norms),
        layer("self_attn.k_norm.weight", "attn_k_norm.weight", "kv_heads", "head", when=_has_norms),
    ),
    keys=(
        *KEYS,
        KeyRule("logit_scale", "FLOAT32", "logit_scale"),
        KeyRule("rope.scaling.type", "STRING", _no_scaling),
    ),
    ignored=(r"lm_head\.weight",),
    activations=SILU,
    check=_check,
)


COHERE2 = Family(
    title="Command R7B",
    architecture="cohere2",
    classes=("Cohere2ForCausalLM",),
    model_types=("cohere2",),
    defaults={**_DEFAULTS, "max_position_embeddings": 8192, "sliding_window": 4096, "rotary_pct": 1.0},
    fixed={"head_dim": head_size},
    reals=("layer_norm_eps", "logit_scale"),
    tensors=_TENSORS,
    keys=(
        *KEYS,
        KeyRule("logit_scale", "FLOAT32", "logit_scale"),
        KeyRule("attention.sliding_window", "UINT32", "sliding_window"),
        KeyRule("attention.sliding_window_pattern", "BOOL[]", lambda found: unless_assumed(found, _EVERY)),
        KeyRule("vocab_size", "UINT32", "vocab_size"),
        KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
        KeyRule("rope.scaling.type", "STRING", _no_scaling),
    ),
    ignored=(r"lm_head\.weight",),
    # Some checkpoints hold biases of nothing but zeros.
    zeros=(r"model\.layers\.\d+\..*\.bias",),
    activations=SILU,
    check=_untied,
)
