"""Qwen 1, from before transformers knew it: GPT-2's names, and one matrix for queries, keys and values."""

from __future__ import annotations

from converter.architectures.base import KEYS, Family, Parameters, TensorRule, not_run
from converter.architectures.config import all_heads
from converter.architectures.gpt2 import block


def _check(found: Parameters) -> None:
    if found.sizes.query != found.sizes.embedding:
        raise not_run(found, f"Its heads have {found.sizes.head} elements, not the width divided by their number")
    if found.values.get("no_bias") is False:
        raise not_run(found, "It has biases everywhere")


QWEN = Family(
    title="Qwen",
    architecture="qwen",
    classes=("QWenLMHeadModel",),
    model_types=("qwen",),
    aliases={
        "max_position_embeddings": ("seq_length",),
        "rms_norm_eps": ("layer_norm_epsilon",),
        "head_dim": ("kv_channels",),
    },
    defaults={"max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "head_dim": 128},
    fixed={"num_key_value_heads": all_heads},
    # Gate and up together have the declared width.
    sizes={"width": "feed_forward/2"},
    tensors=(
        TensorRule("transformer.wte.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding")),
        TensorRule("transformer.ln_f.weight", "output_norm.weight", ("embedding",)),
        block("ln_1.weight", "attn_norm.weight", "embedding"),
        block("ln_2.weight", "ffn_norm.weight", "embedding"),
        block("attn.c_attn.weight", "attn_qkv.weight", "3 * query", "embedding"),
        block("attn.c_attn.bias", "attn_qkv.bias", "3 * query"),
        block("attn.c_proj.weight", "attn_output.weight", "embedding", "query"),
        block("mlp.w1.weight", "ffn_up.weight", "width", "embedding"),
        block("mlp.w2.weight", "ffn_gate.weight", "width", "embedding"),
        block("mlp.c_proj.weight", "ffn_down.weight", "embedding", "width"),
    ),
    keys=KEYS,
    check=_check,
    vocabulary="qwen1",
)
