"""T5, Flan-T5, mT5 and UMT5: an encoder that reads a text and a decoder that writes another. Also the encoder alone.

Distance is learnt, in buckets, by the first layer (in UMT5 by every one). No rotary positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.architectures.base import Family, KeyRule, Parameters, TensorRule, not_run

_ACTIVATIONS = {"relu": False, "gated-gelu": True}
_BUCKETS = ("relative_attention_bias.weight", "attn_rel_b.weight")


def _gated(found: Parameters, i: int) -> bool:
    return _ACTIVATIONS.get(found.values["feed_forward_proj"], False)


def _plain(found: Parameters, i: int) -> bool:
    return not _gated(found, i)


def _check_encoder(found: Parameters) -> None:
    values = found.values
    if values["feed_forward_proj"] not in _ACTIVATIONS:
        raise not_run(found, f"Its feed-forward computes {str(values['feed_forward_proj'])[:40]!r}")
    if values.get("relative_attention_max_distance") not in (None, 128):
        raise not_run(found, "It tells longer or shorter distances apart than 128 tokens")


def _check(found: Parameters) -> None:
    _check_encoder(found)
    layers = found.values.get("num_decoder_layers")
    if layers not in (None, found.sizes.layers):
        raise not_run(found, f"Its decoder has {str(layers)[:10]} layers and its encoder {found.sizes.layers}")


def _notes(found: Parameters) -> list[str]:
    notes = ["This model rewrites a text (translates it, sums it up); it does not chat."]
    scaled = found.values.get("scale_decoder_outputs", found.values.get("tie_word_embeddings"))
    if scaled is None or scaled:
        notes.append("The engine does not scale this model's output down: it writes as if at a lower temperature.")
    return notes


def _side(name: str, short: str) -> tuple[TensorRule, ...]:
    """The rules of one side: attention, attention to the encoder if it is the decoder, feed-forward."""
    decoder = name == "decoder"
    last = 2 if decoder else 1

    def rule(source: str, target: str, *shape: str, **options: Any) -> TensorRule:
        return TensorRule(f"{name}.block.{{i}}.layer.{source}", f"{short}.blk.{{i}}.{target}", shape, **options)

    def attention(source: str, prefix: str) -> tuple[TensorRule, ...]:
        return (
            *(rule(f"{source}.{part}.weight", f"{prefix}_{part}.weight", "query", "embedding") for part in "qkv"),
            rule(f"{source}.o.weight", f"{prefix}_o.weight", "embedding", "query"),
        )

    dense = f"{last}.DenseReluDense"
    to_encoder = (
        rule("1.layer_norm.weight", "cross_attn_norm.weight", "embedding"),
        *attention("1.EncDecAttention", "cross_attn"),
    )
    return (
        TensorRule(f"{name}.final_layer_norm.weight", f"{short}.output_norm.weight", ("embedding",)),
        rule("0.layer_norm.weight", "attn_norm.weight", "embedding"),
        *attention("0.SelfAttention", "attn"),
        rule(f"0.SelfAttention.{_BUCKETS[0]}", _BUCKETS[1], "buckets", "heads", required=False),
        *(to_encoder if decoder else ()),
        rule(f"{last}.layer_norm.weight", "ffn_norm.weight", "embedding"),
        rule(f"{dense}.wi.weight", "ffn_up.weight", "feed_forward", "embedding", when=_plain),
        rule(f"{dense}.wi_0.weight", "ffn_gate.weight", "feed_forward", "embedding", when=_gated),
        rule(f"{dense}.wi_1.weight", "ffn_up.weight", "feed_forward", "embedding", when=_gated),
        rule(f"{dense}.wo.weight", "ffn_down.weight", "embedding", "feed_forward"),
    )


# One embedding for both sides, stored under one or more of these names; all but the first are left out.
_EMBEDDINGS = tuple(
    TensorRule(f"{name}.weight", "token_embd.weight", ("vocabulary", "embedding"))
    for name in ("decoder.embed_tokens", "encoder.embed_tokens", "shared")
)
_KEYS = (
    KeyRule("context_length", "UINT32", "max_position_embeddings"),
    KeyRule("embedding_length", "UINT32", "hidden_size"),
    KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
    KeyRule("block_count", "UINT32", "num_hidden_layers"),
    KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
    KeyRule("attention.key_length", "UINT32", "head_dim"),
    KeyRule("attention.value_length", "UINT32", "head_dim"),
    KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_epsilon"),
    KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "layer_norm_epsilon"),
    KeyRule("attention.relative_buckets_count", "UINT32", "relative_attention_num_buckets"),
)

T5 = Family(
    title="T5",
    architecture="t5",
    classes=(
        "T5ForConditionalGeneration",
        "T5WithLMHeadModel",
        "MT5ForConditionalGeneration",
        "UMT5ForConditionalGeneration",
    ),
    model_types=("t5", "mt5", "umt5"),
    aliases={
        "hidden_size": ("d_model",),
        "num_hidden_layers": ("num_layers",),
        "num_attention_heads": ("num_heads",),
        "intermediate_size": ("d_ff",),
        "head_dim": ("d_kv",),
    },
    defaults={
        "head_dim": 64,
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "feed_forward_proj": lambda values: "relu" if values.get("model_type") == "t5" else "gated-gelu",
        "decoder_start_token_id": 0,
    },
    fixed={"max_position_embeddings": lambda values: values.get("n_positions") or 512},
    sizes={"buckets": "relative_attention_num_buckets"},
    reals=("layer_norm_epsilon",),
    # A slip in the first checkpoints: it is there and nothing reads it.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    tensors=(
        *_EMBEDDINGS,
        TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        *_side("encoder", "enc"),
        *_side("decoder", "dec"),
    ),
    keys=(
        *_KEYS,
        KeyRule("decoder_block_count", "UINT32", lambda found: found.values.get("num_decoder_layers")),
        KeyRule("decoder_start_token_id", "UINT32", "decoder_start_token_id"),
    ),
    rope_kinds=frozenset(),
    check=_check,
    notes=_notes,
    vocabulary="t5",
)

T5_ENCODER = replace(
    T5,
    title="T5 encoder",
    architecture="t5encoder",
    classes=("T5EncoderModel",),
    model_types=(),
    ignored=(r"decoder\..*", r"lm_head\.weight"),
    tensors=(*_EMBEDDINGS[1:], *_side("encoder", "enc")),
    keys=_KEYS,
    check=_check_encoder,
    notes=lambda found: ["This model turns texts into vectors; it does not write."],
)
