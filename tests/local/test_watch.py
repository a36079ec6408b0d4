"""Looking again finds what changed on disk and reads nothing else; what was read is known at the next start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.local.headers import HeaderCache
from app.local.listing import Lister
from app.local.places import Place
from app.local.watch import Watch
from tests.local.conftest import copied, ollama_model

Gguf = Callable[[str], Path]


@pytest.fixture
def shelf(tmp_path: Path, pocket_gguf: Gguf) -> Path:
    """A folder with two models, one of them deeper."""
    shelf = tmp_path / "shelf"
    copied(pocket_gguf("Q8_0"), shelf / "one.gguf")
    copied(pocket_gguf("Q2_K"), shelf / "deep" / "two.gguf")
    return shelf


def watch(*roots: Path, lister: Lister | None = None, kind: str = "folder") -> Watch:
    made = Watch(tuple(Place(kind, str(root)) for root in roots), lister or Lister())
    list(made.first())
    return made


def names(watched: Watch) -> tuple[list[str], list[str]]:
    change = watched.look()
    return sorted(Path(each.path).name for each in change.found), sorted(Path(path).name for path in change.gone)


def test_files_that_come_go_and_are_renamed(shelf: Path, pocket_gguf: Gguf) -> None:
    watched = watch(shelf, shelf.parent / "not there yet")
    assert names(watched) == ([], [])
    copied(pocket_gguf("Q4_K_M"), shelf / "deep" / "new.gguf")
    assert names(watched) == (["new.gguf"], [])
    (shelf / "one.gguf").rename(shelf / "renamed.gguf")
    assert names(watched) == (["renamed.gguf"], ["one.gguf"])
    shutil.rmtree(shelf / "deep")
    assert names(watched) == ([], ["new.gguf", "two.gguf"])
    (shelf.parent / "not there yet").mkdir()
    copied(pocket_gguf("Q4_K_M"), shelf.parent / "not there yet" / "late.gguf")
    assert names(watched) == (["late.gguf"], [])
    assert names(watched) == ([], [])


def test_a_file_that_grows_is_told_of_once_a_look_until_it_is_whole(shelf: Path, pocket_gguf: Gguf) -> None:
    data = pocket_gguf("Q4_K_M").read_bytes()
    part = shelf / "big.gguf.part"
    part.write_bytes(data[:1000])
    watched = watch(shelf)
    for size in (2000, 3000):
        with part.open("r+b") as file:
            file.write(data[:size])
            file.flush()
            file.write(data[:size])
        change = watched.look()
        assert [(Path(each.path).name, each.info.bytes) for each in change.found] == [("big.gguf.part", 2 * size)]
        assert not watched.look()
    part.write_bytes(data)
    part.rename(shelf / "big.gguf")
    change = watched.look()
    assert [(Path(each.path).name, each.state) for each in change.found] == [("big.gguf", "")]
    assert [Path(path).name for path in change.gone] == ["big.gguf.part"]


def test_a_file_damaged_in_place_is_seen_in_its_turn(shelf: Path) -> None:
    two = shelf / "deep" / "two.gguf"
    os.utime(two, (1, 1))
    watched = watch(shelf)
    two.write_bytes(b"GGUF nonsense")
    os.utime(two, (1, 1))
    assert names(watched) == (["two.gguf"], [])


def test_a_model_that_ollama_pulls_appears(tmp_path: Path, pocket_gguf: Gguf) -> None:
    store = tmp_path / "store"
    ollama_model(store, pocket_gguf("Q8_0"))
    watched = watch(store, kind="ollama")
    ollama_model(store, pocket_gguf("Q2_K"), "registry.ollama.ai", "library", "pocket", "tiny")
    change = watched.look()
    assert [each.title for each in change.found] == ["pocket:tiny"]
    (store / "manifests" / "registry.ollama.ai" / "library" / "pocket" / "tiny").unlink()
    assert len(watched.look().gone) == 1


def test_the_next_start_reads_no_header_again(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "headers.db"
    first = Lister(HeaderCache(file))
    before = list(Watch((Place("folder", str(shelf)),), first).first())
    first.close()
    assert first.read == 2
    second = Lister(HeaderCache(file))
    assert list(Watch((Place("folder", str(shelf)),), second).first()) == before
    assert second.read == 0
    second.close()
    os.utime(shelf / "one.gguf", (5, 5))  # another date: another file, for all that is known
    third = Lister(HeaderCache(file))
    assert len(list(Watch((Place("folder", str(shelf)),), third).first())) == 2
    assert third.read == 1
    third.close()


@pytest.mark.parametrize("damage", [b"nonsense" * 1000, b"", b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_memory_of_headers_is_read_anew(shelf: Path, tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "headers.db"
    file.write_bytes(damage)
    lister = Lister(HeaderCache(file))
    assert [each.state for each in Watch((Place("folder", str(shelf)),), lister).first()] == ["", ""]
    lister.close()
    file.unlink()
    file.mkdir()
    lister = Lister(HeaderCache(file))
    assert len(list(Watch((Place("folder", str(shelf)),), lister).first())) == 2
    lister.close()


def test_looks_become_rarer_when_they_cost_more(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(shelf)
    clock = iter([100.0, 101.0, 101.0, 101.0])
    monkeypatch.setattr("app.local.watch.time.monotonic", lambda: next(clock))
    watched.look()
    assert watched.wait == pytest.approx(20.0)
