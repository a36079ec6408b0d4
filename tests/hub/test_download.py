"""Downloads against the fake hub, each through a worker of its own: whatever goes wrong, there are whole files in the
end or words that say what to do, and nothing is fetched twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.child import Child
from app.hub.messages import Download, DownloadProgress, DownloadResult, DownloadStarted, Patience, RemoteFile
from app.hub.pace import LEAST_RATE, Bucket, Meter
from app.protocol import Cancel, Pause, Paused
from tests.fakehub import FakeHub, FakeRepo
from tests.hub.downloading import FAST, check_whole, command, fetch, noise, place, remote_files, run

SIZE = 3_000_000


@pytest.fixture
def repo(fakehub: FakeHub) -> FakeRepo:
    return fakehub.add(
        "org/model",
        {
            "config.json": b'{"model_type": "llama"}',
            "model-00001-of-00002.safetensors": noise(SIZE, 1),
            "model-00002-of-00002.safetensors": noise(SIZE + 17, 2),
            "nested/deep/notes.txt": b"notes\n",
            "empty.txt": b"",
        },
    )


FIRST = "model-00001-of-00002.safetensors"


def python(program: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_other_programs_find_what_was_downloaded(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    result = fetch(command(repo))
    check_whole(hub_environment, repo)
    assert {file.path: file.state for file in result.files} == dict.fromkeys(repo.files(), "verified")
    assert result.fetched == result.bytes == sum(len(file.data) for file in repo.files().values())
    # huggingface_hub itself, offline: the snapshot is whole, and its own view of the cache knows it.
    program = (
        "import json, huggingface_hub as h\n"
        "folder = h.snapshot_download('org/model', local_files_only=True)\n"
        "(found,) = h.scan_cache_dir().repos\n"
        "print(json.dumps([folder, found.repo_id, found.size_on_disk, list(found.refs)]))"
    )
    folder, name, size, refs = json.loads(python(program, HF_HUB_OFFLINE="1"))
    assert (folder, name, size, refs) == (result.folder, "org/model", result.bytes, ["main"])


def test_a_disk_without_links_holds_each_file_once(
    fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    fetch(command(repo))
    check_whole(hub_environment, repo)
    where = place(hub_environment, repo)
    assert list((where.storage / "blobs").iterdir()) == []
    assert [path for path in where.folder.rglob("*") if path.is_symlink()] == []
    assert {file.state for file in fetch(command(repo)).files} == {"cached"}


def test_what_huggingface_hub_downloaded_is_not_fetched_again(
    fakehub: FakeHub, repo: FakeRepo, hub_environment: Path
) -> None:
    python("import huggingface_hub as h; h.snapshot_download('org/model')")
    served = dict(fakehub.served)
    result = fetch(command(repo))
    assert {file.state for file in result.files} == {"cached"}
    assert result.fetched == 0
    assert dict(fakehub.served) == served


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        ("cut", 0), ("cut", 1_000_000), ("reset", 700_000), ("stall", 65_536), ("end", 1_234_567), ("longer", 0),
        ("trickle", 2_900_000),
    ],
)  # fmt: skip
def test_a_broken_connection_costs_nothing_that_has_come(
    fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, kind: str, after: int
) -> None:
    fakehub.fail("body", FIRST, kind, after=after)
    result = fetch(command(repo))
    check_whole(hub_environment, repo)
    starts = [seen.start or 0 for seen in fakehub.requests(FIRST)]
    assert starts == sorted(starts)
    if kind in ("cut", "stall", "end"):
        assert starts == [0, after]
        assert result.fetched == result.bytes
        assert fakehub.served[FIRST] == SIZE


def test_a_damaged_file_is_fetched_again_and_no_other(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", FIRST, "corrupt", after=2_000_000)
    fetch(command(repo))
    check_whole(hub_environment, repo)
    assert len(fakehub.requests(FIRST)) == 2
    assert {path: len(fakehub.requests(path)) for path in repo.files() if path not in (FIRST, "empty.txt")} == {
        "config.json": 1,
        "model-00002-of-00002.safetensors": 1,
        "nested/deep/notes.txt": 1,
    }


def test_a_small_file_is_checked_too(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", "config.json", "corrupt", after=3)
    fetch(command(repo))
    check_whole(hub_environment, repo)


def test_a_file_that_stays_damaged_is_refused_in_words(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", FIRST, "corrupt", after=5, times=99)
    _, verdict = run(command(repo))
    assert verdict.error is not None
    assert verdict.error.code == "bad_checksum"
    assert FIRST in verdict.error.detail
    assert not (place(hub_environment, repo).folder / FIRST).exists()


@pytest.mark.parametrize("kind", ["whole", "other_range"])
def test_a_server_without_proper_ranges_begins_again(
    fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, kind: str
) -> None:
    fakehub.fail("body", FIRST, "cut", after=1_000_000)
    fetch_fault = fakehub.fail("body", FIRST, kind)
    fetch(command(repo))
    check_whole(hub_environment, repo)
    assert fetch_fault.used == 1


@pytest.mark.parametrize(
    ("where", "status", "headers"),
    [
        ("resolve", 503, {}), ("resolve", 429, {"Retry-After": "1"}), ("body", 500, {}), ("body", 403, {}),
        ("resolve", 429, {"RateLimit": '"api";r=0;t=1'}), ("resolve", 408, {}),
    ],
)  # fmt: skip
def test_passing_trouble_passes(
    *, fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, where: str, status: int, headers: dict[str, str]
) -> None:
    fault = fakehub.fail(where, FIRST, status=status, headers=headers, times=2)
    events, verdict = run(command(repo))
    assert verdict.ok
    check_whole(hub_environment, repo)
    assert fault.used == 2
    notes = {f.note for event in events if isinstance(event, DownloadProgress) for f in event.files if f.note}
    assert any(str(status) in note for note in notes)


@pytest.mark.parametrize(
    ("fault", "code", "hint"),
    [
        ({"status": 503, "times": 99}, "hub_down", "minutes"),
        ({"status": 429, "headers": {"Retry-After": "7200"}, "times": 99}, "rate_limited", "7200"),
        ({"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}, "times": 99}, "file_not_found", ""),
        (
            {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}, "times": 9},
            "revision_not_found",
            "revision",
        ),
        ({"status": 418, "times": 99}, "refused_by_hub", "endpoint"),
        ({"status": 451, "times": 99}, "refused_by_hub", ""),
    ],
)
def test_lasting_trouble_is_told(
    *, fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, fault: dict[str, Any], code: str, hint: str
) -> None:
    fakehub.fail("resolve", FIRST, **fault)
    _, verdict = run(command(repo))
    assert verdict.error is not None
    assert (verdict.error.code, verdict.error.exit_status) == (code, 3)
    assert hint in verdict.error.hint
    assert not (place(hub_environment, repo).folder / FIRST).exists()


def test_a_hub_that_stalls_for_ever_ends_in_words(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", FIRST, "stall", after=0, times=99)
    _, verdict = run(command(repo, patience=Patience(stall=0.3, tries=2, pause=0.01)))
    assert verdict.error is not None
    assert verdict.error.code == "timeout"


def test_a_revision_is_pinned_while_the_branch_moves(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    download, pinned = command(repo), repo.head
    before = repo.files()

    def move(path: str, count: int) -> None:
        if path == FIRST and repo.head == pinned:
            repo.commit({FIRST: noise(SIZE, 9), "config.json": b"{}"})

    fakehub.on_bytes = move
    result = fetch(download)
    assert repo.head != pinned
    assert result.revision == pinned
    check_whole(hub_environment, repo, pinned)
    assert before == repo.commits[pinned]


def test_a_mirror_with_other_files_is_refused(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    listed = remote_files(repo)
    other = noise(SIZE, 5)
    repo.commits[repo.head] = {**repo.files(), FIRST: FakeRepo("x/y").commits.get("", {}).get(FIRST) or _stored(other)}
    _, verdict = run(command(repo, files=listed))
    assert verdict.error is not None
    assert verdict.error.code == "changed"


def _stored(data: bytes) -> Any:
    spare = FakeRepo("x/y")
    spare.commit({FIRST: data})
    return spare.files()[FIRST]


def test_a_renamed_repository_is_followed(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    download = command(repo)
    fakehub.repos["org/new-name"] = fakehub.repos.pop("org/model")
    repo.id = "org/new-name"
    fakehub.renamed["org/model"] = "org/new-name"
    fetch(download)
    repo.id = "org/model"  # it was asked for under this name, so that is where it lies
    check_whole(hub_environment, repo)


def test_nothing_is_fetched_twice_after_a_pause(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", FIRST, "stall", after=1_000_000)
    with Child("download") as child:
        child.send(command(repo, patience=Patience(stall=60)))
        for event in child.events():
            if isinstance(event, DownloadProgress) and event.done == event.total - SIZE + 1_000_000:
                child.send(Pause())
        assert child.wait(30).paused
        assert isinstance(child.terminal, Paused)
    part = place(hub_environment, repo).part(next(f for f in remote_files(repo) if f.path == FIRST))
    assert part.stat().st_size == 1_000_000
    events, verdict = run(command(repo))
    assert verdict.ok
    check_whole(hub_environment, repo)
    assert isinstance(events[0], DownloadStarted)
    assert sum(events[0].have) == events[0].total - SIZE + 1_000_000
    assert fakehub.served[FIRST] == SIZE
    assert isinstance(events[-1], DownloadResult)
    assert events[-1].fetched == SIZE - 1_000_000


def test_a_cancelled_download_leaves_nothing_half(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", FIRST, "stall", after=1_000_000)
    with Child("download") as child:
        child.send(command(repo, patience=Patience(stall=60)))
        for event in child.events():
            if isinstance(event, DownloadProgress) and event.done == event.total - SIZE + 1_000_000:
                child.send(Cancel())
        assert child.wait(30).cancelled
    assert list(place(hub_environment, repo).storage.rglob("*.incomplete")) == []


def test_progress_tells_every_byte_and_ends_at_the_total(fakehub: FakeHub, repo: FakeRepo) -> None:
    events, verdict = run(command(repo))
    assert verdict.ok
    progress = [event for event in events if isinstance(event, DownloadProgress)]
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == progress[-1].total == sum(len(file.data) for file in repo.files().values())
    last = {file.index: file for event in progress for file in event.files}
    assert {file.state for file in last.values()} == {"done"}
    assert len(last) == len(repo.files())


def test_two_downloads_of_one_file_fetch_it_once(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path) -> None:
    fakehub.fail("body", FIRST, "stall", after=1_000_000)
    slow = command(repo, patience=Patience(stall=60))
    waited = False
    with Child("download") as one, Child("download") as two:
        one.send(slow)
        assert fakehub.stalled.wait(60)
        two.send(command(repo))
        for event in two.events():
            if isinstance(event, DownloadProgress) and any("Another program" in file.note for file in event.files):
                waited = True
                one.kill()
        assert two.wait(60).ok
    assert waited
    check_whole(hub_environment, repo)
    assert fakehub.served[FIRST] == SIZE


def test_into_a_folder_of_ones_own(fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, tmp_path: Path) -> None:
    target = tmp_path / "here"
    fakehub.fail("body", FIRST, "cut", after=1_000_000, times=1)
    fetch(command(repo, to=str(target)))
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {path: file.data for path, file in repo.files().items()}
    assert not (hub_environment / "hub").exists()
    (target / FIRST).write_bytes(b"x" * SIZE)  # the right length, other bytes
    served = fakehub.served.copy()
    states = {file.path: file.state for file in fetch(command(repo, to=str(target))).files}
    assert states == {**dict.fromkeys(repo.files(), "cached"), FIRST: "verified"}
    assert fakehub.served - served == {FIRST: SIZE}


def test_a_limit_holds_for_all_files_together(fakehub: FakeHub, repo: FakeRepo) -> None:
    limit = 1_000_000
    result = fetch(command(repo, limit=limit))
    # A lower bound only: a busy machine makes it longer. What is read last of each file is paid for by nobody.
    assert result.seconds >= (result.bytes - 2 * 65_536) / limit


def test_the_bucket_is_shared_and_saves_little() -> None:
    now = 0.0
    bucket = Bucket(100_000, clock=lambda: now)
    assert bucket.take(50_000) == pytest.approx(0.5)
    assert bucket.take(50_000) == pytest.approx(1.0)  # another thread waits behind the first
    now = 1.0
    assert bucket.take(10_000) == pytest.approx(0.1)
    now = 1000.0  # a long rest is not saved up
    assert bucket.take(25_000) == 0.0
    assert bucket.take(100_000) == pytest.approx(1.0)
    assert Bucket(0).take(1 << 40) == 0.0
    assert Bucket(1, clock=lambda: 0.0).take(LEAST_RATE) == pytest.approx(1.0)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = 0.0
    meter = Meter(clock=lambda: now)
    for second in range(100):
        now = float(second)
        meter.add(1000 * second if second < 50 else 50_000 + 10 * (second - 50))
    assert meter.rate == pytest.approx(10)


def test_a_whole_copy_needs_no_network(
    fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(command(repo))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    count = len(fakehub.seen)
    assert {file.state for file in fetch(command(repo)).files} == {"cached"}
    assert len(fakehub.seen) == count
    repo.commit({"more.txt": b"more"})
    _, verdict = run(command(repo))
    assert verdict.error is not None
    assert verdict.error.code == "offline"
    assert len(fakehub.seen) == count


@pytest.mark.parametrize(
    "path", ["../../escape.txt", "/etc/passwd", "a/../../b", "C:\\x", "a\nb", "con", "x/", "", ".", "a\\b"]
)
def test_a_job_that_leads_out_of_its_folder_is_refused(
    fakehub: FakeHub, repo: FakeRepo, hub_environment: Path, path: str
) -> None:
    bad = Download(repo=repo.id, revision=repo.head, files=(RemoteFile(path, 3, "", "0" * 40),), patience=FAST)
    _, verdict = run(bad)
    assert verdict.error is not None
    assert verdict.error.code == "bad_download"
    assert fakehub.seen == []
