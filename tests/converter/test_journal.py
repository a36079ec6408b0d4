"""Interrupted conversions: whatever ends them, going on gives the bytes of an uninterrupted run, or is refused."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest

from converter import convert, journal
from converter.spec import (
    Cancelled,
    ConversionEvent,
    ConversionResult,
    ConversionSpec,
    Paused,
    Planned,
    QuenchError,
    TensorDone,
)
from tests.models import write_model

from .test_pipeline import imatrix_of, small_disk, write_imatrix

ROOT = Path(__file__).resolve().parents[2]
TWO = ("Q4_K_M", "Q8_0")
__all__ = ["small_disk"]


def shard(folder: Path, count: int) -> None:
    """Cut the weight file of a folder into several behind an index."""
    whole = folder / "model.safetensors"
    data = whole.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    names = list(header)
    index = {}
    for number in range(count):
        part: dict[str, Any] = {}
        body = b""
        for name in names[number * len(names) // count : (number + 1) * len(names) // count]:
            first, last = (8 + length + at for at in header[name]["data_offsets"])
            part[name] = {**header[name], "data_offsets": [len(body), len(body) + last - first]}
            body += data[first:last]
            index[name] = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        raw = json.dumps(part).encode()
        (folder / index[name]).write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    whole.unlink()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 million random weights in three files."""
    folder = tmp_path_factory.mktemp("journal") / "model"
    write_model(folder, 2, 512)
    shard(folder, 3)
    return folder


@pytest.fixture(scope="module")
def importance(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("importance")
    convert(ConversionSpec(str(source), str(folder / "f.gguf"), ("BF16",)))
    return write_imatrix(folder / "importance.gguf", imatrix_of(folder / "f.gguf"))


@pytest.fixture(scope="module")
def whole(
    source: Path, importance: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], tuple[dict[str, bytes], ConversionResult]]:
    """What an uninterrupted run makes, with or without the importance matrix: bytes by name, and its result."""
    made: dict[bool, tuple[dict[str, bytes], ConversionResult]] = {}

    def make(weighted: bool) -> tuple[dict[str, bytes], ConversionResult]:
        if weighted not in made:
            out = tmp_path_factory.mktemp("whole")
            result = convert(ConversionSpec(str(source), str(out), TWO, imatrix=str(importance) if weighted else None))
            made[weighted] = (contents(out), result)
        return made[weighted]

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def suffixes(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


DYING = """
import os, signal, sys
import msgspec
from converter import convert, ConversionSpec
from converter.spec import TensorDone
spec = msgspec.json.decode(sys.argv[1], type=ConversionSpec)
left = int(sys.argv[2])
def count(event):
    global left
    left -= isinstance(event, TensorDone)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
convert(spec, count, journal_every=float(sys.argv[3]))
"""


def killed(spec: ConversionSpec, at: int, every: float = 0.0) -> None:
    """Convert in a process of its own that is killed at its ``at``-th finished tensor."""
    arguments = [sys.executable, "-c", DYING, msgspec.json.encode(spec).decode(), str(at), str(every)]
    assert subprocess.run(arguments, check=False, cwd=ROOT).returncode == -signal.SIGKILL


def resumed(spec: ConversionSpec, **options: Any) -> tuple[list[ConversionEvent], ConversionResult]:
    events: list[ConversionEvent] = []
    result = convert(msgspec.structs.replace(spec, resume=True), events.append, **options)
    return events, result


def kept(events: list[ConversionEvent]) -> float:
    assert isinstance(events[0], Planned)
    return events[0].kept


# ---- kill -9 ----


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("every", [0.0, 0.01], ids=["each", "batched"])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    source: Path, request: pytest.FixtureRequest, tmp_path: Path, weighted: bool, every: float
) -> None:
    """Killed three times at random tensors, each time resumed: also what was resumed can be cut off."""
    wanted, straight = request.getfixturevalue("whole")(weighted)
    importance = request.getfixturevalue("importance")
    out = tmp_path / "out"
    spec = ConversionSpec(str(source), str(out), TWO, imatrix=str(importance) if weighted else None)
    dice = random.Random(f"{weighted} {every}")
    tensors = len(straight.outputs[0].tensors)
    killed(spec, dice.randrange(4, 12), every)
    assert ".part" in suffixes(out) and ".gguf" not in suffixes(out)
    for _ in range(2):
        killed(msgspec.structs.replace(spec, resume=True), dice.randrange(16, 2 * tensors - 4), every)
        assert ".gguf" not in suffixes(out)
    events, result = resumed(spec)
    if every == 0:
        assert kept(events) > 0
        assert result.read_bytes < straight.read_bytes
    assert contents(out) == wanted
    assert [output.error for output in result.outputs] == [output.error for output in straight.outputs]
    done = [(event.output, event.name, event.rmse) for event in events if isinstance(event, TensorDone)]
    assert len(done) == len(set(done)) == 2 * tensors


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_what_was_finished_is_not_made_again(source: Path, tmp_path: Path) -> None:
    spec = ConversionSpec(str(source), str(tmp_path / "one.gguf"), ("Q4_K_M",))
    killed(spec, 9)
    assert journal.kept_fraction([tmp_path / "one.gguf"]) is not None
    events, result = resumed(spec)
    left = round(1 - kept(events), 9)
    total = sum(tensor.bytes for tensor in events[0].plan.source.tensors)  # type: ignore[union-attr]
    assert result.read_bytes == round(left * total)
    assert suffixes(tmp_path)[-1] == ".gguf" and not list(tmp_path.glob("one.gguf?*"))


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_killed_while_the_files_are_renamed(source: Path, whole: Any, tmp_path: Path) -> None:
    """All tensors are noted, the first output has its name already, the second has not."""
    wanted, straight = whole(False)
    out = tmp_path / "out"
    spec = ConversionSpec(str(source), str(out), TWO)
    killed(spec, 2 * len(straight.outputs[0].tensors))
    first = Path(straight.outputs[0].path).name
    (out / f"{first}.part").rename(out / first)
    events, result = resumed(spec)
    assert kept(events) == 1 and result.read_bytes == 0
    assert contents(out) == wanted


