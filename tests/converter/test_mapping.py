"""Weights come from a memory map: without a copy, without filling memory, and without dying when the file does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from converter import ConversionSpec, QuenchError, convert, open_model
from converter.sources import SourceModel, SourceTensor
from converter.writer import Layout, PartFile
from tests.converter.folders import (
    bpe_tokenizer,
    join,
    safetensors,
    to_bytes,
    tokenizer_size,
    write_folder,
    write_json,
)
from tests.converter.gguf_files import GgufFile

ROOT = Path(__file__).parents[2]
PLAIN, PERMUTED = "blk.0.ffn_up.weight", "blk.0.attn_q.weight"
STORED = {PLAIN: "model.layers.0.mlp.up_proj.weight", PERMUTED: "model.layers.0.self_attn.q_proj.weight"}

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or counts on Linux's limits and signals")


def make(folder: Path, dtype: str = "BF16", **changes: object) -> dict[str, np.ndarray]:
    tokenizer = bpe_tokenizer()
    _, tensors = write_folder(folder, "llama", vocab_size=tokenizer_size(tokenizer), dtype=dtype, **changes)
    write_json(folder / "tokenizer.json", tokenizer)
    place(folder, tensors, dtype)
    return tensors


def place(folder: Path, tensors: dict[str, np.ndarray], dtype: str, shift: int = 0) -> None:
    """Writes the weights so that they begin ``shift`` bytes behind a multiple of 8 (0: as published files do)."""
    header, data = safetensors(tensors, dtype)
    raw = json.dumps(header).encode()
    raw += b" " * ((shift - len(raw)) % 8)
    (folder / "model.safetensors").write_bytes(join(raw, data))


def tensor(model: SourceModel, name: str) -> SourceTensor:
    return next(t for t in model.tensors if t.name == name)


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A program of its own, so that a signal would be seen and not end the tests."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


# ---- views ----


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rows_as_stored_are_views_of_one_map(dtype: str, tmp_path: Path) -> None:
    values = make(tmp_path, dtype)[STORED[PLAIN]]
    with open_model(tmp_path) as model:
        found = tensor(model, PLAIN)
        first, second = found.raw(0, 8), found.raw(4, 12)
        assert np.shares_memory(first, second), "two calls, one memory"
        assert not first.flags.owndata and not first.flags.writeable and first.flags.c_contiguous
        assert first.tobytes() == to_bytes(values[:8], dtype)
        rows = found.rows(0, 8)
        assert rows.flags.writeable and not np.shares_memory(rows, first)
        found.release(0, 8)
        assert first.tobytes() == to_bytes(values[:8], dtype), "what was given back is fetched again"


def test_permuted_rows_are_the_callers_own(tmp_path: Path) -> None:
    make(tmp_path)
    with open_model(tmp_path) as model:
        found = tensor(model, PERMUTED)
        assert not np.shares_memory(found.raw(0, 8), found.raw(0, 8))


def test_a_gguf_is_mapped_too(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GgufFile().build())
    with open_model(path) as model:
        found = model.tensors[0]
        assert np.shares_memory(found.raw(0, 4), found.raw(0, found.n_rows))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("shift", range(8))
def test_weights_at_odd_places_come_aligned(dtype: str, shift: int, tmp_path: Path) -> None:
    """The format lets a header have any length, and so data begin anywhere."""
    tensors = make(tmp_path, dtype)
    place(tmp_path, tensors, dtype, shift)
    with open_model(tmp_path) as model:
        for name in (PLAIN, PERMUTED):
            found = tensor(model, name)
            view = {"BF16": "<u2", "F16": "<f2"}.get(dtype, "<f4")
            assert found.raw(0, found.n_rows).view(view).flags.aligned
        expected = tensors[STORED[PLAIN]][3:17]
        if dtype in ("F32", "F64"):
            np.testing.assert_array_equal(tensor(model, PLAIN).rows(3, 17), expected)
        else:
            assert tensor(model, PLAIN).raw(3, 17).tobytes() == to_bytes(expected, dtype)


def holds(file: Path) -> list[str]:
    """How this process holds a file: by a descriptor, by a map."""
    links = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    found = ["descriptor"] if file in links else []
    return found + ["map"] * (str(file) in Path("/proc/self/maps").read_text())


@needs_linux
def test_views_outlive_the_model_and_are_all_that_keeps_the_file(tmp_path: Path) -> None:
    values = make(tmp_path, "F32")[STORED[PLAIN]]
    weights = tmp_path / "model.safetensors"
    with open_model(tmp_path) as model:
        assert holds(weights) == ["descriptor"], "nothing is mapped before it is asked for"
        found = tensor(model, PLAIN)
        kept = found.raw(0, 12).view("<f4")
        assert holds(weights) == ["descriptor", "map"]
        model.close()
        model.close()
        with pytest.raises(QuenchError) as caught:
            found.raw(0, 1)
        assert caught.value.code == "closed"
        found.release(0, 12)
    assert "map" in holds(weights)
    np.testing.assert_array_equal(kept, values[:12])
    del kept
    assert holds(weights) == [], "at once, also while the model's object is there"


def test_many_threads_read_one_map(tmp_path: Path) -> None:
    values = make(tmp_path, "F32")[STORED[PLAIN]]
    wrong: list[int] = []
    with open_model(tmp_path) as model:
        found = tensor(model, PLAIN)

        def read(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(200):
                start, stop = sorted(random.integers(0, found.n_rows + 1, 2))
                if found.raw(start, stop).tobytes() != values[start:stop].tobytes():
                    wrong.append(start)
                found.release(start, stop)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---- files that change ----

SHRINKING = """
import os, sys
from converter import QuenchError, open_model
path, weights, how, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
with open_model(path) as model:
    tensors = [model.tensors[-1], next(t for t in model.tensors if "attn_q" in t.name or len(model.tensors) < 4)]
    if how.endswith("warm"):  # its pages are in this process already
        for tensor in tensors:
            tensor.raw(0, tensor.n_rows).sum()
    os.truncate(weights, size)
    for tensor in tensors:
        try:
            getattr(tensor, how.split()[0])(0, tensor.n_rows)
        except QuenchError as error:
            print(error.code, error.exit_status)
