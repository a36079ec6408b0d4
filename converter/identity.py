"""What a model is, whatever its files are called and wherever they lie: two short ids made from a few kilobytes.

*Content* tells one file from another. It is BLAKE2b over, for every file of the model in order: its length, its
beginning (the whole header of a GGUF file, in which a list of 256 strings or more stands as its own SHA-256; the first
64 KiB of any other weight file), and four windows of 4 KiB spread evenly over the rest, the last one at its very end;
for a folder its ``config.json`` comes first. Equal files
have equal ids. Files with equal ids are equal in all that was looked at, which two different models never are in
practice, since the windows fall into different weights; a single flipped byte between the windows is not seen. Whoever
must know compares whole files.

*Family* tells what quantizing leaves alone: the architecture, the layers and the width, and the norm weights, which
every converter keeps as float32. A file and what was quantized from it have the same family, whoever made it. So has a
model with an adapter merged into it, which leaves the norms alone: the family is a tie, no proof.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from converter.sources.base import SourceModel
from converter.sources.files import CONFIG_LIMIT, ByteFile, read_bounded
from converter.spec import ModelInfo, QuenchError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from converter.sources.gguf_header import Header, KnownParts
    from converter.sources.gguf_parts import Parts

WINDOWS, WINDOW_BYTES = 4, 4096
HEAD_BYTES = 64 << 10
NORMS = ("output_norm.weight", "blk.0.attn_norm.weight")
MAX_NORM_BYTES = 1 << 20
_ID_DIGITS = 32


class Glance(msgspec.Struct, frozen=True):
    """A model's description without tensors and long metadata, its ids (empty if they cannot be told), its files."""

    info: ModelInfo
    content: str
    family: str
    files: tuple[str, ...]


def glance(path: str | os.PathLike[str], known: KnownParts | None = None) -> Glance:
    """Describe a model from its headers, as :func:`converter.open_model` does, and tell what it is.

    The description says what that of ``open_model`` says, without its tensors, its template and metadata longer than a
    line. ``known`` makes thousands of GGUF files faster. Raises ``QuenchError`` as ``open_model`` does.
    """
    from converter.sources.gguf import glance as glance_gguf
    from converter.sources.gguf import short_info

    target = path if isinstance(path, Path) else Path(path)
    if target.suffix.lower() == ".gguf" and target.is_file():
        with glance_gguf(target, known) as (info, parts):
            files = tuple(str(file.path) for file in parts.files)
            return Glance(info, _content_of_parts(parts), _family_of_parts(info, parts), files)
    from converter.sources import open_model

    with open_model(target) as model:
        if model.info.kind == "gguf":  # under a name of its own, such as a blob of a store
            with glance_gguf(target, known) as (info, parts):
                return Glance(info, _content_of_parts(parts), _family_of_parts(info, parts), (str(target),))
        files = tuple(str(file.path) for file in model.files)
        return Glance(short_info(model.info), _content_of_folder(target, model.files), _family_of_model(model), files)


def content_id(path: str | os.PathLike[str]) -> str:
    """The content id of a model; empty if it cannot be read as one."""
    try:
        return glance(path).content
    except (QuenchError, OSError):
        return ""


def _content_of_parts(parts: Parts) -> str:
    digest = _new("content")
    for file, header in zip(parts.files, parts.headers, strict=True):
        _add_file(digest, file, _digested(header), header.length)
    return digest.hexdigest()


def _digested(header: Header) -> bytes:
    """The header with each long list of strings as its digest: files of a family share megabytes of them."""
    data = memoryview(header.data)
    pieces: list[bytes] = []
    done = 0
    for start, stop, digest in header.lists:
        pieces += [bytes(data[done:start]), digest or hashlib.sha256(data[start:stop]).digest()]
        done = stop
    return b"".join([*pieces, bytes(data[done : header.length])])


def _content_of_folder(folder: Path, files: Sequence[ByteFile]) -> str:
    digest = _new("content")
    config = (folder if folder.is_dir() else folder.parent) / "config.json"
    if config.is_file():
        digest.update(read_bounded(config, CONFIG_LIMIT))
    for file in files:
        head = file.read(0, min(file.size, HEAD_BYTES))
        _add_file(digest, file, head, len(head))
    return digest.hexdigest()


def _add_file(digest: hashlib.blake2b, file: ByteFile, head: bytes, begin: int) -> None:
    digest.update(struct.pack("<QQ", file.size, len(head)))
    digest.update(head)
    left = file.size - begin
    if left <= WINDOWS * WINDOW_BYTES:
        digest.update(file.read(begin, left))
        return
    for number in range(WINDOWS):
        digest.update(file.read(begin + (left - WINDOW_BYTES) * number // (WINDOWS - 1), WINDOW_BYTES))


def _family_of_parts(info: ModelInfo, parts: Parts) -> str:
    found = []
    for name in NORMS:
        for file, header in zip(parts.files, parts.headers, strict=True):
            tensor = header.table.named.get(name)
            if tensor is not None and tensor.type == "F32" and tensor.n_bytes <= MAX_NORM_BYTES:
                found.append((name, file.read(tensor.offset, tensor.n_bytes)))
    return _family(info, found)


def _family_of_model(model: SourceModel) -> str:
    norms = {
        tensor.name: tensor
        for tensor in model.tensors
        if tensor.name in NORMS and tensor.readable and 4 * tensor.n_elements <= MAX_NORM_BYTES
    }
    try:
        weights = [(name, norms[name].rows(0, norms[name].n_rows).tobytes()) for name in NORMS if name in norms]
    except QuenchError:
        return ""  # the norms cannot be read: the description says what is wrong
    return _family(model.info, weights)


def _family(info: ModelInfo, norms: Iterable[tuple[str, bytes]]) -> str:
    digest = _new("family")
    digest.update(f"{info.architecture} {info.layers} {info.embedding_length} {info.vocabulary}".encode())
    count = 0
    for name, weights in norms:
        digest.update(name.encode() + struct.pack("<Q", len(weights)))
        digest.update(weights)
        count += 1
    return digest.hexdigest() if count else ""


def _new(kind: str) -> hashlib.blake2b:
    # Twice as fast as SHA-256 where the processor has no instructions for that, and no slower elsewhere.
    return hashlib.blake2b(digest_size=_ID_DIGITS // 2, person=f"quench {kind} 1".encode())


__all__ = ["Glance", "content_id", "glance"]
