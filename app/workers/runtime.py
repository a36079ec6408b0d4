"""What every child process of Quench is made of: a private line to the parent, one switch to stop, one way to end.

* The protocol runs over a private duplicate of the standard output; the descriptor itself then points at the standard
  error, so that nothing a native library prints can get between two messages. The standard error is the job's log.
* The parent is gone when the standard input ends: the job is told to stop, and shortly after the process leaves.
* It ends with ``os._exit``: a thread blocked on the input would make an ordinary exit of the interpreter abort.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

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
    decode_command,
    encode,
    failed,
)
from converter.spec import Cancelled as Stopped
from converter.spec import QuenchError

Serve = Callable[["Connection"], None]

ORPHAN_GRACE = 3.0
"""Seconds that a job has to tidy up after its parent has gone."""

EXIT_INTERNAL = 1
_EXIT_ORPHANED = 7
_DETAIL_CHARACTERS = 4000


class Connection:
    """The child's end of the line. ``send`` may be called from any thread, the commands are taken by one.

    ``cancelled`` is set by a :class:`Cancel` or :class:`Pause` message and when the parent goes away; a job looks at it
    often and then raises :class:`converter.spec.Cancelled` (or just returns). Before it, ``paused`` is set if what is
    finished should be kept: by a Pause, and when the parent went without a word.
    """

    def __init__(self, kind: str, read_fd: int, write_fd: int) -> None:
        self.kind = kind
        self.cancelled = threading.Event()
        self.paused = threading.Event()
        self.terminal: Event | None = None
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._write_lock = threading.Lock()
        self._commands: queue.Queue[Command | QuenchError | None] = queue.Queue()
        self._listeners: list[Callable[[Command], bool]] = []
        self._arrival = threading.Lock()
        self._finished = threading.Event()

    def send(self, event: Event) -> None:
        """Write one event. A parent that is gone is no error here: the job has been told to stop."""
        line = memoryview(encode(event))
        with self._write_lock:
            if isinstance(event, TERMINAL) or (isinstance(event, Failed) and event.request == 0):
                self.terminal = event
            try:
                while line:
                    line = line[os.write(self._write_fd, line) :]
            except (BrokenPipeError, ConnectionResetError):
                self._stop(keep=True)

    def commands(self) -> Iterator[Command]:
        """Every command but Cancel, as it comes; ends when the job is cancelled or the parent has gone.

        Raises:
            QuenchError: ``bad_message`` for a line that is no command.
        """
        while True:
            command = self._take(None)
            if command is None:
                return
            yield command

    def poll(self, timeout: float = 0.0) -> Command | None:
        """The next command, or None when none came within ``timeout`` seconds or the job is cancelled."""
        try:
            return self._take(timeout)
        except queue.Empty:
            return None

    def intercept(self, listener: Callable[[Command], bool]) -> None:
        """Let ``listener`` see each command in the reading thread first; it returns True for one that it has used up.

        For commands that must act at once, while the serving thread is busy. Call it before taking the first command;
        what has arrived until then is shown to ``listener`` at once.
        """
        with self._arrival:
            self._listeners.append(listener)
            waiting = []
            while not self._commands.empty():
                waiting.append(self._commands.get_nowait())
            for command in waiting:
                if command is None or isinstance(command, QuenchError) or not listener(command):
                    self._commands.put(command)

    def start(self) -> None:
        """Say Hello and begin to listen."""
        self.send(Hello(PROTOCOL, self.kind, os.getpid()))
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def finished(self) -> None:
        """The serving function is through: a missing parent must no longer cut it off."""
        self._finished.set()

    def _take(self, timeout: float | None) -> Command | None:
        if self.cancelled.is_set():
            return None
        command = self._commands.get(timeout is None or timeout > 0, timeout)
        if isinstance(command, QuenchError):
            raise command
        return command

    def ending(self) -> Event:
        """The last message of a job that was stopped."""
        return Paused() if self.paused.is_set() else Cancelled()

    def _stop(self, *, keep: bool) -> None:
        if keep and not self.cancelled.is_set():
            self.paused.set()
        self.cancelled.set()
        self._commands.put(None)

    def _listen(self) -> None:
        buffer = bytearray()
        while True:
            try:
                data = os.read(self._read_fd, 1 << 16)
            except OSError:
                data = b""
            if not data:
                self._leave_alone()
            buffer += data
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                self._receive(bytes(line))
            if len(buffer) > MAX_LINE:
                self._commands.put(_bad_message(f"a line is longer than {MAX_LINE} bytes"))
                buffer.clear()

    def _receive(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            command = decode_command(line)
        except msgspec.MsgspecError as error:
            self._commands.put(_bad_message(str(error)))
            return
        with self._arrival:
            if isinstance(command, Cancel | Pause):
                self._stop(keep=isinstance(command, Pause))
                for listener in self._listeners:
                    listener(Cancel())
            elif not any(listener(command) for listener in self._listeners):
                self._commands.put(command)

    def _leave_alone(self) -> NoReturn:
        """The parent is gone: stop the work, wait a little for it to tidy up, then leave whatever it does."""
        self._receive(encode(Pause()))
        self._finished.wait(ORPHAN_GRACE)
        leave(_EXIT_ORPHANED)


def stopped() -> QuenchError:
    """What a request ends with that was stopped."""
    return QuenchError("cancelled", "Stopped.", "", "", exit_status=130)


class Throttle:
    """Lets an event through at most ``per_second`` times a second: ``if throttle.ready(): send(...)``."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        self._next = 0.0

    def ready(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True


def main(kind: str) -> NoReturn:
    """Be the worker ``kind``: run ``app.workers.<kind>.serve``. Never returns; ends the process."""
    run(kind, lambda: _find(kind))


def run(kind: str, find: Callable[[], Serve]) -> NoReturn:
    """Set the process up, say Hello, then call what ``find`` returns (heavy imports belong into ``find``).

    The last word of the process is a terminal message: that of the serving function, ``Cancelled`` or ``Paused`` when
    it stopped because it was asked to, ``Failed`` for an error. Exit status 0, the error's own, or 1 for an unexpected
    one.
    """
    faulthandler.enable()
    # Ctrl-C in a terminal reaches the whole process group; only the parent answers it, with Cancel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(kind, *_private_descriptors())
    connection.start()
    status = 0
    try:
        find()(connection)
        if connection.terminal is None and connection.cancelled.is_set():
            connection.send(connection.ending())
    except Stopped:
        connection.send(connection.ending())
    except QuenchError as error:
        connection.send(failed(error))
        status = error.exit_status
    except MemoryError as error:
        _log(error)
        connection.send(failed(_out_of_memory(error)))
        status = 4
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the edge of the process: whatever it was becomes a message
        _log(error)
        connection.send(failed(_internal(error)))
        status = EXIT_INTERNAL
    connection.finished()
    leave(status)


def _find(kind: str) -> Serve:
    if not re.fullmatch(r"[a-z]+", kind) or kind == "runtime":
        raise QuenchError("usage", "There is no such worker.", repr(kind), "", exit_status=2)
    name = f"app.workers.{kind}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise QuenchError("usage", "There is no such worker.", repr(kind), "", exit_status=2) from error
    serve: Serve = module.serve
    return serve


def _private_descriptors() -> tuple[int, int]:
    """(commands, events): duplicates that no other code knows; 0 becomes empty and 1 the log."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (read_fd, write_fd):
            msvcrt.setmode(descriptor, os.O_BINARY)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return read_fd, write_fd


def leave(status: int) -> NoReturn:
    """End the process at once, from any thread; what was said before is on its way."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # the log is gone with the parent; there is nobody left to tell
    os._exit(status)


def _log(error: BaseException) -> None:
    try:
        traceback.print_exception(error, file=sys.stderr)
    except OSError:
        return  # as above


def _internal(error: BaseException) -> QuenchError:
    text = "".join(traceback.format_exception(error))
    return QuenchError(
        "internal",
        "Something went wrong that should not.",
        text[-_DETAIL_CHARACTERS:],
        "Copy the details into a report, then try again.",
        exit_status=EXIT_INTERNAL,
    )


def _out_of_memory(error: BaseException) -> QuenchError:
    return QuenchError(
        "no_memory",
        "There is not enough memory for this.",
        str(error) or "The system refused more memory.",
        "Close other programs, or choose a smaller model, type or context.",
        exit_status=4,
    )


def _bad_message(detail: str) -> QuenchError:
    return QuenchError("bad_message", "The parent sent a message that is not understood.", detail, "", exit_status=1)


__all__ = ["EXIT_INTERNAL", "ORPHAN_GRACE", "Connection", "Serve", "Throttle", "main", "run", "stopped"]
