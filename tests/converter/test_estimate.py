"""What a plan knows of a quantized checkpoint: the time to make its weights whole, and which 16 bits are its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import ConversionSpec, convert, open_model, plan
from converter.spec import expected_seconds
from tests.quantized import SCHEMES, Packed, Scheme, mlx, write_pocket


@pytest.mark.parametrize("name", ["GPTQ", "NF4", "MLX"])
def test_decoding_is_in_the_time_once_for_all_outputs(name: str, tmp_path: Path) -> None:
    folder = write_pocket(tmp_path / "packed", SCHEMES[name], tmp_path / "plain")
    whole = plan(tmp_path / "plain", ConversionSpec(str(tmp_path / "plain"), str(tmp_path / "x.gguf"), ("Q8_0",)))
    one = plan(folder, ConversionSpec(str(folder), str(tmp_path / "x.gguf"), ("Q8_0",)))
    two = plan(folder, ConversionSpec(str(folder), str(tmp_path / "x"), ("Q8_0", "Q4_K_M")))
    assert whole.loading == 0
    assert one.loading == two.loading > 0
    assert one.seconds is not None and whole.seconds is not None
    # The kernels' part is the same, and was measured once; Pocket's bytes are read in no time.
    assert one.seconds - one.loading == pytest.approx(whole.seconds, rel=0.3)
    assert one.seconds == expected_seconds(one.outputs, one.read_bytes, one.loading)


def test_widening_a_quantized_file_is_in_the_time_once(tmp_path: Path, pocket: Path) -> None:
    source = tmp_path / "a.gguf"
    convert(ConversionSpec(str(pocket), str(source), ("Q8_0",)))

    def loading(*types: str) -> float:
        return plan(source, ConversionSpec(str(source), str(tmp_path / "x/"), types, allow_requantize=True)).loading

    assert loading("Q4_0") == loading("Q4_0", "Q5_0") > 0
    assert loading("copy") == 0


def brain(weight: np.ndarray) -> Packed:
    """MLX with scales and biases in bfloat16."""
    parts, _ = mlx(weight)
    cut = dict(parts)
    for part in ("scales", "biases"):
        cut[part] = ("BF16", (parts[part][1].astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
    wide = [(cut[part][1].astype(np.uint32) << 16).view(np.float32)[..., None] for part in ("scales", "biases")]
    bits = np.unpackbits(parts["weight"][1].view(np.uint8).reshape(len(weight), -1, 1), axis=-1, bitorder="little")
    codes = np.packbits(bits.reshape(len(weight), -1, 6), axis=-1, bitorder="little")[..., 0]
    groups = codes.reshape(len(weight), -1, 64).astype(np.float32)
    return Packed(cut, (groups * wide[0] + wide[1]).reshape(weight.shape))


@pytest.mark.parametrize(("packer", "expected"), [(mlx, "F16"), (brain, "BF16")])
def test_sixteen_bits_are_those_of_the_scales_where_all_matrices_are_quantized(
    packer: object, expected: str, tmp_path: Path
) -> None:
    """llama.cpp's converter has no answer here: it refuses MLX."""
    scheme = Scheme({"group_size": 64, "bits": 6}, packer, key="quantization", embedding=True)  # type: ignore[arg-type]
    folder = write_pocket(tmp_path / "packed", scheme, tmp_path / "plain")
    convert(ConversionSpec(str(folder), str(tmp_path / "a.gguf"), ("auto",)))
    with open_model(tmp_path / "a.gguf") as made, open_model(tmp_path / "plain") as plain:
        types = {tensor.type for tensor in made.tensors if len(tensor.shape) > 1}
        assert types == {expected}
        wanted = {tensor.name: tensor for tensor in plain.tensors}
        for tensor in made.tensors:
            full = wanted[tensor.name].rows(0, tensor.n_rows)
            half_a_unit = 2**-8 if expected == "BF16" else 2**-11
            np.testing.assert_allclose(tensor.rows(0, tensor.n_rows), full, rtol=half_a_unit, atol=1e-7)
