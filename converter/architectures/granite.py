"""Granite 3 and its mixtures of experts. Llama with four numbers that scale what goes through it."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    LAYOUT,
    NORMS,
    OUTPUT,
    PAIRED_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    attention_biases,
    feed_forward_biases,
    layer,
)
from converter.architectures.config import head_size
from converter.architectures.llama import LLAMA_KEYS, LLAMA_ROPE
from converter.architectures.rope import frequency_factors
from converter.sources.views import View


def _scale(name: str) -> Any:
    """The value of a multiplier; 0 is none."""
    return lambda found: found.values.get(name) or None


_SCALES = (
    KeyRule("attention.scale", "FLOAT32", _scale("attention_multiplier")),
    KeyRule("embedding_scale", "FLOAT32", _scale("embedding_multiplier")),
    KeyRule("residual_scale", "FLOAT32", _scale("residual_multiplier")),
    KeyRule("logit_scale", "FLOAT32", _scale("logits_scaling")),
)
# The class knows no head_dim of its own, so llama.cpp's converter writes none.
_KEYS = (*(rule for rule in LLAMA_KEYS if rule.source != "head_dim"), *_SCALES)
_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}

GRANITE = Family(
    title="Granite",
    architecture="granite",
    classes=("GraniteForCausalLM",),
    model_types=("granite",),
    defaults=_DEFAULTS,
    fixed={"head_dim": head_size},
    tensors=(
        *LAYOUT,
        *PAIRED_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=True, required=False),
        *feed_forward_biases("gate", "up", "down", required=False),
    ),
    keys=_KEYS,
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    activations=SILU,
    vocabulary="llama",
)


# Gate and up are one matrix: the first and the second half of its rows, in every expert and in the shared one.
_EXPERTS_HALVES = tuple(View("e (t f) c -> e f c", {"t": 2}, at={"t": part}) for part in (0, 1))
_SHARED_HALVES = tuple(View("(t f) c -> f c", {"t": 2}, at={"t": part}) for part in (0, 1))


def _has_shared(found: Parameters, layer: int) -> bool:
    return found.sizes.others["shared"] > 0


GRANITE_MOE = Family(
    title="Granite MoE",
    architecture="granitemoe",
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    model_types=("granitemoe", "granitemoeshared"),
    defaults={**_DEFAULTS, "num_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 0},
    fixed={"head_dim": head_size},
    aliases={"num_experts": ("num_local_experts",)},
    sizes={"shared": "shared_intermediate_size"},
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        *VALUE_AND_OUTPUT,
        *PAIRED_ATTENTION,
        layer("block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight", "experts", "embedding"),
        *(
            layer(
                "block_sparse_moe.input_linear.weight",
                f"ffn_{name}_exps.weight",
                "experts",
                "2 * feed_forward",
                "embedding",
                view=half,
            )
            for name, half in zip(("gate", "up"), _EXPERTS_HALVES, strict=True)
        ),
        layer("block_sparse_moe.output_linear.weight", "ffn_down_exps.weight", "experts", "embedding", "feed_forward"),
        *(
            layer(
                "shared_mlp.input_linear.weight",
                f"ffn_{name}_shexp.weight",
                "2 * shared",
                "embedding",
                view=half,
                when=_has_shared,
            )
            for name, half in zip(("gate", "up"), _SHARED_HALVES, strict=True)
        ),
        layer("shared_mlp.output_linear.weight", "ffn_down_shexp.weight", "embedding", "shared", when=_has_shared),
    ),
    keys=(
        *_KEYS,
        KeyRule("expert_shared_feed_forward_length", "UINT32", lambda found: found.sizes.others["shared"] or None),
    ),
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    activations=SILU,
    vocabulary="llama",
)
