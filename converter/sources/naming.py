"""``general.*`` keys: what a model is called, as far as its folder says.

A repository name such as ``Qwen2.5-0.5B-Instruct`` is taken apart into base name, version, size and fine-tune by the
conventions of GGUF file names; the front matter of README.md adds licence, parents, data sets, tags and languages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from converter.sources.base import MetaEntry
from converter.sources.card import Value, read_card
from converter.sources.files import read_json
from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from converter.sources.base import SourceTensor

_VERSION = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
_TYPE = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE = re.compile(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_LOWER_VERSION = re.compile(r"(v\d+(?:\.\d+)*|\d.*)")
_CACHE_FOLDER = re.compile(r"models--(.+)")
_ADDRESS = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")
_SOURCE_FIELDS = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
_MOST_SOURCES = 1000
"""Parents or data sets that are named: the engine compares every key with all before it."""
_FACTORS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

# generation_config.json -> GGUF, in the order in which they are written. The first source that is there counts.
_SAMPLING = (
    ("top_k", ("top_k",), "INT32"),
    ("top_p", ("top_p",), "FLOAT32"),
    ("min_p", ("min_p",), "FLOAT32"),
    ("xtc_probability", ("xtc_probability",), "FLOAT32"),
    ("xtc_threshold", ("xtc_threshold",), "FLOAT32"),
    ("temp", ("temperature",), "FLOAT32"),
    ("penalty_last_n", ("penalty_last_n",), "INT32"),
    ("penalty_repeat", ("penalty_repeat", "repetition_penalty"), "FLOAT32"),
    ("mirostat", ("mirostat",), "INT32"),
    ("mirostat_tau", ("mirostat_tau",), "FLOAT32"),
    ("mirostat_eta", ("mirostat_eta",), "FLOAT32"),
)


class NameParts(NamedTuple):
    """A model's name in parts; None where the name says nothing."""

    full: str | None = None
    organization: str | None = None
    base: str | None = None
    finetune: str | None = None
    version: str | None = None
    size: str | None = None


class WeightCount(NamedTuple):
    """How many weights a model has: all, those every token uses, and those of one expert of each layer."""

    total: int
    shared: int
    expert: int = 0
    experts: int = 0


def count_parameters(tensors: Sequence[SourceTensor]) -> WeightCount:
    """Counts weights as size labels do. Experts are the first dimension of tensors called ``*_exps.*``; their
    biases count as shared, as llama.cpp has it."""
    shared = expert = stacked = 0
    counts = []
    for tensor in tensors:
        if "_exps." in tensor.name and len(tensor.shape) >= 3:
            experts = tensor.shape[-3]
            counts.append(experts)
            expert += tensor.n_elements // experts
            stacked += tensor.n_elements
        else:
            shared += tensor.n_elements
    return WeightCount(shared + stacked, shared, expert, sum(counts) // len(counts) if counts else 0)


def repository_id(folder: Path) -> str:
    """``organization/name`` for a snapshot in the Hugging Face cache, else the folder's name."""
    folder = folder.absolute()  # "." has no name
    for parent in (folder, *folder.parents)[:3]:
        match = _CACHE_FOLDER.fullmatch(parent.name)
        if match:
            return match[1].replace("--", "/", 1)
    return folder.name or "model"


def general_entries(folder: Path, config: dict[str, Any], count: WeightCount) -> list[MetaEntry]:
    """``general.*`` and ``general.sampling.*`` keys for a folder whose model has so many weights."""
    card = read_card(folder)
    parts = _merged(card, config, repository_id(folder), count.total)
    fields: list[tuple[str, Any]] = [
        ("name", parts.full or repository_id(folder)),
        ("author", _text(card, "author", "model_author", "model_creator")),
        ("version", parts.version),
        ("organization", parts.organization),
        ("finetune", parts.finetune),
        ("basename", parts.base),
        ("description", _text(card, "description", "model_description")),
        ("size_label", parts.size or size_label(count)),
        ("license", _text(card, "license")),
        ("license.name", _text(card, "license_name")),
        ("license.link", _text(card, "license_link")),
        *((f"source.{key}", _text(card, key, f"model_{key}")) for key in ("url", "doi", "uuid", "repo_url")),
    ]
    entries = [MetaEntry("general.type", "model", "STRING"), *_sampling(folder)]
    entries += [MetaEntry(f"general.{key}", value, "STRING") for key, value in fields if value]
    entries += _lineage(card, ("base_model", "base_models", "base_model_sources"), "base_model", count.total)
    entries += _lineage(card, ("datasets", "dataset", "dataset_sources"), "dataset", count.total)
    for key, texts in (
        ("tags", _texts(card, "tags") + _texts(card, "pipeline_tag")),
        ("languages", _texts(card, "languages") + _texts(card, "language")),
    ):
        if texts:
            entries.append(MetaEntry(f"general.{key}", texts, "ARRAY", "STRING"))
    return entries


def size_label(count: WeightCount) -> str:
    """``5246208`` -> ``5.2M``: two digits at least, the unit below the number. ``8x7.0B`` for a model of experts."""
    if count.experts:
        return f"{count.experts}x{_short(count.shared + count.expert)}"
    return _short(count.total)


def _short(parameters: int) -> str:
    scale, unit = next(((f, u) for u, f in reversed(_FACTORS.items()) if parameters > f), (1e3, "K"))
    scaled = parameters / scale
    digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return f"{scaled:.{digits}f}{unit}"


def title(name: str) -> str:
    """``my-tiny-model-v2`` -> ``My Tiny Model v2``: words capitalised, versions and acronyms left alone."""
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not _LOWER_VERSION.fullmatch(w) else w for w in words)


