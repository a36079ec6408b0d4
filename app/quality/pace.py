"""How fast a model would write in other types, without a file of them: measured in the loaded reference, by grafts.

Every type is tried on all tensors, or on so many of them as there is memory for. What counts is how long the bytes take
and not what is in them: a few rows of each tensor are encoded, and repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from app import hardware
from app.engine import threads
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.fit_messages import TYPES
from app.fit_speed import Pace
from app.quality.encoded import Encoded
from converter import recipes
from converter.encode import encode, load
from converter.sources.base import SourceTensor

SECONDS = 0.12
"""How long each type is tried in a round."""

ROUNDS = 4
"""A machine that does something else meanwhile does so for all types."""

FEWEST = 2
"""Tokens of a try."""

ROWS = 32
"""Rows of each tensor that are encoded."""

MEMORY = 0.5
"""The part of the free memory that the tensors of one type may take."""

Parts = dict[str, Encoded]


def measure(  # noqa: PLR0917 - what is measured, and how
    model: Model,
    grafts: Grafts,
    tensors: Mapping[str, SourceTensor],
    read: Mapping[str, float],
    number: int = 0,
    stopped: Callable[[], None] = lambda: None,
) -> Pace:
    """Seconds a weight of every type, with ``number`` threads (0: as many as write fastest).

    ``read``: weights that one token reads, by tensor. ``stopped`` is called between two tries and may raise.
    """
    names = _as_many_as_fit(tensors, grafts)
    whole, part = sum(read.values()), sum(read[name] for name in names)
    with _threads(model, number):
        own = 0.0 if part == whole else min(_times(model, stopped))
        found: dict[str, list[float]] = {kind: [] for kind in TYPES}
        for _ in range(ROUNDS):
            for kind in TYPES:
                parts = {name: _sample(tensors[name], kind) for name in names}
                with grafts.replaced(parts):
                    found[kind] += _times(model, stopped)
        used = model.threads
    rest = own * (whole - part) / whole if whole else 0.0
    least = 1e-15  # a part that is too small to be noticed beside the rest
    return Pace({kind: max(least, (min(times) - rest) / max(1.0, part)) for kind, times in found.items()}, used)


def rate(model: Model, number: int = 0, stopped: Callable[[], None] = lambda: None) -> float:
    """Tokens a second of the model as it is now."""
    with _threads(model, number):
        return 1 / min(time for _ in range(ROUNDS) for time in _times(model, stopped))


@contextmanager
def _threads(model: Model, number: int) -> Iterator[None]:
    """Write with so many threads for a while."""
    before = model.threads

    def tried(count: int, tokens: int) -> float:
        model.set_threads(count)
        return model.bench_generate(tokens)

    try:
        model.set_threads(number or threads.choose(tried, hardware.physical_cores()).threads)
        yield
    finally:
        model.set_threads(before)


def _times(model: Model, stopped: Callable[[], None]) -> list[float]:
    """Seconds a token, a few times."""
    stopped()
    model.bench_generate(1)  # reads what was not used yet
    tokens = FEWEST
    found: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(found) < 2 or time.perf_counter() < until:
        found.append(model.bench_generate(tokens) / tokens)
        tokens = min(model.context - 1, 16) if found[-1] < SECONDS / 32 else FEWEST
    return found


def _as_many_as_fit(tensors: Mapping[str, SourceTensor], grafts: Grafts) -> list[str]:
    """Names of tensors that fit into memory in the largest type, evenly over the model."""
    names = [name for name in tensors if name in grafts.shapes]
    bytes_ = 1.07 * sum(tensors[name].n_elements for name in names)
    every = max(1, -(-int(bytes_) // max(1, int(MEMORY * hardware.memory_available()))))
    return names[::every]


def _sample(tensor: SourceTensor, kind: str) -> Encoded:
    kind = recipes.fitting(kind, tensor.n_cols)
    rows = min(ROWS, tensor.n_rows)
    blocks = encode(kind, load(tensor, 0, rows), tensor, 0, importance=None, refined=False, errors=np.zeros(rows))
    data = np.concatenate([blocks] * -(-tensor.n_rows // rows))[: tensor.n_rows]
    return Encoded(tensor.name, tensor.shape, kind, data)


__all__ = ["measure", "rate"]
