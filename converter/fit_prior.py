"""Types for a size by rule of thumb, where there is no time to measure anything. Pure; looks at names and sizes alone.

The damage of a tensor is taken to go with the squared error that its type makes, which is nearly the same for all
matrices of a model (:data:`ERRORS`), times a weight by role and depth (:data:`WEIGHTS`): an embedding, most of all one
that is the output too, what writes into the residual stream from the feed-forward block, and the first and the last
layer. That is what llama.cpp's recipes raise as well; the sizes of the weights are rounded from what probes of the
bundled model found, and another model's differ. So the rule is used with doubt: what a smaller type adds counts
:data:`DOUBT` times as much, what a larger one saves a :data:`DOUBT`-th. Types are exchanged against those of the
standard recipe only where that is still a gain, so that weights may be wrong by that factor each before the file is
worse than the recipe's. Tensors of roles that are not in the table keep the recipe's type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from converter.fit import Choice, Item, solve

ERRORS: Mapping[str, float] = {
    "Q2_K": 0.064,
    "Q3_K": 0.0195,
    "Q4_K": 0.0045,
    "Q5_K": 0.00114,
    "Q6_K": 0.00028,
    "Q8_0": 0.000028,
}
"""sum w (x - y)^2 / sum w x^2 with an importance matrix: the geometric mean over the bundled model's 43 matrices, of
which all but two are within a fourth of it."""

WEIGHTS: Mapping[str, float] = {
    "token_embd": 8.0,
    "output": 8.0,
    "ffn_down": 1.5,
    "ffn_gate": 1.25,
    "ffn_up": 0.8,
    "attn_v": 0.8,
    "attn_k": 0.7,
    "attn_output": 0.6,
    "attn_q": 0.5,
}
TIED, FIRST, LAST = 2.0, 3.0, 1.5
"""Factors: of an embedding that is the output too, of the first layer, of the last one."""

DOUBT = 2.5

_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.weight")


def weight(name: str, layers: int, *, tied: bool) -> float | None:
    """What the damage of a tensor is multiplied with; None for a role that is not in the table."""
    match = _NAME.fullmatch(name)
    found = WEIGHTS.get(match[2]) if match else None
    if match is None or found is None:
        return None
    if match[1] is None:
        return found * (TIED if tied else 1.0)
    layer = int(match[1])
    return found * (FIRST if layer == 0 else LAST if layer == layers - 1 else 1.0)


def chosen(
    standard: Mapping[str, str], sizes: Mapping[str, Mapping[str, int]], budget: int, layers: int
) -> dict[str, str]:
    """The type of every tensor of ``standard``, which are its types by name; ``sizes`` are the bytes of each tensor in
    the types that it may have.

    Raises:
        QuenchError: ``too_small`` where the smallest types are larger than ``budget`` bytes.
    """
    tied = "output.weight" not in standard
    items = []
    for name, kinds in sizes.items():
        here = standard[name] if standard[name] in kinds else min(kinds, key=lambda kind: kinds[kind])
        factor = weight(name, layers, tied=tied)
        if factor is None or not set(kinds) <= set(ERRORS):
            items.append(Item(name, (Choice(here, kinds[here], 0.0),)))
        else:
            items.append(Item(name, _choices(here, kinds, factor)))
    found = solve(items, budget)
    return {name: found.chosen[name].type for name in standard}


def _choices(here: str, kinds: Mapping[str, int], factor: float) -> tuple[Choice, ...]:
    """What types cost in doubt, against the type ``here``; from the least of them."""
    changes = {kind: factor * (ERRORS[kind] - ERRORS[here]) for kind in kinds}
    doubted = {kind: change * DOUBT if change > 0 else change / DOUBT for kind, change in changes.items()}
    least = min(doubted.values())
    return tuple(Choice(kind, size, doubted[kind] - least) for kind, size in kinds.items())


__all__ = ["DOUBT", "ERRORS", "WEIGHTS", "chosen", "weight"]
