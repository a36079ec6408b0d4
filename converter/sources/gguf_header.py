"""The header of a GGUF file (version 2 and 3, little-endian), read without trusting a single number of it.

Values stay bytes until somebody asks for them: walking past a vocabulary of 150,000 strings costs some tens of
milliseconds, building it as Python objects several times that. The limits follow what the engine accepts, so that a
file that passes here does not abort there.
"""

from __future__ import annotations

import struct
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec
import numpy as np

from converter.sources.types import BY_ID
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.sources.files import ByteFile

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_KEY_BYTES = 1 << 16
MAX_STRING_BYTES = 64 << 20
MAX_HEADER_BYTES = 1 << 30
FIRST_BYTES = 96 << 10
"""Read in one go: the whole header of a small model."""
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

STRING, ARRAY, BOOL = 8, 9, 7
# Number in the file -> name and struct code; strings and arrays have no code.
VALUE_TYPES = {
    0: ("UINT8", "B"), 1: ("INT8", "b"), 2: ("UINT16", "H"), 3: ("INT16", "h"), 4: ("UINT32", "I"), 5: ("INT32", "i"),
    6: ("FLOAT32", "f"), 7: ("BOOL", "?"), 8: ("STRING", ""), 9: ("ARRAY", ""), 10: ("UINT64", "Q"),
    11: ("INT64", "q"), 12: ("FLOAT64", "d"),
}  # fmt: skip
_SCALARS = {number: struct.Struct("<" + code) for number, (_, code) in VALUE_TYPES.items() if code}
_SIZES = {number: scalar.size for number, scalar in _SCALARS.items()}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_LAYOUTS = {n_dims: struct.Struct(f"<{n_dims}QIQ") for n_dims in range(1, MAX_DIMENSIONS + 1)}


class HeaderValue(msgspec.Struct, frozen=True, gc=False):
    """One key: ``count`` items (1 unless an array) whose bytes are ``data[start:stop]`` of the header."""

    key: str
    type: int
    item_type: int | None
    count: int
    start: int
    stop: int


class HeaderTensor(msgspec.Struct, frozen=True, gc=False):
    """``shape`` is row-major (the file lists it the other way round); ``offset`` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int


class Tensors(NamedTuple):
    """A file's tensors in their order and by name, the number of their weights, and how many there are of each type."""

    listed: list[HeaderTensor]
    named: dict[str, HeaderTensor]
    parameters: int
    types: Counter[str]


@dataclass(frozen=True)
class Header:
    """A checked header. ``data`` holds its bytes, of which the first ``length`` are it and its padding; ``lists`` are
    the long lists of strings in it, in their order. ``table`` may be shared between files of one shape."""

    version: int
    alignment: int
    data: bytearray
    values: dict[str, HeaderValue]
    table: Tensors
    length: int
    lists: list[LongList]

    @property
    def tensors(self) -> list[HeaderTensor]:
        """The tensors in their order."""
        return self.table.listed

    def value(self, key: str) -> Any:
        """The value of ``key`` as Python objects, or None. Text that is no UTF-8 comes as bytes."""
        entry = self.values.get(key)
        if entry is None:
            return None
        if entry.item_type is not None:
            return self._array(entry, entry.count)
        if entry.type == STRING:
            return _text(bytes(self.data[entry.start : entry.stop]))
        return _SCALARS[entry.type].unpack_from(self.data, entry.start)[0]

    def preview(self, key: str, items: int = 8, length: int = 2000) -> Any:
        """As :meth:`value`, but a long array gives a short list and a string is cut at ``length`` characters."""
        entry = self.values[key]
        if entry.item_type is not None:
            return self._array(entry, min(entry.count, items))
        if entry.type == STRING:
            return self.data[entry.start : min(entry.stop, entry.start + 4 * length)].decode("utf-8", "replace")[
                :length
            ]
        return self.value(key)

    def short(self, length: int) -> dict[str, Any]:
        """All values that are no arrays, but without strings of more than ``length`` characters."""
        values: dict[str, Any] = {}
        for key, entry in self.values.items():
            if entry.item_type is not None:
                continue
            if entry.type != STRING:
                values[key] = _SCALARS[entry.type].unpack_from(self.data, entry.start)[0]
            elif entry.stop - entry.start <= 4 * length:  # a character has at most four bytes
                text = self.data[entry.start : entry.stop].decode("utf-8", "replace")
                if len(text) <= length:
                    values[key] = text
        return values

    def items(self, key: str, start: int, count: int) -> list[Any]:
        """At most ``count`` items of an array from ``start`` on; the others are not built."""
        entry = self.values[key]
        count = max(0, min(count, entry.count - start))
        return self._array(entry, count, start) if count else []

    def _array(self, entry: HeaderValue, count: int, first: int = 0) -> list[Any]:
        if entry.item_type == STRING:
            result = []
            position = entry.start
            for _ in range(first):
                position += 8 + _U64.unpack_from(self.data, position)[0]
            for _ in range(count):
                length = _U64.unpack_from(self.data, position)[0]
                position += 8
                result.append(_text(bytes(self.data[position : position + length])))
                position += length
            return result
        assert entry.item_type is not None
        code = VALUE_TYPES[entry.item_type][1]
        dtype = np.dtype("?" if code == "?" else "<" + code)
        values: list[Any] = np.frombuffer(self.data, dtype, count, entry.start + first * dtype.itemsize).tolist()
        return values


