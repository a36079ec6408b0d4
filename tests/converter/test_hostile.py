"""Damaged and lying input: every case is a QuenchError that says what to do, soon, and with no file left open."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import QuenchError, open_model
from tests.converter.folders import (
    bpe_tokenizer,
    join,
    safetensors,
    tokenizer_size,
    write_folder,
    write_json,
)
from tests.converter.gguf_files import GgufFile, number_key, string_key, tensor, text, u32, u64

Build = Callable[[Path], Path]
CASES: dict[str, tuple[str, Build]] = {}


def case(code: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        CASES[build.__name__] = (code, build)
        return build

    return add


def good(folder: Path, **changes: Any) -> Path:
    """A whole, tiny Qwen3 folder."""
    folder = folder / "model"
    tokenizer = bpe_tokenizer()
    write_folder(folder, "qwen3", vocab_size=tokenizer_size(tokenizer), num_hidden_layers=1, **changes)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "chat_template": "{{ messages }}"})
    return folder


def with_config(folder: Path, **changes: Any) -> Path:
    path = good(folder) / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    write_json(path, {key: value for key, value in config.items() if value != "<gone>"})
    return path.parent


def with_weights(folder: Path, change: Callable[[dict[str, Any], bytes], bytes]) -> Path:
    """The good folder with its weight file rewritten from (header, data)."""
    path = good(folder) / "model.safetensors"
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    path.write_bytes(change(json.loads(raw[8 : 8 + length]), raw[8 + length :]))
    return path.parent


def with_entry(folder: Path, **changes: Any) -> Path:
    """One tensor's header entry changed."""

    def change(header: dict[str, Any], data: bytes) -> bytes:
        header["model.norm.weight"].update(changes)
        return join(header, data)

    return with_weights(folder, change)


def with_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = good(folder) / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    change(tokenizer)
    write_json(path, tokenizer)
    return path.parent


def gguf(folder: Path, file: GgufFile | bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.build())
    return path


# --- folders ---------------------------------------------------------------------------------------------------------


@case("not_found")
def no_such_path(folder: Path) -> Path:
    return folder / "not there"


@case("not_found")
def name_with_a_nul(folder: Path) -> Path:
    return folder / "a\0b"


@case("unreadable")
def name_too_long(folder: Path) -> Path:
    return folder / ("x" * 400)


@case("no_model")
def empty_folder(folder: Path) -> Path:
    return folder


@case("no_model")
def folder_of_something_else(folder: Path) -> Path:
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    return folder


@case("adapter")
def folder_of_an_adapter(folder: Path) -> Path:
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    return folder


