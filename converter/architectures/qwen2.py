"""Qwen 1.5, 2 and 2.5, dense. Query, key and value carry biases; rows keep Hugging Face's order."""

from __future__ import annotations

from converter.architectures.base import KEYS, LAYOUT, PLAIN_ATTENTION, Family, attention_biases

QWEN2 = Family(
    title="Qwen2",
    architecture="qwen2",
    classes=("Qwen2ForCausalLM",),
    model_types=("qwen2",),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "num_key_value_heads": 32,
        "use_sliding_window": False,
    },
    tensors=(*LAYOUT, *PLAIN_ATTENTION, *attention_biases("q", "k", "v", paired=False)),
    keys=KEYS,
    window_key="sliding_window",
    vocabulary="qwen",
)