def take_apart(identifier: str, parameters: int) -> NameParts:
    """Splits a repository name into its parts. ``parameters`` tells a size from a context length."""
    if " " in identifier:
        return NameParts(full=identifier)
    organization, _, full = identifier.partition("/") if "/" in identifier else ("", "", identifier)
    parts = [part for part in full.split("-") if part]
    kinds: list[set[str]] = [set() for _ in parts]
    for i, part in enumerate(parts):
        parts[i] = _annotate(part, i, kinds[i], parameters)
    _drop_word_sizes(parts, kinds)
    _mark_base(parts, kinds)

    def joined(kind: str, but: str = "") -> str | None:
        chosen = [p for p, k in zip(parts, kinds, strict=True) if kind in k and not (but and but in k)]
        return "-".join(dict.fromkeys(chosen) if kind == "size" else chosen) or None

    base, finetune, size = joined("base"), joined("finetune"), joined("size")
    version = joined("version", but="base")
    if size is None and finetune is None and version is None:
        base = None
    organization = "" if organization.startswith(".") else organization
    return NameParts(full, organization or None, base, finetune, version, size)


def _text(card: Mapping[str, Value], *keys: str) -> str | None:
    """What the first of the keys that says anything says; several texts are joined by commas."""
    return next((text for key in keys if (text := ",".join(_texts(card, key)))), None)


def _texts(card: Mapping[str, Value], key: str) -> list[str]:
    value = card.get(key)
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item]


def _lineage(card: Mapping[str, Value], keys: Sequence[str], group: str, parameters: int) -> list[MetaEntry]:
    """The models or data sets that a card names under the first of ``keys`` that it has, as
    ``general.<group>.count`` and ``general.<group>.<number>.*``."""
    key = next((key for key in keys if key in card), None)
    if key is None:
        return []
    value = card[key]
    named = (value if isinstance(value, list) else [] if value is None else [value])[:_MOST_SOURCES]
    entries = [MetaEntry(f"general.{group}.count", len(named), "UINT32")]
    for number, one in enumerate(named):
        found = _identified(one, parameters) if isinstance(one, str) else one if isinstance(one, dict) else {}
        entries += [
            MetaEntry(f"general.{group}.{number}.{name}", text, "STRING")
            for name in _SOURCE_FIELDS
            if (text := _text(found, name))
        ]
    return entries


def _identified(identifier: str, parameters: int) -> dict[str, Value]:
    """What the name or the address of a repository says. The size is taken to be like ours."""
    found: dict[str, Value] = {}
    name: str | None = identifier
    if identifier.startswith(("http://", "https://", "ssh://")):
        found["repo_url"] = identifier
        match = _ADDRESS.fullmatch(identifier)
        name = match[1] if match else None
    if name is not None:
        parts = take_apart(name, parameters)
        found |= {"name": title(parts.full or ""), "version": parts.version}
        if parts.organization:
            found["organization"] = title(parts.organization)
            found.setdefault("repo_url", f"https://huggingface.co/{parts.organization}/{parts.full}")
    return found