FINISHING = """
import os, signal, sys
import msgspec
from converter import convert, ConversionSpec
spec = msgspec.json.decode(sys.argv[1], type=ConversionSpec)
convert(spec, finish=lambda result: os.kill(os.getpid(), signal.SIGKILL), journal_every=float(sys.argv[2]))
"""


def killed_at_the_end(spec: ConversionSpec, every: float) -> None:
    """Convert in a process of its own that is killed when the files have their names, before anybody is told."""
    arguments = [sys.executable, "-c", FINISHING, msgspec.json.encode(spec).decode(), str(every)]
    assert subprocess.run(arguments, check=False, cwd=ROOT).returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["journal", "too short for one"])
def test_killed_when_all_is_made_but_not_told(source: Path, whole: Any, tmp_path: Path, every: float) -> None:
    wanted, straight = whole(False)
    out = tmp_path / "out"
    spec = ConversionSpec(str(source), str(out), TWO)
    killed_at_the_end(spec, every)
    assert suffixes(out) == [".gguf", ".gguf", *[".jrnl"] * (every == 0)]
    events, result = resumed(spec)
    assert (kept(events), result.read_bytes) == ((1, 0) if every == 0 else (0, straight.read_bytes))
    assert contents(out) == wanted
    assert [output.error for output in result.outputs] == [output.error for output in straight.outputs]


def test_going_on_replaces_no_file_but_its_own(source: Path, whole: Any, tmp_path: Path) -> None:
    target = tmp_path / "one.gguf"
    convert(ConversionSpec(str(source), str(target), ("Q4_K_M",)))
    before = target.read_bytes()
    with pytest.raises(QuenchError) as caught:
        resumed(ConversionSpec(str(source), str(target), ("Q4_K_S",)))
    assert caught.value.code == "exists"
    assert target.read_bytes() == before


def test_a_file_that_turns_out_useless_at_the_end_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    def useless(result: ConversionResult) -> ConversionResult:
        raise QuenchError("output_unusable", "It cannot be used.")

    with pytest.raises(QuenchError) as caught:
        convert(ConversionSpec(str(source), str(tmp_path / "one.gguf"), ("Q4_K_M",)), finish=useless, journal_every=0)
    assert caught.value.hint == ""
    assert suffixes(tmp_path) == [".gguf"]


# ---- pause, cancel, errors ----


def stop_after(count: int) -> tuple[Callable[[ConversionEvent], None], Callable[[], bool]]:
    seen: list[ConversionEvent] = []

    def listen(event: ConversionEvent) -> None:
        if isinstance(event, TensorDone):
            seen.append(event)

    return listen, lambda: len(seen) >= count