@case("not_a_model")
def some_other_file(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("hello")
    return path


@case("not_a_file")
def a_pipe(folder: Path) -> Path:
    path = folder / "model.gguf"
    if sys.platform == "win32":
        path.mkdir()
        return path / "x.gguf"
    os.mkfifo(path)
    return path


@case("bad_config")
def config_not_json(folder: Path) -> Path:
    path = good(folder)
    (path / "config.json").write_text("{'model_type': 'llama'}")
    return path


@case("bad_config")
def config_a_list(folder: Path) -> Path:
    path = good(folder)
    (path / "config.json").write_text("[]")
    return path


@case("bad_config")
def config_not_text(folder: Path) -> Path:
    path = good(folder)
    (path / "config.json").write_bytes(b'{"a": "\xff\xfe"}')
    return path


@case("bad_config")
def config_nested_too_deeply(folder: Path) -> Path:
    path = good(folder)
    (path / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    return path


@case("bad_config")
def config_with_an_endless_number(folder: Path) -> Path:
    path = good(folder)
    (path / "config.json").write_text('{"hidden_size": ' + "9" * 20_000 + "}")
    return path


@case("too_large")
def config_too_large(folder: Path) -> Path:
    path = good(folder)
    (path / "config.json").write_text("{" + " " * (5 << 20) + "}")
    return path


@case("bad_config")
def config_without_architecture(folder: Path) -> Path:
    return with_config(folder, architectures="<gone>", model_type="<gone>")


@case("bad_config")
def config_with_odd_architectures(folder: Path) -> Path:
    return with_config(folder, architectures=[["x"]])


@case("unknown_architecture")
def config_of_an_unknown_architecture(folder: Path) -> Path:
    return with_config(folder, architectures=["MambaForCausalLM"])


@case("bad_config")
def config_without_a_size(folder: Path) -> Path:
    return with_config(folder, hidden_size="<gone>")


@case("bad_config")
def config_with_a_negative_size(folder: Path) -> Path:
    return with_config(folder, num_hidden_layers=-1)


@case("bad_config")
def config_with_a_billion_layers(folder: Path) -> Path:
    return with_config(folder, num_hidden_layers=1_000_000_000)


@case("bad_config")
def config_with_a_fractional_size(folder: Path) -> Path:
    return with_config(folder, hidden_size=64.5)


@case("bad_config")
def config_with_true_as_a_size(folder: Path) -> Path:
    return with_config(folder, vocab_size=True)


@case("bad_config")
def config_with_heads_that_do_not_divide(folder: Path) -> Path:
    return with_config(folder, num_key_value_heads=3)


@case("bad_config")
def config_with_an_infinite_epsilon(folder: Path) -> Path:
    return with_config(folder, rms_norm_eps=float("inf"))


@case("bad_config")
def config_with_yarn_without_factor(folder: Path) -> Path:
    return with_config(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 1e6})


@case("unsupported_rope")
def config_with_an_unknown_rope(folder: Path) -> Path:
    return with_config(folder, rope_parameters={"rope_type": "spiral", "rope_theta": 1e6})


@case("unsupported_quantization")
def config_of_a_quantized_checkpoint(folder: Path) -> Path:
    return with_config(folder, quantization_config={"quant_method": "exl2", "bits": 4})


@case("bad_shape")
def config_that_does_not_fit_the_weights(folder: Path) -> Path:
    return with_config(folder, intermediate_size=161)


# --- safetensors -----------------------------------------------------------------------------------------------------


@case("missing_weights")
def no_weights(folder: Path) -> Path:
    path = good(folder)
    (path / "model.safetensors").unlink()
    return path


@case("bad_checkpoint")
def safetensors_called_a_checkpoint(folder: Path) -> Path:
    path = good(folder)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    return path


@case("truncated")
def weights_empty(folder: Path) -> Path:
    path = good(folder)
    (path / "model.safetensors").write_bytes(b"")
    return path


@case("truncated")
def weights_cut_in_the_data(folder: Path) -> Path:
    path = good(folder)
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1000)
    return path


@case("truncated")
def weights_cut_in_the_header(folder: Path) -> Path:
    path = good(folder)
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    return path


@case("bad_header")
def header_of_an_exabyte(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join(header, data, length=1 << 60))


@case("bad_header")
def header_of_length_zero(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join(header, data, length=0))


@case("bad_header")
def header_not_json(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join(b'{"a": nonsense}', data))


@case("bad_header")
def header_a_list(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join(b"[1, 2]", data))


@case("bad_header")
def header_nested_too_deeply(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, data))


@case("bad_header")
def header_with_a_name_twice(folder: Path) -> Path:
    def change(header: dict[str, Any], data: bytes) -> bytes:
        raw = json.dumps(header)
        norm = json.dumps({"model.norm.weight": header["model.norm.weight"]})[1:-1]
        return join((raw[:-1] + ", " + norm + "}").encode(), data)

    return with_weights(folder, change)


@case("bad_header")
def header_with_odd_metadata(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join({**header, "__metadata__": {"a": [1]}}, data))


@case("bad_header")
def tensor_without_offsets(folder: Path) -> Path:
    return with_weights(
        folder, lambda h, data: join({**h, "model.norm.weight": {"dtype": "BF16", "shape": [64]}}, data)
    )


@case("bad_header")
def tensor_of_an_unknown_dtype(folder: Path) -> Path:
    return with_entry(folder, dtype="BF17")


@case("bad_header")
def tensor_of_a_negative_shape(folder: Path) -> Path:
    return with_entry(folder, shape=[-64])


