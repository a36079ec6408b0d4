"""Options beside the types, each against what ``llama_model_quantize`` does with its own parameter of the kind."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from converter import convert, open_model, plan
from converter.options import parse_layers, parse_override, parse_size
from converter.recipes import RECIPES
from converter.spec import (
    Cancelled,
    ConversionEvent,
    ConversionResult,
    ConversionSpec,
    Paused,
    Planned,
    QuenchError,
    TensorDone,
)
from tests.sdist import unpack

from .gguf_files import GgufFile, number_key, string_key
from .llama_quantize import chosen_types, synthetic
from .llama_quantize import quantize as llama_quantize

Q4_K_M, Q4_0 = (RECIPES[name].file_type for name in ("Q4_K_M", "Q4_0"))
"""Where the mix is not what is asked about, the type that llama.cpp needs the least time for."""


@pytest.fixture
def full(pocket_gguf: Callable[[str], Path]) -> Path:
    return pocket_gguf("BF16")


def tensors_of(*paths: Path) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor, in the files' order."""
    found = [tensor for path in paths for tensor in gguf.GGUFReader(path).tensors]
    return {t.name: (int(t.tensor_type), tuple(map(int, t.shape)), t.data.tobytes()) for t in found}


def metadata_of(path: Path) -> dict[str, tuple[str, Any]]:
    fields = gguf.GGUFReader(path).fields
    return {k: (f.types[0].name, f.contents()) for k, f in fields.items() if not k.startswith("GGUF.")}


def loads(path: Path) -> int:
    """Parameters of a model as the engine counts them; fails the test if it does not load."""
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, path
    try:
        return int(llama_cpp.llama_model_n_params(model))
    finally:
        llama_cpp.llama_model_free(model)


def refused(spec: ConversionSpec) -> tuple[str, int]:
    with pytest.raises(QuenchError) as caught:
        convert(spec)
    assert caught.value.hint
    return caught.value.code, caught.value.exit_status


def ours(source: Path, target: Path, kind: str = "Q4_K_M", **options: Any) -> ConversionResult:
    return convert(ConversionSpec(str(source), str(target), (kind,), **options))


# ---- metadata ----


OVERRIDES: tuple[tuple[str, int | float | bool | str], ...] = (
    ("general.name", "Überschrieben"),
    ("llama.attention.layer_norm_rms_epsilon", 0.25),
    ("llama.context_length", 64),
    ("tokenizer.ggml.add_bos_token", False),
    ("quench.test.new", -7),
    ("general.file_type", 3),
)
AS_TEXT = (
    "general.name=str:Überschrieben",
    "llama.attention.layer_norm_rms_epsilon=float:0.25",
    "llama.context_length=int:64",
    "tokenizer.ggml.add_bos_token=bool:false",
    "quench.test.new=int:-7",
    "general.file_type=int:3",
)


def test_overridden_metadata_equals_llama_cpps(full: Path, tmp_path: Path) -> None:
    theirs, mine = tmp_path / "theirs.gguf", tmp_path / "mine.gguf"
    llama_quantize(full, theirs, Q4_0, metadata=OVERRIDES)
    ours(full, mine, "Q4_0", override_kv=AS_TEXT)
    assert metadata_of(mine) == metadata_of(theirs)
    assert metadata_of(mine)["quench.test.new"] == ("UINT32", 7)
    assert metadata_of(mine) != metadata_of(full)
    assert tensors_of(mine) == tensors_of(theirs)


