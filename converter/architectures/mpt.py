"""MPT. No rotary positions: ALiBi, or a table of positions. Names are those of its first files, as in transformers."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import Family, KeyRule, Parameters, TensorRule, bad_config, not_run, weight_and_bias
from converter.architectures.config import whole_number


def _attention(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of attention, which are an object of their own."""
    found = values.get("attn_config") or {}
    if not isinstance(found, dict):
        raise bad_config("attn_config is not an object")
    return found


def _groups(values: dict[str, Any]) -> Any:
    attention = _attention(values)
    if attention.get("attn_type") == "multiquery_attention":
        return 1
    return attention.get("kv_n_heads") or values.get("num_attention_heads")


def _feed_forward(values: dict[str, Any]) -> int:
    return whole_number(values, "expansion_ratio") * whole_number(values, "hidden_size")


def _alibi(found: Parameters) -> float | int:
    """The steepest slope's exponent; 0 switches ALiBi off."""
    attention = _attention(found.values)
    return attention.get("alibi_bias_max", 8) if attention.get("alibi", True) else 0.0


def _kv_heads(found: Parameters) -> Any:
    """Only where heads are grouped."""
    return found.sizes.kv_heads if found.sizes.kv_heads != found.sizes.heads else None


def _positions(found: Parameters, layer: int) -> bool:
    return not _attention(found.values).get("alibi", True) and found.values["learned_pos_emb"] is not False


def _query_norms(found: Parameters, layer: int) -> bool:
    return bool(_attention(found.values).get("qk_ln"))


def _check(found: Parameters) -> None:
    attention = _attention(found.values)
    if attention.get("softmax_scale") is not None:
        raise not_run(found, "It scales its attention by a number of its own")
    if "rms" in str(found.values.get("norm_type")):
        raise not_run(found, "Its norms do not centre")
    if attention.get("prefix_lm"):
        raise not_run(found, "It reads its prompt in both directions")
    if attention.get("rope"):
        raise not_run(found, "It has rotary positions")
    if found.values.get("logit_scale") is not None:
        raise not_run(found, "It scales its logits")


MPT = Family(
    title="MPT",
    architecture="mpt",
    classes=("MPTForCausalLM", "MptForCausalLM"),
    model_types=("mpt",),
    aliases={
        "hidden_size": ("d_model",),
        "num_hidden_layers": ("n_layers",),
        "num_attention_heads": ("n_heads",),
    },
    defaults={"max_seq_len": 2048, "expansion_ratio": 4, "learned_pos_emb": True},
    fixed={
        "intermediate_size": _feed_forward,
        "num_key_value_heads": _groups,
        "max_position_embeddings": lambda values: values["max_seq_len"],
    },
    reals=(),
    sizes={"positions": "max_seq_len"},
    tensors=(
        TensorRule("transformer.wte.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("transformer.wpe.weight", "position_embd.weight", ("positions", "embedding"), when=_positions),
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        *weight_and_bias("transformer.norm_f", "output_norm", "embedding", required=False),
        *(
            rule
            for source, target, shape in (
                ("norm_1", "attn_norm", ("embedding",)),
                ("attn.Wqkv", "attn_qkv", ("query + 2 * key", "embedding")),
                ("attn.out_proj", "attn_output", ("embedding", "query")),
                ("norm_2", "ffn_norm", ("embedding",)),
                ("ffn.up_proj", "ffn_up", ("feed_forward", "embedding")),
                ("ffn.down_proj", "ffn_down", ("embedding", "feed_forward")),
            )
            for rule in weight_and_bias(
                f"transformer.blocks.{{i}}.{source}", f"blk.{{i}}.{target}", *shape, required=False
            )
        ),
        *(
            TensorRule(
                f"transformer.blocks.{{i}}.attn.{name}_ln.{part}",
                f"blk.{{i}}.attn_{name}_norm.{part}",
                (size,),
                required=part == "weight",
                when=_query_norms,
            )
            for name, size in (("q", "query"), ("k", "key"))
            for part in ("weight", "bias")
        ),
    ),
    keys=(
        KeyRule("context_length", "UINT32", "max_seq_len"),
        KeyRule("embedding_length", "UINT32", "hidden_size"),
        KeyRule("block_count", "UINT32", "num_hidden_layers"),
        KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
        KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
        KeyRule("attention.head_count_kv", "UINT32", _kv_heads),
        # A constant in llama.cpp's converter: the first MPT models cannot say another one.
        KeyRule("attention.layer_norm_epsilon", "FLOAT32", lambda found: 1e-5),
        KeyRule("attention.clamp_kqv", "FLOAT32", lambda found: _attention(found.values).get("clip_qkv")),
        KeyRule("attention.max_alibi_bias", "FLOAT32", _alibi),
    ),
    rope_kinds=frozenset(),
    vocabulary="mpt",
    check=_check,
)
