"""BERT, RoBERTa and NomicBERT: models that turn a text into a vector. Everything looks at everything, norms come last.

How the vectors of a text's tokens become one stands in the files of sentence-transformers beside the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.architectures.base import (
    GELU,
    Family,
    KeyRule,
    Parameters,
    TensorRule,
    bad_config,
    not_run,
    weight_and_bias,
)
from converter.architectures.config import all_heads, whole_number
from converter.sources.views import View

# What transformers calls the classes of a classifier that has no names for them.
_UNNAMED = "LABEL_0"
_CLASSIFIER = "ForSequenceClassification"


def _labels(found: Parameters) -> list[str] | None:
    """The names of a classifier's classes; none where transformers made up two."""
    labels = found.values.get("id2label")
    if not _classifies(found, -1) or not isinstance(labels, dict):
        return None
    if not all(isinstance(number, str) and isinstance(label, str) for number, label in labels.items()):
        raise bad_config("id2label is not a table of names")
    if len(labels) == 2 and labels.get("0") == _UNNAMED:
        return None
    return [label for _, label in sorted(labels.items(), key=lambda item: (len(item[0]), item[0]))]


def _classifies(found: Parameters, layer: int) -> bool:
    classes = found.values.get("architectures") or [""]
    return str(classes[0]).endswith(_CLASSIFIER)


def _count(values: dict[str, Any]) -> int:
    labels = values.get("id2label")
    return len(labels) if isinstance(labels, dict) and labels else 2


def _offset(values: dict[str, Any]) -> int:
    """Positions of RoBERTa begin after the number of its padding and one more."""
    padding = values.get("pad_token_id")
    return 0 if padding is None else 1 + whole_number(values, "pad_token_id", 0)


_KEYS = (
    KeyRule("block_count", "UINT32", "num_hidden_layers"),
    KeyRule("context_length", "UINT32", "max_position_embeddings"),
    KeyRule("embedding_length", "UINT32", "hidden_size"),
    KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
    KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
    KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps"),
    KeyRule("attention.causal", "BOOL", lambda found: False),
    KeyRule("classifier.output_labels", "STRING[]", _labels),
)


def _check(found: Parameters) -> None:
    values = found.values
    if values.get("position_embedding_type") not in (None, "absolute"):
        raise not_run(found, "It learns distances, not positions")
    if values.get("is_decoder") or values.get("add_cross_attention"):
        raise not_run(found, "It is a decoder")
    if found.sizes.others["offset"] >= found.sizes.others["declared"]:
        raise bad_config("there are fewer positions than the number of the padding")


def _notes(found: Parameters) -> list[str]:
    return ["This model turns texts into vectors; it does not write."]


def _block(source: str, target: str, *shape: str) -> tuple[TensorRule, ...]:
    return weight_and_bias(f"encoder.layer.{{i}}.{source}", f"blk.{{i}}.{target}", *shape)


