"""Where a repository's files lie in the Hugging Face cache: blobs by hash, snapshots of links to them, refs.

The layout is huggingface_hub's, and it makes the links itself (:mod:`app.hub.transfer`); here it is only looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from app.files import write_atomically
from app.hub.messages import RemoteFile
from app.hub.names import RepoName, is_commit

PART = ".incomplete"
"""What the cache's own programs put behind the name of a blob that is on its way."""


class Place(NamedTuple):
    """Where the files of one commit go: into the cache ``root``, or, if ``to`` is not empty, under that folder."""

    root: str
    repo: str
    revision: str
    to: str = ""

    @property
    def storage(self) -> Path:
        """The repository's folder in the cache."""
        return Path(self.root) / f"models--{self.repo.replace('/', '--')}"

    @property
    def folder(self) -> Path:
        """Where the model will be found."""
        return Path(self.to) if self.to else self.storage / "snapshots" / self.revision

    def final(self, file: RemoteFile) -> Path:
        """The file that holds the bytes: a blob, or the file itself under ``to``."""
        return Path(self.to) / file.path if self.to else self.storage / "blobs" / (file.sha256 or file.oid)

    def part(self, file: RemoteFile) -> Path:
        """The file on its way. Its name has the hash, so that another version never goes on with it."""
        final = self.final(file)
        if not self.to:
            return final.with_name(final.name + PART)
        return final.with_name(f".{final.name[:120]}.{(file.sha256 or file.oid)[:16]}{PART}")

    def lock(self, file: RemoteFile) -> Path | None:
        """The lock that other programs take for the same blob; None outside of the cache."""
        if self.to:
            return None
        return Path(self.root) / ".locks" / self.storage.name / f"{self.final(file).name}.lock"

    def pointer(self, file: RemoteFile) -> Path:
        """Where a program finds the file."""
        return self.folder / file.path


def size_of(path: Path) -> int:
    """Bytes of a file, through links; -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def have(place: Place, file: RemoteFile) -> tuple[str, int]:
    """(``cached``, ``partial`` or ``missing``; bytes that are here). A file of another length does not count."""
    if file.bytes in (size_of(place.final(file)), size_of(place.pointer(file))):
        return "cached", file.bytes
    part = size_of(place.part(file))
    return ("partial", part) if 0 < part <= file.bytes else ("missing", 0)


def write_reference(place: Place, reference: str) -> None:
    """Note which commit a branch or tag is, as other programs look for it. ``OSError`` if the disk refuses."""
    if not place.to and reference and not is_commit(reference):
        write_atomically(place.storage / "refs" / reference, place.revision.encode())


def snapshot(root: str, name: RepoName) -> Path | None:
    """The folder of a revision that is in the cache, whole or not; None if nothing of it is here."""
    storage = Place(root, name.id, "").storage
    revision = name.revision or "main"
    if not is_commit(revision):
        try:
            revision = (storage / "refs" / revision).read_text(encoding="ascii").strip()[:40]
        except (OSError, UnicodeDecodeError):
            return None
    folder = storage / "snapshots" / revision
    return folder if is_commit(revision) and folder.is_dir() else None


def forget_parts(place: Place, files: Iterable[RemoteFile]) -> None:
    """Remove what is half here of these files."""
    for file in files:
        place.part(file).unlink(missing_ok=True)


def existing_parent(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - keeps links as they are
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