"""


@pytest.mark.parametrize("size", [0, 5000])
@pytest.mark.parametrize("how", ["rows", "raw", "rows warm", "raw warm"])
def test_a_file_that_is_cut_after_opening_is_named(how: str, size: int, tmp_path: Path) -> None:
    make(tmp_path / "folder")
    weights = tmp_path / "folder" / "model.safetensors"
    done = run(SHRINKING, tmp_path / "folder", weights, how, size)
    assert done.stdout.split("\n") == ["truncated 3", "truncated 3", ""], (done.returncode, done.stderr)
    path = tmp_path / "model.gguf"
    path.write_bytes(GgufFile().build())
    done = run(SHRINKING, path, path, how, path.stat().st_size - 100)
    assert done.stdout.split("\n") == ["truncated 3", "truncated 3", ""], (done.returncode, done.stderr)


CONVERTING = """
import os, sys
from converter import ConversionSpec, QuenchError, convert
from converter.spec import Planned
def cut(event):
    if isinstance(event, Planned):
        os.truncate(sys.argv[1] + "/model.safetensors", 100_000)
try:
    convert(ConversionSpec(sys.argv[1], sys.argv[2], ("Q8_0", "F16")), cut)
except QuenchError as error:
    print(error.code, error.exit_status, error.detail)
