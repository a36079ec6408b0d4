"""From sampling settings to the library's chain of samplers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from app.engine.native import lib, metadata_number
from app.protocol import Sampling
from converter.spec import QuenchError

REPEAT_WINDOW = 64
"""Tokens that the repeat penalty looks back on."""

_SEED_LIMIT = 0xFFFFFFFF  # the library's own word for "draw a seed"
_DRAWN_LIMIT = 1 << 31  # seeds that are drawn here can be typed in again everywhere


@contextmanager
def sampler_chain(vocabulary: int, sampling: Sampling, history: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """The library's sampler for ``sampling``, freed on leaving, and the seed that it draws with (-1: it draws nothing).

    The order is the library's customary one: penalties, top-k, top-p, min-p, temperature, draw. ``history`` are the
    tokens so far, for the penalty. Temperature 0 takes the most probable token.

    Raises:
        QuenchError: ``bad_sampling`` for values out of range.
    """
    _check(sampling)
    seed = secrets.randbelow(_DRAWN_LIMIT) if sampling.seed < 0 else sampling.seed % _SEED_LIMIT
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    try:
        for part in _parts(vocabulary, sampling, seed):
            lib.llama_sampler_chain_add(chain, part)
        if sampling.repeat_penalty != 1.0:
            for token in history[-REPEAT_WINDOW:]:
                lib.llama_sampler_accept(chain, token)
        yield chain, seed if sampling.temperature > 0 else -1
    finally:
        lib.llama_sampler_free(chain)


def _parts(vocabulary: int, sampling: Sampling, seed: int) -> Iterator[Any]:
    if sampling.repeat_penalty != 1.0:
        yield lib.llama_sampler_init_penalties(vocabulary, REPEAT_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
    if sampling.temperature <= 0:
        yield lib.llama_sampler_init_greedy()
        return
    if sampling.top_k > 0:
        yield lib.llama_sampler_init_top_k(sampling.top_k)
    if sampling.top_p < 1.0:
        yield lib.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0.0:
        yield lib.llama_sampler_init_min_p(sampling.min_p, 1)
    yield lib.llama_sampler_init_temp(sampling.temperature)
    yield lib.llama_sampler_init_dist(seed)


_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 1 << 30),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "seed": (-1, 1 << 62),
    "max_tokens": (1, 1 << 30),
}


def _check(sampling: Sampling) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        if not low <= value <= high:  # also refuses NaN
            raise QuenchError(
                "bad_sampling",
                "A sampling setting is out of range.",
                f"{name} is {value}; it must lie between {low:g} and {high:g}.",
                "Reset the sampling settings.",
                exit_status=2,
            )


_METADATA = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


def defaults_of(model: Any) -> Sampling:
    """The sampling that the model's own metadata asks for; what it does not name, or names wrongly, is ours."""
    changes: dict[str, Any] = {}
    for name, key in _METADATA.items():
        value = metadata_number(model, key)
        low, high = _RANGES[name]
        if value is not None and low <= value <= high:
            changes[name] = int(value) if name == "top_k" else round(value, 6)
    return msgspec.structs.replace(Sampling(), **changes)


__all__ = ["REPEAT_WINDOW", "defaults_of", "sampler_chain"]
