"""Hunyuan, dense: each head's queries and keys are normalised after they rotate."""

from __future__ import annotations

from converter.architectures.base import (
    KEYS,
    LAYOUT,
    PLAIN_ATTENTION,
    SILU,
    Family,
    Parameters,
    attention_biases,
    bad_config,
    layer,
)
from converter.architectures.config import head_size, real_number
from converter.sources.base import MetaEntry

_TRAINED = 256 * 1024
"""The context that models with a stretched base were made for, whatever their config.json says."""


def _stretched(found: Parameters) -> list[MetaEntry]:
    """The base frequency that ``alpha`` makes, which stays as it is for texts of any length."""
    if found.rope["rope_type"] != "dynamic":
        return []
    head = found.sizes.head
    base, alpha = real_number(found.rope, "rope_theta"), real_number({"alpha": 50.0, **found.rope}, "alpha")
    if head < 4 or alpha <= 0 or base <= 0:
        raise bad_config(f"the rotary base {base} and its alpha {alpha} make no sense")
    name = found.family.architecture
    return [
        MetaEntry(f"{name}.rope.freq_base", base * alpha ** (head / (head - 2)), "FLOAT32"),
        MetaEntry(f"{name}.rope.scaling.type", "none", "STRING"),
        MetaEntry(f"{name}.rope.scaling.factor", 1.0, "FLOAT32"),
        MetaEntry(f"{name}.rope.scaling.original_context_length", _TRAINED, "UINT32"),
        MetaEntry(f"{name}.context_length", _TRAINED, "UINT32"),
    ]


HUNYUAN = Family(
    title="Hunyuan",
    architecture="hunyuan-dense",
    classes=("HunYuanDenseV1ForCausalLM",),
    model_types=("hunyuan_v1_dense",),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "head_dim": head_size},
    # Some say that they have one expert, which is none.
    fixed={"num_experts": lambda values: None},
    tensors=(
        *LAYOUT,
        *PLAIN_ATTENTION,
        *attention_biases("q", "k", "v", "o", paired=False, required=False),
        layer("self_attn.query_layernorm.weight", "attn_q_norm.weight", "head"),
        layer("self_attn.key_layernorm.weight", "attn_k_norm.weight", "head"),
    ),
    keys=KEYS,
    rope_kinds=frozenset({"default", "dynamic"}),
    extra_keys=_stretched,
    activations=SILU,
    vocabulary="hunyuan",
)
