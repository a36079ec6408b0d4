"""A reader of pickles that can build tensors out of a checkpoint and nothing else.

A pickle is a program for a small stack machine. Python's own machine can call anything it can import; this one knows
six callables by name, none of which it calls for real, and has no instruction that could reach another. The number of
instructions, the depth and the size of what they build are bounded, and no value is ever compared, hashed or printed
unless it is text or a number. Instructions: ``pickletools`` of Python's library, protocols 2 to 5; the calls that a
checkpoint makes: ``torch/_utils.py`` and ``torch/serialization.py``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from converter.sources.stored import MAX_DIMENSIONS
from converter.spec import QuenchError

if TYPE_CHECKING:
    from collections.abc import Callable

INSTRUCTION_LIMIT = 2_000_000
_DEPTH_LIMIT = 200
_INTEGER_BYTES = 16
_COUNT_LIMIT = 1 << 63

_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

_UNSUPPORTED = {
    ord("P"): "PERSID", ord("I"): "INT", ord("L"): "LONG", ord("F"): "FLOAT", ord("S"): "STRING",
    ord("V"): "UNICODE", ord("g"): "GET", ord("p"): "PUT", ord("o"): "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX",
    0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x8F: "EMPTY_SET", 0x90: "ADDITEMS", 0x91: "FROZENSET",
    0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
"""Instructions that are known, but that no checkpoint of tensors needs."""


class Broken(Exception):  # noqa: N818 - it never leaves this package
    """The pickle is damaged; the message says how."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers of one type, by the key under which the checkpoint keeps it."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage: ``offset`` and ``strides`` count elements. Lies wholly within its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Callable:
    """A name that a checkpoint may call; ``dtype`` is set for kinds of storage."""

    build: Callable[[tuple[Any, ...]], Any] | None
    dtype: str = ""


def load(data: bytes, start: int = 0) -> tuple[Any, int]:
    """The value that the pickle at ``start`` of ``data`` builds, and where the pickle ends.

    Dictionaries (ordered or not), lists, tuples, text, bytes, numbers, None, :class:`Storage` and :class:`Tensor`.
    Raises ``QuenchError`` ``runs_code`` or ``not_plain_tensors`` for a name outside of those, :class:`Broken` for the
    rest.
    """
    machine = _Machine(data, start)
    try:
        return machine.run(), machine.position
    except (IndexError, KeyError) as error:  # an empty stack; a memo that was never filled
        raise Broken("it takes back something that it never made") from error


class _Machine:
    """The state of one pickle while it is read: the stack, those below each mark, and the memo."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.position = start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        table = _INSTRUCTIONS
        for _ in range(INSTRUCTION_LIMIT):
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                if self.below:
                    raise Broken("it ends within a list")
                return self.stack.pop()
            instruction = table.get(code)
            if instruction is None:
                name = _UNSUPPORTED.get(code) or hex(code)
                raise Broken(f"it has the instruction {name}, which no checkpoint of tensors needs")
            instruction(self)
        raise Broken(f"it has more than {INSTRUCTION_LIMIT:,} instructions")

    def take(self, count: int) -> bytes:
        """The next bytes of the pickle."""
        found = self.data[self.position : self.position + count]
        if len(found) != count:
            raise Broken("it ends in the middle of an instruction")
        self.position += count
        return found

    def number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def counted(self, layout: struct.Struct) -> bytes:
        """Bytes behind their own number."""
        count = self.number(layout)
        if not 0 <= count <= len(self.data) - self.position:
            raise Broken(f"it claims a text of {count} bytes, and ends before")
        return self.take(count)

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position, self.position + 1024)
        if end < 0:
            raise Broken("it has a name without an end")
        found = self.data[self.position : end]
        self.position = end + 1
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.below) >= _DEPTH_LIMIT:
            raise Broken(f"it is nested more than {_DEPTH_LIMIT} deep")
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark, taken from it."""
        found, self.stack = self.stack, self.below.pop()
        return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Broken("it has a text that is no UTF-8") from error


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _COUNT_LIMIT:
        raise Broken("a size or a place in it is no sensible number")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS:
        raise Broken("a tensor's shape in it is none")
    return tuple(map(_count, value))


