"""One download, in a process of its own: several files at a time, a limit on all of them together, one report.

A thread a file reads from the network and may hang there; the serving thread never does, so that a pause and a cancel
are answered at once. What a thread has written so far is good at any moment: the runtime may end the process under it.
"""

from __future__ import annotations

import re
import shutil
import threading
import time

from app import settings
from app.hub import access, cache, transfer
from app.hub.client import Hub, connect
from app.hub.messages import (
    Download,
    DownloadProgress,
    DownloadResult,
    DownloadStarted,
    FileProgress,
    FinishedFile,
    LimitRate,
)
from app.hub.names import is_commit, parse_repo, unsafe_reason
from app.hub.pace import Bucket, Meter
from app.hub.planning import MARGIN
from app.protocol import Command
from app.workers.runtime import Connection
from converter.spec import Cancelled, QuenchError

MAX_AT_ONCE = 16
_REPORT_EVERY = 0.1
_LEAVING = 2.0
"""Seconds that threads get to let go of their files before a cancelled download's are removed."""


def serve(connection: Connection) -> None:
    """Answer one :class:`Download`: ``DownloadStarted``, ``DownloadProgress``, then ``DownloadResult``.

    A pause leaves everything that has come, and so do an error and the parent's death; a cancel removes what is half
    here (whole files stay in the cache, where they are of use). ``LimitRate`` is heard at any time. Raises
    ``QuenchError`` out of here.
    """
    bucket = Bucket(0)
    connection.intercept(lambda command: _hear(command, bucket))
    for command in connection.commands():
        if isinstance(command, Download):
            connection.send(_Run(connection, command, bucket).run())
            return


def _hear(command: Command, bucket: Bucket) -> bool:
    """In the reading thread, so that a limit counts while files come; it stands behind its download in the line."""
    if isinstance(command, Download):
        bucket.set_rate(command.limit)
    elif isinstance(command, LimitRate):
        bucket.set_rate(command.limit)
        return True
    return False


