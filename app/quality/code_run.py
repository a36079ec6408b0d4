"""Run a program that a model wrote, in a process of its own that is locked down as far as the system allows.

What holds everywhere here (Linux, macOS): a separate ``python -I`` without site packages, in an empty temporary folder,
without environment, input or output; limits on processor time, memory (macOS does not keep that one), file size, open
files and new processes; a time limit on the whole, after which the process and its group are killed; and a hook inside
Python that refuses files outside the folder and the library, sockets, processes and native code. On Linux also no
network, where the system lets us take it away, and another user where we are root.

What does not hold: it is no virtual machine. The hook lives in the process that it watches, and Python is not built
against programs that corrupt their own memory; without root the process is still the same user. So it runs only
when a person asked for it. The child's half is ``resources/code_guard.py``.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converter.spec import Cancelled, QuenchError
from resources import path as resource

SECONDS = 10.0
CPU_SECONDS = 8
MEMORY = 1 << 30
MAX_PROGRAM = 1 << 20
_MAX_ANSWER = 8192
_LOOK = 0.1


@dataclass(frozen=True)
class Outcome:
    """``passed``: the program ran to its end. ``reason`` says why not; ``locks`` what was locked."""

    passed: bool
    reason: str = ""
    locks: tuple[str, ...] = ()


def run(program: str, stopped: Callable[[], bool] = lambda: False, *, seconds: float = SECONDS) -> Outcome:
    """Run ``program`` for at most ``seconds``; when this returns or raises, nothing of it is left.

    Raises:
        QuenchError: ``code_not_here`` where the system has no means to hold it, or there is no Python to run it.
        converter.spec.Cancelled: ``stopped`` became true.
    """
    if len(program) > MAX_PROGRAM:
        return Outcome(False, "The program is too long.")
    with tempfile.TemporaryDirectory(prefix="quench-code-") as folder:
        if os.name == "posix" and os.geteuid() == 0:
            Path(folder).chmod(0o777)  # the process becomes nobody, who owns nothing else
        reading, writing = os.pipe()
        try:
            process = _start(folder, writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            secret = secrets.token_hex(16)
            answer = _talk(process, reading, json.dumps({"program": program, "secret": secret}), stopped, seconds)
        finally:
            os.close(reading)
            _kill(process)
    return _outcome(answer, secret, process.returncode)


def _start(folder: str, answer: int) -> subprocess.Popen[bytes]:
    python = shutil.which("python3") if getattr(sys, "frozen", False) else sys.executable
    if os.name != "posix" or not python:
        raise QuenchError(
            "code_not_here",
            "Programs cannot be run here.",
            "There is no Python to run them with." if os.name == "posix" else "This system has no limits to hold them.",
            "Leave such tasks out, or measure on Linux or macOS with Python installed.",
        )
    guard = resource("code_guard.py").read_text("utf-8")
    return subprocess.Popen(
        [python, "-I", "-S", "-B", "-c", guard, str(answer), str(CPU_SECONDS), str(MEMORY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"LANG": "C.UTF-8", "HOME": folder},
        pass_fds=(answer,),
        start_new_session=True,
    )


def _talk(
    process: subprocess.Popen[bytes], reading: int, message: str, stopped: Callable[[], bool], seconds: float
) -> list[bytes] | None:
    """Send the program and collect the lines of the answer; None if time ran out."""
    until = time.monotonic() + seconds
    assert process.stdin is not None
    try:
        process.stdin.write(message.encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once: its answer, which is empty, says so
    answer = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(reading, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0:
            if stopped():
                raise Cancelled
            if not waiting.select(min(_LOOK, left)):
                continue
            more = os.read(reading, _MAX_ANSWER)
            answer += more
            if not more or len(answer) > _MAX_ANSWER:
                return answer[:_MAX_ANSWER].split(b"\n")
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that belongs to its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _outcome(answer: list[bytes] | None, secret: str, status: int) -> Outcome:
    if answer is None:
        return Outcome(False, "It ran out of time.")
    locks: tuple[str, ...] = ()
    for line in answer:
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if not isinstance(facts, dict):
            continue
        if isinstance(facts.get("locks"), list) and not locks:
            locks = tuple(str(each) for each in facts["locks"])
        elif facts.get("passed") is True and facts.get("secret") == secret:
            return Outcome(True, "", locks)
        elif facts.get("passed") is False:
            return Outcome(False, str(facts.get("reason", ""))[:300], locks)
    if status == -signal.SIGXCPU:
        return Outcome(False, "It took too much processor time.", locks)
    return Outcome(False, "It left before its end.", locks)


__all__ = ["Outcome", "run"]