def _whole(text: str) -> str:
    """JSON can hold halves of characters, which no file can."""
    return text.encode("utf-8", "replace").decode()


def _merged(card: Mapping[str, Value], config: dict[str, Any], folder_id: str, parameters: int) -> NameParts:
    """The card wins over ``_name_or_path`` of the config (if that is a repository), which wins over the folder."""
    found = NameParts(
        _text(card, "name", "model_name"),
        _text(card, "organization", "model_organization"),
        _text(card, "basename", "model_basename", "model_type"),
        _text(card, "finetune", "model_finetune"),
        _text(card, "version", "model_version"),
        _text(card, "size_label", "model_size_label"),
    )
    identifiers = [folder_id]
    declared = config.get("_name_or_path")
    if isinstance(declared, str) and declared and declared.count("/") <= 1:
        identifiers.insert(0, _whole(declared))
    for identifier in identifiers:
        parts = take_apart(identifier, parameters)
        parts = parts._replace(
            full=title(parts.full) if parts.full else None,
            organization=title(parts.organization) if parts.organization else None,
        )
        found = NameParts(*(a if a is not None else b for a, b in zip(found, parts, strict=True)))
    return found


def _annotate(part: str, index: int, kinds: set[str], parameters: int) -> str:
    if _VERSION.fullmatch(part):
        kinds.add("version")
    elif _TYPE.fullmatch(part):
        kinds.add("type")
        return part.upper()
    elif index and _SIZE.fullmatch(part):
        return _annotate_size(part.replace("_", "."), kinds, parameters)
    elif index and _FINETUNE.fullmatch(part):
        kinds.add("finetune")
    return part


def _annotate_size(part: str, kinds: set[str], parameters: int) -> str:
    if part[-1].isdecimal():  # 7b1 means 7.1b
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if len(part) > 1 and part[-2].isdecimal() and part[-1] in "kmbt":
        part = part[:-1] + part[-1].upper()
    try:
        claimed = float(part[:-1]) * _FACTORS.get(part[-1], 1.0)
    except ValueError:
        claimed = None
    if claimed is not None and parameters and abs(claimed - parameters) > 7 * parameters // 8:
        # Too far from the model's size: a context length, as in "128k".
        kinds.add("finetune")
        return part[:-1] + part[-1].lower()
    kinds.add("size")
    return part


def _drop_word_sizes(parts: Sequence[str], kinds: Sequence[set[str]]) -> None:
    sizes = [p for p, k in zip(parts, kinds, strict=True) if "size" in k]
    if any(c.isdecimal() for size in sizes for c in size):
        for part, kind in zip(parts, kinds, strict=True):
            if "size" in kind and part.isalpha():
                kind.discard("size")


def _mark_base(parts: Sequence[str], kinds: Sequence[set[str]]) -> None:
    at_start = True
    for part, kind in zip(parts, kinds, strict=True):
        if at_start and ((not kind and part[0].isalpha()) or "version" in kind):
            kind.add("base")
        else:
            at_start = False
            if not kind:
                kind.add("finetune")
    for kind in reversed(kinds):
        if "base" not in kind or len(kind) == 1:
            break
        kind.discard("base")


def _sampling(folder: Path) -> list[MetaEntry]:
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    try:
        config = read_json(path)
    except QuenchError:
        # Recommendations only: a damaged file leaves the engine's defaults.
        return []
    order = config.get("sequence")
    entries = []
    if isinstance(order, str) and order:
        entries.append(MetaEntry("general.sampling.sequence", _whole(order), "STRING"))
    for key, sources, kind in _SAMPLING:
        value: Any = next((config[s] for s in sources if config.get(s) is not None), None)
        if type(value) not in (int, float) or not abs(value) < (1 << 31 if kind == "INT32" else 3e38):
            continue
        number = int(value) if kind == "INT32" else float(value)
        entries.append(MetaEntry(f"general.sampling.{key}", number, kind))
    return entries
