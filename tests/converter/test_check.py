"""Rows of a finished file are read back and compared with the source before anybody else gets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import ConversionSpec, QuenchError, convert
from converter.check import ROWS
from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import ConversionEvent, ConversionResult, TensorDone


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
    assert caught.value.code == "write_failed"
    assert name in caught.value.detail and "row" in caught.value.detail
    assert not target.exists()


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