class LongList(NamedTuple):
    """Where a long list of strings lies in the header, and its SHA-256 if that is known."""

    start: int
    stop: int
    digest: bytes = b""


_Stub = tuple[str, tuple[int, ...], int, int, int]
"""Of a tensor: name, row-major shape, type id, offset from the data's start, bytes."""


class _Table(NamedTuple):
    """A checked table of tensors; ``placed`` are its tensors by where the data begins."""

    alignment: int
    stubs: list[_Stub]
    placed: dict[int, Tensors]


_PLACES = 64


class KnownParts:
    """Long lists of strings (vocabularies, merges) and tables of tensors that were checked before, for reading many
    files in one go.

    Files of one family carry the same megabytes of strings, files of one shape and recipe the same table, and equal
    bytes are compared a hundred times faster than they are walked. At most ``limit`` bytes are kept, those that were
    of use last. Any thread may use it.
    """

    SHORTEST = 256
    HEAD = 64

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, bytes], tuple[bytes, Any]] = OrderedDict()

    def find(self, count: int, data: bytearray, start: int) -> tuple[bytes, Any] | None:
        """What was kept of ``count`` items that begin like ``data`` at ``start``: all their bytes, and what is known
        of them. The caller compares the bytes."""
        key = (count, bytes(data[start : start + self.HEAD]))
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        return found

    def keep(self, count: int, data: bytes, facts: Any) -> None:
        """``data`` is exactly ``count`` sound items."""
        if len(data) > self._limit:
            return
        key = (count, data[: self.HEAD])
        with self._lock:
            self._bytes += len(data) - len(self._kept.pop(key, (b"", None))[0])
            self._kept[key] = data, facts
            while self._bytes > self._limit:
                self._bytes -= len(self._kept.popitem(last=False)[1][0])


def read_header(file: ByteFile, known: KnownParts | None = None) -> Header:
    """Reads and checks everything before the weights; ``QuenchError`` ``bad_header``, ``truncated`` or
    ``unsupported_version``. ``known`` makes it faster where many files share their vocabulary or their shape."""
    return _Reader(file, known).header()


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


