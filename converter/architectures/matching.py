"""Which stored tensors a model's GGUF tensors are made of, and making them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.architectures.base import TRANSPOSED
from converter.sources.dequantize.mxfp4 import Mxfp4Tensor
from converter.sources.gathered import ChangedTensor, StackedTensor, file_tensor
from converter.sources.stored import READABLE_DTYPES, StoredTensor, some
from converter.sources.tensors import ComputedTensor
from converter.sources.views import View
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.architectures.base import Family, Parameters, TensorRule
    from converter.sources.base import SourceTensor

# Buffers that old checkpoints hold and every program computes itself.
_BUFFERS = r".*(\.attention\.masked_bias|\.attention\.bias|\.attn\.bias|\.attn\.masked_bias|\.rotary_emb\.inv_freq)"

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")


def _plus_one(values: Any) -> Any:
    values += 1
    return values


def _in_float16(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``change`` as llama.cpp's converter makes it where float16 is stored: in that type."""

    def changed(values: Any) -> Any:
        return change(values).astype("<f2").astype("<f4")

    return changed


def _minus_exponential(values: Any) -> Any:
    import numpy as np

    return np.negative(np.exp(values, out=values), out=values)


CHANGES: Mapping[str, Callable[[Any], Any]] = {"plus one": _plus_one, "minus exponential": _minus_exponential}
"""Changes of numbers that rules may name: float32 rows in, float32 rows out."""


@dataclass(frozen=True, slots=True)
class Match:
    """A GGUF tensor and the stored ones that it is made of, in order."""

    rule: TensorRule
    target: str
    sources: tuple[str, ...]


def matches(found: Parameters, names: Iterable[str]) -> tuple[list[Match], list[str], list[str]]:
    """What can be made of stored tensors called ``names``: matches, missing required names, unknown names.

    A match comes where the last of its tensors stands in ``names``.
    """
    family = found.family
    stored = {renamed(family, name): name for name in names}
    order = {name: at for at, name in enumerate(stored)}
    complete: list[Match] = []
    missing: list[str] = []
    used: set[str] = set()
    for rule, i in _instances(found):
        sources = _sources(found, rule, i)
        there = [name for name in sources if name in stored]
        used.update(there)
        if len(there) == len(sources):
            complete.append(Match(rule, rule.target.replace("{i}", str(i)), tuple(sources)))
        elif rule.required or there:
            missing.extend(name for name in sources if name not in stored)
    complete = _first_of_each(complete)
    made = {match.target for match in complete}
    missing = _unless_made(found, missing, made)
    ignored = [re.compile(pattern) for pattern in (_BUFFERS, *family.ignored)]
    unknown = [
        stored[name]
        for name in stored
        if name not in used and not any(one.fullmatch(name) for one in ignored) and not _is_later(found, name)
    ]
    # llama.cpp's converter writes packed ones before it looks at the others.
    complete.sort(key=lambda match: (match.rule.packed is None, max(order[name] for name in match.sources)))
    renamed_back = [Match(m.rule, m.target, tuple(stored[name] for name in m.sources)) for m in complete]
    return renamed_back, missing, unknown


def tensors(found: Parameters, stored: list[StoredTensor]) -> list[SourceTensor]:
    """GGUF tensors in the order in which the files list theirs, computed ones first.

    Raises ``QuenchError``: ``missing_tensor``, ``unknown_tensor``, ``bad_shape``, ``unsupported_dtype``.
    """
    by_name = {tensor.name: tensor for tensor in stored}
    matched, missing, unknown = matches(found, list(by_name))
    unknown = [name for name in unknown if not _left_out(found.family, by_name[name])]
    if missing:
        raise QuenchError(
            "missing_tensor",
            "The model's weights are incomplete.",
            f"{some(missing)} {'is' if len(missing) == 1 else 'are'} not in any weight file.",
            "Download the model again; a file may be missing or belong to another version.",
        )
    if unknown:
        raise QuenchError(
            "unknown_tensor",
            "The model has weights that its architecture does not have.",
            f"{some(unknown)}: unknown to {found.family.title}.",
            "It may be a changed architecture under a known name; look for a ready GGUF file.",
        )
    made: list[SourceTensor] = []
    for name, values in found.family.computed(found) if found.family.computed else ():
        made.append(ComputedTensor(name, values))
    tied = set() if found.family.own_output else _tied(matched, by_name)
    made.extend(_made(found, match, by_name) for match in matched if match.target not in tied)
    return made


def renamed(family: Family, name: str) -> str:
    """A stored tensor's name as the family's rules have it."""
    for pattern, replacement in family.renames:
        name = re.sub(pattern, replacement, name)
    return name


def source_of(family: Family, target: str) -> str:
    """The name, as the rules have it, of the stored tensor that a GGUF tensor outside the layers is made of."""
    return next((rule.source for rule in family.tensors if rule.target == target), "")


def is_turned(family: Family, name: str) -> bool:
    """Whether a stored matrix, by its name as the rules have it, is (in, out), as GPT-2's linear layers have theirs."""
    general = re.sub(r"\.\d+\.", ".{i}.", name, count=1)
    return any(rule.source == general and rule.view == TRANSPOSED for rule in family.tensors)


