"""Llama 1 to 3.x and everything that shares its class (SmolLM, TinyLlama, CodeLlama, many others)."""

from __future__ import annotations

from converter.architectures.base import KEYS, LAYOUT, PAIRED_ATTENTION, Family, KeyRule, TensorRule, attention_biases

# The class allows biases everywhere (attention_bias, mlp_bias); few models have them.
_MLP_BIASES = (
    TensorRule("model.layers.{i}.mlp.gate_proj.bias", "blk.{i}.ffn_gate.bias", ("feed_forward",), required=False),
    TensorRule("model.layers.{i}.mlp.up_proj.bias", "blk.{i}.ffn_up.bias", ("feed_forward",), required=False),
    TensorRule("model.layers.{i}.mlp.down_proj.bias", "blk.{i}.ffn_down.bias", ("embedding",), required=False),
)

LLAMA = Family(
    title="Llama",
    architecture="llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
    model_types=("llama",),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": None,
        "head_dim": None,
    },
    tensors=(
        *LAYOUT,
        *PAIRED_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=True, required=False),
        *_MLP_BIASES,
    ),
    keys=(*KEYS, KeyRule("vocab_size", "UINT32", "vocab_size")),
    writes_head_dim=True,
    rope_factors=True,
    vocabulary="llama",
)
