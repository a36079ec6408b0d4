"""DeepSeek V2 and V3: attention over a compressed memory (MLA), and experts beside some that every token uses.

The engine keeps the compressed memory instead of keys and values, so that to it all heads share one wide head: the
matrix that would unpack keys comes transposed, head by head, and is multiplied into the queries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    NORMS,
    OUTPUT,
    SILU,
    Family,
    KeyRule,
    Parameters,
    keys_without,
    layer,
    not_run,
)
from converter.architectures.config import whole_number
from converter.architectures.moe import (
    CORRECTED_CHOICE,
    ROUTER_KEYS,
    SHARED_EXPERTS,
    ahead_left_out,
    experts,
    follows_dense,
    leads_dense,
)
from converter.sources.views import View

# Layer counts (and a vocabulary) by which the engine knows the models whose queries are not compressed.
_LITE_LAYERS = (26, 27)
_LITE_LARGE = (48, 128256)

_KEY_AND_VALUE = {"h": "heads", "s": "nope + value"}
_UNPACK_KEYS = View("(h s) c -> h c s", _KEY_AND_VALUE, keep={"s": (0, "nope")})
_UNPACK_VALUES = View("(h s) c -> h s c", _KEY_AND_VALUE, keep={"s": ("nope", "nope + value")})


def _compressed(found: Parameters, i: int) -> bool:
    return found.values.get("q_lora_rank") is not None


def _whole(found: Parameters, i: int) -> bool:
    return not _compressed(found, i)


def _log_multiplier(found: Parameters) -> float | None:
    """A tenth of it, which the engine undoes: so the files have it."""
    value = found.rope.get("mscale_all_dim")
    return None if value is None else 0.1 * float(value)


def _width(values: dict[str, Any]) -> int:
    """What the engine keeps of a token: the compressed keys and values, and the rotated part of the key."""
    return whole_number(values, "kv_lora_rank") + whole_number(values, "qk_rope_head_dim")


def _check(found: Parameters) -> None:
    values = found.values
    if values.get("moe_layer_freq") not in (None, 1):
        raise not_run(found, "Only some of its layers after the first ones have experts")
    layers, vocabulary = found.sizes.layers, found.sizes.vocabulary
    lite = layers in _LITE_LAYERS or (layers, vocabulary) == _LITE_LARGE
    if lite == _compressed(found, -1):
        which = "compressed queries" if lite else "queries that are not compressed"
        raise not_run(found, f"It has {which} in {layers} layers")


def _notes(found: Parameters) -> list[str]:
    notes = []
    groups = found.values.get("n_group") or 1
    if groups != 1 and found.values.get("topk_method") == "group_limited_greedy":
        notes.append(
            "The engine chooses a group of experts by its two best, the model's authors by the best alone: answers "
            "can differ from theirs."
        )
    return notes + ahead_left_out(found)


_TENSORS = (
    EMBEDDING,
    OUTPUT,
    *NORMS,
    layer("self_attn.q_proj.weight", "attn_q.weight", "queries", "embedding", when=_whole),
    layer("self_attn.q_a_proj.weight", "attn_q_a.weight", "query_rank", "embedding", when=_compressed),
    layer("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", "query_rank", when=_compressed),
    layer("self_attn.q_b_proj.weight", "attn_q_b.weight", "queries", "query_rank", when=_compressed),
    layer("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", "rank + rope", "embedding"),
    layer("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", "rank"),
    layer("self_attn.kv_b_proj.weight", "attn_k_b.weight", "unpacked", "rank", view=_UNPACK_KEYS),
    layer("self_attn.kv_b_proj.weight", "attn_v_b.weight", "unpacked", "rank", view=_UNPACK_VALUES),
    layer("self_attn.o_proj.weight", "attn_output.weight", "embedding", "heads * value"),
    *(replace(rule, when=leads_dense) for rule in FEED_FORWARD),
    *experts("expert", follows_dense),
    CORRECTED_CHOICE,
    *SHARED_EXPERTS,
)

DEEPSEEK2 = Family(
    title="DeepSeek V2",
    architecture="deepseek2",
    classes=("DeepseekV2ForCausalLM",),
    model_types=("deepseek_v2",),
    aliases={"num_experts": ("n_routed_experts",)},
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "num_experts": 64,
        "first_k_dense_replace": 0,
        "moe_intermediate_size": 1407,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.0,
    },
    fixed={"num_key_value_heads": lambda values: 1, "head_dim": _width},
    sizes={
        "rank": "kv_lora_rank",
        "query_rank": "q_lora_rank",
        "nope": "qk_nope_head_dim",
        "rope": "qk_rope_head_dim",
        "value": "v_head_dim",
        "queries": "heads * nope + heads * rope",
        "unpacked": "heads * nope + heads * value",
        "expert": "moe_intermediate_size",
        "shared_experts": "n_shared_experts",
        "shared": "shared_experts * expert",
    },
    tensors=_TENSORS,
    keys=(
        *keys_without("attention.value_length"),
        *ROUTER_KEYS,
        KeyRule("vocab_size", "UINT32", "vocab_size"),
        KeyRule("attention.q_lora_rank", "UINT32", "q_lora_rank"),
        KeyRule("attention.kv_lora_rank", "UINT32", "kv_lora_rank"),
        KeyRule("attention.value_length", "UINT32", "kv_lora_rank"),
        KeyRule("attention.key_length_mla", "UINT32",
                lambda found: found.sizes.others["nope"] + found.sizes.others["rope"]),
        KeyRule("attention.value_length_mla", "UINT32", "v_head_dim"),
        KeyRule("rope.dimension_count", "UINT32", "qk_rope_head_dim"),
        KeyRule("rope.scaling.yarn_log_multiplier", "FLOAT32", _log_multiplier),
    ),
    activations=SILU,
    later_layers_left_out=True,
    check=_check,
    notes=_notes,
)  # fmt: skip

DEEPSEEK3 = replace(
    DEEPSEEK2,
    title="DeepSeek V3",
    classes=("DeepseekV3ForCausalLM",),
    model_types=("deepseek_v3",),
    defaults={
        **DEEPSEEK2.defaults,
        "max_position_embeddings": 4096,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "q_lora_rank": 1536,
        "first_k_dense_replace": 3,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        # transformers' code knows no other; the engine must be told.
        "scoring_func": "sigmoid",
    },
)
