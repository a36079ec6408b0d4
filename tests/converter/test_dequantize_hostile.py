"""Damaged and hostile quantized checkpoints: every one is refused in words, and none is more than that."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.sources import dequantize
from converter.sources.files import ByteFile
from converter.sources.gathered import file_tensor
from converter.sources.safetensors import read_header
from converter.spec import QuenchError
from tests.quantized import SCHEMES, Packed, Parts, Scheme, read_pocket, write_pocket, write_tensors

GOLDEN = lzma.decompress((Path(__file__).parent.parent / "golden" / "quantized.safetensors.xz").read_bytes())
START = 8 + int.from_bytes(GOLDEN[:8], "little")
HEADER = json.loads(GOLDEN[8:START])
SETTINGS: dict[str, dict[str, Any]] = json.loads(HEADER.pop("__metadata__")["settings"])
SIZES = {"BOOL": 1, "I64": 8, "F64": 8, "I32": 4, "U32": 4, "F32": 4, "I16": 2, "F16": 2, "BF16": 2}
"""Bytes of an element; 1 for what is not here."""

Raw = dict[str, tuple[str, list[int], bytes]]


def parts_of(case: str) -> Raw:
    """Kind, shape and bytes of a golden case's parts."""
    found = {}
    for name, entry in HEADER.items():
        if name.startswith(case + "/") and "/expected/" not in name:
            begin, end = entry["data_offsets"]
            found[name.removeprefix(case + "/")] = (entry["dtype"], entry["shape"], GOLDEN[START + begin : START + end])
    return found


def write(path: Path, parts: Raw) -> None:
    header, data = {}, b""
    for name, (kind, shape, raw) in parts.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_all(folder: Path, config: dict[str, Any]) -> list[np.ndarray]:
    """Every row of every tensor that comes out as numbers."""
    file = ByteFile(folder / "model.safetensors")
    try:
        found = dequantize.recognise(folder, config).decoded(read_header(file))
        tensors = [file_tensor(t, t.name) for t in found.tensors if t.reader is not None]
        return [tensor.rows(0, tensor.n_rows) for tensor in tensors]
    finally:
        file.close()


# --- one thing wrong at a time ---------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any], Raw], None]
CASES: dict[str, tuple[str, Change]] = {}


def case(golden: str) -> Callable[[Change], Change]:
    def keep(change: Change) -> Change:
        CASES[change.__name__] = (golden, change)
        return change

    return keep


def named(parts: Raw, ending: str) -> str:
    return next(name for name in parts if name.endswith(ending))


def with_bytes(parts: Raw, ending: str, raw: bytes, shape: list[int] | None = None) -> None:
    name = named(parts, ending)
    kind, old, _ = parts[name]
    parts[name] = (kind, old if shape is None else shape, raw)


@case("gptq-4")
def no_bits(config: dict[str, Any], parts: Raw) -> None:
    config["bits"] = 0


@case("gptq-4")
def a_thousand_bits(config: dict[str, Any], parts: Raw) -> None:
    config["bits"] = 1000


@case("gptq-4")
def bits_that_are_no_number(config: dict[str, Any], parts: Raw) -> None:
    config["bits"] = [4]


@case("gptq-4")
def five_bits_of_gptq(config: dict[str, Any], parts: Raw) -> None:
    config["bits"] = 5


@case("gptq-4-act-order")
def a_group_that_does_not_exist(config: dict[str, Any], parts: Raw) -> None:
    order = np.frombuffer(parts[named(parts, "g_idx")][2], "<i4").copy()
    order[7] = 4
    with_bytes(parts, "g_idx", order.tobytes())


@case("gptq-4-act-order")
def a_group_far_below_zero(config: dict[str, Any], parts: Raw) -> None:
    order = np.frombuffer(parts[named(parts, "g_idx")][2], "<i4").copy()
    order[7] = -(1 << 31)
    with_bytes(parts, "g_idx", order.tobytes())