class _Reader:
    """A cursor over the file's beginning, which it fetches in growing pieces."""

    def __init__(self, file: ByteFile, known: KnownParts | None = None) -> None:
        self.file = file
        self.known = known
        self.data = bytearray()
        self.position = 0
        self.lists: list[LongList] = []

    def header(self) -> Header:
        version = self._version()
        n_tensors, n_values = self._u64(), self._u64()
        left = self.file.size - self.position
        # The shortest key takes 8 + 1 + 4 + 1 bytes, the shortest tensor 8 + 1 + 4 + 8 + 4 + 8.
        if n_values > min(MAX_KEYS, left // 14):
            self._bad(f"it claims {n_values} metadata keys in {self.file.size} bytes")
        if n_tensors > min(MAX_TENSORS, left // 33):
            self._bad(f"it claims {n_tensors} tensors in {self.file.size} bytes")
        values = self._values(n_values)
        alignment = self._alignment(values)
        table, data_start = self._tensors(n_tensors, alignment)
        return Header(version, alignment, self.data, values, table, min(data_start, self.file.size), self.lists)

    def _version(self) -> int:
        if self.file.size < 24:
            self._bad(f"it has {self.file.size} bytes, which is too short for a header", code="truncated")
        self._need(24)
        if self.data[:4] != b"GGUF":
            self._bad(f"it begins with {bytes(self.data[:4])!r} instead of 'GGUF'", code="not_gguf")
        version = _U32.unpack_from(self.data, 4)[0]
        self.position = 8
        if version in (2, 3):
            return int(version)
        if version & 0xFFFF == 0 and version:
            self._bad("it was written for big-endian machines", code="unsupported_version")
        self._bad(f"it is version {version}; 2 and 3 can be read", code="unsupported_version")

    def _values(self, count: int) -> dict[str, HeaderValue]:
        values: dict[str, HeaderValue] = {}
        number, word = _U64.unpack_from, _U32.unpack_from
        for _ in range(count):
            position = self.position
            if position + 12 > len(self.data):
                self._fetch(position + 12)
            length = number(self.data, position)[0]
            if length > MAX_KEY_BYTES:
                self._bad(f"a key has {length} bytes; at most {MAX_KEY_BYTES} are read")
            start = position + 12 + length
            if start > len(self.data):
                self._fetch(start)
            key = self.data[position + 8 : start - 4].decode("utf-8", "replace")
            if not key or "\0" in key or "�" in key:
                self._bad(f"it has the key {key[:40]!r}")
            if key in values:
                self._bad(f"the key {key} is there twice")
            kind = word(self.data, start - 4)[0]
            # Most are plain numbers and short strings: written out, since a scan reads thousands of headers.
            if kind == STRING and start + 8 <= len(self.data):
                begin = start + 8
                stop = begin + number(self.data, start)[0]
            else:
                begin, stop = start, start + _SIZES.get(kind, 0)
            if kind != BOOL and start < stop <= len(self.data) and stop - begin <= MAX_STRING_BYTES:
                self.position = stop
                values[key] = HeaderValue(key, kind, None, 1, begin, stop)
            else:
                self.position = start
                values[key] = self._value(key, kind)
        return values

    def _value(self, key: str, kind: int) -> HeaderValue:
        item: int | None = None
        count = 1
        if kind == ARRAY:
            item, count = self._u32(), self._u64()
            if item not in VALUE_TYPES or item == ARRAY:
                self._bad(f"{key} is an array of the unknown type {item}")
        elif kind not in VALUE_TYPES:
            self._bad(f"{key} has the unknown type {kind}")
        start = self.position
        plain = kind if item is None else item
        if plain == STRING:
            if item is None:
                self._skip_string(key)
                start += 8
            else:
                self._skip_strings(count, key)
        else:
            self._skip_numbers(plain, count, key)
        return HeaderValue(key, kind, item, count, start, self.position)

    def _skip_numbers(self, kind: int, count: int, key: str) -> None:
        if count > self.file.size:
            self._bad(f"{key} claims {count} items")
        start, n_bytes = self.position, count * _SIZES[kind]
        self._need(n_bytes)
        self.position += n_bytes
        if kind == BOOL and max(self.data[start : self.position], default=0) > 1:
            self._bad(f"{key} holds a truth value that is neither 0 nor 1")

    def _skip_strings(self, count: int, key: str) -> None:
        if count > self.file.size // 8:
            self._bad(f"{key} claims {count} strings")
        long = count >= KnownParts.SHORTEST
        begin = self.position
        if long and self._skip_known(count):
            return
        data, position, unpack = self.data, begin, _U64.unpack_from
        for _ in range(count):
            if position + 8 > len(data):
                self.position = position
                self._need(8)
            length = unpack(data, position)[0]
            if length > MAX_STRING_BYTES:
                self._bad(f"{key} has a string of {length} bytes")
            position += 8 + length
            if position > len(data):
                self.position = position - length
                self._need(length)
        self.position = position
        if not long:
            return
        digest = b""
        if self.known is not None:
            strings = bytes(data[begin:position])
            digest = sha256(strings).digest()
            self.known.keep(count, strings, digest)
        self.lists.append(LongList(begin, position, digest))

    def _skip_known(self, count: int) -> bool:
        if self.known is None:
            return False
        begin, left = self.position, self.file.size - self.position
        self._need(min(left, 8 * count))
        found = self.known.find(count, self.data, begin)
        if found is None or len(found[0]) > left:
            return False
        strings, digest = found
        self._need(len(strings))
        if not self.data.startswith(strings, begin):
            return False
        self.position += len(strings)
        self.lists.append(LongList(begin, self.position, digest))
        return True

    def _alignment(self, values: dict[str, HeaderValue]) -> int:
        entry = values.get("general.alignment")
        if entry is None:
            return DEFAULT_ALIGNMENT
        if entry.type != 4:
            self._bad("general.alignment is not a 32-bit number")
        alignment = int(_U32.unpack_from(self.data, entry.start)[0])
        if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._bad(f"general.alignment is {alignment}, not a power of two up to {MAX_ALIGNMENT}")
        return alignment

    def _tensors(self, count: int, alignment: int) -> tuple[Tensors, int]:
        """The table of tensors, and where the data begins."""
        begin = self.position
        table = self._known_table(count, alignment)
        stubs = self._walked(count, alignment) if table is None else table.stubs
        data_start = -(-self.position // alignment) * alignment
        if self.known is None or not count:
            return self._placed(stubs, data_start, alignment), data_start
        if table is None:
            table = _Table(alignment, stubs, {})
            self.known.keep(-count, bytes(self.data[begin : self.position]), table)
        placed = table.placed.get(data_start)
        if placed is None or placed.listed[-1].offset + placed.listed[-1].n_bytes > self.file.size:
            placed = self._placed(stubs, data_start, alignment)
            if len(table.placed) < _PLACES:
                table.placed[data_start] = placed
        return placed, data_start

    def _known_table(self, count: int, alignment: int) -> _Table | None:
        found = self.known.find(-count, self.data, self.position) if self.known is not None and count else None
        if found is None or found[1].alignment != alignment or not self.data.startswith(found[0], self.position):
            return None
        self.position += len(found[0])
        table: _Table = found[1]
        return table

    def _walked(self, count: int, alignment: int) -> list[_Stub]:
        stubs = []
        # Written out rather than in small steps: a header has hundreds of these, a scan thousands of headers.
        data, position, number = self.data, self.position, _U64.unpack_from
        for _ in range(count):
            if position + 12 > len(data):
                self._fetch(position + 12)
            length = number(data, position)[0]
            if length > MAX_NAME_BYTES:
                self._bad(f"a tensor's name has {length} bytes; at most {MAX_NAME_BYTES} are read")
            end = position + 12 + length
            if end > len(data):
                self._fetch(end)
            name = data[position + 8 : end - 4].decode("utf-8", "replace")
            if not name or not name.isprintable() or "�" in name:
                self._bad(f"it has a tensor with the name {name!r}")
            layout = _LAYOUTS.get(_U32.unpack_from(data, end - 4)[0])
            if layout is None:
                self._bad(f"{name} has {_U32.unpack_from(data, end - 4)[0]} dimensions")
            position = end + layout.size
            if position > len(data):
                self._fetch(position)
            *dims, type_id, offset = layout.unpack_from(data, end)
            kind = BY_ID.get(type_id)
            if kind is None:
                self._bad(f"{name} has the unknown type {type_id}", code="unsupported_type")
            if 0 in dims:
                self._bad(f"{name} has no elements")
            elements = 1
            for dim in dims:
                elements *= dim
                if elements >= 1 << 62:
                    self._bad(f"{name} claims more elements than can be counted")
            if dims[0] % kind.block:
                self._bad(f"{name} has rows of {dims[0]} weights, which are no whole blocks of {kind.name}")
            if offset % alignment:
                self._bad(f"{name} lies at {offset}, which is not a multiple of {alignment}")
            stubs.append((name, tuple(dims[::-1]), type_id, offset, elements // kind.block * kind.bytes))
        self.position = position
        return stubs

    def _placed(self, stubs: list[_Stub], data_start: int, alignment: int) -> Tensors:
        names = {name for name, *_ in stubs}
        if len(names) < len(stubs):
            twice = next(name for name, count in Counter(stub[0] for stub in stubs).items() if count > 1)
            self._bad(f"the tensor {twice} is there twice")
        expected = 0
        tensors = []
        for name, shape, type_id, offset, n_bytes in stubs:
            # The engine insists on this order too; it also rules out overlap.
            if offset != expected:
                self._bad(f"{name} lies at {offset}, but the tensors before it end at {expected}")
            begin = data_start + offset
            if begin + n_bytes > self.file.size:
                behind = begin + n_bytes - self.file.size
                self._bad(f"{name} ends {behind} bytes behind the end of the file", code="truncated")
            expected += -(-n_bytes // alignment) * alignment
            tensors.append(HeaderTensor(name, shape, BY_ID[type_id].name, begin, n_bytes))
        return Tensors(
            tensors,
            {tensor.name: tensor for tensor in tensors},
            sum(prod(tensor.shape) for tensor in tensors),
            Counter(tensor.type for tensor in tensors),
        )

    def _u32(self) -> int:
        self._need(4)
        self.position += 4
        return int(_U32.unpack_from(self.data, self.position - 4)[0])

    def _u64(self) -> int:
        self._need(8)
        self.position += 8
        return int(_U64.unpack_from(self.data, self.position - 8)[0])

    def _skip_string(self, what: str) -> None:
        length = self._u64()
        if length > MAX_STRING_BYTES:
            self._bad(f"{what} has {length} bytes; at most {MAX_STRING_BYTES} are read")
        self._need(length)
        self.position += length

    def _need(self, count: int) -> None:
        """Makes sure that ``count`` bytes from the cursor on are in memory."""
        if self.position + count > len(self.data):
            self._fetch(self.position + count)

    def _fetch(self, end: int) -> None:
        """Makes sure that the first ``end`` bytes are in memory."""
        have = len(self.data)
        if end > self.file.size:
            self._bad(f"its header needs {end} bytes, but the file has {self.file.size}", code="truncated")
        if end > MAX_HEADER_BYTES:
            self._bad(f"its header has more than {MAX_HEADER_BYTES} bytes")
        target = min(self.file.size, max(end, 2 * have, FIRST_BYTES))
        self.data += self.file.read(have, target - have)

    def _bad(self, reason: str, *, code: str = "bad_header") -> NoReturn:
        titles = {
            "truncated": "The GGUF file is cut short.",
            "not_gguf": "This is not a GGUF file.",
            "unsupported_version": "This kind of GGUF file cannot be read.",
            "unsupported_type": "The GGUF file uses a type that is not known here.",
        }
        hints = {
            "not_gguf": "Choose a .gguf file or a model folder.",
            "unsupported_version": "Convert the model again from its original, or find a newer file.",
            "unsupported_type": "It may come from a newer or a changed program; start from a full-precision file.",
        }
        raise QuenchError(
            code,
            titles.get(code, "The GGUF file is damaged."),
            f"{self.file.path.name}: {reason}.",
            hints.get(code, "Download or convert it again."),
        )
