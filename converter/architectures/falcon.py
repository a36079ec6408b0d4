"""Falcon 7B (one head of keys and values for all) and Falcon 40B, 180B and 11B (groups of heads)."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import GELU, Family, KeyRule, Parameters, TensorRule, not_run, weight_and_bias
from converter.architectures.config import four_times
from converter.sources.views import View

# Each group's queries, then its key, then its value; the engine wants all queries, all keys, all values.
_GROUPS = {"g": "kv_heads", "s": "heads / kv_heads + 2", "d": "head"}
_BY_GROUP = (
    View("(g s d) ... -> (g s d) ...", _GROUPS, keep={"s": (0, "heads / kv_heads")}),
    View("(g s d) ... -> (g d) ...", _GROUPS, at={"s": "heads / kv_heads"}),
    View("(g s d) ... -> (g d) ...", _GROUPS, at={"s": "heads / kv_heads + 1"}),
)


def _groups(values: dict[str, Any]) -> Any:
    """Heads of keys and values. Configs of the 7B layout may give all heads there, although it has one."""
    if values["multi_query"] and not values["new_decoder_architecture"]:
        return 1
    return values.get("num_kv_heads") or values.get("num_attention_heads")


def _two_norms(found: Parameters, layer: int) -> bool:
    return bool(found.values["new_decoder_architecture"]) and found.values.get("num_ln_in_parallel_attn") in (None, 2)


def _one_norm(found: Parameters, layer: int) -> bool:
    return not _two_norms(found, layer)


def _check(found: Parameters) -> None:
    values = found.values
    if values.get("alibi"):
        raise not_run(found, "It weighs distance by ALiBi")
    if values.get("bias"):
        raise not_run(found, "Its matrices have biases")
    if not values["new_decoder_architecture"] and values.get("parallel_attn") is False:
        raise not_run(found, "Its layers compute attention and feed-forward one after the other")


def _notes(found: Parameters) -> list[str]:
    trained = found.values["max_position_embeddings"]
    if trained == 2048:
        return []
    return [
        f"The file will name a context of 2048 tokens, as all Falcon files do; the model was trained for {trained}."
    ]


FALCON = Family(
    title="Falcon",
    architecture="falcon",
    classes=("FalconForCausalLM", "RWForCausalLM"),
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    aliases={
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "hidden_size": ("n_embed",),
        "num_kv_heads": ("n_head_kv",),
    },
    defaults={
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
        "rope_theta": 10000.0,
        # The first files of 40B say it by their model_type, and do not name the layout.
        "new_decoder_architecture": lambda values: values.get("model_type") == "RefinedWeb",
    },
    fixed={
        "num_key_value_heads": _groups,
        "intermediate_size": lambda values: values.get("ffn_hidden_size") or four_times(values),
    },
    reals=("layer_norm_epsilon",),
    tensors=(
        TensorRule("transformer.word_embeddings.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        *weight_and_bias("transformer.ln_f", "output_norm", "embedding"),
        *(
            TensorRule(f"transformer.h.{{i}}.{source}.{part}", f"blk.{{i}}.{target}.{part}", ("embedding",), when=when)
            for source, target, when in (
                ("input_layernorm", "attn_norm", _one_norm),
                ("ln_mlp", "attn_norm", _two_norms),
                ("ln_attn", "attn_norm_2", _two_norms),
            )
            for part in ("weight", "bias")
        ),
        TensorRule(
            "transformer.h.{i}.self_attention.query_key_value.weight",
            "blk.{i}.attn_qkv.weight",
            ("query + 2 * key", "embedding"),
            view=_BY_GROUP,
        ),
        TensorRule(
            "transformer.h.{i}.self_attention.dense.weight", "blk.{i}.attn_output.weight", ("embedding", "query")
        ),
        TensorRule(
            "transformer.h.{i}.mlp.dense_h_to_4h.weight", "blk.{i}.ffn_up.weight", ("feed_forward", "embedding")
        ),
        TensorRule(
            "transformer.h.{i}.mlp.dense_4h_to_h.weight", "blk.{i}.ffn_down.weight", ("embedding", "feed_forward")
        ),
    ),
    keys=(
        # A constant in llama.cpp's converter; most configs do not name it.
        KeyRule("context_length", "UINT32", lambda found: 2048),
        KeyRule("tensor_data_layout", "STRING", lambda found: "jploski"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_epsilon"),
    ),
    rope_keys="unusual",
    activations=GELU,
    check=_check,
    notes=_notes,
)
