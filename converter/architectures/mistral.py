"""Mistral 7B, Nemo, Small and other dense models of the same class. GGUF knows them as Llama."""

from __future__ import annotations

from converter.architectures.base import KEYS, LAYOUT, PAIRED_ATTENTION, Family, KeyRule

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
        "head_dim": None,
    },
    tensors=(*LAYOUT, *PAIRED_ATTENTION),
    keys=(*KEYS, KeyRule("vocab_size", "UINT32", "vocab_size")),
    writes_head_dim=True,
    rope_factors=True,
    window_key="sliding_window",
    vocabulary="llama",
)
