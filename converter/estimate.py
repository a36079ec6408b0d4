"""How long a conversion will take, from half a second of the very work that it consists of.

The probe runs the kernels on all the threads that the conversion will have, so that shared cores and clocks that drop
under load are in the numbers. What was measured once in a process is not measured again. Weights of a quantized
checkpoint are decoded for another half second: the model's own, from the first rows on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import kernels
from converter.encode import NATIVE, load

if TYPE_CHECKING:
    from converter.sources.base import SourceTensor

PROBE_SECONDS = 0.5
_LEAST_SECONDS = 0.015
_ROWS, _COLUMNS = 64, 1024


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work on a weight: from a stored type to another. An empty ``kind`` is the reading of ``source``."""

    source: str
    kind: str
    weighted: bool
    refined: bool


@dataclass
class _Bench:
    """Rows to work on, for one thread."""

    work: Work
    rows: npt.NDArray[Any] = field(init=False)
    errors: npt.NDArray[np.float64] = field(init=False)
    importance: npt.NDArray[np.float32] | None = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(1)
        wide = random.standard_normal((_ROWS, _COLUMNS), np.float32) * np.float32(0.02)
        self.errors = np.empty(_ROWS)
        self.importance = random.random(_COLUMNS, np.float32) if self.work.weighted else None
        if not self.work.kind:
            self.rows = random.integers(0, 64, (_ROWS, kernels.row_bytes(self.work.source, _COLUMNS)), np.uint8)
        elif self.work.source == "BF16":
            self.rows = (wide.view(np.uint32) >> 16).astype(np.uint16)
        else:
            self.rows = wide.astype(np.float16) if self.work.source == "F16" else wide

    def turn(self) -> None:
        if not self.work.kind:
            kernels.dequantize(self.work.source, self.rows, _COLUMNS)
            return
        _, source = NATIVE.get(self.work.source, NATIVE["F32"])
        kernels.energy(self.rows, self.importance, source=source, out=self.errors)
        kernels.quantize(
            self.work.kind,
            self.rows,
            self.importance,
            refined=self.work.refined,
            source=source,
            squared_error=self.errors,
            weighted_error=self.errors if self.work.weighted else None,
        )


_Packed = tuple[str, int, int, int, int]
"""Kind of quantization, rows, columns and bytes of a tensor, and threads."""

_known: dict[tuple[Work, int, str], float] = {}
_decoded: dict[_Packed, float] = {}
_lock = threading.Lock()


def costs(works: Iterable[Work], threads: int) -> dict[Work, float]:
    """Seconds a weight of every kind of work, with ``threads`` threads sharing it. Half a second for what is new.

    Raises ``kernels.KernelError``.
    """
    wanted = list(dict.fromkeys(works))
    backend = kernels.active()
    with _lock:
        new = [work for work in wanted if (work, threads, backend) not in _known]
        if new:
            each = max(_LEAST_SECONDS, PROBE_SECONDS / len(new))
            with ThreadPoolExecutor(threads) as pool:
                for work in new:
                    _known[work, threads, backend] = _measure(work, pool, threads, each)
    return {work: _known[work, threads, backend] for work in wanted}


def _measure(work: Work, pool: ThreadPoolExecutor, threads: int, seconds: float) -> float:
    benches = [_Bench(work) for _ in range(threads)]
    benches[0].turn()  # the first call of all loads the library
    until = time.perf_counter() + seconds

    def run(bench: _Bench) -> float:
        """Turns a second; at least one turn, however slow."""
        begun, turns = time.perf_counter(), 0
        while True:
            bench.turn()
            turns += 1
            now = time.perf_counter()
            if now >= until:
                return turns / (now - begun)

    rate = sum(pool.map(run, benches))
    return 1 / (rate * _ROWS * _COLUMNS)


def decoding(packed: Sequence[tuple[str, SourceTensor]], threads: int, chunk_weights: int) -> float:
    """Seconds for decoding all of some quantized tensors, each with the name of its kind, in slabs of so many weights.

    Tensors of one kind and size are taken to cost the same. Half a second for what is new; raises what reading does.
    """
    groups: dict[_Packed, list[SourceTensor]] = {}
    for kind, tensor in packed:
        key = kind, tensor.n_rows, tensor.n_cols, tensor.read_bytes(0, tensor.n_rows), threads
        groups.setdefault(key, []).append(tensor)
    with _lock:
        new = [key for key in groups if key not in _decoded]
        if new:
            each = max(_LEAST_SECONDS, PROBE_SECONDS / len(new))
            with ThreadPoolExecutor(threads) as pool:
                for key in new:
                    _decoded[key] = _measure_decoding(groups[key], pool, threads, chunk_weights, each)
        return sum(_decoded[key] * tensor.n_elements for key, tensors in groups.items() for tensor in tensors)


def _measure_decoding(
    tensors: Sequence[SourceTensor], pool: ThreadPoolExecutor, threads: int, chunk_weights: int, seconds: float
) -> float:
    """Seconds a weight. Slabs follow each other as in a conversion, since neighbours share what was read for them."""
    slabs = _slabs(tensors, chunk_weights)
    taking = threading.Lock()
    began = time.perf_counter()
    until = began + seconds

    def run(_: int) -> int:
        """Weights that were decoded; at least one slab, however slow, if there is one."""
        done = 0
        while True:
            with taking:
                tensor, start, stop = next(slabs, (None, 0, 0))
            if tensor is None:
                return done
            load(tensor, start, stop)
            done += (stop - start) * tensor.n_cols
            if time.perf_counter() >= until:
                return done

    done = sum(pool.map(run, range(threads)))
    return (time.perf_counter() - began) / done


def _slabs(tensors: Sequence[SourceTensor], chunk_weights: int) -> Iterator[tuple[SourceTensor | None, int, int]]:
    for tensor in tensors:
        rows = max(1, chunk_weights // tensor.n_cols)
        for start in range(0, tensor.n_rows, rows):
            yield tensor, start, min(start + rows, tensor.n_rows)
