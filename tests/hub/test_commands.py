"""``quench search``, ``quench download`` and ``quench convert hf://...``, and the worker that asks for the window."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resources
from app.child import Child
from app.hub import planning
from app.hub.messages import (
    CardRead,
    DownloadPlan,
    DownloadPlanned,
    HubFound,
    InspectRemote,
    LookedUp,
    LookUp,
    PlanDownload,
    PlannedFile,
    Query,
    ReadCard,
    SearchHub,
)
from app.protocol import Event, Failed, Inspected
from converter.spec import QuenchError
from tests.fakehub import FakeHub, FakeRepo
from tests.hub.downloading import check_whole, noise
from tests.hub.program import ROOT, quench, quench_words


@pytest.fixture
def pocket_repo(fakehub: FakeHub, pocket: Path) -> FakeRepo:
    files = {path.name: path.read_bytes() for path in pocket.iterdir()}
    files |= {"README.md": b"---\nlicense: mit\n---\n# Pocket\n", "pytorch_model.bin": noise(50_000, 1)}
    files |= {"onnx/model.onnx": noise(50_000, 2), "flax_model.msgpack": noise(50_000, 3)}
    fields = {
        "safetensors": {"parameters": {"BF16": 5_246_208}, "total": 5_246_208},
        "config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    }
    tags = ["safetensors", "license:mit"]
    return fakehub.add("quench/Pocket", files, downloads=7, likes=3, tags=tags, fields=fields)


def test_search_has_the_keys_of_the_contract(pocket_repo: FakeRepo) -> None:
    status, data, err = quench("search", "pocket", "--convertible", "--fits", "--limit", "3")
    assert status == 0, err
    (model,) = data["models"]
    assert {"id", "downloads", "likes", "gated", "licence", "parameters", "bytes", "fits"} <= set(model)
    assert (model["id"], model["downloads"], model["parameters"]) == ("quench/Pocket", 7, 5_246_208)
    assert (model["bytes"], model["fits"], model["licence"]) == (2 * 5_246_208, "good", "mit")
    status, out, _ = quench_words("search", "pocket")
    assert status == 0
    assert "quench/Pocket" in out
    assert quench("search", "nothing like it")[1] == {"models": []}


def test_download_has_the_keys_of_the_contract(fakehub: FakeHub, pocket_repo: FakeRepo, hub_environment: Path) -> None:
    status, plan, err = quench("download", "quench/Pocket", "--dry-run")
    assert status == 0, err
    assert fakehub.served["model.safetensors"] == 0
    assert not (hub_environment / "hub").exists()
    assert plan["revision"] == pocket_repo.head
    assert {file["path"]: file["bytes"] for file in plan["files"]} == {
        path: len(file.data) for path, file in pocket_repo.files().items()
    }
    status, data, err = quench("download", "quench/Pocket", "--revision", pocket_repo.head)
    assert status == 0, err
    assert {"repo", "revision", "files", "bytes", "seconds"} <= set(data)
    assert {file["state"] for file in data["files"]} == {"verified"}
    assert data["bytes"] == plan["bytes"] == plan["to_fetch"]
    check_whole(hub_environment, pocket_repo)
    models = quench("library", "list")[1]["models"]
    assert [model["path"] for model in models] == [str(resources.path("pocket")), data["folder"]]


def test_only_what_is_asked_for(fakehub: FakeHub, pocket_repo: FakeRepo, tmp_path: Path) -> None:
    target = tmp_path / "out"
    status, data, _ = quench("download", "quench/Pocket", "--files", "*.json,onnx/*", "--to", str(target))
    assert status == 0
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found == {file["path"] for file in data["files"]}
    assert "onnx/model.onnx" in found
    assert "model.safetensors" not in found
    status, data, _ = quench("download", "quench/Pocket", "--files", "*.gguf")
    assert (status, data["error"]["code"]) == (3, "file_not_found")


def test_straight_from_the_hub(
    fakehub: FakeHub, pocket_repo: FakeRepo, pocket: Path, tmp_path: Path, closed_hub: dict[str, str]
) -> None:
    out, near = tmp_path / "far.gguf", tmp_path / "near.gguf"
    arguments = ("convert", "hf://quench/Pocket", "-o", str(out), "--type", "Q4_K_M")
    status, plan, err = quench(*arguments, "--dry-run")
    assert status == 0, err
    assert plan["download"]["bytes"] > 10_000_000
    # The plan read the header of the weights and not the weights.
    assert fakehub.served["model.safetensors"] < 1_000_000
    status, data, err = quench(*arguments)
    assert status == 0, err
    assert data["outputs"][0]["bytes"] == plan["outputs"][0]["bytes"] == out.stat().st_size
    unread = ("pytorch_model.bin", "onnx/model.onnx", "flax_model.msgpack")
    assert [fakehub.served[path] for path in unread] == [0, 0, 0]
    # The same weights as from a local folder; the metadata knows where it comes from.
    import converter

    assert quench("convert", str(pocket), "-o", str(near), "--type", "Q4_K_M")[0] == 0
    with converter.open_model(out) as one, converter.open_model(near) as other:
        assert one.info.tensors == other.info.tensors
        assert one.info.metadata["general.organization"] == "Quench"
    # Once it is here, no network is needed.
    out.unlink()
    status, data, err = quench(*arguments, **closed_hub)
    assert status == 0, (data, err)
    status, data, _ = quench("convert", "hf://quench/Other", "-o", str(out), "--type", "F16", **closed_hub)
    assert (status, data["error"]["code"]) == (3, "offline")


@pytest.fixture
def closed_hub() -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}


def test_what_cannot_be_converted_is_told_before_the_download(fakehub: FakeHub) -> None:
    fakehub.add("a/mamba", {"config.json": b'{"model_type": "mamba"}', "model.safetensors": b"w" * 1000})
    fakehub.add("a/quants", {"a-Q4_K_M.gguf": b"GGUF"})
    for name, word in (("a/mamba", "mamba"), ("a/quants", "ready to use")):
        status, data, _ = quench("convert", f"hf://{name}", "-o", "x.gguf", "--type", "F16")
        assert (status, data["error"]["code"]) == (3, "cannot_convert")
        assert word in data["error"]["detail"]
    assert fakehub.served["model.safetensors"] == 0


def test_a_download_that_does_not_fit_is_refused_before_its_first_byte(fakehub: FakeHub, hub_environment: Path) -> None:
    repo = fakehub.add("a/huge", {"config.json": b"{}"})
    repo.commit({"model.safetensors": b"small"}, listed=1 << 60)
    status, data, _ = quench("download", "a/huge")
    assert (status, data["error"]["code"]) == (4, "no_space")
    assert fakehub.served["model.safetensors"] == 0
    assert not (hub_environment / "hub").exists()


def test_room_is_counted_exactly() -> None:
    def plan(to_fetch: int, free: int) -> DownloadPlan:
        file = PlannedFile("a", to_fetch, "", "0" * 40, "missing", 0)
        return DownloadPlan("a/b", "0" * 40, "main", (file,), to_fetch, to_fetch, free, "/x")

    planning.check_room(plan(100, 100 + planning.MARGIN))
    planning.check_room(plan(0, 0))
    with pytest.raises(QuenchError) as caught:
        planning.check_room(plan(101, 100 + planning.MARGIN))
    assert caught.value.exit_status == 4


def test_usage_and_names(fakehub: FakeHub) -> None:
    assert quench("download", "not a name")[0] == 2
    assert quench("download")[0] == 2
    status, data, _ = quench("download", "org/missing")
    assert (status, data["error"]["code"]) == (3, "repo_not_found")


def test_ctrl_c_keeps_what_has_come(fakehub: FakeHub, hub_environment: Path) -> None:
    repo = fakehub.add("org/model", {"model.safetensors": noise(3_000_000, 4)})
    fakehub.fail("body", "*", "stall", after=2_000_000)
    with subprocess.Popen(
        [sys.executable, "-m", "app", "download", "org/model", "--json"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
    ) as process:  # fmt: skip
        assert fakehub.stalled.wait(120)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert '"interrupted"' in out
    assert "goes on with it" in err
    status, data, _ = quench("download", "org/model")
    assert status == 0
    check_whole(hub_environment, repo)
    # The bytes between the storage's last and the disk's last may have been lost with the process; no others.
    starts = [seen.start or 0 for seen in fakehub.requests("model.safetensors")]
    assert len(starts) == 2
    assert 0 < starts[1] <= 2_000_000
    assert data["fetched"] == 3_000_000 - starts[1]


@pytest.fixture
def asker(fakehub: FakeHub) -> Iterator[Child]:
    with Child("hub") as child:
        yield child


def ask(child: Child, *questions: object) -> dict[int, Event]:
    """The answers by number, in whatever order they come."""
    for question in questions:
        child.send(question)
    answers: dict[int, Event] = {}
    for event in child.events():
        answers[event.request] = event
        if len(answers) == len(questions):
            return answers
    raise AssertionError(child.log_tail())


def test_the_windows_questions(asker: Child, fakehub: FakeHub, pocket_repo: FakeRepo) -> None:
    answers = ask(
        asker,
        SearchHub(1, Query("pocket")),
        LookUp(2, "https://huggingface.co/quench/Pocket"),
        ReadCard(3, "quench/Pocket", pocket_repo.head),
        PlanDownload(4, "quench/Pocket", conversion=True),
        LookUp(5, "quench/missing"),
        PlanDownload(6, "quench/Pocket", files=("*.onnx",)),
        SearchHub(7, Query("pocket", sort="no such order")),
    )
    assert isinstance(answers[1], HubFound)
    assert [model.id for model in answers[1].models] == ["quench/Pocket"]
    assert isinstance(answers[2], LookedUp)
    assert isinstance(answers[3], CardRead)
    assert answers[3].text == "# Pocket\n"
    assert isinstance(answers[4], DownloadPlanned)
    assert [file.path for file in answers[4].plan.files if file.path.endswith((".bin", ".onnx"))] == []
    assert isinstance(answers[5], Failed)
    assert answers[5].code == "repo_not_found"
    assert isinstance(answers[6], DownloadPlanned)
    assert [file.path for file in answers[6].plan.files] == ["onnx/model.onnx"]
    assert isinstance(answers[7], Failed)
    repository = answers[2].repository
    files = tuple(file for file in repository.files if file.path in repository.for_conversion)
    (inspected,) = ask(asker, InspectRemote(8, repository.id, repository.revision, files)).values()
    assert isinstance(inspected, Inspected)
    assert inspected.info.parameters == 5_246_208


def test_a_slow_answer_does_not_hold_up_the_next(asker: Child, fakehub: FakeHub, pocket_repo: FakeRepo) -> None:
    fakehub.fail("api", "/api/models", "stall")
    asker.send(SearchHub(1, Query("slow")))
    assert fakehub.stalled.wait(60)
    assert set(ask(asker, LookUp(2, "quench/Pocket"))) == {2}


def test_a_full_disk_in_the_middle_is_told_and_resumed(fakehub: FakeHub, tmp_path: Path) -> None:
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("a small file system can only be made by root")
    small = tmp_path / "small"
    small.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(small)], check=False)
    if made.returncode != 0:
        pytest.skip("this system does not let a test mount a small file system")
    try:
        repo = fakehub.add("org/model", {"model.safetensors": noise(30_000_000, 4)})

        def fill(path: str, sent: int) -> None:
            ballast = small / "ballast"
            if not ballast.exists():
                ballast.write_bytes(b"x" * (80 << 20))

        fakehub.on_bytes = fill
        status, data, _ = quench("download", "org/model", HF_HOME=str(small / "hf"))
        assert (status, data["error"]["code"]) == (4, "no_space")
        fakehub.on_bytes = lambda path, sent: None
        (small / "ballast").unlink()
        status, data, _ = quench("download", "org/model", HF_HOME=str(small / "hf"))
        assert status == 0, data
        check_whole(small / "hf", repo)
        assert data["fetched"] < 30_000_000
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
