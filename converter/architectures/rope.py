"""Rotary position settings: the GGUF keys of a scaling, and Llama 3's table of frequency factors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from converter.architectures.base import Parameters, bad_config
from converter.architectures.config import real_number, whole_number
from converter.sources.base import MetaEntry
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Optional numbers of YaRN: config name -> GGUF key. The first found of several names for one key counts.
_YARN = (
    ("extrapolation_factor", "yarn_ext_factor"),
    ("attention_factor", "yarn_attn_factor"),
    ("attn_factor", "yarn_attn_factor"),
    ("beta_fast", "yarn_beta_fast"),
    ("beta_slow", "yarn_beta_slow"),
)


# Scalings that have no keys: none at all, one that is a table of factors, one that depends on the text's length.
_KEYLESS = frozenset({"default", "llama3", "dynamic"})
# What the engine takes where a file names no base frequency.
_ENGINE_BASE = 10000.0


def rope_entries(parameters: Parameters) -> list[MetaEntry]:
    """GGUF keys for the base frequencies and the scaling; none for a family without rotary positions.

    Raises ``QuenchError`` ``unsupported_rope`` for kinds that this family's engine code would ignore.
    """
    rope, prefix = parameters.rope, f"{parameters.family.architecture}.rope"
    kind = rope["rope_type"]
    if not parameters.family.rope_kinds:
        return []
    if kind not in parameters.family.rope_kinds:
        raise _unsupported(kind, parameters)
    if parameters.family.rope_keys == "none":
        return []
    base = MetaEntry(f"{prefix}.freq_base", real_number(rope, "rope_theta"), "FLOAT32")
    if parameters.family.rope_keys == "base":
        return [base]
    entries: list[MetaEntry] = []
    if kind not in _KEYLESS:
        name = "longrope" if kind == "su" else kind
        entries.append(MetaEntry(f"{prefix}.scaling.type", name, "STRING"))
    if kind in ("linear", "yarn"):
        entries.append(MetaEntry(f"{prefix}.scaling.factor", real_number(rope, "factor"), "FLOAT32"))
    if kind == "yarn":
        context = whole_number(rope, "original_max_position_embeddings")
        entries.append(MetaEntry(f"{prefix}.scaling.original_context_length", context, "UINT32"))
        entries += _yarn_entries(rope, prefix)
    if parameters.family.rope_keys != "unusual" or base.value != _ENGINE_BASE:
        entries.append(base)
    if parameters.rope_local.get("rope_theta") is not None:
        local = real_number(parameters.rope_local, "rope_theta")
        entries.append(MetaEntry(f"{prefix}.freq_base_swa", local, "FLOAT32"))
    return entries


def rope_dimensions(parameters: Parameters) -> int:
    """How many elements of a head rotate, by ``partial_rotary_factor``."""
    factor = parameters.rope.get("partial_rotary_factor")
    share = 1.0 if factor is None else real_number(parameters.rope, "partial_rotary_factor")
    return int(share * parameters.sizes.head)


def frequency_factors(parameters: Parameters) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Llama 3's divisors of the rotary frequencies, float32 ``(head / 2,)``; nothing for other models.

    Long wavelengths (beyond the original context over ``low_freq_factor``) are slowed by ``factor``, short ones kept,
    and those between interpolated in frequency (the rule that transformers calls ``llama3``).
    """
    rope = parameters.rope
    if rope["rope_type"] != "llama3":
        return []
    import numpy as np

    numbers: dict[str, Any] = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **rope}
    factor = real_number(numbers, "factor")
    low, high = real_number(numbers, "low_freq_factor"), real_number(numbers, "high_freq_factor")
    base = real_number(rope, "rope_theta")
    context = whole_number(numbers, "original_max_position_embeddings")
    if factor <= 0 or low <= 0 or high <= low or base <= 0:
        raise bad_config(f"the rotary factors {factor}, {low}, {high} with base {base} make no sense")
    head = parameters.sizes.head
    exponent = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    frequency = np.float32(1.0) / np.power(np.float32(base), exponent)
    wavelength = np.float32(2 * math.pi) / frequency
    smooth = (np.float32(context) / wavelength - np.float32(low)) / np.float32(high - low)
    between = np.float32(1.0) / ((np.float32(1.0) - smooth) / np.float32(factor) + smooth)
    factors = np.where(wavelength < context / high, np.float32(1.0), between)
    slowed = np.where(wavelength > context / low, np.float32(factor), factors).astype(np.float32)
    return [("rope_freqs.weight", slowed)]


def _yarn_entries(rope: dict[str, Any], prefix: str) -> list[MetaEntry]:
    entries: dict[str, MetaEntry] = {}
    for name, key in _YARN:
        if rope.get(name) is not None and key not in entries:
            entries[key] = MetaEntry(f"{prefix}.scaling.{key}", real_number(rope, name), "FLOAT32")
    return list(entries.values())


def _unsupported(kind: str, parameters: Parameters) -> QuenchError:
    return QuenchError(
        "unsupported_rope",
        "The model stretches its context in a way that cannot be converted yet.",
        f"Rotary scaling {kind[:40]!r} in a {parameters.family.title} model; known are "
        f"{', '.join(sorted(parameters.family.rope_kinds))}.",
        "Remove rope_scaling from config.json to use the model within its original context.",
    )
