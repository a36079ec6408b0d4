"""Jobs with real workers: order, progress, cancel, death by SIGKILL, retry, and what survives the program's end."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import msgspec
import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QProgressBar, QPushButton, QToolButton, QWidget
from pytestqt.qtbot import QtBot

import converter
from app import jobs, paths
from app.conversion import kept_fraction
from app.jobs import CANCELLED, DONE, FAILED, PAUSED, QUEUED, RUNNING
from app.protocol import Convert
from app.ui.context import Context
from app.ui.job_center import Job
from app.ui.job_drawer import JobDrawer
from converter.spec import ConversionResult, ConversionSpec, Planned, TensorDone


def convert(source: Path, target: Path, *types: str) -> Convert:
    return Convert(ConversionSpec(source=str(source), output=str(target), types=types))


def ended(qtbot: QtBot, job: Job) -> Job:
    qtbot.waitUntil(lambda: not job.is_active)
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
    os.kill(job.pid(), signal.SIGKILL)  # before it has done anything, however fast it is
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


# ---- pause, go on, give up: with slow kernels, so that the work is never done before the test looks ------------


def at_work(qtbot: QtBot, context: Context, source: Path, target: Path, tensors: int = 3) -> Job:
    """A conversion that has finished some tensors and, with ``slow_kernels``, has much left to do."""
    command = Convert(ConversionSpec(source=str(source), output=str(target), types=("Q4_K_M",), threads=1))
    job = context.jobs.submit("convert", f"{source.name} to {target.name}", command)
    done: list[object] = []
    job.event.connect(lambda event: done.append(event) if isinstance(event, TensorDone) else None)
    qtbot.waitUntil(lambda: len(done) >= tensors or not job.is_active)
    assert job.state == RUNNING, job.error and job.error.detail
    return job


def press(qtbot: QtBot, card: QWidget, text: str) -> None:
    made = next(made for made in card.findChildren(QPushButton) if made.text() == text)
    assert made.isVisibleTo(card) and made.isEnabled(), text
    qtbot.mouseClick(made, Qt.MouseButton.LeftButton)


def words(card: QWidget) -> str:
    return "\n".join(made.text() for made in card.findChildren(QLabel) if made.isVisibleTo(card))


@pytest.fixture
def drawer(qtbot: QtBot, context: Context) -> JobDrawer:
    made = JobDrawer(context)
    qtbot.addWidget(made)
    made.resize(336, 700)
    made.show()
    return made


@pytest.fixture(scope="session")
def straight(long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The long model, and what an uninterrupted run makes of it."""
    target = tmp_path_factory.mktemp("straight") / "p.gguf"
    converter.convert(ConversionSpec(str(long_model), str(target), ("Q4_K_M",)))
    return long_model, target.read_bytes()


