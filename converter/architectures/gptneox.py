"""GPT-NeoX and Pythia, and what was built on them (Dolly, RedPajama-INCITE, StableLM alpha, OpenAssistant)."""

from __future__ import annotations

from converter.architectures.base import (
    BY_HEAD,
    GELU,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    not_run,
    output_or_embedding,
    weight_and_bias,
)
from converter.architectures.config import all_heads
from converter.architectures.rope import rope_dimensions


def _check(found: Parameters) -> None:
    if found.values["attention_bias"] is False:
        raise not_run(found, "Its attention has no biases")


GPT_NEOX = Family(
    title="GPT-NeoX",
    architecture="gptneox",
    classes=("GPTNeoXForCausalLM",),
    model_types=("gpt_neox",),
    defaults={
        "max_position_embeddings": 2048,
        "intermediate_size": 24576,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rotary_emb_base": 10000.0,
        "rotary_pct": 0.25,
    },
    fixed={"num_key_value_heads": all_heads},
    reals=("layer_norm_eps",),
    tensors=(
        TensorRule("gpt_neox.embed_in.weight", "token_embd.weight", ("vocabulary", "embedding")),
        *output_or_embedding("embed_out.weight", "gpt_neox.embed_in.weight"),
        *weight_and_bias("gpt_neox.final_layer_norm", "output_norm", "embedding"),
        *weight_and_bias("gpt_neox.layers.{i}.input_layernorm", "blk.{i}.attn_norm", "embedding"),
        *weight_and_bias(
            "gpt_neox.layers.{i}.attention.query_key_value", "blk.{i}.attn_qkv", "3 * query", "embedding", view=BY_HEAD
        ),
        *weight_and_bias("gpt_neox.layers.{i}.attention.dense", "blk.{i}.attn_output", "embedding", "query"),
        *weight_and_bias("gpt_neox.layers.{i}.post_attention_layernorm", "blk.{i}.ffn_norm", "embedding"),
        *weight_and_bias("gpt_neox.layers.{i}.mlp.dense_h_to_4h", "blk.{i}.ffn_up", "feed_forward", "embedding"),
        *weight_and_bias("gpt_neox.layers.{i}.mlp.dense_4h_to_h", "blk.{i}.ffn_down", "embedding", "feed_forward"),
    ),
    keys=(
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("context_length", "UINT32", "max_position_embeddings"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("use_parallel_residual", "BOOL", "use_parallel_residual"),
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps"),
    ),
    rope_keys="unusual",
    own_output=True,
    activations=GELU,
    check=_check,
)
