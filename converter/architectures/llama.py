"""Llama 1 to 3.x and everything that shares its class (SmolLM, TinyLlama, CodeLlama, many others)."""

from __future__ import annotations

from converter.architectures.base import (
    KEYS,
    LAYOUT,
    PAIRED_ATTENTION,
    Family,
    KeyRule,
    attention_biases,
    feed_forward_biases,
)
from converter.architectures.config import head_size
from converter.architectures.rope import frequency_factors

LLAMA_KEYS = (
    *KEYS,
    KeyRule("vocab_size", "UINT32", "vocab_size"),
    KeyRule("rope.dimension_count", "UINT32", lambda found: found.sizes.head),
)
LLAMA_ROPE = frozenset({"default", "linear", "yarn", "dynamic", "llama3"})

LLAMA = Family(
    title="Llama",
    architecture="llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
    model_types=("llama",),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "head_dim": head_size,
    },
    # The class allows biases everywhere (attention_bias, mlp_bias); few models have them.
    tensors=(
        *LAYOUT,
        *PAIRED_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=True, required=False),
        *feed_forward_biases("gate", "up", "down", required=False),
    ),
    keys=LLAMA_KEYS,
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    vocabulary="llama",
)
