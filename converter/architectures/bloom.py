"""BLOOM and BLOOMZ. No rotary positions: the engine's code for BLOOM weighs distance by ALiBi."""

from __future__ import annotations

from converter.architectures.base import BY_HEAD, Family, KeyRule, Parameters, TensorRule, not_run, weight_and_bias
from converter.architectures.config import all_heads, four_times


def _check(found: Parameters) -> None:
    if found.values.get("apply_residual_connection_post_layernorm"):
        raise not_run(found, "It adds what comes out of its norms, not what goes in")


BLOOM = Family(
    title="BLOOM",
    architecture="bloom",
    classes=("BloomForCausalLM", "BloomModel"),
    model_types=("bloom",),
    aliases={"hidden_size": ("n_embed",), "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",)},
    defaults={"layer_norm_epsilon": 1e-5},
    fixed={
        "num_key_value_heads": all_heads,
        "intermediate_size": four_times,
        # Without a trained length the width stands in, as llama.cpp's converter has it; ALiBi knows no limit.
        "max_position_embeddings": lambda values: values.get("seq_length") or values["hidden_size"],
    },
    reals=("layer_norm_epsilon",),
    # Published weights are those of the model without its head, whose names have no prefix.
    renames=((r"^transformer\.", ""),),
    tensors=(
        TensorRule("word_embeddings.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        *weight_and_bias("word_embeddings_layernorm", "token_embd_norm", "embedding"),
        *weight_and_bias("ln_f", "output_norm", "embedding"),
        *weight_and_bias("h.{i}.input_layernorm", "blk.{i}.attn_norm", "embedding"),
        *weight_and_bias(
            "h.{i}.self_attention.query_key_value", "blk.{i}.attn_qkv", "3 * query", "embedding", view=BY_HEAD
        ),
        *weight_and_bias("h.{i}.self_attention.dense", "blk.{i}.attn_output", "embedding", "query"),
        *weight_and_bias("h.{i}.post_attention_layernorm", "blk.{i}.ffn_norm", "embedding"),
        *weight_and_bias("h.{i}.mlp.dense_h_to_4h", "blk.{i}.ffn_up", "feed_forward", "embedding"),
        *weight_and_bias("h.{i}.mlp.dense_4h_to_h", "blk.{i}.ffn_down", "embedding", "feed_forward"),
    ),
    keys=(
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_epsilon"),
    ),
    rope_kinds=frozenset(),
    check=_check,
)
