"""Zip archives as PyTorch writes them: stored entries, whose bytes are then read at their place in the file.

Only the directory is read here, and nothing is ever unpacked. Where two readers of zip files could understand an
archive differently (bytes before or behind it, overlapping entries, a local header that says something else than the
directory), it is refused. Format: PKWARE's APPNOTE.TXT, with zip64; names of the fields are its names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.sources.files import ByteFile

_DIRECTORY_LIMIT = 64 << 20
_ENTRY_LIMIT = 200_000

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_FLAG_SIZES_FOLLOW = 1 << 3
_REFUSED_FLAGS = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 13
"""Encrypted, patched, strongly encrypted, with masked headers."""
_ALL_16 = 0xFFFF
_ALL_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored entry: its data are ``size`` bytes from ``offset`` of the file."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Central:
    """What the directory says of an entry. ``header`` is where its local header lies."""

    name: bytes
    flags: int
    crc: int
    size: int
    header: int


def is_archive(file: ByteFile) -> bool:
    """Whether a file begins as a zip archive does."""
    return file.size >= 4 and file.read(0, 4) == b"PK\x03\x04"


def read_directory(file: ByteFile) -> dict[str, Entry]:
    """The entries of an archive by name. ``QuenchError`` ``truncated`` or ``bad_archive`` for anything odd."""
    count, size, start = _end(file)
    if size > _DIRECTORY_LIMIT or count > _ENTRY_LIMIT:
        _bad(file, f"its directory claims {count} entries in {size} bytes")
    listed = _central(file, file.read(start, size), count)
    entries: dict[str, Entry] = {}
    position = 0
    for central in sorted(listed, key=lambda entry: entry.header):
        if central.header < position:
            _bad(file, f"the entry {_shown(central.name)} overlaps another one")
        entry = _local(file, central, start)
        position = entry.offset + entry.size
        if entry.name in entries:
            _bad(file, f"the entry {_shown(central.name)} is there twice")
        entries[entry.name] = entry
    return entries


def _end(file: ByteFile) -> tuple[int, int, int]:
    """Number of entries, bytes and place of the directory, which must end where its end record begins."""
    tail = file.read(max(0, file.size - _END.size - _ALL_16), min(file.size, _END.size + _ALL_16))
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0 and not (at + _END.size <= len(tail) and _comment_fits(tail, at)):
        at = tail.rfind(b"PK\x05\x06", 0, at)
    if at < 0:
        _bad(file, "its end, where the directory of its entries should be, is missing", code="truncated")
    _, disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, at)
    end = file.size - len(tail) + at
    wide = tail[max(0, at - _END64_LOCATOR.size) : at].startswith(b"PK\x06\x07")
    if wide or _ALL_16 in (here, count) or _ALL_32 in (size, start):
        disk, first_disk, here, count, size, start, end = _end64(file, end)
    if disk or first_disk or here != count:
        _bad(file, "it is a part of an archive on several disks")
    if start + size != end:
        _bad(file, f"its directory should be {size} bytes from {start}, but ends at {end}")
    return count, size, start


def _comment_fits(tail: bytes, at: int) -> bool:
    comment = int.from_bytes(tail[at + _END.size - 2 : at + _END.size], "little")
    return at + _END.size + comment == len(tail)


def _end64(file: ByteFile, end: int) -> tuple[int, int, int, int, int, int, int]:
    at = end - _END64_LOCATOR.size
    if at < _END64.size:
        _bad(file, "its 64-bit directory is missing")
    magic, _, place, disks = _END64_LOCATOR.unpack(file.read(at, _END64_LOCATOR.size))
    if magic != b"PK\x06\x07" or disks > 1 or place != at - _END64.size:
        _bad(file, "its 64-bit directory is damaged")
    magic, _, _, _, disk, first_disk, here, count, size, start = _END64.unpack(file.read(place, _END64.size))
    if magic != b"PK\x06\x06":
        _bad(file, "its 64-bit directory is damaged")
    return disk, first_disk, here, count, size, start, place


def _central(file: ByteFile, data: bytes, count: int) -> list[_Central]:
    found: list[_Central] = []
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            _bad(file, f"its directory ends after {len(found)} of {count} entries")
        fields = _CENTRAL.unpack_from(data, at)
        magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, disk, _, _, header = (
            fields
        )
        after = at + _CENTRAL.size + name_length + extra_length + comment
        if magic != b"PK\x01\x02" or after > len(data):
            _bad(file, f"entry {len(found)} of its directory is damaged")
        name = data[at + _CENTRAL.size : at + _CENTRAL.size + name_length]
        extra = data[at + _CENTRAL.size + name_length : at + _CENTRAL.size + name_length + extra_length]
        size, packed, header = _wide(file, name, extra, [size, packed, header])
        if method != 0:
            _bad(file, f"the entry {_shown(name)} is compressed, which no checkpoint needs")
        if flags & _REFUSED_FLAGS or disk not in (0, _ALL_16):
            _bad(file, f"the entry {_shown(name)} is encrypted or lies elsewhere")
        if size != packed:
            _bad(file, f"the entry {_shown(name)} has {packed} bytes and claims {size}")
        found.append(_Central(name, flags, crc, size, header))
        at = after
    if at != len(data):
        _bad(file, f"its directory has {len(data) - at} bytes too many")
    return found


def _wide(file: ByteFile, name: bytes, extra: bytes, values: list[int]) -> list[int]:
    """Sizes and place with those that 32 bits could not hold taken from the extra field, in its order."""
    wanted = [index for index, value in enumerate(values) if value == _ALL_32]
    at = 0
    while wanted and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if kind == 1:
            if len(body) != length or length < 8 * len(wanted):
                break
            for index, value in zip(wanted, struct.unpack_from(f"<{len(wanted)}Q", body), strict=True):
                values[index] = value
            return values
        at += 4 + length
    if wanted:
        _bad(file, f"the entry {_shown(name)} lacks its 64-bit sizes")
    return values


def _local(file: ByteFile, central: _Central, limit: int) -> Entry:
    """The entry, once its own header agrees with the directory. ``limit`` is where entries end."""
    data = central.header + _LOCAL.size
    if data > limit:
        _bad(file, f"the entry {_shown(central.name)} lies outside of the file")
    magic, _, flags, method, _, _, _, packed, size, name_length, extra_length = _LOCAL.unpack(
        file.read(central.header, _LOCAL.size)
    )
    offset = data + name_length + extra_length
    if magic != b"PK\x03\x04" or offset > limit:
        _bad(file, f"the entry {_shown(central.name)} does not begin where the directory says")
    name = file.read(data, name_length)
    same_size = all(value in (central.size, _ALL_32) for value in (packed, size))
    if name != central.name or method != 0 or not (flags & _LOCAL_FLAG_SIZES_FOLLOW or same_size):
        _bad(file, f"the entry {_shown(central.name)} and the directory contradict each other")
    if offset + central.size > limit:
        _bad(file, f"the entry {_shown(central.name)} ends {offset + central.size - limit} bytes behind the last one")
    return Entry(_plain(file, name), offset, central.size, central.crc)


def _plain(file: ByteFile, name: bytes) -> str:
    """An entry's name. It is never used as a path; one that tries to be somebody else's is no checkpoint's all the
    same."""
    text = name.decode("utf-8", "replace")
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or "\ufffd" in text or text.startswith("/") or ".." in parts:
        _bad(file, f"it has an entry with the name {_shown(name)}")
    return text


def _shown(name: bytes) -> str:
    return repr(name[:60].decode("utf-8", "replace"))


def _bad(file: ByteFile, reason: str, *, code: str = "bad_archive") -> NoReturn:
    title = "The weight file is cut short." if code == "truncated" else "The weight file is damaged."
    raise QuenchError(
        code,
        title,
        f"{file.path.name}: {reason}.",
        f"Download it again and compare its size ({file.size / (1 << 20):.1f} MiB) with the original's.",
    )
