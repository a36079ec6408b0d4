"""What a family of models is: tables that say how its folder becomes GGUF keys and tensors, and the code that reads
the tables.

Key names, tensor names and the row order of rotary weights are facts of the GGUF format as llama.cpp reads it; names
on the other side are those of the ``transformers`` library's checkpoints and ``config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from converter.spec import QuenchError

# Numbers beyond these are no model but an attempt to exhaust memory.
_LIMITS = {"num_hidden_layers": 4096, "num_attention_heads": 4096, "num_key_value_heads": 4096, "head_dim": 1 << 16}
_DEFAULT_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class TensorRule:
    """``source`` in the checkpoint becomes ``target``; ``{i}`` is the layer.

    ``shape`` names sizes of :class:`Sizes`. ``heads`` names the size that says over how many heads the rotary row
    order is undone; empty for none.
    """

    source: str
    target: str
    shape: tuple[str, ...]
    required: bool = True
    heads: str = ""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Config value ``source`` is written as GGUF key ``<architecture>.<key>`` with GGUF type ``type``."""

    key: str
    type: str
    source: str


@dataclass(frozen=True, slots=True)
class Family:
    """A family of architectures, as data.

    ``defaults`` are what transformers assumes where ``config.json`` is silent; None for the number of key-value heads
    means as many as heads, and for ``head_dim`` that it is ``hidden_size / num_attention_heads`` (and is written only
    if ``writes_head_dim``). ``vocabulary`` names the order in which tokenizer files are tried.
    """

    title: str
    architecture: str
    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    defaults: dict[str, Any]
    tensors: tuple[TensorRule, ...]
    keys: tuple[KeyRule, ...]
    writes_head_dim: bool
    rope_factors: bool = False
    window_key: str = ""
    vocabulary: str = "bpe"
    ignored_suffixes: tuple[str, ...] = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model that tensor shapes are checked against, all in elements."""

    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    query: int
    key: int
    vocabulary: int


@dataclass(frozen=True)
class Parameters:
    """``config.json`` with a family's defaults filled in; ``values`` holds the filled-in keys."""

    family: Family
    values: dict[str, Any]
    sizes: Sizes
    rope: dict[str, Any] = field(default_factory=dict)


# Llama's layout, which the other families share but for what their own files add.
LAYOUT = (
    TensorRule("model.embed_tokens.weight", "token_embd.weight", ("vocabulary", "embedding")),
    TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
    TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False),
    TensorRule("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight", ("embedding",)),
    TensorRule("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight", ("key", "embedding")),
    TensorRule("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight", ("embedding", "query")),
    TensorRule("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight", ("embedding",)),
    TensorRule("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight", ("feed_forward", "embedding")),
    TensorRule("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight", ("feed_forward", "embedding")),
    TensorRule("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight", ("embedding", "feed_forward")),
)

# Query and key rows in the order of Hugging Face (halves rotate) and as GGML's Llama wants them (pairs rotate).
PLAIN_ATTENTION = (
    TensorRule("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight", ("query", "embedding")),
    TensorRule("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight", ("key", "embedding")),
)
PAIRED_ATTENTION = (
    TensorRule(
        "model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight", ("query", "embedding"), heads="heads"
    ),
    TensorRule(
        "model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight", ("key", "embedding"), heads="kv_heads"
    ),
)

KEYS = (
    KeyRule("block_count", "UINT32", "num_hidden_layers"),
    KeyRule("context_length", "UINT32", "max_position_embeddings"),
    KeyRule("embedding_length", "UINT32", "hidden_size"),
    KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
    KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
    KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
    KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps"),
)

_REQUIRED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def attention_biases(*names: str, paired: bool, required: bool = True) -> tuple[TensorRule, ...]:
    """Bias rules for the projections ``q``, ``k``, ``v`` and ``o`` that ``names`` lists."""
    table = {
        "q": ("attn_q", "query", "heads" if paired else ""),
        "k": ("attn_k", "key", "kv_heads" if paired else ""),
        "v": ("attn_v", "key", ""),
        "o": ("attn_output", "embedding", ""),
    }
    rules = []
    for name in names:
        target, size, heads = table[name]
        source = f"model.layers.{{i}}.self_attn.{name}_proj.bias"
        rules.append(TensorRule(source, f"blk.{{i}}.{target}.bias", (size,), required, heads))
    return tuple(rules)


def parameters(family: Family, config: dict[str, Any]) -> Parameters:
    """Reads ``config.json`` for ``family``. Raises ``QuenchError`` ``bad_config`` for missing or absurd values."""
    missing = [name for name in _REQUIRED if config.get(name) is None]
    if missing:
        raise bad_config(f"config.json lacks {', '.join(missing)}")
    values = dict(config)
    for name, default in family.defaults.items():
        if values.get(name) is None:
            values[name] = default
    if values.get("num_key_value_heads") is None or config.get("num_key_value_heads", 0) is None:
        values["num_key_value_heads"] = config["num_attention_heads"]
    for name in (*_REQUIRED, "num_key_value_heads", "max_position_embeddings"):
        values[name] = whole_number(values, name)
    values["rms_norm_eps"] = real_number(values, "rms_norm_eps")
    sizes = _sizes(values)
    if family.writes_head_dim and values.get("head_dim") is None:
        values["head_dim"] = sizes.head
    return Parameters(family, values, sizes, _rope(values))


def whole_number(values: dict[str, Any], name: str) -> int:
    """A positive whole number of the config; ``QuenchError`` otherwise."""
    value = values.get(name)
    if type(value) is not int or not 1 <= value <= _LIMITS.get(name, _DEFAULT_LIMIT):
        raise bad_config(f"{name} is {str(value)[:40]!r}, not a sensible whole number")
    return value


def real_number(values: dict[str, Any], name: str) -> float:
    """A finite number of the config that fits float32; ``QuenchError`` otherwise."""
    value: Any = values.get(name)
    # Written so that NaN fails too.
    if type(value) not in (int, float) or not abs(value) <= 3e38:
        raise bad_config(f"{name} is {str(value)[:40]!r}, not a number")
    return float(value)


def _sizes(values: dict[str, Any]) -> Sizes:
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    if values.get("head_dim") is None:
        if values["hidden_size"] % heads:
            raise bad_config(f"hidden_size {values['hidden_size']} is no multiple of num_attention_heads {heads}")
        head = values["hidden_size"] // heads
    else:
        head = whole_number(values, "head_dim")
    if heads % kv_heads:
        raise bad_config(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if head % 2:
        raise bad_config(f"the heads have {head} elements, an odd number")
    return Sizes(
        layers=values["num_hidden_layers"],
        embedding=values["hidden_size"],
        feed_forward=values["intermediate_size"],
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        query=heads * head,
        key=kv_heads * head,
        vocabulary=values["vocab_size"],
    )


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings in one form: ``rope_parameters`` (newer configs), else ``rope_scaling`` and ``rope_theta``."""
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise bad_config("the rotary settings are not an object")
    nested = found.get("full_attention")
    rope = dict(nested) if isinstance(nested, dict) else dict(found)
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = values["rope_theta"]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if not isinstance(kind, str):
        raise bad_config("the rotary settings have no type")
    rope["rope_type"] = kind.lower()
    if rope.get("original_max_position_embeddings") is None:
        declared = values.get("original_max_position_embeddings")
        rope["original_max_position_embeddings"] = declared or values["max_position_embeddings"]
    return rope


def bad_config(reason: str) -> QuenchError:
    return QuenchError(
        "bad_config",
        "The model's config.json does not describe a model.",
        f"{reason}.",
        "Download config.json again from the model's page.",
    )
