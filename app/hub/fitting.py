"""Whether a model that is still on the hub would fit into this machine's memory, from what can be known without it.

Two ways, both through :func:`app.hardware.fits`: from ``config.json`` and a size the plan is the one that a local model
gets; from a number of parameters alone it is an estimate, and said to be one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from app import hardware
from app.hardware import Fit
from converter.spec import ModelInfo, QuenchError

BITS = 4.85
"""Bits a weight of Q4_K_M on models of some billion weights, as llama.cpp's own table of sizes has it (4.83 to 4.9)."""

_CONTEXT = 8192
_LARGE = 1 << 20


def from_config(config: Mapping[str, Any], weights: int) -> Fit | None:
    """The memory plan of a model with this ``config.json`` and ``weights`` bytes; None if the config does not say."""
    info = outline(config, weights)
    return hardware.fits(info) if info is not None else None


def outline(config: Mapping[str, Any], weights: int) -> ModelInfo | None:
    """As much of a :class:`ModelInfo` as a memory plan needs; None without sizes in the config.

    Families that can be converted are read by the converter's own tables; for others the usual names count.
    """
    from converter import architectures

    try:
        family = architectures.find_family(dict(config))
        sizes = architectures.parameters(family, dict(config)).sizes
        numbers = {
            "layers": sizes.layers, "embedding": sizes.embedding, "heads": sizes.heads, "kv_heads": sizes.kv_heads,
            "head": sizes.head, "forward": sizes.feed_forward, "vocabulary": sizes.vocabulary,
        }  # fmt: skip
        name = family.architecture
    except QuenchError:
        nested = config.get("text_config")  # where models that also see or hear keep their language part
        source: Mapping[str, Any] = nested if isinstance(nested, dict) else config
        numbers = _usual(source)
        name = str(config.get("model_type", ""))[:80]
        if not numbers:
            return None
    return ModelInfo(
        path="", kind="hf", name="", architecture=name, parameters=0, layers=numbers["layers"],
        context_length=_count(config, "max_position_embeddings"), embedding_length=numbers["embedding"],
        heads=numbers["heads"], kv_heads=numbers["kv_heads"], key_length=numbers["head"], value_length=numbers["head"],
        experts=0, vocabulary=numbers["vocabulary"], tokenizer="", pre_tokenizer="", types={}, bytes=weights,
        tensors=(), metadata={f"{name}.feed_forward_length": numbers["forward"]},
    )  # fmt: skip


def _usual(config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes under the names that most configs use; empty if the three that matter are not there."""
    layers, embedding, heads = (
        _count(config, key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if not (layers and embedding and heads):
        return {}
    return {
        "layers": layers,
        "embedding": embedding,
        "heads": heads,
        "kv_heads": _count(config, "num_key_value_heads") or heads,
        "head": _count(config, "head_dim") or embedding // heads,
        "forward": _count(config, "intermediate_size") or 4 * embedding,
        "vocabulary": _count(config, "vocab_size") or 32000,
    }


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if type(value) is int and 1 <= value <= _LARGE else 0


def from_size(weights: int, parameters: int = 0) -> tuple[str, int]:
    """(``good``, ``tight`` or ``no``; bytes of memory) for a file of which only the size is known: an estimate.

    Without ``parameters`` the cache is that of a model whose weights have 8 bits.
    """
    total = weights + _guess(parameters or weights)
    return _level(total, hardware.memory_available()), total


def from_parameters(parameters: int, available: int | None = None) -> str:
    """``good``, ``tight`` or ``no`` for a 4-bit file of so many weights; empty for 0."""
    if parameters <= 0:
        return ""
    free = hardware.memory_available() if available is None else available
    return _level(round(parameters * BITS / 8) + _guess(parameters), free)


def _guess(parameters: int) -> int:
    """Cache for 8,192 tokens and compute of a model of which only the size is known.

    Models of 1 to 70 billion weights with grouped heads keep 28 to 320 KiB a token: about 45 KiB times the square root
    of the billions.
    """
    return round(45 * 1024 * math.sqrt(parameters / 1e9) * _CONTEXT) + (300 << 20)


def _level(total: int, free: int) -> str:
    return "good" if total <= 0.8 * free else "tight" if total <= free else "no"


def remembering() -> Callable[[int], str]:
    """:func:`from_parameters` for many models at once: the memory is looked at once."""
    free = hardware.memory_available()
    return lambda parameters: from_parameters(parameters, free)
