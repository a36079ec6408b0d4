"""Each finished file is loaded once by the engine before a conversion says done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from app import conversion, trial
from converter.spec import Checked, ConversionResult, ConversionSpec, OutputDone, QuenchError

Pocket = Callable[[str], Path]


def result_of(path: Path) -> ConversionResult:
    output = OutputDone(str(path), "Q8_0", path.stat().st_size, 8.5, {}, {}, checked=Checked(64))
    return ConversionResult((output,), 1, 1.0, 1, "reference")


def go_on() -> bool:
    return False


def changed(source: Path, folder: Path, old: bytes, new: bytes) -> Path:
    path = folder / "changed.gguf"
    raw = source.read_bytes()
    assert old in raw and len(old) == len(new)
    path.write_bytes(raw.replace(old, new, 1))
    return path


def test_a_conversion_ends_with_a_token(pocket: Path, tmp_path: Path) -> None:
    spec = ConversionSpec(str(pocket), str(tmp_path / "out"), ("Q8_0", "Q4_K_M"))
    for output in conversion.run(spec, lambda event: None).outputs:
        assert output.checked is not None and output.checked.rows == 64
        assert output.checked.token is not None and 0 <= output.checked.token < 2048
        assert output.checked.note == ""


def test_without_the_check_nothing_is_loaded(pocket: Path, tmp_path: Path) -> None:
    spec = ConversionSpec(str(pocket), str(tmp_path / "p.gguf"), ("Q8_0",), check=False)
    assert conversion.run(spec, lambda event: None).outputs[0].checked is None


def test_a_file_that_the_engine_cannot_load_is_a_failure(pocket_gguf: Pocket, tmp_path: Path) -> None:
    path = changed(pocket_gguf("Q8_0"), tmp_path, b"output_norm.weight", b"output_nurm.weight")
    with pytest.raises(QuenchError) as caught:
        trial.try_outputs(result_of(path), go_on)
    assert caught.value.code == "output_unusable" and path.name in caught.value.detail
    assert path.exists()


def test_a_file_that_answers_with_no_numbers_is_a_failure(pocket_gguf: Pocket, tmp_path: Path) -> None:
    tensor = next(t for t in gguf.GGUFReader(pocket_gguf("Q8_0")).tensors if t.name == "output_norm.weight")
    raw = bytearray(pocket_gguf("Q8_0").read_bytes())
    raw[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = np.full(256, np.nan, np.float32).tobytes()
    path = tmp_path / "nan.gguf"
    path.write_bytes(raw)
    with pytest.raises(QuenchError) as caught:
        trial.try_outputs(result_of(path), go_on)
    assert caught.value.code == "output_unusable" and "no number" in caught.value.detail


def test_a_model_that_the_engine_does_not_know_is_a_note(pocket_gguf: Pocket, tmp_path: Path) -> None:
    name = b"general.architecture" + bytes([8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
    path = changed(pocket_gguf("Q8_0"), tmp_path, name + b"llama", name + b"lhama")
    checked = trial.try_outputs(result_of(path), go_on).outputs[0].checked
    assert checked is not None and checked.token is None and "does not know" in checked.note


def test_a_file_beyond_the_memory_is_not_loaded(pocket_gguf: Pocket) -> None:
    result = result_of(pocket_gguf("Q8_0"))
    huge = msgspec.structs.replace(result, outputs=(msgspec.structs.replace(result.outputs[0], bytes=1 << 50),))
    checked = trial.try_outputs(huge, go_on).outputs[0].checked
    assert checked == Checked(64, None, checked.note if checked else "") and "free" in checked.note


def test_a_stop_leaves_the_trial_out(pocket_gguf: Pocket) -> None:
    checked = trial.try_outputs(result_of(pocket_gguf("Q8_0")), lambda: True).outputs[0].checked
    assert checked is not None and checked.token is None and "stopped" in checked.note
