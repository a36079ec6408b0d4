"""What a model will need in memory, from its header alone: weights, repacked copies, cache, state. Pure.

The engine's own rules are followed where a header tells enough (llama.cpp of the pinned llama-cpp-python:
``llama_model::create_memory``, ``llama_hparams``, and the CPU backend's ``repack.cpp``). Where it does not, the answer
is None, "unknown", and not a guess: :mod:`app.engine.dry` then asks the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

KV_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one cached value by the cache's type."""

BATCH = 512
"""Tokens that are computed at once: a sliding window keeps so many beside itself."""
_STEP = 256  # caches are made in whole steps of so many tokens
_STATE_BYTES = 4  # a recurrent state is float32


class Cache(NamedTuple):
    """Bytes of what a context keeps: ``kv`` grows with it, ``state`` does not.

    ``exact`` is False where a list of the header was cut short (as in listings) and the largest entry stood in for the
    rest: then it is an upper bound.
    """

    kv: int
    state: int
    exact: bool = True


class _Windows(NamedTuple):
    """Of every ``period`` layers all but one see only ``window`` tokens, if the header names no other number.

    ``period`` 0: only the header's list says which. ``dense_first``: the one is the first of its group. ``fixed``: the
    header's number counts for nothing, unless it is 0.
    """

    period: int
    window: int = 0
    dense_first: bool = False
    fixed: bool = False


_WINDOWS = {
    "gemma2": _Windows(2, 4096),
    "gemma3": _Windows(6),
    "gemma3n": _Windows(5),
    "gemma4": _Windows(0),
    "cohere2": _Windows(4),
    "cohere2moe": _Windows(4, dense_first=True),
    "olmo2": _Windows(4),
    "gpt-oss": _Windows(2),
    "llama4": _Windows(4, 8192, fixed=True),
    "exaone4": _Windows(4, 4096),
    "exaone-moe": _Windows(4, 128),
    "smallthinker": _Windows(4, dense_first=True),
    "afmoe": _Windows(4),
    "plamo3": _Windows(8),
    "mellum": _Windows(4),
    "muse-glimmer": _Windows(4),
    "laguna": _Windows(4, dense_first=True),
    "granite-swa": _Windows(0),
    "maple": _Windows(0),
    "mimo2": _Windows(0),
    "step35": _Windows(0),
    "spark2-5": _Windows(0),
}
"""Architectures for which the engine keeps windows. Others may name a window too; the engine keeps all tokens then."""

