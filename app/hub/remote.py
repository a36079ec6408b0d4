"""Headers of GGUF and safetensors files that are still on the hub, by range requests.

The header's readers are the converter's own. They get a file that fetches what they ask for; what was fetched is then
put at its place in an otherwise empty file of the right length (a sparse one: it takes no disk), so that everything
that works on a local model's header, a conversion's plan too, works on one that is not here.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from app.hub import errors
from app.hub.cache import Place
from app.hub.client import Hub, question
from app.hub.messages import RemoteFile
from converter.spec import ModelInfo, QuenchError

if TYPE_CHECKING:
    from converter.sources.files import ByteFile

HEADER_LIMIT = 96 << 20
"""Bytes that the headers of one model may take. The largest vocabularies make about 16 MiB."""
SMALL_FILE_LIMIT = 64 << 20

_FIRST = 1 << 18
_STEP = 4 << 20


class RemoteBytes:
    """The beginning of a file on the hub, read as :class:`converter.sources.files.ByteFile` is, and kept."""

    def __init__(self, hub: Hub, repo: str, commit: str, file: RemoteFile, limit: int) -> None:
        self.path = PurePosixPath(file.path)
        self.size = file.bytes
        self.data = bytearray()
        self._hub = hub
        self._address = hub.address(repo, file.path, commit)
        self._limit = min(limit, file.bytes)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``; ``QuenchError`` ``bad_header`` beyond the limit."""
        end = offset + count
        if end > self._limit:
            raise QuenchError(
                "bad_header",
                "The file's header is too long to be looked at from here.",
                f"{self.path.name}: more than {self._limit} bytes.",
                "Download the file to look into it.",
            )
        while len(self.data) < end:
            have = len(self.data)
            self._fetch(min(self._limit, max(end, have + (_STEP if have else _FIRST))))
        return bytes(self.data[offset:end])

    def _fetch(self, end: int) -> None:
        """Bring the bytes up to ``end``, or some of them."""
        try:
            self._fetch_once(end)
        except errors.HubError as error:
            if error.status != 416:
                raise
            raise errors.bad_answer(self.path.name, "it is shorter than the hub lists it") from error

    def _fetch_once(self, end: int) -> None:
        start = len(self.data)
        headers = {**self._hub.headers(), "range": f"bytes={start}-{end - 1}"}
        with self._hub.client.stream("GET", self._address, headers=headers) as response:
            if response.status_code != 206:
                skip = start  # ranges are not understood there: the part that we have comes again
            elif response.headers.get("content-range", "").startswith(f"bytes {start}-"):
                skip = 0
            else:
                raise errors.bad_answer(self.path.name, "it sends another range than it was asked for")
            try:
                for piece in response.iter_bytes():
                    fresh = piece[skip:]
                    skip = max(0, skip - len(piece))
                    self.data += fresh[: end - len(self.data)]
                    if len(self.data) >= end:
                        return
            except self._hub.client.failures as error:
                raise errors.from_transport(error, response.request, self._hub.access.proxy) from error
        if len(self.data) == start:
            raise errors.bad_answer(self.path.name, f"it ends at {start} of {self.size} bytes")


@contextlib.contextmanager
def outline(hub: Hub, repo: str, commit: str, files: Sequence[RemoteFile]) -> Iterator[Path]:
    """A folder with these files' headers, to be read or planned with; it goes when the block is left.

    Weights are holes of the right length, everything else is whole. Raises ``QuenchError``.
    """
    root = Path(tempfile.mkdtemp(prefix="quench-outline-"))
    # As in the cache, where a model's name is read from the folder.
    folder = Place(str(root), repo, commit).folder
    try:
        left = HEADER_LIMIT
        for file in files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with question(file.path, requests=60):
                source = RemoteBytes(hub, repo, commit, file, left)
                if file.path.endswith(".safetensors"):
                    _safetensors_header(source)
                elif file.path.lower().endswith(".gguf"):
                    from converter.sources.gguf_header import read_header

                    read_header(cast("ByteFile", source))  # it asks for path, size and read, which is all there is
                elif file.bytes > SMALL_FILE_LIMIT:
                    raise QuenchError(
                        "too_large",
                        "The model's header cannot be looked at from here.",
                        f"{file.path} has {file.bytes} bytes.",
                        "Download the model to look into it.",
                    )
                elif file.bytes:
                    source.read(0, file.bytes)
            left -= len(source.data)
            with target.open("wb") as out:
                out.write(source.data)
                out.truncate(file.bytes)
        yield folder
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _safetensors_header(source: RemoteBytes) -> None:
    """Fetch the header; the converter's reader checks it when the outline is opened."""
    if source.size >= 8:
        length = int.from_bytes(source.read(0, 8), "little")
        source.read(0, min(source.size, 8 + length))


def inspect(hub: Hub, repo: str, commit: str, files: Sequence[RemoteFile]) -> ModelInfo:
    """What these files would be if they were here: a GGUF (with all its parts) or the files of a conversion."""
    import converter

    with outline(hub, repo, commit, files) as folder:
        ggufs = [file.path for file in files if file.path.lower().endswith(".gguf")]
        with converter.open_model(folder / ggufs[0] if ggufs else folder) as model:
            return model.info