class _Run:
    def __init__(self, connection: Connection, command: Download, bucket: Bucket) -> None:
        _check(command)
        self._connection = connection
        self._command = command
        found = access.access(settings.load())
        self._place = cache.Place(command.cache or found.cache, command.repo, command.revision, command.to)
        self._halt = threading.Event()
        self._changed = threading.Condition()
        self._access = found
        self._hub_lock = threading.Lock()
        self._hub: Hub | None = None
        self._bucket = bucket
        self._states = [FileProgress(i, cache.have(self._place, f)[1], "waiting") for i, f in enumerate(command.files)]
        self._fresh: set[int] = set()
        self._notes: list[FileProgress] = []
        # Small files first: they tell within a second whether the model may be had at all.
        self._waiting = sorted(range(len(command.files)), key=lambda i: (-command.files[i].bytes, i))
        self._ends: dict[int, str] = {}
        self._fetched = 0
        self._error: BaseException | None = None

    def run(self) -> DownloadResult:
        command, start = self._command, time.monotonic()
        total = sum(file.bytes for file in command.files)
        have = tuple(state.done for state in self._states)
        self._connection.send(DownloadStarted(str(self._place.folder), have, total))
        self._check_room(total - sum(have))
        threads = [
            threading.Thread(target=self._work, name=f"file {n}", daemon=True)
            for n in range(max(1, min(command.at_once, MAX_AT_ONCE, len(command.files))))
        ]
        for thread in threads:
            thread.start()
        try:
            self._report_until_done(total)
        finally:
            self._halt.set()
        if self._connection.cancelled.is_set() and self._error is None:
            self._leave(threads)
            raise Cancelled
        if self._error is not None:
            raise self._error
        cache.write_reference(self._place, command.reference)
        return DownloadResult(
            repo=command.repo,
            revision=command.revision,
            folder=str(self._place.folder),
            files=tuple(
                FinishedFile(file.path, file.bytes, file.sha256, self._ends[i]) for i, file in enumerate(command.files)
            ),
            bytes=total,
            fetched=self._fetched,
            seconds=time.monotonic() - start,
        )

    def _leave(self, threads: list[threading.Thread]) -> None:
        """After a cancel: half files go. A thread that hangs in the network keeps its file's name from coming back."""
        if self._connection.paused.is_set():
            return
        until = time.monotonic() + _LEAVING
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        try:
            cache.forget_parts(self._place, self._command.files)
        except OSError:
            return  # a system that does not remove open files; they are used again or overwritten the next time

    def _check_room(self, missing: int) -> None:
        free = shutil.disk_usage(cache.existing_parent(self._place.folder)).free
        if missing > 0 and missing + MARGIN > free:
            raise QuenchError(
                "no_space",
                "There is not enough disk space.",
                f"{missing:,} bytes are still to come, and {free:,} are free at {self._place.folder}.",
                "Free some space; the download goes on where it stopped.",
                exit_status=4,
            )

    def _work(self) -> None:
        """A thread's life: one file after the other, until there is none or something went wrong."""
        while not self._halt.is_set():
            with self._changed:
                if not self._waiting:
                    return
                index = self._waiting.pop()
            try:
                self._bring(index)
            except Cancelled:
                return
            except BaseException as error:  # noqa: BLE001 - told by the serving thread, whatever it is
                with self._changed:
                    self._error = self._error or error
                    self._halt.set()
                    self._changed.notify()
                return

    def _bring(self, index: int) -> None:
        last = -1

        def report(done: int, state: str, note: str) -> None:
            nonlocal last
            with self._changed:
                if state == "fetching":
                    self._fetched += max(0, done - last) if last >= 0 else 0
                    last = done
                else:
                    last = -1
                if note and note != self._states[index].note:
                    self._notes.append(FileProgress(index, done, state, note))
                self._states[index] = FileProgress(index, done, state, note)
                self._fresh.add(index)

        file = self._command.files[index]
        if cache.size_of(self._place.pointer(file)) == file.bytes and not self._place.to:
            report(file.bytes, "done", "")
            end = "cached"
        else:
            control = transfer.Control(self._halt.is_set, self._halt.wait, report, self._bucket, self._command.patience)
            end = transfer.bring(self._connected(), self._place, file, control)
        with self._changed:
            self._ends[index] = end
            self._changed.notify()

    def _connected(self) -> Hub:
        """The way to the hub, made when a file needs it: what is all here needs no network."""
        with self._hub_lock:
            if self._hub is None:
                self._hub = connect(self._access, self._halt.is_set, self._command.patience.stall)
            return self._hub

    def _report_until_done(self, total: int) -> None:
        """Send progress ten times a second while files move, until all are there, one failed or it is to stop."""
        meter = Meter()
        while True:
            stop = self._connection.cancelled.wait(0)
            with self._changed:
                finished = len(self._ends) == len(self._states) or self._error is not None
                if not finished and not stop:
                    self._changed.wait(_REPORT_EVERY)
                moved = (*self._notes, *(self._states[i] for i in sorted(self._fresh)))
                self._notes.clear()
                self._fresh.clear()
                done = sum(state.done for state in self._states)
                meter.add(self._fetched)
            if moved or finished:
                rate = meter.rate
                left = (total - done) / rate if rate > 0 else None
                self._connection.send(DownloadProgress(done, total, rate, left, moved))
            if finished or stop:
                return


def _check(command: Download) -> None:
    """Refuse a command that would write where it must not: a job's folder can be edited by others."""
    parse_repo(command.repo)
    bad = next((file.path for file in command.files if unsafe_reason(file.path)), None)
    hashes = all(_is_hash(file.sha256 or file.oid) for file in command.files)
    if bad is not None or not is_commit(command.revision) or not hashes:
        raise QuenchError(
            "bad_download",
            "The download is not one that can be made.",
            f"{command.repo}: {bad or command.revision}"[:300],
            "Choose the files again.",
        )


def _is_hash(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", text) is not None
