"""How local models are called: by their header, by their file's name, and what they are grouped under."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import resources
from converter.spec import ModelInfo

BUNDLED = "Pocket"
"""The name of the model that comes with Quench; its folder is written small."""

SERVED = "Servers"
"""What the models of all servers are grouped under."""

PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_TYPE_IN_NAME = re.compile(
    r"[-_.](I?Q\d(?:_[01KSMLX]|_[SMLX]{1,3}|_NL)(?:_(?:S|M|L|XS|XL))?|TQ\d_\d|BF16|F16|F32|FP16|FP8|MXFP4(?:_MOE)?)"
    r"(?=$|[-_.])",
    re.IGNORECASE,
)
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""``general.file_type`` of a GGUF -> the recipe's name, as llama.cpp numbers them."""


def type_label(info: ModelInfo) -> str:
    """What the model's precision is called: ``Q4_K_M``, ``BF16`` ...; from the header, else the name, else the tensors.

    An empty string for a broken model without any of them. Of a server's model what serves it.
    """
    if info.kind == "server":
        return str(info.metadata.get("software", ""))
    number = info.metadata.get("general.file_type")
    if isinstance(number, int) and number in _FILE_TYPES:
        return _FILE_TYPES[number]
    if info.kind == "gguf" and (found := type_in_name(info.path)):
        return found
    matrices = {name: count for name, count in info.types.items() if name != "F32"} or info.types
    return max(matrices, key=lambda name: matrices[name]) if matrices else ""


def type_in_name(name: str) -> str:
    """The precision that a file's name tells, such as ``Q4_K_M``; empty if it tells none."""
    found = _TYPE_IN_NAME.search(Path(name).stem)
    return found.group(1).upper().replace("FP16", "F16") if found else ""


def base_name(info: ModelInfo) -> str:
    """The name that files made from one model share: the model's own, without type and part number."""
    if info.kind == "server":
        return SERVED
    path = Path(info.path)
    if path == resources.path("pocket"):
        return BUNDLED
    repository = path.parent.parent.name
    if info.kind == "hf" and path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.split("--")[-1]  # in the cache the folder itself is called like a commit
    return _plain(info.name or path.stem)


def file_title(path: str | Path) -> str:
    """What a GGUF file of which only the path is known would be called: ``Pocket · Q4_K_M``."""
    stem = Path(path).stem
    found = _TYPE_IN_NAME.search(stem)
    return f"{_plain(stem)} · {found.group(1).upper()}" if found else _plain(stem)


def _plain(name: str) -> str:
    """A model's name without type and part number."""
    name = PART.sub("", name + ".gguf").removesuffix(".gguf")
    found = _TYPE_IN_NAME.search(name)
    name = (name[: found.start()] if found else name).strip(" -_.") or name
    return BUNDLED if name.lower() == BUNDLED.lower() else name


def makes_vectors(info: ModelInfo) -> bool:
    """Whether a GGUF file is an embeddings model: it turns texts into vectors (or ranks them) and is not for chats."""
    pooling = info.metadata.get(f"{info.architecture}.pooling_type")
    causal = info.metadata.get(f"{info.architecture}.attention.causal")
    return info.kind == "gguf" and (causal is False or (isinstance(pooling, int) and pooling > 0))


def in_folder(path: str, folders: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``folders`` or inside one of them."""
    place = Path(path)
    return any(place == Path(folder) or Path(folder) in place.parents for folder in folders)
