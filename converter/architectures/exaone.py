"""EXAONE 3 and 3.5, with GPT-2's names for a Llama's layers, and EXAONE 4, whose norms come after."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    FEED_FORWARD,
    HEAD_NORMS,
    KEYS,
    OUTPUT,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    layer,
    not_run,
)
from converter.architectures.llama import LLAMA_ROPE
from converter.architectures.rope import frequency_factors, rope_dimensions
from converter.architectures.windows import with_window

# By this number of layers the engine knows the size that has layers with a window.
_WITH_WINDOW = 64


def _block(source: str, target: str, *shape: str) -> TensorRule:
    return TensorRule(f"transformer.h.{{i}}.{source}.weight", f"blk.{{i}}.{target}.weight", shape)


EXAONE = Family(
    title="EXAONE 3",
    architecture="exaone",
    classes=("ExaoneForCausalLM",),
    model_types=("exaone",),
    aliases={"num_hidden_layers": ("num_layers",), "layer_norm_eps": ("layer_norm_epsilon",)},
    defaults={
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "intermediate_size": lambda values: 4 * values["hidden_size"],
    },
    # It is the root mean square that the engine's code norms by, and it looks for the number there.
    fixed={"rms_norm_eps": lambda values: values["layer_norm_eps"]},
    tensors=(
        TensorRule("transformer.wte.weight", "token_embd.weight", ("vocabulary", "embedding")),
        OUTPUT,
        TensorRule("transformer.ln_f.weight", "output_norm.weight", ("embedding",)),
        _block("ln_1", "attn_norm", "embedding"),
        _block("ln_2", "ffn_norm", "embedding"),
        _block("attn.attention.q_proj", "attn_q", "query", "embedding"),
        _block("attn.attention.k_proj", "attn_k", "key", "embedding"),
        _block("attn.attention.v_proj", "attn_v", "key", "embedding"),
        _block("attn.attention.out_proj", "attn_output", "embedding", "query"),
        _block("mlp.c_fc_0", "ffn_gate", "feed_forward", "embedding"),
        _block("mlp.c_fc_1", "ffn_up", "feed_forward", "embedding"),
        _block("mlp.c_proj", "ffn_down", "embedding", "feed_forward"),
    ),
    keys=(*KEYS, KeyRule("rope.dimension_count", "UINT32", rope_dimensions)),
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    activations=SILU,
)


def _windows(found: Parameters) -> list[bool] | None:
    return with_window(found, None)


def _check(found: Parameters) -> None:
    if found.sizes.query != found.sizes.embedding:
        raise not_run(found, f"Its heads have {found.sizes.head} elements, not the width divided by their number")
    windows = _windows(found)
    if windows is not None and any(windows) and found.sizes.layers != _WITH_WINDOW:
        raise not_run(found, f"Some of its {found.sizes.layers} layers have a window")


EXAONE4 = Family(
    title="EXAONE 4",
    architecture="exaone4",
    classes=("Exaone4ForCausalLM",),
    model_types=("exaone4",),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_key_value_heads": 32,
    },
    tensors=(
        EMBEDDING,
        OUTPUT,
        TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
        *PLAIN_ATTENTION,
        *HEAD_NORMS,
        *VALUE_AND_OUTPUT,
        layer("post_attention_layernorm.weight", "post_attention_norm.weight", "embedding"),
        *FEED_FORWARD,
        layer("post_feedforward_layernorm.weight", "post_ffw_norm.weight", "embedding"),
    ),
    keys=(
        *KEYS,
        KeyRule("vocab_size", "UINT32", "vocab_size"),
        KeyRule("attention.sliding_window", "UINT32", "sliding_window"),
        KeyRule("attention.sliding_window_pattern", "BOOL[]", _windows),
    ),
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    activations=SILU,
    check=_check,
)
