"""Small files are replaced whole, with the permissions that a person expects."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from app.files import refuse_output, write_atomically
from converter.spec import QuenchError


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"told")
        assert os.read(reader, 100) == b"told"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_an_output_never_costs_what_it_is_made_from(tmp_path: Path) -> None:
    model, link = tmp_path / "model.gguf", tmp_path / "link.gguf"
    model.touch()
    link.symlink_to(model)
    (tmp_path / "folder").mkdir()
    refuse_output(tmp_path / "new.html", [str(model), "prose"])
    for output, code in (
        (link, "output_is_source"),
        (tmp_path / "folder", "bad_output"),
        (model / "below.html", "bad_output"),
        (tmp_path / ("n" * 300), "bad_output"),
    ):
        with pytest.raises(QuenchError) as caught:
            refuse_output(output, [str(model)])
        assert caught.value.code == code
