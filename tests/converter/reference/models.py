"""The architectures that are compared: what transformers is to build, small and random.

Known to both sides, so nothing is imported here. Sizes are small, but rows are multiples of 256 where the architecture
allows, so that K-quants fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Model:
    """``cls`` is the class of transformers, ``config`` what its configuration gets beside the vocabulary's size.

    ``vocabulary`` names a file ``ggml-vocab-*.gguf`` of the engine's sources, ``dtype`` the weights' own type.
    ``allowed`` are patterns of GGUF keys that may differ, each with its reason.
    """

    cls: str
    config: dict[str, Any]
    vocabulary: str = "gpt-2"
    dtype: str = "bfloat16"
    allowed: dict[str, str] = field(default_factory=dict)


# Qwen's classes insist on their own tokenizer, whose vocabulary is large: rows of 128, and one matrix for both ends.
QWEN = {"hidden_size": 128, "head_dim": 32, "tie_word_embeddings": True}

# Sizes under the names that most configurations share.
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

MODELS: dict[str, Model] = {
    "llama": Model("LlamaForCausalLM", SMALL, "llama-spm"),
    "llama-3": Model("LlamaForCausalLM", {**SMALL, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": Model(
        "LlamaForCausalLM",
        {
            **SMALL,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            "attention_bias": True,
            "mlp_bias": True,
        },
        dtype="float16",
    ),
    "mistral": Model("MistralForCausalLM", {**SMALL, "sliding_window": None}, "llama-spm"),
    "qwen2": Model("Qwen2ForCausalLM", {**SMALL, "hidden_size": 128, "tie_word_embeddings": True}, vocabulary="qwen2"),
    "qwen3": Model("Qwen3ForCausalLM", {**SMALL, **QWEN}, vocabulary="qwen2", dtype="float32"),
    "qwen2-moe": Model(
        "Qwen2MoeForCausalLM",
        {
            **SMALL,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 512,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "hidden_size": 128,
        },
        vocabulary="qwen2",
    ),
    "qwen3-moe": Model(
        "Qwen3MoeForCausalLM",
        {
            **SMALL,
            **QWEN,
            "moe_intermediate_size": 256,
            "num_experts": 12,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
        },
        vocabulary="qwen2",
    ),
    "gpt-2": Model("GPT2LMHeadModel", {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_ctx": 512}),
    "phi-3": Model("Phi3ForCausalLM", {**SMALL, "sliding_window": 300, "pad_token_id": 0}, "phi-3"),
    "phi-4-longrope": Model(
        "Phi3ForCausalLM",
        {
            **SMALL,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,  # the context that logits are compared in
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "long_factor": [1.0 + i / 4 for i in range(24)],
                "short_factor": [1.0 + i / 16 for i in range(24)],
            },
        },
    ),
    "mixtral": Model("MixtralForCausalLM", {**SMALL, "num_local_experts": 4}, "llama-spm"),
}
