"""What all methods share: the parts of a quantized weight, the checkpoint they are taken from, and bits in bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from converter.sources.gathered import file_tensor
from converter.sources.stored import StoredTensor
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.base import SourceTensor

FLOATS = ("F16", "BF16", "F32")
WORDS = ("I32", "U32")

# How a part's bytes are read: GGML's name of an element of that size, and numpy's of what it means.
_ELEMENTS = {
    "U8": ("I8", "u1"), "I8": ("I8", "i1"), "BOOL": ("I8", "u1"),
    "F8_E4M3": ("I8", "u1"), "F8_E5M2": ("I8", "u1"), "F8_E4M3FNUZ": ("I8", "u1"), "F8_E5M2FNUZ": ("I8", "u1"),
    "F8_E8M0": ("I8", "u1"),
    "I16": ("I16", "<i2"), "U16": ("I16", "<u2"), "F16": ("F16", "<f2"), "BF16": ("BF16", "<u2"),
    "I32": ("I32", "<i4"), "U32": ("I32", "<u4"), "F32": ("F32", "<f4"),
    "I64": ("I64", "<i8"), "F64": ("I64", "<f8"),
}  # fmt: skip

_RELEASE = 8 << 20
_BAND = 4 << 20
_BANDS = 16 << 20
_KEPT_WHOLE = 64 << 20

V = TypeVar("V")


def damaged(name: str, reason: str) -> QuenchError:
    """The error for parts that do not make a weight."""
    return QuenchError(
        "bad_quantization",
        "The quantized weights are damaged.",
        f"{name}: {reason}.",
        "Download config.json and the weights again, from the same version of the model.",
    )


class Part:
    """One part of a quantized weight, looked at as a matrix: leading dimensions counted through, the last one a row."""

    def __init__(self, stored: StoredTensor) -> None:
        self.stored = stored
        self.name, self.shape, self.dtype = stored.name, stored.shape, stored.dtype
        if stored.dtype not in _ELEMENTS:
            raise damaged(stored.name, f"it is {stored.dtype}, which no method stores")
        if prod(stored.shape) == 0:
            raise damaged(stored.name, f"it has the shape {list(stored.shape)}, which is empty")
        self._plain, element = _ELEMENTS[stored.dtype]
        self._element = np.dtype(element)
        self.n_cols = stored.shape[-1] if stored.shape else 1
        self.n_rows = prod(stored.shape[:-1])
        self.size = self.n_rows * self.n_cols
        self._tensor = self._opened(self.shape, stored.strides)
        self._columns: SourceTensor | None = None

    def of(self, *dtypes: str) -> Part:
        """Itself, if its elements are of one of these kinds."""
        if self.dtype not in dtypes:
            raise damaged(self.name, f"it is {self.dtype}, not {' or '.join(dtypes)}")
        return self

    def shaped(self, *shape: int) -> Part:
        """Itself, if it has this shape."""
        if self.shape != shape:
            raise damaged(self.name, f"its shape is {list(self.shape)}, not {list(shape)}")
        return self

    @property
    def n_bytes(self) -> int:
        return self.size * self._element.itemsize

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows as they are stored, ``(stop - start, n_cols)``, not to be written to. BF16 is uint16 here."""
        return self._tensor.raw(start, stop).view(self._element)

    def columns(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Columns as rows, ``(stop - start, n_rows)``: a copy that is gathered from the file in small pieces."""
        if self._columns is None:
            if self.stored.strides is not None and len(self.shape) != 2:
                raise damaged(self.name, "its elements lie apart in the file")
            steps = self.stored.strides or (self.n_cols, 1)
            self._columns = self._opened((self.n_cols, self.n_rows), (steps[1], steps[0]))
        return self._columns.raw(start, stop).view(self._element)

    def floats(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows as float32."""
        return widened(self.rows(start, stop), self.dtype)

    def float_columns(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Columns as rows, float32."""
        return widened(self.columns(start, stop), self.dtype)

    def whole(self) -> npt.NDArray[Any]:
        """All of a small part as it is stored, in its own shape."""
        if self.n_bytes > _KEPT_WHOLE:
            raise damaged(self.name, f"it has {self.n_bytes} bytes, too many for what it should be")
        return self.rows(0, self.n_rows).reshape(self.shape)

    def flat(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Elements in the order of memory, whatever the shape, as they are stored."""
        if self.stored.strides is not None:
            raise damaged(self.name, "its elements lie apart in the file")
        width = self._element.itemsize
        return self.stored.file.view(self.stored.offset + start * width, (stop - start) * width).view(self._element)

    def release(self) -> None:
        """Lets its bytes leave the resident memory; views of them stay valid."""
        self.stored.file.release(self.stored.offset, self.stored.n_bytes)

    def _opened(self, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> SourceTensor:
        return file_tensor(replace(self.stored, dtype=self._plain, shape=shape, strides=strides), self.name)


def widened(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Stored F16, BF16, F32 or F64 elements as float32."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


class Bands:
    """Things that are dear to read, kept for the next slab: the last ones used, up to some bytes in all.

    A method that packs across the rows reads many rows at once (a band); neighbouring slabs then share it.
    """

    working_bytes = 2 * _BANDS
    """What is kept, and what threads may be about to read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Any, _Entry] = {}

    def get(self, key: Any, load: Callable[[], V], size: Callable[[V], int]) -> V:
        """What ``load`` gave for ``key``. One thread loads, others that want the same wait for it."""
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            self._entries[key] = entry
        with entry.lock:
            if not entry.loaded:
                value = load()
                entry.value, entry.bytes, entry.loaded = value, size(value), True
                self._trim(key)
            result: V = entry.value
            return result

    def _trim(self, newest: Any) -> None:
        with self._lock:
            kept = sum(entry.bytes for entry in self._entries.values())
            for key in list(self._entries):
                if kept <= _BANDS:
                    break
                if key != newest:
                    kept -= self._entries.pop(key).bytes


@dataclass(eq=False)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    loaded: bool = False
    bytes: int = 0
    value: Any = None


class PartsDecoder:
    """The rows of a weight that is stored as some parts; :meth:`decode` makes them. Any thread may ask for any rows.

    It reads for a :class:`StoredTensor` of float32. ``bits`` are those of a code, 0 if they are no whole number;
    ``working_bytes`` is memory that is held beside the rows.
    """

    bits = 0
    working_bytes = 0

    def __init__(self, name: str, shape: tuple[int, ...], parts: tuple[Part, ...]) -> None:
        if not shape or prod(shape) == 0 or any(size >= 1 << 40 for size in shape):
            raise damaged(name, f"its parts make the shape {list(shape)}")
        self.name = name
        self.shape = shape
        self.n_cols, self.n_rows = shape[-1], prod(shape[:-1])
        self.parts = parts
        self.n_bytes = sum(part.n_bytes for part in parts)
        self._lock = threading.Lock()
        self._used = 0

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows as the bytes of float32. No bit of a row depends on which rows are asked for together."""
        return self.rows(start, stop).view(np.uint8)

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes of the parts that these rows cost; over all rows, all of them."""
        return self.n_bytes * stop // self.n_rows - self.n_bytes * start // self.n_rows

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows as float32, ``(stop - start, n_cols)``, owned by the caller. ``QuenchError`` for damaged parts."""
        out = np.empty((stop - start, self.n_cols), np.float32)
        if out.size:
            with np.errstate(all="ignore"):  # what becomes infinite is refused where it is written, by name
                self.decode(start, stop, out)
            self._give_back(self.read_bytes(start, stop), last=stop == self.n_rows)
        return out

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        """Fills ``out`` with rows ``start`` to ``stop``, at least one."""
        raise NotImplementedError

    def _give_back(self, used: int, *, last: bool) -> None:
        """Lets the parts leave the resident memory now and then: each time costs a round through all cores."""
        with self._lock:
            self._used += used
            if self._used < _RELEASE and not last:
                return
            self._used = 0
        for part in self.parts:
            part.release()


class BandedDecoder(PartsDecoder):
    """A decoder of parts that lie across the rows: what a band of rows needs is gathered once and kept for a while.

    ``row_bytes`` is what one row's parts take in memory; bands begin at multiples of ``align`` rows.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        parts: tuple[Part, ...],
        *,
        bands: Bands,
        row_bytes: int,
        align: int = 8,
    ) -> None:
        super().__init__(name, shape, parts)
        self.bands = bands
        self.working_bytes = bands.working_bytes + 2 * align * row_bytes
        self._height = max(_BAND // max(row_bytes, 1) // align, 1) * align

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        for first in range(start // self._height * self._height, stop, self._height):
            last = min(first + self._height, self.n_rows)
            band = self.bands.get((id(self), first), lambda a=first, b=last: self.gather(a, b), _bytes)  # type: ignore[misc]
            begin, end = max(start, first), min(stop, last)
            self.decode_band(band, begin - first, end - first, out[begin - start : end - start])

    def gather(self, first: int, last: int) -> tuple[npt.NDArray[Any], ...]:
        """What rows ``first`` to ``last`` need, in memory of its own."""
        raise NotImplementedError

    def decode_band(
        self, band: tuple[npt.NDArray[Any], ...], start: int, stop: int, out: npt.NDArray[np.float32]
    ) -> None:
        """Rows of a band, counted from its first one, into ``out``."""
        raise NotImplementedError

    def _give_back(self, used: int, *, last: bool) -> None:
        """Nothing: what was gathered is a copy, and its source was given back."""


def _bytes(band: tuple[npt.NDArray[Any], ...]) -> int:
    return sum(each.nbytes for each in band)


class Checkpoint:
    """The tensors of a checkpoint by name, while a method replaces its parts by whole weights."""

    def __init__(self, stored: list[StoredTensor]) -> None:
        self._left = {tensor.name: tensor for tensor in stored}
        self._made: dict[str, StoredTensor] = {}
        self.bands = Bands()
        self.decoders: list[PartsDecoder] = []

    def ending(self, *suffixes: str) -> Iterator[str]:
        """Names of what is left that end so, without the ending, in the order of the files."""
        for name in list(self._left):
            for suffix in suffixes:
                if name.endswith(suffix) and name in self._left:
                    yield name.removesuffix(suffix)

    def of_kind(self, *dtypes: str) -> list[str]:
        """Names of what is left and has elements of these kinds, in the order of the files."""
        return [name for name, tensor in self._left.items() if tensor.dtype in dtypes]

    def has(self, name: str) -> bool:
        return name in self._left

    def dtype(self, name: str) -> str:
        """The kind of elements of a tensor that is left; empty if there is none."""
        found = self._left.get(name)
        return found.dtype if found else ""

    def take(self, name: str) -> Part:
        """Takes a part out. ``QuenchError`` if there is none."""
        found = self._left.pop(name, None)
        if found is None:
            raise damaged(name, "this part of a quantized weight is in no weight file")
        return Part(found)

    def take_if_there(self, name: str) -> Part | None:
        return self.take(name) if name in self._left else None

    def drop(self, *names: str) -> None:
        """Forgets parts that have no meaning for the weights."""
        for name in names:
            self._left.pop(name, None)

    def put(self, name: str, decoder: PartsDecoder) -> None:
        """A whole weight in the place of its largest part."""
        if name in self._left or any(made.name == name for made in self._made.values()):
            raise damaged(name, "it is there both whole and in parts")
        largest = max(decoder.parts, key=lambda part: part.n_bytes).stored
        self._made[largest.name] = StoredTensor(
            name, largest.file, largest.offset, decoder.n_bytes, "F32", decoder.shape, reader=decoder
        )
        decoder.name = name
        self.decoders.append(decoder)

    def finished(self, stored: list[StoredTensor]) -> list[StoredTensor]:
        """The tensors that there are now, in the order of ``stored``."""
        result = []
        for tensor in stored:
            if tensor.name in self._made:
                result.append(self._made[tensor.name])
            if tensor.name in self._left:
                result.append(tensor)
        return result


def whole_number(settings: dict[str, Any], key: str, default: int | None, low: int, high: int) -> int:
    """A setting of config.json between two bounds. ``QuenchError`` for anything else."""
    value = settings.get(key, default)
    if value is None:
        value = default
    if type(value) is not int or not low <= value <= high:
        raise damaged("config.json", f"the quantization's {key} is {str(value)[:40]!r}, not from {low} to {high}")
    return value


def unpack(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Codes of 1 to 8 bits, lowest bits first, that follow each other in bytes without gaps.

    ``packed`` is uint8 ``(rows, bytes)``; gives uint8 ``(rows, count)``. Words of 32 bits are bytes in this order too.
    """
    if bits == 8:
        return packed[:, :count]
    rows = len(packed)
    if bits in (1, 2, 4):
        per = 8 // bits
        used = packed[:, : -(-count // per)]
        out = np.empty((rows, used.shape[1], per), np.uint8)
        for i in range(per):
            np.right_shift(used, i * bits, out=out[..., i])
        out &= (1 << bits) - 1
        return out.reshape(rows, -1)[:, :count]
    # Eight codes take `bits` whole bytes; a code lies in one byte or in two neighbours.
    groups = -(-count // 8)
    missing = groups * bits - packed.shape[1]
    if missing > 0:
        packed = np.pad(packed, ((0, 0), (0, missing)))
    source = packed[:, : groups * bits].reshape(rows, groups, bits)
    out = np.empty((rows, groups, 8), np.uint8)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        np.right_shift(source[..., byte], shift, out=out[..., i])
        if shift + bits > 8:
            out[..., i] |= source[..., byte + 1] << (8 - shift)
    out &= (1 << bits) - 1
    return out.reshape(rows, -1)[:, :count]


def as_bytes(words: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Little-endian words as their bytes, ``(rows, bytes)``."""
    return np.ascontiguousarray(words).view(np.uint8)


def grouped(
    codes: npt.NDArray[Any],
    scales: npt.NDArray[np.float32],
    zeros: npt.NDArray[Any] | float,
    size: int,
    out: npt.NDArray[np.float32],
) -> None:
    """``out = (codes - zeros) * scales`` where ``size`` neighbouring columns share a scale and a zero.

    ``codes`` are ``(rows, columns)``, ``scales`` and ``zeros`` ``(rows, groups)`` (or one number); the last group may
    be cut short.
    """
    rows, columns = codes.shape
    whole = columns // size
    split = whole * size
    if whole:
        target = out[:, :split].reshape(rows, whole, size) if split == columns else None
        parts = codes[:, :split].reshape(rows, whole, size)
        low = zeros if np.isscalar(zeros) else np.asarray(zeros, np.float32)[:, :whole, None]
        if target is None:
            target = np.empty((rows, whole, size), np.float32)
            out_part = out[:, :split]
        np.subtract(parts, low, out=target, dtype=np.float32, casting="unsafe")
        target *= scales[:, :whole, None]
        if split != columns:
            out_part[:] = target.reshape(rows, split)
    if split < columns:
        rest = out[:, split:]
        low = zeros if np.isscalar(zeros) else np.asarray(zeros, np.float32)[:, whole, None]
        np.subtract(codes[:, split:], low, out=rest, dtype=np.float32, casting="unsafe")
        rest *= scales[:, whole, None]