BERT = Family(
    title="BERT",
    architecture="bert",
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    model_types=("bert",),
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
    },
    fixed={
        "num_key_value_heads": all_heads,
        "label_count": _count,
        "position_offset": lambda values: 0,
        "declared_positions": lambda values: values["max_position_embeddings"],
    },
    sizes={
        "types": "type_vocab_size",
        "labels": "label_count",
        "offset": "position_offset",
        "declared": "declared_positions",
    },
    reals=("layer_norm_eps",),
    # The first checkpoints have other names for the two parts of a norm.
    renames=((r"^(bert|roberta)\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
    ignored=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"cls\.(predictions|seq_relationship)\..*",
        r"lm_head\..*",
    ),
    tensors=(
        TensorRule("embeddings.word_embeddings.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule(
            "embeddings.position_embeddings.weight",
            "position_embd.weight",
            ("declared", "embedding"),
            view=View("p ... -> p ...", keep={"p": ("offset", "declared")}),
        ),
        TensorRule("embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "embedding")),
        *weight_and_bias("embeddings.LayerNorm", "token_embd_norm", "embedding"),
        *_block("attention.self.query", "attn_q", "query", "embedding"),
        *_block("attention.self.key", "attn_k", "query", "embedding"),
        *_block("attention.self.value", "attn_v", "query", "embedding"),
        *_block("attention.output.dense", "attn_output", "embedding", "query"),
        *_block("attention.output.LayerNorm", "attn_output_norm", "embedding"),
        *_block("intermediate.dense", "ffn_up", "feed_forward", "embedding"),
        *_block("output.dense", "ffn_down", "embedding", "feed_forward"),
        *_block("output.LayerNorm", "layer_output_norm", "embedding"),
        *(
            replace(rule, when=_classifies, required=False)
            for source, target, shape in (
                ("classifier.dense", "cls", ("embedding", "embedding")),
                ("classifier.out_proj", "cls.output", ("labels", "embedding")),
                ("classifier", "cls.output", ("labels", "embedding")),
            )
            for rule in weight_and_bias(source, target, *shape)
        ),
    ),
    keys=_KEYS,
    rope_kinds=frozenset(),
    activations=GELU,
    pooled=True,
    check=_check,
    notes=_notes,
    vocabulary="bert",
)

ROBERTA = replace(
    BERT,
    title="RoBERTa",
    classes=("RobertaModel", "RobertaForSequenceClassification"),
    model_types=("roberta",),
    defaults={**BERT.defaults, "vocab_size": 50265, "pad_token_id": 1},
    fixed={
        **BERT.fixed,
        "position_offset": _offset,
        "max_position_embeddings": lambda values: values["declared_positions"] - values["position_offset"],
    },
    vocabulary="roberta",
)

XLM_ROBERTA = replace(
    ROBERTA,
    title="XLM-RoBERTa",
    classes=("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
    model_types=("xlm-roberta",),
    vocabulary="xlm-roberta",
)


# Contexts that configs of NomicBERT name, and those that the models were trained for.
_NOMIC_TRAINED = {8192: 2048, 2048: 512}
# What the engine's code takes for granted.
_NOMIC = {
    "activation_function": "swiglu",
    "causal": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "prenorm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}


def _check_nomic(found: Parameters) -> None:
    values = found.values
    if values.get("moe_every_n_layers"):
        raise not_run(found, "It has experts")
    for name, wanted in _NOMIC.items():
        if name in values and values[name] != wanted:
            raise not_run(found, f"Its {name} is {str(values[name])[:20]!r}")


def _nomic_context(values: dict[str, Any]) -> Any:
    declared = values["max_position_embeddings"]
    if values.get("max_trained_positions", 2048) != 2048:
        return values["max_trained_positions"]
    return _NOMIC_TRAINED.get(declared, declared)


def _nomic_block(source: str, target: str, *shape: str) -> TensorRule:
    return TensorRule(f"encoder.layers.{{i}}.{source}.weight", f"blk.{{i}}.{target}.weight", shape)


NOMIC_BERT = Family(
    title="NomicBERT",
    architecture="nomic-bert",
    classes=("NomicBertModel",),
    model_types=("nomic_bert",),
    aliases={
        "hidden_size": ("n_embd",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "intermediate_size": ("n_inner",),
        "max_position_embeddings": ("n_positions",),
        "layer_norm_eps": ("layer_norm_epsilon",),
    },
    defaults={
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "rotary_emb_base": 1000.0,
    },
    fixed={"num_key_value_heads": all_heads, "max_position_embeddings": _nomic_context},
    sizes={"types": "type_vocab_size"},
    reals=("layer_norm_eps",),
    renames=((r"^bert\.", ""),),
    ignored=(r"pooler\.dense\.(weight|bias)", r"cls\..*"),
    tensors=(
        TensorRule("embeddings.word_embeddings.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "embedding")),
        *weight_and_bias("emb_ln", "token_embd_norm", "embedding"),
        _nomic_block("attn.Wqkv", "attn_qkv", "3 * query", "embedding"),
        _nomic_block("attn.out_proj", "attn_output", "embedding", "query"),
        *weight_and_bias("encoder.layers.{i}.norm1", "blk.{i}.attn_output_norm", "embedding"),
        _nomic_block("mlp.fc11", "ffn_up", "feed_forward", "embedding"),
        _nomic_block("mlp.fc12", "ffn_gate", "feed_forward", "embedding"),
        _nomic_block("mlp.fc2", "ffn_down", "embedding", "feed_forward"),
        *weight_and_bias("encoder.layers.{i}.norm2", "blk.{i}.layer_output_norm", "embedding"),
    ),
    keys=_KEYS,
    pooled=True,
    check=_check_nomic,
    notes=_notes,
    vocabulary="nomic-bert",
)