def _instances(found: Parameters) -> Iterable[tuple[TensorRule, int]]:
    """Every rule with every layer that has it; -1 stands for outside the layers."""
    for rule in found.family.tensors:
        for i in range(found.sizes.layers) if "{i}" in rule.source else (-1,):
            if rule.when is None or rule.when(found, i):
                yield rule, i


def _sources(found: Parameters, rule: TensorRule, i: int) -> list[str]:
    name = rule.source.replace("{i}", str(i))
    if "{e}" not in name:
        return [name]
    return [name.replace("{e}", str(e)) for e in range(found.sizes.of(rule.each))]


def _first_of_each(complete: list[Match]) -> list[Match]:
    """Of rules that are alternatives (the same target from other sources), the first that has all it needs."""
    chosen: dict[str, Match] = {}
    for match in complete:
        chosen.setdefault(match.target, match)
    return list(chosen.values())


def _unless_made(found: Parameters, missing: list[str], made: set[str]) -> list[str]:
    """Missing names, but for those whose target another rule provides."""
    targets: dict[str, list[str]] = {}
    for rule, i in _instances(found):
        for name in _sources(found, rule, i):
            targets.setdefault(name, []).append(rule.target.replace("{i}", str(i)))
    return [name for name in dict.fromkeys(missing) if not all(target in made for target in targets[name])]


def _tied(matched: list[Match], by_name: Mapping[str, StoredTensor]) -> set[str]:
    """The output matrix, if it is the embedding itself: PyTorch's files list it so, others leave it out."""
    places = {}
    for match in matched:
        if match.target in ("output.weight", "token_embd.weight") and match.rule.view is None:
            tensor = by_name[match.sources[0]]
            place = (tensor.file, tensor.offset, tensor.dtype, tensor.shape, tensor.strides, tensor.reader)
            places[match.target] = place
    output = places.get("output.weight")
    return {"output.weight"} if output is not None and output == places.get("token_embd.weight") else set()


def _is_later(found: Parameters, name: str) -> bool:
    """Whether a tensor belongs to a layer beyond the model's own."""
    layer = _LAYER.match(name) if found.family.later_layers_left_out else None
    return layer is not None and int(layer[1]) >= found.sizes.layers


def _left_out(family: Family, stored: StoredTensor) -> bool:
    """Whether a tensor holds only zeros, and the engine does well without it."""
    if not any(re.fullmatch(pattern, renamed(family, stored.name)) for pattern in family.zeros):
        return False
    if stored.dtype not in READABLE_DTYPES or len(stored.shape) != 1:
        return False
    return not file_tensor(stored, stored.name).rows(0, 1).any()


def _made(found: Parameters, match: Match, by_name: Mapping[str, StoredTensor]) -> SourceTensor:
    rule, sizes = match.rule, found.sizes
    expected = tuple(sizes.of(size) for size in rule.shape)
    if rule.packed is not None:
        stored = by_name[match.sources[0]]
        _check(stored, expected)
        return Mxfp4Tensor(stored, match.target, *rule.packed)
    views = rule.view if isinstance(rule.view, tuple) else (rule.view,)
    bound = [view.bound(sizes.of) if view is not None else None for view in views]
    parts: list[SourceTensor] = []
    for name in match.sources:
        stored = by_name[name]
        _check(stored, expected)
        parts.extend(_part(stored, match.target, view) for view in bound)
    made = parts[0] if len(parts) == 1 and "{e}" not in rule.source else _stacked(match, parts)
    if not rule.change:
        return made
    change = CHANGES[rule.change]
    return ChangedTensor(made, _in_float16(change) if made.type == "F16" else change)


def _part(stored: StoredTensor, target: str, view: View | None) -> SourceTensor:
    try:
        return file_tensor(stored, target, view)
    except ValueError as error:
        raise QuenchError(
            "bad_shape",
            "The weights do not fit the model's config.json.",
            f"{stored.name} is {list(stored.shape)}: {error}.",
            "Download config.json and the weights again, from the same version of the model.",
        ) from error


def _stacked(match: Match, parts: list[SourceTensor]) -> StackedTensor:
    """Experts get a dimension of their own; parts of one matrix go on under each other."""
    if "{e}" in match.rule.source:
        return StackedTensor(match.target, (len(parts), *parts[0].shape), parts)
    rows = sum(part.shape[0] for part in parts)
    return StackedTensor(match.target, (rows, *parts[0].shape[1:]), parts)


def _check(stored: StoredTensor, expected: tuple[int, ...]) -> None:
    if stored.shape != expected:
        raise QuenchError(
            "bad_shape",
            "The weights do not fit the model's config.json.",
            f"{stored.name} is {list(stored.shape)}; config.json makes it {list(expected)}.",
            "Download config.json and the weights again, from the same version of the model.",
        )
    if stored.dtype not in READABLE_DTYPES:
        raise QuenchError(
            "unsupported_dtype",
            "The weights are stored in a form that cannot be read yet.",
            f"{stored.name} in {stored.file.path.name} is {stored.dtype}; BF16, F16, F32 and F64 are read.",
            "Download the original model in 16 bits instead.",
        )
