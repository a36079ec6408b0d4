"""One file from the hub into its place: it goes on where it stopped, is checked, and is fetched again if it is wrong.

huggingface_hub (2.4) downloads into a file of a random name and removes it after a failure, so that nothing survives
a restart. Therefore the bytes are streamed here, through its session, to ``<hash>.incomplete`` beside the blob, under
the lock that it takes for the same blob; the length of that file is the whole state. When the checksum is right the
file becomes the blob, and ``hf_hub_download``, which finds the blob there, makes the link and the folders: other
programs find the file as if it had fetched it.

A file is always asked for at the hub's own address, never at the one that it redirects to: signed addresses expire.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from app.hub import cache, errors
from app.hub.client import LIBRARY, Hub
from app.hub.messages import Patience, RemoteFile
from app.hub.pace import Bucket
from converter.spec import Cancelled, QuenchError

if TYPE_CHECKING:
    import httpx2

CHECKSUM_ROUNDS = 3
"""Times that a file is fetched whole before a wrong checksum is believed."""

_READ = 1 << 20
_TRICKLE = 256  # bytes a second, below which a connection counts as dead
_LOCK_LOOK = 0.25


@dataclass
class Control:
    """How a transfer is watched and steered. ``wait`` sleeps and returns True if everything is to stop.

    ``report(done, state, note)`` is told often; ``state`` as in :class:`app.hub.messages.FileProgress`.
    """

    stopped: Callable[[], bool]
    wait: Callable[[float], bool]
    report: Callable[[int, str, str], None]
    bucket: Bucket = field(default_factory=lambda: Bucket(0))
    patience: Patience = field(default_factory=Patience)

    def check(self) -> None:
        if self.stopped():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        if self.wait(seconds):
            raise Cancelled


class _StartOver(Exception):  # noqa: N818 - it is not an error
    """What is here of the file is of no use."""


def bring(hub: Hub, place: cache.Place, file: RemoteFile, control: Control) -> str:
    """Make ``file`` be there, whole and checked. Returns ``cached`` if it was, else ``verified``.

    Raises ``QuenchError``; ``Cancelled`` when it is to stop. Either way what has come stays for the next time.
    """
    transfer = _Transfer(hub, place, file, control)
    try:
        with _locked(place, file, control):
            state = "cached" if transfer.is_here() else transfer.download()
        if not place.to:
            transfer.link()
    except OSError as error:
        raise _disk(error) from error
    control.report(file.bytes, "done", "")
    return state


class _Transfer:
    """One file on its way."""

    def __init__(self, hub: Hub, place: cache.Place, file: RemoteFile, control: Control) -> None:
        self._hub = hub
        self._place = place
        self._file = file
        self._control = control
        self._checker = _Checker(file)

    def is_here(self) -> bool:
        """Whether the file is in its place. Blobs are named by their hash and trusted; a plain file is read."""
        final = self._place.final(self._file)
        if cache.size_of(final) != self._file.bytes:
            return False
        if not self._place.to:
            return True
        checker = _Checker(self._file)
        with final.open("rb") as source:
            self._feed(checker, source)
        return checker.right

    def download(self) -> str:
        """Fetch what is missing, until the checksum is right or was wrong too often."""
        file, control = self._file, self._control
        part = self._place.part(file)
        part.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(CHECKSUM_ROUNDS):
            if cache.size_of(part) > file.bytes:
                part.unlink()
            # Unbuffered: what a kill leaves on the disk is what has come.
            with part.open("ab+", buffering=0) as target:
                self._checker = _Checker(file)
                target.seek(0)
                self._feed(self._checker, target)
                self._fetch(target)
                control.report(file.bytes, "checking", "")
                if self._checker.right:
                    os.fsync(target.fileno())
            if self._checker.right:
                part.replace(self._place.final(file))
                return "verified"
            part.unlink()
            control.report(0, "retrying", "The checksum is wrong; the file is fetched again.")
            control.check()
        raise errors.HubError(
            "bad_checksum",
            "A file comes damaged every time.",
            f"{file.path}: its {'SHA-256' if file.sha256 else 'git hash'} is not {file.sha256 or file.oid}.",
            "Something between here and the hub changes files: try another network, without proxy or mirror.",
        )

    def link(self) -> None:
        """Let huggingface_hub, which finds the blob, make the file's link in the snapshot.

        Where the disk has no links it makes a copy; the blob goes then, as it does after the library's own downloads.
        """
        _patiently(self._control, self._link_once, self._tell)
        pointer, blob = self._place.pointer(self._file), self._place.final(self._file)
        if not pointer.is_symlink() and cache.size_of(pointer) == self._file.bytes:
            blob.unlink(missing_ok=True)

    def _link_once(self) -> None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

        place, hub = self._place, self._hub
        try:
            hf_hub_download(
                place.repo,
                self._file.path,
                revision=place.revision,
                cache_dir=place.root,
                endpoint=hub.access.endpoint,
                token=hub.credentials,
                library_name=LIBRARY,
            )
        except (FileMetadataError, LocalEntryNotFoundError, ValueError) as error:
            raise errors.bad_answer(self._file.path, str(error)) from error

    def _tell(self, note: str) -> None:
        self._control.report(self._checker.count, "retrying", note)

    def _feed(self, checker: _Checker, source: IO[bytes]) -> None:
        """Read a file that is here through the checker."""
        while data := source.read(_READ):
            self._control.check()
            checker.add(data)
            self._control.report(checker.count, "checking", "")

    def _fetch(self, target: IO[bytes]) -> None:
        """Bring what is missing of the file, in as many requests as it takes."""
        furthest = self._checker.count

        def once() -> None:
            nonlocal furthest
            try:
                self._stream(target)
            except _StartOver as reason:
                target.truncate(0)
                self._checker = _Checker(self._file)
                raise errors.HubError(
                    "connection_lost",
                    "The download of a file has to begin again.",
                    f"{self._file.path}: {reason}.",
                    "Try again.",
                    transient=True,
                ) from reason
            finally:
                furthest = max(furthest, self._checker.count)

        _patiently(self._control, once, self._tell, lambda: furthest)

    def _stream(self, target: IO[bytes]) -> None:
        """One request for the rest of the file. Returns when it is whole; raises ``HubError`` if it is not."""
        hub, file, checker, control = self._hub, self._file, self._checker, self._control
        offset = checker.count
        if offset == file.bytes:
            return
        headers = hub.headers()
        if offset:
            headers["range"] = f"bytes={offset}-"
        control.report(offset, "fetching", "")
        address = hub.address(self._place.repo, file.path, self._place.revision)
        try:
            with hub.client.stream("GET", address, headers=headers) as response:
                _check_answer(response, self._place, file, offset)
                watch = _Watch(control.patience)
                for piece in response.iter_bytes():
                    control.check()
                    fresh = piece[: file.bytes - checker.count]
                    target.write(fresh)
                    checker.add(fresh)
                    control.report(checker.count, "fetching", "")
                    if checker.count == file.bytes:
                        return
                    pause = control.bucket.take(len(fresh))
                    if pause:
                        control.sleep(pause)
                        watch.excuse(pause)
                    watch.look(len(fresh), hub.access.host)
        except errors.HubError as error:
            if error.status == 416 and offset:
                raise _StartOver("the hub has less of it than is here") from error
            raise
        except hub.client.failures as error:
            raise errors.from_transport(error, error.request, hub.access.proxy) from error
        raise errors.HubError(
            "connection_lost",
            "The connection to the hub broke off.",
            f"{file.path}: {checker.count} of {file.bytes} bytes came.",
            "Try again: it goes on where it stopped.",
            transient=True,
        )


def _check_answer(response: httpx2.Response, place: cache.Place, file: RemoteFile, offset: int) -> None:
    """That this is the file of the commit from the byte that was asked for on."""
    answers = [*response.history, response]
    # The hub says which commit this is; the storage that it leads to has ETags of its own.
    told = next((answer.headers for answer in answers if "x-repo-commit" in answer.headers), response.headers)
    commit = told.get("x-repo-commit", "")
    etag = (told.get("x-linked-etag") or told.get("etag") or "").removeprefix("W/").strip('"')
    expected = file.sha256 or file.oid
    if (commit and commit != place.revision) or (etag and etag != expected):
        raise errors.HubError(
            "changed",
            "The hub offers another version of the file than it listed.",
            f"{file.path}: {etag[:64]!r} of commit {commit[:40]} instead of {expected} of {place.revision}.",
            "Start the download again; if a mirror is set in Settings, try without it.",
        )
    if response.status_code == 206:
        if not response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
            raise _StartOver("the hub sends another part of it than it was asked for")
    elif offset:
        raise _StartOver("the hub does not send parts of it")


class _Watch:
    """Ends a connection over which next to nothing comes; one over which nothing comes has its own time-out."""

    def __init__(self, patience: Patience) -> None:
        self._window = 2 * patience.stall
        self._start, self._bytes = time.monotonic(), 0

    def excuse(self, seconds: float) -> None:
        """So long nobody read, on purpose."""
        self._start += seconds

    def look(self, count: int, host: str) -> None:
        self._bytes += count
        elapsed = time.monotonic() - self._start
        if elapsed < self._window:
            return
        if self._bytes < _TRICKLE * elapsed:
            raise errors.HubError(
                "timeout",
                "The hub hardly sends anything.",
                f"{host}: {self._bytes} bytes in {elapsed:.0f} seconds.",
                "Check the network, then try again.",
                transient=True,
            )
        self._start, self._bytes = time.monotonic(), 0


class _Checker:
    """The checksum of a file's bytes in order: SHA-256 of a large file, else the SHA-1 of the git object."""

    def __init__(self, file: RemoteFile) -> None:
        self.count = 0
        self._file = file
        if file.sha256:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)

    def add(self, data: bytes) -> None:
        self._hash.update(data)
        self.count += len(data)

    @property
    def right(self) -> bool:
        """Whether it is all there and what the hub said."""
        file = self._file
        return self.count == file.bytes and self._hash.hexdigest() == (file.sha256 or file.oid)