_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_HYBRID_BY_HEADS = frozenset({"jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "nemotron_h", "nemotron_h_moe"})
"""Layers without key-value heads keep a state instead of a cache."""
_HYBRID_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe"})
"""Every so-manieth layer has a cache, the others a state."""
_UNKNOWN = frozenset(
    {
        "deepseek32", "deepseek4", "glm-dsa", "glm5-next", "minimax-m3", "minimax-01", "hy-v4", "dots3note", "dflash",
        "kimi-linear", "kimi-k3", "bailingmoe3", "qwen4exp", "gemma4-assistant", "nanbeige",
    }
)  # fmt: skip
"""Architectures whose caches follow rules of their own."""
_WITHOUT_CACHE = frozenset(
    {"bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert",
     "gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1"}
)  # fmt: skip


def cache_of(metadata: Callable[[str], Any], context: int, kv_type: str = "f16", flash: bool = True) -> Cache | None:
    """What a context of ``context`` tokens keeps, for one conversation; None where the header does not tell.

    ``metadata(key)`` is a value of the GGUF header or None. ``flash``: with flash attention (without it, values of
    layers that differ in width are padded to the widest).
    """
    header = _Reader(metadata)
    if not header.architecture or header.architecture in _UNKNOWN:
        return None
    layers = header.number("block_count") - header.number("nextn_predict_layers")
    if layers <= 0:
        return None
    if header.architecture in _WITHOUT_CACHE:
        return Cache(0, 0)
    heads, exact = header.per_layer("attention.head_count_kv", layers)
    most, _ = header.per_layer("attention.head_count", layers)
    heads = heads or most
    recurrent = _recurrent_layers(header, layers, heads)
    state = _state_of(header)
    if recurrent is None or (any(recurrent) and state is None) or (not all(recurrent) and not heads):
        return None
    usual = header.number("embedding_length") // max(1, max(most, default=0))
    cells = -(-context // _STEP) * _STEP
    windows, told = _windowed_layers(header, layers)
    window = header.window()
    rows: list[tuple[int, float, float]] = []  # (cells, key values, value values) a layer
    shared = header.shared_from(layers)
    for layer in range(layers):
        own = heads[layer] if heads else 0
        if layer >= shared or not own or (recurrent[layer] and header.architecture != "falcon-h1"):
            continue
        if header.architecture.startswith("nemotron_h") and header.layer_number("feed_forward_length", layer):
            continue
        near = windows[layer]
        key, value = header.widths(usual, near)
        kept = min(cells, -(-(window + BATCH) // _STEP) * _STEP) if near else cells
        rows.append((kept, own * key, own * value))
    widest = max((value for _, _, value in rows), default=0)
    per_value = KV_BYTES[kv_type]
    kv = sum(kept * (key + (value if flash else widest)) * per_value for kept, key, value in rows)
    return Cache(round(kv), sum(recurrent) * (state or 0), exact and told)


def repacked_bytes(tensors: Iterable[tuple[str, Sequence[int], str, int]], features: frozenset[str]) -> int:
    """Bytes of weights that the engine copies into another order for the processor.

    ``tensors`` are (name, row-major shape, type, bytes), ``features`` the processor's as :func:`app.hardware.features`
    names them. Tables that rows are only taken from are not copied, but one that is the output matrix too is.
    """
    known = list(tensors)
    untied = any(name == "output.weight" for name, *_ in known)
    return sum(
        size
        for name, shape, kind, size in known
        if name.endswith(".weight")
        and len(shape) in (2, 3)
        and not (name.startswith("token_embd") and untied)
        and not name.startswith(("per_layer_token_embd", "position_embd", "token_types"))
        and _repacks(kind, shape[-2], features)
    )


def work_bytes(metadata: Callable[[str], Any], context: int, flash: bool) -> int:
    """Bytes that the processor's backend takes at the first decode to bring a batch into the type of what it is
    multiplied with: 16 bits at most of the widest row, and without flash attention of all scores."""
    header = _Reader(metadata)
    heads = max(header.per_layer("attention.head_count", 1)[0], default=0)
    lengths = header.per_layer("feed_forward_length", max(1, header.number("block_count")))[0]
    widest = max(lengths, default=0) or 4 * header.number("embedding_length")
    return 2 * BATCH * max(widest, 0 if flash else heads * context)


_REPACKED: tuple[tuple[str, frozenset[str], int], ...] = (
    ("Q4_0", frozenset({"avx2"}), 8),
    ("Q4_0", frozenset({"neon", "dotprod"}), 4),
    ("Q4_K", frozenset({"avx2"}), 8),
    ("Q4_K", frozenset({"neon", "dotprod"}), 8),
    ("Q2_K", frozenset({"avx512"}), 8),
    ("Q5_K", frozenset({"neon", "dotprod"}), 8),
    ("Q6_K", frozenset({"neon", "dotprod"}), 8),
    ("IQ4_NL", frozenset({"avx2"}), 8),
    ("IQ4_NL", frozenset({"neon", "dotprod"}), 4),
    ("MXFP4", frozenset({"avx2"}), 8),
    ("MXFP4", frozenset({"neon", "dotprod"}), 4),
    ("Q8_0", frozenset({"neon", "dotprod"}), 4),
)
"""(type, features it takes, what the number of rows must be a multiple of)."""


def _repacks(kind: str, rows: int, features: frozenset[str]) -> bool:
    return any(kind == name and needs <= features and rows % step == 0 for name, needs, step in _REPACKED)


class _Reader:
    """Values of one architecture's keys, bounded: what is no sensible number counts as absent."""

    def __init__(self, metadata: Callable[[str], Any]) -> None:
        self._metadata = metadata
        name = metadata("general.architecture")
        self.architecture = name if isinstance(name, str) else ""

    def value(self, key: str) -> Any:
        return self._metadata(f"{self.architecture}.{key}")

    def number(self, key: str, otherwise: int = 0) -> int:
        value = self.value(key)
        return int(value) if isinstance(value, int) and 0 <= value < 1 << 40 else otherwise

    def layer_number(self, key: str, layer: int) -> int:
        value = self.value(key)
        if isinstance(value, list):
            return int(value[layer]) if layer < len(value) and isinstance(value[layer], int) else 0
        return self.number(key)

    def per_layer(self, key: str, layers: int) -> tuple[list[int], bool]:
        """One number a layer (empty if there is none), and whether all were told."""
        value = self.value(key)
        if isinstance(value, list):
            found = [int(each) for each in value[:layers] if isinstance(each, int) and 0 <= each < 1 << 20]
            return found + [max(found, default=0)] * (layers - len(found)), len(found) == layers
        number = self.number(key)
        return ([number] * layers if number else []), True

    def widths(self, usual: int, near: bool) -> tuple[int, int]:
        """Values of one head's key and value; ``near``: in a layer with a window."""
        key = self.number("attention.key_length", usual)
        value = self.number("attention.value_length", usual)
        if near:
            key = self.number("attention.key_length_swa", key)
            value = self.number("attention.value_length_swa", value)
        if self.number("attention.key_length_mla") and self.number("attention.value_length_mla"):
            value = 0  # latent attention keeps one compressed row, of which the values are a part
        return key, value

    def window(self) -> int:
        rule = _WINDOWS.get(self.architecture)
        if rule is None:
            return 0
        named = self.value("attention.sliding_window")
        if rule.fixed:
            return 0 if named == 0 else rule.window
        return int(named) if isinstance(named, int) and 0 <= named < 1 << 30 else rule.window

    def shared_from(self, layers: int) -> int:
        """The first layer that has no cache of its own but looks into an earlier one's."""
        if self.architecture == "gemma3n":
            return min(20, layers)
        if self.architecture == "gemma4":
            return layers - self.number("attention.shared_kv_layers")
        return layers


def _windowed_layers(header: _Reader, layers: int) -> tuple[list[bool], bool]:
    rule = _WINDOWS.get(header.architecture)
    if rule is None or header.window() <= 0 or (header.architecture == "exaone4" and layers != 64):
        return [False] * layers, True
    pattern = header.value("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        found = [bool(each) for each in pattern[:layers]]
        return found + [False] * (layers - len(found)), len(found) == layers
    period = int(pattern) if isinstance(pattern, int) and 0 < pattern < 1 << 16 else rule.period
    if period == 0:
        return [True] * layers, False
    free = 0 if rule.dense_first else period - 1
    return [layer % period != free for layer in range(layers)], True


def _recurrent_layers(header: _Reader, layers: int, heads: list[int]) -> list[bool] | None:
    if header.architecture in _RECURRENT or header.architecture == "falcon-h1":
        return [True] * layers
    if header.architecture in _HYBRID_BY_HEADS:
        forward = header.architecture.startswith("nemotron_h")
        return [
            heads[layer] == 0 and not (forward and header.layer_number("feed_forward_length", layer))
            for layer in range(layers)
        ] if heads else None  # fmt: skip
    if header.architecture in _HYBRID_BY_INTERVAL:
        listed = header.value("attention.recurrent_layers")
        if isinstance(listed, list):
            return [bool(each) for each in listed[:layers]] if len(listed) >= layers else None
        interval = header.number("full_attention_interval", 4)
        return [(layer + 1) % interval != 0 for layer in range(layers)] if interval else None
    return [False] * layers


def _state_of(header: _Reader) -> int | None:
    """Bytes of one recurrent layer's state; None where the header has no such thing."""
    width = header.number("embedding_length")
    head = header.number("wkv.head_size")
    if head:
        return (header.number("token_shift_count", 2) + head) * width * _STATE_BYTES
    short = header.number("shortconv.l_cache")
    if short:
        return width * (short - 1) * _STATE_BYTES
    inner, state = header.number("ssm.inner_size"), header.number("ssm.state_size")
    if not inner or not state:
        return None
    taps = max(0, header.number("ssm.conv_kernel") - 1)
    return (taps * (inner + 2 * header.number("ssm.group_count") * state) + state * inner) * _STATE_BYTES


__all__ = ["BATCH", "KV_BYTES", "Cache", "cache_of", "repacked_bytes", "work_bytes"]
