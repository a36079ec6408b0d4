"""Child processes as the parent sees them: how to start one, and what its end means. Knows no Qt.

The window runs children through QProcess, the command line and the tests through :class:`Child`; both take the command
line, the environment and the verdict from here.
"""

from __future__ import annotations

import os
import re
import signal as signals
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from app.protocol import (
    MAX_LINE,
    PROTOCOL,
    TERMINAL,
    Cancel,
    Cancelled,
    Command,
    Event,
    Failed,
    Hello,
    Pause,
    Paused,
    decode_event,
    encode,
)
from converter.spec import QuenchError

SERVER_KEY_VARIABLE = "QUENCH_API_KEY"
"""A server's key for the command line."""

SERVING_TOKEN_VARIABLE = "QUENCH_SERVE_TOKEN"
"""The token that others need for a model served by the command line."""

STOP_GRACE = 5.0
"""Seconds between asking a child to stop and killing it."""

_TAIL_BYTES = 8192
_TAIL_LINES = 12


def worker_command(kind: str) -> list[str]:
    """The command line of the worker ``kind``. A frozen program ships a second, Qt-free executable beside itself."""
    if getattr(sys, "frozen", False):
        executable = Path(sys.executable)
        return [str(executable.with_name("quench-worker" + executable.suffix)), "worker", kind]
    return [sys.executable, "-m", "app", "worker", kind]


def worker_environment() -> dict[str, str]:
    """The whole environment of a worker (a copy of ours with additions)."""
    environment = dict(os.environ)
    # What numpy multiplies is small or in threads of our own; its own would spin for a tenth of a second at each start.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Without it an abort of the engine starts a debugger to print a backtrace.
    environment["GGML_NO_BACKTRACE"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONUTF8"] = "1"
    # Our package comes from where we came from, never from a folder called "app" in the current directory.
    environment["PYTHONSAFEPATH"] = "1"
    # They go down a worker's input, and only to the one that needs them.
    for name in (SERVER_KEY_VARIABLE, SERVING_TOKEN_VARIABLE):
        environment.pop(name, None)
    root = str(Path(__file__).resolve().parent.parent)
    earlier = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != root]
    environment["PYTHONPATH"] = os.pathsep.join([root, *earlier])
    return environment


@dataclass(frozen=True)
class Verdict:
    """How a child ended: ``ok``, ``cancelled``, ``paused``, or with an ``error`` (exactly one of the four).

    ``crashed``: its own code ended it (a fault, an abort), not its user, its system or a message.
    """

    ok: bool = False
    cancelled: bool = False
    paused: bool = False
    error: QuenchError | None = None
    crashed: bool = False


def is_terminal(event: Event) -> bool:
    """Whether ``event`` ends a job (a ``Failed`` of a single request does not)."""
    return isinstance(event, TERMINAL) or (isinstance(event, Failed) and event.request == 0)


def verdict(terminal: Event | None, exit_code: int | None, signal: int | None, log_tail: str) -> Verdict:
    """What the end of a child means. Pure.

    Args:
        terminal: the last terminal message that it sent, or None.
        exit_code: its exit status, or None when a signal ended it (on Windows the unsigned or signed status).
        signal: the number of the signal that ended it, or None.
        log_tail: the end of its standard error.

    A result that was sent is whole (it is the last thing a worker does), so it counts even if the process then died.
    Without a terminal message nothing counts, not even exit status 0.
    """
    if isinstance(terminal, Failed):
        return Verdict(error=terminal.to_error())
    if isinstance(terminal, Cancelled):
        return Verdict(cancelled=True)
    if isinstance(terminal, Paused):
        return Verdict(paused=True)
    if terminal is not None:
        return Verdict(ok=True)
    if signal is None and exit_code is not None and exit_code > 128 and os.name != "nt":
        # The way a shell or a container reports a signal.
        signal, exit_code = exit_code - 128, None
    kind = _kind_of_death(exit_code, signal, log_tail)
    title, hint = _DEATHS[kind]
    facts = [_status_text(exit_code, signal)]
    if kind == "file":
        facts.append("Bytes of a file that was mapped into memory were not there any more.")
    reason = _last_native_error(log_tail)
    if reason:
        facts.append(reason)
    tail = _readable_tail(log_tail)
    if tail and tail != reason:
        facts.append("End of the log:\n" + tail)
    error = QuenchError("engine_died", title, "\n".join(facts), hint, exit_status=5)
    return Verdict(error=error, crashed=kind in ("crash", "abort"))


