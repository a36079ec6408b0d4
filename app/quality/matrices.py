"""Output matrices in files at hand, by name, type and the digest of their bytes.

Where a matrix was seen is remembered in a small file of the cache (paths by digest), which may be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

import kernels
from app import paths
from app.engine.head import Shape
from app.files import write_atomically
from app.quality.fingerprint import Bytes, digest_of
from converter import open_model
from converter.spec import QuenchError

_MOST_REMEMBERED = 256
_MAX_BYTES = 1 << 20


def read(path: str, shape: Shape) -> Bytes | None:
    """The matrix of this shape in the model ``path``, uint8 (rows, row bytes), a map of the file where it can be; None
    if there is none. Raises QuenchError for a file that cannot be read."""
    with open_model(path) as model:
        for tensor in model.tensors:
            if tensor.name == shape.name:
                fits = tensor.shape == (shape.vocabulary, shape.width)
                if fits and kernels.READABLE.get(tensor.type) == shape.type:
                    return tensor.raw(0, tensor.n_rows)
    return None


def find(shape: Shape, digest: bytes, places: Iterable[str]) -> tuple[Bytes | None, str]:
    """The matrix with this digest, and the file that has it: the remembered ones first, then ``places``."""
    for path in dict.fromkeys([*_remembered().get(digest.hex(), []), *places]):
        if not Path(path).is_file():
            continue
        try:
            matrix = read(path, shape)
        except QuenchError:
            continue  # another file's trouble, which is told where that file is used
        if matrix is not None and digest_of(matrix) == digest:
            return matrix, path
    return None, ""


def remember(digest: bytes, path: str) -> None:
    """Note that ``path`` has the matrix; a cache that cannot be written is no error."""
    known = _remembered()
    found = known.pop(digest.hex(), [])
    known[digest.hex()] = [path, *(each for each in found if each != path)][:8]
    while len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]
    with suppress(OSError):
        write_atomically(_file(), msgspec.json.encode(known))


def _file() -> Path:
    return paths.cache() / "matrices.json"


def _remembered() -> dict[str, list[str]]:
    try:
        if _file().stat().st_size > _MAX_BYTES:
            return {}
        return msgspec.json.decode(_file().read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


__all__ = ["find", "read", "remember"]
