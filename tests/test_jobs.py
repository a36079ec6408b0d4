"""Records of jobs: what was asked survives the program that asked it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil
import pytest

from app import jobs, paths
from app.protocol import Cancel, Convert
from converter.spec import ConversionSpec

COMMAND = Convert(
    ConversionSpec("/models/größe ☕", "/out/x.gguf", ("Q4_K_M", "Q8_0"), tensor_types=(("ffn", "Q6_K"),))
)


def record(identifier: str) -> jobs.Record:
    return jobs.Record(identifier, "convert", "Pocket to Q4_K_M", COMMAND)


def test_the_arguments_come_back_as_they_were(quench_home: Path) -> None:
    jobs.remember(record("one"))
    found = jobs.remembered()
    assert [(job.id, job.kind, job.title, job.command) for job in found] == [
        ("one", "convert", "Pocket to Q4_K_M", COMMAND)
    ]
    assert found[0].owner == os.getpid()
    assert list(quench_home.glob("jobs/*")) == [quench_home / "jobs" / "one"]
    jobs.forget("one")
    jobs.forget("one")
    assert jobs.remembered() == []
    assert list(quench_home.glob("jobs/*")) == []


def test_state_and_outputs_come_back_in_the_order_of_the_queue() -> None:
    for name, place in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
        made = msgspec.structs.replace(record(name), place=place, state=jobs.PAUSED, outputs=("/out/x.gguf",))
        jobs.remember(made)
    jobs.remember(record("new"))
    found = jobs.remembered()
    assert [job.id for job in found] == ["early", "middle", "late", "new"]
    assert {(job.state, job.outputs) for job in found[:3]} == {("paused", ("/out/x.gguf",))}
    assert (found[3].state, found[3].outputs) == ("queued", ())


def test_a_job_moves_only_as_the_table_says() -> None:
    allowed = {(state, to) for state in jobs.MOVES for to in jobs.MOVES if moves(state, to)}
    assert allowed == {
        ("queued", "running"),
        ("queued", "cancelled"),
        ("running", "done"),
        ("running", "failed"),
        ("running", "cancelled"),
        ("running", "paused"),
        ("paused", "queued"),
        ("paused", "cancelled"),
        ("failed", "queued"),
        ("failed", "cancelled"),
    }


def moves(state: str, to: str) -> bool:
    try:
        return jobs.moved(state, to) == to
    except ValueError:
        return False


def test_resuming_changes_nothing_but_that() -> None:
    again = jobs.resuming(COMMAND)
    assert again == Convert(msgspec.structs.replace(COMMAND.spec, resume=True))
    assert jobs.can_resume(COMMAND) and not jobs.can_resume(Cancel())
    assert jobs.resuming(Cancel()) == Cancel()


def test_jobs_of_another_running_program_are_left_alone() -> None:
    jobs.remember(record("mine"))
    jobs.remember(record("theirs"))
    jobs.remember(record("orphan"))
    for name, owner in (("theirs", os.getppid()), ("orphan", unused_pid())):
        file = paths.jobs() / name / "job.json"
        data = msgspec.json.decode(file.read_bytes())
        file.write_bytes(msgspec.json.encode({**data, "owner": owner}))
    assert sorted(job.id for job in jobs.remembered()) == ["mine", "orphan"]
    assert (paths.jobs() / "theirs").exists()


def unused_pid() -> int:
    return next(number for number in range(60_000, 2, -1) if not psutil.pid_exists(number))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"id":"x","kind":"convert","title":"t","command":{},"owner":1}',
        b'{"id":"x","owner":null}',
    ],
)
def test_a_record_that_cannot_be_read_is_removed(data: bytes) -> None:
    file = paths.jobs() / "broken" / "job.json"
    file.parent.mkdir()
    file.write_bytes(data)
    assert jobs.remembered() == []
    assert not file.parent.exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\\b"])
def test_identifiers_are_no_paths(name: str) -> None:
    with pytest.raises(ValueError):
        jobs.remember(record(name))
