"""``general.*`` keys of model cards, names and recommendations, against gguf-py's reading of the same folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import pytest

from converter import ConversionSpec, convert, open_model
from converter.sources.card import parse_card
from converter.sources.naming import WeightCount, general_entries, repository_id
from tests.converter.folders import bpe_tokenizer, tokenizer_size, write_folder, write_json

PARAMETERS = 7_241_732_096
REFUSES = "gguf-py raises an exception, and nothing is converted"


@dataclass(frozen=True)
class Case:
    """A folder: its name, the front matter of its card, and its JSON files.

    ``ours`` are the keys that are not gguf-py's (None: absent), and ``why`` is the reason. With :data:`REFUSES`, they
    are what we give beside name and size.
    """

    card: str = ""
    folder: str = "model"
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] | str | None = None
    ours: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    head: str = "---\n{}\n---\n# Title\n"
    parameters: int = PARAMETERS


FOLDERS = (
    "Mistral-7B-Instruct-v0.3", "Meta-Llama-3-8B", "llama-2-7b-chat-hf", "Mixtral-8x7B-v0.1", "Qwen3-235B-A22B-128k",
    "phi-3-mini-4k-instruct", "TinyLlama-1.1B-Chat-v1.0", "gpt2-xl", "bloom-7b1", "my own model", "tiny.model_2",
    "Hermes-2-Pro-Llama-3-8B-Q4_K_M", "DeepSeek-R1-Distill-Qwen-7B", "gemma-3-4b-it", "SmolLM2-1.7B-Instruct-bf16",
    "7B", "v2", "Модель-7B", "granite-3.1-1b-a400m-base", "x-large", "iter3-chat",
)  # fmt: skip
NAMES = (
    "meta-llama/Llama-2-7b-hf", "Qwen/Qwen2.5-7B", "plain", "./local", "../up-7B", "/root", "a/b/c", "C:\\models\\x",
    "two words/and-7B",
)  # fmt: skip

CASES: dict[str, Case] = {
    **{f"folder {name}": Case(folder=name) for name in FOLDERS},
    **{f"small folder {name}": Case(folder=name, parameters=120_000_000) for name in FOLDERS},
    **{f"config {name}": Case(config={"_name_or_path": name}) for name in NAMES},
    "folder of dashes": Case(folder="--", ours={"general.name": "--"}, why="gguf-py writes a file without a name"),
    "no card": Case(head=""),
    "no front matter": Case(head="# Title\nlicense: mit\n"),
    "spaces after the dashes": Case("license: mit", head="--- \n{}\n---\n"),
    "windows lines": Case("license: mit\r\ntags:\r\n- a", head="---\r\n{}\r\n---\r\n"),
    "no end": Case("license: mit\ntags: [a]", head="---\n{}\n"),
    "empty front matter": Case(""),
    "not a mapping": Case("- a\n- b"),
    "a text": Case("just words"),
    "published": Case(
        "license: apache-2.0\nlanguage:\n- en\n- no\n- de\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        "tags:\n- chat\n- tiny\nbase_model: mistralai/Mistral-7B-v0.3\ndatasets:\n- HuggingFaceH4/ultrachat_200k\n"
        "- org/other-v2\nextra_gated_prompt: >-\n  Some words: with a colon\n\n  and more.\n",
        "Mistral-7B-Instruct-v0.3",
        {"_name_or_path": "mistralai/Mistral-7B-v0.3"},
    ),
    "own names": Case(
        "name: Fancy\nauthor: Ada\nversion: v1.2\norganization: Org\ndescription: A model.\nfinetune: chat\n"
        "basename: fancy\nsize_label: 7B\nurl: https://example.org\ndoi: 10.1/2\nuuid: abc-def\n"
        "repo_url: https://example.org/git"
    ),
    "model_ names": Case(
        "model_name: Fancy\nmodel_author: Ada\nmodel_version: v1.2\nmodel_organization: Org\n"
        "model_description: A model.\nmodel_finetune: chat\nmodel_basename: fancy\nmodel_size_label: 7B\n"
        "model_url: https://example.org\nmodel_doi: 10.1/2\nmodel_uuid: abc-def\nmodel_repo_url: https://example.org/git"
    ),
    "both names": Case("name: First\nmodel_name: Second\nauthor:\nmodel_creator: Ada\nmodel_type: mistral"),
    "licences": Case("license: [mit, apache-2.0]\nlicense_name: own\nlicense_link: https://example.org/LICENSE"),
    "quantized by": Case("quantized_by: Somebody\nurl:\n"),
    "base model, list": Case("base_model:\n- mistralai/Mistral-7B-v0.1\n- org-x/My-Merge-13b-v2.1\n- lonely-7B"),
    "base model, address": Case("base_model: https://huggingface.co/meta-llama/Meta-Llama-3-8B"),
    "base models, addresses": Case(
        "base_models:\n- https://huggingface.co/a/b/tree/main\n- http://huggingface.co/org/name-v3\n"
        "- https://example.org/x/y\n- ssh://git@example.org/x\n- ftp://example.org/x\n- https://huggingface.co/\n"
    ),
    "base model, sources": Case("base_model_sources: [org/One-7B, org/two]\nbase_model:\n"),
    "base model, mappings": Case(
        "base_model:\n- name: One\n  author: Ada\n  version: v1\n  organization: Org\n  description: First.\n"
        "  url: https://example.org\n  doi: 10.1/2\n  uuid: u\n  repo_url: https://example.org/git\n  other: x\n"
        "- {name: Two}\n- {}\n- org/three"
    ),
    "base model, none": Case("base_model:\ndatasets: []"),
    "base model, null of several": Case("base_model: [~, org/x]"),
    "base model, words": Case("base_model: my own base"),
    "base model, relative path": Case("base_model: ./out/Model-7B"),
    "base model, deeper": Case("base_model: org/name/more"),
    "base model, number of several": Case(
        "base_model: [7, org/x]",
        ours={"general.base_model.0.name": "7", "general.base_model.0.version": "7"},
        why="gguf-py says in its log that it does not know such an entry",
    ),
    "base model, mapping": Case(
        "base_model: {name: One}",
        ours={"general.base_model.count": 1, "general.base_model.0.name": "One"},
        why="gguf-py counts none where a single mapping stands",
    ),
    "base model, path": Case(
        "base_model: /home/ada/models/Base-7B-v2",
        ours={"general.base_model.0.repo_url": None},
        why="gguf-py makes an address of the path",
    ),
    "data sets": Case("datasets:\n- org/set-v2\n- wikipedia\n- https://huggingface.co/datasets/org/x"),
    "data set": Case("dataset: org/set"),
    "data set, address": Case("dataset_sources: https://huggingface.co/org/set-7B-v1.5"),
    "data sets, mappings": Case("datasets: [{name: A, url: https://example.org, repo_url: x}, {author: B}]"),
    "tags of one word": Case("tags: chat\npipeline_tag: text-generation\nlanguages: en\nlanguage: [de, fr]"),
    "tags of none": Case("tags: []\nlanguage:"),
    "tabs": Case("tags:\n\t- a\n\t- b"),
    "quotes and comments": Case(
        "license: 'mit' # free\nauthor: \"A \\u00e9\"\nname: it's # not\ndescription: |\n  two\n  lines\nversion: '2'"
    ),
    "anchors": Case("base_model: &base org/Model-7B\ndatasets:\n- *base\ntags: &t [a, b]\nlanguages: *t"),
    "merged mappings": Case(
        "x: &x {author: A, name: B}\ny: &y {version: C, url: D}\nbase_model:\n- <<: *x\n  name: E\n- {<<: [*y, *x]}\n"
        "- name: F\n  <<: *y"
    ),
    "merged head": Case("x: &x {author: A, license: mit}\nauthor: B\n<<: *x"),
    "said twice": Case("license: mit\nlicense: apache-2.0"),
    "results": Case(
        "tags: [a]\nmodel-index:\n- name: x\n  results:\n  - task: {type: y}\n\n    metrics: [{value: 1}]\n# on\n"
        "license: mit"
    ),
    "unicode": Case("name: Модель 7Б\nauthor: 山田\ntags: [émoji, 😀]"),
    "numbers as texts": Case(
        "version: 1.0\nlicense: no\nlanguage: no\nname: 2024-01-01\ntags: [1, 2.5, x]\nauthor: [A, 7]",
        ours={
            "general.version": "1.0",
            "general.license": "no",
            "general.languages": ["no"],
            "general.name": "2024-01-01",
            "general.tags": ["1", "2.5", "x"],
            "general.author": "A,7",
        },
        why=REFUSES,
    ),
    "mappings as texts": Case(
        "license: {a: b}\nname: [[x]]\ntags: [{a: b}, c]",
        ours={"general.name": "Model", "general.tags": ["c"]},
        why=REFUSES,
    ),
    "not YAML": Case(
        "license: mit\ntags: [a\nauthor: Ada\n:",
        ours={"general.license": "mit"},
        why=REFUSES,
    ),
    "an unknown tag": Case(
        "license: mit\nauthor: !!python/object/apply:os.system [echo]\nversion: v2",
        ours={"general.license": "mit", "general.author": "echo", "general.version": "v2"},
        why=REFUSES,
    ),
    "an alias of nothing": Case("license: mit\nauthor: *nobody", ours={"general.license": "mit"}, why=REFUSES),
    "an impossible character": Case(
        'license: mit\nauthor: "\\UFFFFFFFF"', ours={"general.license": "mit"}, why=REFUSES
    ),
    "half a character": Case(
        'license: mit\nauthor: "\\uD800"',
        ours={"general.license": "mit", "general.author": "?"},
        why=REFUSES,
    ),
    "a list as a key": Case("license: mit\n? [a]\n: b", ours={"general.license": "mit"}, why=REFUSES),
    "empty name": Case(
        "name: ''\nlicense: mit", ours={"general.name": "Model"}, why="gguf-py writes a file without a name"
    ),
    "empty path in the config": Case(
        config={"_name_or_path": ""}, ours={"general.name": "Model"}, why="gguf-py writes a file without a name"
    ),
    "sampling": Case(
        generation={
            "sequence": "top_k;temperature",
            "top_k": 20,
            "top_p": 0.8,
            "min_p": 0.05,
            "xtc_probability": 0.1,
            "xtc_threshold": 0.2,
            "temperature": 0.7,
            "penalty_last_n": 64,
            "penalty_repeat": 1.1,
            "mirostat": 2,
            "mirostat_tau": 5.0,
            "mirostat_eta": 0.1,
            "do_sample": True,
            "eos_token_id": [1, 2],
        },
    ),
    "sampling, whole numbers and none": Case(generation={"temperature": 1, "top_p": None, "top_k": 0}),
    "sampling, transformers' name": Case(
        generation={"repetition_penalty": 1.05},
        ours={"general.sampling.penalty_repeat": 1.05},
        why="the converter's own gguf-py reads it, the published package does not yet",
    ),
    "sampling, wrong types": Case(
        generation={"top_k": 20.0, "top_p": "0.8", "temperature": [1], "sequence": 5},
        ours={"general.sampling.top_k": 20},
        why=REFUSES,
    ),
    "sampling, too large": Case(generation={"top_k": 2**40, "temperature": 1e300}, why=REFUSES),
    "sampling, not JSON": Case(generation="{"),
    "sampling, a list": Case(generation="[1]", why=REFUSES),
}


def written(parent: Path, case: Case) -> Path:
    folder = parent / case.folder
    folder.mkdir(parents=True)
    if case.head:
        (folder / "README.md").write_text(case.head.format(case.card), encoding="utf-8", newline="")
    write_json(folder / "config.json", case.config)
    if isinstance(case.generation, str):
        (folder / "generation_config.json").write_text(case.generation)
    elif case.generation is not None:
        write_json(folder / "generation_config.json", case.generation)
    return folder


def reference(folder: Path, parameters: int) -> dict[str, Any]:
    """What llama.cpp's converter does: read, fill in name and size, write; all values packed as they would be."""
    found = gguf.Metadata.load(None, folder, None, parameters)
    if found.name is None:
        found.name = folder.name
    if found.size_label is None:
        found.size_label = gguf.size_label(parameters, parameters, 0, 0)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    found.set_gguf_meta_model(writer)
    for value in writer.kv_data[0].values():
        writer._pack_val(value.value, value.type, add_vtype=True)
    return {key: (v.type.name, v.value) for key, v in writer.kv_data[0].items() if key != "general.architecture"}


