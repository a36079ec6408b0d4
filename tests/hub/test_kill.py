"""A download that is killed at any moment goes on: right checksums, and no byte that was here is asked for again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from app.child import Child
from app.hub.messages import DownloadProgress, DownloadResult
from tests.fakehub import FakeHub, FakeRepo
from tests.hub.downloading import check_whole, command, fetch, noise, place, remote_files

MOMENTS = 50
QUICK = 4
SIZES = {"a.safetensors": 2_500_000, "b.safetensors": 1_700_001, "c.gguf": 900_000, "d.json": 30_000, "e.txt": 11}


def _interrupt(fakehub: FakeHub, repo: FakeRepo, moment: random.Random) -> str:
    """Start a download and kill it: when the hub has sent so many bytes, or at one of the worker's own messages."""
    total = sum(SIZES.values())
    by_bytes = moment.random() < 0.7
    threshold = moment.randrange(total)
    message = moment.randrange(1, 12)
    with Child("download") as child:

        def count(path: str, sent: int) -> None:
            if by_bytes and sum(fakehub.served.values()) >= threshold:
                child.kill()

        fakehub.on_bytes = count
        # A limit in some runs, so that the end does not come before the kill.
        child.send(command(repo, at_once=moment.choice((1, 2, 4)), limit=moment.choice((0, 8_000_000, 20_000_000))))
        for number, event in enumerate(child.events()):
            if not by_bytes and isinstance(event, DownloadProgress) and number >= message:
                child.kill()
        child.wait(60)
        fakehub.on_bytes = lambda path, sent: None
        return "finished" if isinstance(child.terminal, DownloadResult) else "killed"


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed >= QUICK else []) for seed in range(MOMENTS)]
)
def test_killed_and_resumed(fakehub: FakeHub, hub_environment: Path, seed: int) -> None:
    repo = fakehub.add("org/model", {path: noise(size, number) for number, (path, size) in enumerate(SIZES.items())})
    moment = random.Random(seed)
    _interrupt(fakehub, repo, moment)
    where = place(hub_environment, repo)
    # What is on the disk is the truth: whole blobs, and the beginnings of others.
    whole = {file.path for file in remote_files(repo) if where.final(file).exists()}
    parts = {file.path: where.part(file).stat().st_size for file in remote_files(repo) if where.part(file).exists()}
    assert all(not (where.folder / path).exists() for path in parts), "a half file looks whole"
    assert whole.isdisjoint(parts)
    before = len(fakehub.seen)
    result = fetch(command(repo))
    check_whole(hub_environment, repo)
    asked = {
        path: [
            seen.start or 0
            for seen in fakehub.seen[before:]
            if (seen.where, seen.path, seen.method) == ("body", path, "GET")
        ]
        for path in SIZES
    }
    # One request for each file that is not whole, from exactly where it stood; none for those that are.
    complete = {path for path, size in parts.items() if size == SIZES[path]}
    assert asked == {path: [] if path in whole | complete else [parts.get(path, 0)] for path in SIZES}
    missing = sum(size for path, size in SIZES.items() if path not in whole) - sum(parts.values())
    assert result.fetched == missing
