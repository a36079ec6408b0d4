"""Importance matrices: how much each input column of a matrix matters, measured on a text by llama-imatrix or Quench.

Two formats are read: GGUF (``<tensor>.in_sum2`` sums of squared activations and ``<tensor>.counts``, one count an
expert) and the older ``.dat``. Both become the mean squared activation of every column, as llama-quantize uses it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.gguf_header import HeaderTensor

_LONGEST_NAME = 4096
_HALVES = SUMS, COUNTS = ".in_sum2", ".counts"
_KEYS: dict[str, type] = {"imatrix.datasets": list, "imatrix.chunk_count": int, "imatrix.chunk_size": int}


@dataclass(frozen=True, slots=True)
class Imatrix:
    """Weights by tensor name (float32, ``matrices * columns``), and what the file says of its origin.

    ``file`` is the bare name, never a path. ``dataset`` is a bare name too, or empty; ``chunks`` 0 if unknown.
    """

    file: str
    entries: dict[str, npt.NDArray[np.float32]]
    dataset: str
    chunks: int

    def for_tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
        """Weights of a tensor as ``(matrices, columns)``, or ``None`` without an entry.

        ``QuenchError`` ``bad_imatrix`` if the entry has another size; embeddings are excused, as in llama-quantize.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        columns = shape[-1]
        matrices = int(np.prod(shape[:-2], dtype=np.int64)) if len(shape) > 2 else 1
        if entry.size != matrices * columns:
            if name in {"token_embd.weight", "per_layer_token_embd.weight"}:
                return None
            raise bad(self.file, f"{name} has {entry.size} weights, the tensor needs {matrices * columns}.")
        return entry.reshape(matrices, columns)

    def of_another_model(self) -> QuenchError:
        """The refusal of a model that has none of the tensors."""
        return bad(self.file, f"it has {len(self.entries)} entries, and none of them is a tensor of this model.")


def bad(file: str, detail: str) -> QuenchError:
    """The refusal of a file; ``detail`` is a sentence."""
    return QuenchError(
        "bad_imatrix",
        "The importance matrix does not fit or is damaged.",
        f"{file}: {detail}",
        "Use one that was made from this model, or go on without it.",
    )


def read(path: str | Path) -> Imatrix:
    """Reads an importance matrix in either format. ``QuenchError`` ``bad_imatrix`` if it is none, ``not_found``."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        found = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path)
    except FileNotFoundError as error:
        raise QuenchError(
            "not_found", "The importance matrix is not there.", f"{path}", "Check the path, or go on without it."
        ) from error
    except OSError as error:
        raise bad(path.name, f"{error.strerror or error}.") from error
    if not found.entries:
        raise bad(path.name, "it has no entries.")
    for name, values in found.entries.items():
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise bad(path.name, f"{name} has weights that are negative or not finite numbers.")
    return found


def _read_gguf(path: Path) -> Imatrix:
    sums, keys = read_gguf_sums(path)
    if not _KEYS.keys() <= keys.keys():
        raise bad(path.name, "it says nothing of how it was made (imatrix.chunk_count and others are missing).")
    entries = {}
    for name, stored in sums.items():
        count = stored.counts.astype(np.float32).reshape(-1, 1)
        seen = count > 0  # an expert that the text never reached gets equal weights
        means = np.where(seen, stored.squares.reshape(count.size, -1) / np.where(seen, count, 1), np.float32(1))
        entries[name] = means.astype(np.float32).ravel()
    datasets = keys["imatrix.datasets"]
    return Imatrix(
        path.name, entries, bare_name(str(datasets[0])) if datasets else "", int(keys["imatrix.chunk_count"])
    )


@dataclass
class Stored:
    """Sums of one matrix as they were read back: ``squares`` float32, ``counts`` int64 (1,) or one an expert."""

    squares: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]


def read_gguf_sums(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Raw sums by tensor name and all keys of a GGUF importance matrix. ``QuenchError`` ``bad_imatrix`` if it is none.

    Keys of the format (``imatrix.chunk_count`` ...) that are there have their type.
    """
    try:
        file = ByteFile(path)
        try:
            header = read_header(file)
            keys = {key: header.value(key) for key in header.values}
            found = {entry.name: _floats(file, entry) for entry in header.tensors if entry.name.endswith(_HALVES)}
        finally:
            file.close()
    except QuenchError as error:
        if error.code == "bad_imatrix":
            raise
        raise bad(path.name, error.detail or error.title) from error
    for key, kind in _KEYS.items():
        if not isinstance(keys.get(key, kind()), kind):
            raise bad(path.name, f"{key} is no {kind.__name__}.")
    names = sorted({name.rpartition(".")[0] for name in found})
    return {name: _pair(path.name, name, found) for name in names}, keys


def _floats(file: ByteFile, entry: HeaderTensor) -> npt.NDArray[np.float32]:
    if entry.type != "F32":
        raise bad(file.path.name, f"{entry.name} is {entry.type}, not F32.")
    data = np.empty(entry.n_bytes, np.uint8)
    file.read_into(entry.offset, data.data)
    return data.view("<f4")


def _pair(file: str, name: str, found: dict[str, npt.NDArray[np.float32]]) -> Stored:
    squares, counts = found.get(name + SUMS), found.get(name + COUNTS)
    if squares is None or counts is None or not counts.size or squares.size % counts.size:
        raise bad(file, f"{name} has sums without fitting counts, or counts without sums.")
    if not np.isfinite(squares).all() or not np.isfinite(counts).all():
        raise bad(file, f"{name} has numbers that are not finite.")
    return Stored(squares, np.rint(counts).astype(np.int64))


class _Reader:
    """Takes numbers and bytes off the front of a buffer; running off its end is an error."""

    def __init__(self, file: str, data: bytes) -> None:
        self.file, self.data, self.at = file, data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise bad(self.file, f"it ends in the middle of an entry (byte {self.at}).")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])


def _read_legacy(path: Path) -> Imatrix:
    calls, found = read_calls(path)
    entries = {name: _mean(values, calls[name]) for name, values in found.entries.items()}
    return Imatrix(found.file, entries, found.dataset, found.chunks)


def _mean(values: npt.NDArray[np.float32], calls: int) -> npt.NDArray[np.float32]:
    return values / np.float32(calls) if calls > 0 else values


def read_calls(path: Path) -> tuple[dict[str, int], Imatrix]:
    """A file of the older format as it is stored: means times a number of calls, and that number for every tensor.

    ``QuenchError`` ``bad_imatrix`` if it is none.
    """
    reader = _Reader(path.name, path.read_bytes())
    entries: dict[str, npt.NDArray[np.float32]] = {}
    found_calls: dict[str, int] = {}
    for _ in range(reader.number()):
        length = reader.number()
        if not 0 < length <= _LONGEST_NAME:
            raise bad(path.name, "it is no importance matrix.")
        name = reader.take(length).split(b"\0")[0].decode("utf-8", "replace")
        calls, count = reader.number(), reader.number()
        if count < 1:
            raise bad(path.name, f"{name} has no weights.")
        entries[name] = np.frombuffer(reader.take(4 * count), "<f4").astype(np.float32)
        found_calls[name] = calls
    chunks, dataset = 0, ""
    if reader.left >= 4:
        chunks = reader.number()
        if reader.left >= 4:
            dataset = reader.take(min(max(reader.number(), 0), reader.left)).decode("utf-8", "replace")
    return found_calls, Imatrix(path.name, entries, bare_name(dataset), max(chunks, 0))


def bare_name(path: str) -> str:
    """The last part of a path of any system: what may go into a file that is shared."""
    return path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
