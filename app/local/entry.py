"""What the library knows of one model on disk."""

from __future__ import annotations

import msgspec

from converter.spec import ModelInfo

PARTIAL, BROKEN = "partial", "broken"


class FileFact(msgspec.Struct, frozen=True):
    """A file that a model takes up: ``bytes`` long, told from others (through links of any kind) by ``key``."""

    path: str
    bytes: int
    key: str


class Listed(msgspec.Struct, frozen=True):
    """A model as it lies on this machine.

    ``info`` has neither tensors nor long metadata. ``place`` is a key of :data:`app.local.places.TITLES`, ``title``
    what the program whose place it is calls it (``qwen3:4b``), if not by its file's name. ``content`` and ``family``
    are ids (:mod:`converter.identity`), empty if it cannot be read. ``files`` are what it takes up. ``state`` is empty,
    ``partial`` (a download or conversion that has not ended) or ``broken``. ``revision`` is the commit of a model in
    the Hugging Face cache, ``refs`` the branches and tags that are this commit.
    """

    info: ModelInfo
    place: str
    title: str = ""
    content: str = ""
    family: str = ""
    files: tuple[FileFact, ...] = ()
    state: str = ""
    revision: str = ""
    refs: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.info.path

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of its files, one that is linked twice counted once."""
        return sum({file.key: file.bytes for file in self.files}.values())
