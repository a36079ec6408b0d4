"""What takes up room, what could go and why, what exactly goes, and what a verification finds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.local import disk, ties
from app.local.entry import Listed
from app.local.sums import Sums
from app.local.verify import VerifiedFile, verify
from converter.spec import Cancelled, QuenchError
from tests.local.conftest import copied, hub_file, linked, ollama_model

Gguf = Callable[[str], Path]
Look = Callable[..., dict[str, Listed]]


def test_a_renamed_file_finds_its_base_again(look: Look, pocket: Path, pocket_gguf: Gguf, tmp_path: Path) -> None:
    renamed = copied(pocket_gguf("Q4_K_M"), tmp_path / "holiday pictures.gguf")
    found = look(("bundled", pocket), ("folder", tmp_path))
    assert ties.bases(found.values())[str(renamed)] == "Pocket"
    assert ties.bases([found[str(renamed)]])[str(renamed)] == "holiday pictures"  # alone there is nothing to tie it to


def test_copies_are_duplicates_and_links_are_not(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    one = copied(pocket_gguf("Q8_0"), tmp_path / "a" / "one.gguf")
    two = copied(pocket_gguf("Q8_0"), tmp_path / "b" / "two.gguf")
    link = linked(one, tmp_path / "c" / "link.gguf")
    copied(pocket_gguf("Q2_K"), tmp_path / "b" / "other.gguf")
    found = look(("folder", tmp_path))
    ((first, second),) = ties.duplicates(found.values())
    assert second.path == str(two)
    assert first.path in (str(one), str(link))
    uses = disk.use_by_family(list(found.values()))
    assert sum(use.bytes for use in uses) == 2 * one.stat().st_size + pocket_gguf("Q2_K").stat().st_size
    could = {each.path: each for each in disk.removable(list(found.values()))}
    # Deleting one name of a file that has another frees nothing: only the copy with a single name is suggested.
    assert set(could) & {str(one), str(link)} == set()


def test_what_can_go_has_its_reason(look: Look, pocket: Path, pocket_gguf: Gguf, tmp_path: Path) -> None:
    own, cache = tmp_path / "own", tmp_path / "hub"
    source = copied(pocket_gguf("F16"), own / "Pocket-F16.gguf")
    kept = copied(pocket_gguf("Q8_0"), own / "Pocket-Q8_0.gguf")
    copy = copied(pocket_gguf("Q8_0"), tmp_path / "folder" / "again.gguf")
    left = own / "Pocket-Q6_K.gguf.part"
    left.write_bytes(bytes(5000))
    old = hub_file(cache, pocket_gguf("Q2_K"), "P-Q2_K.gguf", "a" * 40, ())
    hub_file(cache, pocket_gguf("Q5_K_M"), "P-Q5_K_M.gguf", "b" * 40, ("main",))
    found = look(("bundled", pocket), ("own", own), ("hub", cache), ("folder", tmp_path / "folder"))
    could = {each.path: (each.reason, each.bytes) for each in disk.removable(list(found.values()))}
    assert could == {
        str(source): ("source", source.stat().st_size),
        str(copy): ("duplicate", copy.stat().st_size),
        str(left): ("leftover", 5000),
        str(old): ("revision", old.stat().st_size),
    }
    assert kept.exists()
    gone = disk.removal([found[str(copy)], found[str(left)]], list(found.values()))
    assert (set(gone.paths), gone.bytes) == ({str(copy), str(left)}, copy.stat().st_size + 5000)


def test_a_model_of_the_cache_takes_its_blob_along_unless_it_is_shared(
    look: Look, pocket_gguf: Gguf, tmp_path: Path
) -> None:
    size = pocket_gguf("Q2_K").stat().st_size
    one = hub_file(tmp_path, pocket_gguf("Q2_K"), "P-Q2_K.gguf", "a" * 40, ())
    two = hub_file(tmp_path, pocket_gguf("Q2_K"), "P-Q2_K.gguf", "b" * 40, ("main",))
    three = hub_file(tmp_path, pocket_gguf("Q8_0"), "P-Q8_0.gguf", "b" * 40, ())
    found = look(("hub", tmp_path))
    # Both revisions lead to one blob: it is listed once, and goes with the name that is chosen only if the other does.
    listed = [each for each in found.values() if each.path in (str(one), str(two))]
    assert len(listed) == 1
    shared = disk.removal(listed, list(found.values()))
    assert [Path(path).parent.parent.name for path in shared.paths] == ["snapshots"]
    alone = disk.removal([found[str(three)]], list(found.values()))
    blob = os.path.realpath(three)
    assert (set(alone.paths), alone.bytes) == ({str(three), blob}, three.stat().st_size)
    assert size


def test_the_only_model_of_a_repository_takes_the_repository(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    file = hub_file(tmp_path, pocket_gguf("Q2_K"), "P-Q2_K.gguf", "a" * 40, ("main",))
    found = look(("hub", tmp_path))
    gone = disk.removal(list(found.values()), list(found.values()))
    assert (gone.paths, gone.bytes) == ((str(tmp_path / "models--acme--Pocket"),), file.stat().st_size)


def test_pocket_and_other_programs_files_stay(look: Look, pocket: Path, pocket_gguf: Gguf, tmp_path: Path) -> None:
    link = tmp_path / "links" / "mine"
    link.parent.mkdir()
    link.symlink_to(pocket, target_is_directory=True)
    ollama_model(tmp_path / "store", pocket_gguf("Q2_K"))
    bundled = look(("added", link))
    with pytest.raises(QuenchError) as refused:
        disk.removal(list(bundled.values()), [])
    assert refused.value.code == "bundled"
    theirs = list(look(("ollama", tmp_path / "store")).values())
    with pytest.raises(QuenchError) as refused:
        disk.removal(theirs, theirs)
    assert refused.value.code == "not_ours"
    assert "Ollama" in refused.value.title
    assert disk.removable([*theirs, *theirs]) == []


def verified(found: dict[str, Listed], sums: Path, since: float = 1e12) -> dict[str, VerifiedFile]:
    memory = Sums(sums)
    seen: list[tuple[int, int]] = []
    try:
        files = verify(
            list(found.values()),
            memory,
            since=since,
            progress=lambda done, total, name: seen.append((done, total)),
            stopped=lambda: False,
        )
        result = {file.path: file for file in files}
    finally:
        memory.close()
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    return result


def flip(path: Path) -> None:
    """One bit in the middle of the weights, where neither header nor samples look; the date stays."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2 + 777)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_one_flipped_bit_is_found_everywhere(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    own = copied(pocket_gguf("Q8_0"), tmp_path / "own" / "mine.gguf")
    hub = hub_file(tmp_path / "hub", pocket_gguf("Q4_K_M"), "P-Q4_K_M.gguf", "a" * 40, ("main",))
    blob = ollama_model(tmp_path / "store", pocket_gguf("Q2_K"))
    data = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(data)  # a file of its own, not a link to the session's
    places = (("own", tmp_path / "own"), ("hub", tmp_path / "hub"), ("ollama", tmp_path / "store"))
    first = verified(look(*places), tmp_path / "sums.db")
    assert {path: file.state for path, file in first.items()} == {str(own): "new", str(hub): "good", str(blob): "good"}
    again = verified(look(*places), tmp_path / "sums.db")
    assert {file.state for file in again.values()} == {"good"}
    for path in (own, Path(os.path.realpath(hub)), blob):
        flip(path)
    after = verified(look(*places), tmp_path / "sums.db")
    assert {file.state for file in after.values()} == {"damaged"}
    assert all(len(file.how) > 20 for file in after.values())


def test_a_paused_verification_does_not_read_again_what_was_good(look: Look, pocket_gguf: Gguf, tmp_path: Path) -> None:
    for name in ("Q8_0", "Q2_K"):
        copied(pocket_gguf(name), tmp_path / "own" / f"{name}.gguf")
    found = look(("own", tmp_path / "own"))
    sums = Sums(tmp_path / "sums.db")
    total = sum(each.info.bytes for each in found.values())
    reached = 0

    def progress(done: int, of: int, name: str) -> None:
        nonlocal reached
        assert of == total
        reached = done

    first = next(iter(found.values())).info.bytes
    with pytest.raises(Cancelled):
        list(verify(list(found.values()), sums, since=0, progress=progress, stopped=lambda: reached >= first))
    hows = [file.how for file in verify(list(found.values()), sums, since=0, progress=progress, stopped=lambda: False)]
    sums.close()
    assert hows[0] == "checked a moment ago"
    assert hows[1] != hows[0]


def test_what_is_not_whole_is_skipped(look: Look, tmp_path: Path) -> None:
    (tmp_path / "x.gguf.part").write_bytes(b"half")
    (file,) = verified(look(("own", tmp_path)), tmp_path / "sums.db").values()
    assert file.state == "skipped"
