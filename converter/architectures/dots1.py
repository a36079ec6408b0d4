"""dots.llm1: Qwen 3's attention, and DeepSeek's experts beside some that every token uses."""

from __future__ import annotations

from dataclasses import replace

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    HEAD_NORMS,
    KEYS,
    NORMS,
    OUTPUT,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    Parameters,
    attention_biases,
    not_run,
)
from converter.architectures.moe import (
    CORRECTED_CHOICE,
    ROUTER_KEYS,
    SHARED_EXPERTS,
    experts,
    follows_dense,
    leads_dense,
)


def _check(found: Parameters) -> None:
    if (found.values.get("n_group") or 1) != 1:
        raise not_run(found, "It chooses its experts by groups")
    if found.sizes.key != found.sizes.query:
        raise not_run(found, "It groups its heads")


DOTS1 = Family(
    title="dots.llm1",
    architecture="dots1",
    classes=("Dots1ForCausalLM",),
    model_types=("dots1",),
    aliases={"num_experts": ("n_routed_experts",)},
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 32,
        "first_k_dense_replace": 0,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
        # transformers' code knows no other; the engine must be told.
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
        *NORMS,
        *PLAIN_ATTENTION,
        *HEAD_NORMS,
        *VALUE_AND_OUTPUT,
        *attention_biases("q", "k", "v", paired=False, required=False),
        *(replace(rule, when=leads_dense) for rule in FEED_FORWARD),
        *experts("expert", follows_dense),
        CORRECTED_CHOICE,
        *SHARED_EXPERTS,
    ),
    keys=(*KEYS, *ROUTER_KEYS),
    activations=SILU,
    check=_check,
    window_key="sliding_window",
)
