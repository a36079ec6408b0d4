"""GLM-4 and the ChatGLMs before it: half of every head rotates, gate and up are one matrix.

GLM 3 and 4 came with Python code of their own and other names, which the engine knows as ChatGLM; transformers' names
for the same model are read too. GLM-4-0414 norms what comes out of attention and feed-forward as well.
"""

from __future__ import annotations

from typing import Any

from converter.architectures.base import (
    EMBEDDING,
    OUTPUT,
    PLAIN_ATTENTION,
    SILU,
    VALUE_AND_OUTPUT,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    attention_biases,
    keys_without,
    layer,
    not_run,
)
from converter.architectures.rope import rope_dimensions

_GATE_AND_UP = (
    layer("mlp.gate_up_proj.weight", "ffn_up.weight", "2 * feed_forward", "embedding"),
    layer("mlp.down_proj.weight", "ffn_down.weight", "embedding", "feed_forward"),
)
_TENSORS = (
    EMBEDDING,
    OUTPUT,
    TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
    layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
    *PLAIN_ATTENTION,
    *VALUE_AND_OUTPUT,
    *attention_biases("q", "k", "v", paired=False, required=False),
    layer("post_attention_layernorm.weight", "ffn_norm.weight", "embedding"),
    *_GATE_AND_UP,
)
_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
    "head_dim": 128,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
}


def _check(found: Parameters) -> None:
    if found.rope.get("mrope_section"):
        raise not_run(found, "It counts positions in three dimensions, as models with pictures do")


GLM4 = Family(
    title="GLM-4",
    architecture="glm4",
    classes=("Glm4ForCausalLM",),
    model_types=("glm4",),
    defaults=_DEFAULTS,
    tensors=(
        *_TENSORS,
        layer("post_self_attn_layernorm.weight", "post_attention_norm.weight", "embedding"),
        layer("post_mlp_layernorm.weight", "post_ffw_norm.weight", "embedding"),
    ),
    keys=(
        *keys_without("expert_count", "expert_used_count"),
        KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
    ),
    activations=SILU,
    check=_check,
    vocabulary="glm4",
)

_CHATGLM_KEYS = (
    KeyRule("context_length", "UINT32", "max_position_embeddings"),
    KeyRule("embedding_length", "UINT32", "hidden_size"),
    KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
    KeyRule("block_count", "UINT32", "num_hidden_layers"),
    KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
    KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
    KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps"),
    KeyRule("rope.dimension_count", "UINT32", rope_dimensions),
)


def _check_width(found: Parameters) -> None:
    _check(found)
    if found.sizes.query != found.sizes.embedding:
        raise not_run(found, f"Its heads have {found.sizes.head} elements, not the width divided by their number")


GLM = Family(
    title="GLM",
    architecture="chatglm",
    classes=("GlmForCausalLM",),
    model_types=("glm",),
    defaults=_DEFAULTS,
    tensors=_TENSORS,
    keys=_CHATGLM_KEYS,
    activations=SILU,
    check=_check_width,
    vocabulary="chatglm",
)


def _check_chatglm(found: Parameters) -> None:
    values = found.values
    _check_width(found)
    if values.get("rmsnorm") is False or values.get("post_layer_norm") is False:
        raise not_run(found, "Its norms centre, or its last one is missing")
    if values.get("add_bias_linear") or values.get("apply_residual_connection_post_layernorm"):
        raise not_run(found, "Its matrices have biases, or it adds what comes out of its norms")


def _block(source: str, target: str, *shape: str, required: bool = True) -> TensorRule:
    return TensorRule(f"encoder.layers.{{i}}.{source}", f"blk.{{i}}.{target}", shape, required=required)


def _groups(values: dict[str, Any]) -> Any:
    grouped = values.get("multi_query_attention", values.get("multi_query_group_num") is not None)
    return values.get("multi_query_group_num") if grouped else values.get("num_attention_heads")


CHATGLM = Family(
    title="ChatGLM",
    architecture="chatglm",
    classes=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    model_types=("chatglm",),
    aliases={
        "num_hidden_layers": ("num_layers",),
        "intermediate_size": ("ffn_hidden_size",),
        "vocab_size": ("padded_vocab_size",),
        "max_position_embeddings": ("seq_length",),
        "rms_norm_eps": ("layernorm_epsilon",),
        "head_dim": ("kv_channels",),
    },
    defaults={
        "max_position_embeddings": lambda values: values["hidden_size"],
        "rms_norm_eps": 1e-5,
        "rope_theta": lambda values: 10000.0 * (values.get("rope_ratio") or 1),
        "partial_rotary_factor": 0.5,
    },
    fixed={"num_key_value_heads": _groups},
    renames=((r"^transformer\.", ""),),
    ignored=(r"rotary_pos_emb\.inv_freq",),
    tensors=(
        TensorRule("embedding.word_embeddings.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("output_layer.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        TensorRule("encoder.final_layernorm.weight", "output_norm.weight", ("embedding",)),
        _block("input_layernorm.weight", "attn_norm.weight", "embedding"),
        _block("self_attention.query_key_value.weight", "attn_qkv.weight", "query + 2 * key", "embedding"),
        _block("self_attention.query_key_value.bias", "attn_qkv.bias", "query + 2 * key", required=False),
        _block("self_attention.dense.weight", "attn_output.weight", "embedding", "query"),
        _block("post_attention_layernorm.weight", "ffn_norm.weight", "embedding"),
        _block("mlp.dense_h_to_4h.weight", "ffn_up.weight", "2 * feed_forward", "embedding"),
        _block("mlp.dense_4h_to_h.weight", "ffn_down.weight", "embedding", "feed_forward"),
    ),
    keys=_CHATGLM_KEYS,
    check=_check_chatglm,
    vocabulary="chatglm",
)
