"""Conversions of the bundled model: types and bytes against llama.cpp, values against the source, and every refusal."""

from __future__ import annotations

import ctypes
import json
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from converter import convert, open_model, plan
from converter.recipes import RECIPES
from converter.spec import (
    Cancelled,
    ConversionEvent,
    ConversionResult,
    ConversionSpec,
    Planned,
    Progress,
    QuenchError,
    TensorDone,
)

from .llama_quantize import quantize as llama_quantize
from .llama_quantize import synthetic

QUANTIZED = [name for name in RECIPES if name not in {"auto", "F32", "F16", "BF16", "Q2_K_S"}]
PLAIN = ["F32", "F16", "BF16"]


@pytest.fixture(scope="module")
def family(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> ConversionResult:
    """Pocket in every recipe, from one pass."""
    folder = tmp_path_factory.mktemp("family")
    return convert(ConversionSpec(str(pocket), str(folder), (*PLAIN, *QUANTIZED)))


def path_of(family: ConversionResult, name: str) -> Path:
    return next(Path(output.path) for output in family.outputs if output.type == name)


def tensors_of(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    mine, other = tensors_of(ours), tensors_of(theirs)
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        assert tensor.tensor_type == other[name].tensor_type, name
        assert tuple(tensor.shape) == tuple(other[name].shape), name
        assert np.array_equal(tensor.data.view(np.uint8), other[name].data.view(np.uint8)), name


# ---- against llama.cpp ----


COVERED = ("IQ4_NL", "IQ4_XS", "Q3_K_S", "Q3_K_L", "Q4_K_S", "Q5_K_S")
"""Recipes whose types the others have too, in another mix, or which llama.cpp takes longest for. The quick tests have
their mixes as snapshots (:mod:`.test_recipe_snapshots`) and their bytes with an importance matrix
(:mod:`.test_whole_files`)."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COVERED else []) for name in QUANTIZED]
)
def test_a_whole_file_equals_llama_cpp(family: ConversionResult, name: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.gguf"
    llama_quantize(path_of(family, "BF16"), theirs, RECIPES[name].file_type)
    ours = path_of(family, name)
    assert_same_tensors(ours, theirs)
    mine, other = gguf.GGUFReader(ours).fields, gguf.GGUFReader(theirs).fields
    assert mine.keys() == other.keys()
    for key in mine:
        if not key.startswith("GGUF."):
            assert mine[key].contents() == other[key].contents(), key


def imatrix_of(source: Path, seed: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        tensor.name: random.random(tensor.shape[0], np.float32) ** 3 + np.float32(1e-3)
        for tensor in tensors_of(source).values()
        if len(tensor.shape) == 2 and tensor.name != "token_embd.weight"
    }


def write_imatrix(path: Path, entries: dict[str, np.ndarray]) -> Path:
    """A GGUF importance matrix whose sums are the entries times a count of 4."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["/home/someone/private/calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in entries.items():
        writer.add_tensor(name + ".in_sum2", values.reshape(1, -1) * np.float32(4))
        writer.add_tensor(name + ".counts", np.full((1, 1), 4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_legacy(path: Path, entries: dict[str, np.ndarray]) -> Path:
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", 4, values.size)]
        parts.append((values * np.float32(4)).tobytes())
    dataset = b"/home/someone/private/calibration.txt"
    parts += [struct.pack("<ii", 7, len(dataset)), dataset]
    path.write_bytes(b"".join(parts))
    return path


IMPORTANCE_TYPES = ("Q4_K_M", "Q2_K_S", "Q3_K_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((IMPORTANCE_TYPES[0], write) for write in (write_imatrix, write_legacy)),
        # The numbers are read by then: the other types show nothing new of the file, and the whole files of every
        # recipe have their bytes among the quick tests.
        *(
            pytest.param(name, write, marks=pytest.mark.slow)
            for name in IMPORTANCE_TYPES[1:]
            for write in (write_imatrix, write_legacy)
        ),
    ],
)
def test_an_importance_matrix_gives_llama_cpps_bytes(
    family: ConversionResult, name: str, write: Callable[[Path, dict[str, np.ndarray]], Path], tmp_path: Path
) -> None:
    source = path_of(family, "BF16")
    entries = imatrix_of(source)
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    llama_quantize(source, theirs, RECIPES[name].file_type, importance=entries)
    matrix = write(tmp_path / "importance.bin", entries)
    convert(ConversionSpec(str(source), str(ours), (name,), imatrix=str(matrix)))
    assert_same_tensors(ours, theirs)
    fields = gguf.GGUFReader(ours).fields
    assert fields["quantize.imatrix.file"].contents() == "importance.bin"
    assert fields["quantize.imatrix.dataset"].contents() == "calibration.txt"
    assert fields["quantize.imatrix.chunks_count"].contents() == 7
    assert fields["quantize.imatrix.entries_count"].contents() == len(entries)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with four experts a layer, random weights, and a row that is no whole number of big blocks."""
    path = tmp_path_factory.mktemp("mixture") / "mixture.gguf"
    tensors: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (96, 256)), ("output.weight", (96, 256))]
    for layer in range(2):
        tensors.append((f"blk.{layer}.attn_v.weight", (64, 256)))
        tensors.append((f"blk.{layer}.ffn_gate_inp.weight", (4, 256)))
        tensors.append((f"blk.{layer}.ffn_up_exps.weight", (4, 288, 256)))
        tensors.append((f"blk.{layer}.ffn_down_exps.weight", (4, 256, 288)))
    synthetic(path, "llama", tensors, layers=2, heads=4, kv_heads=1, experts=4)
    random = np.random.default_rng(11)
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        tensor.data[:] = random.standard_normal(tensor.data.shape).astype(tensor.data.dtype)
    return path


@pytest.mark.parametrize("name", ["Q4_K_M", "Q3_K_S"])
def test_every_expert_has_its_own_importance(mixture: Path, name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    entries = {
        tensor.name: random.random(int(tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)), np.float32)
        for tensor in gguf.GGUFReader(mixture).tensors
        if "ffn" in tensor.name
    }
    theirs = tmp_path / "theirs.gguf"
    llama_quantize(mixture, theirs, RECIPES[name].file_type, importance=entries)
    matrix = write_legacy(tmp_path / "m.dat", entries)
    for memory in (0, 33):
        ours = tmp_path / f"{memory}.gguf"
        convert(ConversionSpec(str(mixture), str(ours), (name,), imatrix=str(matrix), memory_mib=memory))
        assert_same_tensors(ours, theirs)
    other = {**entries, "blk.0.ffn_up_exps.weight": np.ones(256, np.float32)}
    write_legacy(matrix, other)
    with pytest.raises(QuenchError, match=r"ffn_up_exps.weight has 256"):
        convert(ConversionSpec(str(mixture), str(tmp_path / "x.gguf"), (name,), imatrix=str(matrix)))


@pytest.mark.parametrize("stored", ["F32", "BF16", "Q8_0", "Q5_0"])
def test_stacked_experts_of_any_type_are_sliced_with_their_importance(
    mixture: Path, stored: str, tmp_path: Path
) -> None:
    source, theirs, ours = (tmp_path / f"{name}.gguf" for name in ("source", "theirs", "ours"))
    convert(ConversionSpec(str(mixture), str(source), (stored,)))
    random = np.random.default_rng(13)
    entries = {
        tensor.name: random.random(tensor.shape[-1] * (tensor.shape[0] if len(tensor.shape) > 2 else 1), np.float32)
        for tensor in open_model(source).tensors
        if "exps" in tensor.name
    }
    assert {entry.size for entry in entries.values()} == {4 * 256, 4 * 288}
    entries["blk.1.ffn_up_exps.weight"].reshape(4, 256)[2] *= 100
    llama_quantize(source, theirs, RECIPES["Q3_K_M"].file_type, importance=entries, allow_requantize=True)
    matrix = write_legacy(tmp_path / "m.dat", entries)
    spec = ConversionSpec(str(source), str(ours), ("Q3_K_M",), imatrix=str(matrix), allow_requantize=True)
    convert(spec)
    assert_same_tensors(ours, theirs)


def test_requantizing_is_refused_and_when_allowed_equals_llama_cpp(family: ConversionResult, tmp_path: Path) -> None:
    source, ours, theirs = path_of(family, "Q8_0"), tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    spec = ConversionSpec(str(source), str(ours), ("Q4_K_M",))
    with pytest.raises(QuenchError, match="rounded again") as caught:
        convert(spec)
    assert caught.value.code == "requantize"
    assert not ours.exists()
    convert(ConversionSpec(str(source), str(ours), ("Q4_K_M",), allow_requantize=True))
    llama_quantize(source, theirs, RECIPES["Q4_K_M"].file_type, allow_requantize=True)
    assert_same_tensors(ours, theirs)


@pytest.mark.parametrize(
    "file_type", [pytest.param(26, marks=pytest.mark.slow, id="IQ3_S"), pytest.param(36, id="TQ1_0")]
)
def test_types_that_are_only_read_are_requantized_as_by_llama_cpp(
    family: ConversionResult, tmp_path: Path, file_type: int
) -> None:
    source, ours, theirs = (tmp_path / name for name in ("source.gguf", "ours.gguf", "theirs.gguf"))
    llama_quantize(path_of(family, "BF16"), source, file_type)
    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(source), str(ours), ("Q4_K_M",)))
    assert caught.value.code == "requantize"
    convert(ConversionSpec(str(source), str(ours), ("Q4_K_M",), allow_requantize=True))
    llama_quantize(source, theirs, RECIPES["Q4_K_M"].file_type, allow_requantize=True)
    assert_same_tensors(ours, theirs)


def test_equal_types_are_copied_without_asking(family: ConversionResult, tmp_path: Path) -> None:
    source, ours = path_of(family, "Q4_K_M"), tmp_path / "copy.gguf"
    result = convert(ConversionSpec(str(source), str(ours), ("Q4_K_M",)))
    assert_same_tensors(ours, source)
    assert set(result.outputs[0].error.values()) == {0.0}


@pytest.mark.parametrize("name", [*PLAIN, *QUANTIZED])
def test_llama_cpp_loads_every_output(family: ConversionResult, name: str) -> None:
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(path_of(family, name)).encode(), parameters)
    assert model
    try:
        text = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(model, text, 128)
        assert text.value.startswith(b"llama")
        assert llama_cpp.llama_model_n_params(model) == plan_parameters(family)
    finally:
        llama_cpp.llama_model_free(model)


def plan_parameters(family: ConversionResult) -> int:
    return sum(int(np.prod(tensor.shape)) for tensor in tensors_of(path_of(family, "F32")).values())


# ---- against the source ----


def safetensors(folder: Path) -> dict[str, np.ndarray]:
    """Pocket's weights as float32, read without any code of ours."""
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16"
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            wide = np.frombuffer(data[first:last], "<u2").astype(np.uint32) << 16
            found[name] = wide.view(np.float32).reshape(entry["shape"])
    return found


def hugging_face_rows(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo the reordering of rotary rows: neighbouring pairs back to halves."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


NAMES = {
    "attn_q.weight": "self_attn.q_proj",
    "attn_k.weight": "self_attn.k_proj",
    "attn_v.weight": "self_attn.v_proj",
    "attn_output.weight": "self_attn.o_proj",
    "ffn_gate.weight": "mlp.gate_proj",
    "ffn_up.weight": "mlp.up_proj",
    "ffn_down.weight": "mlp.down_proj",
    "attn_norm.weight": "input_layernorm",
    "ffn_norm.weight": "post_attention_layernorm",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_outputs_hold_the_source_values(family: ConversionResult, name: str, pocket: Path) -> None:
    source = safetensors(pocket)
    found = tensors_of(path_of(family, name))
    expected = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in range(6):
        expected |= {f"blk.{layer}.{ours}": f"model.layers.{layer}.{hf}.weight" for ours, hf in NAMES.items()}
    assert found.keys() == expected.keys()
    for ours, hf in expected.items():
        data = found[ours].data
        if found[ours].tensor_type == gguf.GGMLQuantizationType.BF16:
            data = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.BF16)
        values = data.astype(np.float32)
        if "attn_q" in ours or "attn_k" in ours:
            values = hugging_face_rows(values, 4 if "attn_q" in ours else 2)
        wanted = source[hf].astype(np.float16).astype(np.float32) if name == "F16" and data.ndim == 2 else source[hf]
        assert np.array_equal(values, wanted), ours
        assert (found[ours].tensor_type.name == "F32") == (name == "F32" or data.ndim == 1)


@pytest.mark.parametrize("name", ["Q4_K_M", "Q2_K", "Q8_0"])
def test_the_error_is_that_of_the_written_blocks(family: ConversionResult, name: str) -> None:
    output = next(output for output in family.outputs if output.type == name)
    exact, found = tensors_of(path_of(family, "F32")), tensors_of(Path(output.path))
    assert output.error.keys() == found.keys() == output.tensors.keys()
    for key, tensor in found.items():
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        rmse = float(np.sqrt(np.mean((values.astype(np.float64) - exact[key].data) ** 2)))
        assert output.error[key] == pytest.approx(rmse, rel=1e-6, abs=1e-12), key
        assert output.tensors[key] == tensor.tensor_type.name


@pytest.mark.parametrize("name", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("with_importance", [False, True], ids=["plain", "importance"])
def test_the_relative_error_is_that_of_the_written_blocks(
    family: ConversionResult, name: str, with_importance: bool, tmp_path: Path
) -> None:
    source, ours = path_of(family, "BF16"), tmp_path / "ours.gguf"
    entries = imatrix_of(source) if with_importance else {}
    matrix = str(write_imatrix(tmp_path / "m.gguf", entries)) if with_importance else None
    events: list[ConversionEvent] = []
    result = convert(ConversionSpec(str(source), str(ours), (name,), imatrix=matrix), events.append)
    told = {event.name: event.relative_error for event in events if isinstance(event, TensorDone)}
    assert told == result.outputs[0].relative_error
    exact, found = tensors_of(path_of(family, "F32")), tensors_of(ours)
    for key, tensor in found.items():
        x = exact[key].data.astype(np.float64)
        y = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        w = entries.get(key, np.ones(x.shape[-1])).astype(np.float64)
        relative = float(np.sqrt((w * (x - y) ** 2).sum() / (w * x**2).sum()))
        assert told[key] == pytest.approx(relative, rel=1e-6, abs=1e-12), key
        assert (told[key] > 0) == (tensor.tensor_type.name not in {"F32", "F16", "BF16"})


def test_every_experts_importance_counts_in_the_relative_error(mixture: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    name = "blk.1.ffn_up_exps.weight"
    weights = random.random((4, 256), np.float32) * np.array([[0.0], [1.0], [5.0], [0.1]], np.float32)
    matrix = write_legacy(tmp_path / "m.dat", {name: weights.ravel()})
    spec = ConversionSpec(str(mixture), str(tmp_path / "o.gguf"), ("Q4_K_M",), imatrix=str(matrix), memory_mib=34)
    result = convert(spec)
    tensor = tensors_of(tmp_path / "o.gguf")[name]
    x = tensors_of(mixture)[name].data.astype(np.float64)
    y = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(x.shape).astype(np.float64)
    w = weights.astype(np.float64)[:, None, :]
    relative = float(np.sqrt((w * (x - y) ** 2).sum() / (w * x**2).sum()))
    assert result.outputs[0].relative_error[name] == pytest.approx(relative, rel=1e-6)


# ---- one pass, and what it says ----


def test_events_tell_every_tensor_of_every_output(pocket: Path, tmp_path: Path) -> None:
    events: list[ConversionEvent] = []
    times: list[float] = []

    def listen(event: ConversionEvent) -> None:
        events.append(event)
        if isinstance(event, Progress):
            times.append(time.perf_counter())

    spec = ConversionSpec(str(pocket), str(tmp_path / "out"), ("Q4_K_M", "Q3_K_M", "F16", "Q4_K_S"))
    result = convert(spec, listen)
    assert isinstance(events[0], Planned)
    assert events[-1] is result
    planned = events[0].plan
    done = [event for event in events if isinstance(event, TensorDone)]
    assert sorted((event.output, event.name, event.type, event.bytes) for event in done) == sorted(
        (index, tensor.name, tensor.type, tensor.bytes)
        for index, output in enumerate(planned.outputs)
        for tensor in output.tensors
    )
    for event in done:
        assert result.outputs[event.output].error[event.name] == event.rmse
    # At most ten a second, but the first one may have come late on a busy machine.
    assert len(times) < 3 or (len(times) - 2) * 0.1 <= times[-1] - times[0]
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert all(event.total == planned.read_bytes and event.memory > 0 for event in progress)


def test_the_plan_is_exact(pocket: Path, tmp_path: Path) -> None:
    spec = ConversionSpec(str(pocket), str(tmp_path), ("Q4_K_M", "Q8_0", "BF16"))
    with open_model(pocket) as model:
        planned = plan(model, spec)
        assert planned == plan_without_time(plan(str(pocket), spec), planned.seconds, planned.disk_free)
    assert list(tmp_path.iterdir()) == [tmp_path / "quench-home"] or list(tmp_path.iterdir()) == []
    result = convert(spec)
    for before, after in zip(planned.outputs, result.outputs, strict=True):
        assert Path(after.path).stat().st_size == before.bytes == after.bytes
        assert {tensor.name: tensor.type for tensor in before.tensors} == after.tensors
        assert after.bpw == before.bpw
        weights = sum(int(np.prod(tensor.shape)) for tensor in before.tensors)
        assert before.bpw == pytest.approx(8 * sum(tensor.bytes for tensor in before.tensors) / weights)
    assert planned.disk_needed == sum(output.bytes for output in planned.outputs)
    assert planned.read_bytes == result.read_bytes
    assert planned.seconds is not None
    assert 0.01 < planned.seconds < 60


def plan_without_time(found: Any, seconds: float | None, free: int) -> Any:
    """Two plans differ in the measured time and the free bytes of the moment."""
    import msgspec

    return msgspec.structs.replace(found, seconds=seconds, disk_free=free)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the bytes read through /proc")
def test_two_outputs_read_the_source_once(pocket: Path, tmp_path: Path) -> None:
    def bytes_read(*types: str) -> tuple[int, int]:
        def counter() -> int:
            return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

        before = counter()
        result = convert(ConversionSpec(str(pocket), str(tmp_path / "-".join(types)) + "/", types))
        return counter() - before, result.read_bytes

    size = (pocket / "model.safetensors").stat().st_size
    one, counted_one = bytes_read("Q8_0")
    three, counted_three = bytes_read("Q8_0", "Q4_K_M", "F16")
    assert counted_one == counted_three
    assert 0.98 * size < counted_one <= size
    assert three - one < 0.1 * size


def test_bytes_do_not_depend_on_threads_or_memory(pocket: Path, tmp_path: Path) -> None:
    seen = set()
    for index, (threads, memory) in enumerate([(1, 0), (2, 0), (3, 36), (1, 34)]):
        target = tmp_path / f"{index}.gguf"
        spec = ConversionSpec(str(pocket), str(target), ("Q3_K_M",), threads=threads, memory_mib=memory)
        result = convert(spec)
        seen.add((target.read_bytes(), tuple(result.outputs[0].error.items())))
    assert len(seen) == 1


def test_metadata_is_carried_from_gguf_to_gguf(family: ConversionResult, pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "again.gguf"
    convert(ConversionSpec(str(path_of(family, "F16")), str(target), ("Q6_K",)))
    before, after = gguf.GGUFReader(path_of(family, "F16")).fields, gguf.GGUFReader(target).fields
    assert before.keys() == after.keys()
    for key, field in before.items():
        if not key.startswith("GGUF.") and key != "general.file_type":
            assert field.contents() == after[key].contents(), key
    assert after["general.file_type"].contents() == 18
    assert after["general.quantization_version"].contents() == 2


def test_no_local_path_gets_into_a_file(family: ConversionResult, pocket: Path) -> None:
    for output in family.outputs:
        data = Path(output.path).read_bytes()[: 1 << 20]
        assert str(pocket.parent).encode() not in data
        assert str(Path(output.path).parent).encode() not in data


@pytest.mark.parametrize("folder", ["with spaces", "größe 模型 ☕"])
def test_names_with_spaces_and_other_letters(pocket: Path, tmp_path: Path, folder: str) -> None:
    source = tmp_path / folder / "Mein Modell é"
    shutil.copytree(pocket, source)
    out = tmp_path / folder / "out put ü"
    result = convert(ConversionSpec(str(source), str(out), ("Q4_K_M", "Q8_0")))
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 2
    assert [name.rsplit("-", 1)[1] for name in names] == ["Q4_K_M.gguf", "Q8_0.gguf"]
    assert sorted(Path(output.path).name for output in result.outputs) == names
    single = out / "ein Name 模.gguf"
    convert(ConversionSpec(str(source), str(single), ("Q4_K_M",)))
    assert single.read_bytes() == next(path for path in out.iterdir() if path.name.endswith("Q4_K_M.gguf")).read_bytes()


def test_one_type_into_a_folder_that_is_there(pocket: Path, tmp_path: Path) -> None:
    result = convert(ConversionSpec(str(pocket), str(tmp_path), ("auto",)))
    assert Path(result.outputs[0].path).parent == tmp_path
    assert result.outputs[0].path.endswith("-BF16.gguf")
    assert result.outputs[0].type == "BF16"


# ---- nothing is left behind ----


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_cancel_leaves_nothing(pocket: Path, tmp_path: Path) -> None:
    done: list[str] = []

    def listen(event: ConversionEvent) -> None:
        if isinstance(event, TensorDone):
            done.append(event.name)

    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        convert(ConversionSpec(str(pocket), str(out), tuple(QUANTIZED), threads=2), listen, lambda: bool(done))
    # What the threads had in hand is finished, and none of the other forty tensors begun.
    assert len(done) <= 4 * len(QUANTIZED)
    assert not out.exists()


def test_a_cancel_keeps_the_older_file(pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"an older file")
    with pytest.raises(Cancelled):
        convert(ConversionSpec(str(pocket), str(target), ("Q4_K_M",), overwrite=True), stopped=lambda: True)
    assert target.read_bytes() == b"an older file"
    assert files_in(tmp_path) == [target]


@pytest.mark.parametrize("value", [0x7FC0, 0xFF80], ids=["nan", "infinity"])
@pytest.mark.parametrize("name", ["Q4_K_M", "BF16", "F32"])
def test_a_weight_that_is_no_number_is_named(pocket: Path, tmp_path: Path, value: int, name: str) -> None:
    source = tmp_path / "broken"
    shutil.copytree(pocket, source)
    file = source / "model.safetensors"
    data = bytearray(file.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])["model.layers.3.mlp.down_proj.weight"]
    row, column = 201, 77
    at = 8 + length + entry["data_offsets"][0] + 2 * (row * entry["shape"][1] + column)
    data[at : at + 2] = struct.pack("<H", value)
    file.write_bytes(data)
    out = tmp_path / "out.gguf"
    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(source), str(out), (name,)))
    assert caught.value.code == "not_finite"
    assert "model.layers.3.mlp.down_proj.weight" in caught.value.detail
    assert f"row {row}, column {column}" in caught.value.detail
    assert [path for path in tmp_path.iterdir() if path.name.startswith("out")] == []


def test_a_file_that_another_run_finished_meanwhile_is_not_replaced(pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"

    def other_run(event: object) -> None:
        if isinstance(event, Planned):
            target.write_bytes(b"mine")

    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(pocket), str(target), ("Q4_0",)), other_run)
    assert caught.value.code == "exists"
    assert target.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [target]


def test_existing_files_need_leave(pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"mine")
    spec = ConversionSpec(str(pocket), str(target), ("Q4_0",))
    with pytest.raises(QuenchError) as caught:
        convert(spec)
    assert caught.value.code == "exists"
    assert target.read_bytes() == b"mine"
    convert(ConversionSpec(str(pocket), str(target), ("Q4_0",), overwrite=True))
    assert target.read_bytes()[:4] == b"GGUF"


def test_the_source_is_never_the_output(family: ConversionResult, pocket: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    shutil.copy(path_of(family, "F16"), source)
    before = source.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    for target in (source, link):
        with pytest.raises(QuenchError) as caught:
            convert(ConversionSpec(str(source), str(target), ("Q4_K_M",), overwrite=True))
        assert caught.value.code == "output_is_source"
    assert source.read_bytes() == before
    folder = tmp_path / "folder"
    shutil.copytree(pocket, folder)
    weights = folder / "model.safetensors"
    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(folder), str(weights), ("Q4_K_M",), overwrite=True))
    assert caught.value.code == "output_is_source"
    assert weights.read_bytes() == (pocket / "model.safetensors").read_bytes()


def test_refusals_name_their_reason(pocket: Path, tmp_path: Path) -> None:
    def code(**fields: Any) -> tuple[str, int]:
        with pytest.raises(QuenchError) as caught:
            convert(ConversionSpec(**{"source": str(pocket), "output": str(tmp_path / "x.gguf"), **fields}))
        assert caught.value.title and caught.value.hint
        return caught.value.code, caught.value.exit_status

    assert code(types=("Q4_K_X",)) == ("unknown_type", 2)
    assert code(types=()) == ("unknown_type", 2)
    assert code(types=("Q4_K_M",), tensor_types=(("ffn", "Q4_K_M"),)) == ("unknown_type", 2)
    assert code(types=("Q4_K_M",), output_type="nonsense") == ("unknown_type", 2)
    assert code(types=("Q4_K_M", "Q8_0")) == ("not_a_folder", 2)
    assert code(types=("Q4_K_M",), output=str(tmp_path / "no" / "where" / "x.gguf")) == ("no_folder", 3)
    assert code(types=("Q4_K_M", "Q8_0"), output=str(tmp_path / "no" / "where")) == ("no_folder", 3)
    assert code(types=("Q2_K_S",)) == ("needs_imatrix", 3)
    assert code(types=("Q4_K_M",), imatrix=str(tmp_path / "none.gguf")) == ("not_found", 3)
    assert code(types=("Q4_K_M",), source=str(tmp_path / "none"))[1] == 3
    assert [path for path in tmp_path.iterdir() if path.name != "quench-home"] == []


LIMITED = """
import resource, sys
from converter import convert, ConversionSpec
from converter.spec import QuenchError
limit, source, target = int(sys.argv[1]), sys.argv[2], sys.argv[3]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    convert(ConversionSpec(source, target, ("Q4_K_M", "Q8_0"), threads=1, memory_mib=35))
except QuenchError as error:
    print(error.code, error.exit_status)
"""


def test_a_file_that_may_not_grow_leaves_nothing(pocket: Path, tmp_path: Path) -> None:
    """The system refuses bytes although the disk has room, before anything is finished."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(500_000), str(pocket), str(out)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["no_space", "4"], done.stderr
    assert not out.exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 6 MB in memory."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small file system needs an administrator")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="mounts a small file system")
def test_a_full_disk_is_told_before_the_first_byte(pocket: Path, small_disk: Path) -> None:
    spec = ConversionSpec(str(pocket), str(small_disk), ("Q8_0", "Q4_K_M"))
    with pytest.raises(QuenchError) as caught:
        convert(spec)
    assert (caught.value.code, caught.value.exit_status) == ("no_space", 4)
    assert f"{plan(str(pocket), spec).disk_needed:,}" in caught.value.detail
    assert files_in(small_disk) == []
    convert(ConversionSpec(str(pocket), str(small_disk / "one.gguf"), ("Q4_K_M",)))
    assert files_in(small_disk) == [small_disk / "one.gguf"]


@pytest.mark.skipif(shutil.which("mount") is None, reason="mounts a small file system")
def test_a_disk_that_cannot_be_written_to(pocket: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for target, types in ((small_disk / "one.gguf", ("Q4_K_M",)), (small_disk / "new", ("Q4_K_M", "Q5_K_M"))):
        with pytest.raises(QuenchError) as caught:
            convert(ConversionSpec(str(pocket), str(target), types))
        assert caught.value.code == "read_only"


@pytest.mark.skipif(shutil.which("mount") is None, reason="mounts a small file system")
def test_a_disk_that_fills_up_after_the_check(pocket: Path, small_disk: Path) -> None:
    filler = small_disk / "filler"

    def fill(event: ConversionEvent) -> None:
        if isinstance(event, Planned):
            filler.write_bytes(bytes(4_000_000))

    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(pocket), str(small_disk / "one.gguf"), ("Q4_K_M",)), fill)
    assert (caught.value.code, caught.value.exit_status) == ("no_space", 4)
    assert files_in(small_disk) == [filler]


def test_the_memory_limit_is_refused_when_a_row_does_not_fit(tmp_path: Path) -> None:
    source = synthetic(
        tmp_path / "wide.gguf", "llama", [("output.weight", (2, 1 << 18))], layers=1, heads=1, kv_heads=1
    )
    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(source), str(tmp_path / "out.gguf"), ("Q8_0",), memory_mib=33))
    assert (caught.value.code, caught.value.exit_status) == ("no_memory", 4)
    convert(ConversionSpec(str(source), str(tmp_path / "out.gguf"), ("Q8_0",), memory_mib=40))
