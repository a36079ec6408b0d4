"""The oracle of type choices and whole files: llama.cpp's own quantizer through llama-cpp-python's low-level face."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

_LINE = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[[^]]*\], type =\s*(\S+), size =[^(\n]*(?:\((\w+)\))?")


def type_number(name: str) -> int:
    return int(gguf.GGMLQuantizationType[name])


@contextmanager
def engine_log(callback: Any) -> Iterator[None]:
    """``callback`` (an ``llama_log_callback``) hears the engine; afterwards whoever heard it before does again."""
    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield
    finally:
        llama_cpp.llama_log_set(before, data)


@contextmanager
def _log() -> Iterator[list[str]]:
    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(level: int, text: bytes, user_data: object) -> None:
        lines.append(text.decode("utf-8", "replace"))

    with engine_log(keep):
        yield lines


def _overrides(metadata: Sequence[tuple[str, int | float | bool | str]]) -> Any:
    """``llama_model_kv_override`` structures, the last one empty."""
    found = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
    for slot, (key, value) in zip(found, metadata, strict=False):
        slot.key = key.encode()
        if isinstance(value, bool):
            slot.tag, slot.value.val_bool = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            slot.tag, slot.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            slot.tag, slot.value.val_f64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            slot.tag, slot.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return found


def quantize(
    source: Path,
    target: Path,
    file_type: int,
    *,
    rules: Sequence[tuple[str, str]] = (),
    importance: dict[str, np.ndarray] | None = None,
    output_type: str | None = None,
    embedding_type: str | None = None,
    leave_output: bool = False,
    pure: bool = False,
    allow_requantize: bool = False,
    metadata: Sequence[tuple[str, int | float | bool | str]] = (),
    prune: Sequence[int] = (),
    copy: bool = False,
    keep_split: bool = False,
    dry_run: bool = False,
) -> str:
    """Runs ``llama_model_quantize`` and returns its log; fails the test if it refuses."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 1
    parameters.pure = pure
    parameters.dry_run = dry_run
    parameters.allow_requantize = allow_requantize
    parameters.quantize_output_tensor = not leave_output
    parameters.only_copy = copy
    parameters.keep_split = keep_split
    if metadata:
        parameters.kv_overrides = _overrides(metadata)
    if prune:
        parameters.prune_layers = (ctypes.c_int32 * (len(prune) + 1))(*prune, -1)
    if output_type:
        parameters.output_tensor_type = type_number(output_type)
    if embedding_type:
        parameters.token_embedding_type = type_number(embedding_type)
    if rules:
        overrides = (llama_cpp.llama_model_tensor_override * (len(rules) + 1))()
        for slot, (pattern, kind) in zip(overrides, rules, strict=False):
            slot.pattern = pattern.encode()
            slot.type = type_number(kind)
        parameters.tt_overrides = overrides
    if importance:
        entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        parameters.imatrix = entries
    with _log() as lines:
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    log = "".join(lines)
    assert status == 0, log
    return log


def chosen_types(source: Path, file_type: int, **options: object) -> dict[str, str]:
    """Type of every tensor that llama.cpp would choose, without quantizing anything."""
    log = quantize(source, source.with_suffix(".unused"), file_type, dry_run=True, **options)  # type: ignore[arg-type]
    found = {name: (new or old).upper() for name, old, new in _LINE.findall(log)}
    assert found, log
    return found


def synthetic(
    path: Path,
    architecture: str,
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    experts: int = 0,
    embedding: int = 256,
    kind: str = "F16",
) -> Path:
    """A GGUF of the given shapes whose weights are a hole in the file (all zero): types depend on the header alone."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(embedding)
    writer.add_feed_forward_length(512)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(512)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    size = 0
    for name, shape in tensors:
        stored = "F32" if len(shape) == 1 else kind
        count = int(np.prod(shape)) * (4 if stored == "F32" else 2)
        writer.add_tensor_info(name, shape, np.dtype(np.float16), count, gguf.GGMLQuantizationType[stored])
        size += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + size)
    return path
