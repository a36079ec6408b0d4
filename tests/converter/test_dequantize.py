"""Quantized checkpoints, against what the libraries that write them make of the same parts (tests/golden)."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from converter.sources import dequantize
from converter.sources.dequantize.mxfp4 import Mxfp4Tensor
from converter.sources.files import ByteFile
from converter.sources.gathered import file_tensor
from converter.sources.safetensors import read_header
from converter.sources.stored import StoredTensor
from converter.spec import QuenchError

GOLDEN = lzma.decompress((Path(__file__).parent.parent / "golden" / "quantized.safetensors.xz").read_bytes())
HEADER = json.loads(GOLDEN[8 : 8 + int.from_bytes(GOLDEN[:8], "little")])
SETTINGS: dict[str, dict[str, Any]] = json.loads(HEADER["__metadata__"]["settings"])

Read = Callable[[str], tuple[list[StoredTensor], dict[str, StoredTensor]]]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Parts of a case and what they should become, by name."""
    path = tmp_path_factory.mktemp("golden") / "quantized.safetensors"
    path.write_bytes(GOLDEN)
    file = ByteFile(path)
    every = read_header(file)

    def read(case: str) -> tuple[list[StoredTensor], dict[str, StoredTensor]]:
        mine = [replace(t, name=t.name.removeprefix(case + "/")) for t in every if t.name.startswith(case + "/")]
        expected = {t.name.removeprefix("expected/"): t for t in mine if t.name.startswith("expected/")}
        return [t for t in mine if not t.name.startswith("expected/")], expected

    yield read
    file.close()


def decoded(case: str, stored: list[StoredTensor], tmp_path: Path) -> dequantize.Decoded:
    key = "quantization" if case.startswith("mlx") else "quantization_config"
    return dequantize.recognise(tmp_path, {key: SETTINGS[case]}).decoded(stored)


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even, as uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("case", SETTINGS)
def test_what_the_library_makes_of_the_same_parts(case: str, golden: Read, tmp_path: Path) -> None:
    stored, expected = golden(case)
    result = decoded(case, stored, tmp_path)
    assert [t.name for t in result.tensors] == list(expected)
    for tensor in result.tensors:
        wanted = expected[tensor.name]
        assert tensor.shape == wanted.shape
        found = file_tensor(tensor, "out")
        numbers = found.rows(0, found.n_rows)
        assert numbers.dtype == np.float32
        bits = file_tensor(wanted, "out").raw(0, found.n_rows).view(np.uint16)
        assert np.array_equal(bf16(numbers), bits)


@pytest.mark.parametrize("case", SETTINGS)
def test_rows_do_not_depend_on_how_they_are_asked_for(case: str, golden: Read, tmp_path: Path) -> None:
    for tensor in decoded(case, golden(case)[0], tmp_path).tensors:
        found = file_tensor(tensor, "out")
        whole = found.rows(0, found.n_rows)
        for start, stop in ((0, 1), (3, 8), (found.n_rows - 7, found.n_rows), (5, 5), (7, 8)):
            assert np.array_equal(found.rows(start, stop), whole[start:stop])
            assert np.array_equal(found.raw(start, stop).view(np.float32), whole[start:stop])
        found.release(0, found.n_rows)
        assert np.array_equal(found.rows(0, found.n_rows), whole)
        assert sum(found.read_bytes(row, row + 1) for row in range(found.n_rows)) == tensor.n_bytes


def test_mxfp4_goes_into_gguf_without_loss(golden: Read, tmp_path: Path) -> None:
    """gguf-py decodes the repacked blocks to the numbers that transformers makes of the checkpoint's."""
    stored, expected = golden("mxfp4")
    (tensor,) = decoded("mxfp4", stored, tmp_path).tensors
    wanted = file_tensor(expected[tensor.name], "out")
    numbers = wanted.rows(0, wanted.n_rows).reshape(wanted.shape)
    for first, step in ((0, 1), (0, 2), (1, 2)):
        made = Mxfp4Tensor(tensor, "blk.0.ffn_gate_exps.weight", first, step)
        assert made.shape == (2, 12 // step, 96) and made.type == "MXFP4" and made.n_bytes == made.n_rows * 51
        raw = made.raw(0, made.n_rows)
        found = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.MXFP4).reshape(made.shape)
        assert np.array_equal(found, numbers[:, first::step])
        assert np.array_equal(made.rows(0, made.n_rows).reshape(made.shape), numbers[:, first::step])
        assert np.array_equal(made.raw(3, 5), raw[3:5])
        assert sum(made.read_bytes(row, row + 1) for row in range(made.n_rows)) == made.n_bytes
    with pytest.raises(QuenchError):
        Mxfp4Tensor(tensor, "out", 0, 5)