@case("gptq-4")
def an_order_that_is_too_short(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "g_idx", bytes(4 * 5), [5])


@case("gptq-4")
def scales_of_another_width(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "scales", parts[named(parts, "scales")][2], [4, 16])


@case("gptq-4")
def scales_that_are_whole_numbers(config: dict[str, Any], parts: Raw) -> None:
    name = named(parts, "scales")
    parts[name] = ("I16", *parts[name][1:])


@case("gptq-4")
def no_zeros(config: dict[str, Any], parts: Raw) -> None:
    del parts[named(parts, "qzeros")]


@case("gptq-4")
def more_groups_than_columns(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "scales", bytes(2 * 32 * 99), [99, 32])
    with_bytes(parts, "qzeros", bytes(4 * 4 * 99), [99, 4])


@case("gptq-4")
def a_weight_that_is_there_twice(config: dict[str, Any], parts: Raw) -> None:
    parts[named(parts, "qweight").replace("qweight", "weight")] = ("F32", [1], bytes(4))


@case("awq-gemm")
def a_group_size_that_does_not_divide(config: dict[str, Any], parts: Raw) -> None:
    config["group_size"] = 48


@case("awq-gemm")
def eight_bits_of_awq(config: dict[str, Any], parts: Raw) -> None:
    config["bits"] = 8


@case("awq-gemv")
def scales_for_fewer_groups(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "scales", parts[named(parts, "scales")][2][: 32 * 2 * 2], [32, 2])


def state(parts: Raw, **changes: Any) -> None:
    name = named(parts, "bitsandbytes__nf4")
    text = json.dumps(json.loads(parts[name][2]) | changes).encode()
    with_bytes(parts, "bitsandbytes__nf4", text, [len(text)])


@case("bnb-nf4")
def a_state_that_is_no_json(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "bitsandbytes__nf4", b"\xff\x00[", [3])


@case("bnb-nf4")
def a_state_of_brackets(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "bitsandbytes__nf4", b"[" * 60000, [60000])


@case("bnb-nf4")
def a_state_that_is_huge(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "bitsandbytes__nf4", b" " * (1 << 20), [1 << 20])


@case("bnb-nf4")
def a_state_with_a_shape_beyond_memory(config: dict[str, Any], parts: Raw) -> None:
    state(parts, shape=[1 << 31, 1 << 31])


@case("bnb-nf4")
def a_state_with_a_negative_shape(config: dict[str, Any], parts: Raw) -> None:
    state(parts, shape=[-32, -64])


@case("bnb-nf4")
def a_state_with_blocks_of_nothing(config: dict[str, Any], parts: Raw) -> None:
    state(parts, blocksize=0)


@case("bnb-nf4")
def a_state_with_odd_blocks(config: dict[str, Any], parts: Raw) -> None:
    state(parts, blocksize=63)


@case("bnb-nf4-nested")
def an_offset_that_is_no_number(config: dict[str, Any], parts: Raw) -> None:
    state(parts, nested_offset=float("nan"))


@case("bnb-nf4-nested")
def nested_blocks_that_do_not_fit(config: dict[str, Any], parts: Raw) -> None:
    state(parts, nested_blocksize=16)


@case("bnb-nf4")
def seventeen_codes(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "quant_map", bytes(17 * 4), [17])


@case("bnb-int8")
def rows_arranged_for_a_card(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "weight_format", b"\x02")


@case("fp8-blocks")
def blocks_of_nothing(config: dict[str, Any], parts: Raw) -> None:
    config["weight_block_size"] = [0, 128]


@case("fp8-blocks")
def blocks_of_another_size(config: dict[str, Any], parts: Raw) -> None:
    config["weight_block_size"] = [32, 16]


@case("fp8-e4m3-0")
def eight_bit_floats_without_a_scale(config: dict[str, Any], parts: Raw) -> None:
    del parts[named(parts, "weight_scale")]


