"""ERNIE 4.5, plain and with experts."""

from __future__ import annotations

from dataclasses import replace

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    KEYS,
    NORMS,
    OUTPUT,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    layer,
    not_run,
)
from converter.architectures.moe import experts
from converter.sources.views import Size, View

# Early files have queries, keys and values in one matrix, and gate and up in another.
_PARTS = {"h": "heads + 2 * kv_heads", "d": "head"}
_BOUNDS: dict[str, tuple[Size, Size]] = {
    "q": (0, "heads"),
    "k": ("heads", "heads + kv_heads"),
    "v": ("heads + kv_heads", "heads + 2 * kv_heads"),
}
_FUSED = (
    *(
        layer("self_attn.qkv_proj.weight", f"attn_{name}.weight", "query + 2 * key", "embedding",
              view=View("(h d) ... -> (h d) ...", _PARTS, keep={"h": bounds}))
        for name, bounds in _BOUNDS.items()
    ),
    *(
        layer("mlp.up_gate_proj.weight", f"ffn_{name}.weight", "2 * feed_forward", "embedding",
              view=View("(t f) ... -> f ...", {"t": 2}, at={"t": part}))
        for part, name in enumerate(("gate", "up"))
    ),
)  # fmt: skip
_ATTENTION = (EMBEDDING, OUTPUT, *NORMS, *PLAIN_ATTENTION, *VALUE_AND_OUTPUT)


def _check(found: Parameters) -> None:
    if found.values.get("use_bias"):
        raise not_run(found, "Its matrices have biases")


ERNIE4_5 = Family(
    title="ERNIE 4.5",
    architecture="ernie4_5",
    classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    model_types=("ernie4_5",),
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "head_dim": 128,
        "num_key_value_heads": 2,
    },
    renames=((r"^ernie\.", "model."),),
    tensors=(*_ATTENTION, *FEED_FORWARD, *_FUSED),
    keys=KEYS,
    activations=SILU,
    check=_check,
    vocabulary="ernie",
)


def _sparse(found: Parameters, i: int) -> bool:
    values = found.values
    last = values["moe_layer_end_index"]
    within = values["moe_layer_start_index"] <= i <= (found.sizes.layers - 1 if last < 0 else last)
    return bool(within) and (i + 1) % int(values["moe_layer_interval"]) == 0


def _dense(found: Parameters, i: int) -> bool:
    return not _sparse(found, i)


def _check_moe(found: Parameters) -> None:
    _check(found)
    values, layers = found.values, found.sizes.layers
    step, first = int(values["moe_layer_interval"]), int(values["moe_layer_start_index"])
    if any(_sparse(found, i) != (i >= first and (i + 1) % step == 0) for i in range(layers)):
        raise not_run(found, "Its last layers have no experts")


def _with_shared(found: Parameters, i: int) -> bool:
    return _sparse(found, i) and found.sizes.others["shared"] > 0


ERNIE4_5_MOE = Family(
    title="ERNIE 4.5 MoE",
    architecture="ernie4_5-moe",
    classes=("Ernie4_5_MoeForCausalLM",),
    model_types=("ernie4_5_moe",),
    aliases={"num_experts": ("moe_num_experts",), "num_experts_per_tok": ("moe_k",)},
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 1536,
        "num_experts": 64,
        "num_experts_per_tok": 6,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
    },
    sizes={
        "expert": "moe_intermediate_size",
        "shared_experts": "moe_num_shared_experts",
        "shared": "shared_experts * expert",
    },
    ignored=(r"model\.mtp_(block|emb_norm|hidden_norm|linear_proj)\..*",),
    tensors=(
        *_ATTENTION,
        *(replace(rule, when=_dense) for rule in FEED_FORWARD),
        *experts("expert", _sparse),
        layer("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias", 1, "experts", required=False,
              when=_sparse),
        layer("mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight", "shared", "embedding",
              when=_with_shared),
        layer("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight", "shared", "embedding", when=_with_shared),
        layer("mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight", "embedding", "shared",
              when=_with_shared),
    ),
    keys=(
        *KEYS,
        KeyRule("interleave_moe_layer_step", "UINT32", "moe_layer_interval"),
        KeyRule("leading_dense_block_count", "UINT32", "moe_layer_start_index"),
        KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
        KeyRule("expert_shared_count", "UINT32", "moe_num_shared_experts"),
        KeyRule("expert_shared_feed_forward_length", "UINT32", lambda found: found.sizes.others["shared"] or None),
    ),
    activations=SILU,
    check=_check_moe,
    vocabulary="ernie",
)  # fmt: skip
