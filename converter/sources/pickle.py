"""PyTorch checkpoints (``.bin``, ``.pt``, ``.pth``): where their tensors lie, without PyTorch and without running them.

Two forms: a zip archive with ``data.pkl`` and one stored entry for each storage, and the older one of four pickles with
the storages behind them. Tensors are views of storages; two tensors may share one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from converter.sources import archive, unpickle
from converter.sources.stored import StoredTensor, some
from converter.sources.unpickle import ITEM_BYTES, Broken, Storage, Tensor
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.sources.files import ByteFile

_PICKLE_LIMIT = 64 << 20
_LEGACY_LIMIT = 16 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_WRAPPERS = ("state_dict", "model", "module")
"""Names under which training programs put the weights beside other things."""
_NAME_LIMIT = 1024

_Place = Callable[[Storage], int]
"""Where a storage's first byte lies in the file."""


def read_checkpoint(file: ByteFile) -> list[StoredTensor]:
    """The tensors of a checkpoint sorted by name, each fully within the file.

    Raises ``QuenchError``: ``runs_code`` for a file that would call something, ``not_plain_tensors``, ``truncated``,
    ``bad_archive`` or ``bad_checkpoint``.
    """
    try:
        value, place = _read_archive(file) if archive.is_archive(file) else _read_legacy(file)
        tensors = _weights(value)
        return [_stored(file, name, tensors[name], place) for name in sorted(tensors)]
    except Broken as error:
        _bad(file, str(error), error)


def _read_archive(file: ByteFile) -> tuple[Any, _Place]:
    entries = archive.read_directory(file)
    found = [name for name in entries if name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)]
    if len(found) != 1:
        raise Broken(f"it holds {some(sorted(entries)) or 'nothing'}, which is no checkpoint")
    root = found[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise QuenchError(
            "not_plain_tensors",
            "The file is a program with weights, not a checkpoint.",
            f"{file.path.name} was written by TorchScript.",
            "Download the model's .safetensors files instead.",
        )
    order = entries.get(f"{root}byteorder")
    if order is not None and file.read(order.offset, min(order.size, 16)) != b"little":
        raise Broken("its numbers are in the order of another kind of processor")
    entry = entries[found[0]]
    if entry.size > _PICKLE_LIMIT:
        raise Broken(f"the list of its tensors claims {entry.size} bytes; at most {_PICKLE_LIMIT} are read")
    data = file.read(entry.offset, entry.size)
    if zlib.crc32(data) != entry.crc:
        raise Broken("the list of its tensors has changed since it was written")
    value, _ = unpickle.load(data)

    def place(storage: Storage) -> int:
        home = entries.get(f"{root}data/{storage.key}")
        if home is None:
            raise Broken(f"the storage {storage.key[:40]!r} is missing")
        if home.size != storage.count * ITEM_BYTES[storage.dtype]:
            raise Broken(
                f"the storage {storage.key[:40]!r} has {home.size} bytes and should have "
                f"{storage.count} numbers of type {storage.dtype}"
            )
        return home.offset

    return value, place


def _read_legacy(file: ByteFile) -> tuple[Any, _Place]:
    """Magic number, version, system, weights and the storages' keys, each a pickle; then the storages in that order,
    each behind its number of elements."""
    data = file.read(0, min(file.size, _LEGACY_LIMIT))
    if data[:1] != b"\x80":
        raise Broken("it is neither of the forms that PyTorch writes")
    magic, at = unpickle.load(data)
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise Broken("it is a pickle of something else than a checkpoint")
    version, at = unpickle.load(data, at)
    if type(version) is not int or version != _LEGACY_VERSION:
        raise Broken("it has an unknown version")
    system, at = unpickle.load(data, at)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Broken("its numbers are in the order of another kind of processor")
    value, at = unpickle.load(data, at)
    keys, at = unpickle.load(data, at)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Broken("the list of its storages is none")
    kinds = {tensor.storage.key: tensor.storage for tensor in _weights(value).values()}
    places = {}
    for key in keys:
        if key not in kinds or key in places:
            raise Broken(f"the storage {key[:40]!r} belongs to no tensor")
        count = int.from_bytes(file.read(at, 8), "little")
        if count != kinds[key].count:
            raise Broken(f"the storage {key[:40]!r} has {count} numbers and should have {kinds[key].count}")
        places[key] = at + 8
        at += 8 + count * ITEM_BYTES[kinds[key].dtype]

    def place(storage: Storage) -> int:
        if storage.key not in places or storage != kinds[storage.key]:
            raise Broken(f"the storage {storage.key[:40]!r} is missing, or there in two kinds")
        return places[storage.key]

    return value, place


def _weights(value: Any) -> dict[str, Tensor]:
    """The tensors by name: the dictionary itself, or the one that a training program wrapped."""
    if type(value) is dict and not any(type(item) is Tensor for item in value.values()):
        inside = [value[name] for name in _WRAPPERS if type(value.get(name)) is dict]
        value = inside[0] if len(inside) == 1 else value
    if type(value) is not dict:
        raise Broken("it holds no dictionary of tensors")
    tensors = {}
    for name, item in value.items():
        if type(item) is not Tensor:
            continue  # a step counter, a version: what a model needs is looked for by name afterwards
        if type(name) is not str or not name or not name.isprintable() or len(name) > _NAME_LIMIT:
            raise Broken("it has a tensor without a sensible name")
        tensors[name] = item
    if not tensors:
        raise Broken("it holds no tensors")
    return tensors


def _stored(file: ByteFile, name: str, tensor: Tensor, place: _Place) -> StoredTensor:
    item = ITEM_BYTES[tensor.storage.dtype]
    offset = place(tensor.storage) + tensor.offset * item
    elements, steps = 1, []
    for size in reversed(tensor.shape):
        steps.append(elements)
        elements *= size
    ordinary = not elements or all(
        size == 1 or stride == step
        for size, stride, step in zip(tensor.shape, tensor.strides, reversed(steps), strict=True)
    )
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    n_bytes = (last + 1) * item if elements else 0
    if offset + n_bytes > file.size:
        raise QuenchError(
            "truncated",
            "The weight file is cut short.",
            f"{file.path.name}: {name} ends {offset + n_bytes - file.size} bytes behind the end of the file.",
            "Download it again; it may still be on its way.",
        )
    strides = None if ordinary else tensor.strides
    return StoredTensor(name, file, offset, n_bytes, tensor.storage.dtype, tensor.shape, strides)


def _bad(file: ByteFile, reason: str, cause: Exception) -> NoReturn:
    raise QuenchError(
        "bad_checkpoint",
        "The PyTorch file is damaged, or no checkpoint.",
        f"{file.path.name}: {reason}.",
        "Download it again, or download the model's .safetensors files instead.",
    ) from cause
