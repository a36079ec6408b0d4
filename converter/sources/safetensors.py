"""Safetensors files: one, or several behind an index. Every number of a header is checked before it is used.

The format: 8 bytes little-endian length, a JSON object (name -> dtype, shape, data_offsets), then the data, which the
tensors cover from the first byte to the last without holes or overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from converter.sources.files import INDEX_LIMIT, MEBIBYTE, ByteFile, cannot_read, parse_json, read_json
from converter.spec import QuenchError

if TYPE_CHECKING:
    from pathlib import Path

HEADER_LIMIT = 100 * 1000 * 1000
MAX_DIMENSIONS = 8
INDEX_NAME = "model.safetensors.index.json"

# Bits of an element. Types that are known to the format but carry no plain weights are named in errors.
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
READABLE_DTYPES = frozenset({"F32", "F16", "BF16", "F64"})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: ``offset`` counts from the start of ``file``; ``dtype`` as the header names it."""

    name: str
    file: ByteFile
    offset: int
    n_bytes: int
    dtype: str
    shape: tuple[int, ...]


def find_parts(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a model folder in order, and the index (tensor name -> file name; empty without one).

    An index wins; else every ``model*.safetensors`` counts. Raises ``QuenchError`` for a folder without weights, an
    index that is damaged or leads out of the folder, and a missing shard.
    """
    index_path = folder / INDEX_NAME
    if index_path.is_file():
        index = _read_index(index_path)
        names = sorted(set(index.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise QuenchError(
                "missing_shard",
                f"Weight files are missing: {len(missing)} of {len(names)}.",
                f"{INDEX_NAME} names {_some(missing)}, not found in {folder}.",
                "Download the missing files into the same folder.",
            )
        return [folder / name for name in names], index
    try:
        names = sorted(p.name for p in folder.iterdir() if p.name.startswith("model") and p.suffix == ".safetensors")
    except OSError as error:
        raise cannot_read(folder, error) from error
    if not names:
        raise _no_weights(folder)
    _refuse_partial_set(folder, names)
    return [folder / name for name in names], {}


def read_header(file: ByteFile) -> list[StoredTensor]:
    """The tensors of one file sorted by name, fully checked; ``QuenchError`` ``bad_header`` or ``truncated``."""
    if file.size < 8:
        raise _bad(file, f"it has {file.size} bytes, which is too short for a header", code="truncated")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > HEADER_LIMIT:
        raise _bad(file, f"its header claims {length} bytes; at most {HEADER_LIMIT} are read")
    if length < 2 or 8 + length > file.size:
        code = "truncated" if length >= 2 else "bad_header"
        raise _bad(file, f"its header claims {length} bytes in a file of {file.size}", code=code)
    raw = file.read(8, length)
    if raw[:1] != b"{":
        raise _bad(file, "its header does not begin with '{'")
    entries = parse_json(raw, f"The header of {file.path.name}", "bad_header", _unique_pairs)
    _check_metadata(file, entries.pop("__metadata__", None))
    tensors = [_entry(file, name, entry, 8 + length) for name, entry in entries.items()]
    _check_coverage(file, tensors, 8 + length)
    return sorted(tensors, key=lambda tensor: tensor.name)


def check_index(tensors: list[StoredTensor], index: dict[str, str]) -> None:
    """Raises ``QuenchError`` when the index and the files disagree about which tensor lies where."""
    if not index:
        return
    found = {tensor.name: tensor.file.path.name for tensor in tensors}
    lost = sorted(name for name in index if name not in found)
    if lost:
        raise QuenchError(
            "missing_tensor",
            "A weight file lacks tensors that the index promises.",
            f"{index[lost[0]]} should hold {_some(lost)}.",
            "Download that file again; it belongs to another version or is damaged.",
        )
    wrong = sorted(name for name, part in found.items() if index.get(name) != part)
    if wrong:
        raise QuenchError(
            "bad_index",
            "The index and the weight files do not belong together.",
            f"{_some(wrong)} in {found[wrong[0]]}: the index says {index.get(wrong[0], 'nothing about it')}.",
            "Download the index and the weights again, from the same version of the model.",
        )


def read_parts(files: list[ByteFile]) -> list[StoredTensor]:
    """All tensors of all files, file by file, names sorted within a file; a name in two files is refused."""
    tensors: list[StoredTensor] = []
    homes: dict[str, str] = {}
    for file in files:
        for tensor in read_header(file):
            if tensor.name in homes:
                raise _bad(file, f"it holds {tensor.name}, which {homes[tensor.name]} holds too", code="bad_index")
            homes[tensor.name] = file.path.name
            tensors.append(tensor)
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path, limit=INDEX_LIMIT, code="bad_index").get("weight_map")
    hint = "Download the index again."
    if not isinstance(weight_map, dict) or not weight_map:
        raise QuenchError("bad_index", f"{path.name} has no weight_map.", f"{path}", hint)
    for name, part in weight_map.items():
        if not isinstance(part, str) or not _plain_file_name(part):
            raise QuenchError(
                "bad_index",
                f"{path.name} names a file that does not lie in the model's folder.",
                f"{name!r} -> {part!r}",
                "Do not use this folder unless you know where it comes from; download the index again.",
            )
    return weight_map


def _plain_file_name(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and not any(c in name for c in '/\\:\0<>|"?*')
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= 255
    )


def _no_weights(folder: Path) -> QuenchError:
    names = sorted(path.name for path in folder.iterdir())
    pickled = [n for n in names if n.endswith((".bin", ".pth", ".pt"))]
    others = [n for n in names if n.endswith(".safetensors")]
    if "adapter_config.json" in names:
        return QuenchError(
            "adapter", "This folder holds an adapter, not a whole model.", f"{folder}", "Open the base model instead."
        )
    detail = f"No model*.safetensors in {folder}."
    if pickled:
        detail += f" There is {_some(pickled)}, a pickle format that can run code and is not read."
    elif others:
        detail += f" There is {_some(others)}, which does not follow the usual naming."
    return QuenchError(
        "missing_weights",
        "The folder has no weights that can be read.",
        detail,
        "Download the model's .safetensors files into this folder.",
    )


def _refuse_partial_set(folder: Path, names: list[str]) -> None:
    """Without an index, ``model-00001-of-00003.safetensors`` still says how many there should be."""
    for name in names:
        stem = name.removesuffix(".safetensors")
        head, _, count = stem.rpartition("-of-")
        prefix, _, number = head.rpartition("-")
        if not (count.isdecimal() and number.isdecimal() and len(count) == len(number) == 5):
            continue
        wanted = [f"{prefix}-{i:05d}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
        missing = [w for w in wanted if w not in names]
        if missing:
            raise QuenchError(
                "missing_shard",
                f"Weight files are missing: {len(missing)} of {len(wanted)}.",
                f"{name} is there, but not {_some(missing)}, in {folder}.",
                "Download the missing files into the same folder.",
            )


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} is there twice")
    return result


def _check_metadata(file: ByteFile, metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(file, "its __metadata__ is not a map of strings")


def _entry(file: ByteFile, name: str, entry: Any, data_start: int) -> StoredTensor:
    if not name or not name.isprintable() or len(name) > 1024:
        raise _bad(file, f"it has a tensor with the name {name[:40]!r}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(file, f"{name} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise _bad(file, f"{name} has the unknown dtype {str(dtype)[:40]!r}")
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _bad(file, f"{name} has the shape {str(shape)[:80]}")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise _bad(file, f"{name} has the offsets {str(offsets)[:80]}")
    bits = prod(shape) * _DTYPE_BITS[dtype]
    if bits >= 1 << 63:
        raise _bad(file, f"{name} claims {prod(shape)} elements")
    begin, end = offsets
    if begin > end or (end - begin) * 8 != bits:
        raise _bad(file, f"{name} ({dtype} {shape}) needs {bits / 8:g} bytes but has the offsets {begin} to {end}")
    if data_start + end > file.size:
        missing = data_start + end - file.size
        raise _bad(file, f"{name} ends {missing} bytes behind the end of the file", code="truncated")
    return StoredTensor(name, file, data_start + begin, end - begin, dtype, tuple(shape))


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_coverage(file: ByteFile, tensors: list[StoredTensor], data_start: int) -> None:
    position = data_start
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.n_bytes)):
        if tensor.offset != position:
            how = "overlaps the tensor before it" if tensor.offset < position else "follows a hole in the data"
            raise _bad(file, f"{tensor.name} {how}")
        position += tensor.n_bytes
    if position != file.size:
        raise _bad(file, f"{file.size - position} bytes at its end belong to no tensor")


def _bad(file: ByteFile, reason: str, *, code: str = "bad_header") -> QuenchError:
    title = "The weight file is cut short." if code == "truncated" else "The weight file is damaged."
    return QuenchError(
        code,
        title,
        f"{file.path.name}: {reason}.",
        f"Download it again and compare its size ({file.size / MEBIBYTE:.1f} MiB) with the original's.",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
