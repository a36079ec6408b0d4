"""What the end of a child means, and the blocking client, with real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from app import child
from app.child import Child, Verdict, run_job, verdict, worker_command, worker_environment
from app.measure_messages import BenchResult
from app.protocol import Cancelled, Failed, Inspect, Paused, QuenchError, Status
from tests.workers.small import small_worker

RESULT = BenchResult((), "cpu", 1.0)
FAILURE = Failed("bad_header", "Broken.", "detail", "hint", 0, 3)

ENDS = [
    # terminal message, exit status, signal, log -> ok, cancelled, code, a word of the title or detail
    (RESULT, 0, None, "", True, False, None, ""),
    (RESULT, None, signal.SIGKILL, "", True, False, None, ""),
    (FAILURE, 3, None, "", False, False, "bad_header", "Broken"),
    (FAILURE, None, signal.SIGSEGV, "", False, False, "bad_header", "Broken"),
    (Cancelled(), 0, None, "", False, True, None, ""),
    (Paused(), 0, None, "", False, False, None, ""),
    (None, 0, None, "", False, False, "engine_died", "without a result"),
    (None, 1, None, "ImportError: no module", False, False, "engine_died", "ImportError"),
    (None, 127, None, "", False, False, "engine_died", "Exit status 127"),
    (None, None, None, "", False, False, "engine_died", "unknown"),
    (None, None, signal.SIGKILL, "", False, False, "engine_died", "SIGKILL"),
    (None, 137, None, "", False, False, "engine_died", "SIGKILL"),
    (None, None, signal.SIGABRT, "GGML_ASSERT(n > 0) failed", False, False, "engine_died", "GGML_ASSERT(n > 0)"),
    (None, None, signal.SIGSEGV, "", False, False, "engine_died", "crashed"),
    (None, None, signal.SIGBUS, "", False, False, "engine_died", "file was cut short"),
    (None, None, signal.SIGTERM, "", False, False, "engine_died", "from outside"),
    (None, None, signal.SIGABRT, "what():  std::bad_alloc", False, False, "engine_died", "out of memory"),
    (None, None, 64, "", False, False, "engine_died", "64"),
]


@pytest.mark.parametrize("case", ENDS)
def test_every_end_has_one_verdict(case):
    *facts, ok, cancelled, error, word = case
    end = verdict(*facts)
    assert (end.ok, end.cancelled) == (ok, cancelled)
    assert end.paused == isinstance(facts[0], Paused)
    if error is None:
        assert end.error is None
        return
    assert end.error is not None
    assert end.error.code == error
    assert word in f"{end.error.title} {end.error.detail}"
    if error == "engine_died":
        assert end.error.exit_status == 5
        assert end.error.hint


def test_a_killed_process_is_told_apart_from_one_that_ran_out_of_memory():
    killed = verdict(None, None, signal.SIGKILL, "")
    memory = verdict(None, None, signal.SIGKILL, "ggml: failed to allocate buffer")
    assert "memory runs out" in killed.error.hint
    assert "ran out of memory" in memory.error.title


def test_windows_crash_codes_are_known():
    for code in (0xC0000005, 0xC0000005 - (1 << 32)):
        end = verdict(None, code, None, "") if os.name == "nt" else child._kind_of_death(code, None, "")
        assert end == "crash" or "crashed" in end.error.title
    assert "0xC0000409" in child._status_text(0xC0000409, None)


def test_a_long_log_is_cut_to_its_end():
    log = "\n".join(f"line {number}" for number in range(1000))
    detail = verdict(None, 1, None, log).error.detail
    assert "line 999" in detail
    assert "line 900" not in detail


def test_worker_command_runs_this_interpreter_or_the_second_executable(monkeypatch):
    assert worker_command("chat") == [sys.executable, "-m", "app", "worker", "chat"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/quench/quench.exe")
    assert worker_command("chat") == ["/opt/quench/quench-worker.exe", "worker", "chat"]


def test_worker_environment_stops_spinning_threads_and_debuggers(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("QUENCH_HOME", "/somewhere")
    environment = worker_environment()
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert "OMP_WAIT_POLICY" not in environment  # the engine's threads are the engine's own matter
    assert environment["GGML_NO_BACKTRACE"] == "1"
    assert environment["QUENCH_HOME"] == "/somewhere"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert worker_environment()["OMP_WAIT_POLICY"] == "active"


def test_a_folder_called_app_in_the_current_directory_is_not_ours(tmp_path, monkeypatch):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QuenchError) as caught:
        run_job("nonsense", Inspect(1, "x"), lambda event: None)
    assert caught.value.code == "usage"
    assert caught.value.exit_status == 2


def test_events_come_in_order_and_prints_do_not_get_between(tmp_path):
    arguments = small_worker(
        tmp_path,
        """
        libc = ctypes.CDLL(None)
        for number in range(200):
            print("noise from Python")
            libc.puts(b"noise from C")
            libc.fflush(None)
            connection.send(Status("step", number, 200))
        connection.send(BenchResult((), "cpu", 1.0))
        """,
    )
    with Child("small", arguments) as process:
        events = list(process.events())
        end = process.wait(120)
        log = process.log_tail()
    assert [event.done for event in events[:-1]] == list(range(200))
    assert end == Verdict(ok=True)
    assert "noise from Python" in log
    assert "noise from C" in log


def test_a_child_that_dies_in_the_middle_of_a_word_died(tmp_path):
    arguments = small_worker(
        tmp_path,
        """
        os.write(connection._write_fd, b'{"message":"status","la')
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    with Child("small", arguments) as process:
        assert list(process.events()) == []
        assert process.wait(120).error.code == "engine_died"


