"""Reads whole files and compares them with what they should be.

What a file should be is known from its name in the Hugging Face cache (the SHA-256 of a large file, git's SHA-1 of a
small one) and in Ollama's store (SHA-256), and from the last time that it was verified: a file of the same length and
date whose bytes are others was damaged where nobody wrote. A file that is read for the first time is remembered, after
its header and the extents of its tensors were checked.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from app.local.entry import PARTIAL, Listed
from app.local.sums import Sums
from converter.spec import Cancelled

GOOD, DAMAGED, NEW, UNREADABLE, SKIPPED = "good", "damaged", "new", "unreadable", "skipped"
PIECE = 4 << 20
_SHA256 = re.compile(r"(?:sha256-)?([0-9a-f]{64})")
_GIT = re.compile(r"[0-9a-f]{40}")


class VerifiedFile(msgspec.Struct, frozen=True):
    """One file: ``state`` is ``good``, ``damaged``, ``new`` (nothing to compare with; remembered now), ``unreadable``,
    or ``skipped`` (not whole). ``how`` says what it was compared with, or what is wrong."""

    path: str
    model: str
    bytes: int
    state: str
    how: str


def files_of(models: Sequence[Listed]) -> Iterator[tuple[Listed, str, int]]:
    """Every file once, with the model that it is listed under."""
    seen: set[str] = set()
    for listed in models:
        for file in listed.files:
            if file.key not in seen:
                seen.add(file.key)
                yield listed, file.path, file.bytes


def verify(
    models: Sequence[Listed],
    sums: Sums,
    *,
    since: float,
    progress: Callable[[int, int, str], None],
    stopped: Callable[[], bool],
) -> Iterator[VerifiedFile]:
    """Every file of ``models``. Files that were found good after ``since`` (s since 1970) and did not change are not
    read again. ``progress(done, total, name)`` counts bytes. Raises ``Cancelled`` soon after ``stopped()``."""
    work = list(files_of(models))
    total = sum(size for _, _, size in work)
    done = 0
    for listed, path, size in work:
        if listed.state == PARTIAL:
            yield VerifiedFile(path, listed.path, size, SKIPPED, "It is not whole.")
        else:
            begin = done

            def moved(count: int, begin: int = begin, path: str = path) -> None:
                progress(begin + count, total, os.path.basename(path))  # noqa: PTH119 - a label

            yield _verified(listed, path, sums, since, moved=moved, stopped=stopped)
        done += size
    progress(total, total, "")


def _verified(
    listed: Listed, path: str, sums: Sums, since: float, *, moved: Callable[[int], None], stopped: Callable[[], bool]
) -> VerifiedFile:
    real = os.path.realpath(path)
    name = Path(real).name
    git = bool(_GIT.fullmatch(name)) and Path(real).parent.name == "blobs"
    digest = _SHA256.fullmatch(name) if Path(real).parent.name == "blobs" else None
    try:
        status = Path(real).stat()
        known = sums.get(real)
        same_file = known is not None and (known.bytes, known.modified) == (status.st_size, status.st_mtime_ns)
        if known is not None and same_file and known.checked >= since:
            return VerifiedFile(path, listed.path, status.st_size, GOOD, "checked a moment ago")
        sha256, sha1 = _hashes(real, status.st_size, git, moved, stopped)
    except OSError as error:
        return VerifiedFile(path, listed.path, 0, UNREADABLE, str(error))

    def told(state: str, how: str) -> VerifiedFile:
        if state != DAMAGED:
            sums.put(real, status.st_size, status.st_mtime_ns, sha256)
        return VerifiedFile(path, listed.path, status.st_size, state, how)

    if digest is not None:
        if sha256 == digest[1]:
            return told(GOOD, "its SHA-256 is its name")
        return told(DAMAGED, "Its SHA-256 is not the one that its name says. Download it again.")
    if git:
        if sha1 == name:
            return told(GOOD, "git's SHA-1 is its name")
        return told(DAMAGED, "Its SHA-1 is not the one that its name says. Download it again.")
    if known is not None and same_file:
        if known.sha256 == sha256:
            return told(GOOD, f"unchanged since {time.strftime('%Y-%m-%d', time.localtime(known.checked))}")
        return told(DAMAGED, "Its bytes have changed, its date has not: the disk or a copy damaged it.")
    if listed.state:
        return VerifiedFile(path, listed.path, status.st_size, DAMAGED, " ".join(listed.info.problems))
    if path.endswith((".json", ".jinja", ".model", ".txt")):  # a folder's small files have no tensors
        return told(NEW, "nothing yet; remembered from now on")
    return told(NEW, "its header and the extents of its tensors are sound; remembered from now on")


def _hashes(
    path: str, size: int, git: bool, moved: Callable[[int], None], stopped: Callable[[], bool]
) -> tuple[str, str]:
    """SHA-256 and, if ``git``, git's SHA-1 of a file."""
    sha256 = hashlib.sha256()
    sha1 = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if git else None
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    done = 0
    with Path(path).open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if stopped():
                raise Cancelled
            sha256.update(view[:count])
            if sha1 is not None:
                sha1.update(view[:count])
            done += count
            moved(done)
    return sha256.hexdigest(), sha1.hexdigest() if sha1 is not None else ""
