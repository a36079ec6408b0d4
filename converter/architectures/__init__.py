"""The families of models that can be converted, and what they make of a folder. Adding one is adding a data file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.architectures.base import Family, Parameters, bad_config, parameters
from converter.architectures.llama import LLAMA
from converter.architectures.mistral import MISTRAL
from converter.architectures.qwen2 import QWEN2
from converter.architectures.qwen3 import QWEN3
from converter.architectures.rope import frequency_factors, rope_entries
from converter.sources.base import MetaEntry
from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converter.architectures.base import TensorRule

__all__ = [
    "FAMILIES",
    "Family",
    "Parameters",
    "find_family",
    "frequency_factors",
    "match_tensors",
    "metadata",
    "parameters",
    "problems",
]

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)


def find_family(config: dict[str, Any]) -> Family:
    """The family that ``config.json`` names; ``QuenchError`` ``unknown_architecture`` with the list of known ones."""
    classes = config.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
        raise bad_config("architectures is not a list of names")
    model_type = config.get("model_type")
    name = classes[0] if classes else model_type
    if not isinstance(name, str) or not name:
        raise bad_config("config.json names no architecture")
    for family in FAMILIES:
        if name in family.classes or (not classes and name in family.model_types):
            return family
    known = "; ".join(f"{family.title} ({family.classes[0]})" for family in FAMILIES)
    raise QuenchError(
        "unknown_architecture",
        "This kind of model cannot be converted yet.",
        f"The model is a {name[:80]}. Supported are {known}.",
        "Look for a ready GGUF file of this model, or choose a model of a supported family.",
    )


def match_tensors(
    found: Parameters, names: Iterable[str]
) -> tuple[dict[str, tuple[TensorRule, str]], list[str], list[str]]:
    """Assigns checkpoint tensors to rules: (name -> (rule, GGUF name)), missing required names, unknown names."""
    wanted: dict[str, tuple[TensorRule, str]] = {}
    for rule in found.family.tensors:
        layers = range(found.sizes.layers) if "{i}" in rule.source else range(1)
        for i in layers:
            wanted[rule.source.replace("{i}", str(i))] = (rule, rule.target.replace("{i}", str(i)))
    present = list(names)
    matched = {name: wanted[name] for name in present if name in wanted}
    missing = [name for name, (rule, _) in wanted.items() if rule.required and name not in matched]
    unknown = [n for n in present if n not in matched and not n.endswith(found.family.ignored_suffixes)]
    return matched, missing, unknown


def metadata(found: Parameters) -> list[MetaEntry]:
    """The architecture's GGUF keys: sizes, rotary settings, norms."""
    family = found.family
    prefix = family.architecture
    entries = [MetaEntry(f"{prefix}.{rule.key}", found.values[rule.source], rule.type) for rule in family.keys]
    if found.values.get("is_causal") is False:
        entries.append(MetaEntry(f"{prefix}.attention.causal", False, "BOOL"))
    entries += rope_entries(found)
    if found.values.get("head_dim") is not None:
        entries.append(MetaEntry(f"{prefix}.attention.key_length", found.sizes.head, "UINT32"))
        entries.append(MetaEntry(f"{prefix}.attention.value_length", found.sizes.head, "UINT32"))
    if family.architecture == "llama":
        entries.append(MetaEntry(f"{prefix}.rope.dimension_count", found.sizes.head, "UINT32"))
    return entries


def problems(found: Parameters) -> list[str]:
    """What a person should know although the model can be converted."""
    result = []
    window = found.values.get(found.family.window_key) if found.family.window_key else None
    used = found.values.get("use_sliding_window", found.family is MISTRAL)
    context = found.values["max_position_embeddings"]
    if used and isinstance(window, int) and not isinstance(window, bool) and 0 < window < context:
        result.append(
            f"The model looks back over {window} tokens only; the engine will use its full context of {context}, "
            "which can change answers to longer prompts."
        )
    if found.rope["rope_type"] == "dynamic":
        result.append("The model's dynamic context stretching is not stored; beyond its trained context it degrades.")
    if "auto_map" in found.values:
        result.append("The folder brings Python code of its own, which is never run.")
    return result