def test_nonsense_on_the_line_is_an_error_and_ends_the_child(tmp_path):
    arguments = small_worker(
        tmp_path, "os.write(connection._write_fd, b'hello there\\n'); connection.cancelled.wait(60)"
    )
    with Child("small", arguments) as process:
        with pytest.raises(QuenchError) as caught:
            list(process.events())
        assert caught.value.code == "bad_message"
        assert process.wait(120).error.code == "engine_died"


def test_a_child_of_another_version_is_refused(tmp_path):
    script = tmp_path / "old.py"
    script.write_text('import time; print(\'{"message":"hello","protocol":999,"worker":"x","pid":1}\', flush=True)')
    with Child("x", [sys.executable, str(script)]) as process, pytest.raises(QuenchError) as caught:
        list(process.events())
    assert caught.value.code == "protocol_mismatch"


def test_a_child_that_does_not_stop_is_killed(tmp_path):
    arguments = small_worker(
        tmp_path,
        """
        connection.send(Status("deaf", 0, 1))
        while True:
            time.sleep(0.05)
        """,
    )
    with Child("small", arguments) as process:
        events = process.events()
        assert isinstance(next(events), Status)
        process.cancel(grace=0.3)
        assert list(events) == []
        assert process.wait(120).error.code == "engine_died"


@pytest.mark.parametrize(
    "body",
    ["connection.cancelled.wait()\n        raise Stopped", "time.sleep(600)"],
    ids=["it listens", "it is killed"],
)
def test_ctrl_c_cancels_a_job_and_returns_cancelled(tmp_path, body):
    worker = small_worker(
        tmp_path,
        f"""
        connection.send(Status("busy", 0, 1))
        {body}
        """,
    )
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
        import app.child as child
        from app.protocol import Inspect
        child.worker_command = lambda kind: {worker!r}
        usual = child.Child.cancel
        child.Child.cancel = lambda self, *, keep: usual(self, 0.5, keep=keep)  # the test need not wait longer
        end = child.run_job("small", Inspect(1, "x"), lambda event: print("event", flush=True))
        print(type(end).__name__, flush=True)
        """)
    )
    process = subprocess.Popen(
        [sys.executable, str(parent)], stdout=subprocess.PIPE, env=worker_environment(), text=True
    )
    assert process.stdout.readline() == "event\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "Cancelled\n"
    assert process.wait(120) == 0
    process.stdout.close()


def test_ctrl_c_that_comes_too_late_for_a_job_stops_the_next(tmp_path):
    worker = small_worker(
        tmp_path,
        """
        connection.send(Status("busy", 0, 1))
        connection.cancelled.wait()
        connection.send(BenchResult((), "cpu", 1.0))
        """,
    )
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
        import app.child as child
        from app.protocol import Inspect
        child.worker_command = lambda kind: {worker!r}
        for _ in range(2):
            end = child.run_job("small", Inspect(1, "x"), lambda event: print("event", flush=True))
            print(type(end).__name__, flush=True)
        """)
    )
    process = subprocess.Popen(
        [sys.executable, str(parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=worker_environment(),
        text=True,
    )
    assert process.stdout.readline() == "event\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert out == "BenchResult\n"
    assert err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "body", ["connection.cancelled.wait(60)", "while True: time.sleep(0.05)"], ids=["polite", "deaf"]
)
def test_the_death_of_the_parent_ends_the_child(tmp_path, body):
    worker = small_worker(tmp_path, f"connection.send(Status('up', 0, 1))\n{body}")
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import subprocess, sys, os, json\n"
        "child = subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.PIPE)\n"
        "sys.stdin.read(1)\n"
        "os._exit(0)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(parent), json.dumps(worker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=worker_environment(),
    )
    # The worker holds the other end of our pipe too: its end of file means that both are gone.
    output = process.stdout
    assert b"hello" in output.readline()
    assert b"status" in output.readline()
    process.stdin.write(b"x")
    process.stdin.close()
    process.wait(120)
    until = time.monotonic() + 10
    rest = b"something"
    while rest and time.monotonic() < until:
        ready, _, _ = select.select([output], [], [], 10)
        rest = os.read(output.fileno(), 4096) if ready else rest
        assert ready
    output.close()
    assert rest == b""


def test_the_tail_of_a_real_abort_reaches_the_person(tmp_path):
    arguments = small_worker(
        tmp_path, "sys.stderr.write('GGML_ASSERT(rows > 0) failed\\n'); sys.stderr.flush(); os.abort()"
    )
    with Child("small", arguments) as process:
        assert list(process.events()) == []
        error = process.wait(120).error
    assert error.code == "engine_died"
    assert "GGML_ASSERT(rows > 0)" in error.detail
    assert "SIGABRT" in error.detail


def test_log_of_a_child_can_be_read_while_it_runs(tmp_path):
    arguments = small_worker(
        tmp_path,
        "print('one', flush=True); connection.send(Status('x', 0, 1)); connection.cancelled.wait(60)",
    )
    with Child("small", arguments) as process:
        events = process.events()
        next(events)
        assert process.log_tail() == "one\n"
        process.cancel()
        assert list(events) == [Cancelled()]
        assert process.wait(120) == Verdict(cancelled=True)
    assert Path(tmp_path / "small_worker.py").exists()
