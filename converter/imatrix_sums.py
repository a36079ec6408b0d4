"""Importance matrices while they are made: raw sums, how they are stored in both formats, and what they say.

The bytes are llama-imatrix's own for the same sums. GGUF: ``<name>.in_sum2`` and ``<name>.counts`` for each matrix in
the order of the names, with ``imatrix.datasets``, ``imatrix.chunk_count`` and ``imatrix.chunk_size``. Legacy ``.dat``:
means times a number of calls, which loses the counts of single experts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from converter.imatrix import COUNTS, SUMS, Stored, bad, bare_name, read_calls, read_gguf_sums
from converter.sources.base import MetaEntry
from converter.writer import layout, pack_metadata

if TYPE_CHECKING:
    import numpy.typing as npt

FORMATS = ("gguf", "dat")
_LONGEST_NAME = 63
"""Characters of a tensor's name that the engine keeps."""
_ALIGNMENT = 32
_INACTIVE = 1e-5
_LAYER = re.compile(r"blk\.(\d+)\.")


class Sums(Protocol):
    """Of one matrix: ``squares`` float32 (matrices, columns), ``counts`` int64 (1,) or one an expert."""

    squares: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Collected:
    """Everything that a file holds. ``chunk_size`` is in tokens; ``datasets`` are bare names of texts."""

    sums: Mapping[str, Sums]
    datasets: tuple[str, ...]
    chunk_size: int
    extra: tuple[MetaEntry, ...] = field(default=())

    @property
    def chunks(self) -> int:
        """Whole windows that the most used matrix has seen, as the tool counts."""
        return max((int(entry.counts.max()) for entry in self.sums.values()), default=0) // self.chunk_size


def encode(collected: Collected, form: str) -> bytes:
    """The bytes of a file in ``form`` (``gguf`` or ``dat``)."""
    return _encode_gguf(collected) if form == "gguf" else _encode_legacy(collected)


def _encode_gguf(collected: Collected) -> bytes:
    entries = [
        MetaEntry("general.type", "imatrix", "STRING"),
        MetaEntry("imatrix.datasets", list(collected.datasets), "ARRAY", "STRING"),
        MetaEntry("imatrix.chunk_count", collected.chunks, "UINT32"),
        MetaEntry("imatrix.chunk_size", collected.chunk_size, "UINT32"),
        *collected.extra,
    ]
    places: list[tuple[str, tuple[int, ...], str]] = []
    arrays: list[npt.NDArray[np.float32]] = []
    for name, entry in sorted(collected.sums.items()):
        matrices = entry.counts.size
        for suffix, values in ((SUMS, entry.squares), (COUNTS, entry.counts)):
            rows = values.astype("<f4").reshape(matrices, -1)
            places.append((f"{name}{suffix}"[:_LONGEST_NAME], rows.shape if matrices > 1 else rows.shape[1:], "F32"))
            arrays.append(rows)
    plan = layout([pack_metadata(entries)], len(entries), places, _ALIGNMENT)
    file = bytearray(plan.size)
    head = b"".join(plan.header)
    file[: len(head)] = head
    for place, values in zip(plan.tensors, arrays, strict=True):
        file[place.offset : place.offset + place.bytes] = values.tobytes()
    return bytes(file)