def ours(folder: Path, config: dict[str, Any], parameters: int) -> dict[str, Any]:
    entries = general_entries(folder, config, WeightCount(parameters, parameters))
    assert len({entry.key for entry in entries}) == len(entries)
    assert all(entry.item_type == "STRING" for entry in entries if entry.type == "ARRAY")
    return {entry.key: (entry.type, entry.value) for entry in entries}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_says_what_gguf_py_makes_of_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = written(tmp_path, case)
    found = ours(folder, case.config, case.parameters)
    if case.why == REFUSES:
        with pytest.raises(Exception):  # noqa: B017 - of many kinds
            reference(folder, case.parameters)
        expected = {"general.name": "Model", "general.size_label": "7.2B", "general.type": "model", **case.ours}
        assert {key: value for key, (_, value) in found.items()} == expected
        return
    wanted = reference(folder, case.parameters)
    changed = {key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)}
    assert changed == set(case.ours), {key: (found.get(key), wanted.get(key)) for key in changed}
    assert {key: found[key][1] if key in found else None for key in case.ours} == case.ours
    assert bool(case.ours) == bool(case.why)


@pytest.mark.parametrize("order", [0, 1])
def test_keys_stand_in_the_order_of_gguf_py(order: int, tmp_path: Path) -> None:
    case = CASES["published" if order else "own names"]
    folder = written(tmp_path, case)
    assert list(ours(folder, case.config, PARAMETERS)) == list(reference(folder, PARAMETERS))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hub/models--org--My-Model-7B/snapshots/0123abcd", "org/My-Model-7B"),
        ("hub/models--gpt2/snapshots/0123abcd", "gpt2"),
        ("hub/models--org--a--b/snapshots/0123abcd", "org/a--b"),
        ("org/My-Model", "My-Model"),
    ],
)
def test_a_snapshot_in_the_cache_is_called_by_its_repository(path: str, expected: str, tmp_path: Path) -> None:
    """llama.cpp's converter takes the commit for a name there, unless it is told another."""
    assert repository_id(tmp_path / path) == expected


