"""Other programs' models are found where those programs keep them, under the names that they give them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import converter
from app.local import places
from app.local.entry import BROKEN, PARTIAL, Listed
from tests.converter.gguf_files import GgufFile, number_key, string_key
from tests.local.conftest import hub_file, linked, ollama_model, write_manifest

Gguf = Callable[[str], Path]
Look = Callable[..., dict[str, Listed]]


def roots(kind: str) -> list[Path]:
    return [Path(place.root) for place in places.all_places() if place.kind == kind]


def test_every_place_is_where_its_program_has_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert roots("lmstudio") == [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    assert roots("ollama") == [home / "ollama"]
    monkeypatch.delenv("OLLAMA_MODELS")
    assert roots("ollama")[0] == home / ".ollama" / "models"
    monkeypatch.setattr("sys.platform", "linux")
    assert roots("gpt4all") == [home / ".local" / "share" / "nomic.ai" / "GPT4All"]
    assert roots("jan") == [home / ".local" / "share" / "Jan" / "data" / "llamacpp" / "models"]
    monkeypatch.setattr("sys.platform", "darwin")
    assert roots("gpt4all") == [home / "Library" / "Application Support" / "nomic.ai" / "GPT4All"]
    monkeypatch.setattr("sys.platform", "win32")
    assert roots("gpt4all") == [home / "AppData" / "Local" / "nomic.ai" / "GPT4All"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"downloadsFolder": "/data/lm"}', "/data/lm"),
        ('{"downloadsFolder": "relative/lm"}', ""),
        ('{"downloadsFolder": "/"}', ""),
        ('{"downloadsFolder": 7}', ""),
        ('{"downloadsFolder": "/x\\u0000y"}', ""),
        ("[1, 2]", ""),
        ("{", ""),
        ("[" * 100_000, ""),
        (" " * (2 << 20) + '{"downloadsFolder": "/data/lm"}', ""),
    ],
)
def test_the_folder_of_lm_studios_settings_is_looked_into(home: Path, text: str, wanted: str) -> None:
    (home / ".lmstudio").mkdir(parents=True)
    (home / ".lmstudio" / "settings.json").write_text(text)
    assert [str(root) for root in roots("lmstudio")[2:]] == ([wanted] if wanted else [])


def test_models_of_folders_full_of_files(home: Path, look: Look, pocket_gguf: Gguf) -> None:
    q8, q2 = pocket_gguf("Q8_0"), pocket_gguf("Q2_K")
    studio = linked(q8, roots("lmstudio")[0] / "acme" / "Pocket-GGUF" / "Pocket-Q8_0.gguf")
    four = linked(q2, roots("gpt4all")[0] / "pocket.Q2_K.gguf")
    jan = linked(q8, roots("jan")[0] / "acme" / "Pocket-Q8" / "model.gguf")
    incomplete = roots("gpt4all")[0] / "incomplete-big.gguf"
    incomplete.write_bytes(b"GGUF")
    found = look(*((kind, root) for kind in ("lmstudio", "gpt4all", "jan") for root in roots(kind)))
    # The same file in two places is listed once only if it is the same path: links have names of their own.
    assert {path: each.place for path, each in found.items()} == {
        str(studio): "lmstudio",
        str(four): "gpt4all",
        str(jan): "jan",
        str(incomplete): "gpt4all",
    }
    assert found[str(jan)].info.name == "Pocket-Q8"
    assert found[str(incomplete)].state == PARTIAL
    assert all(each.info.layers == 6 for each in found.values() if not each.state)


def test_ollamas_models_have_the_names_that_people_type(home: Path, look: Look, pocket_gguf: Gguf) -> None:
    store = roots("ollama")[0]
    blob = ollama_model(store, pocket_gguf("Q8_0"), "registry.ollama.ai", "library", "pocket", "q8")
    ollama_model(store, pocket_gguf("Q8_0"), "registry.ollama.ai", "library", "pocket", "latest")
    other = ollama_model(store, pocket_gguf("Q2_K"), "hf.co", "acme", "Pocket-GGUF", "Q2_K")
    (store / "blobs" / ("sha256-" + "2" * 64 + "-partial")).write_bytes(b"GGUF")
    found = look(("ollama", store))
    assert found[str(blob)].title == "pocket:latest, pocket:q8"
    assert found[str(other)].title == "hf.co/acme/Pocket-GGUF:Q2_K"
    assert [each.state for each in found.values()].count(PARTIAL) == 1
    assert len(found) == 3
    assert found[str(blob)].info.problems == ()
    with converter.open_model(blob) as model:  # what chats and measures opens it under this name too
        assert model.info.kind == "gguf"


HOSTILE = {
    "not json": "{",
    "a list": "[]",
    "no layers": '{"layers": {}}',
    "deep": "[" * 100_000,
    "numbers": '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": 7, "size": 1}]}',
    "no model": '{"layers": [{"mediaType": "application/vnd.ollama.image.template"}]}',
    "huge": " " * (2 << 20),
    "not there": json.dumps(
        {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "3" * 64, "size": 9}]}
    ),
} | {
    f"traversal {number}": json.dumps(
        {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 9}]}
    )
    for number, digest in enumerate(
        [
            "sha256:../../../secret",
            "../secret",
            "sha256:" + "../" * 21 + "a",
            "/etc/passwd",
            "sha256:" + "A" * 64,
            "x" * 9999,
        ]
    )
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_a_listed_problem(home: Path, look: Look, case: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (tmp_path / "secret").write_bytes(b"GGUF secret")
    manifest = write_manifest(store, HOSTILE[case])
    (listed,) = look(("ollama", store)).values()
    assert (listed.path, listed.title, listed.state) == (str(manifest), "pocket:q8", BROKEN)
    assert len(listed.info.problems[0]) > 20
    assert {file.path for file in listed.files} == {str(manifest)}


def test_a_blob_that_is_a_link_out_of_the_store_is_not_followed(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    store = tmp_path / "store"
    blob = ollama_model(store, pocket_gguf("Q2_K"))
    blob.unlink()
    blob.symlink_to(pocket_gguf("Q2_K"))
    (listed,) = look(("ollama", store)).values()
    assert listed.state == BROKEN
    assert "leads out" in listed.info.problems[0]


def test_a_blob_cut_short_is_broken(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    store = tmp_path / "store"
    blob = ollama_model(store, pocket_gguf("Q2_K"))
    data = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(data[:-1000])
    (listed,) = look(("ollama", store)).values()
    assert (listed.path, listed.state) == (str(blob), BROKEN)
    assert f"{len(data)}" in listed.info.problems[0]


def part_of_three() -> bytes:
    """A file that says that it is the second of three parts, with as little else in it as there may be."""
    keys = [string_key("general.architecture", "llama"), number_key("split.count", 3), number_key("split.no", 1)]
    return GgufFile(keys).build()


def test_what_is_not_whole_is_listed_with_the_reason(
    look: Look, pocket: Path, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    whole = pocket_gguf("Q2_K").read_bytes()
    bad = {
        "cut.gguf": whole[:-1],
        "empty.gguf": b"",
        "text.gguf": b"not a model at all, just words",
        "b-00002-of-00003.gguf": part_of_three(),
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    for name in ("new.gguf.part", "old.safetensors.incomplete"):
        (tmp_path / name).write_bytes(b"x" * 10)
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_bytes((pocket / "config.json").read_bytes())
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = {Path(path).name: each for path, each in look(("folder", tmp_path)).items()}
    assert set(found) == {*bad, "new.gguf.part", "old.safetensors.incomplete", "sharded"}
    assert {name for name, each in found.items() if each.state == PARTIAL} == {
        "new.gguf.part",
        "old.safetensors.incomplete",
    }
    assert found["sharded"].state == BROKEN
    assert "model-00001-of-00002" in found["sharded"].info.problems[0]
    assert "cut" in found["cut.gguf"].info.problems[0] or "end" in found["cut.gguf"].info.problems[0]
    assert all(each.info.problems for each in found.values() if each.state)
    assert any("-00001-of-00003" in text for text in found["b-00002-of-00003.gguf"].info.problems)
    assert found["empty.gguf"].state == found["text.gguf"].state == BROKEN


def test_the_hub_cache_knows_revisions_and_unfinished_downloads(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    old, new = "a" * 40, "b" * 40
    first = hub_file(tmp_path, pocket_gguf("Q2_K"), "Pocket-Q2_K.gguf", old, ())
    second = hub_file(tmp_path, pocket_gguf("Q8_0"), "Pocket-Q8_0.gguf", new, ("main", "v1"))
    (second.parents[2] / "blobs" / ("c" * 64 + ".incomplete")).write_bytes(b"half")
    found = look(("hub", tmp_path))
    assert (found[str(first)].revision, found[str(first)].refs) == (old, ())
    assert (found[str(second)].revision, found[str(second)].refs) == (new, ("main", "v1"))
    (partial,) = [each for each in found.values() if each.state == PARTIAL]
    assert partial.info.name == "Pocket"


def test_the_bundled_model_is_known_through_links(pocket: Path, tmp_path: Path) -> None:
    link = tmp_path / "mine"
    link.symlink_to(pocket, target_is_directory=True)
    assert places.is_bundled(link)
    assert places.is_bundled(link / "model.safetensors")
    assert places.holds_bundled(pocket.parent)
    assert places.holds_bundled(os.sep)
    assert not places.holds_bundled(tmp_path)
