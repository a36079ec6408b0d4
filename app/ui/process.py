"""One worker program behind a QProcess: commands go in, typed events and one verdict come out.

The only place in the window that starts a process.
"""

from __future__ import annotations

import os

import msgspec
from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, QTimer, Signal

from app import child, protocol
from converter.spec import QuenchError

LOG_BYTES = 64 << 10
"""How much of a worker's stderr is kept for the log tail."""

ASK_THE_HUB = frozenset({"hub", "download"})
"""Workers that need the hub's token; the others, which read models by strangers, do not inherit it."""
SECRETS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})


class WorkerProcess(QObject):
    """A worker of one kind, from start to verdict.

    ``event`` carries every decoded message except ``Hello``; ``finished`` comes exactly once with a
    :class:`app.child.Verdict`, after the last event, however the process ended (also when it could not start).
    ``command`` replaces the worker's command line (tests run small workers of their own).
    """

    event = Signal(object)  # type: ignore[assignment]  # hides QObject.event, which Qt calls past Python
    finished = Signal(object)

    def __init__(self, kind: str, parent: QObject | None = None, command: list[str] | None = None) -> None:
        super().__init__(parent)
        self.kind = kind
        self._command = command
        self.terminal: protocol.Event | None = None
        self._buffer = bytearray()
        self._log = bytearray()
        self._broken: QuenchError | None = None
        self._done = False
        self._process = QProcess(self)
        self._process.readyReadStandardOutput.connect(self._read)
        self._process.readyReadStandardError.connect(self._read_log)
        self._process.finished.connect(self._exited)
        self._process.errorOccurred.connect(self._trouble)
        self._grace = QTimer(self, singleShot=True)
        self._grace.timeout.connect(self.kill)

    def start(self) -> None:
        """Start the program; commands may be sent at once."""
        environment = QProcessEnvironment()
        for name, value in child.worker_environment().items():
            if self.kind in ASK_THE_HUB or name not in SECRETS:
                environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        program, *arguments = self._command or child.worker_command(self.kind)
        self._process.start(program, arguments)

    def send(self, command: msgspec.Struct) -> None:
        """Queue a command; nothing happens if the process is gone (its verdict says so)."""
        if self._process.state() != QProcess.ProcessState.NotRunning:
            self._process.write(protocol.encode(command))

    def cancel(self) -> None:
        """Ask the job to stop; it answers with its verdict."""
        self.send(protocol.Cancel())

    def stop(self, grace_ms: int = 2000, *, keep: bool = False) -> None:
        """The ladder: ask, close its input (a worker leaves then), and kill after ``grace_ms``.

        ``keep``: what is finished should stay for another run.
        """
        if self._process.state() == QProcess.ProcessState.NotRunning:
            return
        self.send(protocol.Pause() if keep else protocol.Cancel())
        self._process.closeWriteChannel()
        self._grace.start(grace_ms)

    def pause(self, grace_ms: int = 20_000) -> None:
        """Ask the job to stop and keep what is finished. A slow disk may take its time over it."""
        self.send(protocol.Pause())
        self._grace.start(grace_ms)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, milliseconds: int) -> bool:
        """Block until the process is gone; only for closing the program."""
        if self._process.state() == QProcess.ProcessState.NotRunning:
            return True
        return self._process.waitForFinished(milliseconds)

    def is_running(self) -> bool:
        return self._process.state() != QProcess.ProcessState.NotRunning

    def pid(self) -> int:
        """Process id, 0 before the start and after the end."""
        return int(self._process.processId())

    def log_tail(self) -> str:
        """The last lines that the worker wrote to stderr."""
        return self._log.decode("utf-8", "replace")

    def _read(self) -> None:
        self._buffer += self._process.readAllStandardOutput().data()
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line.strip():
                self._take(line)
        if len(self._buffer) > protocol.MAX_LINE:
            self._refuse("The line has no end.")

    def _take(self, line: bytes) -> None:
        if self._broken is not None:
            return
        try:
            message = protocol.decode_event(line)
        except msgspec.DecodeError as error:
            self._refuse(f"{error}: {line[:200].decode('utf-8', 'replace')}")
            return
        if isinstance(message, protocol.Hello):
            if message.protocol != protocol.PROTOCOL:
                self._refuse(f"It speaks version {message.protocol}, this window {protocol.PROTOCOL}.")
            return
        if child.is_terminal(message):
            self.terminal = message
        self.event.emit(message)

    def _refuse(self, why: str) -> None:
        self._broken = QuenchError(
            "bad_message",
            self.tr("The worker program sent something that is not a message."),
            why,
            self.tr("Start Quench again; if it comes back, reinstall it so that all of its parts match."),
            exit_status=5,
        )
        self._buffer.clear()
        self.kill()

    def _read_log(self) -> None:
        self._log += self._process.readAllStandardError().data()
        if len(self._log) > LOG_BYTES:
            del self._log[: len(self._log) - LOG_BYTES]

    def _trouble(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._broken = QuenchError(
                "worker_missing",
                self.tr("The worker program could not be started."),
                self._process.errorString(),
                self.tr("Reinstall Quench."),
                exit_status=5,
            )
            self._finish(None, None)

    def _exited(self, code: int, status: QProcess.ExitStatus) -> None:
        self._grace.stop()
        self._read()
        self._read_log()
        if self._buffer.strip():
            self._buffer.clear()  # a line cut off by a crash says nothing
        crashed = status == QProcess.ExitStatus.CrashExit
        # On Unix Qt gives the signal's number as the exit code of a crash; on Windows it is an NTSTATUS.
        self._finish(None if crashed and os.name == "posix" else code, code if crashed and os.name == "posix" else None)

    def _finish(self, code: int | None, signal: int | None) -> None:
        if self._done:
            return
        self._done = True
        if self._broken is not None:
            verdict = child.Verdict(error=self._broken)
        else:
            verdict = child.verdict(self.terminal, code, signal, self.log_tail())
        self.finished.emit(verdict)
