"""The one wrapper around QProcess: what a worker says, how it ends, and that it always ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from app.child import Verdict
from app.protocol import Cancelled, Inspected, Status
from app.protocol import Inspect as InspectCommand
from app.ui.process import WorkerProcess
from tests.workers.small import small_worker


class Watcher:
    """Collects what a worker process emits."""

    def __init__(self, process: WorkerProcess) -> None:
        self.events: list[object] = []
        self.verdicts: list[Verdict] = []
        process.event.connect(self.events.append)
        process.finished.connect(self.verdicts.append)


def run(qtbot: QtBot, process: WorkerProcess) -> Watcher:
    watcher = Watcher(process)
    with qtbot.waitSignal(process.finished):
        process.start()
    return watcher


@pytest.fixture
def parent(qtbot: QtBot) -> QObject:
    return QObject()


def test_events_come_in_order_and_before_the_verdict(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    body = """
    for n in range(50):
        connection.send(Status(f"step {n}", n, 50))
    raise Stopped
    """
    watcher = run(qtbot, WorkerProcess("small", parent, small_worker(tmp_path, body)))
    assert [event.done for event in watcher.events if isinstance(event, Status)] == list(range(50))
    assert isinstance(watcher.events[-1], Cancelled)
    assert [verdict.cancelled for verdict in watcher.verdicts] == [True]


def test_native_prints_go_to_the_log_and_not_between_messages(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    body = """
    connection.send(Status("a", 0, 1))
    os.write(1, b"noise from a native library\\n")
    connection.send(Status("b", 1, 1))
    raise Stopped
    """
    process = WorkerProcess("small", parent, small_worker(tmp_path, body))
    watcher = run(qtbot, process)
    assert [event.label for event in watcher.events if isinstance(event, Status)] == ["a", "b"]
    assert "noise from a native library" in process.log_tail()


def test_an_error_of_the_worker_is_the_verdict(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    body = "raise QuenchError('no_space', 'The disk is full.', 'needs 5', 'Free some.', exit_status=4)"
    (verdict,) = run(qtbot, WorkerProcess("small", parent, small_worker(tmp_path, body))).verdicts
    assert verdict.error is not None
    assert (verdict.error.code, verdict.error.detail, verdict.error.exit_status) == ("no_space", "needs 5", 4)


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_killed_worker_is_an_engine_that_died(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    process = WorkerProcess("small", parent, small_worker(tmp_path, "list(connection.commands())"))
    watcher = Watcher(process)
    process.start()
    qtbot.waitUntil(lambda: process.pid() > 0)
    with qtbot.waitSignal(process.finished):
        os.kill(process.pid(), signal.SIGKILL)
    (verdict,) = watcher.verdicts
    assert verdict.error is not None
    assert verdict.error.code == "engine_died"
    assert "SIGKILL" in verdict.error.detail


def test_a_line_that_is_no_message_ends_the_worker(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    script = "import sys, time; print('hello, world', flush=True); time.sleep(600)"
    watcher = run(qtbot, WorkerProcess("small", parent, [sys.executable, "-c", script]))
    (verdict,) = watcher.verdicts
    assert verdict.error is not None
    assert verdict.error.code == "bad_message"
    assert "hello, world" in verdict.error.detail


def test_another_protocol_version_is_refused(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    script = (
        'import sys, time; print(\'{"message":"hello","protocol":99,"worker":"x","pid":1}\', flush=True); '
        "time.sleep(600)"
    )
    (verdict,) = run(qtbot, WorkerProcess("small", parent, [sys.executable, "-c", script])).verdicts
    assert verdict.error is not None
    assert "99" in verdict.error.detail


def test_a_program_that_is_not_there_is_a_verdict_too(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    (verdict,) = run(qtbot, WorkerProcess("small", parent, [str(tmp_path / "nothing")])).verdicts
    assert verdict.error is not None
    assert verdict.error.code == "worker_missing"


def test_stop_kills_a_worker_that_does_not_listen(qtbot: QtBot, parent: QObject, tmp_path: Path) -> None:
    script = "import time; time.sleep(600)"
    process = WorkerProcess("small", parent, [sys.executable, "-c", script])
    watcher = Watcher(process)
    process.start()
    qtbot.waitUntil(lambda: process.pid() > 0)
    pid = process.pid()
    with qtbot.waitSignal(process.finished):
        process.stop(grace_ms=100)
    assert len(watcher.verdicts) == 1
    assert not psutil.pid_exists(pid)


def test_the_scout_worker_reads_pocket(qtbot: QtBot, parent: QObject, pocket: Path) -> None:
    process = WorkerProcess("scout", parent)
    watcher = Watcher(process)
    process.start()
    process.send(InspectCommand(7, str(pocket)))
    qtbot.waitUntil(lambda: bool(watcher.events))
    (answer,) = watcher.events
    assert isinstance(answer, Inspected)
    assert (answer.request, answer.info.parameters, answer.info.layers) == (7, 5_246_208, 6)
    with qtbot.waitSignal(process.finished):
        process.stop()
    assert watcher.verdicts[0].error is None