"""


def test_a_source_that_is_cut_before_its_conversion_begins_leaves_nothing(pocket: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in pocket.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    done = run(CONVERTING, folder, tmp_path / "out")
    assert done.stdout.startswith("truncated 3 model.safetensors should hold"), (done.returncode, done.stderr)
    assert list(tmp_path.iterdir()) == [folder]


@needs_linux
def test_bytes_that_go_away_while_they_are_written_are_the_sources_fault(tmp_path: Path) -> None:
    """The system reports them to the writer instead of sending a signal."""
    make(tmp_path / "model")
    part = PartFile(tmp_path / "out.gguf", Layout((b"GGUF",), (), 1 << 20))
    with open_model(tmp_path / "model") as model, part:
        found = tensor(model, PLAIN)
        view = found.raw(0, found.n_rows)
        with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
            file.truncate(0)
        with pytest.raises(QuenchError) as caught:
            part.write(64, view)
    assert caught.value.code == "truncated" and "out.gguf" in caught.value.detail
    assert not list(tmp_path.glob("out*"))


# ---- where nothing can be mapped ----

CROWDED = """
import resource, sys
from pathlib import Path
import numpy as np
from converter import ConversionSpec, convert, open_model
warm = convert(ConversionSpec(sys.argv[2], sys.argv[3] + "/warm.gguf", ("Q8_0",), threads=1))
size = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmSize")).split()[1])
limit = size * 1024 + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with open_model(sys.argv[1]) as model:
    print(np.shares_memory(model.tensors[0].raw(0, 4), model.tensors[0].raw(0, 4)))
convert(ConversionSpec(sys.argv[1], sys.argv[3] + "/crowded.gguf", ("Q8_0",), threads=1))
"""


def big(folder: Path) -> int:
    """A model of 300 MB, nearly all of it a hole of zeros in one layer; returns the size of its file."""
    tokenizer, width = bpe_tokenizer(), 768 << 10
    config, tensors = write_folder(folder, "qwen3", vocab_size=tokenizer_size(tokenizer), num_hidden_layers=1)
    write_json(folder / "config.json", {**config, "intermediate_size": width})
    write_json(folder / "tokenizer.json", tokenizer)
    hidden = config["hidden_size"]
    header, data = safetensors({name: values for name, values in tensors.items() if ".mlp." not in name}, "BF16")
    end = len(data)
    for name, shape in {"gate": [width, hidden], "up": [width, hidden], "down": [hidden, width]}.items():
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * width * hidden]}
        header[f"model.layers.0.mlp.{name}_proj.weight"] = entry
        end += 2 * width * hidden
    weights = folder / "model.safetensors"
    weights.write_bytes(join(header, data))
    with weights.open("r+b") as file:
        file.truncate(file.seek(0, 2) + end - len(data))
    return weights.stat().st_size


@needs_linux
def test_a_source_that_cannot_be_mapped_is_read(pocket: Path, tmp_path: Path) -> None:
    """An address space with no room for the map: the weights are read by position, and the file is the same."""
    folder = tmp_path / "model"
    big(folder)
    done = run(CROWDED, folder, pocket, tmp_path)
    assert done.stdout.split() == ["False"], done.stderr
    convert(ConversionSpec(str(folder), str(tmp_path / "mapped.gguf"), ("Q8_0",), threads=1))
    assert (tmp_path / "crowded.gguf").read_bytes() == (tmp_path / "mapped.gguf").read_bytes()


# ---- memory ----

MEASURED = """
import sys
from converter import ConversionSpec, convert
from converter.spec import Progress
anonymous = []
def note(event):
    if isinstance(event, Progress):
        anonymous.append(event.memory)
result = convert(ConversionSpec(sys.argv[1], sys.argv[2], ("Q8_0",), threads=2), note)
print(max(anonymous), result.peak_rss)
"""


@needs_linux
def test_a_large_model_neither_fills_memory_nor_the_resident_size(tmp_path: Path) -> None:
    size = big(tmp_path / "model")
    done = run(MEASURED, tmp_path / "model", tmp_path / "out.gguf")
    assert done.returncode == 0, done.stderr
    anonymous, peak = map(int, done.stdout.split())
    assert size > 280 << 20
    assert anonymous < 60 << 20, "no copy of the weights"
    assert peak < 110 << 20, "and what is mapped of them is given back"
