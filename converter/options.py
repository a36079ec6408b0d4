"""What a person may ask of a conversion beside its types: other metadata, fewer layers, files of a certain size.

:func:`applied` gives a view of an opened source as it is asked to become; everything behind it (types, sizes, the pass
itself) sees an ordinary source. What each option does is what llama.cpp's ``llama-quantize`` does.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NoReturn

from converter.imatrix import Imatrix
from converter.sources.base import MetaEntry, RecipeHints, SourceModel, SourceTensor
from converter.sources.gguf_header import MAX_KEY_BYTES
from converter.spec import ConversionSpec, QuenchError

_LAYER = re.compile(r"blk\.(\d+)\.")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_LARGEST_LAYER = 1 << 16
_LARGEST_FLOAT = 3.4028234663852886e38
"""The largest FLOAT32."""
_CONTAINER_KEYS = frozenset({"general.alignment"})


def _misread(code: str, title: str, detail: str, hint: str) -> NoReturn:
    raise QuenchError(code, title, detail, hint, exit_status=2)


# ---- what is written on the command line ----


def parse_override(text: str) -> MetaEntry:
    """``KEY=TYPE:VALUE`` as an entry.

    TYPE ``int``, ``float``, ``bool`` or ``str`` gives the type that llama-quantize gives it: whole numbers become
    UINT32 without their sign, as there. A type of the format itself (``uint8`` to ``int64``, ``float32``, ``float64``,
    ``string``) gives just that, and ``[TYPE]`` an array of it, whose VALUE is a JSON list. Raises ``QuenchError``
    ``bad_override``.
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
    if len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES or not key.isprintable():
        _misread("bad_override", "This is no name of a key.", repr(key[:80]), "Choose a shorter, printable name.")
    kind = kind.strip()
    try:
        if kind.startswith("[") and kind.endswith("]"):
            return MetaEntry(key, *_list(kind[1:-1].strip(), value))
        return MetaEntry(key, *_VALUES[kind](value))
    except (KeyError, ValueError) as error:
        reason = f"{kind!r} is none of {', '.join(_VALUES)}" if isinstance(error, KeyError) else str(error)
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


def _bounded(kind: str) -> Callable[[str], tuple[Any, str]]:
    """Whole numbers of one type of the format."""
    bits = int(kind.lstrip("UINT"))
    low, high = (0, (1 << bits) - 1) if kind.startswith("U") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)

    def parse(text: str) -> tuple[Any, str]:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"{kind} holds {low} to {high}")
        return value, kind

    return parse


def _real(kind: str) -> Callable[[str], tuple[Any, str]]:
    def parse(text: str) -> tuple[Any, str]:
        value = float(text)
        if kind == "FLOAT32" and isfinite(value) and abs(value) > _LARGEST_FLOAT:
            raise ValueError(f"{kind} holds numbers up to {_LARGEST_FLOAT:.7g}")
        return value, kind

    return parse


def _text(text: str) -> tuple[Any, str]:
    return text, "STRING"


_VALUES: dict[str, Callable[[str], tuple[Any, str]]] = {
    "int": _whole,
    "float": _real("FLOAT32"),
    "bool": _truth,
    "str": _text,
    "string": _text,
    **{
        kind.lower(): _bounded(kind)
        for kind in ("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64")
    },
    "float32": _real("FLOAT32"),
    "float64": _real("FLOAT64"),
}
_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "BOOL": (bool,),
    "FLOAT32": (int, float),
    "FLOAT64": (int, float),
}


def _list(kind: str, text: str) -> tuple[Any, str, str]:
    """A JSON list whose items are all of one type; none of another is taken for it."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON list ({error})") from error
    if not isinstance(items, list):
        raise ValueError("it is no JSON list")
    item_type = _VALUES[kind]("true" if kind == "bool" else "0")[1]
    for number, item in enumerate(items):
        wanted = _JSON_KINDS.get(item_type, (int,))
        if not isinstance(item, wanted) or (isinstance(item, bool) and item_type != "BOOL"):
            raise ValueError(f"item {number} is no {kind}")
        if item_type not in ("STRING", "BOOL"):
            _VALUES[kind](str(item))
    return items, "ARRAY", item_type


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
    removed = _removed(model, spec.remove_kv)
    if not overrides and not removed and pruning is None:
        return model
    tensors = model.tensors if pruning is None else _pruned(model.tensors, pruning)
    hints = _hinted(model.hparams, overrides)

    def metadata() -> list[MetaEntry]:
        entries = model.metadata
        if pruning is not None:
            entries = _fewer_layers(entries, model.hparams, pruning)
        return overridden([entry for entry in entries if entry.key not in removed], overrides)

    return replace(model, tensors=tensors, hparams=hints, build_metadata=metadata)


def _removed(model: SourceModel, keys: Sequence[str]) -> frozenset[str]:
    """``keys``, if the source has each of them and can do without it."""
    present = {entry.key for entry in model.metadata} | set(model.info.metadata) if keys else set()
    for key in keys:
        if key == "general.architecture" or key in _CONTAINER_KEYS or key.startswith("split."):
            _misread("bad_override", "This key cannot be taken out.", f"{key} belongs to every file, or to its layout.",
                     "Leave it in.")  # fmt: skip
        if key not in present:
            _misread("bad_override", "There is no such key to take out.", f"{key[:200]!r}",
                     "quench inspect shows the keys of a model.")  # fmt: skip
    return frozenset(keys)


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
