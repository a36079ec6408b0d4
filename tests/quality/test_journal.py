"""Quality runs that were interrupted go on, and their results are those of runs that were not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from app import journals
from app.child import Child, run_job
from app.journals import Head, Piece
from app.measure_messages import MeasureQuality, QualityResult, QualityUpdate
from app.protocol import Event, Status
from app.quality.lab import QualityRun
from converter.spec import Cancelled
from resources import path as resource

Make = Callable[[str], Path]

SPEEDS = ("tokens_per_second", "memory")
"""What is measured of the machine, anew in every run."""


@pytest.fixture
def command(pocket_gguf: Make) -> MeasureQuality:
    """One candidate on three short windows of two texts."""
    return MeasureQuality(
        str(pocket_gguf("F16")), (str(pocket_gguf("Q4_K_M")),), ("prose", "dialogue"), context=64, chunks=3, threads=1
    )


def run(command: MeasureQuality, told: list[Event] | None = None) -> QualityResult:
    events: list[Event] = [] if told is None else told
    return QualityRun(command, events.append, lambda: False).run()


def said(events: Sequence[Event], words: str) -> bool:
    return any(isinstance(each, Status) and words in each.label for each in events)


def interrupted(command: MeasureQuality, pieces: int) -> Path:
    """The journal of such a run that was stopped as soon as there were so many pieces in it."""

    def stopped() -> bool:
        return any(len(journals.read(path).pieces) >= pieces for path in journals.folder().iterdir())

    with pytest.raises(Cancelled):
        QualityRun(command, lambda event: None, stopped).run()
    (path,) = journals.folder().iterdir()
    return path


def figures(result: QualityResult) -> list[dict[str, object]]:
    found = []
    for each in (result.reference, *result.candidates):
        plain = msgspec.to_builtins(each)
        found.append({name: value for name, value in plain.items() if name not in SPEEDS})
    return found


def test_a_stopped_run_goes_on_and_its_result_is_that_of_one_that_was_not(command: MeasureQuality) -> None:
    whole = run(command)
    assert not list(journals.folder().iterdir()), "a finished run leaves nothing"
    assert journals.kept_fraction(command) is None
    interrupted(command, 6)
    assert journals.kept_fraction(command) == pytest.approx(0.5)
    told: list[Event] = []
    again = run(command, told)
    assert again.notes == ("Went on from an interrupted run, at 50%.",)
    assert said(told, "Went on from an interrupted run, at 50%.")
    assert figures(again) == figures(whole)
    assert again.tokens == whole.tokens == 6 * 31
    assert not list(journals.folder().iterdir())


@pytest.mark.slow
def test_one_model_after_another_goes_on_too_even_where_there_is_room_now(
    command: MeasureQuality, pocket_gguf: Make
) -> None:
    """What was compared with answers that had waited is not mixed with what was not."""
    more = (*command.candidates, str(pocket_gguf("Q2_K")))
    command = msgspec.structs.replace(command, memory_mib=1, candidates=more)
    whole = run(command)
    journal = interrupted(command, 6 + 6 + 2)
    assert journals.read(journal).head.way == "in turn"  # type: ignore[union-attr]
    told: list[Event] = []
    again = run(command, told)
    assert figures(again) == figures(whole)
    assert said(told, "Went on from an interrupted run")
    assert not said(told, "Scoring window")


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 1])
def test_against_saved_answers_it_goes_on_too(command: MeasureQuality, tmp_path: Path, memory: int) -> None:
    saved = str(tmp_path / "answers.qref")
    run(msgspec.structs.replace(command, fingerprint=saved))
    command = msgspec.structs.replace(command, reference=saved, texts=(), context=0, chunks=0, memory_mib=memory)
    whole = run(command)
    interrupted(command, 6)
    told: list[Event] = []
    again = run(command, told)
    assert said(told, "Went on from an interrupted run")
    assert figures(again) == figures(whole)


@pytest.mark.slow
def test_tasks_go_on_as_well(command: MeasureQuality, tmp_path: Path) -> None:
    lines = resource("pocket-tasks.jsonl").read_text("utf-8").splitlines()
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines[:48]), "utf-8")
    command = msgspec.structs.replace(command, tasks=str(tmp_path / "tasks.jsonl"), texts=("prose",))
    whole = run(command)
    assert len(whole.reference.tasks) > 0
    journal = interrupted(command, 3 + 3 + 2)
    assert {kind for _, kind, _ in journals.read(journal).pieces} == {"window", "tasks"}
    told: list[Event] = []
    again = run(command, told)
    assert figures(again) == figures(whole)
    assert said(told, "Went on from an interrupted run")


@pytest.mark.slow
def test_only_a_candidate_that_changed_is_measured_anew(
    command: MeasureQuality, pocket_gguf: Make, tmp_path: Path
) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(pocket_gguf("Q2_K").read_bytes())
    command = msgspec.structs.replace(command, candidates=(*command.candidates, str(own)))
    whole = run(command)
    before = journals.read(interrupted(command, 9)).pieces
    os.utime(own, ns=(1, 1))
    fresh = journals.read(interrupted(command, len(before) + 1)).pieces.keys() - before.keys()
    assert len({whose for whose, _, _ in fresh}) == 1
    assert figures(run(command)) == figures(whole)


@pytest.mark.slow
def test_another_text_uses_nothing_and_says_so(command: MeasureQuality, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One thing follows another. " * 400, "utf-8")
    command = msgspec.structs.replace(command, texts=(str(text),))
    interrupted(command, 4)
    text.write_text("Another thing follows one. " * 400, "utf-8")
    notes = run(command).notes
    assert notes == ("An interrupted run was of other files, texts or versions: nothing of it was used.",)


@pytest.mark.slow
def test_time_that_was_spent_counts_and_what_it_brought_is_not_lost(command: MeasureQuality) -> None:
    """The limit is over when the run goes on: it shows all that is there, and computes nothing more."""
    kept = journals.read(interrupted(command, 6))
    assert kept.spent > 0
    result = run(msgspec.structs.replace(command, minutes=kept.spent / 60))
    assert result.tokens == 3 * 31
    assert result.seconds > kept.spent


@pytest.mark.slow
def test_afresh_means_from_the_beginning(command: MeasureQuality) -> None:
    interrupted(command, 6)
    told: list[Event] = []
    assert run(msgspec.structs.replace(command, fresh=True), told).notes == ()
    assert not said(told, "Went on")


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_finished(command: MeasureQuality) -> None:
    """SIGKILL in the middle; the same command goes on, by a process that knows nothing of the first."""
    command = msgspec.structs.replace(command, context=512, chunks=8)
    whole = run(command)
    with Child("measure") as child:
        child.send(command)
        for event in child.events():
            if isinstance(event, QualityUpdate) and event.windows >= 3:
                os.kill(child.pid, signal.SIGKILL)
    (journal,) = journals.folder().iterdir()
    found = journals.read(journal)
    assert found.head is not None and 6 <= len(found.pieces) < found.head.total
    assert journals.kept_fraction(command) == pytest.approx(len(found.pieces) / found.head.total)
    again = run_job("measure", command, lambda event: None)
    assert isinstance(again, QualityResult)
    assert again.notes[0].startswith("Went on from an interrupted run")
    assert figures(again) == figures(whole)


# ---- the file itself -----------------------------------------------------------------------------------------------


KEY = "0" * 24


def written(pieces: int) -> Path:
    journal = journals.Journal.begin(Head(KEY, b"i" * 32, "together", 8))
    for number in range(pieces):
        journal.add(Piece(b"w", "window", number, float(number), bytes([number]) * 100))
    journal.close()
    return journal.path


def test_a_journal_has_what_was_put_in() -> None:
    found = journals.read(written(3))
    assert found.head == Head(KEY, b"i" * 32, "together", 8)
    assert found.pieces == {(b"w", "window", number): bytes([number]) * 100 for number in range(3)}
    assert (found.spent, found.problem) == (2.0, "")


def test_whatever_is_cut_off_or_flipped_only_good_pieces_count() -> None:
    """Every length and a flipped bit at every place: the pieces are a true beginning, or the journal is refused."""
    path = written(3)
    data, whole = path.read_bytes(), journals.read(path).pieces
    damaged = [data[:length] for length in range(len(data))]
    damaged += [data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in range(len(data))]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        found = journals.read(path)
        refused += bool(found.problem)
        assert bool(found.problem) == (found.head is None)
        assert list(found.pieces.items()) == list(whole.items())[: len(found.pieces)]
        assert len(found.pieces) < 3
    path.write_bytes(data)
    beginning = journals.Journal.begin(Head(KEY, b"i" * 32, "together", 8))
    beginning.close()
    assert refused == 2 * beginning.path.stat().st_size, "just where the first frame is not whole"


def test_writing_goes_on_behind_what_is_good() -> None:
    path = written(2)
    path.write_bytes(path.read_bytes()[:-1])
    journal = journals.Journal.go_on(path, journals.read(path).length)
    journal.add(Piece(b"w", "window", 7, 9.0, b"new"))
    journal.close()
    assert list(journals.read(path).pieces) == [(b"w", "window", 0), (b"w", "window", 7)]


@pytest.mark.parametrize("content", [b"", b"QJRN", b"PK\x03\x04" + bytes(50), b"QJRN\x02\0\0\0" + bytes(50)])
def test_a_foreign_file_is_refused_in_words(content: bytes) -> None:
    path = written(1)
    path.write_bytes(content)
    assert "not a journal of this version" in journals.read(path).problem
    assert journals.kept_fraction(MeasureQuality("r", ("c",), ("prose",))) is None


def test_what_another_program_writes_is_left_to_it() -> None:
    path = written(1)
    mine = path.rename(path.with_name(f"{KEY}.{os.getppid()}.journal"))
    os.utime(mine)
    assert journals.take(KEY) is None
    gone = mine.rename(path.with_name(f"{KEY}.99999999.journal"))
    assert journals.take(KEY) == path
    assert not gone.exists()


def test_journals_of_nobody_go_by_age_and_by_size() -> None:
    folder = journals.folder()
    for name, days, size in (("old", 40, 10), ("large", 3, 900), ("small", 2, 900), ("new", 1, 10)):
        path = folder / f"{name}.99999999.journal"
        path.write_bytes(bytes(size))
        when = time.time() - days * 86400
        os.utime(path, (when, when))
    journals.forget_old(size=2000)
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["large", "new", "small"]
    journals.forget_old(size=1000)
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["new", "small"]


def test_other_options_are_another_measurement_and_a_longer_time_is_not() -> None:
    command = MeasureQuality("r", ("c",), ("prose",))
    key = journals.key_of(command)
    for name, value in {"context": 256, "kv": ("q8_0",), "texts": ("code",), "threads": 2, "candidates": ()}.items():
        assert journals.key_of(msgspec.structs.replace(command, **{name: value})) != key
    for name, value in {"minutes": 9.0, "precision": 0.1, "pass_kld": 0.01, "report": "r", "fresh": True}.items():
        assert journals.key_of(msgspec.structs.replace(command, **{name: value})) == key


def test_a_disk_that_refuses_ends_the_journal_and_not_the_measurement() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    with Path("/dev/full").open("wb", buffering=0) as full:
        journal = journals.Journal(Path("nowhere"), full)
        journal.add(Piece(b"w", "window", 0, 0.0, b"data"))
    assert journal.problem == "No space left on device"
    journal.add(Piece(b"w", "window", 1, 0.0, b"data"))