_DEATHS: dict[str, tuple[str, str]] = {
    "memory": (
        "The engine process ran out of memory.",
        "Close other programs, or choose a smaller model, type or context, then retry.",
    ),
    "killed": (
        "The engine process was killed.",
        "The system does this when memory runs out. If you did not end it yourself, close other programs or choose a "
        "smaller model, type or context, then retry.",
    ),
    "abort": (
        "The engine stopped itself because of an internal check.",
        "The model file may be damaged or of a kind that this engine does not support. Download or convert it again.",
    ),
    "crash": (
        "The engine process crashed.",
        "Retry. If it happens again, the model file may be damaged: download or convert it again.",
    ),
    "file": (
        "A file was cut short, or its disk went away, while it was read.",
        "Check that the model is whole, its disk connected and not full, and that nothing writes to it; then retry.",
    ),
    "ended": ("The engine process was ended from outside.", "Retry."),
    "silent": ("The engine process ended without a result.", "Retry. If it happens again, look at the log."),
}

_WINDOWS_CRASHES = {0xC0000005: "crash", 0xC0000409: "abort", 0xC00000FD: "crash", 0xC0000017: "memory"}
_OUT_OF_MEMORY = re.compile(
    r"out of memory|bad_alloc|MemoryError|cannot allocate memory|(failed|unable) to allocate|insufficient memory",
    re.IGNORECASE,
)
# The first kind says more than the second, wherever it stands.
_NATIVE_ERRORS = (
    re.compile(r"GGML_ASSERT|GGML_ABORT|terminate called|what\(\):"),
    re.compile(r"\berror\b.*:", re.IGNORECASE),
)
_FAULT_DUMP = "Fatal Python error:"