@case("ct-int4")
def no_groups_in_the_settings(config: dict[str, Any], parts: Raw) -> None:
    config["config_groups"] = {}


@case("ct-int4")
def a_group_of_forty_bits(config: dict[str, Any], parts: Raw) -> None:
    config["config_groups"]["group_0"]["weights"]["num_bits"] = 40


@case("ct-int4")
def a_shape_of_other_words(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "weight_shape", np.array([16, 1 << 60], "<i8").tobytes())


@case("ct-int4")
def a_shape_below_zero(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "weight_shape", np.array([16, -64], "<i8").tobytes())


@case("mlx-4")
def codes_of_seven_bits(config: dict[str, Any], parts: Raw) -> None:
    config.clear()
    config.update(group_size=64, bits=7)


@case("mlx-4")
def groups_that_are_too_large(config: dict[str, Any], parts: Raw) -> None:
    config.clear()
    config.update(group_size=1 << 40, bits=4)


@case("mlx-4")
def no_biases(config: dict[str, Any], parts: Raw) -> None:
    del parts[named(parts, "biases")]


@case("hqq-4")
def an_unknown_packing(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "packing", b"9bit_u8")


@case("hqq-4")
def a_shape_that_is_too_large(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "shape", np.array([1 << 31, 1 << 31], "<i8").tobytes())


@case("hqq-4")
def a_third_axis(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "axis", np.array(2, "<i4").tobytes())