@case("bad_header")
def tensor_whose_product_overflows(folder: Path) -> Path:
    return with_entry(folder, shape=[1 << 32, 1 << 32, 64])


@case("bad_header")
def tensor_of_fractional_offsets(folder: Path) -> Path:
    return with_entry(folder, data_offsets=[0.0, 128.0])


@case("bad_header")
def tensor_with_offsets_the_wrong_way_round(folder: Path) -> Path:
    return with_entry(folder, data_offsets=[128, 0])


@case("bad_header")
def tensor_with_the_wrong_number_of_bytes(folder: Path) -> Path:
    return with_entry(folder, shape=[63])


@case("bad_header")
def tensors_that_overlap(folder: Path) -> Path:
    return with_entry(folder, data_offsets=[0, 128])


@case("truncated")
def tensor_behind_the_end(folder: Path) -> Path:
    return with_entry(folder, data_offsets=[1 << 40, (1 << 40) + 128])


@case("bad_header")
def data_with_a_hole(folder: Path) -> Path:
    def change(header: dict[str, Any], data: bytes) -> bytes:
        entry = header["model.norm.weight"]
        entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]
        return join(header, data + bytes(64))

    return with_weights(folder, change)


@case("bad_header")
def data_that_belongs_to_no_tensor(folder: Path) -> Path:
    return with_weights(folder, lambda header, data: join(header, data + b"hidden payload"))


@case("bad_header")
def tensor_named_by_half_a_surrogate(folder: Path) -> Path:
    def change(header: dict[str, Any], data: bytes) -> bytes:
        return join(json.dumps(header).replace("model.norm.weight", "\\ud800").encode(), data)

    return with_weights(folder, change)


@case("missing_tensor")
def a_layer_missing(folder: Path) -> Path:
    return with_config(folder, num_hidden_layers=2)


@case("unknown_tensor")
def a_tensor_too_many(folder: Path) -> Path:
    def change(header: dict[str, Any], data: bytes) -> bytes:
        entry = {"dtype": "U8", "shape": [4], "data_offsets": [len(data), len(data) + 4]}
        return join({**header, "model.backdoor.weight": entry}, data + b"1234")

    return with_weights(folder, change)


@case("unsupported_dtype")
def weights_of_whole_numbers(folder: Path) -> Path:
    path = good(folder)
    config = json.loads((path / "config.json").read_text())
    from tests.converter.folders import weights

    tensors = weights("qwen3", config)
    header, data = safetensors(tensors, dtypes={"model.norm.weight": "I32"})
    (path / "model.safetensors").write_bytes(join(header, data))
    return path


# --- shards ----------------------------------------------------------------------------------------------------------


