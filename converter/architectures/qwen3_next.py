"""Qwen3-Next and Qwen 3.5: in most layers a memory of fixed size in place of attention (gated delta rule).

Its values have more heads than its keys. Qwen3-Next's matrices go group by group, a key's heads together; Qwen 3.5's
are in one order already, but for the heads of values: the engine wants the first of every group, then the second.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    HEAD_NORMS,
    KEYS,
    OUTPUT,
    SILU,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    attention_biases,
    bad_config,
    keys_without,
    layer,
    not_run,
    with_changes,
)
from converter.architectures.config import whole_number
from converter.architectures.llama4 import OTHER_PARTS, TEXT_PART, other_parts_left_out
from converter.architectures.moe import experts, is_sparse
from converter.architectures.qwen2_moe import SHARED_EXPERT
from converter.architectures.rope import rope_dimensions
from converter.sources.views import View

_ATTENTION, _MEMORY = "full_attention", "linear_attention"
# Parts of a rotated half that stand for time, height and width, where a config does not say.
_SECTIONS = [11, 11, 10]


def _remembers(found: Parameters, i: int) -> bool:
    return bool(found.values["layer_types"][i] == _MEMORY)


def _attends(found: Parameters, i: int) -> bool:
    return not _remembers(found, i)


def _kinds(values: dict[str, Any]) -> list[str]:
    every = values.get("full_attention_interval") or 4
    return [_MEMORY if (i + 1) % every else _ATTENTION for i in range(whole_number(values, "num_hidden_layers"))]


def _check(found: Parameters) -> None:
    values, kinds = found.values, found.values["layer_types"]
    if not isinstance(kinds, list) or len(kinds) != found.sizes.layers or not {*kinds} <= {_ATTENTION, _MEMORY}:
        raise bad_config("layer_types does not say of every layer what it is")
    if values["linear_key_head_dim"] != values["linear_value_head_dim"]:
        raise not_run(found, "The heads of its memory have other lengths for keys than for values")
    if values["linear_num_value_heads"] % values["linear_num_key_heads"]:
        raise bad_config("the memory's heads of values are no multiple of those of keys")


def _notes(found: Parameters) -> list[str]:
    notes = other_parts_left_out(found)
    if found.values.get("mtp_num_hidden_layers"):
        notes.append("The layers that predict tokens ahead of the next one are left out.")
    return notes


def _memory(source: str, target: str, *shape: int | str, **options: Any) -> TensorRule:
    return layer(f"linear_attn.{source}", target, *shape, when=_remembers, **options)


_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "layer_types": _kinds,
}
_SIZES = {
    "state": "linear_key_head_dim",
    "key_heads": "linear_num_key_heads",
    "value_heads": "linear_num_value_heads",
    "kernel": "linear_conv_kernel_dim",
    "keys": "key_heads * state",
    "values": "value_heads * state",
    "repeats": "value_heads / key_heads",
}
_MEMORY_KEYS = (
    KeyRule("ssm.conv_kernel", "UINT32", "linear_conv_kernel_dim"),
    KeyRule("ssm.state_size", "UINT32", "linear_key_head_dim"),
    KeyRule("ssm.group_count", "UINT32", "linear_num_key_heads"),
    KeyRule("ssm.time_step_rank", "UINT32", "linear_num_value_heads"),
    KeyRule("ssm.inner_size", "UINT32", lambda found: found.sizes.others["values"]),
    KeyRule("attention.recurrent_layers", "BOOL[]",
            lambda found: [_remembers(found, i) for i in range(found.sizes.layers)]),
    KeyRule("full_attention_interval", "UINT32", lambda found: found.values.get("full_attention_interval") or 4),
    KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
)  # fmt: skip
_EXPERT_KEYS = (
    KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
    KeyRule("expert_shared_feed_forward_length", "UINT32", "shared_expert_intermediate_size"),
)
_EXPERT_SIZES = {"expert": "moe_intermediate_size", "shared": "shared_expert_intermediate_size"}

# Every norm but the memory's own stores how far its factors are from one.
_AROUND = (
    EMBEDDING,
    OUTPUT,
    *with_changes(
        (
            TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
            layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
            layer("post_attention_layernorm.weight", "post_attention_norm.weight", "embedding"),
            *(replace(rule, when=_attends) for rule in HEAD_NORMS),
        ),
        "plus one",
    ),
    # Queries come with gates for what attention finds, head by head.
    layer("self_attn.q_proj.weight", "attn_q.weight", "2 * query", "embedding", when=_attends),
    layer("self_attn.k_proj.weight", "attn_k.weight", "key", "embedding", when=_attends),
    layer("self_attn.v_proj.weight", "attn_v.weight", "key", "embedding", when=_attends),
    layer("self_attn.o_proj.weight", "attn_output.weight", "embedding", "query", when=_attends),
    *(
        replace(rule, when=_attends, shape=("2 * query",) if "q_proj" in rule.source else rule.shape)
        for rule in attention_biases("q", "k", "v", "o", paired=False, required=False)
    ),
    _memory("norm.weight", "ssm_norm.weight", "state"),
)
_EXPERTS = (*experts("expert", is_sparse), *SHARED_EXPERT)

_GROUP = {"g": "key_heads"}
_QKVZ = ("0", "state", "2 * state", "2 * state + repeats * state", "2 * state + 2 * repeats * state")
_OF_GROUP = tuple(View("(g s) ... -> (g s) ...", _GROUP, keep={"s": (start, stop)}) for start, stop in pairwise(_QKVZ))
_FILTERS = ("2 * keys + values", 1, "kernel")

QWEN3_NEXT = Family(
    title="Qwen3-Next",
    architecture="qwen3next",
    classes=("Qwen3NextForCausalLM",),
    model_types=("qwen3_next",),
    defaults={
        **_DEFAULTS,
        "num_key_value_heads": 2,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "intermediate_size": 5632,
    },
    sizes={**_SIZES, **_EXPERT_SIZES},
    ignored=(r"(model\.)?mtp\..*",),
    tensors=(
        *_AROUND,
        _memory("A_log", "ssm_a", "value_heads", change="minus exponential"),
        _memory("dt_bias", "ssm_dt.bias", "value_heads"),
        _memory("conv1d.weight", "ssm_conv1d.weight", *_FILTERS, view=View("p o t -> p t", at={"o": 0})),
        _memory("in_proj_ba.weight", "ssm_ba.weight", "2 * value_heads", "embedding"),
        _memory("in_proj_qkvz.weight", "attn_qkv.weight", "2 * keys + 2 * values", "embedding", view=_OF_GROUP[:3]),
        _memory("in_proj_qkvz.weight", "attn_gate.weight", "2 * keys + 2 * values", "embedding", view=_OF_GROUP[3]),
        _memory("out_proj.weight", "ssm_out.weight", "embedding", "values"),
        *_EXPERTS,
    ),
    keys=(*KEYS, *_EXPERT_KEYS, *_MEMORY_KEYS),
    activations=SILU,
    check=_check,
    notes=_notes,
)

# The heads of values, group by group, as the first of every group, then the second.
_HEADS = {"g": "key_heads", "r": "repeats"}
_ROWS = View("(g r d) ... -> (r g d) ...", _HEADS)
_KEYS_FIRST = ("0", "2 * keys")
_VALUES_LAST = ("2 * keys", "2 * keys + values")


def _sections(found: Parameters) -> list[int]:
    """Four numbers, the last ones zero."""
    sections = found.rope.get("mrope_section") or _SECTIONS
    if not isinstance(sections, list):
        raise bad_config("mrope_section is not a list")
    return [*sections, 0, 0, 0, 0][:4]


def _check_sections(found: Parameters) -> None:
    _check(found)
    if sum(number for number in _sections(found) if isinstance(number, int)) > found.sizes.head:
        raise not_run(found, f"Its heads have only {found.sizes.head} elements")


_BY_TURNS = (
    *_AROUND,
    _memory("A_log", "ssm_a", "value_heads", view=View("(g r) -> (r g)", _HEADS), change="minus exponential"),
    _memory("dt_bias", "ssm_dt.bias", "value_heads", view=View("(g r) -> (r g)", _HEADS)),
    _memory("conv1d.weight", "ssm_conv1d.weight", *_FILTERS, view=(
        View("p o t -> p t", at={"o": 0}, rows=_KEYS_FIRST),
        View("(g r d) o t -> (r g d) t", _HEADS, at={"o": 0}, rows=_VALUES_LAST),
    )),
    _memory("in_proj_a.weight", "ssm_alpha.weight", "value_heads", "embedding",
            view=View("(g r) ... -> (r g) ...", _HEADS)),
    _memory("in_proj_b.weight", "ssm_beta.weight", "value_heads", "embedding",
            view=View("(g r) ... -> (r g) ...", _HEADS)),
    _memory("in_proj_qkv.weight", "attn_qkv.weight", "2 * keys + values", "embedding",
            view=(View("p ... -> p ...", rows=_KEYS_FIRST), replace(_ROWS, rows=_VALUES_LAST))),
    _memory("in_proj_z.weight", "attn_gate.weight", "values", "embedding", view=_ROWS),
    _memory("out_proj.weight", "ssm_out.weight", "embedding", "values",
            view=View("c (g r d) -> c (r g d)", _HEADS)),
)  # fmt: skip

QWEN3_5 = Family(
    title="Qwen 3.5",
    architecture="qwen35",
    classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    model_types=("qwen3_5", "qwen3_5_text"),
    defaults={**_DEFAULTS, "num_key_value_heads": 4},
    sizes=_SIZES,
    renames=TEXT_PART,
    ignored=(r"(model\.)?mtp\..*", *OTHER_PARTS),
    tensors=(*_BY_TURNS, *FEED_FORWARD),
    keys=(*KEYS, *_MEMORY_KEYS, KeyRule("rope.dimension_sections", "INT32[]", _sections)),
    activations=SILU,
    check=_check_sections,
    notes=_notes,
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    title="Qwen 3.5 MoE",
    architecture="qwen35moe",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    model_types=("qwen3_5_moe", "qwen3_5_moe_text"),
    defaults={
        **_DEFAULTS,
        "num_key_value_heads": 2,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        # It has no layers without experts.
        "intermediate_size": lambda values: values["moe_intermediate_size"],
    },
    sizes={**_SIZES, **_EXPERT_SIZES},
    tensors=(*_BY_TURNS, *_EXPERTS),
    keys=(
        *keys_without("feed_forward_length"),
        *_EXPERT_KEYS,
        *_MEMORY_KEYS,
        KeyRule("rope.dimension_sections", "INT32[]", _sections),
    ),
)