def _encode_legacy(collected: Collected) -> bytes:
    used = [(name, entry) for name, entry in sorted(collected.sums.items()) if entry.counts.any()]
    parts = [struct.pack("<i", len(used))]
    for name, entry in used:
        calls = -(-int(entry.counts.max()) // collected.chunk_size)
        counts = entry.counts.astype(np.float32)[:, None]
        rows = entry.squares.reshape(entry.counts.size, -1)
        seen = counts > 0  # an expert that the text never reached counts as one call with ones
        means = np.where(seen, rows, np.float32(1)) / np.where(seen, counts, np.float32(1))
        values = (means * np.float32(calls)).astype("<f4")
        raw = name.encode()
        parts += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", calls, values.size), values.tobytes()]
    dataset = (collected.datasets[-1] if collected.datasets else "").encode()
    parts += [struct.pack("<ii", collected.chunks, len(dataset)), dataset]
    return b"".join(parts)


def read_sums(path: Path, chunk_size: int = 512) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Raw sums and keys of an importance matrix in either format. ``QuenchError`` ``bad_imatrix`` if it is none.

    The older format has means times a number of calls: ``chunk_size`` tokens are taken for a call.
    """
    return read_gguf_sums(path) if _is_gguf(path) else _read_legacy(path, chunk_size)


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError as error:
        raise bad(path.name, f"{error.strerror or error}.") from error


def _read_legacy(path: Path, chunk_size: int) -> tuple[dict[str, Stored], dict[str, Any]]:
    calls, found = read_calls(path)
    sums: dict[str, Stored] = {}
    for name, values in found.entries.items():
        if not np.isfinite(values).all():
            raise bad(path.name, f"{name} has numbers that are not finite.")
        # A negative number of calls is as good as none.
        tokens = max(calls[name], 0) * chunk_size
        sums[name] = Stored((values * np.float32(chunk_size)).reshape(1, -1), np.array([tokens]))
    datasets = [found.dataset] if found.dataset else []
    return sums, {"imatrix.chunk_count": found.chunks, "imatrix.datasets": datasets}


def merged(paths: Sequence[Path], chunk_size: int) -> tuple[dict[str, Stored], list[str]]:
    """Sums of several files added up in their order, and all their texts; single precision, as llama-imatrix adds.

    ``QuenchError`` ``bad_imatrix`` if a file is none or a matrix has another size in it than in those before.
    """
    total: dict[str, Stored] = {}
    datasets: list[str] = []
    for path in paths:
        sums, keys = read_sums(path, chunk_size)
        datasets += keys.get("imatrix.datasets", [])
        for name, entry in sums.items():
            before = total.get(name)
            total[name] = entry if before is None else _added(path, name, before, entry)
    return total, datasets


def _added(path: Path, name: str, one: Stored, other: Stored) -> Stored:
    sizes = {one.counts.size, other.counts.size} - {1}
    if one.squares.size != other.squares.size or len(sizes) > 1:
        raise bad(path.name, f"{name} has another size than in the files before.")
    # A single count, which is all that the older format has, stands for every expert.
    size = max(sizes, default=1)
    counts = np.broadcast_to(one.counts, size) + np.broadcast_to(other.counts, size)
    return Stored(one.squares.reshape(-1) + other.squares.reshape(-1), counts)


@dataclass(frozen=True)
class Statistics:
    """What one matrix's mean squared activations say. All but ``columns`` are pure numbers.

    ``total``, ``mean``, ``least``, ``most`` and ``deviation`` are of the means; ``active`` is the share of columns
    above 1e-5; ``entropy`` in bits, ``evenness`` that entropy divided by its largest value; ``above`` is the share of
    columns more than a standard deviation above the mean; ``cosine`` compares with the same matrix one layer down
    (None for the first). Experts that the text never reached are left out.
    """

    name: str
    columns: int
    total: float
    mean: float
    least: float
    most: float
    deviation: float
    active: float
    entropy: float
    evenness: float
    above: float
    cosine: float | None


def statistics(sums: Mapping[str, Sums]) -> list[Statistics]:
    """Of every matrix that has data, the heaviest first. The figures are those of llama-imatrix --show-statistics."""
    found = [_statistics(name, entry, sums) for name, entry in sums.items() if entry.counts.any()]
    return sorted(found, key=lambda item: (-item.total, item.name))


def _statistics(name: str, entry: Sums, sums: Mapping[str, Sums]) -> Statistics:
    rows = entry.squares.reshape(entry.counts.size, -1).astype(np.float64)
    seen = entry.counts > 0
    means = (rows[seen] / entry.counts[seen, None]).ravel()
    total, deviation = float(means.sum()), float(means.std())
    shares = means[means > 0] / total if total > 0 else means[:0]
    entropy = float(-(shares * np.log2(shares)).sum())
    return Statistics(
        name=name,
        columns=means.size,
        total=total,
        mean=float(means.mean()),
        least=float(means.min()),
        most=float(means.max()),
        deviation=deviation,
        active=float((means > _INACTIVE).mean()),
        entropy=entropy,
        evenness=entropy / float(np.log2(means.size)) if means.size > 1 else 1.0,
        above=float((means > means.mean() + deviation).mean()) if deviation > 0 else 0.0,
        cosine=_cosine(name, entry, sums),
    )


def _cosine(name: str, entry: Sums, sums: Mapping[str, Sums]) -> float | None:
    layer = _LAYER.search(name)
    if layer is None:
        return None
    below = sums.get(f"{name[: layer.start(1)]}{int(layer[1]) - 1}{name[layer.end(1) :]}")
    if below is None or below.squares.size != entry.squares.size:
        return None
    mine, other = entry.squares.astype(np.float64).ravel(), below.squares.astype(np.float64).ravel()
    length = float(np.linalg.norm(mine) * np.linalg.norm(other))
    return float(mine @ other) / length if length > 0 else None


def coverage(sums: Mapping[str, Sums]) -> tuple[int, int]:
    """(experts that some token reached, experts) over all stacks of experts; (0, 0) for a dense model."""
    stacks = [entry.counts for entry in sums.values() if entry.counts.size > 1]
    return sum(int((counts > 0).sum()) for counts in stacks), sum(counts.size for counts in stacks)


def dataset_names(paths: Sequence[str]) -> tuple[str, ...]:
    """What a file says of its texts: bare names, since a path would tell of the machine that made it."""
    return tuple(bare_name(path) for path in paths)


__all__ = [
    "FORMATS",
    "Collected",
    "Statistics",
    "Stored",
    "coverage",
    "dataset_names",
    "encode",
    "merged",
    "read_sums",
    "statistics",
]
