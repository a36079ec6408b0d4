"""Gemma 1, 2 and 3 (text) and EmbeddingGemma. Norms are stored less one; one matrix is embedding and output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    GELU,
    HEAD_NORMS,
    KEYS,
    NORMS,
    OUTPUT,
    OUTPUT_NORM,
    PLAIN_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    layer,
    not_run,
    with_changes,
)
from converter.architectures.config import real_number
from converter.architectures.llama4 import OTHER_PARTS, TEXT_PART, other_parts_left_out
from converter.architectures.windows import unless_assumed, windows

# All but every so many layers have a window.
_EVERY, _EVERY_3 = 2, 6
# By these numbers of layers the engine knows the 27B, whose queries it scales by the width and not by the head.
_LARGE, _LARGE_3 = 46, 62

_SHARED: tuple[TensorRule, ...] = (EMBEDDING, *VALUE_AND_OUTPUT, *FEED_FORWARD, *PLAIN_ATTENTION)
_NORMS_2: tuple[TensorRule, ...] = (
    OUTPUT_NORM,
    layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
    layer("post_attention_layernorm.weight", "post_attention_norm.weight", "embedding"),
    layer("pre_feedforward_layernorm.weight", "ffn_norm.weight", "embedding"),
    layer("post_feedforward_layernorm.weight", "post_ffw_norm.weight", "embedding"),
)
_DEFAULTS: dict[str, Any] = {"rms_norm_eps": 1e-6, "head_dim": 256}


def _check_direction(found: Parameters) -> None:
    if found.values.get("use_bidirectional_attention"):
        raise not_run(found, "It looks in both directions")


def _check_output(found: Parameters) -> None:
    if found.values.get("tie_word_embeddings") is False:
        raise not_run(found, "Its output matrix is not the embedding")


def _check_scale(found: Parameters, large: int) -> None:
    """Queries are scaled by the root of a number that the engine does not read."""
    sizes = found.sizes
    assumed = sizes.embedding // sizes.heads if sizes.layers == large else sizes.head
    if real_number(found.values, "query_pre_attn_scalar") != assumed:
        told = str(found.values["query_pre_attn_scalar"])[:40]
        raise not_run(found, f"It scales its queries by the root of {told}, not of {assumed}")


def _check(found: Parameters) -> None:
    _check_direction(found)
    _check_output(found)


GEMMA = Family(
    title="Gemma",
    architecture="gemma",
    classes=("GemmaForCausalLM",),
    model_types=("gemma",),
    defaults={**_DEFAULTS, "max_position_embeddings": 8192, "rope_theta": 10000.0},
    tensors=with_changes((*_SHARED, *NORMS), "plus one"),
    keys=KEYS,
    rope_keys="unusual",
    # What some programs save although it is the embedding once more.
    ignored=(r"lm_head\.weight",),
    activations=GELU,
    check=_check,
    vocabulary="gemma",
)


def _cap(name: str, usual: float) -> Any:
    """The default of a limit to scores; one that is null says that there is none."""
    return lambda values: 0.0 if name in values else usual


def _check_2(found: Parameters) -> None:
    _check(found)
    _check_scale(found, _LARGE)
    windows(found, _EVERY)  # raises for nonsense
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if found.values[name] <= 0:
            raise not_run(found, f"It has no {name}")


GEMMA2 = Family(
    title="Gemma 2",
    architecture="gemma2",
    classes=("Gemma2ForCausalLM",),
    model_types=("gemma2",),
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 8192,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": _cap("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _cap("final_logit_softcapping", 30.0),
    },
    reals=("rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping"),
    tensors=with_changes((*_SHARED, *_NORMS_2), "plus one"),
    keys=(
        *KEYS,
        KeyRule("attn_logit_softcapping", "FLOAT32", "attn_logit_softcapping"),
        KeyRule("final_logit_softcapping", "FLOAT32", "final_logit_softcapping"),
        KeyRule("attention.sliding_window", "UINT32", "sliding_window"),
        KeyRule("attention.sliding_window_pattern", "BOOL[]", lambda found: unless_assumed(found, _EVERY)),
    ),
    rope_keys="unusual",
    ignored=(r"lm_head\.weight",),
    activations=GELU,
    check=_check_2,
    vocabulary="gemma2",
)


def _any_windows(found: Parameters) -> bool:
    return any(windows(found, _EVERY_3))


def _window_3(found: Parameters) -> Any:
    """Without a width the engine's code takes all layers for full ones."""
    return found.values["sliding_window"] if _any_windows(found) else None


def _pattern_3(found: Parameters) -> list[bool] | None:
    return unless_assumed(found, _EVERY_3) if _any_windows(found) else None


def _final_cap(found: Parameters) -> Any:
    return found.values.get("final_logit_softcapping") or None


def _check_3(found: Parameters) -> None:
    _check_direction(found)
    _check_scale(found, _LARGE_3)
    _check_layers_3(found)


def _check_layers_3(found: Parameters) -> None:
    if found.values.get("attn_logit_softcapping") is not None:
        raise not_run(found, "It limits the scores of its attention")
    if not _any_windows(found):
        return
    if found.rope["rope_type"] == "yarn":
        raise not_run(found, "It stretches the positions of only some of its layers by yarn")
    if found.rope_local.get("rope_type") not in (None, "default"):
        raise not_run(found, "It stretches the positions of layers with a window")


GEMMA3 = Family(
    title="Gemma 3",
    architecture="gemma3",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_types=("gemma3", "gemma3_text"),
    # Published configs with a part that sees leave out much of what is as usual.
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
    },
    renames=TEXT_PART,
    ignored=OTHER_PARTS,
    tensors=with_changes((*_SHARED, OUTPUT, *_NORMS_2, *HEAD_NORMS), "plus one"),
    keys=(
        *KEYS,
        KeyRule(
            "final_logit_softcapping", "FLOAT32", lambda found: found.values.get("final_logit_softcapping") or None
        ),
        KeyRule("attention.sliding_window", "UINT32", _window_3),
        KeyRule("attention.sliding_window_pattern", "BOOL[]", _pattern_3),
    ),
    activations=GELU,
    check=_check_3,
    notes=other_parts_left_out,
    vocabulary="gemma2",
)


def _check_embedding(found: Parameters) -> None:
    _check_scale(found, 0)
    _check_layers_3(found)
    if not found.values.get("use_bidirectional_attention"):
        raise not_run(found, "It gives vectors, but each token sees only those before it")


# A Gemma 3 without its head that sees both ways, for vectors of texts.
EMBEDDING_GEMMA = replace(
    GEMMA3,
    title="EmbeddingGemma",
    architecture="gemma-embedding",
    classes=("Gemma3TextModel",),
    model_types=(),
    defaults={**GEMMA3.defaults, "sliding_window": 512},
    renames=((r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
    ignored=(),
    tensors=tuple(rule for rule in GEMMA3.tensors if rule is not OUTPUT),
    check=_check_embedding,
    notes=lambda found: ["Dense layers that sentence-transformers puts behind the vectors are left out."],
    pooled=True,
)
