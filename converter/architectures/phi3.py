"""Phi 3, 3.5 and 4: fused projections, and a context stretched by two tables of factors (longrope)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from converter.architectures.base import EMBEDDING, NORMS, OUTPUT, Family, KeyRule, Parameters, bad_config, layer
from converter.architectures.config import real_number, whole_number
from converter.architectures.rope import rope_dimensions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TABLES = (("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight"))


def long_and_short(found: Parameters, rotated: int | None = None) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """The tables of divisors of the rotary frequencies, float32 ``(rotated / 2,)`` each; nothing without them.

    ``rotated`` is how many elements of a head rotate, if ``partial_rotary_factor`` does not say.
    """
    import numpy as np

    if not found.rope.get("long_factor"):
        return []
    half = (rope_dimensions(found) if rotated is None else rotated) // 2
    tables = []
    for name, target in _TABLES:
        values = found.rope.get(name)
        if not isinstance(values, list) or len(values) != half:
            raise bad_config(f"{name} is not a list of {half} numbers")
        numbers = [real_number({name: value}, name) for value in values]
        tables.append((target, np.array(numbers, np.float32)))
    return tables


def attention_factor(found: Parameters) -> float | None:
    """By how much longrope sharpens attention: ``sqrt(1 + ln(scale) / ln(original))`` (Ding et al. 2024)."""
    if not found.rope.get("long_factor"):
        return None
    original = whole_number(found.rope, "original_max_position_embeddings")
    scale = found.values["max_position_embeddings"] / original
    if scale <= 1.0:
        return 1.0
    if found.rope["rope_type"] == "yarn":
        return 0.1 * math.log(scale) + 1.0
    return math.sqrt(1 + math.log(scale) / math.log(original))


PHI3 = Family(
    title="Phi-3",
    architecture="phi3",
    classes=("Phi3ForCausalLM",),
    model_types=("phi3",),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 4096,
    },
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        layer("self_attn.qkv_proj.weight", "attn_qkv.weight", "query + 2 * key", "embedding"),
        layer("self_attn.o_proj.weight", "attn_output.weight", "embedding", "query"),
        layer("mlp.gate_up_proj.weight", "ffn_up.weight", "2 * feed_forward", "embedding"),
        layer("mlp.down_proj.weight", "ffn_down.weight", "embedding", "feed_forward"),
    ),
    keys=(
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps"),
        KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
        KeyRule("rope.scaling.original_context_length", "UINT32",
                lambda found: found.rope["original_max_position_embeddings"]),
        KeyRule("rope.scaling.attn_factor", "FLOAT32", attention_factor),
        # Without a window: zero, by which the engine tells Phi-4 from Phi-3.
        KeyRule("attention.sliding_window", "UINT32", lambda found: found.values.get("sliding_window") or 0),
    ),
    rope_kinds=frozenset({"default", "su", "longrope", "yarn"}),
    rope_keys="base",
    computed=long_and_short,
    vocabulary="phi3",
)  # fmt: skip
