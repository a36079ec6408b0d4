"""Rules that families with experts share: Qwen's names, separate or stacked, and which layers have experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.architectures.base import KeyRule, Parameters, TensorRule, bad_config, layer
from converter.sources.views import View

_GATE = View("e (s f) c -> e f c", {"e": "experts", "s": 2}, at={"s": 0})
_UP = View("e (s f) c -> e f c", {"e": "experts", "s": 2}, at={"s": 1})
_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}


def is_sparse(found: Parameters, i: int) -> bool:
    """Whether a layer has experts: every ``decoder_sparse_step``-th, but for those in ``mlp_only_layers``.

    The engine's code for Qwen knows no others, so that a model with some is refused for the weights that they have.
    """
    step = found.values.get("decoder_sparse_step") or 1
    only = found.values.get("mlp_only_layers") or ()
    return found.sizes.experts > 0 and (i + 1) % int(step) == 0 and i not in only


def normalised_note(expected: bool) -> Callable[[Parameters], list[str]]:
    """What to say where ``norm_topk_prob`` is not what the engine's code for a family takes for granted."""

    def note(found: Parameters) -> list[str]:
        if bool(found.values.get("norm_topk_prob")) == expected:
            return []
        return [
            f"config.json wants the shares of the chosen experts {'as they are' if expected else 'to add up to one'} "
            f"(norm_topk_prob), which the engine does the other way for this architecture: answers will differ."
        ]

    return note


def leads_dense(found: Parameters, i: int) -> bool:
    """Whether a layer is one of the first ones, which have no experts, by ``first_k_dense_replace``."""
    return i < int(found.values["first_k_dense_replace"])


def follows_dense(found: Parameters, i: int) -> bool:
    """The layers after them."""
    return not leads_dense(found, i)


def gating(found: Parameters) -> int | None:
    """The function that makes a router's sums into weights, by GGUF's number."""
    name = found.values.get("scoring_func")
    if name is None:
        return None
    if name not in _GATING:
        raise bad_config(f"scoring_func is {str(name)[:40]!r}")
    return _GATING[name]


# How a router of DeepSeek's kind chooses.
ROUTER_KEYS = (
    KeyRule("expert_group_count", "UINT32", "n_group"),
    KeyRule("expert_group_used_count", "UINT32", "topk_group"),
    KeyRule("expert_gating_func", "UINT32", gating),
    KeyRule("expert_shared_count", "UINT32", "n_shared_experts"),
    KeyRule("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
    KeyRule("expert_weights_scale", "FLOAT32", "routed_scaling_factor"),
    KeyRule("expert_weights_norm", "BOOL", lambda found: found.values.get("norm_topk_prob") or None),
    KeyRule("leading_dense_block_count", "UINT32", "first_k_dense_replace"),
)


# A correction of the router's sums that decides which experts are chosen, and counts no further.
CORRECTED_CHOICE = layer(
    "mlp.gate.e_score_correction_bias", "exp_probs_b.bias", "experts", required=False, when=follows_dense
)
# Experts that every token uses, as one of the width of all.
SHARED_EXPERTS = tuple(
    layer(f"mlp.shared_experts.{name}_proj.weight", f"ffn_{name}_shexp.weight", *shape, when=follows_dense)
    for name, shape in (
        ("gate", ("shared", "embedding")),
        ("up", ("shared", "embedding")),
        ("down", ("embedding", "shared")),
    )
)


def ahead_left_out(found: Parameters) -> list[str]:
    """What to say of layers that predict tokens ahead."""
    if not found.values.get("num_nextn_predict_layers"):
        return []
    return ["The layers that predict tokens ahead of the next one are left out: the engine does not use them."]


def experts(width: str, when: Callable[[Parameters, int], bool] | None = None) -> tuple[TensorRule, ...]:
    """A router and experts of ``width`` elements, one tensor each, or stacked with gate and up in one."""
    options: dict[str, Any] = {"when": when}
    return (
        layer("mlp.gate.weight", "ffn_gate_inp.weight", "experts", "embedding", **options),
        layer("mlp.experts.{e}.gate_proj.weight", "ffn_gate_exps.weight", width, "embedding", **options),
        layer("mlp.experts.{e}.up_proj.weight", "ffn_up_exps.weight", width, "embedding", **options),
        layer("mlp.experts.{e}.down_proj.weight", "ffn_down_exps.weight", "embedding", width, **options),
        layer("mlp.experts.gate_up_proj", "ffn_gate_exps.weight", "experts", f"2 * {width}", "embedding", view=_GATE,
              **options),
        layer("mlp.experts.gate_up_proj", "ffn_up_exps.weight", "experts", f"2 * {width}", "embedding", view=_UP,
              **options),
        layer("mlp.experts.down_proj", "ffn_down_exps.weight", "experts", "embedding", width, **options),
    )  # fmt: skip