def _kind_of_death(exit_code: int | None, signal: int | None, log_tail: str) -> str:
    if _OUT_OF_MEMORY.search(log_tail):
        return "memory"
    names = {"SIGKILL": "killed", "SIGABRT": "abort", "SIGBUS": "file"}
    crashes = {"SIGSEGV", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"}
    if signal is not None:
        name = _signal_name(signal)
        return names.get(name, "crash" if name in crashes else "ended")
    if exit_code is not None and exit_code & 0xFFFFFFFF in _WINDOWS_CRASHES:
        return _WINDOWS_CRASHES[exit_code & 0xFFFFFFFF]
    return "silent"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _status_text(exit_code: int | None, signal: int | None) -> str:
    if signal is not None:
        return f"Ended by {_signal_name(signal)} ({signal})."
    if exit_code is None:
        return "Exit status unknown."
    if exit_code < 0 or exit_code > 0xFFFF:
        return f"Exit status 0x{exit_code & 0xFFFFFFFF:08X}."
    return f"Exit status {exit_code}."


def _last_native_error(log_tail: str) -> str:
    lines = [line.strip() for line in log_tail.splitlines() if _FAULT_DUMP not in line]
    for pattern in _NATIVE_ERRORS:
        found = [line for line in lines if pattern.search(line)]
        if found:
            return found[-1]
    return ""


def _readable_tail(log_tail: str) -> str:
    """The last lines before the interpreter's own report of a crash, or the beginning of that if there are none."""
    before, mark, dump = log_tail.partition(_FAULT_DUMP)
    lines = before.strip().splitlines()[-_TAIL_LINES:]
    return "\n".join(lines or (mark + dump).splitlines()[:_TAIL_LINES])


class Child:
    """A worker process driven by blocking calls. A context manager: leaving it ends the process.

    ``arguments`` replaces the worker's command line (tests run small workers of their own).
    """

    def __init__(self, kind: str, arguments: Sequence[str] | None = None) -> None:
        self.kind = kind
        self.terminal: Event | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        # A process group of its own: Ctrl-C in the terminal is for us, and we pass it on as Cancel.
        windows = os.name == "nt"
        self._process = subprocess.Popen(
            list(arguments) if arguments is not None else worker_command(kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=worker_environment(),
            creationflags=0x200 if windows else 0,
            process_group=None if windows else 0,
        )
        self._timer: threading.Timer | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command. A child that is gone is no error here: its end shows in :meth:`events`."""
        assert self._process.stdin is not None
        data = encode(command)
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (BrokenPipeError, ConnectionResetError, ValueError):  # ValueError: another thread has closed the line
            return

    def events(self) -> Iterator[Event]:
        """Every event after Hello, until the child closes the line.

        Raises:
            QuenchError: ``protocol_mismatch`` or ``bad_message`` (the child is killed).
        """
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_LINE + 1):
            if not line.endswith(b"\n") and len(line) <= MAX_LINE:
                return  # it died in the middle of a word
            event = self._decode(line)
            if isinstance(event, Hello):
                continue
            if is_terminal(event):
                self.terminal = event
            yield event

    def cancel(self, grace: float = STOP_GRACE, *, keep: bool = False) -> None:
        """Ask the child to stop, and kill it if it is still there after ``grace`` seconds. Returns at once.

        ``keep``: what can be gone on with stays.
        """
        self.send(Pause() if keep else Cancel())
        if self._timer is None:
            self._timer = threading.Timer(grace, self._process.kill)
            self._timer.daemon = True
            self._timer.start()

    def hang_up(self) -> None:
        """Close the child's input: it leaves soon, and keeps what can be gone on with."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()

    def log_tail(self) -> str:
        """The end of the child's log."""
        self._log.flush()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        text = self._log.read().decode("utf-8", "replace")
        self._log.seek(0, os.SEEK_END)
        return text

    def wait(self, timeout: float | None = None) -> Verdict:
        """Wait for the end of the process and say what it meant; ``subprocess.TimeoutExpired`` after ``timeout``."""
        status = self._process.wait(timeout)
        if self._timer is not None:
            self._timer.cancel()
        code, signal = (None, -status) if status < 0 and os.name != "nt" else (status, None)
        return verdict(self.terminal, code, signal, self.log_tail())

    def close(self) -> None:
        """End the child if it is still there: its input is closed, then after a grace it is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except (BrokenPipeError, ConnectionResetError):
                    continue  # it died with unread commands
        try:
            self._process.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._timer is not None:
            self._timer.cancel()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, line: bytes) -> Event:
        try:
            event = decode_event(line)
        except msgspec.MsgspecError as error:
            self.kill()
            raise QuenchError(
                "bad_message",
                "The engine process sent something that is no message.",
                str(error),
                "Retry.",
                exit_status=5,
            ) from error
        if isinstance(event, Hello) and event.protocol != PROTOCOL:
            self.kill()
            raise QuenchError(
                "protocol_mismatch",
                "The engine process is of another version.",
                f"It speaks protocol {event.protocol}, the program {PROTOCOL}.",
                "Install Quench again so that both come from one version.",
                exit_status=5,
            )
        return event


_too_late = threading.Event()
"""Ctrl-C came when the job was done already: what would begin next is what it is meant for."""


def run_job(
    kind: str,
    command: Command,
    on_event: Callable[[Event], None],
    *,
    keep: bool = False,
    started: Callable[[Child], None] = lambda child: None,
) -> Event:
    """Run one job in a worker of its own and wait for it. ``started`` gets the worker, to stop it from another thread.

    ``on_event`` gets every event but Hello and the terminal one, which is returned: a result, or
    :class:`app.protocol.Cancelled` after Ctrl-C (a second Ctrl-C kills the child and is raised). With ``keep`` Ctrl-C
    pauses the job, and :class:`app.protocol.Paused` is returned. A result that was on its way already is returned all
    the same; the next job of this process then raises KeyboardInterrupt instead of beginning.

    Raises:
        QuenchError: the job's own error; ``engine_died`` with ``exit_status`` 5 when the process ended without a word.
    """
    if _too_late.is_set():
        _too_late.clear()
        raise KeyboardInterrupt
    with Child(kind) as child:
        started(child)
        try:
            child.send(command)
            _drain(child, on_event)
        except KeyboardInterrupt:
            child.cancel(keep=keep)
            _drain(child, on_event)
            child.wait()
            if child.terminal is None:  # it did not stop in time and was killed, as was wanted
                return Cancelled()
            if not isinstance(child.terminal, Cancelled | Paused | Failed):
                _too_late.set()
        end = child.wait()
        if end.error is not None:
            raise end.error
        assert child.terminal is not None
        return child.terminal


def _drain(child: Child, on_event: Callable[[Event], None]) -> None:
    for event in child.events():
        if not is_terminal(event):
            on_event(event)


__all__ = [
    "SERVER_KEY_VARIABLE",
    "SERVING_TOKEN_VARIABLE",
    "STOP_GRACE",
    "Child",
    "Verdict",
    "is_terminal",
    "run_job",
    "verdict",
    "worker_command",
    "worker_environment",
]
