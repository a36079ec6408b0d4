"""Searching and looking models up, with huggingface_hub unmodified against the fake hub."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from app import hardware
from app.hub import planning, remote, repository
from app.hub.client import Hub
from app.hub.messages import Query, RemoteFile
from app.hub.names import RepoName, parse_repo
from app.hub.search import can_convert, search
from converter.spec import QuenchError
from tests.fakehub import FakeHub, FakeRepo

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def fields(parameters: int, config: dict[str, Any] = LLAMA) -> dict[str, Any]:
    return {"safetensors": {"parameters": {"BF16": parameters}, "total": parameters}, "config": config}


def lookup_error(hub: Hub, name: str) -> QuenchError:
    with pytest.raises(QuenchError) as caught:
        repository.look_up(hub, parse_repo(name))
    return caught.value


@pytest.fixture
def many(fakehub: FakeHub) -> FakeHub:
    for number in range(250):
        fakehub.add(
            f"org/model-{number:03}",
            {"config.json": b"{}"},
            downloads=number,
            likes=250 - number,
            tags=["safetensors", "license:apache-2.0" if number % 2 else "license:mit"],
            fields=fields(1_000_000_000 * (number + 1), LLAMA if number % 5 else {"model_type": "mamba"}),
        )
    fakehub.add("org/quants-GGUF", {"a-Q4_K_M.gguf": b"GGUF"}, tags=["gguf"], gated="manual", downloads=9999)
    return fakehub


def test_text_order_and_limit(many: FakeHub, hub: Hub) -> None:
    found = search(hub, Query("MODEL", limit=120))
    assert [model.id for model in found] == [f"org/model-{number:03}" for number in range(249, 129, -1)]
    assert found[0].parameters == 250_000_000_000
    assert found[0].bytes == 500_000_000_000
    assert found[0].licence == "apache-2.0"
    assert search(hub, Query("model", sort="likes", limit=1))[0].id == "org/model-000"
    assert search(hub, Query("there is no such model")) == []


def test_the_hubs_filters(many: FakeHub, hub: Hub) -> None:
    assert [m.id for m in search(hub, Query("", gguf=True))] == ["org/quants-GGUF"]
    assert [m.gated for m in search(hub, Query("", gated=True))] == ["manual"]
    assert {m.licence for m in search(hub, Query("", licence="mit", limit=50))} == {"mit"}
    assert search(hub, Query("", author="nobody")) == []


def test_our_own_filters_look_at_more_pages(many: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory_available", lambda: 8 << 30)
    found = search(hub, Query("model", fits=True, limit=5))
    # 8 GiB hold a 4-bit file of about 12 billion weights; the most downloaded that fit are at the very end.
    assert [m.id for m in found] == [f"org/model-{number:03}" for number in range(int(found[0].id[-3:]), -1, -1)][:5]
    assert all(m.fits in ("good", "tight") and m.parameters <= 14_000_000_000 for m in found)
    assert len(many.seen) > 2
    convertible = search(hub, Query("model", convertible=True, limit=200))
    assert len(convertible) == 200
    assert all(int(m.id[-3:]) % 5 for m in convertible)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"null", b"{}", b"[1, 2]", b'[{"id": 5}]', b'[{"tags": []}]', b"[" * 100_000, b"<html>sign in</html>",
        b'[{"id": "a/b", "downloads": "many", "tags": 7, "safetensors": {"parameters": 3, "total": []}}]',
        b'[{"id": "a/b", "lastModified": "yesterday"}]', b"\xff\xfe",
    ],
)  # fmt: skip
def test_odd_answers_end_in_words_or_are_read_past(fakehub: FakeHub, hub: Hub, answer: bytes) -> None:
    fakehub.fail("api", "*", "json", data=answer)
    try:
        found = search(hub, Query("x"))
    except QuenchError as error:
        assert error.code == "bad_answer"
        assert len(error.detail) < 400
    else:
        assert all(isinstance(model.id, str) for model in found)


def test_an_answer_of_a_hundred_megabytes_is_not_read(fakehub: FakeHub, hub: Hub) -> None:
    fakehub.fail("api", "*", "json", data=b'[{"id": "' + b"x" * (100 << 20) + b'"}]')
    with pytest.raises(QuenchError, match="MiB"):
        search(hub, Query("x"))


def test_a_tree_without_end_is_left(fakehub: FakeHub, hub: Hub) -> None:
    fakehub.tree_page = 1
    fakehub.add("org/many", {f"{number}.txt": b"x" for number in range(300)})
    assert lookup_error(hub, "org/many").code == "bad_answer"
    assert len(fakehub.seen) < 200


def test_too_many_files_are_refused(fakehub: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "MAX_FILES", 50)
    fakehub.add("org/many", {f"{number}.txt": b"x" for number in range(60)})
    assert "more than 50 files" in lookup_error(hub, "org/many").detail


def test_a_model_with_everything(fakehub: FakeHub, hub: Hub, pocket: Path) -> None:
    files = {path.name: path.read_bytes() for path in pocket.iterdir()}
    files |= {
        "README.md": b"---\nlicense: mit\n---\n\n# Pocket\n<script>alert(1)</script>\n",
        "pytorch_model.bin": b"\x80\x04", "onnx/model.onnx": b"onnx", "tf_model.h5": b"h5", "training_args.bin": b"x",
        "gguf/pocket-Q4_K_M.gguf": b"GGUF" * 10, "gguf/pocket-Q8_0-00001-of-00003.gguf": b"GGUF",
        "gguf/pocket-Q8_0-00003-of-00003.gguf": b"GGUF", "mmproj-F16.gguf": b"GGUF", "pocket.imatrix.gguf": b"GGUF",
    }  # fmt: skip
    repo = fakehub.add("org/pocket", files, tags=["license:mit"], fields=fields(5_246_208), gated="auto")
    found = repository.look_up(hub, RepoName("org/pocket"))
    assert found.revision == repo.head
    assert {f.path: (f.bytes, f.sha256 or f.oid) for f in found.files} == {
        path: (len(stored.data), stored.etag) for path, stored in repo.files().items()
    }
    groups = {group.name: group for group in found.groups}
    assert groups["gguf/pocket-Q4_K_M.gguf"].type == "Q4_K_M"
    assert (len(groups["gguf/pocket-Q8_0.gguf"].files), groups["gguf/pocket-Q8_0.gguf"].missing) == (2, 1)
    assert groups["mmproj-F16.gguf"].kind == "projector"
    # The config is behind the licence, so that the size has to do.
    assert (groups["model.safetensors"].fits, groups["model.safetensors"].estimated) == ("good", True)
    assert "pocket.imatrix.gguf" not in groups
    assert "training_args.bin" not in groups
    assert found.for_conversion == (
        "README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "model.safetensors",
    )  # fmt: skip
    assert (found.gated, found.licence, found.parameters, found.architecture) == ("auto", "mit", 5_246_208, "llama")


def test_the_memory_plan_is_that_of_the_local_model(fakehub: FakeHub, hub: Hub, pocket: Path) -> None:
    import converter

    fakehub.add_folder("org/pocket", pocket)
    (group,) = repository.look_up(hub, RepoName("org/pocket")).groups
    with converter.open_model(pocket) as model:
        local = hardware.fits(model.info)
    # The file is its tensors and a header of 6 KB.
    assert abs(group.memory - local.total) < 10_000
    assert (group.fits, group.estimated) == (local.level, False)


def test_a_card_is_bounded_text_without_its_front_matter(fakehub: FakeHub, hub: Hub) -> None:
    repo = fakehub.add("org/a", {"README.md": b"---\nlicense: mit\n---\r\n# Title\r\ntext"})
    assert repository.read_card(hub, "org/a", repo.head) == ("# Title\ntext", False)
    sha = repo.commit({"README.md": b"x" * (3 << 20)})
    text, cut = repository.read_card(hub, "org/a", sha)
    assert (len(text), cut) == (repository.CARD_LIMIT, True)
    sha = repo.commit({"README.md": None})
    assert repository.read_card(hub, "org/a", sha) == ("", False)


def test_headers_are_read_without_the_weights(
    fakehub: FakeHub, hub: Hub, pocket: Path, pocket_gguf: Any, tmp_path: Path
) -> None:
    import converter
    from converter.spec import ConversionSpec

    gguf = pocket_gguf("Q4_K_M")
    repo = fakehub.add(
        "org/pocket", {path.name: path.read_bytes() for path in [*pocket.iterdir(), gguf]}, fields=fields(5_246_208)
    )
    found = repository.look_up(hub, RepoName("org/pocket"))
    file = next(f for f in found.files if f.path == gguf.name)
    info = remote.inspect(hub, found.id, found.revision, [file])
    with converter.open_model(gguf) as model:
        assert (info.tensors, info.metadata) == (model.info.tensors, model.info.metadata)
    assert fakehub.served[gguf.name] < file.bytes / 2
    # A plan from the headers is the plan of the whole folder.
    chosen = planning.choose(found, conversion=True)
    spec = ConversionSpec(source="", output=str(tmp_path / "x.gguf"), types=("Q4_K_M",))
    with remote.outline(hub, found.id, found.revision, chosen) as folder:
        far = converter.plan(folder, spec)
    local = tmp_path / "models--org--pocket" / "snapshots" / found.revision
    shutil.copytree(pocket, local)
    near = converter.plan(local, spec)
    types = [[(tensor.name, tensor.type, tensor.bytes) for tensor in o.tensors] for o in near.outputs]
    assert [[(tensor.name, tensor.type, tensor.bytes) for tensor in o.tensors] for o in far.outputs] == types
    assert [o.bytes for o in far.outputs] == [o.bytes for o in near.outputs]
    assert fakehub.served["model.safetensors"] < repo.files()["model.safetensors"].listed / 10
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["whole", "other_range", "cut", "corrupt"])
def test_a_remote_header_that_goes_wrong(fakehub: FakeHub, hub: Hub, pocket_gguf: Any, kind: str) -> None:
    gguf = pocket_gguf("Q4_K_M")
    repo = fakehub.add("org/a", {gguf.name: gguf.read_bytes()})
    fakehub.fail("body", gguf.name, kind, after=4, times=9)
    stored = repo.files()[gguf.name]
    file = RemoteFile(gguf.name, stored.listed, stored.sha256, stored.oid)
    if kind == "whole":  # ranges are not understood, which costs more bytes but no harm
        assert remote.inspect(hub, "org/a", repo.head, [file]).architecture == "llama"
        return
    with pytest.raises(QuenchError) as caught:
        remote.inspect(hub, "org/a", repo.head, [file])
    assert caught.value.code in ("bad_answer", "unsupported_version", "connection_lost", "bad_header", "not_gguf")


def test_a_header_that_claims_to_be_huge_is_not_fetched(fakehub: FakeHub, hub: Hub) -> None:
    data = (90 << 20).to_bytes(8, "little") + b"{" + b" " * (1 << 20)
    repo = fakehub.add("org/a", {"model.safetensors": data})
    stored = repo.files()["model.safetensors"]
    huge = RemoteFile("model.safetensors", 200 << 20, stored.sha256, stored.oid)
    with pytest.raises(QuenchError):
        remote.inspect(hub, "org/a", repo.head, [RemoteFile("config.json", 5, "", "0" * 40), huge])
    with pytest.raises(QuenchError) as caught:
        remote.inspect(hub, "org/a", repo.head, [huge])
    assert caught.value.code in ("bad_answer", "connection_lost")


def test_hostile_names_are_left_out_and_told(fakehub: FakeHub, hub: Hub) -> None:
    bad = ["../up.txt", "/abs.txt", "a/../b", "C:\\w", "nul", "a\nb", "dot.", "x" * 300, "CONFIG.json"]
    fakehub.add("org/bad", dict.fromkeys([*bad, "config.json", "fine/ä b.txt"], b"{}"))
    found = repository.look_up(hub, RepoName("org/bad"))
    names = {file.path for file in found.files}
    assert names & set(bad) <= {"CONFIG.json"}
    assert len(names & {"CONFIG.json", "config.json"}) == 1  # a disk without capitals has room for one of them
    assert "fine/ä b.txt" in names
    assert len(found.problems) == 6
    assert "4 more" in found.problems[-1]


def test_errors_are_told_apart(fakehub: FakeHub, hub: Hub) -> None:
    fakehub.add("org/private", {"config.json": b"{}"}, private=True)
    fakehub.add("org/disabled", {"config.json": b"{}"}, disabled=True)
    fakehub.add("org/here", {"config.json": b"{}"})
    missing, private = lookup_error(hub, "org/missing"), lookup_error(hub, "org/private")
    assert missing.code == private.code == "repo_not_found"  # the hub does not tell a stranger which it is
    assert "spelling" in missing.hint
    assert "token" in missing.hint
    assert lookup_error(hub, "org/disabled").code == "disabled"
    assert lookup_error(hub, "org/here@no-such-branch").code == "revision_not_found"
    for status, code in ((429, "rate_limited"), (503, "hub_down"), (502, "hub_down")):
        fakehub.fail("api", "*", status=status, headers={"Retry-After": "99"})
        error = lookup_error(hub, "org/here")
        assert error.code == code
        if status == 429:
            assert "99 seconds" in error.hint
    for name in ("", "a b", "../x", "a/b/c", "a--b", "x" * 200, "org/..", "hf://", "org/x@../y"):
        with pytest.raises(QuenchError) as caught:
            parse_repo(name)
        assert (caught.value.code, caught.value.exit_status) == ("bad_repo_name", 2)


def test_a_short_outage_is_waited_for(fakehub: FakeHub, hub: Hub) -> None:
    fakehub.add("org/here", {"config.json": b"{}"})
    fault = fakehub.fail("api", "*", status=503)
    assert repository.look_up(hub, RepoName("org/here")).id == "org/here"
    assert fault.used == 1


def test_a_renamed_model_says_its_new_name(fakehub: FakeHub, hub: Hub) -> None:
    fakehub.add("new/name", {"config.json": b"{}"})
    fakehub.renamed["old/name"] = "new/name"
    found = repository.look_up(hub, RepoName("old/name"))
    assert (found.id, found.renamed_from) == ("new/name", "old/name")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ("org/name", "")), ("hf://org/name", ("org/name", "")), ("gpt2", ("gpt2", "")),
        ("hf://org/name@refs/pr/1", ("org/name", "refs/pr/1")), (" org/name@v1.0 ", ("org/name", "v1.0")),
        ("https://huggingface.co/org/name", ("org/name", "")), ("_a/b_", ("_a/b_", "")),
        ("https://huggingface.co/org/name/tree/main", ("org/name", "main")),
        ("https://huggingface.co/org/name/blob/dev/x.gguf?download=true", ("org/name", "dev")),
    ],
)  # fmt: skip
def test_names_as_people_type_them(text: str, expected: tuple[str, str]) -> None:
    assert parse_repo(text) == expected


def test_what_a_conversion_reads() -> None:
    from app.hub.groups import for_conversion

    def paths(*names: str) -> tuple[str, ...]:
        return for_conversion([RemoteFile(name, 1, "", "0" * 40) for name in names])[0]

    assert paths("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                 "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5",
                 "tokenizer.model", "original/consolidated.00.pth", "x.py") == (
        "config.json", "model.safetensors.index.json", "tokenizer.model", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    )  # fmt: skip
    assert paths("config.json", "pytorch_model.bin", "flax_model.msgpack") == ("config.json", "pytorch_model.bin")
    vectors = ("1_Pooling/config.json", "config.json", "model.safetensors", "modules.json")
    assert sorted(paths(*vectors, "2_Dense/model.safetensors", "onnx/config.json")) == sorted(vectors)
    assert paths("a-Q4_K_M.gguf") == ()
    assert paths("model.safetensors") == ()


def test_a_download_for_a_conversion_leaves_out_no_file_that_the_converter_names() -> None:
    from app.hub.groups import CONVERSION_FILES

    sources = Path(__file__).resolve().parents[2] / "converter"
    text = "".join(path.read_text() for path in sources.rglob("*.py"))
    named = set(re.findall(r'"([A-Za-z0-9_.]+\.(?:json|model|txt|jinja|md))"', text))
    # A GGUF key that looks like a file, the files of adapters, and the indexes, which go with their weights.
    others = {"tokenizer.ggml.model", "adapter_config.json", *(name for name in named if name.endswith(".index.json"))}
    assert named - others <= CONVERSION_FILES


def test_quantized_checkpoints_are_judged_by_the_converter() -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    assert can_convert(LLAMA)
    assert can_convert({**LLAMA, "quantization_config": gptq})
    assert not can_convert({**LLAMA, "quantization_config": {"quant_method": "of-tomorrow"}})
    assert not can_convert({"model_type": "mamba"})
    assert not can_convert(None)


def test_the_plan_says_what_is_here(fakehub: FakeHub, hub: Hub, hub_environment: Path) -> None:
    repo: FakeRepo = fakehub.add(
        "org/a", {"a.safetensors": b"a" * 1000, "same.safetensors": b"a" * 1000, "b.txt": b"b" * 10}
    )
    found = repository.look_up(hub, RepoName("org/a"))
    plan = planning.plan(hub.access.cache, found, found.files)
    assert (plan.bytes, plan.to_fetch) == (2010, 1010)  # two files of one content are one blob
    assert {file.state for file in plan.files} == {"missing"}
    blobs = hub_environment / "hub" / "models--org--a" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (repo.files()["a.safetensors"].sha256 + ".incomplete")).write_bytes(b"a" * 400)
    (blobs / repo.files()["b.txt"].oid).write_bytes(b"b" * 10)
    plan = planning.plan(hub.access.cache, found, found.files)
    assert {file.path: (file.state, file.have) for file in plan.files} == {
        "a.safetensors": ("partial", 400), "same.safetensors": ("partial", 400), "b.txt": ("cached", 10),
    }  # fmt: skip
    assert plan.to_fetch == 600


def test_settings_of_the_environment_win(hub_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app import settings
    from app.hub import access

    saved = settings.Settings(hub_endpoint="https://mirror.example/", hub_offline=True, hub_proxy="http://p:1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    found = access.access(saved)
    assert (found.endpoint, found.offline, found.proxy) == ("https://mirror.example", True, "http://p:1")
    assert found.from_environment == ("cache",)
    monkeypatch.setenv("HF_ENDPOINT", "http://other.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("https_proxy", "http://q:2")
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    found = access.access(saved)
    assert (found.endpoint, found.offline, found.proxy) == ("http://other.example", False, "http://q:2")
    assert found.cache == "/elsewhere"
    assert set(found.from_environment) == {"endpoint", "offline", "proxy", "cache"}
    for bad in ("ftp://x", "huggingface.co", "https://", "https://a b", "https://u:p@x", "https://x?y", "https://[::1"):
        with pytest.raises(QuenchError) as caught:
            access.check_endpoint(bad)
        assert caught.value.code == "bad_endpoint"
    with pytest.raises(QuenchError) as caught:
        access.check_proxy_setting("http://me:secret@p:1")
    assert "secret" not in json.dumps(caught.value.as_dict())
