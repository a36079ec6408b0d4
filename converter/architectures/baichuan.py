"""Baichuan of 7B and Orion: Llamas with code of their own from before there was a common class."""

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
    TensorRule,
    keys_without,
    layer,
    not_run,
    weight_and_bias,
)
from converter.sources.views import View

# By this number of layers the engine knows the size that has rotary positions; others have slopes, or are not known.
_ROTARY = 32
_NORMED_HEAD = 125696
"""The vocabulary of Baichuan 2, whose output matrix is normed row by row."""

_LAYOUT = KeyRule("tensor_data_layout", "STRING", lambda found: "Meta AI original pth")


def _packed(target: str, first: int, view: View) -> TensorRule:
    rows = (f"{first} * embedding", f"{first + 1} * embedding")
    return layer("self_attn.W_pack.weight", target, "3 * embedding", "embedding", view=replace(view, rows=rows))


_TURNED = View("(h p j) ... -> (h j p) ...", {"h": "heads", "p": 2, "j": "head/2"})


def _check(found: Parameters) -> None:
    if found.sizes.layers != _ROTARY:
        raise not_run(found, f"It has {found.sizes.layers} layers and not the 32 of the one with rotary positions")


def _notes(found: Parameters) -> list[str]:
    if found.sizes.vocabulary != _NORMED_HEAD:
        return []
    return ["Baichuan 2 brings the rows of its output matrix to length 1, which the engine does not: answers differ."]


BAICHUAN = Family(
    title="Baichuan",
    architecture="baichuan",
    classes=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    model_types=("baichuan",),
    aliases={"max_position_embeddings": ("model_max_length",)},
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        _packed("attn_q.weight", 0, _TURNED),
        _packed("attn_k.weight", 1, _TURNED),
        _packed("attn_v.weight", 2, View("r ... -> r ...")),
        layer("self_attn.o_proj.weight", "attn_output.weight", "embedding", "query"),
        *FEED_FORWARD,
    ),
    keys=(*KEYS, _LAYOUT, KeyRule("rope.dimension_count", "UINT32", lambda found: found.sizes.head)),
    activations=SILU,
    check=_check,
    notes=_notes,
    vocabulary="sentencepiece",
)

ORION = Family(
    title="Orion",
    architecture="orion",
    classes=("OrionForCausalLM",),
    model_types=("orion",),
    aliases={"max_position_embeddings": ("max_sequence_length", "model_max_length")},
    defaults={"max_position_embeddings": 4096, "rope_theta": 10000.0},
    tensors=(
        EMBEDDING,
        OUTPUT,
        *weight_and_bias("model.norm", "output_norm", "embedding"),
        *weight_and_bias("model.layers.{i}.input_layernorm", "blk.{i}.attn_norm", "embedding"),
        *weight_and_bias("model.layers.{i}.post_attention_layernorm", "blk.{i}.ffn_norm", "embedding"),
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        *FEED_FORWARD,
    ),
    # Its config calls the norm's number as if it were of the root mean square.
    keys=(
        *keys_without("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.key_length",
                      "attention.value_length"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "rms_norm_eps"),
        _LAYOUT,
    ),
    rope_kinds=frozenset({"default"}),
    rope_keys="none",
    activations=SILU,
    vocabulary="sentencepiece",
)  # fmt: skip
