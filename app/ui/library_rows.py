"""What the Library page knows of each model: whether it fits, how good and how fast it was, what it is a copy of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from app import hardware, library
from app.local import places, ties
from app.local.entry import PARTIAL, Listed
from app.settings import Settings
from app.store import Store
from app.ui import format as fmt
from app.ui.servers import KIND
from converter.spec import ModelInfo

LEAST_CONTEXT = 512
"""A context shorter than this is no use; a model that needs it counts as too large."""


@dataclass(frozen=True)
class FitWords:
    """A verdict on memory: ``rank`` sorts, ``role`` is the colour, ``why`` the sum."""

    text: str
    role: str
    rank: int
    why: str


class Quality(NamedTuple):
    """One measurement: ``kld`` nats against its reference, or the reference itself, which has no KLD to tell."""

    kld: float
    verdict: str
    is_reference: bool


@dataclass(frozen=True)
class Room:
    """What a model must fit into: the settings' context and cache type, and bytes of memory that are free."""

    settings: Settings
    available: int
    tr: Any


@dataclass(frozen=True)
class Row:
    """One model with what is known about it: ``quality``, and ``speed`` in tokens/s, both as measured last.

    ``copies`` are paths with the same content.
    """

    info: ModelInfo
    base: str
    type: str
    room: Room | None
    quality: Quality | None = None
    speed: float | None = None
    listed: Listed | None = None
    copies: tuple[str, ...] = ()

    @property
    def is_broken(self) -> bool:
        return bool(self.info.problems)

    @property
    def text(self) -> str:
        """What the filter looks in."""
        return f"{self.base} {self.type} {self.info.architecture} {self.owner} {self.info.path}".lower()

    @property
    def makes_vectors(self) -> bool:
        """Whether it is an embeddings model, which does not write."""
        return library.makes_vectors(self.info)

    @property
    def is_served(self) -> bool:
        """Whether another program serves it, here or elsewhere."""
        return self.info.kind == KIND

    @property
    def is_partial(self) -> bool:
        return self.listed is not None and self.listed.state == PARTIAL

    @property
    def owner(self) -> str:
        """The program whose folder it lies in; empty for the rest."""
        foreign = self.listed is not None and self.listed.place in places.FOREIGN
        return places.TITLES[self.listed.place] if foreign and self.listed is not None else ""

    @cached_property
    def fit(self) -> FitWords | None:
        """Worked out when it is looked at: a long list has thousands of rows that nobody sees."""
        if self.room is None or self.is_broken:
            return None
        if self.is_served:
            return _answers(self.info, self.room.tr)
        return fit_words(self.info, self.room.settings, self.room.available, self.room.tr)


def _answers(info: ModelInfo, tr: Any) -> FitWords | None:
    """What stands for a verdict on memory where none is needed: whether the server answered."""
    if "software" not in info.metadata:
        return None
    return FitWords(tr("Answers"), "good", 0, tr("Runs at {0}; needs no memory here.").format(info.metadata["url"]))


def fit_words(info: ModelInfo, settings: Settings, available: int, tr: Any) -> FitWords:
    """What the Fits column says of a model at the context and cache type of the settings."""
    fit = hardware.fits(info, settings.context, settings.kv_type, available)
    context = settings.context or min(8192, info.context_length or 8192)
    words = tr("{0} needed at a context of {1} tokens:\n{2} weights + {3} KV cache + {4} compute buffer\n{5} free now")
    why = words.format(
        fmt.size(fit.total),
        fmt.number(context),
        fmt.size(fit.weights),
        fmt.size(fit.kv),
        fmt.size(fit.compute),
        fmt.size(fit.available),
    )
    if info.kind == "hf":
        why += "\n" + tr("As a GGUF file of the same precision; convert it first, smaller types need less.")
    if fit.level == "unknown":
        why += "\n" + tr("What the cache of this architecture takes is unknown: it is not in the sum.")
        return FitWords(tr("Unknown"), "muted", 2, why)
    if fit.level == "good":
        return FitWords(tr("Fits"), "good", 0, why)
    if fit.level == "tight":
        return FitWords(tr("Just fits"), "warn", 1, why)
    if fit.context_that_fits >= LEAST_CONTEXT:
        longest = tr("A context of {0} tokens would fit.").format(fmt.number(fit.context_that_fits))
        return FitWords(tr("Less context"), "warn", 2, f"{why}\n{longest}")
    return FitWords(tr("Too large"), "bad", 3, why)


def measured(store: Store) -> tuple[dict[str, Quality], dict[str, float]]:
    """The newest measurements: quality, and tokens/s.

    By the content of what was measured, wherever it lies now; by its path where an earlier version kept no content.
    """
    quality: dict[str, Quality] = {}
    speed: dict[str, float] = {}
    for entry in store.measurements(None, "quality"):
        value = _dig(entry.payload, "kld", "mean", "value")
        if value is not None and not entry.payload.get("kv"):  # a smaller cache is no property of the file
            path, reference = (entry.payload.get(name) for name in ("path", "reference"))
            found = Quality(value, str(entry.payload.get("verdict", "")), path is not None and path == reference)
            quality.setdefault(entry.content or entry.model_path, found)
        rate = _dig(entry.payload, "tokens_per_second")
        if rate:
            speed.setdefault(entry.content or entry.model_path, rate)
    for entry in reversed(store.measurements(None, "bench")):  # oldest first: the newest stays, and beats the above
        points = entry.payload.get("generate") or []
        least = min((point.get("depth", 0) for point in points), default=0)
        rates = [_dig(point, "tokens_per_second", "median") for point in points if point.get("depth", 0) == least]
        if best := max(filter(None, rates), default=0.0):
            speed[entry.content or entry.model_path] = best
    return quality, speed


def _dig(value: Any, *keys: str) -> float | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def make_rows(models: Sequence[Listed], store: Store, settings: Settings, tr: Any) -> list[Row]:
    """Rows for the library's models, with the memory that is free now and everything that was measured."""
    return rows_of(models, measured(store), Room(settings, hardware.memory_available(), tr))


def rows_of(
    models: Sequence[Listed], measurements: tuple[dict[str, Quality], dict[str, float]], room: Room
) -> list[Row]:
    """As :func:`make_rows`, from what was measured; pure, and of any thread."""
    quality, speed = measurements
    names, copies = ties.bases(models, _base_name), ties.duplicates_of(models)
    rows = []
    for listed in models:
        path, content = listed.path, listed.content or listed.path
        rows.append(
            Row(
                listed.info,
                names[path],
                _type_label(listed.info),
                room,
                quality.get(content, quality.get(path)),
                speed.get(content, speed.get(path)),
                listed,
                tuple(copies.get(path, ())),
            )
        )
    return rows


class _Remembered:
    """What a function says of a description, which is asked about again and again but never changes."""

    LIMIT = 50_000

    def __init__(self, function: Callable[[ModelInfo], str]) -> None:
        self._function = function
        self._known: dict[int, tuple[ModelInfo, str]] = {}

    def __call__(self, info: ModelInfo) -> str:
        held = self._known.get(id(info))
        if held is None or held[0] is not info:
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            held = self._known[id(info)] = (info, self._function(info))
        return held[1]


_base_name = _Remembered(library.base_name)
_type_label = _Remembered(library.type_label)
