"""What counts as a model on disk, how it is called, and what is said of a broken one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import resources
from app import library, paths
from converter.spec import ModelInfo, QuenchError


def info(**changes: object) -> ModelInfo:
    """A description with only the given fields set."""
    base = library.broken("/models/x.gguf", QuenchError("x", "t"))
    return msgspec.structs.replace(base, problems=(), name="", **changes)


def make_hub_model(hub: Path, repository: str) -> Path:
    """A repository as the Hugging Face cache lays it out: snapshots of links into blobs."""
    home = hub / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        blob = home / "blobs" / f"blob-of-{name}"
        blob.write_bytes(b"{}")
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_files_and_folders_are_found_once_and_others_are_not(tmp_path: Path) -> None:
    wanted = [tmp_path / "deep" / "er" / "a.gguf", tmp_path / "B.GGUF", tmp_path / "split-00001-of-00003.gguf"]
    others = ["split-00002-of-00003.gguf", "mmproj-model-f16.gguf", ".hidden.gguf", "notes.txt", "a.gguf.part"]
    for file in [*wanted, *(tmp_path / name for name in others)]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    folder = tmp_path / "hf model ü"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "only-config").mkdir()
    (tmp_path / "only-config" / "config.json").write_text("{}")
    (tmp_path / "again.gguf").symlink_to(tmp_path / "B.GGUF")
    found = list(library.candidates([str(tmp_path), str(tmp_path / "deep"), str(tmp_path / "missing")]))
    assert len(found) == 4
    assert {os.path.realpath(path) for path in found} == {os.path.realpath(path) for path in [*wanted, folder]}


def test_a_file_given_directly_is_its_own_candidate(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"")
    assert list(library.candidates([str(file), str(tmp_path / "b.txt")])) == [file]


def test_a_loop_of_links_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "m.gguf").write_bytes(b"")
    assert list(library.candidates([str(tmp_path)])) == [tmp_path / "a" / "m.gguf"]


def test_the_hub_cache_is_found_as_huggingface_hub_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import subprocess
    import sys

    for name, value in (("HF_HUB_CACHE", tmp_path / "c"), ("HF_HOME", tmp_path / "h"), ("XDG_CACHE_HOME", tmp_path)):
        for other in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, str(value))
        program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
        theirs = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
        )
        assert str(library.hub_cache()) == theirs.stdout.strip(), name


def test_a_model_in_the_hub_cache_has_its_repositorys_name(tmp_path: Path) -> None:
    snapshot = make_hub_model(tmp_path / "hub", "acme/Tiny-Model")
    (found,) = library.candidates([str(tmp_path / "hub")])
    assert found == snapshot
    assert library.base_name(library.describe(found)) == "Tiny-Model"


def test_pocket_and_its_file_belong_together(pocket: Path, pocket_gguf: Callable[[str], Path]) -> None:
    folder, file = library.describe(pocket), library.describe(pocket_gguf("Q4_K_M"))
    assert folder.problems == file.problems == ()
    assert library.base_name(folder) == library.base_name(file) == "Pocket"
    assert (library.type_label(folder), library.type_label(file)) == ("BF16", "Q4_K_M")
    assert folder.parameters == file.parameters == 5_246_208


@pytest.mark.parametrize("type_name", ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q3_K_S", "Q2_K"])
def test_the_header_says_the_type_whatever_the_file_is_called(
    pocket_gguf: Callable[[str], Path], tmp_path: Path, type_name: str
) -> None:
    renamed = tmp_path / "model-Q1_0.gguf"
    renamed.symlink_to(pocket_gguf(type_name))
    assert library.type_label(library.describe(renamed)) == type_name


@pytest.mark.parametrize(
    ("stem", "label", "base"),
    [
        ("Qwen3-0.6B-Q4_K_M", "Q4_K_M", "Qwen3-0.6B"),
        ("qwen2.5-7b-instruct-q8_0", "Q8_0", "qwen2.5-7b-instruct"),
        ("Llama-3.2-1B-Instruct-IQ3_XXS", "IQ3_XXS", "Llama-3.2-1B-Instruct"),
        ("gemma-3-4b-it-BF16", "BF16", "gemma-3-4b-it"),
        ("Mistral.Q5_K_S", "Q5_K_S", "Mistral"),
        ("big-Q6_K-00001-of-00002", "Q6_K", "big"),
        ("model-fp16", "F16", "model"),
        ("plain", "", "plain"),
    ],
)
def test_without_a_header_the_file_name_tells(stem: str, label: str, base: str) -> None:
    entry = info(path=f"/models/{stem}.gguf")
    assert (library.type_label(entry), library.base_name(entry)) == (label, base)


def test_a_folder_is_called_by_its_most_common_matrix_type() -> None:
    assert library.type_label(info(kind="hf", types={"F32": 40, "BF16": 30, "F16": 2})) == "BF16"
    assert library.type_label(info(kind="hf", types={"F32": 3})) == "F32"


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"not a model at all", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16],
    ids=["empty", "cut", "text", "lying"],
)
def test_a_broken_file_is_listed_with_what_is_wrong(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "brökën file.gguf"
    file.write_bytes(content)
    entry = library.describe(file)
    assert entry.path == str(file)
    assert entry.bytes == len(content)
    assert entry.kind == "gguf"
    assert len(entry.problems) == 1
    assert len(entry.problems[0]) > 20


def test_a_folder_without_a_known_architecture_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["NobodyKnowsForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (problem,) = library.describe(tmp_path).problems
    assert "NobodyKnows" in problem or "safetensors" in problem


def test_short_entries_have_no_tensors_and_no_long_values(pocket: Path) -> None:
    entry = library.describe(pocket)
    assert entry.tensors == ()
    assert entry.chat_template is None
    assert all(len(str(value)) <= 200 for value in entry.metadata.values())
    assert len(msgspec.json.encode(entry)) < 20_000


def test_default_folders_are_ours_and_the_cache_if_there_is_one(quench_home: Path) -> None:
    assert library.default_folders() == (str(paths.models()),)
    cache = quench_home.parent / "hf-home" / "hub"
    cache.mkdir(parents=True)
    assert library.default_folders() == (str(paths.models()), str(cache))


def test_the_bundled_model_is_there() -> None:
    assert library.is_model_folder(resources.path("pocket"))


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/a/pocket-Q4_K_M.gguf", "Pocket · Q4_K_M"),
        ("/a/Some-Model-7B.q8_0.gguf", "Some-Model-7B · Q8_0"),
        ("/a/large-BF16-00001-of-00003.gguf", "large · BF16"),
        ("/a/plain.gguf", "plain"),
    ],
)
def test_a_file_of_which_only_the_path_is_known_has_a_title(path: str, title: str) -> None:
    assert library.file_title(path) == title
