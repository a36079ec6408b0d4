"""Downloads in tests: a command for what a fake repository holds, a worker that runs it, and what must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from app.child import Child, Verdict
from app.hub.cache import Place
from app.hub.messages import Download, DownloadResult, Patience, RemoteFile
from app.protocol import Event
from tests.fakehub import FakeRepo

FAST = Patience(stall=1.0, tries=4, pause=0.01, longest=0.05, obey=2.0)
"""The same behaviour as at home, in less time."""


def noise(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def remote_files(repo: FakeRepo, revision: str = "main") -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(path, file.listed, file.sha256 if file.large else "", file.oid)
        for path, file in sorted(repo.files(revision).items())
    )


def command(repo: FakeRepo, **changes: Any) -> Download:
    """The download of everything that the repository holds now."""
    fields: dict[str, Any] = {"patience": FAST, "files": remote_files(repo), **changes}
    return Download(repo=repo.id, revision=repo.head, **fields)


def run(download: Download) -> tuple[list[Event], Verdict]:
    """Run it in a worker to its end."""
    with Child("download") as child:
        child.send(download)
        events = list(child.events())
        return events, child.wait(60)


def fetch(download: Download) -> DownloadResult:
    """Run a download that must work."""
    events, verdict = run(download)
    assert verdict.ok, verdict.error and (verdict.error.title, verdict.error.detail)
    result = events[-1]
    assert isinstance(result, DownloadResult)
    return result


def place(home: Path, repo: FakeRepo, revision: str = "") -> Place:
    return Place(str(home / "hub"), repo.id, revision or repo.head)


def check_whole(home: Path, repo: FakeRepo, revision: str = "") -> None:
    """Every file of the commit is in its snapshot with the right bytes, and nothing half is left."""
    where = place(home, repo, revision)
    for path, file in repo.files(revision or "main").items():
        assert (where.folder / path).read_bytes() == file.data, path
    assert list(where.storage.rglob("*.incomplete")) == []
