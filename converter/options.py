"""What a person may ask of a conversion beside its types: other metadata, fewer layers, files of a certain size.

:func:`applied` gives a view of an opened source as it is asked to become; everything behind it (types, sizes, the pass
itself) sees an ordinary source. What each option does is what llama.cpp's ``llama-quantize`` does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from converter.imatrix import Imatrix
from converter.sources.base import MetaEntry, RecipeHints, SourceModel, SourceTensor
from converter.spec import ConversionSpec, QuenchError

_LAYER = re.compile(r"blk\.(\d+)\.")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_LARGEST_LAYER = 1 << 16
_CONTAINER_KEYS = frozenset({"general.alignment"})


def _misread(code: str, title: str, detail: str, hint: str) -> NoReturn:
    raise QuenchError(code, title, detail, hint, exit_status=2)


# ---- what is written on the command line ----


def parse_override(text: str) -> MetaEntry:
    """``KEY=TYPE:VALUE`` (TYPE int, float, bool or str) as an entry of the type that llama-quantize gives it.

    Whole numbers become UINT32 without their sign, as there. Raises ``QuenchError`` ``bad_override``.
    """
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    key = key.strip()
    if not (key and equals and colon):
        _misread("bad_override", "This is no metadata override.", text, "KEY=TYPE:VALUE, for example "
                 "general.name=str:Mine. TYPE is int, float, bool or str.")  # fmt: skip
    if key in _CONTAINER_KEYS or key.startswith("split."):
        _misread("bad_override", "This key belongs to the file itself.", f"{key} follows from the file's layout.",
                 "Choose another key.")  # fmt: skip
    try:
        return MetaEntry(key, *_VALUES[kind.strip()](value))
    except (KeyError, ValueError) as error:
        reason = f"{kind!r} is none of int, float, bool, str" if isinstance(error, KeyError) else str(error)
        _misread("bad_override", "This value cannot be stored.", f"{text}: {reason}.", "KEY=TYPE:VALUE")


def _whole(text: str) -> tuple[Any, str]:
    value = abs(int(text))
    if value >= 1 << 32:
        raise ValueError("it does not fit 32 bits")
    return value, "UINT32"


def _truth(text: str) -> tuple[Any, str]:
    if text not in ("true", "false"):
        raise ValueError("it is neither true nor false")
    return text == "true", "BOOL"


_VALUES: dict[str, Callable[[str], tuple[Any, str]]] = {
    "int": _whole,
    "float": lambda text: (float(text), "FLOAT32"),
    "bool": _truth,
    "str": lambda text: (text, "STRING"),
}


def parse_layers(text: str) -> tuple[int, ...]:
    """``3,7-9`` as ``(3, 7, 8, 9)``; empty text as no layer. Raises ``QuenchError`` ``bad_layers``."""
    found: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= _LARGEST_LAYER:
            _misread("bad_layers", "This is no list of layers.", f"{part!r} in {text!r}.", "For example 3,7-9.")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def parse_size(text: str) -> int:
    """``2GiB``, ``500M`` (a million each, as llama-gguf-split counts) as bytes. ``QuenchError`` ``bad_size``."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        _misread("bad_size", "This is no size.", f"{text!r}.", "For example 2GiB or 500M.")
    return size


# ---- the source as it is asked to become ----


@dataclass(frozen=True)
class _Pruning:
    """Which layers go, and the new numbers of those that stay."""

    gone: frozenset[int]
    numbers: dict[int, int]

    def renamed(self, name: str) -> str | None:
        """A tensor's new name; None if it goes."""
        layer = _LAYER.match(name)
        if layer is None:
            return name
        number = self.numbers.get(int(layer[1]))
        return None if number is None else f"blk.{number}.{name[layer.end() :]}"


