"""MiniCPM 1, 2 and 4: a Llama with three scales. MiniCPM 3: attention over a compressed memory."""

from __future__ import annotations

import math

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    KEYS,
    LAYOUT,
    NORMS,
    OUTPUT,
    PAIRED_ATTENTION,
    SILU,
    Family,
    KeyRule,
    Parameters,
    layer,
    not_run,
)
from converter.architectures.config import real_number, whole_number
from converter.architectures.phi3 import long_and_short

_ROPE = frozenset({"default", "linear", "dynamic", "su", "longrope"})


def _residual(found: Parameters) -> float:
    return real_number(found.values, "scale_depth") / math.sqrt(found.sizes.layers)


def _logits(found: Parameters) -> float:
    return found.sizes.embedding / whole_number(found.values, "dim_model_base")


def _check(found: Parameters) -> None:
    if found.sizes.experts:
        raise not_run(found, "It has experts")


MINICPM = Family(
    title="MiniCPM",
    architecture="minicpm",
    classes=("MiniCPMForCausalLM",),
    model_types=("minicpm",),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "scale_emb": 1,
        "scale_depth": 1,
        "dim_model_base": 1,
    },
    tensors=(*LAYOUT, *PAIRED_ATTENTION),
    keys=(
        *KEYS,
        KeyRule("embedding_scale", "FLOAT32", "scale_emb"),
        KeyRule("residual_scale", "FLOAT32", _residual),
        KeyRule("logit_scale", "FLOAT32", _logits),
    ),
    rope_kinds=_ROPE,
    computed=long_and_short,
    activations=SILU,
    check=_check,
    vocabulary="sentencepiece",
)

# The scales that the engine has as constants for MiniCPM 3.
_CONSTANTS = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}
_BASE = 10000.0


def _check3(found: Parameters) -> None:
    if found.rope.get("rope_theta") != _BASE:
        raise not_run(found, "Its rotary positions have a base frequency of their own")
    for name, value in _CONSTANTS.items():
        if found.values.get(name) not in (None, value):
            raise not_run(found, f"Its {name} is {str(found.values[name])[:20]}")


MINICPM3 = Family(
    title="MiniCPM 3",
    architecture="minicpm3",
    classes=("MiniCPM3ForCausalLM",),
    model_types=("minicpm3",),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": lambda values: values["hidden_size"] // values["num_attention_heads"],
    },
    fixed={"head_dim": lambda values: values["qk_nope_head_dim"] + values["qk_rope_head_dim"]},
    sizes={
        "rank": "kv_lora_rank",
        "query_rank": "q_lora_rank",
        "rope": "qk_rope_head_dim",
        "nope": "qk_nope_head_dim",
        "value": "v_head_dim",
    },
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        layer("self_attn.q_a_proj.weight", "attn_q_a.weight", "query_rank", "embedding"),
        layer("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", "query_rank"),
        layer("self_attn.q_b_proj.weight", "attn_q_b.weight", "query", "query_rank"),
        layer("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", "rank + rope", "embedding"),
        layer("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", "rank"),
        layer("self_attn.kv_b_proj.weight", "attn_kv_b.weight", "heads * nope + heads * value", "rank"),
        layer("self_attn.o_proj.weight", "attn_output.weight", "embedding", "heads * value"),
        *FEED_FORWARD,
    ),
    keys=(
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps"),
        KeyRule("vocab_size", "UINT32", "vocab_size"),
        KeyRule("attention.q_lora_rank", "UINT32", "q_lora_rank"),
        KeyRule("attention.kv_lora_rank", "UINT32", "kv_lora_rank"),
        KeyRule("attention.key_length", "UINT32", "head_dim"),
        KeyRule("rope.dimension_count", "UINT32", "qk_rope_head_dim"),
    ),
    rope_kinds=_ROPE,
    rope_keys="none",
    computed=lambda found: long_and_short(found, found.sizes.others["rope"]),
    activations=SILU,
    check=_check3,
    vocabulary="sentencepiece",
)
