"""PyTorch checkpoints written by hand, right and wrong, without PyTorch."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.converter.folders import to_bytes, write_json

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F64": "DoubleStorage"}
MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class View:
    """A tensor of a checkpoint: ``count`` None means all numbers of the storage."""

    key: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    dtype: str = "F32"
    count: int | None = None
    parameter: bool = False


class Code:
    """Instructions of a pickle, protocol 2."""

    def __init__(self) -> None:
        self.raw = b"\x80\x02"

    def add(self, *parts: bytes) -> Code:
        self.raw += b"".join(parts)
        return self

    def text(self, value: str) -> Code:
        data = value.encode()
        return self.add(b"X", struct.pack("<I", len(data)), data)

    def number(self, value: int) -> Code:
        return self.add(b"\x8a\x09", value.to_bytes(9, "little", signed=True))

    def name(self, module: str, name: str) -> Code:
        return self.add(b"c", module.encode(), b"\n", name.encode(), b"\n")

    def numbers(self, values: tuple[int, ...]) -> Code:
        self.add(b"(")
        for value in values:
            self.number(value)
        return self.add(b"t")

    def storage(self, view: View, count: int, legacy: bool = False) -> Code:
        self.add(b"(").text("storage").name("torch", STORAGES.get(view.dtype, view.dtype)).text(view.key).text("cpu")
        return self.number(count).add(b"N" if legacy else b"", b"tQ")

    def tensor(self, view: View, count: int, legacy: bool = False) -> Code:
        if view.parameter:
            self.name("torch._utils", "_rebuild_parameter").add(b"(")
        self.name("torch._utils", "_rebuild_tensor_v2").add(b"(").storage(view, count, legacy).number(view.offset)
        self.numbers(view.shape).numbers(view.strides).add(b"\x89").name("collections", "OrderedDict").add(b")RtR")
        if view.parameter:
            self.add(b"\x88").name("collections", "OrderedDict").add(b")RtR")
        return self

    def state(self, views: dict[str, View], sizes: dict[str, int], legacy: bool = False) -> Code:
        """An ordered dictionary of tensors with the versions of modules that PyTorch adds to it."""
        self.name("collections", "OrderedDict").add(b")R(")
        for name, view in views.items():
            self.text(name).tensor(view, sizes.get(view.key, 0) if view.count is None else view.count, legacy)
        return self.add(b"u}").text("_metadata").add(b"}").text("").add(b"}").text("version").add(b"K\x01sssb")

    def stop(self) -> bytes:
        return self.raw + b"."


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))


def item_bytes(dtype: str) -> int:
    return {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}[dtype]


def views_of(tensors: dict[str, np.ndarray], dtype: str) -> tuple[dict[str, View], dict[str, bytes]]:
    """A storage of its own for each tensor."""
    views = {
        name: View(str(number), values.shape, contiguous(values.shape), dtype=dtype)
        for number, (name, values) in enumerate(tensors.items())
    }
    return views, {view.key: to_bytes(tensors[name], dtype) for name, view in views.items()}


def entries(views: dict[str, View], storages: dict[str, bytes]) -> dict[str, bytes]:
    """What the archive holds, by name."""
    sizes = {view.key: len(storages[view.key]) // item_bytes(view.dtype) for view in views.values()}
    code = Code().state(views, sizes).stop()
    data = {f"archive/data/{key}": raw for key, raw in storages.items()}
    return {"archive/data.pkl": code, "archive/byteorder": b"little", **data, "archive/version": b"3\n"}


def archive(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as packed:
        for name, raw in files.items():
            # As PyTorch does it: sizes behind the data.
            packed.writestr(zipfile.ZipInfo(name), raw, method)
    return out.getvalue()


def checkpoint(tensors: dict[str, np.ndarray], dtype: str = "BF16") -> bytes:
    return archive(entries(*views_of(tensors, dtype)))


def legacy(views: dict[str, View], storages: dict[str, bytes], counts: dict[str, int] | None = None) -> bytes:
    """The form of PyTorch before 1.6: pickles, then each storage behind its number of elements."""
    sizes = {view.key: len(storages[view.key]) // item_bytes(view.dtype) for view in views.values()}
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}]
    raw = b"".join(pickle.dumps(value, 2) for value in head)
    raw += Code().state(views, sizes, legacy=True).stop() + pickle.dumps(list(storages), 2)
    for key, data in storages.items():
        raw += struct.pack("<q", (counts or sizes)[key]) + data
    return raw


def replace_weights(folder: Path, tensors: dict[str, np.ndarray], dtype: str = "BF16", shards: int = 1) -> None:
    """Gives a model folder PyTorch files in place of its safetensors."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    if shards == 1:
        (folder / "pytorch_model.bin").write_bytes(checkpoint(tensors, dtype))
        return
    names = list(tensors)
    weight_map: dict[str, Any] = {}
    for i in range(shards):
        part = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        chosen = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        (folder / part).write_bytes(checkpoint({n: tensors[n] for n in chosen}, dtype))
        weight_map |= dict.fromkeys(chosen, part)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