def sharded(folder: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
    path = good(folder, shards=3, dtype="F32")
    (path / "model.safetensors").unlink(missing_ok=True)
    index = path / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    change(value, path)
    write_json(index, value)
    return path


@case("missing_shard")
def a_shard_missing(folder: Path) -> Path:
    return sharded(folder, lambda index, path: (path / "model-00002-of-00003.safetensors").unlink())


@case("missing_shard")
def a_shard_missing_and_no_index(folder: Path) -> Path:
    path = sharded(folder, lambda index, path: (path / "model-00003-of-00003.safetensors").unlink())
    (path / "model.safetensors.index.json").unlink()
    return path


@case("missing_tensor")
def an_index_that_promises_too_much(folder: Path) -> Path:
    return sharded(
        folder, lambda index, _: index["weight_map"].update({"lm_head.weight": "model-00001-of-00003.safetensors"})
    )


@case("bad_index")
def an_index_that_is_silent_about_a_tensor(folder: Path) -> Path:
    return sharded(folder, lambda index, _: index["weight_map"].pop("model.norm.weight") and None)


@case("bad_index")
def an_index_that_leads_out_of_the_folder(folder: Path) -> Path:
    return sharded(
        folder, lambda index, _: index["weight_map"].update({"model.norm.weight": "../../etc/secret.safetensors"})
    )


@case("bad_index")
def an_index_with_an_absolute_path(folder: Path) -> Path:
    return sharded(folder, lambda index, _: index["weight_map"].update({"model.norm.weight": "/tmp/x.safetensors"}))


@case("bad_index")
def an_index_without_a_map(folder: Path) -> Path:
    return sharded(folder, lambda index, _: index.pop("weight_map") and None)


@case("bad_index")
def an_index_of_numbers(folder: Path) -> Path:
    return sharded(folder, lambda index, _: index.update(weight_map={"a": 1}))


@case("bad_index")
def a_tensor_in_two_shards(folder: Path) -> Path:
    def change(index: dict[str, Any], path: Path) -> None:
        extra = {"model.norm.weight": np.zeros(64, np.float32)}
        (path / "model-00004-of-00003.safetensors").write_bytes(join(*safetensors(extra)))
        index["weight_map"]["x"] = "model-00004-of-00003.safetensors"

    return sharded(folder, change)


# --- vocabulary ------------------------------------------------------------------------------------------------------


@case("missing_tokenizer")
def no_tokenizer(folder: Path) -> Path:
    path = good(folder)
    (path / "tokenizer.json").unlink()
    return path


@case("bad_vocabulary")
def tokenizer_not_json(folder: Path) -> Path:
    path = good(folder)
    (path / "tokenizer.json").write_text('{"model": ')
    return path


@case("bad_vocabulary")
def tokenizer_nested_too_deeply(folder: Path) -> Path:
    path = good(folder)
    (path / "tokenizer.json").write_text('{"pre_tokenizer":' * 50_000 + "1" + "}" * 50_000)
    return path


@case("bad_vocabulary")
def tokenizer_without_a_vocabulary(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"].pop("vocab"))


@case("bad_vocabulary")
def tokenizer_with_text_for_numbers(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"]["vocab"].update(a="seven"))


@case("bad_vocabulary")
def tokenizer_with_a_negative_number(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"]["vocab"].update(xyz=-5))


@case("bad_vocabulary")
def tokenizer_with_a_number_of_four_billion(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"]["vocab"].update(xyz=4_000_000_000))


@case("bad_vocabulary")
def tokenizer_with_a_merge_of_nothing(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"]["merges"].append(["q", "z"]))


@case("bad_vocabulary")
def tokenizer_with_a_merge_of_three(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"]["merges"].append("a b c"))


@case("unknown_tokenizer")
def tokenizer_of_another_kind(folder: Path) -> Path:
    return with_tokenizer(folder, lambda t: t.update(model={"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"}))


@case("vocabulary_size")
def tokenizer_larger_than_the_model(folder: Path) -> Path:
    return with_tokenizer(folder, lambda tokenizer: tokenizer["model"]["vocab"].update(xyz=100_000))


@case("unknown_pre_tokenizer")
def tokenizer_that_splits_strangely(folder: Path) -> Path:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[aeiou]+|[^aeiou]+"

    return with_tokenizer(folder, change)


@case("bad_vocabulary")
def tokenizer_with_a_broken_regex(folder: Path) -> Path:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(((("

    return with_tokenizer(folder, change)


@case("bad_vocabulary")
def template_with_half_a_surrogate(folder: Path) -> Path:
    path = good(folder)
    (path / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}')
    return path


@case("bad_vocabulary")
def declared_token_with_an_odd_number(folder: Path) -> Path:
    path = good(folder)
    write_json(path / "tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "x"}}})
    return path


def with_sentencepiece(folder: Path, data: bytes) -> Path:
    path = good(folder)
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.model").write_bytes(data)
    return path


@case("bad_vocabulary")
def sentencepiece_empty(folder: Path) -> Path:
    return with_sentencepiece(folder, b"")


@case("bad_vocabulary")
def sentencepiece_cut_short(folder: Path) -> Path:
    return with_sentencepiece(folder, b"\x0a\x7f\x0a\x05hello")


@case("bad_vocabulary")
def sentencepiece_with_an_endless_number(folder: Path) -> Path:
    return with_sentencepiece(folder, b"\x0a" + b"\xff" * 20)


@case("bad_vocabulary")
def sentencepiece_with_an_unknown_type(folder: Path) -> Path:
    return with_sentencepiece(folder, b"\x0a\x05\x0a\x01a\x18\x63")


@case("bad_vocabulary")
def sentencepiece_that_is_no_text(folder: Path) -> Path:
    return with_sentencepiece(folder, b"\x0a\x04\x0a\x02\xff\xfe")


# --- GGUF ------------------------------------------------------------------------------------------------------------


@case("truncated")
def gguf_empty(folder: Path) -> Path:
    return gguf(folder, b"")


@case("not_gguf")
def gguf_of_another_format(folder: Path) -> Path:
    return gguf(folder, GgufFile(magic=b"ggml"))


@case("unsupported_version")
def gguf_of_version_one(folder: Path) -> Path:
    return gguf(folder, GgufFile(version=1))


@case("unsupported_version")
def gguf_for_big_endian(folder: Path) -> Path:
    return gguf(folder, GgufFile(version=3 << 24))


@case("bad_header")
def gguf_with_too_many_keys(folder: Path) -> Path:
    return gguf(folder, GgufFile(n_keys=1 << 62))


@case("bad_header")
def gguf_with_too_many_tensors(folder: Path) -> Path:
    return gguf(folder, GgufFile(n_tensors=1 << 40))


@case("bad_header")
def gguf_with_a_key_twice(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[string_key("general.architecture", "llama")] * 2))


@case("bad_header")
def gguf_with_an_endless_key(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a", length=1 << 63) + u32(4) + u32(1)]))


@case("bad_header")
def gguf_with_an_endless_string(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a") + u32(8) + text("b", length=(1 << 64) - 1)]))


@case("bad_header")
def gguf_with_a_value_of_an_unknown_type(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a") + u32(77) + u64(0)]))


@case("bad_header")
def gguf_with_an_array_of_arrays(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a") + u32(9) + u32(9) + u64(1) + u32(4) + u64(0)]))


@case("bad_header")
def gguf_with_an_endless_array(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a") + u32(9) + u32(10) + u64(1 << 61)]))


@case("bad_header")
def gguf_with_an_endless_array_of_strings(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a") + u32(9) + u32(8) + u64(1 << 61)]))


@case("bad_header")
def gguf_with_an_odd_truth_value(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[text("a") + u32(7) + b"\x02"]))


@case("truncated")
def gguf_cut_in_the_header(folder: Path) -> Path:
    return gguf(folder, GgufFile().build()[:60])


@case("truncated")
def gguf_cut_in_the_data(folder: Path) -> Path:
    return gguf(folder, GgufFile().build()[:-1])


@case("bad_header")
def gguf_without_an_architecture(folder: Path) -> Path:
    return gguf(folder, GgufFile(keys=[number_key("llama.block_count", 1)]))


def with_alignment(folder: Path, value: int) -> Path:
    keys = [string_key("general.architecture", "llama"), number_key("general.alignment", value)]
    return gguf(folder, GgufFile(keys=keys))


@case("bad_header")
def gguf_aligned_to_nothing(folder: Path) -> Path:
    return with_alignment(folder, 0)


@case("bad_header")
def gguf_aligned_to_three(folder: Path) -> Path:
    return with_alignment(folder, 24)


@case("bad_header")
def gguf_aligned_to_two_gigabytes(folder: Path) -> Path:
    return with_alignment(folder, 1 << 31)


def with_tensor(folder: Path, *entries: bytes) -> Path:
    return gguf(folder, GgufFile(tensors=list(entries)))


@case("bad_header")
def gguf_tensor_of_five_dimensions(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (1, 1, 1, 1, 1), 0, 0))


@case("bad_header")
def gguf_tensor_of_four_billion_dimensions(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (1,), 0, 0, n_dims=0xFFFFFFFF))


@case("bad_header")
def gguf_tensor_without_elements(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (32, 0), 0, 0))


@case("bad_header")
def gguf_tensor_whose_product_overflows(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (1 << 33, 1 << 33), 0, 0))


@case("unsupported_type")
def gguf_tensor_of_an_unknown_type(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (32, 4), 99, 0))


@case("bad_header")
def gguf_tensor_of_broken_blocks(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (40, 4), 12, 0))


@case("bad_header")
def gguf_tensor_off_its_alignment(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (4,), 0, 7))


@case("bad_header")
def gguf_tensor_not_where_it_should_be(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (8,), 0, 0), tensor("b", (8,), 0, 128))


@case("bad_header")
def gguf_tensors_that_overlap(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (8,), 0, 0), tensor("b", (8,), 0, 0))


@case("truncated")
def gguf_tensor_behind_the_end(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (1 << 40,), 0, 0))


@case("bad_header")
def gguf_with_a_tensor_twice(folder: Path) -> Path:
    return with_tensor(folder, tensor("a", (8,), 0, 0), tensor("a", (8,), 0, 32))


@case("bad_header")
def gguf_tensor_of_a_long_name(folder: Path) -> Path:
    return with_tensor(folder, tensor("a" * 64, (8,), 0, 0))


@case("bad_header")
def gguf_tensor_whose_name_is_no_text(folder: Path) -> Path:
    return with_tensor(folder, tensor(b"\xff\xff", (8,), 0, 0))


def open_files() -> int:
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.is_dir() else 0


def warm_up() -> None:
    """Imports that the first case would otherwise pay for."""
    import tokenizers

    import converter.sources.folder
    import converter.sources.gguf

    assert tokenizers and converter.sources.folder and converter.sources.gguf


@pytest.mark.parametrize("name", CASES)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    code, build = CASES[name]
    path = build(tmp_path)
    warm_up()
    before, start = open_files(), time.thread_time()
    with pytest.raises(QuenchError) as caught, open_model(path) as model:
        model.metadata  # noqa: B018
    seconds = time.thread_time() - start
    error = caught.value
    assert error.code == code, (error.title, error.detail)
    assert error.title.endswith(".") and error.detail and error.hint.endswith(".")
    assert error.exit_status == 3
    assert seconds < 1.0
    assert open_files() == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


def test_the_undamaged_forms_pass(tmp_path: Path) -> None:
    """The helpers make good files when nothing is changed: the cases above fail for the reason they name."""
    folder = good(tmp_path)
    with open_model(folder) as model:
        assert model.info.problems == ()
        assert {entry.key for entry in model.metadata} >= {"tokenizer.ggml.tokens", "qwen3.block_count"}
    with open_model(gguf(tmp_path, GgufFile())) as model:
        assert model.tensors[0].rows(0, 4).shape == (4, 32)
    with open_model(sharded(tmp_path / "parts", lambda index, path: None)) as model:
        assert model.info.problems == ()


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """The weights are mapped, and touching what is gone would end the process (SIGBUS): it is looked at before."""
    folder = good(tmp_path)
    with open_model(folder) as model:
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(file.seek(0, 2) // 2)
        last = model.tensors[-1]
        with pytest.raises(QuenchError) as caught:
            last.rows(0, last.n_rows)
    assert caught.value.code == "truncated"


def test_reading_after_close_is_an_error(tmp_path: Path) -> None:
    with open_model(good(tmp_path)) as model:
        pass
    with pytest.raises(QuenchError) as caught:
        model.tensors[0].rows(0, 1)
    assert caught.value.code == "closed"


def test_unknown_architecture_lists_what_is_supported(tmp_path: Path) -> None:
    with pytest.raises(QuenchError) as caught:
        open_model(with_config(tmp_path, architectures=["MambaForCausalLM"]))
    assert "MambaForCausalLM" in caught.value.detail
    assert all(title in caught.value.detail for title in ("Llama", "Mistral", "Qwen2", "Qwen3"))


def test_code_of_the_model_is_never_run(tmp_path: Path) -> None:
    """A folder that brings Python code is opened without importing it."""
    folder = with_config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    flag = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(flag)!r}, 'w')")
    with open_model(folder) as model:
        assert model.metadata
        assert any("never run" in note for note in model.info.notes)
    assert not flag.exists()
