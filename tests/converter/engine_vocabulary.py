"""Vocabularies in the engine: keys written as a GGUF without weights, loaded, and asked to split text."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp

from converter.sources.base import MetaEntry
from tests.converter.llama_quantize import engine_log


def keyed(found: list[MetaEntry]) -> dict[str, Any]:
    return {entry.key.removeprefix("tokenizer.").removeprefix("ggml."): entry.value for entry in found}


def write_gguf(path: Path, found: list[MetaEntry]) -> Path:
    """A vocabulary-only GGUF, written by gguf-py."""
    writer = gguf.GGUFWriter(path, "llama")
    for entry in found:
        item = gguf.GGUFValueType[entry.item_type] if entry.item_type else None
        writer.add_key_value(entry.key, entry.value, gguf.GGUFValueType[entry.type], item)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    return None


def engine_tokens(path: Path, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """What the engine makes of ``texts`` with the vocabulary of a GGUF file; ``special``: tokens are added in front
    and behind, and found in the text."""
    with engine_log(_silent):
        return _engine_tokens(path, texts, special)


def _engine_tokens(path: Path, texts: Sequence[str], special: bool) -> list[list[int]]:
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, "the engine does not accept the vocabulary"
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    result = []
    for text in texts:
        raw = text.encode()
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), buffer, len(buffer), special, special)
        assert count >= 0
        result.append(list(buffer[:count]))
    llama_cpp.llama_model_free(model)
    return result
