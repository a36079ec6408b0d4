"""Ollama's store: manifests that name layers by digest, and the blobs that they name.

``manifests/<registry>/<namespace>/<model>/<tag>`` is JSON whose layer of the media type
``application/vnd.ollama.image.model`` is a GGUF file in ``blobs/sha256-<digest>``. Whoever wrote a manifest is a
stranger: it is bounded, a digest is only ever 64 hexadecimal digits, and a blob must really lie in the store's folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODEL_LAYER = "application/vnd.ollama.image.model"
MAX_MANIFEST_BYTES = 1 << 20
MAX_MANIFESTS = 20_000
MAX_DEPTH = 6
BLOB = re.compile(r"sha256-[0-9a-f]{64}")
PARTIAL_BLOB = re.compile(r"sha256-[0-9a-f]{64}-partial")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_USUAL = ("registry.ollama.ai", "library")


@dataclass(frozen=True)
class StoredModel:
    """A model by the name that Ollama's user types. ``problem`` says why it cannot be used, empty if it can.

    ``path`` is its blob; that of a manifest which cannot be understood is the manifest itself.
    """

    name: str
    path: Path
    problem: str = ""


def is_store(folder: Path) -> bool:
    """Whether the folder is laid out as Ollama lays out its models."""
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def models(store: Path) -> Iterator[StoredModel]:
    """Every model of a store, by name; nothing if the folder is none or cannot be read."""
    blobs = store / "blobs"
    for manifest, parts in _manifests(store / "manifests"):
        name = _name(parts)
        digest, size, problem = _model_layer(manifest)
        if problem:
            yield StoredModel(name, manifest, problem)
            continue
        blob = blobs / f"sha256-{digest}"
        yield StoredModel(name, blob if _inside(blob, blobs) else manifest, _blob_problem(blob, blobs, size))


def manifest_files(store: Path) -> list[Path]:
    """The manifests, whose change is a change of the store."""
    return [manifest for manifest, _ in _manifests(store / "manifests")]


def _manifests(root: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Each manifest with the names of the folders on the way to it and its own."""
    left = MAX_MANIFESTS
    stack: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    while stack and left > 0:
        folder, parts = stack.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except OSError:
            continue
        left -= len(entries)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if len(parts) < MAX_DEPTH:
                    stack.append((Path(entry.path), (*parts, entry.name)))
            elif entry.is_file(follow_symlinks=False) and parts:
                yield Path(entry.path), (*parts, entry.name)


def _name(parts: tuple[str, ...]) -> str:
    """``model:tag``, with what is not the usual registry and namespace before it."""
    *where, model, tag = parts
    while where and where[0] in _USUAL:
        where.pop(0)
    return "/".join([*where, f"{model}:{tag}"])


def _model_layer(manifest: Path) -> tuple[str, int, str]:
    """The digest of the model's weights, their bytes, and a sentence if there is something wrong."""
    try:
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            return "", 0, f"Its manifest is larger than {MAX_MANIFEST_BYTES} bytes."
        value = json.loads(manifest.read_bytes())
    except OSError as error:
        return "", 0, f"Its manifest cannot be read: {error.strerror or error}."
    except (ValueError, RecursionError):
        return "", 0, "Its manifest is damaged: it is not valid JSON."
    layers = value.get("layers") if isinstance(value, dict) else None
    if not isinstance(layers, list):
        return "", 0, "Its manifest is damaged: it lists no layers."
    found = [layer for layer in layers if isinstance(layer, dict) and layer.get("mediaType") == MODEL_LAYER]
    if not found:
        return "", 0, "Its manifest names no weights: it is not a model that runs on this machine."
    text, size = found[0].get("digest"), found[0].get("size")
    digest = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    if digest is None or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return "", 0, "Its manifest is damaged: the weights have no proper digest and size."
    return digest[1], size, ""


def _blob_problem(blob: Path, blobs: Path, size: int) -> str:
    if not blob.exists():
        return "Its weights are not in the store: the download was not finished, or they were removed."
    if not _inside(blob, blobs):
        return "Its weights are a link that leads out of the store."
    have = blob.stat().st_size
    return "" if have == size else f"Its weights have {have} bytes instead of {size}."


def _inside(blob: Path, blobs: Path) -> bool:
    return Path(os.path.realpath(blob)).parent == Path(os.path.realpath(blobs)) and blob.is_file()
