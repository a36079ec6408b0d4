"""GPT-BigCode: StarCoder 1, SantaCoder, StarCoderBase. One head of keys and values, learned positions."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import (
    BY_HEAD,
    GELU,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    not_run,
    weight_and_bias,
)
from converter.architectures.config import four_times


def _one_query_group(found: Parameters, layer: int) -> bool:
    return found.values["multi_query"] is not False


def _all_heads(found: Parameters, layer: int) -> bool:
    return not _one_query_group(found, layer)


def _kv_heads(values: dict[str, Any]) -> Any:
    return values.get("num_attention_heads") if values["multi_query"] is False else 1


def _check(found: Parameters) -> None:
    if found.values["scale_attn_weights"] is False:
        raise not_run(found, "It does not scale its attention")


GPT_BIGCODE = Family(
    title="GPT-BigCode",
    architecture="starcoder",
    classes=("GPTBigCodeForCausalLM",),
    model_types=("gpt_bigcode",),
    aliases={
        "hidden_size": ("n_embd",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "max_position_embeddings": ("n_positions",),
    },
    defaults={
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
        "scale_attn_weights": True,
    },
    fixed={
        "num_key_value_heads": _kv_heads,
        "intermediate_size": lambda values: values.get("n_inner") or four_times(values),
    },
    reals=("layer_norm_epsilon",),
    sizes={"positions": "max_position_embeddings"},
    tensors=(
        TensorRule("transformer.wte.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("transformer.wpe.weight", "position_embd.weight", ("positions", "embedding")),
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        *weight_and_bias("transformer.ln_f", "output_norm", "embedding"),
        *weight_and_bias("transformer.h.{i}.ln_1", "blk.{i}.attn_norm", "embedding"),
        *(
            TensorRule(
                f"transformer.h.{{i}}.attn.c_attn.{part}", f"blk.{{i}}.attn_qkv.{part}", shape, view=view, when=when
            )
            for when, view in ((_one_query_group, None), (_all_heads, BY_HEAD))
            for part, shape in (("weight", ("query + 2 * key", "embedding")), ("bias", ("query + 2 * key",)))
        ),
        *weight_and_bias("transformer.h.{i}.attn.c_proj", "blk.{i}.attn_output", "embedding", "query"),
        *weight_and_bias("transformer.h.{i}.ln_2", "blk.{i}.ffn_norm", "embedding"),
        *weight_and_bias("transformer.h.{i}.mlp.c_fc", "blk.{i}.ffn_up", "feed_forward", "embedding"),
        *weight_and_bias("transformer.h.{i}.mlp.c_proj", "blk.{i}.ffn_down", "embedding", "feed_forward"),
    ),
    keys=(
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_epsilon"),
    ),
    rope_kinds=frozenset(),
    activations=GELU,
    check=_check,
)
