"""GGUF files as sources: against gguf-py's writer, reader, constants and dequantizers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import kernels
from converter import QuenchError, open_model
from converter.sources.base import MetaEntry
from converter.sources.types import BY_ID, BY_NAME
from tests.converter.gguf_files import GgufFile, string_key, tensor, text, u32, u64


def test_the_table_of_types_equals_the_package() -> None:
    for kind in gguf.GGMLQuantizationType:
        block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        assert BY_ID[int(kind)] == (kind.name, int(kind), block, n_bytes)
        assert BY_NAME[kind.name] is BY_ID[int(kind)]


VALUES: dict[str, tuple[str, Any, str | None]] = {
    "x.u8": ("UINT8", 255, None),
    "x.i8": ("INT8", -128, None),
    "x.u16": ("UINT16", 65535, None),
    "x.i16": ("INT16", -32768, None),
    "x.u32": ("UINT32", 4294967295, None),
    "x.i32": ("INT32", -2147483648, None),
    "x.u64": ("UINT64", (1 << 64) - 1, None),
    "x.i64": ("INT64", -(1 << 63), None),
    "x.f32": ("FLOAT32", 0.5, None),
    "x.f64": ("FLOAT64", 0.1, None),
    "x.bool": ("BOOL", True, None),
    "x.text": ("STRING", "grüße 世界\n", None),
    "x.empty": ("STRING", "", None),
    "x.words": ("ARRAY", ["", "a", "ß", "日本"], "STRING"),
    "x.numbers": ("ARRAY", [3, -4, 5], "INT32"),
    "x.reals": ("ARRAY", [0.5, -0.25], "FLOAT32"),
    "x.truths": ("ARRAY", [True, False, True], "BOOL"),
    "x.bytes": ("ARRAY", [0, 127, 255], "UINT8"),
}


def write(path: Path, tensors: dict[str, np.ndarray], values: dict[str, tuple[str, Any, str | None]]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value, item) in values.items():
        writer.add_key_value(key, value, gguf.GGUFValueType[kind], gguf.GGUFValueType[item] if item else None)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_of_every_type_is_carried_over(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {"a": np.zeros((2, 32), np.float32)}, VALUES)
    with open_model(path) as model:
        found = {entry.key: entry for entry in model.metadata}
        preview = model.info.metadata
    for key, (kind, value, item) in VALUES.items():
        assert found[key] == MetaEntry(key, value, kind, item), key
        assert preview[key] == value
    assert found["general.architecture"].value == "llama"


def test_keys_of_the_output_are_not_carried_over(tmp_path: Path) -> None:
    values: dict[str, tuple[str, Any, str | None]] = {
        "general.file_type": ("UINT32", 1, None),
        "general.quantization_version": ("UINT32", 2, None),
        "general.alignment": ("UINT32", 64, None),
        "split.count": ("UINT16", 1, None),
        "general.name": ("STRING", "x", None),
    }
    path = write(tmp_path / "m.gguf", {}, values)
    with open_model(path) as model:
        assert [entry.key for entry in model.metadata] == ["general.architecture", "general.name"]


def test_text_that_is_no_utf8_is_kept_as_bytes(tmp_path: Path) -> None:
    words = text("a.words") + u32(9) + u32(8) + u64(2) + text(b"\xff\xfe") + text("fine")
    keys = [string_key("general.architecture", "llama"), text("a.text") + u32(8) + text(b"\xc3"), words]
    path = tmp_path / "m.gguf"
    path.write_bytes(GgufFile(keys=keys).build())
    with open_model(path) as model:
        found = {entry.key: entry.value for entry in model.metadata}
    assert found["a.text"] == b"\xc3" and found["a.words"] == [b"\xff\xfe", "fine"]


def test_plain_tensors(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    arrays = {
        "token_embd.weight": generator.standard_normal((5, 64)).astype(np.float32),
        "blk.0.attn_q.weight": generator.standard_normal((7, 96)).astype(np.float16),
        "blk.0.ffn_exps.weight": generator.standard_normal((3, 4, 32)).astype(np.float32),
        "output_norm.weight": generator.standard_normal(64).astype(np.float32),
    }
    path = write(tmp_path / "m.gguf", arrays, {})
    with open_model(path) as model:
        assert [t.name for t in model.tensors] == list(arrays)
        for found in model.tensors:
            array = arrays[found.name]
            assert found.shape == array.shape and found.n_bytes == array.nbytes
            np.testing.assert_array_equal(found.rows(0, found.n_rows).reshape(array.shape), array.astype(np.float32))
            assert found.raw(0, found.n_rows).tobytes() == array.tobytes()
        assert model.info.types == {"F32": 3, "F16": 1}


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q5_0", "BF16"])
def test_quantized_tensors_read_as_the_package_reads_them(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(5).standard_normal((9, 512)).astype(np.float32)
    blocks = kernels.quantize(kind, values)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("a.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    with open_model(tmp_path / "m.gguf") as model:
        found = model.tensors[0]
        assert (found.type, found.shape, found.readable) == (kind, (9, 512), True)
        np.testing.assert_array_equal(found.raw(2, 7), blocks[2:7])
        np.testing.assert_allclose(found.rows(2, 7), expected[2:7], rtol=1e-6, atol=1e-7)


def test_every_decoder_of_the_kernels_reads_a_file(tmp_path: Path) -> None:
    values = np.random.default_rng(6)
    for kind in kernels.READABLE.keys() - kernels.TYPES.keys():
        entry = BY_NAME[kind]
        blocks = values.integers(0, 256, 5 * 3 * entry.bytes, np.uint8)
        file = GgufFile(tensors=[tensor("a.weight", (3 * entry.block, 5), entry.id, 0)], data=blocks.tobytes())
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(file.build())
        with open_model(path) as model:
            found = model.tensors[0]
            assert found.readable
            wanted = kernels.dequantize(kind, blocks.reshape(5, -1), 3 * entry.block)
            np.testing.assert_array_equal(found.rows(1, 4), wanted[1:4])


def test_types_without_a_decoder_can_only_be_copied(tmp_path: Path) -> None:
    kind = BY_NAME["Q8_1"]
    file = GgufFile(tensors=[tensor("a.weight", (32, 2), kind.id, 0)], data=bytes(range(80)))
    path = tmp_path / "m.gguf"
    path.write_bytes(file.build())
    with open_model(path) as model:
        found = model.tensors[0]
        assert not found.readable
        assert found.raw(0, 2).tobytes() == bytes(range(80))
        with pytest.raises(QuenchError) as caught:
            found.rows(0, 1)
    assert caught.value.code == "unsupported_type"


def test_a_converted_pocket_reads_as_its_folder(pocket: Path, pocket_gguf: Callable[[str], Path]) -> None:
    """The whole circle: what the reader of folders says, written, is what the reader of GGUF says."""
    path = pocket_gguf("BF16")
    with open_model(pocket) as folder, open_model(path) as file:
        assert {e.key: e for e in file.metadata} == {
            e.key: MetaEntry(e.key, rounded(e), e.type, e.item_type) for e in folder.metadata
        }
        others = {t.name: t for t in file.tensors}
        for found in folder.tensors:
            np.testing.assert_array_equal(
                found.rows(0, found.n_rows), others[found.name].rows(0, found.n_rows).reshape(found.n_rows, -1)
            )
        left, right = folder.info, file.info
    same = "architecture parameters layers context_length heads kv_heads key_length vocabulary tokenizer pre_tokenizer"
    for name in (*same.split(), "chat_template", "tied_embeddings", "problems"):
        assert getattr(left, name) == getattr(right, name), name
    # gguf-py reads the same.
    reader = gguf.GGUFReader(path)
    with open_model(path) as file:
        for entry in file.metadata:
            assert reader.fields[entry.key].contents() == entry.value


def rounded(entry: MetaEntry) -> Any:
    return float(np.float32(entry.value)) if entry.type == "FLOAT32" else entry.value


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Pocket-Q4_K_M.gguf", "Pocket"),
        ("Qwen3-0.6B-BF16.gguf", "Qwen3-0.6B"),
        ("model.Q8_0.gguf", "model"),
        ("Llama-3.2-1B-Instruct-f16.gguf", "Llama-3.2-1B-Instruct"),
        ("Big-IQ2_XXS-00001-of-00003.gguf", "Big"),
        ("größer 小.gguf", "größer 小"),
    ],
)
def test_the_base_name_has_no_type(file: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / file, {"a": np.zeros((1, 32), np.float32)}, {})
    with open_model(path) as model:
        assert model.info.name == name


def test_problems_are_told(tmp_path: Path) -> None:
    values: dict[str, tuple[str, Any, str | None]] = {
        "split.count": ("UINT16", 3, None),
        "split.no": ("UINT16", 1, None),
    }
    path = write(tmp_path / "m.gguf", {}, values)
    with open_model(path) as model:
        problems = " ".join(model.info.problems)
    assert "no weights" in problems and "part 2 of 3" in problems and "no vocabulary" in problems


def test_a_large_vocabulary_costs_little(tmp_path: Path) -> None:
    """150,000 tokens and as many merges: opening walks over them without building them."""
    words = [f"token number {i}" for i in range(150_000)]
    values: dict[str, tuple[str, Any, str | None]] = {
        "tokenizer.ggml.tokens": ("ARRAY", words, "STRING"),
        "tokenizer.ggml.merges": ("ARRAY", words, "STRING"),
        "tokenizer.ggml.scores": ("ARRAY", [0.5] * 150_000, "FLOAT32"),
    }
    path = write(tmp_path / "m.gguf", {"a": np.zeros((1, 32), np.float32)}, values)
    start = time.thread_time()
    model = open_model(path)
    seconds = time.thread_time() - start
    assert model.info.vocabulary == 150_000
    assert len(model.info.metadata["tokenizer.ggml.tokens"]) <= 8
    assert seconds < 1.0
    assert {e.key: e.value for e in model.metadata}["tokenizer.ggml.tokens"] == words
    model.close()
