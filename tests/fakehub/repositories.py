"""Repositories of the fake hub: commits of files, hashed as git and Git LFS hash them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LARGE = (".safetensors", ".gguf", ".bin", ".model", ".onnx", ".h5")
"""Files with these endings are stored as large ones (LFS), and so is everything above ten megabytes."""


def git_hash(data: bytes) -> str:
    """The id of a git object with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit. ``listed`` is the size that listings claim."""

    data: bytes
    large: bool
    listed: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git holds of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.listed}\n".encode()

    @property
    def oid(self) -> str:
        return git_hash(self.pointer if self.large else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass
class FakeRepo:
    """A repository. ``readers`` are the tokens that may read it if it is private or gated."""

    id: str
    private: bool = False
    gated: str = ""
    disabled: bool = False
    readers: tuple[str, ...] = ()
    tags: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    downloads: int = 0
    likes: int = 0
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main", listed: int | None = None) -> str:
        """Change files (None removes one) and move the branch; returns the new commit."""
        now = dict(self.commits.get(self.branches.get(branch, ""), {}))
        for path, data in files.items():
            if data is None:
                now.pop(path, None)
                continue
            large = path.endswith(LARGE) or len(data) > 10_000_000
            now[path] = StoredFile(data, large, len(data) if listed is None else listed)
        text = "".join(f"{path} {file.etag}\n" for path, file in sorted(now.items())) + f"{len(self.commits)} {self.id}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = now
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's hash names."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    @property
    def head(self) -> str:
        return self.branches["main"]

    def files(self, revision: str = "main") -> dict[str, StoredFile]:
        sha = self.resolve(revision)
        assert sha is not None, revision
        return self.commits[sha]
