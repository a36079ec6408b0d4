"""Whole folders against what llama.cpp's own converter made of them (tests/golden/make_converter_facts.py)."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import open_model
from tests.converter.golden_folders import FOLDERS
from tests.golden.make_converter_facts import LONG, digest

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "golden" / "converter_facts.json").read_text(encoding="utf-8")
)
# The recorded converter cannot name the pre-tokenizers of vocabularies that it has not met.
PRE_TOKENIZERS = {
    "Tiny-Llama-3.2-1B-Instruct": "llama-bpe",
    "llama-spm-7b": "default",
    "mistral 7B v0.3": "default",
    "Qwen2.5-0.5B-Instruct": "qwen2",
    "Qwen3-4B-128k": "qwen2",
    "qwen3-spm": "default",
    "org--smol-360M-chat-v1.2": "gpt-2",
    "pocket": "qwen2",
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_folder_becomes_what_llama_cpp_makes_of_it(name: str, tmp_path: Path, pocket: Path) -> None:
    folder = pocket if name == "pocket" else tmp_path / name
    if name != "pocket":
        folder.mkdir()
        FOLDERS[name](folder)
    keys, tensors = RECORDED[name]["keys"], RECORDED[name]["tensors"]
    with open_model(folder) as model:
        found = {entry.key: entry for entry in model.metadata}
        assert set(found) == set(keys)
        for key, (types, value) in keys.items():
            entry = found[key]
            assert [entry.type, *([entry.item_type] if entry.item_type else [])] == types, key
            if key == "tokenizer.ggml.pre":
                assert value in ("?", entry.value) and entry.value == PRE_TOKENIZERS[name]
            else:
                assert comparable(entry.value, "FLOAT32" in types) == value, key
        assert [t.name for t in model.tensors] == [t[0] for t in tensors], "same tensors, same order"
        for tensor, (_, shape, expected) in zip(model.tensors, tensors, strict=True):
            values = tensor.rows(0, tensor.n_rows)
            assert list(tensor.shape) == shape
            if isinstance(expected, list):
                np.testing.assert_allclose(values[0], expected, rtol=1e-6)
            else:
                assert sha256(values.tobytes()).hexdigest() == expected, tensor.name


def comparable(value: Any, single: bool) -> Any:
    """A value as the recording holds it: numbers rounded to float32, long lists as sums."""
    if isinstance(value, list):
        values = [float(np.float32(v)) for v in value] if single else value
        return {"length": len(values), "sha256": digest(values)} if len(values) > LONG else values
    return float(np.float32(value)) if single else value


def test_every_folder_is_recorded() -> None:
    assert set(RECORDED) == {*FOLDERS, "pocket"} == set(PRE_TOKENIZERS)
