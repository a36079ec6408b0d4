"""Qwen 3, dense. No biases by default; each head's queries and keys are normalised."""

from __future__ import annotations

from converter.architectures.base import HEAD_NORMS, KEYS, LAYOUT, PLAIN_ATTENTION, Family, attention_biases

QWEN3 = Family(
    title="Qwen3",
    architecture="qwen3",
    classes=("Qwen3ForCausalLM",),
    model_types=("qwen3",),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "use_sliding_window": False,
    },
    tensors=(
        *LAYOUT,
        *PLAIN_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=False, required=False),
        *HEAD_NORMS,
    ),
    keys=KEYS,
    window_key="sliding_window",
    vocabulary="qwen",
)
