"""One table of cases for tests and native runs: kinds of data x types x shapes x importance."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import kernels
from kernels._kinds import BAD_WEIGHTS, IMPORTANCE, KINDS, OVERFLOWING, Floats, bf16_bits, from_bf16

__all__ = [
    "BAD_WEIGHTS",
    "IMPORTANCE",
    "KINDS",
    "OVERFLOWING",
    "Case",
    "Floats",
    "alignments",
    "bf16_bits",
    "cases",
    "from_bf16",
    "quick_cases",
]

TILE = 8192
"""Weights that the library hands to a backend at once, across rows."""


class Case(NamedTuple):
    """Data that a seed fixes. ``blocks`` is how many blocks a row has."""

    qtype: str
    kind: str
    importance: str
    n_rows: int
    blocks: int

    @property
    def n_cols(self) -> int:
        return self.blocks * kernels.block_size(self.qtype).weights

    def data(self, seed: int = 0) -> tuple[Floats, Floats | None]:
        """Rows (n_rows, n_cols) and importance (n_cols,) or None; the same for the same case and seed."""
        rng = np.random.default_rng([seed, zlib.crc32(repr(tuple(self)).encode())])
        # F32, F16 and BF16 have blocks of one weight; the kinds are made of groups of 16.
        width = -(-self.n_cols // 16) * 16
        rows = np.ascontiguousarray(KINDS[self.kind](rng, (self.n_rows, width))[:, : self.n_cols])
        make = IMPORTANCE[self.importance]
        return rows, None if make is None else make(rng, self.n_cols)


# Rows of one block and odd counts, alone and several together; the last is beyond one tile.
SHAPES = ((1, 1), (3, 1), (2, 3), (5, 7), (1, 19))
# One of these for each kind and importance: more odd rows, in turn.
WIDE = ((3, 5), (2, 9), (3, 17), (2, 31), (3, 33), (2, 65))
ROW_BLOCKS = (1, 3, 5, 7, 9, 17, 31, 33)


def cases(qtype: str, weights: int) -> Iterator[Case]:
    """All kinds and importances of a type: every small shape, and two shapes more, one of about ``weights`` weights."""
    per_block = kernels.block_size(qtype).weights
    blocks = max(5, 1280 // per_block)
    large = (max(1, weights // (blocks * per_block)), blocks)
    for number, kind in enumerate(KINDS):
        for turn, importance in enumerate(IMPORTANCE):
            for n_rows, n_blocks in (*SHAPES, WIDE[(number + turn) % len(WIDE)], large):
                yield Case(qtype, kind, importance, n_rows, n_blocks)


def quick_cases(qtype: str) -> Iterator[Case]:
    """Every kind without importance and with one in turn; every importance and shape, not all combinations."""
    shapes, weighted = (*SHAPES, *WIDE[:3]), [name for name in IMPORTANCE if name != "none"]
    for number, kind in enumerate(KINDS):
        for turn, importance in enumerate(("none", weighted[number % len(weighted)])):
            n_rows, n_blocks = shapes[(number + 3 * turn) % len(shapes)]
            yield Case(qtype, kind, importance, n_rows, n_blocks)


def alignments(qtype: str, importance: str) -> Iterator[Case]:
    """Rows of odd numbers of blocks, so many that the library's tiles begin at every block of a row.

    A tile is 2^n blocks: with b blocks a row, b odd, the tiles' beginnings walk through all places in b tiles.
    """
    for blocks in ROW_BLOCKS:
        yield Case(qtype, "mixed_blocks", importance, TILE // kernels.block_size(qtype).weights + 1, blocks)
