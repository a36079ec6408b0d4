"""Safetensors folders: every type, every slab, shards, odd names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from converter import open_model
from converter.sources import SourceModel, SourceTensor
from tests.converter.folders import bpe_tokenizer, join, safetensors, tokenizer_size, weights, write_folder, write_json

VOCABULARY = tokenizer_size(bpe_tokenizer())


def tensor(model: SourceModel, name: str) -> SourceTensor:
    return next(t for t in model.tensors if t.name == name)


def make(folder: Path, kind: str = "qwen3", **changes: object) -> dict[str, np.ndarray]:
    _, tensors = write_folder(folder, kind, vocab_size=VOCABULARY, **changes)
    write_json(folder / "tokenizer.json", bpe_tokenizer())
    return tensors


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_every_type_widens_exactly(dtype: str, tmp_path: Path) -> None:
    values = make(tmp_path, dtype=dtype)["model.layers.0.mlp.up_proj.weight"]
    if dtype == "BF16":
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        # The gguf package widens bfloat16 independently.
        expected = gguf.quants.dequantize(bits.view(np.uint8), gguf.GGMLQuantizationType.BF16)
    else:
        expected = values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float32)
    with open_model(tmp_path) as model:
        found = tensor(model, "blk.0.ffn_up.weight")
        assert found.type == ("F32" if dtype == "F64" else dtype)
        whole = found.rows(0, found.n_rows)
        assert whole.dtype == np.float32 and whole.flags["C_CONTIGUOUS"] and whole.flags["WRITEABLE"]
        np.testing.assert_array_equal(whole, expected)
        raw = found.raw(0, found.n_rows)
        assert raw.shape == (found.n_rows, found.row_bytes) and raw.nbytes == found.n_bytes
        view = {"BF16": "<u2", "F16": "<f2"}.get(found.type, "<f4")
        again = raw.view(view)
        if found.type == "BF16":
            again = (again.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(again.astype(np.float32), expected)


def test_extreme_values_survive(tmp_path: Path) -> None:
    """Infinities, NaN, the smallest subnormal and the largest number of each type come through as they are."""
    tensors = make(tmp_path, dtype="F16")
    half = np.array([np.inf, -np.inf, np.nan, 6e-8, 65504.0, -0.0, 1.0, -1.0] * 8, np.float16)
    tensors["model.norm.weight"] = half.astype(np.float32)
    (tmp_path / "model.safetensors").write_bytes(join(*safetensors(tensors, "F16")))
    with open_model(tmp_path) as model:
        row = tensor(model, "output_norm.weight").rows(0, 1)[0]
    np.testing.assert_array_equal(row.view(np.uint32), half.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_slabs_join_to_the_whole(kind: str, tmp_path: Path) -> None:
    """Whatever the slab's size, also across the boundaries of permuted heads."""
    make(tmp_path, kind)
    with open_model(tmp_path) as model:
        for found in model.tensors:
            whole, raw = found.rows(0, found.n_rows), found.raw(0, found.n_rows)
            for step in (1, 3, 17, 64):
                bounds = [(i, min(i + step, found.n_rows)) for i in range(0, found.n_rows, step)]
                np.testing.assert_array_equal(np.concatenate([found.rows(a, b) for a, b in bounds]), whole)
                np.testing.assert_array_equal(np.concatenate([found.raw(a, b) for a, b in bounds]), raw)
            assert found.rows(1, 1).shape == (0, found.n_cols)


def test_rows_outside_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with open_model(tmp_path) as model:
        for start, stop in ((-1, 1), (2, 1), (0, VOCABULARY + 1)):
            with pytest.raises(IndexError):
                tensor(model, "token_embd.weight").rows(start, stop)


def test_shards_equal_one_file(tmp_path: Path) -> None:
    make(tmp_path / "one", "mistral")
    make(tmp_path / "many", "mistral", shards=4)
    with open_model(tmp_path / "one") as one, open_model(tmp_path / "many") as many:
        assert one.info.parameters == many.info.parameters
        assert {t.name for t in one.tensors} == {t.name for t in many.tensors}
        assert len({t.source_file for t in many.tensors}) == 4
        for found in one.tensors:
            np.testing.assert_array_equal(found.raw(0, found.n_rows), tensor(many, found.name).raw(0, found.n_rows))


def test_shards_without_an_index_are_found(tmp_path: Path) -> None:
    make(tmp_path, shards=3)
    (tmp_path / "model.safetensors.index.json").unlink()
    with open_model(tmp_path) as model:
        assert model.info.layers == 2


def test_names_with_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = tmp_path / "Mein kleines Modell – größer 小模型 (v2)"
    make(folder)
    for path in (folder, folder / "model.safetensors", folder / "config.json"):
        with open_model(path) as model:
            assert model.info.name == folder.name
            assert model.info.kind == "hf"
            assert model.metadata


def test_a_snapshot_in_the_cache_is_called_by_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--acme--Tiny-Qwen3-0.6B-Instruct" / "snapshots" / ("0123456789abcdef" * 2)
    make(folder)
    with open_model(folder) as model:
        values = {entry.key: entry.value for entry in model.metadata}
        assert model.info.name == "Tiny-Qwen3-0.6B-Instruct"
    assert values["general.organization"] == "Acme"
    assert values["general.name"] == "Tiny Qwen3 0.6B Instruct"
    assert values["general.finetune"] == "0.6b-Instruct", "the name's size is not this model's"


def test_the_info_of_pocket(pocket: Path) -> None:
    with open_model(pocket) as model:
        info = model.info
    assert (info.kind, info.architecture, info.name) == ("hf", "llama", "pocket")
    assert info.parameters == 5_246_208 == sum(int(np.prod(t.shape)) for t in info.tensors)
    assert (info.layers, info.heads, info.kv_heads, info.key_length, info.value_length) == (6, 4, 2, 64, 64)
    assert (info.context_length, info.embedding_length, info.vocabulary) == (1024, 256, 2048)
    assert info.types == {"BF16": 56} and sum(t.bytes for t in info.tensors) == 2 * info.parameters
    assert info.bytes == (pocket / "model.safetensors").stat().st_size
    assert info.tied_embeddings and info.problems == () and "im_start" in str(info.chat_template)
    assert "tokenizer.ggml.tokens" not in info.metadata


def test_memory_stays_with_the_slab(tmp_path: Path) -> None:
    """Reading a tensor row by row must not bring the whole of it into the process."""
    config, _ = write_folder(tmp_path, "qwen3", vocab_size=VOCABULARY)
    big = dict(config, vocab_size=200_000)
    write_json(tmp_path / "config.json", big)
    tensors = weights("qwen3", config) | {"model.embed_tokens.weight": np.ones((200_000, 64), np.float32)}
    (tmp_path / "model.safetensors").write_bytes(join(*safetensors(tensors, "F32")))
    code = (
        "import sys, resource\n"
        "from converter import open_model\n"
        "m = open_model(sys.argv[1]); t = m.tensors[0]; t.rows(0, 100)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "total = sum(float(t.rows(i, i + 1000).sum()) for i in range(0, t.n_rows, 1000))\n"
        "assert total == 200_000 * 64, total\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 1024, "KiB more than before, for a tensor of 50,000"


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, converter, converter.spec; print([m for m in ('numpy', 'gguf', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
