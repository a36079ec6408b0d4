"""Trees as other programs lay them out, made from real files of Pocket."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.local.entry import Listed
from app.local.listing import Lister
from app.local.places import Place
from app.local.walk import Walk

Gguf = Callable[[str], Path]
Look = Callable[..., dict[str, Listed]]


@pytest.fixture
def home() -> Path:
    """The home folder that the programs of this test have."""
    return Path(os.environ["HOME"])


@pytest.fixture
def look() -> Look:
    """``look((kind, root), ...)`` is everything that is listed there, by path."""

    def find(*where: tuple[str, Path]) -> dict[str, Listed]:
        lister = Lister()
        found = Walk().candidates(Place(kind, str(root)) for kind, root in where)
        return {listed.path: listed for listed in map(lister.describe, found)}

    return find


def linked(source: Path, target: Path) -> Path:
    """The same file under another name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)
    return target


def copied(source: Path, target: Path) -> Path:
    """The same bytes in a file of their own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


def ollama_model(store: Path, source: Path, *parts: str) -> Path:
    """A model in Ollama's layout, as ``ollama pull`` leaves it; returns its blob."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    blob = store / "blobs" / f"sha256-{digest}"
    if not blob.exists():
        linked(source, blob)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "1" * 64, "size": 3},
        {
            "mediaType": "application/vnd.ollama.image.model",
            "digest": f"sha256:{digest}",
            "size": source.stat().st_size,
        },
    ]
    write_manifest(store, json.dumps({"schemaVersion": 2, "layers": layers}), *parts)
    return blob


def write_manifest(store: Path, text: str, *parts: str) -> Path:
    """A manifest with this text, for ``registry, namespace, model, tag``."""
    manifest = store.joinpath("manifests", *(parts or ("registry.ollama.ai", "library", "pocket", "q8")))
    manifest.parent.mkdir(parents=True, exist_ok=True)
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    manifest.write_text(text)
    return manifest


def hub_file(cache: Path, source: Path, name: str, commit: str, refs: tuple[str, ...] = ()) -> Path:
    """A file of a repository in the Hugging Face cache: blob, link in the snapshot, refs."""
    home = cache / "models--acme--Pocket"
    blob = home / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
    if not blob.exists():
        copied(source, blob)
    link = home / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    for ref in refs:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return link