def test_a_pause_keeps_what_is_finished(source: Path, whole: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = ConversionSpec(str(source), str(out), TWO, threads=1)
    listen, stop = stop_after(4)
    with pytest.raises(Paused):
        convert(spec, listen, paused=stop)
    assert suffixes(out) == [".jrnl", ".part", ".part"]
    events, _ = resumed(spec)
    assert 0 < kept(events) < 1
    assert contents(out) == whole(False)[0]


def test_a_pause_before_anything_is_finished_keeps_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Paused):
        convert(ConversionSpec(str(source), str(tmp_path / "out"), TWO), paused=lambda: True)
    assert not (tmp_path / "out").exists()


def test_a_cancel_leaves_nothing_of_a_resumed_run_either(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = ConversionSpec(str(source), str(out), TWO)
    listen, stop = stop_after(8)
    with pytest.raises(Paused):
        convert(spec, listen, paused=stop)
    listen, stop = stop_after(20)
    with pytest.raises(Cancelled):
        convert(ConversionSpec(str(source), str(out), TWO, resume=True), listen, stop)
    assert list(out.iterdir()) == []


def test_nothing_to_resume_is_a_fresh_start(source: Path, whole: Any, tmp_path: Path) -> None:
    events, _ = resumed(ConversionSpec(str(source), str(tmp_path / "out"), TWO))
    assert kept(events) == 0
    assert contents(tmp_path / "out") == whole(False)[0]


def test_without_resume_it_starts_afresh_and_says_what_it_gave_up(source: Path, whole: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = ConversionSpec(str(source), str(out), TWO)
    listen, stop = stop_after(8)
    with pytest.raises(Paused):
        convert(spec, listen, paused=stop)
    events: list[ConversionEvent] = []
    result = convert(spec, events.append)
    assert kept(events) > 0
    assert result.read_bytes == whole(False)[1].read_bytes
    assert contents(out) == whole(False)[0]


LIMITED = """
import resource, sys
from converter import convert, ConversionSpec
from converter.spec import QuenchError, TensorDone
left = 6
def shrink(event):
    global left
    left -= isinstance(event, TensorDone)
    if left == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
try:
    convert(ConversionSpec(sys.argv[1], sys.argv[2], ("Q4_K_M", "Q8_0"), threads=1, memory_mib=64), shrink)
except QuenchError as error:
    print(error.code, error.exit_status, error.hint)
"""


def test_a_disk_that_refuses_bytes_midway(source: Path, whole: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(out)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("no_space 4 "), done.stderr
    assert re.search(r"What is finished was kept: resuming goes on at \d+ %", done.stdout)
    assert suffixes(out) == [".jrnl", ".part", ".part"]
    events, _ = resumed(ConversionSpec(str(source), str(out), TWO))
    assert kept(events) > 0
    assert contents(out) == whole(False)[0]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.skipif(shutil.which("mount") is None, reason="mounts a small file system")
def test_a_journal_that_finds_no_room_does_not_stop_the_work(pocket: Path, small_disk: Path) -> None:
    """The outputs' space was taken in advance; then the disk fills to the last byte."""

    def fill(event: ConversionEvent) -> None:
        if isinstance(event, TensorDone) and not (small_disk / "filler").exists():
            with (small_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
                while True:
                    file.write(bytes(4096))

    target = small_disk / "one.gguf"
    convert(ConversionSpec(str(pocket), str(target), ("Q4_K_M",)), fill, journal_every=1e-9)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "one.gguf"]
    assert len(gguf.GGUFReader(target).tensors) > 50


VANISHING = """
import os, sys
from pathlib import Path
from converter import convert, ConversionSpec
from converter.spec import QuenchError, TensorDone
left = 1
def cut(event):
    global left
    left -= isinstance(event, TensorDone)
    if left == 0:
        for path in Path(sys.argv[1]).glob("*.safetensors"):
            os.truncate(path, 4096)
try:
    convert(ConversionSpec(sys.argv[1], sys.argv[2], tuple(sys.argv[3].split(",")), threads=1), cut, journal_every=0)
except QuenchError as error:
    print(error.code, error.hint)
"""


@pytest.mark.skipif(os.name != "posix", reason="a file in use cannot be cut on Windows")
def test_a_source_that_vanishes_and_comes_back(source: Path, tmp_path: Path) -> None:
    """Cut in the middle of the work: an error, or a signal if it was just looked at. Back again, it goes on.

    Many types, so that most of the source is still to be read when the first tensor is done.
    """
    copy, out = tmp_path / "model", tmp_path / "out"
    types = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
    shutil.copytree(source, copy)
    done = subprocess.run(
        [sys.executable, "-c", VANISHING, str(copy), str(out), ",".join(types)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == -signal.SIGBUS or "resuming goes on at" in done.stdout, done.stderr
    half = [".jrnl", *[".part"] * len(types)]
    assert suffixes(out) == half
    spec = ConversionSpec(str(copy), str(out), types)
    with pytest.raises(QuenchError):
        resumed(spec)
    assert suffixes(out) == half
    for path in source.glob("*.safetensors"):
        shutil.copy2(path, copy / path.name)
    events, _ = resumed(spec)
    assert kept(events) > 0
    made = list(contents(out).values())
    convert(msgspec.structs.replace(spec, overwrite=True))
    assert list(contents(out).values()) == made


# ---- what does not belong together is refused ----


@pytest.fixture
def interrupted(source: Path, importance: Path, tmp_path: Path) -> ConversionSpec:
    """A copy of the source, half converted with the importance matrix."""
    copy = tmp_path / "model"
    shutil.copytree(source, copy)
    shutil.copy(importance, tmp_path / "importance.gguf")
    out = tmp_path / "out"
    spec = ConversionSpec(str(copy), str(out), TWO, imatrix=str(tmp_path / "importance.gguf"))
    listen, stop = stop_after(20)
    with pytest.raises(Paused):
        convert(spec, listen, paused=stop)
    return spec


def touch(spec: ConversionSpec) -> None:
    os.utime(Path(spec.source) / "model-00002-of-00003.safetensors", ns=(1, 1))


def swap_bytes(spec: ConversionSpec) -> None:
    """Other weights of the same size and date."""
    path = Path(spec.source) / "model-00001-of-00003.safetensors"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x3c\x02\x3c")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_importance(spec: ConversionSpec) -> None:
    path = Path(str(spec.imatrix))
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def finished_tensor(out: Path) -> tuple[Path, int]:
    """A part, and the place of a tensor in it that the journal vouches for."""
    found = journal.read(next(out.glob("*.jrnl")))
    assert found is not None
    part = out / f"{found.head.files[1]}.part"
    tensor = gguf.GGUFReader(part).tensors[found.entries[0].tensor]
    return part, int(tensor.data_offset)


def flip_a_byte(spec: ConversionSpec) -> None:
    part, offset = finished_tensor(Path(spec.output))
    with part.open("r+b") as file:
        file.seek(offset + 5)
        value = file.read(1)[0]
        file.seek(offset + 5)
        file.write(bytes([value ^ 0x10]))


def cut_part(spec: ConversionSpec) -> None:
    part, _ = finished_tensor(Path(spec.output))
    os.truncate(part, part.stat().st_size - 1)


def lose_part(spec: ConversionSpec) -> None:
    finished_tensor(Path(spec.output))[0].unlink()


CHANGES: list[tuple[Callable[[ConversionSpec], None] | dict[str, Any], str]] = [
    (touch, "source's files have changed"),
    (swap_bytes, "source's files have changed"),
    (other_importance, "importance matrix is another one"),
    ({"imatrix": None}, "importance matrix is another one"),
    ({"types": ("Q4_K_M", "Q6_K")}, "types, the options"),
    ({"types": ("Q4_K_M",)}, "types, the options"),
    ({"refined": True}, "types, the options"),
    ({"tensor_types": (("ffn_down", "Q8_0"),)}, "types, the options"),
    (flip_a_byte, "does not hold"),
    (cut_part, "bytes instead of"),
    (lose_part, "is gone"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_change_is_refused_in_words_and_spoils_nothing(
    interrupted: ConversionSpec, change: Any, words: str, tmp_path: Path
) -> None:
    out = Path(interrupted.output)
    spec = msgspec.structs.replace(interrupted, **change) if isinstance(change, dict) else interrupted
    if callable(change):
        change(interrupted)
    before = contents(out)
    with pytest.raises(QuenchError) as caught:
        resumed(spec)
    assert (caught.value.code, caught.value.exit_status) == ("resume_changed", 3)
    assert words in caught.value.detail
    assert caught.value.hint
    assert contents(out) == before
    convert(spec)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    convert(msgspec.structs.replace(spec, output=str(fresh)))
    names = contents(fresh).keys()
    assert {name: data for name, data in contents(out).items() if name in names} == contents(fresh)


def test_other_threads_and_memory_may_go_on(interrupted: ConversionSpec, whole: Any) -> None:
    events, _ = resumed(msgspec.structs.replace(interrupted, threads=1, memory_mib=64))
    assert kept(events) > 0
    assert list(contents(Path(interrupted.output)).values()) == list(whole(True)[0].values())


# ---- a journal that cannot be believed ----


@pytest.fixture(scope="module")
def torn(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Pocket half converted, and converted: bytes by name."""
    half, full = tmp_path_factory.mktemp("half") / "out", tmp_path_factory.mktemp("full") / "out"
    listen, stop = stop_after(40)
    with pytest.raises(Paused):
        convert(ConversionSpec(str(pocket), str(half), TWO), listen, paused=stop)
    convert(ConversionSpec(str(pocket), str(full), TWO))
    return contents(half), contents(full)


def spoilt(data: bytes, seed: int) -> bytes:
    """A journal with a random wound: cut, a bit flipped, a line lost, doubled or moved, rubbish."""
    dice = random.Random(seed)
    lines = data.splitlines(keepends=True)
    at = dice.randrange(len(data))
    line = dice.randrange(len(lines))
    return [
        data[:at],
        data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :],
        b"".join(lines[:line] + lines[line + 1 :]),
        b"".join(lines[: line + 1] + lines[line:]),
        b"".join(dice.sample(lines, len(lines))),
        data[:at] + dice.randbytes(200) + data[at:],
        data[:at] + bytes(len(data) - at),
    ][seed % 7]


@pytest.mark.parametrize("seed", range(28))
def test_a_spoilt_journal_never_gives_wrong_bytes(
    torn: tuple[dict[str, bytes], dict[str, bytes]], pocket: Path, tmp_path: Path, seed: int
) -> None:
    half, full = torn
    out = tmp_path / "out"
    out.mkdir()
    for name, data in half.items():
        (out / name).write_bytes(spoilt(data, seed) if name.endswith(".jrnl") else data)
    resumed(ConversionSpec(str(pocket), str(out), TWO))
    assert contents(out) == full


def test_after_a_torn_line_it_is_written_on_in_order(
    torn: tuple[dict[str, bytes], dict[str, bytes]], pocket: Path, tmp_path: Path
) -> None:
    half, full = torn
    out = tmp_path / "out"
    out.mkdir()
    for name, data in half.items():
        (out / name).write_bytes(data[: 3 * len(data) // 4] if name.endswith(".jrnl") else data)
    spec = ConversionSpec(str(pocket), str(out), TWO, resume=True)
    before = journal.kept_fraction([next(out.glob("*.jrnl")).with_suffix("")])
    listen, stop = stop_after(70)
    with pytest.raises(Paused):
        convert(spec, listen, paused=stop)
    after = journal.kept_fraction([next(out.glob("*.jrnl")).with_suffix("")])
    assert before is not None and after is not None and before < after
    events, _ = resumed(spec)
    assert kept(events) == after
    assert contents(out) == full


def test_folds_of_pieces_add_up_to_the_fold_of_the_whole() -> None:
    dice = np.random.default_rng(3)
    for size in (0, 1, 7, 8, 9, 210, 4096, 10_001):
        data = dice.integers(0, 256, size, np.uint8)
        padded = np.concatenate([data, np.zeros(-size % 8, np.uint8)]).view("<u8")
        wanted = sum(map(int, padded)) % 2**64
        assert journal.fold(data, 0) == wanted
        for _ in range(5):
            cuts = [0, *sorted(dice.integers(0, size + 1, 4).tolist()), size]
            pieces = [journal.fold(data[first:last], first) for first, last in pairwise(cuts)]
            assert sum(pieces) % 2**64 == wanted


def test_a_journal_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x.jrnl"
    assert journal.read(path) is None
    for data in (b"", b"\n", b"00000000 {}\n", bytes(1000), b"[" * 100_000, b"00000000 " + b"[" * 100_000 + b"\n"):
        path.write_bytes(data)
        assert journal.read(path) is None
    os.truncate(path, 10 << 30)
    assert journal.read(path) is None
    path.unlink()
    os.mkfifo(path)
    assert journal.read(path) is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert journal.read(path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"tensor": -1},
        {"tensor": 10**30},
        {"tensor": 3},
        {"read": -5},
        {"read": 10**9},
        {"sums": [1, 2]},
        {"sums": [-1]},
        {"sums": [1 << 64]},
        {"sums": "x"},
        {"rmse": [-1.0]},
        {"rmse": [1e999]},
        {"relative": []},
        {"relative": [-0.5]},
        {"more": 1},
        [],
    ],
)
def test_lines_with_sound_sums_and_absurd_numbers_end_the_reading(tmp_path: Path, change: Any) -> None:
    binding = {"program": "", "source": "", "importance": "", "outputs": ""}
    head = {"quench_journal": journal.FORMAT, "binding": binding, "read": 100, "files": ["a.gguf"]}
    good = {"tensor": 3, "read": 25, "sums": [7], "rmse": [0.5], "relative": [0.5]}
    absurd = {**good, "tensor": 5, **change} if change else change
    data, check = b"", 0
    for value in (head, good, absurd, {**good, "tensor": 4}):
        text = json.dumps(value).encode()
        check = zlib.crc32(text, check)
        data += b"%08x %s\n" % (check, text)
    (tmp_path / "x.jrnl").write_bytes(data)
    found = journal.read(tmp_path / "x.jrnl")
    assert found is not None
    assert [line.tensor for line in found.entries] == [3]
    assert found.fraction == 0.25


# ---- power loss ----


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="watches fdatasync")
def test_after_a_power_loss_only_what_was_flushed_counts(
    source: Path, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that forgets everything since the last flush of each file, just after the journal's own flush."""
    out = tmp_path / "out"
    flushed: dict[str, bytes] = {}
    moments: list[dict[str, bytes]] = []
    real = os.fdatasync

    def flush(handle: int) -> None:
        real(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        flushed[path.name] = path.read_bytes()
        if path.suffix == ".jrnl":
            moments.append(dict(flushed))

    monkeypatch.setattr(os, "fdatasync", flush)
    convert(ConversionSpec(str(source), str(out), TWO), journal_every=0.005)
    monkeypatch.undo()
    assert len(moments) >= 2
    for number in {0, len(moments) // 2, len(moments) - 1}:
        again = tmp_path / str(number)
        again.mkdir()
        for name, data in moments[number].items():
            (again / name).write_bytes(data)
        events, _ = resumed(ConversionSpec(str(source), str(again), TWO))
        assert kept(events) > 0
        assert contents(again) == whole(False)[0]


@pytest.mark.skipif(shutil.which("strace") is None, reason="watches system calls with strace")
def test_the_system_is_told_to_flush_a_tensor_before_the_journal_names_it(source: Path, tmp_path: Path) -> None:
    log, target = tmp_path / "log", tmp_path / "one.gguf"
    program = "import sys; from converter import convert, ConversionSpec as Spec\n"
    program += "convert(Spec(sys.argv[1], sys.argv[2], ('Q8_0',)), journal_every=0.005)"
    command = ["strace", "-f", "-y", "-s", "20000", "-e", "trace=pwrite64,write,fdatasync", "-o", str(log)]
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(source), str(target)], check=False, cwd=ROOT, capture_output=True
    )
    if not log.exists() or b"PTRACE" in done.stderr:
        pytest.skip("this system does not let strace watch")
    assert done.returncode == 0, done.stderr
    places = [(int(t.data_offset), int(t.data_offset + t.n_bytes)) for t in gguf.GGUFReader(target).tensors]
    begun: dict[str, tuple[int, str]] = {}
    flushes: list[tuple[int, int]] = []
    written: list[tuple[int, int]] = []  # offset, line on which the write ended
    named = 0
    for number, line in enumerate(log.read_text(errors="replace").splitlines()):
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = (number, text)
            continue
        start = number
        if " resumed>" in text:
            start, head = begun.pop(thread)
            text = head.removesuffix("<unfinished ...>") + text.partition(" resumed>")[2]
        if text.startswith("fdatasync(") and "one.gguf.part>" in text:
            flushes.append((start, number))
        elif text.startswith("pwrite64(") and "one.gguf.part>" in text:
            written.append((int(re.findall(r", (\d+)\s*\)\s*= \d+$", text)[0]), number))
        elif text.startswith("write(") and "one.gguf.jrnl>" in text:
            for tensor in map(int, re.findall(r'\\"tensor\\":(\d+)', text)):
                named += 1
                first, end = places[tensor]
                last = max(at for offset, at in written if first <= offset < end)
                assert any(last < begin and finish < start for begin, finish in flushes), tensor
    assert named >= 2