def applied(model: SourceModel, spec: ConversionSpec) -> SourceModel:
    """``model`` with the layers and the metadata that ``spec`` asks for; itself if it asks for nothing of the kind.

    Closing either closes both. Raises ``QuenchError``: ``bad_override``, ``bad_layers``.
    """
    overrides = [parse_override(text) for text in spec.override_kv]
    pruning = _pruning(model, spec.prune_layers)
    if not overrides and pruning is None:
        return model
    tensors = model.tensors if pruning is None else _pruned(model.tensors, pruning)
    hints = _hinted(model.hparams, overrides)

    def metadata() -> list[MetaEntry]:
        entries = model.metadata
        if pruning is not None:
            entries = _fewer_layers(entries, model.hparams, pruning)
        return overridden(entries, overrides)

    return replace(model, tensors=tensors, hparams=hints, build_metadata=metadata)


def overridden(entries: Sequence[MetaEntry], overrides: Sequence[MetaEntry]) -> list[MetaEntry]:
    """Entries with ``overrides`` in place of those of the same key, at the end, the last one of a key winning."""
    last = {entry.key: entry for entry in overrides}
    return [entry for entry in entries if entry.key not in last] + list(last.values())


def renamed_importance(importance: Imatrix, model: SourceModel, spec: ConversionSpec) -> Imatrix:
    """An importance matrix of the whole model, with the names that its tensors have after pruning."""
    pruning = _pruning(model, spec.prune_layers)
    if pruning is None:
        return importance
    names = ((pruning.renamed(name), values) for name, values in importance.entries.items())
    return replace(importance, entries={name: values for name, values in names if name is not None})


def _pruning(model: SourceModel, layers: Sequence[int]) -> _Pruning | None:
    if not layers:
        return None
    present = sorted({int(found[1]) for t in model.tensors if (found := _LAYER.match(t.name))})
    gone = frozenset(layers)
    missing = sorted(gone - set(present))
    if missing or len(gone) == len(present):
        detail = f"There is no layer {missing[0]}" if missing else "Every layer would go"
        last = f"; the model has layers 0 to {present[-1]}." if present else "; the model has no layers."
        _misread("bad_layers", "These layers cannot be taken out.", detail + last, "Name some of its layers.")
    kept = [layer for layer in present if layer not in gone]
    return _Pruning(gone, {layer: number for number, layer in enumerate(kept)})


def _pruned(tensors: Sequence[SourceTensor], pruning: _Pruning) -> list[SourceTensor]:
    kept = []
    for tensor in tensors:
        name = pruning.renamed(tensor.name)
        if name is not None:
            kept.append(copy.copy(tensor))
            kept[-1].name = name
    return kept


def _fewer_layers(entries: Sequence[MetaEntry], hints: RecipeHints, pruning: _Pruning) -> list[MetaEntry]:
    """Metadata of the pruned model: the count of layers, and lists with a value a layer.

    llama-quantize leaves the lists alone, and the engine then refuses the file: there they are cut as well.
    """
    prefix = f"{hints.architecture}."
    result = []
    for entry in entries:
        if entry.key == f"{prefix}block_count":
            continue
        if entry.type == "ARRAY" and entry.key.startswith(prefix) and len(entry.value) == hints.layers:
            kept = [value for layer, value in enumerate(entry.value) if layer not in pruning.gone]
            result.append(replace(entry, value=kept))
        else:
            result.append(entry)
    return [*result, MetaEntry(f"{prefix}block_count", len(pruning.numbers), "UINT32")]


def _hinted(hints: RecipeHints, overrides: Sequence[MetaEntry]) -> RecipeHints:
    """The numbers that the mixes go by: llama-quantize reads them through the overrides too."""
    fields = {"block_count": "layers", "attention.head_count": "heads", "attention.head_count_kv": "kv_heads",
              "expert_count": "experts"}  # fmt: skip
    prefix = f"{hints.architecture}."
    changed = {
        fields[entry.key.removeprefix(prefix)]: entry.value
        for entry in overrides
        if entry.key.startswith(prefix) and entry.key.removeprefix(prefix) in fields and entry.type == "UINT32"
    }
    return replace(hints, **changed)
