"""SmolLM 3: Llama whose every fourth layer does not rotate."""

from __future__ import annotations

from converter.architectures.base import LAYOUT, PAIRED_ATTENTION, SILU, Family, Parameters, attention_biases, not_run
from converter.architectures.llama import LLAMA_KEYS

# The engine's code has this number in it.
_EVERY = 4


def _check(found: Parameters) -> None:
    values = found.values
    rotating = values.get("no_rope_layers")  # 1 stands for a layer that does rotate
    expected = [int((i + 1) % _EVERY != 0) for i in range(found.sizes.layers)]
    if rotating is None and values.get("no_rope_layer_interval", _EVERY) != _EVERY:
        raise not_run(found, "Its layers without rotation are not every fourth")
    if rotating is not None and rotating != expected:
        raise not_run(found, "Its layers without rotation are not every fourth")
    if values.get("use_sliding_window") and values.get("sliding_window"):
        raise not_run(found, "It looks back over a window of tokens")
    if values.get("mlp_bias"):
        raise not_run(found, "Its feed-forward matrices have biases")


SMOLLM3 = Family(
    title="SmolLM3",
    architecture="smollm3",
    classes=("SmolLM3ForCausalLM",),
    model_types=("smollm3",),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2000000.0,
        "num_key_value_heads": 4,
    },
    tensors=(*LAYOUT, *PAIRED_ATTENTION, *attention_biases("q", "k", "v", paired=True, required=False)),
    keys=LLAMA_KEYS,
    activations=SILU,
    check=_check,
    vocabulary="llama",
)
