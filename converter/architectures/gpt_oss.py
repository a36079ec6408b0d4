"""gpt-oss: experts in four-bit floats, which go into GGUF as they are, and attention that may look at nothing.

An expert's gate and up are one matrix, row by row in turn. An unquantized checkpoint has the matrices of the experts
transposed.
"""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    KEYS,
    PLAIN_ATTENTION,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    attention_biases,
    layer,
    not_run,
    output_or_embedding,
)
from converter.sources.views import View

_WIDE = ("experts", "2 * feed_forward", "embedding")
_IN_TURN = tuple(View("e c (f t) -> e f c", {"t": 2}, at={"t": part}) for part in (0, 1))
_BIAS_IN_TURN = tuple(View("e (f t) -> e f", {"t": 2}, at={"t": part}) for part in (0, 1))


def _halves(name: str, part: int) -> tuple[TensorRule, ...]:
    return (
        layer("mlp.experts.gate_up_proj_blocks", f"ffn_{name}_exps.weight", *_WIDE, packed=(part, 2)),
        layer("mlp.experts.gate_up_proj", f"ffn_{name}_exps.weight", "experts", "embedding", "2 * feed_forward",
              view=_IN_TURN[part]),
        layer("mlp.experts.gate_up_proj_bias", f"ffn_{name}_exps.bias", "experts", "2 * feed_forward",
              view=_BIAS_IN_TURN[part]),
    )  # fmt: skip


def _check(found: Parameters) -> None:
    values = found.values
    kinds = values.get("layer_types")
    if kinds is not None and any((kind == "sliding_attention") != (i % 2 == 0) for i, kind in enumerate(kinds)):
        raise not_run(found, "Its layers with a window are not every other one")
    if values.get("swiglu_limit") not in (None, 7, 7.0) or values.get("swiglu_alpha") not in (None, 1.702):
        raise not_run(found, "Its experts bend their numbers in another way")


GPT_OSS = Family(
    title="gpt-oss",
    architecture="gpt-oss",
    classes=("GptOssForCausalLM",),
    model_types=("gpt_oss",),
    aliases={"num_experts": ("num_local_experts",), "num_experts_per_tok": ("experts_per_token",)},
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "num_experts": 128,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "tie_word_embeddings": False,
    },
    tensors=(
        EMBEDDING,
        *output_or_embedding("lm_head.weight", "model.embed_tokens.weight"),
        TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
        layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
        layer("post_attention_layernorm.weight", "post_attention_norm.weight", "embedding"),
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        *attention_biases("q", "k", "v", "o", paired=False),
        layer("self_attn.sinks", "attn_sinks.weight", "heads"),
        layer("mlp.router.weight", "ffn_gate_inp.weight", "experts", "embedding"),
        layer("mlp.router.bias", "ffn_gate_inp.bias", "experts"),
        layer("mlp.experts.down_proj_blocks", "ffn_down_exps.weight", "experts", "embedding", "feed_forward",
              packed=(0, 1)),
        layer("mlp.experts.down_proj", "ffn_down_exps.weight", "experts", "feed_forward", "embedding",
              view=View("e f c -> e c f")),
        layer("mlp.experts.down_proj_bias", "ffn_down_exps.bias", "experts", "embedding"),
        *_halves("gate", 0),
        *_halves("up", 1),
    ),
    keys=(
        *KEYS,
        KeyRule("attention.sliding_window", "UINT32", "sliding_window"),
        KeyRule("expert_feed_forward_length", "UINT32", "intermediate_size"),
    ),
    own_output=True,
    check=_check,
)  # fmt: skip