def test_pause_and_resume_from_the_drawer(
    qtbot: QtBot, drawer: JobDrawer, straight: tuple[Path, bytes], slow_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = drawer.context
    target = tmp_path / "p.gguf"
    job = at_work(qtbot, context, straight[0], target)
    (row,) = drawer.rows()
    press(qtbot, row, "Pause")
    assert "Pausing" in words(row)
    qtbot.waitUntil(lambda: job.state == PAUSED)
    assert job.kept is not None and 0 < job.kept < 1
    assert f"Paused at {job.kept * 100:.0f}" in words(row)
    assert sorted(path.suffix for path in tmp_path.glob("p.gguf*")) == [".jrnl", ".part"]
    assert context.jobs.active() == []
    context.jobs.clear_ended()
    assert drawer.rows() == [row], "a paused job has not ended"
    (record,) = jobs.remembered()
    assert (record.state, record.outputs) == (PAUSED, (str(target),))
    kept = job.kept
    events: list[object] = []
    job.event.connect(events.append)
    slow_kernels.undo()
    press(qtbot, row, "Resume")
    assert ended(qtbot, job).state == DONE, job.error and job.error.detail
    assert next(event.kept for event in events if isinstance(event, Planned)) == kept
    assert target.read_bytes() == straight[1]
    assert list(tmp_path.glob("p.gguf?*")) == []
    assert jobs.remembered() == []


@pytest.mark.usefixtures("slow_kernels")
def test_a_paused_job_lets_the_next_one_run_and_can_be_given_up(
    qtbot: QtBot,
    drawer: JobDrawer,
    long_model: Path,
    pocket: Path,
    tmp_path: Path,
) -> None:
    context = drawer.context
    job = at_work(qtbot, context, long_model, tmp_path / "p.gguf")
    other = context.jobs.submit("convert", "Next", convert(pocket, tmp_path / "next.gguf", "Q8_0"))
    job.pause()
    assert ended(qtbot, other).state == DONE
    assert job.state == PAUSED
    row = next(row for row in drawer.rows() if row.job is job)
    press(qtbot, row, "Discard")
    assert job.state == CANCELLED
    assert list(tmp_path.glob("p.gguf*")) == []
    assert jobs.remembered() == []


@pytest.mark.usefixtures("slow_kernels")
def test_cancelling_while_it_runs_leaves_nothing_to_resume(
    qtbot: QtBot,
    context: Context,
    drawer: JobDrawer,
    long_model: Path,
    tmp_path: Path,
) -> None:
    job = at_work(qtbot, context, long_model, tmp_path / "p.gguf")
    (row,) = drawer.rows()
    press(qtbot, row, "Cancel")
    assert ended(qtbot, job).state == CANCELLED
    assert job.kept is None
    assert list(tmp_path.glob("p.gguf*")) == []


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_killed_job_that_kept_something_is_resumed_not_retried(
    qtbot: QtBot,
    drawer: JobDrawer,
    straight: tuple[Path, bytes],
    slow_kernels: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    context = drawer.context
    target, (source, wanted) = tmp_path / "p.gguf", straight
    job = at_work(qtbot, context, source, target)
    qtbot.waitUntil(lambda: kept_fraction(job.outputs) is not None or not job.is_active)
    assert job.state == RUNNING and job.pid(), "it was done before it had noted anything"
    os.kill(job.pid(), signal.SIGKILL)
    qtbot.waitUntil(lambda: job.state == FAILED)
    (row,) = drawer.rows()
    assert job.kept is not None
    assert "Failed at" in words(row) and "was killed" in words(row)
    assert not any(made.isVisible() for made in row.findChildren(QPushButton) if made.text() == "Retry")
    slow_kernels.undo()
    press(qtbot, row, "Resume")
    assert job.state == RUNNING and job.error is None
    assert ended(qtbot, job).state == DONE, job.error and job.error.detail
    assert target.read_bytes() == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["p.gguf"]


@pytest.mark.usefixtures("slow_kernels")
@pytest.mark.parametrize("go_on", [True, False], ids=["resume", "discard"])
def test_work_cut_off_by_the_end_of_the_program_is_offered_again(
    qtbot: QtBot,
    context: Context,
    straight: tuple[Path, bytes],
    tmp_path: Path,
    go_on: bool,
) -> None:
    target, (source, wanted) = tmp_path / "p.gguf", straight
    job = at_work(qtbot, context, source, target)
    qtbot.waitUntil(lambda: kept_fraction(job.outputs) is not None)
    waiting = context.jobs.submit("convert", "Waiting", convert(source, tmp_path / "w.gguf", "Q8_0"))
    context.close()
    assert sorted(path.suffix for path in tmp_path.glob("p.gguf*")) == [".jrnl", ".part"]
    later = Context()
    drawer = JobDrawer(later)
    qtbot.addWidget(drawer)
    drawer.show()
    try:
        first, second = drawer.left()
        assert (first.record.title, first.record.command) == (job.title, job.command)
        assert second.record.id == waiting.id and "Was waiting" in words(second)
        assert re.search(r"Interrupted at \d+", words(first))
        os.environ.pop("QUENCH_KERNELS")  # fast again
        press(qtbot, second, "Discard")
        press(qtbot, first, "Resume" if go_on else "Discard")
        assert drawer.left() == []
        if go_on:
            (again,) = later.jobs.jobs
            assert ended(qtbot, again).state == DONE, again.error and again.error.detail
            assert target.read_bytes() == wanted
        assert list(tmp_path.glob("p.gguf?*")) == []
        assert target.exists() == go_on
        assert later.jobs.unfinished() == []
    finally:
        later.close()


@pytest.mark.usefixtures("slow_kernels")
def test_waiting_jobs_change_places_by_buttons_and_keys(
    qtbot: QtBot,
    drawer: JobDrawer,
    long_model: Path,
    pocket: Path,
    tmp_path: Path,
) -> None:
    context = drawer.context
    order: list[str] = []
    context.jobs.finished.connect(lambda job: order.append(job.title))
    running = context.jobs.submit(
        "convert",
        "run",
        convert(long_model, tmp_path / "r.gguf", "Q4_K_M"),
    )
    made = [context.jobs.submit("convert", name, convert(pocket, tmp_path / f"{name}.gguf", "Q8_0")) for name in "abc"]

    def titles() -> list[str]:
        return [row.job.title for row in drawer.rows()]

    def arrow(title: str, name: str) -> QToolButton:
        row = next(row for row in drawer.rows() if row.job.title == title)
        return next(made for made in row.findChildren(QToolButton) if made.accessibleName().startswith(name))

    qtbot.waitUntil(lambda: arrow("c", "Move up").isVisible())
    assert titles() == ["run", "a", "b", "c"]
    assert not arrow("a", "Move up").isEnabled() and not arrow("c", "Move down").isEnabled()
    assert not arrow("run", "Move up").isVisible()
    qtbot.mouseClick(arrow("c", "Move up"), Qt.MouseButton.LeftButton)
    assert titles() == ["run", "a", "c", "b"]
    up = arrow("c", "Move up")
    with qtbot.waitActive(drawer):
        drawer.activateWindow()
    up.setFocus()
    assert up.hasFocus()
    qtbot.keyClick(up, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    assert titles() == ["run", "c", "a", "b"]
    assert not up.isEnabled() and arrow("c", "Move down").hasFocus(), "the focus stays in the row"
    qtbot.keyClick(arrow("c", "Move down"), Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    assert titles() == ["run", "c", "a", "b"]
    assert [record.title for record in jobs.remembered()] == ["run", "c", "a", "b"]
    running.cancel()
    for job in (running, *made):
        ended(qtbot, job)
    assert order == ["run", "c", "a", "b"]
    assert titles() == ["b", "a", "c", "run"]


def test_records_of_a_running_program_and_unreadable_ones_are_not_offered(context: Context) -> None:
    foreign = {"id": "aa", "kind": "convert", "title": "x", "command": {"message": "cancel"}, "owner": os.getppid()}
    for name, data in (("aa", msgspec.json.encode(foreign)), ("bb", b'{"id": "bb", "command": {"message": "x"}}')):
        (paths.jobs() / name).mkdir()
        (paths.jobs() / name / "job.json").write_bytes(data)
    assert jobs.remembered() == []
    assert [folder.name for folder in paths.jobs().iterdir()] == ["aa"]


def test_after_a_restart_another_program_with_the_same_number_does_not_hide_a_record(
    context: Context, pocket: Path, tmp_path: Path
) -> None:
    jobs.remember(jobs.Record("aa", "convert", "cut off", convert(pocket, tmp_path / "p.gguf", "Q8_0")))
    file = paths.jobs() / "aa" / "job.json"
    stored = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(stored | {"owner": os.getppid()}))
    assert context.jobs.unfinished() == []
    before = psutil.Process(os.getppid()).create_time() - 3600
    os.utime(file, (before, before))
    assert [record.title for record in context.jobs.unfinished()] == ["cut off"]


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
