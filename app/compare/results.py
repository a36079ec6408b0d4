"""What a comparison holds: prompts, and every model's answer with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import msgspec

from app.compare.align import alike, common_prefix, pieces
from app.compare.recipes import split
from app.memory_messages import Memory
from app.protocol import Replied, Scored, ScoredToken
from app.remote.address import is_remote, split_path


class Column(msgspec.Struct, frozen=True):
    """One model's answer. ``kld`` (nats), ``top1`` and ``tokens`` are over the reference's answer, teacher-forced;

    ``first_divergence`` is the first of its tokens where this model would greedily have gone elsewhere, or -1.
    ``scored`` is false where there is no such thing, and ``unscored`` says why: not every server tells how likely a
    given text is. ``bounds``: divergences are lower bounds, of a server that tells its likeliest tokens only. ``own``
    are the tokens of its own answer, ``common`` how many of them it has in common with the reference's answer from the
    beginning. ``speed_alone``: nothing else computed while its speed was measured. ``error``: why it has no answer.
    """

    path: str
    text: str
    first_divergence: int
    kld: float
    top1: float
    tokens_per_second: float
    first_token: float
    memory: Memory
    tokens: tuple[ScoredToken, ...] = ()
    own: tuple[str, ...] = ()
    common: int = 0
    scored: bool = True
    speed_alone: bool = True
    bytes: int = 0
    verdict: str = ""
    error: str = ""
    unscored: str = ""
    bounds: bool = False


class Entry(msgspec.Struct, frozen=True):
    """One prompt and its answers, the reference's first; ``None`` where a model has not come to it yet."""

    prompt: str
    slice: str = "other"
    columns: tuple[Column | None, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every model has answered."""
        return all(column is not None for column in self.columns)


class Comparison(msgspec.Struct, frozen=True):
    """Entries of the same models, the reference first. ``greedy``: the likeliest token was always taken."""

    models: tuple[str, ...]
    entries: tuple[Entry, ...]
    greedy: bool = True


def make_column(
    path: str,
    text: str,
    reply: Replied | None,
    scored: Scored | None,
    *,
    reference: bool,
    own: tuple[str, ...] = (),
    common: int = 0,
    speed_alone: bool = True,
    size: int = 0,
    verdict: str = "",
    unscored: str = "",
) -> Column:
    """A column of what the engine said; ``reply`` is None for a text that nobody wrote here."""
    return Column(
        path,
        text,
        scored.first_divergence if scored is not None and not reference else -1,
        scored.mean_kld if scored is not None else 0.0,
        scored.top1 if scored is not None else 0.0,
        reply.tokens_per_second if reply is not None else 0.0,
        reply.first_token if reply is not None else 0.0,
        reply.memory if reply is not None else Memory(0, 0, 0),
        scored.tokens if scored is not None else (),
        own,
        common,
        scored is not None,
        speed_alone,
        size,
        verdict,
        unscored=unscored,
        bounds=scored is not None and scored.bounds,
    )


def aligned(reference: Column | None, text: str, tokens: tuple[str, ...] | None) -> tuple[tuple[str, ...], int]:
    """``own`` and ``common`` of an answer; without a ``reference`` it is the reference's. ``tokens`` None: nobody tells
    them."""
    if reference is None:
        own = tokens if tokens is not None else pieces(text)
        return own, len(own)
    theirs, own = alike(reference.text, reference.own if reference.scored else None, text, tokens)
    return own, common_prefix(theirs, own)


UNSCORABLE = frozenset({"no_probabilities", "bad_probabilities", "different_tokens", "empty_prompt"})
"""Codes of what leaves a served model's answer without divergences, and is no reason to ask it again."""


def names_of(models: Sequence[str]) -> list[str]:
    """What the models are called: file names without their ending, told apart where two are alike."""
    names = [_name(path) for path in models]
    twice = {name for name in names if names.count(name) > 1}
    return [f"{name} ({number})" if name in twice else name for number, name in enumerate(names, start=1)]


def short_names(names: Sequence[str]) -> list[str]:
    """Only that of ``names`` which tells them apart: without the beginning that all share, up to a break in it."""
    alike = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    common = names[0][:alike] if names else ""
    cut = max((common.rfind(mark) + 1 for mark in (" ", "-", ".", "/")), default=0)
    return [name[cut:] for name in names] if all(len(name) > cut for name in names) else list(names)


def _name(path: str) -> str:
    if is_remote(path):
        return " · ".join(reversed(split_path(path)))
    source, recipe = split(path)
    return f"{Path(source).name} · {recipe}" if recipe else Path(path).stem


__all__ = ["UNSCORABLE", "Column", "Comparison", "Entry", "aligned", "make_column", "names_of", "short_names"]
