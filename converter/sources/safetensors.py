"""The header of a safetensors file. Every number of it is checked before it is used.

The format: 8 bytes little-endian length, a JSON object (name -> dtype, shape, data_offsets), then the data, which the
tensors cover from the first byte to the last without holes or overlap.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from converter.sources.files import MEBIBYTE, parse_json
from converter.sources.stored import MAX_DIMENSIONS, StoredTensor
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.sources.files import ByteFile

HEADER_LIMIT = 100 * 1000 * 1000

# Bits of an element. Types that are known to the format but carry no plain weights are named in errors.
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


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