# --- calls -----------------------------------------------------------------------------------------------------------


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Always empty: it is filled afterwards. (Filling it from a list could be asked for again and again.)"""
    if arguments:
        raise Broken("it makes a dictionary out of something else")
    return {}


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)``; the last three say nothing
    about the numbers."""
    if not 4 <= len(arguments) <= 7 or type(arguments[0]) is not Storage:
        raise Broken("it makes a tensor out of something else than a storage")
    storage, offset = arguments[0], _count(arguments[1])
    shape, strides = _counts(arguments[2]), _counts(arguments[3])
    if len(shape) != len(strides):
        raise Broken(f"a tensor in it has {len(shape)} dimensions and {len(strides)} strides")
    elements = 1
    for size in shape:
        elements *= size
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if elements and (elements >= _COUNT_LIMIT or last >= storage.count):
        raise Broken(
            f"a tensor in it ends at element {last} of the storage {storage.key[:40]!r}, which has {storage.count}"
        )
    return Tensor(storage, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    """``_rebuild_parameter(tensor, requires_grad, hooks)``."""
    if len(arguments) != 3 or type(arguments[0]) is not Tensor:
        raise Broken("it makes a parameter out of something else than a tensor")
    return arguments[0]


_CALLABLES = {
    ("collections", "OrderedDict"): _Callable(_ordered_dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Callable(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Callable(_parameter),
    **{("torch", name): _Callable(None, dtype) for name, dtype in _STORAGES.items()},
}


def _find(module: Any, name: Any) -> _Callable:
    if type(module) is not str or type(name) is not str:
        raise Broken("it names something by what is no text")
    found = _CALLABLES.get((module, name))
    if found is None:
        _refuse(module, name)
    return found


def _refuse(module: str, name: str) -> NoReturn:
    shown = f"{module[:80]}.{name[:80]}"
    shown = shown if shown.isprintable() else ascii(shown)
    if module == "torch" or module.startswith("torch."):
        raise QuenchError(
            "not_plain_tensors",
            f"The checkpoint holds more than plain tensors: {shown}.",
            "Only tensors of numbers are read from PyTorch files, without running anything.",
            "Download the model's .safetensors files instead.",
        )
    raise QuenchError(
        "runs_code",
        f"The checkpoint wants to run code: {shown}.",
        "A PyTorch file can name any function to be called when it is opened. Nothing was run.",
        "Do not open it with other programs unless you trust where it comes from; look for .safetensors files.",
    )


# --- instructions ----------------------------------------------------------------------------------------------------

_U8, _U16, _I32, _U32, _U64 = (struct.Struct("<" + code) for code in "BHiIQ")
_F64 = struct.Struct(">d")


def _set(target: Any, key: Any, value: Any) -> None:
    if type(target) is not dict:
        raise Broken("it fills a dictionary that is none")
    if type(key) not in (str, int):
        raise Broken("a dictionary in it has a key that is neither text nor number")
    target[key] = value


def _protocol(machine: _Machine) -> None:
    version = machine.number(_U8)
    if not 2 <= version <= 5:
        raise Broken(f"it has version {version} of the format; 2 to 5 are read")


def _long(machine: _Machine, layout: struct.Struct) -> None:
    raw = machine.counted(layout)
    if len(raw) > _INTEGER_BYTES:
        raise Broken(f"it has a number of {len(raw)} bytes")
    machine.push(int.from_bytes(raw, "little", signed=True))


def _real(machine: _Machine) -> None:
    machine.push(_F64.unpack(machine.take(8))[0])


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def build(machine: _Machine) -> None:
        values = [machine.stack.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return build


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is not list:
        raise Broken("it adds to a list that is none")
    target.extend(values)


def _pairs(machine: _Machine, target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise Broken("a dictionary in it has a key without a value")
    for at in range(0, len(items), 2):
        _set(target, items[at], items[at + 1])


def _set_items(machine: _Machine) -> None:
    items = machine.marked()
    _pairs(machine, machine.stack[-1], items)


def _dictionary(machine: _Machine) -> None:
    target: dict[Any, Any] = {}
    _pairs(machine, target, machine.marked())
    machine.push(target)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set(machine.stack[-1], key, value)


def _global(machine: _Machine) -> None:
    machine.push(_find(_text(machine.line()), _text(machine.line())))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push(_find(module, name))


def _instance(machine: _Machine) -> None:
    module, name = _text(machine.line()), _text(machine.line())
    _find(module, name)
    raise Broken("it makes an object in a way that no checkpoint of tensors needs")


def _reduce(machine: _Machine) -> None:
    arguments, found = machine.stack.pop(), machine.stack.pop()
    if type(found) is not _Callable or found.build is None or type(arguments) is not tuple:
        raise Broken("it calls something that is no function")
    machine.push(found.build(arguments))


def _build(machine: _Machine) -> None:
    """Attributes of a dictionary (``_metadata``: versions of modules) say nothing about weights."""
    state = machine.stack.pop()
    if type(machine.stack[-1]) is not dict or type(state) is not dict:
        raise Broken("it sets the state of something that has none")


def _persistent(machine: _Machine) -> None:
    """``("storage", kind, key, device, count)``, and in old files a view of another storage, or None."""
    found = machine.stack.pop()
    if type(found) is not tuple or len(found) not in (5, 6) or type(found[0]) is not str or found[0] != "storage":
        raise Broken("it asks for something that is no storage")
    kind, key, count = found[1], found[2], _count(found[4])
    if type(kind) is not _Callable or not kind.dtype or type(key) is not str:
        raise Broken("it asks for a storage of an unknown kind")
    if len(found) == 6 and found[5] is not None:
        raise Broken("it has a storage within a storage, as only very old files have")
    machine.push(Storage(kind.dtype, key, count))


def _memoize(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _protocol,
    0x95: lambda m: (m.take(8), None)[1],  # FRAME: a hint for buffered reading
    ord("("): _Machine.mark,
    ord("0"): _pop,
    ord("1"): lambda m: (m.marked(), None)[1],
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number(_I32)),
    ord("K"): lambda m: m.push(m.number(_U8)),
    ord("M"): lambda m: m.push(m.number(_U16)),
    0x8A: lambda m: _long(m, _U8),
    0x8B: lambda m: _long(m, _I32),
    ord("G"): _real,
    ord("X"): lambda m: m.push(_text(m.counted(_U32))),
    0x8C: lambda m: m.push(_text(m.counted(_U8))),
    0x8D: lambda m: m.push(_text(m.counted(_U64))),
    ord("T"): lambda m: m.push(m.counted(_I32).decode("latin-1")),
    ord("U"): lambda m: m.push(m.counted(_U8).decode("latin-1")),
    ord("B"): lambda m: m.push(m.counted(_U32)),
    ord("C"): lambda m: m.push(m.counted(_U8)),
    0x8E: lambda m: m.push(m.counted(_U64)),
    0x96: lambda m: m.push(m.counted(_U64)),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: _append(m, [m.stack.pop()]),
    ord("e"): lambda m: _append(m, m.marked()),
    ord("l"): lambda m: m.push(m.marked()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.marked())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): _dictionary,
    ord("s"): _set_item,
    ord("u"): _set_items,
    ord("h"): lambda m: m.push(m.memo[m.number(_U8)]),
    ord("j"): lambda m: m.push(m.memo[m.number(_U32)]),
    ord("q"): lambda m: _memoize(m, m.number(_U8)),
    ord("r"): lambda m: _memoize(m, m.number(_U32)),
    0x94: lambda m: _memoize(m, len(m.memo)),
    ord("c"): _global,
    0x93: _stack_global,
    ord("i"): _instance,
    ord("R"): _reduce,
    ord("b"): _build,
    ord("Q"): _persistent,
}
