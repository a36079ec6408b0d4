"""How fast a model of given types writes here: from seconds a weight, measured type by type. Knows no Qt and no engine.

A token reads every weight once, but for the rows of an embedding that it does not look up and for experts that are not
asked. What a weight takes goes with its bytes where the memory is the limit, and not at all where the processor is: on
a first-generation EPYC eight bits a weight take as long as five. So it is measured for each type
(:mod:`app.quality.pace`) and remembered by model; another model's measurement is a guess.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from app import hardware, paths
from app.files import write_atomically
from app.fit_messages import TYPES
from converter.spec import ModelInfo, QuenchError

EMBEDDING = "token_embd.weight"

_EXPERT = re.compile(r"_exps\.")
_FILE = "fit-paces.json"
_MOST_BYTES, _MOST_KEPT = 1 << 16, 64
_BITS = {"Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5}


class Pace(msgspec.Struct, frozen=True):
    """Seconds that a weight takes which a token reads, by type, with ``threads``; what is no weight is spread over."""

    by_type: dict[str, float]
    threads: int

    def weight(self, kind: str) -> float:
        """Of a type; the slowest one's where it was not measured."""
        return self.by_type.get(kind) or max(self.by_type.values())


class Sized(Protocol):
    """A tensor of a source or of a header."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def share(info: ModelInfo, tensor: Sized) -> float:
    """The part of a tensor that one token reads, 0 to 1."""
    if tensor.name == EMBEDDING and not info.tied_embeddings:
        return 1 / max(1, tensor.shape[0])
    used = info.metadata.get(f"{info.architecture}.expert_used_count")
    if _EXPERT.search(tensor.name) and isinstance(used, int) and info.experts:
        return min(1.0, max(1, used) / info.experts)
    return 1.0


def weights_read(info: ModelInfo, tensors: Iterable[Sized]) -> dict[str, float]:
    """Weights that one token reads, by tensor."""
    return {tensor.name: share(info, tensor) * math.prod(tensor.shape) for tensor in tensors}


def cache_seconds(info: ModelInfo, context: int, kv_type: str = "f16", bandwidth: float = 0.0) -> float:
    """What reading a cache of ``context`` tokens takes, at ``bandwidth`` bytes a second (0: measured now)."""
    if not context:
        return 0.0
    return (hardware.cache_bytes(info, context, kv_type) or 0) / (bandwidth or hardware.measure_bandwidth())


def learn(info: ModelInfo, pace: Pace) -> None:
    """Remember what was measured; a disk that refuses costs nothing but the next estimate."""
    kept = {_key(info): pace}
    kept |= {key: other for key, other in _known().items() if key not in kept}
    with contextlib.suppress(OSError):
        write_atomically(paths.cache() / _FILE, msgspec.json.encode(dict(list(kept.items())[:_MOST_KEPT])))


def pace_of(info: ModelInfo) -> tuple[Pace, bool]:
    """What is known of a model on this machine, and whether it was measured with this model."""
    known = _known()
    found = known.get(_key(info))
    if found is not None:
        return found, True
    if known:
        return next(iter(known.values())), False
    bandwidth = hardware.measure_bandwidth()
    return Pace({kind: bits / 8 / bandwidth for kind, bits in _BITS.items()}, hardware.physical_cores()), False


def seconds(pace: Pace, read: Mapping[str, float], types: Mapping[str, str]) -> float:
    """Of one token, for the tensors of ``types``."""
    return sum(read[name] * pace.weight(kind) for name, kind in types.items())


def too_slow(asked: float, nearest: float, cached: int) -> QuenchError:
    """No allowed types are that fast at that size; ``nearest`` is the most there can be. Tokens a second."""
    with_ = f" with {cached:,} tokens in the cache" if cached else ""
    return QuenchError(
        "too_slow",
        "The model cannot be made that fast on this machine.",
        f"{asked:g} tokens/s are asked for{with_}; the fastest types that are allowed at this size write "
        f"{nearest:.3g} tokens/s.",
        f"Ask for at most {nearest * 0.99:.3g} tokens/s, allow smaller types, or take a smaller model.",
        exit_status=4,
    )


def _key(info: ModelInfo) -> str:
    """Models of one shape write equally fast, on one kind of processor."""
    facts = (info.architecture, info.layers, info.embedding_length, info.parameters, info.vocabulary)
    return " ".join((hardware.cpu_name(), *map(str, facts)))


def _known() -> dict[str, Pace]:
    """What was measured, the newest first; nothing where that cannot be read."""
    try:
        data = (paths.cache() / _FILE).read_bytes()
        found = msgspec.json.decode(data, type=dict[str, Pace]) if len(data) <= _MOST_BYTES else {}
    except (OSError, msgspec.DecodeError):
        return {}
    return {
        key: pace
        for key, pace in found.items()
        if set(pace.by_type) == set(TYPES) and all(0 < each < 1 for each in pace.by_type.values()) and pace.threads > 0
    }


__all__ = ["Pace", "cache_seconds", "learn", "pace_of", "seconds", "share", "too_slow", "weights_read"]