def _patiently(
    control: Control,
    action: Callable[[], None],
    tell: Callable[[str], None],
    progress: Callable[[], int] = lambda: 0,
) -> None:
    """Do ``action`` until it works, with growing pauses; as long as bytes come, it is not given up."""
    patience = control.patience
    attempt = 0
    while True:
        before = progress()
        try:
            action()
            return
        except errors.HubError as error:
            if not error.transient or error.wait > patience.obey:
                raise
            attempt = 1 if progress() > before else attempt + 1
            if attempt >= patience.tries:
                raise
            # A part of the pause is random: programs that were cut off together do not come back together.
            pause = min(patience.longest, patience.pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            tell(f"{error.title} {error.detail}")
            control.sleep(max(pause, error.wait))


@contextlib.contextmanager
def _locked(place: cache.Place, file: RemoteFile, control: Control) -> Iterator[None]:
    """Alone with this blob, as far as programs go that use the cache; waiting can be interrupted."""
    path = place.lock(file)
    if path is None:
        yield
        return
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(path, timeout=_LOCK_LOOK))
                break
            except Timeout:
                control.report(0, "waiting", "Another program is fetching this file.")
                control.check()
        yield


def _disk(error: OSError) -> QuenchError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return QuenchError(
        "no_space" if full else "cannot_write",
        "The disk is full." if full else "The download cannot be written.",
        str(error),
        "Free some disk space; the download goes on where it stopped." if full else "Check the folder's permissions.",
        exit_status=4 if full else 3,
    )


__all__ = ["CHECKSUM_ROUNDS", "Control", "bring"]
