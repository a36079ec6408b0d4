"""What was measured of a model over time: results that may be compared stand in one series, others apart.

A series is one file (by its content, wherever it lies) with one type of cache, against one reference, on the same
windows of the same texts, on one machine. What changes inside it is the program and the engine. Two results of a series
are compared window by window where both know their windows: what is hard for one is hard for the other, so that a
difference far smaller than the interval of either can be told from chance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import msgspec

from app.measure_messages import Estimate, Kld
from app.proportions import Z95
from app.store import Measurement, Store

MOST = 1000
"""Results that are looked through, the newest."""

LEAST_WINDOWS = 4
"""Below this pairs of windows say nothing about their scatter."""

_LARGE = ("passages", "flips", "histogram", "by_position", "slices", "tasks", "task_shifts", "drift", "memory", "shift")


class Past(msgspec.Struct, frozen=True):
    """One result: ``when`` in seconds since 1970, divergence in nats, the versions of the program and of its engine
    (empty if an earlier version did not write them down)."""

    when: float
    kld: Estimate
    top1: Estimate
    perplexity: Estimate
    tokens: int
    verdict: str
    program: str
    engine: str
    windows: tuple[float, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """Of the mean divergence from one result to the next; ``apart``: it can be told from chance (95 %)."""

    difference: Estimate
    apart: bool


class Series(msgspec.Struct, frozen=True):
    """Results that may be compared, newest first; ``changes[i]`` is from ``results[i + 1]`` to ``results[i]``.

    ``by_content``: the texts are known to be the same; else only their names are.
    """

    path: str
    type: str
    kv: str
    reference: str
    context: int
    texts: tuple[str, ...]
    by_content: bool
    machine: str
    results: tuple[Past, ...]
    changes: tuple[Change, ...]

    @property
    def label(self) -> str:
        return f"{self.type} · KV {self.kv}" if self.kv else self.type


def of_models(store: Store, paths: Collection[str] = (), contents: Collection[str] = ()) -> list[Series]:
    """Series of these models, by their paths or by the ids of what is in them; of all if none are named.

    Those with the newest result come first. Results that another version wrote in a way that cannot be read are left
    out.
    """
    gathered: dict[tuple[Any, ...], list[tuple[Measurement, Past]]] = {}
    known = [content for content in contents if content]
    for entry in store.outlines("quality", _LARGE, MOST, paths=list(paths), contents=known):
        if entry.model_path == entry.payload.get("reference"):
            continue  # it is not compared with anything
        past = _past(entry)
        if past is not None:
            gathered.setdefault(_key(entry), []).append((entry, past))
    return [_series(found) for found in gathered.values()]


def change(old: Past, new: Past) -> Change:
    """From ``old`` to ``new``, in pairs of windows where both know theirs."""
    pairs = list(zip(old.windows, new.windows, strict=False))
    if len(pairs) >= LEAST_WINDOWS:
        found = [b - a for a, b in pairs]
        difference = Estimate(statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found)))
    else:
        difference = Estimate(new.kld.value - old.kld.value, math.hypot(new.kld.error, old.kld.error))
    return Change(difference, abs(difference.value) > Z95 * difference.error)


def _key(entry: Measurement) -> tuple[Any, ...]:
    payload = entry.payload
    texts = payload.get("texts_id") or tuple(payload.get("texts") or ())
    return (
        entry.content or entry.model_path,
        payload.get("kv", ""),
        payload.get("reference_content") or payload.get("reference"),
        payload.get("context"),
        texts,
        payload.get("machine"),
    )


class _Payload(msgspec.Struct, frozen=True):
    type: str
    kld: Kld
    top1: Estimate
    perplexity: Estimate
    verdict: str
    tokens: int = 0
    program: str = ""
    engine: str = ""
    kld_by_window: tuple[float, ...] = ()


def _past(entry: Measurement) -> Past | None:
    try:
        read = msgspec.convert(entry.payload, _Payload)
    except msgspec.ValidationError:
        return None
    return Past(
        entry.created, read.kld.mean, read.top1, read.perplexity, read.tokens, read.verdict, read.program, read.engine,
        read.kld_by_window,
    )  # fmt: skip


def _series(found: Sequence[tuple[Measurement, Past]]) -> Series:
    entry = found[0][0]
    payload = entry.payload
    results = tuple(past for _, past in found)
    return Series(
        path=entry.model_path,
        type=str(payload.get("type", "")),
        kv=str(payload.get("kv", "")),
        reference=str(payload.get("reference", "")),
        context=int(payload.get("context", 0)),
        texts=tuple(str(name) for name in payload.get("texts") or ()),
        by_content=bool(payload.get("texts_id")),
        machine=str(payload.get("machine", "")),
        results=results,
        changes=tuple(change(old, new) for new, old in pairwise(results)),
    )


def texts_in_words(series: Series, most: int = 3) -> str:
    """``prose, code``, or of many only how many."""
    names = [PurePath(name).stem for name in series.texts]
    return ", ".join(names) if len(names) <= most else f"{len(names)} texts"


__all__ = ["Change", "Past", "Series", "change", "of_models", "texts_in_words"]
