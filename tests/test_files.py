"""Small files are replaced whole, with the permissions that a person expects."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from app.files import write_atomically


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "deep" / ("ä" * 80 + ".json")
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits of this kind")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "report.html", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "settings.json"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OSError):
        write_atomically(target, b"x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "settings.json"]
