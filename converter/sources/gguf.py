"""A GGUF file as a source of weights and of metadata that is carried over."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from converter.sources.base import MetaEntry, RecipeHints, SourceModel
from converter.sources.files import ByteFile
from converter.sources.gguf_header import ARRAY, STRING, VALUE_TYPES, Header, read_header
from converter.sources.gguf_parts import Parts, read_parts
from converter.sources.tensors import FileTensor
from converter.spec import ModelInfo, QuenchError, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from converter.sources.base import SourceTensor
    from converter.sources.gguf_header import KnownParts

SHORT_TEXT = 200
"""Characters of a metadata value that still fits on a line."""

# These belong to an output, not to its source.
_OWN_KEYS = frozenset({"general.file_type", "general.quantization_version", "general.alignment"})
_TYPE_SUFFIX = re.compile(r"[-._](?:I?Q\d\w*|TQ\d\w*|B?F(?:P)?(?:16|32)|MXFP4\w*|NVFP4)$", re.IGNORECASE)
_SPLIT_SUFFIX = re.compile(r"-\d{5}-of-\d{5}$")


def open_gguf(path: Path) -> SourceModel:
    """Opens a GGUF file, or the whole model that it is a part of; reads headers only.

    Any part of a split model stands for all of it. If some are missing it can still be looked at. Raises
    ``QuenchError`` for anything that does not add up.
    """
    with ExitStack() as stack:
        parts = _open_parts(path, stack)
        tensors: list[SourceTensor] = [
            FileTensor(file, t.offset, name=t.name, source_name=t.name, shape=t.shape, stored=t.type)
            for file, header in zip(parts.files, parts.headers, strict=True)
            for t in header.tensors
        ]
        first = parts.headers[0]
        info = _info(parts, {key: first.preview(key) for key in first.values})
        info = msgspec.structs.replace(
            info,
            tensors=tuple(
                TensorInfo(t.name, t.shape, t.type, t.n_bytes) for each in parts.headers for t in each.tensors
            ),
            chat_template=_string(first, "tokenizer.chat_template") or None,
        )
        hints = RecipeHints(
            architecture=info.architecture,
            layers=info.layers,
            heads=_first(first, f"{info.architecture}.attention.head_count"),
            kv_heads=_first(first, f"{info.architecture}.attention.head_count_kv") or info.heads,
            experts=info.experts,
        )
        closed = stack.pop_all()
    return SourceModel(
        info, tensors, hints, lambda: _metadata(first), closed.close, parts.files, incomplete=parts.missing
    )


@contextmanager
def glance(path: Path, known: KnownParts | None = None) -> Iterator[tuple[ModelInfo, Parts]]:
    """What :func:`open_gguf` says of a file, shortened as by :func:`short_info`, and its parts, open and checked.

    For looking at thousands of files: no object for each tensor to read from is made, and no array becomes numbers.
    """
    with ExitStack() as stack:
        parts = _open_parts(path, stack, known)
        yield _info(parts, parts.headers[0].short(SHORT_TEXT)), parts


def short_info(info: ModelInfo) -> ModelInfo:
    """``info`` without its tensors, its template and metadata values longer than a line."""
    metadata = {key: value for key, value in info.metadata.items() if _is_short(value)}
    return msgspec.structs.replace(info, tensors=(), metadata=metadata, chat_template=None)


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= SHORT_TEXT)


def _open_parts(path: Path, stack: ExitStack, known: KnownParts | None = None) -> Parts:
    file = stack.enter_context(closing(ByteFile(path)))
    parts = Parts([file], [read_header(file, known)], "")
    if _number(parts.headers[0], "split.count") > 1:
        parts = read_parts(file, parts.headers[0], stack, known)
    return parts


def base_name(path: Path) -> str:
    """The file's name without its type: ``Pocket-Q4_K_M.gguf`` -> ``Pocket``."""
    stem = _SPLIT_SUFFIX.sub("", path.stem)
    return _TYPE_SUFFIX.sub("", stem) or stem or "model"


