"""Mistral 3 and Ministral 3, their text part: Llama's layers, and questions that sharpen with their position."""

from __future__ import annotations

from converter.architectures.base import LAYOUT, PAIRED_ATTENTION, SILU, Family, KeyRule, Parameters, not_run
from converter.architectures.llama import LLAMA_KEYS
from converter.architectures.llama4 import OTHER_PARTS, TEXT_PART, other_parts_left_out


def _scaled(found: Parameters) -> bool:
    return found.values.get("model_type") == "ministral3"


def _check(found: Parameters) -> None:
    if found.values.get("model_type") == "mistral4":
        raise not_run(found, "It is a Mistral 4 under this name")
    if _scaled(found) and found.rope["rope_type"] != "yarn":
        raise not_run(found, "Its rotary positions are not stretched by yarn")


MISTRAL3 = Family(
    title="Mistral 3",
    architecture="mistral3",
    classes=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    model_types=("mistral3", "ministral3"),
    defaults={
        "max_position_embeddings": lambda values: 262144 if values.get("model_type") == "ministral3" else 131072,
        "rms_norm_eps": lambda values: 1e-5 if values.get("model_type") == "ministral3" else 1e-6,
        "rope_theta": lambda values: 1e6 if values.get("model_type") == "ministral3" else 1e4,
        "num_key_value_heads": 8,
    },
    renames=TEXT_PART,
    ignored=OTHER_PARTS,
    tensors=(*LAYOUT, *PAIRED_ATTENTION),
    keys=(
        *LLAMA_KEYS,
        KeyRule("rope.scaling.yarn_log_multiplier", "FLOAT32",
                lambda found: found.rope.get("mscale_all_dim", 1.0) if _scaled(found) else None),
        KeyRule("attention.temperature_scale", "FLOAT32",
                lambda found: found.rope.get("llama_4_scaling_beta", 0.1) if _scaled(found) else None),
    ),
    window_key="sliding_window",
    activations=SILU,
    check=_check,
    notes=other_parts_left_out,
    vocabulary="llama",
)  # fmt: skip