@case("aqlm-2x8")
def a_codebook_of_an_odd_size(config: dict[str, Any], parts: Raw) -> None:
    _, shape, raw = parts[named(parts, "codebooks")]
    with_bytes(parts, "codebooks", raw[: len(raw) // 256 * 255], [shape[0], 255, *shape[2:]])


@case("aqlm-2x8")
def codes_for_more_codebooks(config: dict[str, Any], parts: Raw) -> None:
    _, shape, raw = parts[named(parts, "codes")]
    with_bytes(parts, "codes", raw + raw[: len(raw) // 2], [*shape[:2], 3])


@case("bitnet")
def many_scales(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "weight_scale", bytes(2 * 5), [5])


@case("mxfp4")
def blocks_of_another_length(config: dict[str, Any], parts: Raw) -> None:
    with_bytes(parts, "_blocks", parts[named(parts, "_blocks")][2], [2, 12, 6, 8])


@pytest.mark.parametrize("name", CASES)
def test_damage_is_refused_by_name(name: str, tmp_path: Path) -> None:
    golden, change = CASES[name]
    settings, parts = json.loads(json.dumps(SETTINGS[golden])), parts_of(golden)
    key = "quantization" if golden.startswith("mlx") else "quantization_config"
    write(tmp_path / "model.safetensors", parts)
    assert read_all(tmp_path, {key: settings})
    change(settings, parts)
    write(tmp_path / "model.safetensors", parts)
    with pytest.raises(QuenchError) as caught:
        read_all(tmp_path, {key: settings})
    assert caught.value.code == "bad_quantization"
    assert caught.value.title and caught.value.detail and caught.value.hint
    assert len(caught.value.detail) < 600


# --- anything wrong --------------------------------------------------------------------------------------------------

ODD_VALUES = (None, 0, -1, 1000, 1 << 62, 2.5, float("inf"), "4", "", [], [1, 2], {}, {"bits": 3}, True)
ODD_KINDS = ("U8", "I8", "I16", "I32", "U32", "I64", "F16", "BF16", "F32", "F64", "BOOL", "F8_E4M3", "F8_E5M2")


def odd(draw: random.Random, settings: dict[str, Any], parts: Raw) -> None:
    """One change of any kind."""
    name = draw.choice(list(parts))
    kind, shape, raw = parts[name]
    what = draw.randrange(7)
    if what == 0:
        del parts[name]
    elif what == 1:
        changed = draw.choice(ODD_KINDS)
        size = SIZES.get(changed, 1)
        parts[name] = (changed, [len(raw) // size], raw[: len(raw) // size * size])
    elif what == 2:
        flat = len(raw) // SIZES.get(kind, 1)
        shapes = [[flat], [1, flat], [flat, 1], shape[::-1], [1, *shape], [flat, 1, 1, 1]]
        parts[name] = (kind, draw.choice(shapes), raw)
    elif what == 3:
        parts[name] = (kind, shape, draw.randbytes(len(raw)))
    elif what == 4 and shape:
        less = draw.randrange(shape[0] + 1)
        parts[name] = (kind, [less, *shape[1:]], raw[: len(raw) // max(shape[0], 1) * less])
    elif what == 5 and settings:
        settings[draw.choice(list(settings))] = draw.choice(ODD_VALUES)
    else:
        parts[name.rpartition(".")[0] + draw.choice([".weight", ".scales", ".g_idx", ".zero"])] = (kind, shape, raw)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("golden", SETTINGS)
def test_any_change_gives_numbers_or_an_error(golden: str, tmp_path: Path) -> None:
    draw = random.Random(golden)
    key = "quantization" if golden.startswith("mlx") else "quantization_config"
    for _ in range(30):
        settings, parts = json.loads(json.dumps(SETTINGS[golden])), parts_of(golden)
        for _ in range(draw.choice((1, 1, 2, 3))):
            if parts:
                odd(draw, settings, parts)
        write(tmp_path / "model.safetensors", parts)
        try:
            found = read_all(tmp_path, {key: settings})
        except QuenchError as error:
            assert error.code in {"bad_quantization", "unsupported_quantization", "bad_header"}
        else:
            assert all(each.dtype == np.float32 for each in found)
            assert sum(each.nbytes for each in found) < 1 << 22


# --- whole folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "exl2", "bits": 4.25}, "exl2"),
        ({"quant_method": "exl3", "bits": 3.0}, "exl3"),
        ({"quant_method": "quip", "codebook": "E8P12"}, "quip"),
        ({"quant_method": "vptq"}, "vptq"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "marlin"),
        ({"quant_method": "gptq", "bits": 5, "checkpoint_format": "gptq_p"}, "gptq_p"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv_fast"}, "gemv_fast"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {}}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {}}, "marlin-24"),
        ({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}, "online"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:exllamav2"}, "auto-round"),
        ({"bits": 4}, "without a name"),
        ({"quant_method": ["gptq"]}, "gptq"),
    ],
)
def test_other_methods_are_refused_by_name_before_any_work(
    settings: dict[str, Any], said: str, pocket: Path, tmp_path: Path
) -> None:
    config = json.loads((pocket / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(QuenchError) as caught:
        converter.open_model(tmp_path)  # there are no weights, which nobody gets to see
    assert caught.value.code == "unsupported_quantization"
    assert said in caught.value.detail
    assert "GPTQ, AWQ, bitsandbytes, FP8, compressed-tensors, MLX, HQQ, AQLM, MXFP4, BitNet" in caught.value.detail


@pytest.mark.parametrize("value", ["4bit", 4, [1], True])
def test_settings_that_are_no_object(value: Any, pocket: Path, tmp_path: Path) -> None:
    config = json.loads((pocket / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": value}))
    with pytest.raises(QuenchError) as caught:
        converter.open_model(tmp_path)
    assert caught.value.code == "bad_quantization"


@pytest.fixture
def nf4(tmp_path: Path) -> Iterator[Path]:
    yield write_pocket(tmp_path / "model", SCHEMES["NF4"])


def rewrite(folder: Path, change: Callable[[str, str, np.ndarray], np.ndarray]) -> None:
    file = ByteFile(folder / "model.safetensors")
    kinds = {"U8": "u1", "F32": "<f4", "I8": "i1"}
    parts: Parts = {}
    for tensor in read_header(file):
        values = np.frombuffer(file.read(tensor.offset, tensor.n_bytes), kinds[tensor.dtype]).reshape(tensor.shape)
        parts[tensor.name] = (tensor.dtype, change(tensor.name, tensor.dtype, values))
    file.close()
    write_tensors(folder / "model.safetensors", parts)


def test_scales_that_are_not_numbers_are_found_where_they_are_written(nf4: Path, tmp_path: Path) -> None:
    def spoil(name: str, kind: str, values: np.ndarray) -> np.ndarray:
        if name == "model.layers.3.mlp.up_proj.weight.absmax":
            values = values.copy()
            values[5] = np.nan
        return values

    rewrite(nf4, spoil)
    spec = converter.ConversionSpec(source=str(nf4), output=str(tmp_path / "out.gguf"), types=("Q8_0",))
    with pytest.raises(QuenchError) as caught:
        converter.convert(spec, lambda event: None, lambda: False)
    assert caught.value.code == "not_finite"
    assert "model.layers.3.mlp.up_proj.weight" in caught.value.detail and "row 1, column 64" in caught.value.detail
    assert not list(tmp_path.glob("out*"))


def test_parts_without_settings_tell_their_method(nf4: Path) -> None:
    """bitsandbytes says all in its tensors; GPTQ's bits stand in config.json only."""
    for folder, code in ((nf4, ""), (write_pocket(nf4.parent / "gptq", SCHEMES["GPTQ"]), "unsupported_quantization")):
        config = json.loads((folder / "config.json").read_text())
        del config["quantization_config"]
        (folder / "config.json").write_text(json.dumps(config))
        if not code:
            with converter.open_model(folder) as model:
                assert "bitsandbytes 4-bit" in model.info.notes[0]
            continue
        with pytest.raises(QuenchError) as caught:
            converter.open_model(folder)
        assert caught.value.code == code and "look like GPTQ" in caught.value.detail


def test_settings_of_older_tools_lie_beside_the_model(tmp_path: Path) -> None:
    folder = write_pocket(tmp_path / "model", SCHEMES["GPTQ"])
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization_config")
    del settings["quant_method"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    with converter.open_model(folder) as model:
        assert model.info.types == {"F32": 14, "GPTQ 4-bit": 42}


def test_a_listing_tells_what_is_stored(tmp_path: Path) -> None:
    folder = write_pocket(tmp_path / "model", SCHEMES["MLX"])
    with converter.open_model(folder) as model:
        info = model.info
    assert info.types == {"MLX 6-bit": 43, "F32": 13}
    matrix = next(tensor for tensor in info.tensors if tensor.name == "blk.0.ffn_up.weight")
    assert matrix.type == "MLX 6-bit" and matrix.shape == (768, 256)
    assert abs(matrix.bytes - 768 * 256 * 6.5 / 8) <= 768  # six bits, and a scale and a bias for every 64


def test_a_model_of_eight_bit_floats_alone(tmp_path: Path) -> None:
    """No settings and no scales: the numbers are what they are. With scales for blocks that nobody tells: an error."""

    def halves(weight: np.ndarray) -> Packed:
        return Packed({"weight": ("F8_E5M2", (weight.astype("<f2").view("<u2") >> 8).astype(np.uint8))}, weight)

    weight = read_pocket()["model.layers.0.self_attn.v_proj.weight"]
    with converter.open_model(write_pocket(tmp_path / "model", Scheme({}, halves))) as model:
        found = next(tensor for tensor in model.tensors if tensor.name == "blk.0.attn_v.weight")
        cut = (weight.astype("<f2").view("<u2") & 0xFF00).view("<f2").astype(np.float32)
        assert np.array_equal(found.rows(0, found.n_rows), cut)
        assert model.info.notes[0].startswith("The weights are FP8:")
    with pytest.raises(QuenchError) as caught:
        converter.open_model(write_pocket(tmp_path / "blocks", Scheme({}, SCHEMES["FP8"].pack)))
    assert caught.value.code == "bad_quantization" and "blocks" in caught.value.detail