def test_the_folder_one_is_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "My-Model-7B").mkdir()
    monkeypatch.chdir(tmp_path / "My-Model-7B")
    assert repository_id(Path()) == "My-Model-7B"


def bomb(levels: int, wide: int) -> str:
    lines = ["license: mit", "a0: &a0 [" + ", ".join(["x" * 40] * wide) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * wide) + "]" for i in range(1, levels)]
    return "\n".join([*lines, f"tags: *a{levels - 1}", "author: Ada"])


HOSTILE = {
    "a bomb of aliases": bomb(12, 9),
    "a long text many times": "license: mit\nx: &x " + "y" * 60_000 + "\ntags: [" + ", ".join(["*x"] * 15_000) + "]",
    "brackets": "license: mit\nx: " + "[" * 100_000,
    "braces": "license: mit\nx: " + "{a: " * 20_000,
    "dashes": "license: mit\nx:\n  " + "- " * 50_000,
    "questions": "license: mit\nx:\n  " + "? " * 50_000,
    "deeper and deeper": "license: mit\n" + "\n".join(" " * i + f"k{i}:" for i in range(300)),
    "itself": "license: mit\nx: &x [*x, {a: *x}]\nbase_model: *x",
    "many anchors": "license: mit\n" + "\n".join(f"k{i}: &a{i} v" for i in range(9_000)),
    "a huge card": "license: mit\n" + "\n".join(f"k{i}: value" for i in range(400_000)),
    "one long line": "license: mit\nx: " + "y" * 6_000_000,
    "a long quotation": 'license: mit\nx: "' + "y\\n" * 1_000_000,
    "bytes": "license: mit\nx: \x00\x01",
    "a directive": "%YAML 9.9\n---\nlicense: mit",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_card_costs_little_and_keeps_what_came_before(name: str, tmp_path: Path) -> None:
    """Every one of them is endless, or larger than memory, where nothing bounds it. The size of what is kept is said
    here; the time that it takes is bounded by the characters that are parsed."""
    folder = written(tmp_path, Case(HOSTILE[name]))
    found = ours(folder, {}, PARAMETERS)
    assert sum(len(str(value)) for _, value in found.values()) < 1 << 21
    expected = None if name in ("bytes", "a directive") else ("STRING", "mit")
    assert found.get("general.license") == expected


def test_the_first_of_several_merged_mappings_counts() -> None:
    """As YAML's merge key is defined; PyYAML 6.0.4 takes one or the other."""
    card = parse_card("---\nx: &x {author: A}\ny: &y {author: B}\n<<: [*y, *x]\n---\n")
    assert card["author"] == "B"


def test_results_of_evaluations_do_not_use_up_the_room() -> None:
    results = "".join(f"  - task: {{type: t{i}}}\n    metrics: [{{value: {i}}}]\n" for i in range(30_000))
    card = parse_card(f"---\nlicense: mit\nmodel-index:\n- name: x\n  results:\n{results}tags: [a]\n---\n")
    assert card == {"license": "mit", "tags": ["a"]}


def test_no_more_parents_than_an_engine_can_read(tmp_path: Path) -> None:
    """It compares every key with all before it."""
    found = ours(written(tmp_path, Case("base_model:\n" + "- a/b\n" * 3000)), {}, PARAMETERS)
    assert found["general.base_model.count"] == ("UINT32", 1000)
    assert "general.base_model.999.name" in found and "general.base_model.1000.name" not in found


def test_a_card_that_is_not_text_or_not_a_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\nauthor: A\xff\n---\n")
    assert ours(tmp_path, {}, 1)["general.author"] == ("STRING", "A\ufffd")
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert "general.license" not in ours(tmp_path, {}, 1)


def test_the_keys_are_in_the_file(tmp_path: Path) -> None:
    """From a folder to a GGUF file, read by gguf-py."""
    folder = tmp_path / "My-Model-7B"
    write_folder(folder, "llama", vocab_size=tokenizer_size(bpe_tokenizer()))
    write_json(folder / "tokenizer.json", bpe_tokenizer())
    (folder / "README.md").write_text(
        f'---\n{CASES["published"].card}license_name: own\nrepo_url: "https://example.org/\\uD800"\n---\n'
    )
    (folder / "generation_config.json").write_text(json.dumps({"sequence": "top_k\ud800", "top_k": 7}))
    convert(ConversionSpec(str(folder), str(tmp_path / "a.gguf"), ("F16",)))
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    assert fields["general.base_model.0.repo_url"].contents() == "https://huggingface.co/mistralai/Mistral-7B-v0.3"
    assert fields["general.dataset.count"].contents() == 2
    assert fields["general.license.name"].contents() == "own"
    assert fields["general.source.repo_url"].contents() == "https://example.org/?"
    assert fields["general.sampling.sequence"].contents() == "top_k?"
    with open_model(tmp_path / "a.gguf") as model:
        assert model.info.metadata["general.languages"] == ["en", "no", "de"]
