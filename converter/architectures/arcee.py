"""Arcee's AFM: a Llama whose feed-forward is not gated and squares what is above zero."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    NORMS,
    OUTPUT,
    PAIRED_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    Parameters,
    layer,
    not_run,
)
from converter.architectures.config import head_size
from converter.architectures.llama import LLAMA_KEYS, LLAMA_ROPE
from converter.architectures.rope import frequency_factors


def _check(found: Parameters) -> None:
    if found.values.get("attention_bias") or found.values.get("mlp_bias"):
        raise not_run(found, "It has biases")


ARCEE = Family(
    title="Arcee",
    architecture="arcee",
    classes=("ArceeForCausalLM",),
    model_types=("arcee",),
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "head_dim": head_size},
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        *PAIRED_ATTENTION,
        *VALUE_AND_OUTPUT,
        layer("mlp.up_proj.weight", "ffn_up.weight", "feed_forward", "embedding"),
        layer("mlp.down_proj.weight", "ffn_down.weight", "embedding", "feed_forward"),
    ),
    keys=LLAMA_KEYS,
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    activations=frozenset({"relu2"}),
    check=_check,
    vocabulary="llama",
)
