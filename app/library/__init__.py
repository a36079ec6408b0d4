"""Models on this machine: which paths are models, how they are called, and what a header says about them. No Qt.

Only names and directory entries are read here; headers go through ``converter.open_model``, which never runs code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

import resources
from app import paths
from converter.spec import ModelInfo, QuenchError

BUNDLED = "Pocket"
"""The name of the model that comes with Quench; its folder is written small."""

MAX_DEPTH = 6
MAX_ENTRIES = 200_000
"""Directory entries looked at in one folder given by a person: a wrong click on ``/`` must come to an end."""

_SKIPPED = {"node_modules", "__pycache__", "blobs", "refs", ".git", ".no_exist", ".locks"}
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
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


def hub_cache() -> Path:
    """The Hugging Face cache, as huggingface_hub finds it (``HF_HUB_CACHE``, ``HF_HOME``, XDG, home)."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _place(cache)
    if home := os.environ.get("HF_HOME"):
        return _place(home) / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (_place(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def _place(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def default_folders() -> tuple[str, ...]:
    """Where models are looked for without being told: our own outputs and the Hugging Face cache."""
    cache = hub_cache()
    return (str(paths.models()), *((str(cache),) if cache.is_dir() else ()))


def is_gguf(path: Path) -> bool:
    """Whether the name is that of a model in one GGUF file, or of the first part of a split one.

    ``<model>.imatrix.gguf`` is an importance matrix.
    """
    if path.suffix.lower() != ".gguf" or path.name.startswith(".") or path.stem.lower().endswith("imatrix"):
        return False
    part = _PART.search(path.name)
    return part is None or int(part.group(1)) == 1


def is_model_folder(path: Path) -> bool:
    """Whether the folder looks like a Hugging Face model: a config and weights beside it."""
    return (path / "config.json").is_file() and any(
        entry.suffix in {".safetensors", ".bin"} or entry.name.endswith(".safetensors.index.json")
        for entry in path.iterdir()
    )


def candidates(folders: Iterable[str]) -> Iterator[Path]:
    """Every path that may be a model in or under ``folders`` (which may be models themselves), each once, no order.

    Projector files (``mmproj``) are no models. Folders that cannot be read are passed over; links are followed for
    files only, so that a loop has an end.
    """
    seen: set[str] = set()
    for folder in folders:
        root = Path(folder).expanduser()
        for path in _walk(root):
            key = os.path.realpath(path)
            if key not in seen:
                seen.add(key)
                yield path


def _walk(root: Path) -> Iterator[Path]:
    if root.is_file():
        if is_gguf(root):
            yield root
        return
    budget = MAX_ENTRIES
    stack = [(root, 0)]
    while stack and budget > 0:
        folder, depth = stack.pop()
        try:
            if not folder.is_dir():
                continue
            if is_model_folder(folder):
                yield folder
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        budget -= len(entries)
        for entry in entries:
            path = Path(entry.path)
            if entry.name in _SKIPPED or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH:
                    stack.append((path, depth + 1))
            elif is_gguf(path) and "mmproj" not in entry.name.lower():
                yield path


def describe(path: str | Path) -> ModelInfo:
    """The short description of a model: header only, without its tensors and long metadata.

    Never raises for a bad model: what is wrong stands in ``problems``.
    """
    import converter

    try:
        with converter.open_model(path) as model:
            return msgspec.structs.replace(shorten(model.info), path=str(path))
    except QuenchError as error:
        return broken(path, error)
    except OSError as error:
        return broken(path, QuenchError("unreadable", "The file cannot be read.", str(error), "Check its permissions."))


def shorten(info: ModelInfo) -> ModelInfo:
    """``info`` without its tensors, its template and metadata values longer than a line."""
    metadata = {key: value for key, value in info.metadata.items() if _is_short(value)}
    return msgspec.structs.replace(info, tensors=(), metadata=metadata, chat_template=None)


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 200)


def broken(path: str | Path, error: QuenchError) -> ModelInfo:
    """An entry for something on disk that is no usable model; ``problems`` says why."""
    place = Path(path)
    kind = "gguf" if place.suffix.lower() == ".gguf" else "hf"
    problem = " ".join(part for part in (error.title, error.detail, error.hint) if part)
    return ModelInfo(
        path=str(path), kind=kind, name=place.stem if kind == "gguf" else place.name, architecture="", parameters=0,
        layers=0, context_length=0, embedding_length=0, heads=0, kv_heads=0, key_length=0, value_length=0, experts=0,
        vocabulary=0, tokenizer="", pre_tokenizer="", types={}, bytes=file_bytes(place), tensors=(), metadata={},
        problems=(problem,),
    )  # fmt: skip


def file_bytes(path: str | Path) -> int:
    """Bytes of a model file, or of the files in a model folder; 0 if it cannot be read."""
    path = Path(path)
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    except OSError:
        return 0


def type_label(info: ModelInfo) -> str:
    """What the model's precision is called: ``Q4_K_M``, ``BF16`` ...; from the header, else the name, else the tensors.

    An empty string for a broken model without any of them.
    """
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
    name = _PART.sub("", name + ".gguf").removesuffix(".gguf")
    found = _TYPE_IN_NAME.search(name)
    name = (name[: found.start()] if found else name).strip(" -_.") or name
    return BUNDLED if name.lower() == BUNDLED.lower() else name


def in_folder(path: str, folders: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``folders`` or inside one of them."""
    place = Path(path)
    return any(place == Path(folder) or Path(folder) in place.parents for folder in folders)
