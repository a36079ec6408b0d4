"""Llama 4, its text part: experts in every or every other layer, and layers that see no position."""

from __future__ import annotations

from converter.architectures.base import (
    EMBEDDING,
    NORMS,
    OUTPUT,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    layer,
    not_run,
)
from converter.architectures.llama import LLAMA_KEYS, LLAMA_ROPE
from converter.architectures.rope import frequency_factors
from converter.sources.views import View

# What the engine's code has as constants.
_CHUNK = 8192
_EVERY = 4
# By this number of experts the engine knows the model whose queries and keys are not normed.
_NOT_NORMED = 128

_HALVES = tuple(View("e c (t f) -> e f c", {"t": 2}, at={"t": part}) for part in (0, 1))

TEXT_PART = (
    (r"^language_model\.", ""),
    (r"^model\.language_model\.", "model."),
)
"""How a model of several parts calls its text part: ``Family.renames``."""
OTHER_PARTS = (r"(model\.)?(vision_model|vision_tower|multi_modal_projector|visual)\..*",)
"""Its other parts: ``Family.ignored``."""


def other_parts_left_out(found: Parameters) -> list[str]:
    """The note on a model of several parts: ``Family.notes``."""
    if "text_config" not in found.values:
        return []
    return ["Only the text part is converted: the file will not see pictures."]


def _sparse(found: Parameters, i: int) -> bool:
    return (i + 1) % int(found.values["interleave_moe_layer_step"]) == 0


def _dense(found: Parameters, i: int) -> bool:
    return not _sparse(found, i)


def _check(found: Parameters) -> None:
    values, layers = found.values, range(found.sizes.layers)
    if not found.sizes.experts:
        raise not_run(found, "It has no experts")
    if values.get("attention_chunk_size") not in (None, _CHUNK) or values.get("floor_scale") not in (None, _CHUNK):
        raise not_run(found, "It looks back over chunks of another length")
    rotated = values.get("no_rope_layers")
    if rotated and [bool(kind) for kind in rotated] != [(i + 1) % _EVERY != 0 for i in layers]:
        raise not_run(found, "Other layers than every fourth see no position")
    sparse = values.get("moe_layers")
    if sparse is not None and list(sparse) != [i for i in layers if _sparse(found, i)]:
        raise not_run(found, "Its layers with experts are not evenly spread")
    if bool(values.get("use_qk_norm", True)) == (found.sizes.experts == _NOT_NORMED):
        raise not_run(found, "Its queries and keys are normed, or not, other than in its published sizes")


LLAMA4 = Family(
    title="Llama 4",
    architecture="llama4",
    classes=("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
    model_types=("llama4", "llama4_text"),
    aliases={"num_experts": ("num_local_experts",)},
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "head_dim": 128,
        "num_key_value_heads": 8,
        "num_experts": 16,
        "num_experts_per_tok": 1,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "interleave_moe_layer_step": 1,
    },
    # What the config calls the width of the feed-forward is that of the experts.
    fixed={
        "moe_intermediate_size": lambda values: values["intermediate_size"],
        "intermediate_size": lambda values: values["intermediate_size_mlp"],
    },
    sizes={"expert": "moe_intermediate_size"},
    renames=TEXT_PART,
    ignored=OTHER_PARTS,
    tensors=(
        EMBEDDING,
        OUTPUT,
        *NORMS,
        *PLAIN_ATTENTION,
        *VALUE_AND_OUTPUT,
        layer("feed_forward.gate_proj.weight", "ffn_gate.weight", "feed_forward", "embedding", when=_dense),
        layer("feed_forward.up_proj.weight", "ffn_up.weight", "feed_forward", "embedding", when=_dense),
        layer("feed_forward.down_proj.weight", "ffn_down.weight", "embedding", "feed_forward", when=_dense),
        layer("feed_forward.router.weight", "ffn_gate_inp.weight", "experts", "embedding", when=_sparse),
        *(
            layer("feed_forward.experts.gate_up_proj", f"ffn_{name}_exps.weight", "experts", "embedding", "2 * expert",
                  view=half, when=_sparse)
            for name, half in zip(("gate", "up"), _HALVES, strict=True)
        ),
        layer("feed_forward.experts.down_proj", "ffn_down_exps.weight", "experts", "expert", "embedding",
              view=View("e f c -> e c f"), when=_sparse),
        layer("feed_forward.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", "expert", "embedding",
              when=_sparse),
        layer("feed_forward.shared_expert.up_proj.weight", "ffn_up_shexp.weight", "expert", "embedding", when=_sparse),
        layer("feed_forward.shared_expert.down_proj.weight", "ffn_down_shexp.weight", "embedding", "expert",
              when=_sparse),
    ),
    keys=(
        *LLAMA_KEYS,
        KeyRule("interleave_moe_layer_step", "UINT32", "interleave_moe_layer_step"),
        KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
    ),
    rope_kinds=LLAMA_ROPE,
    computed=frequency_factors,
    activations=SILU,
    check=_check,
    notes=other_parts_left_out,
)  # fmt: skip