def test_overridden_numbers_change_the_mix_as_in_llama_cpp(tmp_path: Path) -> None:
    tensors = [("token_embd.weight", (64, 256)), ("output.weight", (64, 256))]
    for layer in range(8):
        tensors += [(f"blk.{layer}.attn_v.weight", (64, 256)), (f"blk.{layer}.ffn_down.weight", (256, 256))]
    source = synthetic(tmp_path / "s.gguf", "llama", tensors, layers=8, heads=4, kv_heads=4, experts=4)
    changed = (("llama.expert_count", 8), ("llama.attention.head_count_kv", 1))
    texts = ("llama.expert_count=int:8", "llama.attention.head_count_kv=int:1")
    theirs = chosen_types(source, Q4_K_M, metadata=changed)
    planned = plan(source, ConversionSpec(str(source), str(tmp_path / "o.gguf"), ("Q4_K_M",), override_kv=texts))
    assert {t.name: t.type for t in planned.outputs[0].tensors} == theirs
    assert theirs != chosen_types(source, Q4_K_M)


def test_a_folder_takes_overrides_too(pocket: Path, tmp_path: Path) -> None:
    ours(pocket, tmp_path / "o.gguf", "Q8_0", override_kv=("general.name=str:=a:b", "general.name=str:c=d"))
    assert metadata_of(tmp_path / "o.gguf")["general.name"] == ("STRING", "c=d")


@pytest.mark.parametrize(
    "text",
    ["", "key", "key=int", "=int:1", "key=int:x", "key=int:4294967296", "key=bool:yes", "key=float:", "key=list:1",
     "split.no=int:1", "general.alignment=int:64", "key=uint8:256", "key=int8:-129", "key=uint64:-1", "key=uint16:1.5",
     "key=float32:1e39", "key=[int32]:1",
     "key=[int32]:{}", "key=[int32]:[1,true]", "key=[uint8]:[1,256]",
     "key=[string]:[1]", "key=[bool]:[0]", "key=[list]:[]", "key=[]:[]", "key=[float32]:[\"1\"]",
     "key=[int32]:" + "[" * 9999,
     "k" * 70000 + "=int:1", "a\nb=int:1"],
)  # fmt: skip
def test_overrides_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(QuenchError) as caught:
        parse_override(text)
    assert (caught.value.code, caught.value.exit_status) == ("bad_override", 2)


EXACT = {
    "quench.a": ("uint8:255", "UINT8", 255),
    "quench.b": ("int8:-128", "INT8", -128),
    "quench.c": ("int16:-32768", "INT16", -32768),
    "quench.d": ("uint64:18446744073709551615", "UINT64", 2**64 - 1),
    "quench.e": ("int64:-9223372036854775808", "INT64", -(2**63)),
    "quench.f": ("float64:0.1", "FLOAT64", 0.1),
    "quench.g": ("string:a:b=c", "STRING", "a:b=c"),
    "quench.h": ('[string]:["ä", ""]', "ARRAY", ["ä", ""]),
    "quench.i": ("[int32]:[-1, 2]", "ARRAY", [-1, 2]),
    "quench.j": ("[float64]:[1, 0.1]", "ARRAY", [1.0, 0.1]),
    "quench.k": ("[bool]:[true, false]", "ARRAY", [True, False]),
}


