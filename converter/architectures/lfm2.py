"""LFM2: most layers look back by a short convolution, some by attention; and its mixture of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    bad_config,
    keys_without,
    layer,
    not_run,
)
from converter.architectures.config import whole_number
from converter.sources.views import View


def _kinds(values: dict[str, Any]) -> list[Any]:
    """Which layers have attention, by their kinds or (older configs) by their numbers."""
    listed, numbers = values.get("layer_types"), values.get("full_attn_idxs")
    if isinstance(listed, list):
        return listed
    count = whole_number(values, "num_hidden_layers")
    attention = range(count) if numbers is None else numbers
    return ["full_attention" if i in attention else "conv" for i in range(count)]


def _has_attention(found: Parameters, i: int) -> bool:
    kinds = found.values["layer_types"]
    if len(kinds) != found.sizes.layers:
        raise bad_config(f"layer_types lists {len(kinds)} layers of {found.sizes.layers}")
    return bool(kinds[i] == "full_attention")


def _has_convolution(found: Parameters, i: int) -> bool:
    return not _has_attention(found, i)


def _width(values: dict[str, Any]) -> int:
    """What is left of the feed-forward's declared width where the config wants it fitted: two thirds, rounded up."""
    width = whole_number({"width": values.get("block_ff_dim") or values.get("intermediate_size")}, "width")
    if not values["block_auto_adjust_ff_dim"]:
        return width
    step = whole_number(values, "block_multiple_of")
    factor = values.get("block_ffn_dim_multiplier")
    width = int(2 * width / 3)
    if isinstance(factor, int | float) and 0 < factor < 100:
        width = int(factor * width)
    return step * -(-width // step)


def _kv_heads(found: Parameters) -> list[int]:
    """None where a layer has no attention."""
    return [found.sizes.kv_heads if _has_attention(found, i) else 0 for i in range(found.sizes.layers)]


def _attention(source: str, target: str, *shape: str) -> TensorRule:
    return layer(f"self_attn.{source}.weight", f"{target}.weight", *shape, when=_has_attention)


def _convolution(name: str, *shape: Any, **options: Any) -> tuple[TensorRule, ...]:
    """A matrix of the convolution, and its bias."""
    return (
        layer(f"conv.{name}.weight", f"shortconv.{name}.weight", *shape, when=_has_convolution, **options),
        layer(f"conv.{name}.bias", f"shortconv.{name}.bias", shape[0], required=False, when=_has_convolution),
    )


_SHARED = (
    EMBEDDING,
    TensorRule("model.embedding_norm.weight", "token_embd_norm.weight", ("embedding",)),
    layer("operator_norm.weight", "attn_norm.weight", "embedding"),
    layer("ffn_norm.weight", "ffn_norm.weight", "embedding"),
    _attention("q_proj", "attn_q", "query", "embedding"),
    _attention("k_proj", "attn_k", "key", "embedding"),
    _attention("v_proj", "attn_v", "key", "embedding"),
    _attention("out_proj", "attn_output", "embedding", "query"),
    _attention("q_layernorm", "attn_q_norm", "head"),
    _attention("k_layernorm", "attn_k_norm", "head"),
    *_convolution("in_proj", "3 * embedding", "embedding"),
    *_convolution("out_proj", "embedding", "embedding"),
    *_convolution("conv", "embedding", 1, "window", view=View("c o t -> c t", at={"o": 0})),
)
_FEED_FORWARD = (
    layer("feed_forward.w1.weight", "ffn_gate.weight", "feed_forward", "embedding"),
    layer("feed_forward.w2.weight", "ffn_down.weight", "embedding", "feed_forward"),
    layer("feed_forward.w3.weight", "ffn_up.weight", "feed_forward", "embedding"),
)

LFM2 = Family(
    title="LFM2",
    architecture="lfm2",
    classes=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    model_types=("lfm2",),
    aliases={"rms_norm_eps": ("norm_eps", "block_norm_eps")},
    defaults={
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_key_value_heads": 8,
        "conv_L_cache": 3,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
    },
    fixed={"intermediate_size": _width, "layer_types": _kinds},
    sizes={"window": "conv_L_cache"},
    tensors=(*_SHARED, OUTPUT, *_FEED_FORWARD),
    keys=(
        *keys_without("attention.head_count_kv"),
        KeyRule("attention.head_count_kv", "INT32[]", _kv_heads),
        KeyRule("vocab_size", "UINT32", "vocab_size"),
        KeyRule("shortconv.l_cache", "UINT32", "conv_L_cache"),
    ),
)


def _check_tied(found: Parameters) -> None:
    if found.values.get("tie_word_embeddings") is False:
        raise not_run(found, "Its output matrix is not the embedding")


def _leads(found: Parameters, i: int) -> bool:
    return i < int(found.values["num_dense_layers"])


def _follows(found: Parameters, i: int) -> bool:
    return not _leads(found, i)


def _experts(source: str, target: str, *shape: str) -> TensorRule:
    return layer(f"feed_forward.experts.{{e}}.{source}.weight", f"{target}.weight", *shape, when=_follows)


LFM2_MOE = replace(
    LFM2,
    title="LFM2 MoE",
    architecture="lfm2moe",
    classes=("Lfm2MoeForCausalLM",),
    model_types=("lfm2_moe",),
    defaults={
        **LFM2.defaults,
        "moe_intermediate_size": 1792,
        "num_dense_layers": 2,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "block_auto_adjust_ff_dim": False,
    },
    sizes={"window": "conv_L_cache", "expert": "moe_intermediate_size"},
    # MLX calls the parts of the first layers as other models do.
    renames=tuple(
        (rf"\.feed_forward\.{name}_proj\.", f".feed_forward.{part}.")
        for name, part in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    ),
    # The engine's code has no output matrix of its own for it.
    check=_check_tied,
    ignored=(r"lm_head\.weight",),
    tensors=(
        *_SHARED,
        *(replace(rule, when=_leads) for rule in _FEED_FORWARD),
        layer("feed_forward.gate.weight", "ffn_gate_inp.weight", "experts", "embedding", when=_follows),
        layer("feed_forward.expert_bias", "exp_probs_b.bias", "experts", required=False, when=_follows),
        _experts("w1", "ffn_gate_exps", "expert", "embedding"),
        _experts("w2", "ffn_down_exps", "embedding", "expert"),
        _experts("w3", "ffn_up_exps", "expert", "embedding"),
    ),
    keys=(
        *LFM2.keys,
        KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
        KeyRule("leading_dense_block_count", "UINT32", "num_dense_layers"),
        KeyRule("expert_gating_func", "UINT32", lambda found: 2),
    ),
)
