"""Mistral 7B, Nemo, Small and other dense models of the same class. GGUF knows them as Llama."""

from __future__ import annotations

from converter.architectures.base import LAYOUT, PAIRED_ATTENTION, Family
from converter.architectures.config import head_size
from converter.architectures.llama import LLAMA_KEYS, LLAMA_ROPE
from converter.architectures.rope import frequency_factors

MISTRAL = Family(
    title="Mistral",
    architecture="llama",
    classes=("MistralForCausalLM",),
    model_types=("mistral",),
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 8,
        "head_dim": head_size,
    },
    tensors=(*LAYOUT, *PAIRED_ATTENTION),
    keys=LLAMA_KEYS,
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    window_key="sliding_window",
    vocabulary="llama",
)