def test_an_edited_copy_has_other_metadata_and_the_same_tensors(
    pocket_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    """Another reader finds every type and value that was asked for, nothing else changed, and the source as it was."""
    source, mine = pocket_gguf("Q4_K_M"), tmp_path / "mine.gguf"
    before = source.read_bytes()
    gone = ("tokenizer.ggml.add_bos_token", "general.file_type")
    ours(source, mine, "copy", override_kv=tuple(f"{k}={text}" for k, (text, _, _) in EXACT.items()), remove_kv=gone)
    expected = {key: value for key, value in metadata_of(source).items() if key not in gone}
    assert metadata_of(mine) == expected | {key: (kind, value) for key, (_, kind, value) in EXACT.items()}
    assert tensors_of(mine) == tensors_of(source)
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("key", ["general.architecture", "general.alignment", "split.count", "no.such.key", ""])
def test_keys_that_cannot_go_are_refused(full: Path, tmp_path: Path, key: str) -> None:
    assert refused(ConversionSpec(str(full), str(tmp_path / "o.gguf"), ("copy",), remove_kv=(key,))) == (
        "bad_override",
        2,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_copy_does_not_go_over_its_source(pocket_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    source = str(shutil.copy(pocket_gguf("Q8_0"), tmp_path / "s.gguf"))
    before = Path(source).read_bytes()
    for overwrite in (False, True):
        refused(ConversionSpec(source, source, ("copy",), override_kv=("a=int:1",), overwrite=overwrite))
    assert Path(source).read_bytes() == before


# ---- layers ----


@pytest.mark.parametrize("layers", [(1,), (0, 2), (0, 1, 3)])
@pytest.mark.parametrize("kind", ["Q4_K_M", pytest.param("Q3_K_M", marks=pytest.mark.slow)])  # another mix of the kind
def test_pruned_layers_equal_llama_cpps(layers: tuple[int, ...], kind: str, full: Path, tmp_path: Path) -> None:
    theirs, mine = tmp_path / "theirs.gguf", tmp_path / "mine.gguf"
    llama_quantize(full, theirs, RECIPES[kind].file_type, prune=layers)
    ours(full, mine, kind, prune_layers=layers)
    assert tensors_of(mine) == tensors_of(theirs)
    assert metadata_of(mine) == metadata_of(theirs)
    assert loads(mine) == loads(theirs) < loads(full)


def test_importance_follows_a_layer_to_its_new_number(full: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    entries = {
        t.name: random.random(int(t.shape[0]), np.float32) ** 3 + np.float32(1e-3)
        for t in gguf.GGUFReader(full).tensors
        if len(t.shape) == 2 and t.name.startswith("blk.")
    }
    theirs, mine, matrix = tmp_path / "theirs.gguf", tmp_path / "mine.gguf", tmp_path / "m.dat"
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", 1, values.size), values.tobytes()]
    matrix.write_bytes(b"".join(parts))
    llama_quantize(full, theirs, Q4_0, prune=(0,), importance=entries)
    ours(full, mine, "Q4_0", prune_layers=(0,), imatrix=str(matrix))
    assert tensors_of(mine) == tensors_of(theirs)
    ours(full, tmp_path / "without.gguf", "Q4_0", prune_layers=(0,))
    assert tensors_of(mine) != tensors_of(tmp_path / "without.gguf")
    assert metadata_of(mine)["quantize.imatrix.entries_count"] == ("UINT32", len(entries))


def test_lists_with_a_value_a_layer_lose_it_too(tmp_path: Path) -> None:
    """llama-quantize leaves them as they are, and the engine then refuses the file."""
    source = tmp_path / "lists.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_block_count(3)
    writer.add_head_count([4, 2, 8])
    writer.add_array("llama.other", [1, 2])
    for layer in range(3):
        writer.add_tensor(f"blk.{layer}.attn_v.weight", np.full((4, 32), layer, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours(source, tmp_path / "o.gguf", "Q8_0", prune_layers=(1,))
    found = metadata_of(tmp_path / "o.gguf")
    assert (found["llama.attention.head_count"][1], found["llama.other"][1]) == ([4, 8], [1, 2])
    assert found["llama.block_count"] == ("UINT32", 2)
    assert list(tensors_of(tmp_path / "o.gguf")) == ["blk.0.attn_v.weight", "blk.1.attn_v.weight"]


def test_layers_that_are_not_there_are_refused(full: Path, tmp_path: Path) -> None:
    layers = open_layers(full)
    for wrong in ((layers,), tuple(range(layers))):
        spec = ConversionSpec(str(full), str(tmp_path / "o.gguf"), ("Q8_0",), prune_layers=wrong)
        assert refused(spec) == ("bad_layers", 2)
    assert parse_layers(" 3, 7-9,8 ,") == (3, 7, 8, 9)
    for text in ("x", "3-1", "1-", "-1", "99999999"):
        with pytest.raises(QuenchError) as caught:
            parse_layers(text)
        assert caught.value.code == "bad_layers"


def open_layers(path: Path) -> int:
    with open_model(path) as model:
        return model.info.layers


# ---- copy ----


def test_copy_equals_llama_cpps(pocket_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    source = pocket_gguf("Q4_K_M")
    theirs, mine = tmp_path / "theirs.gguf", tmp_path / "mine.gguf"
    llama_quantize(source, theirs, 0, copy=True, metadata=(("general.name", "other"),))
    result = ours(source, mine, "copy", override_kv=("general.name=str:other",))
    assert tensors_of(mine) == tensors_of(theirs) == tensors_of(source)
    assert metadata_of(mine) == metadata_of(theirs)
    assert set(result.outputs[0].error.values()) == {0.0}


def test_a_folder_has_nothing_to_copy(pocket: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "o.gguf")
    assert refused(ConversionSpec(str(pocket), target, ("copy",))) == ("usage", 2)
    assert refused(ConversionSpec(str(pocket), target, ("Q8_0",), keep_split=True)) == ("usage", 2)


# ---- several files ----


LIMIT = 600_000


def parts_of(result: ConversionResult, index: int = 0) -> list[Path]:
    return [Path(file) for file in result.outputs[index].files]


def test_a_split_output_is_the_same_model(full: Path, pocket: Path, tmp_path: Path) -> None:
    whole = ours(full, tmp_path / "whole.gguf")
    spec = ConversionSpec(str(full), str(tmp_path / "parts.gguf"), ("Q4_K_M",), split_size=LIMIT)
    result = convert(spec)
    files = parts_of(result)
    assert len(files) > 3
    assert [file.name for file in files] == [
        f"parts-{number + 1:05d}-of-{len(files):05d}.gguf" for number in range(len(files))
    ]
    assert {file.name for file in tmp_path.iterdir()} >= {file.name for file in files}
    assert not (tmp_path / "parts.gguf").exists()
    assert result.outputs[0].path == str(files[0])
    assert result.outputs[0].bytes == sum(file.stat().st_size for file in files)
    assert list(tensors_of(*files).items()) == list(tensors_of(tmp_path / "whole.gguf").items())
    assert result.outputs[0].error == whole.outputs[0].error
    assert loads(files[0]) == loads(tmp_path / "whole.gguf")
    planned = plan(full, spec).outputs[0]
    assert (planned.bytes, planned.files) == (result.outputs[0].bytes, result.outputs[0].files)
    everything = set(metadata_of(tmp_path / "whole.gguf"))
    for number, file in enumerate(files):
        found = metadata_of(file)
        assert found["split.no"] == ("UINT16", number)
        assert found["split.count"] == ("UINT16", len(files))
        assert found["split.tensors.count"][0] == "INT32"
        own = {key for key in found if not key.startswith("split.")}
        assert own == (everything if number == 0 else set())
        sizes = [-(-int(t.n_bytes) // 32) * 32 for t in gguf.GGUFReader(file).tensors]
        assert sum(sizes) <= LIMIT or len(sizes) == 1


def test_any_part_stands_for_the_whole_as_a_source(full: Path, tmp_path: Path) -> None:
    result = ours(full, tmp_path / "parts.gguf", "BF16", split_size=LIMIT)
    files = parts_of(result)
    with open_model(files[2]) as model:
        assert model.info.bytes == sum(file.stat().st_size for file in files)
        assert (model.info.name, model.info.problems) == ("parts", ())
        assert model.info.path == str(files[0])
    ours(files[-1], tmp_path / "again.gguf")
    ours(full, tmp_path / "direct.gguf")
    assert tensors_of(tmp_path / "again.gguf") == tensors_of(tmp_path / "direct.gguf")
    assert metadata_of(tmp_path / "again.gguf") == metadata_of(tmp_path / "direct.gguf")


def test_kept_splits_equal_llama_cpps(full: Path, tmp_path: Path) -> None:
    files = parts_of(ours(full, tmp_path / "parts.gguf", "BF16", split_size=LIMIT))
    llama_quantize(files[0], tmp_path / "theirs", Q4_0, keep_split=True)
    mine = parts_of(ours(files[0], tmp_path / "mine.gguf", "Q4_0", keep_split=True))
    theirs = sorted(tmp_path.glob("theirs-*.gguf"))
    assert [file.name.replace("mine", "theirs") for file in mine] == [file.name for file in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert list(tensors_of(one).items()) == list(tensors_of(other).items())
        assert metadata_of(one) == metadata_of(other)
    assert loads(mine[0]) == loads(full)
    spec = ConversionSpec(str(files[0]), str(tmp_path / "o.gguf"), ("Q8_0",), keep_split=True, split_size=LIMIT)
    assert refused(spec) == ("usage", 2)


def test_a_part_alone_can_be_looked_at_but_not_converted(full: Path, tmp_path: Path) -> None:
    files = parts_of(ours(full, tmp_path / "parts.gguf", "BF16", split_size=LIMIT))
    files[1].unlink()
    with open_model(files[0]) as model:
        assert files[1].name in model.info.problems[0]
    assert refused(ConversionSpec(str(files[0]), str(tmp_path / "o.gguf"), ("Q8_0",))) == ("incomplete", 3)
    renamed = files[0].rename(tmp_path / "odd.gguf")
    with open_model(renamed) as model:
        assert "Its name does not say" in model.info.problems[0]


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    def part(number: int, count: int, total: int = 2, name: str = "a.weight") -> bytes:
        split = [number_key("split.no", number), number_key("split.count", count)]
        split.append(number_key("split.tensors.count", total))
        return GgufFile(
            keys=[string_key("general.architecture", "llama"), *split],
            tensors=[gguf_tensor(name)],
        ).build()

    from .gguf_files import tensor

    def gguf_tensor(name: str) -> bytes:
        return tensor(name, (32, 4), 0, 0)

    first, second = (tmp_path / f"m-{number:05d}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(part(0, 2))
    for wrong, words in (
        (part(0, 2, name="b.weight"), "part 1 of 2, its name 2 of 2"),
        (part(1, 3, name="b.weight"), "part 2 of 3"),
        (part(1, 2), "in another part as well"),
    ):
        second.write_bytes(wrong)
        with pytest.raises(QuenchError, match=words) as caught:
            open_model(first)
        assert caught.value.code == "bad_header"
    second.write_bytes(part(1, 2, name="b.weight"))
    with open_model(second) as model:
        assert [t.name for t in model.tensors] == ["a.weight", "b.weight"]
    first.write_bytes(part(0, 2, total=3))
    with pytest.raises(QuenchError, match="2 tensors, 3 were announced"):
        open_model(second)


def test_a_split_output_is_whole_or_absent(full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    spec = ConversionSpec(str(full), str(folder / "o.gguf"), ("Q4_K_M",), split_size=LIMIT)
    calls = 0

    def stop_late() -> bool:
        nonlocal calls
        calls += 1
        return calls > 6

    with pytest.raises(Cancelled):
        convert(spec, lambda event: None, stop_late)
    assert not folder.exists()
    files = parts_of(convert(spec))
    with pytest.raises(QuenchError) as caught:
        convert(spec)
    assert caught.value.code == "exists"
    assert files[0].name in caught.value.detail
    assert refused(ConversionSpec(str(files[1]), str(folder / "o.gguf"), ("copy",), split_size=LIMIT, overwrite=True)) \
        == ("output_is_source", 2)  # fmt: skip


def forget_after(target: Path, count: int) -> None:
    """Leave ``count`` tensors in the journal of ``target``: on a busy disk all may be done before the pause is seen."""
    (journal,) = target.parent.glob("*.jrnl")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > count
    journal.write_bytes(b"".join(lines[: 1 + count]))


@pytest.mark.parametrize("after", [1, 25])
def test_a_split_output_goes_on_after_a_pause(
    after: int, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUENCH_KERNELS", "reference")  # slow enough to be interrupted before the end
    folder, whole = tmp_path / "out", tmp_path / "whole"
    folder.mkdir()
    whole.mkdir()
    done = 0

    def count(event: ConversionEvent) -> None:
        nonlocal done
        done += isinstance(event, TensorDone)

    slow = {"split_size": LIMIT, "threads": 1, "refined": True}
    spec = ConversionSpec(str(full), str(folder / "o.gguf"), ("Q4_K_M",), resume=True, **slow)
    with pytest.raises(Paused):
        convert(spec, count, paused=lambda: done >= after, journal_every=0)
    assert not list(folder.glob("*.gguf"))
    forget_after(folder / "o.gguf", after)
    monkeypatch.undo()
    told: list[ConversionEvent] = []
    resumed = convert(spec, told.append)
    (planned,) = (event for event in told if isinstance(event, Planned))
    assert 0 < planned.kept < 1
    direct = ours(full, whole / "o.gguf", **slow)
    assert resumed.outputs[0].error == direct.outputs[0].error
    assert resumed.outputs[0].relative_error == direct.outputs[0].relative_error
    made, expected = sorted(folder.iterdir()), sorted(whole.iterdir())
    assert [file.name for file in made] == [file.name for file in expected]
    for one, other in zip(made, expected, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_size(text) for text in ("2GiB", "500M", "1.5 MB", "4096")] == [2 << 30, 500_000_000, 1_500_000, 4096]
    for text in ("", "x", "0", "-1M", "5 parsecs", "."):
        with pytest.raises(QuenchError) as caught:
            parse_size(text)
        assert (caught.value.code, caught.value.exit_status) == ("bad_size", 2)


BUILD_INFO = """
const char * llama_commit(void) { return "test"; }
const char * llama_compiler(void) { return "test"; }
const char * llama_build_target(void) { return "test"; }
int llama_build_number(void) { return 0; }
"""


@pytest.fixture(scope="module")
def gguf_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's own splitter, built from the pinned release's source archive against the installed engine."""
    import os

    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or sys.platform == "win32":
        pytest.skip("there is no C++ compiler here to build llama-gguf-split with")
    folder = tmp_path_factory.mktemp("splitter")
    given = os.environ.get("QUENCH_LLAMA_SDIST")
    root = (Path(given) if given else unpack(folder, "/vendor/llama.cpp/")) / "vendor" / "llama.cpp"
    library = Path(llama_cpp.__file__).parent / "lib"
    (folder / "info.cpp").write_text('#include "build-info.h"\n' + BUILD_INFO)
    includes = [f"-I{root / part}" for part in ("include", "ggml/include", "common", "vendor")]
    sources = [str(root / "tools/gguf-split/gguf-split.cpp"), str(folder / "info.cpp")]
    links = [f"-L{library}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{library}"]
    tool = folder / "gguf-split"
    subprocess.run([compiler, "-std=c++17", *includes, *sources, *links, "-o", str(tool)], check=True)
    return tool


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("megabytes", [1, 2])
def test_files_equal_those_of_llama_gguf_split(
    gguf_split: Path, megabytes: int, pocket_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    source = pocket_gguf("Q8_0")
    command = [str(gguf_split), "--split", "--split-max-size", f"{megabytes}M", str(source), str(tmp_path / "theirs")]
    subprocess.run(command, check=True, capture_output=True)
    mine = parts_of(ours(source, tmp_path / "mine.gguf", "copy", split_size=megabytes * 1_000_000))
    theirs = sorted(tmp_path.glob("theirs-*.gguf"))
    assert len(mine) == len(theirs) > 1
    for one, other in zip(mine, theirs, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
