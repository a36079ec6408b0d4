"""Jobs with real workers: order, progress, cancel, death by SIGKILL, retry, and what survives the program's end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QProgressBar, QPushButton
from pytestqt.qtbot import QtBot

from app import jobs, paths
from app.protocol import Convert
from app.ui.context import Context
from app.ui.job_center import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job
from app.ui.job_drawer import JobDrawer
from converter.spec import ConversionResult, ConversionSpec, Planned, TensorDone


def convert(source: Path, target: Path, *types: str) -> Convert:
    return Convert(ConversionSpec(source=str(source), output=str(target), types=types))


def ended(qtbot: QtBot, job: Job) -> Job:
    qtbot.waitUntil(lambda: not job.is_active, timeout=60_000)
    return job


def test_a_conversion_runs_to_its_result(qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path) -> None:
    events: list[object] = []
    job = context.jobs.submit("convert", "Pocket", convert(pocket, tmp_path / "p.gguf", "Q4_K_M"))
    job.event.connect(events.append)
    assert job.state == RUNNING
    ended(qtbot, job)
    assert job.state == DONE, job.error and job.error.detail
    assert isinstance(job.result, ConversionResult)
    assert Path(job.result.outputs[0].path).stat().st_size == job.result.outputs[0].bytes
    assert isinstance(events[0], Planned)
    assert sum(isinstance(event, TensorDone) for event in events) == len(events[0].plan.source.tensors)
    assert job.progress == 1.0


def test_one_heavy_job_at_a_time_in_order(qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path) -> None:
    made = [
        context.jobs.submit("convert", name, convert(pocket, tmp_path / f"{name}.gguf", "Q8_0"))
        for name in ("a", "b", "c")
    ]
    most, order = [], []
    context.jobs.changed.connect(lambda: most.append(sum(job.state == RUNNING for job in made)))
    context.jobs.finished.connect(lambda job: order.append(job.title))
    assert [job.state for job in made] == [RUNNING, QUEUED, QUEUED]
    for job in made:
        ended(qtbot, job)
    assert max(most) == 1
    assert order == ["a", "b", "c"]


def test_cancelling_leaves_no_file(qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "p.gguf"
    job = context.jobs.submit("convert", "Pocket", convert(pocket, target, "Q4_K_M"))
    with qtbot.waitSignal(job.event, timeout=30_000):
        pass
    job.cancel()
    ended(qtbot, job)
    assert job.state == CANCELLED
    assert list(tmp_path.glob("p.gguf*")) == []


def test_cancelling_a_waiting_job_never_starts_it(qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path) -> None:
    first = context.jobs.submit("convert", "first", convert(pocket, tmp_path / "1.gguf", "Q8_0"))
    second = context.jobs.submit("convert", "second", convert(pocket, tmp_path / "2.gguf", "Q8_0"))
    second.cancel()
    assert second.state == CANCELLED
    ended(qtbot, first)
    assert not (tmp_path / "2.gguf").exists()
    assert jobs.remembered() == []


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_killed_job_fails_and_retry_does_the_work(
    qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path
) -> None:
    target = tmp_path / "p.gguf"
    job = context.jobs.submit("convert", "Pocket", convert(pocket, target, "Q4_K_M"))
    with qtbot.waitSignal(job.event, timeout=30_000):
        pass
    os.kill(job.pid(), signal.SIGKILL)
    ended(qtbot, job)
    assert job.state == FAILED
    assert job.error is not None
    assert (job.error.code, job.error.exit_status) == ("engine_died", 5)
    assert not target.exists()
    again = ended(qtbot, job.retry())
    assert again.state == DONE, again.error and again.error.detail
    assert target.exists()


def test_an_error_keeps_its_words(qtbot: QtBot, context: Context, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    job = context.jobs.submit("convert", "Nothing", convert(tmp_path / "empty", tmp_path / "p.gguf", "Q8_0"))
    ended(qtbot, job)
    assert job.state == FAILED
    assert job.error is not None
    assert job.error.title
    assert job.error.hint
    assert job.error.exit_status == 3


def test_work_cut_off_by_the_end_of_the_program_is_offered_again(
    qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path
) -> None:
    target = tmp_path / "p.gguf"
    job = context.jobs.submit("convert", "Pocket again", convert(pocket, target, "Q4_K_M"))
    with qtbot.waitSignal(job.event, timeout=30_000):
        pass
    context.close()
    later = Context()
    try:
        (record,) = later.jobs.unfinished()
        assert (record.title, record.command) == ("Pocket again", job.command)
        assert ended(qtbot, later.jobs.resume(record)).state == DONE
        assert target.exists()
        assert later.jobs.unfinished() == []
    finally:
        later.close()


def test_records_of_a_running_program_and_unreadable_ones_are_not_offered(context: Context) -> None:
    foreign = {"id": "aa", "kind": "convert", "title": "x", "command": {"message": "cancel"}, "owner": os.getppid()}
    for name, data in (("aa", msgspec.json.encode(foreign)), ("bb", b'{"id": "bb", "command": {"message": "x"}}')):
        (paths.jobs() / name).mkdir()
        (paths.jobs() / name / "job.json").write_bytes(data)
    assert jobs.remembered() == []
    assert [folder.name for folder in paths.jobs().iterdir()] == ["aa"]


def test_a_record_cannot_leave_its_folder() -> None:
    with pytest.raises(ValueError, match=r"\.\./x"):
        jobs.forget("../x")


def test_the_drawer_shows_progress_failure_and_retry(
    qtbot: QtBot, context: Context, pocket: Path, tmp_path: Path
) -> None:
    drawer = JobDrawer(context)
    qtbot.addWidget(drawer)
    drawer.show()
    (tmp_path / "empty").mkdir()
    job = context.jobs.submit("convert", "Broken <b>one</b>", convert(tmp_path / "empty", tmp_path / "p.gguf", "Q8_0"))
    (row,) = drawer.rows()
    buttons = {made.text(): made for made in row.findChildren(QPushButton)}
    assert row.findChild(QProgressBar).isVisible()
    assert buttons["Cancel"].isVisible()
    ended(qtbot, job)
    assert not buttons["Cancel"].isVisible()
    assert buttons["Copy details"].isVisible()
    qtbot.mouseClick(buttons["Retry"], Qt.MouseButton.LeftButton)
    assert len(drawer.rows()) == 2
    ended(qtbot, context.jobs.jobs[-1])
    context.jobs.clear_ended()
    assert drawer.rows() == []
