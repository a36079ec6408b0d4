"""Rows of a finished file are read back and compared with the source before anybody else gets it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, quants

import kernels
from converter import ConversionSpec, QuenchError, convert
from converter.check import ROWS
from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import ConversionEvent, ConversionResult, TensorDone

from .llama_quantize import synthetic


def damage(part: Path, name: str) -> None:
    """Turns every fourth byte of a tensor of a file that is being written."""
    file = ByteFile(part)
    tensor = next(tensor for tensor in read_header(file).tensors if tensor.name == name)
    file.close()
    with part.open("r+b") as opened:
        opened.seek(tensor.offset)
        data = np.frombuffer(opened.read(tensor.n_bytes), np.uint8).copy()
        data[::4] ^= 0x55
        opened.seek(tensor.offset)
        opened.write(data.tobytes())


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_K_M", "Q2_K"])
@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight"])
def test_bytes_that_change_on_their_way_are_found(kind: str, name: str, pocket: Path, tmp_path: Path) -> None:
    """Between writing and renaming, as a bad disk would do it; no file is left under the output's name."""
    target = tmp_path / "p.gguf"
    done: list[str] = []

    def spoil(event: ConversionEvent) -> None:
        if isinstance(event, TensorDone):
            done.append(event.name)
            if len(done) == 56:
                damage(target.with_name("p.gguf.part"), name)

    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(pocket), str(target), (kind,)), spoil)
    assert caught.value.code == "output_differs"
    assert name in caught.value.detail and "row" in caught.value.detail
    assert not list(tmp_path.iterdir()) and "resuming" not in caught.value.hint


def test_what_was_looked_at_is_told(pocket: Path, tmp_path: Path) -> None:
    heard: list[ConversionEvent] = []
    result = convert(ConversionSpec(str(pocket), str(tmp_path / "o"), ("Q4_K_M", "IQ4_XS")), heard.append)
    assert [output.checked.rows for output in result.outputs if output.checked] == [ROWS, ROWS]
    assert isinstance(heard[-1], ConversionResult) and heard[-1] == result


def test_it_can_be_left_out(pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "p.gguf"

    def spoil(event: ConversionEvent) -> None:
        if isinstance(event, TensorDone) and event.name == "token_embd.weight":
            damage(target.with_name("p.gguf.part"), event.name)

    result = convert(ConversionSpec(str(pocket), str(target), ("Q8_0",), check=False), spoil)
    assert result.outputs[0].checked is None and target.exists()


def test_a_copy_of_quantized_rows_is_compared_as_it_is(pocket: Path, tmp_path: Path) -> None:
    first = tmp_path / "a.gguf"
    convert(ConversionSpec(str(pocket), str(first), ("Q4_K_M",)))
    result = convert(ConversionSpec(str(first), str(tmp_path / "b.gguf"), ("Q4_K_M",), allow_requantize=True))
    assert result.outputs[0].checked is not None and result.outputs[0].checked.rows == ROWS


# ---- how far off the numbers may be ----


def one_matrix(path: Path, rows: np.ndarray) -> Path:
    """A GGUF with one layer's ``ffn_up``, float16."""
    synthetic(path, "llama", [("blk.0.ffn_up.weight", rows.shape)], layers=1, heads=1, kv_heads=1)
    GGUFReader(path, "r+").tensors[0].data[:] = rows.astype(np.float16)
    return path


def written_importance(path: Path, weights: np.ndarray) -> str:
    name = b"blk.0.ffn_up.weight"
    head = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, weights.size)
    path.write_bytes(head + weights.astype("<f4").tobytes())
    return str(path)


IMPORTANCE = {
    "zero": np.zeros(512),
    "one column": np.eye(1, 512, 7)[0],
    "one large column": 1e-6 + np.eye(1, 512, 300)[0],
    "half a row": np.repeat([0.0, 1.0], 256),
    "many magnitudes": np.exp(np.random.default_rng(5).normal(0, 6, 512)),
    "vanishing": np.full(512, 1e-38),
}


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q4_0", "IQ4_XS", "Q8_0"])
@pytest.mark.parametrize("columns", IMPORTANCE)
def test_rows_are_not_held_against_what_importance_gives_up(kind: str, columns: str, tmp_path: Path) -> None:
    """These are llama.cpp's bytes, however far they are from the source where nothing counts."""
    rows = np.random.default_rng(4).standard_normal((48, 512))
    source = one_matrix(tmp_path / "s.gguf", rows)
    matrix = written_importance(tmp_path / "m.dat", IMPORTANCE[columns])
    target = tmp_path / "t.gguf"
    spec = ConversionSpec(str(source), str(target), ("Q4_K_M",), imatrix=matrix, tensor_types=(("ffn_up", kind),))
    result = convert(spec)
    assert result.outputs[0].checked is not None and result.outputs[0].checked.rows >= 32
    found = GGUFReader(target).tensors[0]
    numbers = quants.dequantize(found.data, found.tensor_type)
    if columns == "zero" and kind != "Q8_0":
        assert np.array_equal(numbers, np.zeros_like(numbers))


def test_rows_that_are_nearly_all_zero_may_be_off_by_more_than_their_length(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    rows = random.standard_normal((500, 256)) * (random.random((500, 256)) < 0.02) * 0.02
    rows = np.repeat(rows[394:395], 8, axis=0)
    source = one_matrix(tmp_path / "s.gguf", rows)
    result = convert(ConversionSpec(str(source), str(tmp_path / "t.gguf"), ("Q2_K",), tensor_types=(("ffn", "Q2_K"),)))
    found = GGUFReader(tmp_path / "t.gguf").tensors[0]
    off = np.linalg.norm(quants.dequantize(found.data, found.tensor_type) - rows, axis=1)
    assert (off > np.linalg.norm(rows, axis=1)).all()
    assert result.outputs[0].checked is not None and result.outputs[0].checked.rows == 8


WRONG = """
import sys
from converter import ConversionSpec, QuenchError, convert
try:
    convert(ConversionSpec(*sys.argv[1:3], (sys.argv[3],), imatrix=sys.argv[4] or None))
except QuenchError as error:
    print(error.code, error.detail)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the library is built from source, which a busy machine does slowly
@pytest.mark.parametrize("with_importance", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K"])
def test_numbers_that_were_computed_wrong_are_found(
    kind: str, with_importance: bool, broken_kernels: Path, tmp_path: Path
) -> None:
    """Kernels that make the same wrong bytes each time: only the numbers can tell."""
    source = one_matrix(tmp_path / "s.gguf", np.random.default_rng(7).standard_normal((64, 512)) - 2)
    weights = 1 + np.random.default_rng(8).random(512)
    matrix = written_importance(tmp_path / "m.dat", weights) if with_importance else ""
    done = subprocess.run(
        [sys.executable, "-c", WRONG, str(source), str(tmp_path / "t.gguf"), kind, matrix],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "QUENCH_KERNELS_LIBRARY": str(broken_kernels), "QUENCH_KERNELS": kernels.backends()[0]},
    )
    assert done.stdout.startswith("output_differs") and "of its length" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "t.gguf").exists()