def _metadata(header: Header) -> list[MetaEntry]:
    return [
        MetaEntry(
            key,
            header.value(key),
            VALUE_TYPES[entry.type][0],
            None if entry.item_type is None else VALUE_TYPES[entry.item_type][0],
        )
        for key, entry in header.values.items()
        if key not in _OWN_KEYS and not key.startswith("split.")
    ]


def _info(parts: Parts, metadata: dict[str, Any]) -> ModelInfo:
    """The description of the model without its tensors and its template."""
    path, header = parts.files[0].path, parts.headers[0]
    architecture = _string(header, "general.architecture")
    if not architecture:
        raise QuenchError(
            "bad_header",
            "The GGUF file does not say what kind of model it is.",
            f"{path.name} has no general.architecture.",
            "It may be a data file of another program; choose a model.",
        )
    tables = [each.table for each in parts.headers]

    def number(key: str) -> int:
        return _number(header, f"{architecture}.{key}")

    heads = number("attention.head_count")
    embedding = number("embedding_length")
    head_size = embedding // heads if heads else 0
    tokens = header.values.get("tokenizer.ggml.tokens")

    def has(name: str) -> bool:
        return any(name in table.named for table in tables)

    return ModelInfo(
        path=str(path),
        kind="gguf",
        name=base_name(path),
        architecture=architecture,
        parameters=sum(table.parameters for table in tables),
        layers=number("block_count"),
        context_length=number("context_length"),
        embedding_length=embedding,
        heads=heads,
        kv_heads=number("attention.head_count_kv") or heads,
        key_length=number("attention.key_length") or head_size,
        value_length=number("attention.value_length") or head_size,
        experts=number("expert_count"),
        vocabulary=tokens.count if tokens is not None and tokens.type == ARRAY else number("vocab_size"),
        tokenizer=_string(header, "tokenizer.ggml.model"),
        pre_tokenizer=_string(header, "tokenizer.ggml.pre"),
        types=_by_frequency(sum((table.types for table in tables), Counter())),
        bytes=sum(file.size for file in parts.files),
        tensors=(),
        metadata=metadata,
        problems=tuple(_problems(header, architecture, any(table.listed for table in tables), parts.missing)),
        tied_embeddings=has("token_embd.weight") and not has("output.weight"),
    )


def count_types(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    """How many tensors there are of each type, the most frequent first."""
    return _by_frequency(Counter(tensor.type for tensor in tensors))


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _problems(header: Header, architecture: str, has_tensors: bool, missing: str) -> list[str]:
    problems = []
    if not has_tensors:
        problems.append("The file has no weights, only metadata.")
    if missing:
        problems.append(missing)
    if _string(header, "general.type") not in ("", "model"):
        problems.append(f"The file says that it is no model but: {_string(header, 'general.type')}.")
    if "tokenizer.ggml.tokens" not in header.values:
        problems.append("The file has no vocabulary, so that it cannot be chatted with.")
    if has_tensors and not _number(header, f"{architecture}.block_count"):
        problems.append(f"{architecture}.block_count is missing.")
    return problems


def _string(header: Header, key: str) -> str:
    entry = header.values.get(key)
    if entry is None or entry.type != STRING:
        return ""
    value = header.value(key)
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _number(header: Header, key: str) -> int:
    """A whole number, or the largest of an array (some models have a value a layer); 0 where there is none."""
    entry = header.values.get(key)
    if entry is None or STRING in (entry.type, entry.item_type):
        return 0
    value: Any = header.value(key)
    if isinstance(value, list):
        value = max(value, default=0)
    try:
        return max(0, int(value))
    except (ValueError, OverflowError):  # not a number, or infinite
        return 0


def _first(header: Header, key: str) -> int:
    """A whole number, or the first of an array; 0 where there is none."""
    entry = header.values.get(key)
    if entry is None or entry.item_type in (None, STRING):
        return _number(header, key)
    value = next(iter(header.value(key)), 0)
    return max(0, int(value)) if isinstance(value, int) else 0
