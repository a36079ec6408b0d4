"""What the files of a repository are to each other: shards of one model, one quant among many, parts of a conversion.

Pure: names and sizes in, groups out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from app import library
from app.hub.messages import FileGroup, RemoteFile

MAX_SHARDS = 2000

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.[^.]+$)")
_KINDS = {".gguf": "gguf", ".safetensors": "safetensors", ".bin": "pytorch", ".pt": "pytorch", ".pth": "pytorch"}
_ORDER = ("gguf", "safetensors", "pytorch", "projector")

# What a conversion reads beside the weights. Everything in it is small but the vocabulary.
CONVERSION_FILES = frozenset(
    {
        "README.md", "added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json",
        "generation_config.json", "hf_quant_config.json", "hy.tiktoken", "merges.txt", "modules.json",
        "quant_config.json", "quantize_config.json", "qwen.tiktoken", "sentencepiece.bpe.model",
        "special_tokens_map.json", "spiece.model", "tekken.json", "tiktoken.model", "tokenizer.json", "tokenizer.model",
        "tokenizer.tiktoken", "tokenizer_config.json", "vocab.json", "vocab.txt",
    }
)  # fmt: skip
# How a model that makes vectors joins those of a text's tokens (sentence-transformers).
_POOLING = re.compile(r"\d{1,2}_Pooling/config\.json")
_SAFETENSORS_INDEX = "model.safetensors.index.json"
_PYTORCH_INDEX = "pytorch_model.bin.index.json"


def groups(files: Sequence[RemoteFile]) -> tuple[FileGroup, ...]:
    """The models among the files: GGUFs by size, then the shards of each precision, adapters and others left out."""
    together: dict[tuple[str, str], list[tuple[RemoteFile, int]]] = {}
    for file in files:
        kind = weights_kind(file.path)
        if not kind:
            continue
        shard = _SHARD.search(file.path)
        name = file.path[: shard.start()] + file.path[shard.end() :] if shard else file.path
        together.setdefault((kind, name), []).append((file, int(shard[2]) if shard else 1))
    found = []
    for (kind, name), members in together.items():
        parts = tuple(sorted(file.path for file, _ in members))
        total = min(MAX_SHARDS, max(count for _, count in members))
        found.append(
            FileGroup(
                kind=kind,
                name=name,
                type=library.type_in_name(name) if kind != "safetensors" else "",
                files=parts,
                bytes=sum(file.bytes for file, _ in members),
                missing=max(0, total - len(parts)),
            )
        )
    return tuple(sorted(found, key=lambda group: (_ORDER.index(group.kind), group.bytes, group.name)))


def weights_kind(path: str) -> str:
    """``gguf``, ``safetensors``, ``pytorch`` or ``projector``; empty for what holds no model's weights.

    Importance matrices, adapters and files in folders of other frameworks do not count.
    """
    folder, _, name = path.rpartition("/")
    lower = name.lower()
    kind = _KINDS.get(lower[lower.rfind(".") :] if "." in lower else "", "")
    if kind == "gguf":
        if lower.removesuffix(".gguf").endswith("imatrix"):
            return ""
        return "projector" if "mmproj" in lower else "gguf"
    if not kind or folder or lower.startswith(("adapter_model", "training_args", "optimizer", "scheduler")):
        return ""
    usual = ("model", "pytorch_model", "consolidated")
    return kind if lower.startswith(usual) else ""


def for_conversion(files: Iterable[RemoteFile]) -> tuple[tuple[str, ...], str]:
    """The paths that a conversion reads, and why there are none if there are none.

    Safetensors before PyTorch checkpoints, and of either only the usual names at the top: no ONNX, no TensorFlow, no
    second copy in another format.
    """
    names = {file.path for file in files if "/" not in file.path}
    if "config.json" not in names:
        if any(weights_kind(file.path) == "gguf" for file in files):
            return (), "It holds GGUF files, which are ready to use."
        return (), "It has no config.json."
    weights = sorted(name for name in names if name.startswith("model") and name.endswith(".safetensors"))
    index = _SAFETENSORS_INDEX
    if not weights:
        weights = sorted(
            name
            for name in names
            if name.startswith(("pytorch_model", "model")) and name.endswith((".bin", ".pt", ".pth"))
        )
        index = _PYTORCH_INDEX
    if not weights:
        return (), "It has no safetensors and no PyTorch weights."
    pooling = {file.path for file in files if _POOLING.fullmatch(file.path)}
    return tuple(sorted(names & (CONVERSION_FILES | {index}) | pooling) + weights), ""


def matching(files: Iterable[RemoteFile], patterns: Sequence[str]) -> list[RemoteFile]:
    """The files whose path, or name alone, matches one of the patterns (``*.gguf``, ``Q4_K_M/*``)."""
    return [
        file
        for file in files
        if any(
            file.path == p or fnmatchcase(file.path, p) or fnmatchcase(file.path.rpartition("/")[2], p)
            for p in patterns
        )
    ]
