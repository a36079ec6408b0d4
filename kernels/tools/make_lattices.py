"""Writes ``src/reference/lattices.h``: the points that the codes of IQ1, IQ2 and IQ3 stand for.

They are facts of the formats, read here out of the gguf package. A point has eight or four coordinates, each one of a
few levels; the table keeps the numbers of the levels, first coordinate in the lowest bits.

Run as ``python kernels/tools/make_lattices.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import quants

TARGET = Path(__file__).resolve().parent.parent / "src" / "reference" / "lattices.h"
PER_LINE = 14

HEADER = """\
/* Points of the IQ formats, written by tools/make_lattices.py. A coordinate is the number of a level: two bits each for
 * eight coordinates, three bits each for four; the first coordinate is in the lowest bits. */
#ifndef QUENCH_LATTICES_H
#define QUENCH_LATTICES_H

#include <stdint.h>
"""


def levels(name: str, kind: str, values: tuple[int, ...]) -> str:
    return f"static const {kind} {name}_levels[{len(values)}] = {{{', '.join(map(str, values))}}};"


def points(name: str, grid: npt.NDArray[np.float32], values: tuple[int, ...]) -> str:
    numbers = np.searchsorted(values, grid.reshape(-1, grid.shape[-1]))
    assert (np.asarray(values)[numbers] == grid.reshape(numbers.shape)).all()
    bits = 16 // numbers.shape[1] if numbers.shape[1] == 8 else 3
    packed = (numbers << (bits * np.arange(numbers.shape[1]))).sum(axis=1)
    words = [f"0x{point:04x}," for point in packed.tolist()]
    lines = [" ".join(words[start : start + PER_LINE]) for start in range(0, len(words), PER_LINE)]
    body = "\n".join(f"    {line}" for line in lines)
    return f"static const uint16_t {name}[{len(words)}] = {{\n{body}\n}};"


def header() -> str:
    """The whole file."""
    parts = [HEADER]
    one, two = (-1, 0, 1, 0), (8, 25, 43, 0)
    parts += [levels("iq1", "int8_t", one), levels("iq2", "int8_t", two)]
    for name in ("IQ3_XXS", "IQ3_S"):
        parts.append(levels(name.lower(), "int8_t", getattr(quants, name).grid_map))
    for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"):
        kind = getattr(quants, name)
        kind.init_grid()
        parts += ["", points(f"{name.lower()}_points", kind.grid[0, 0], kind.grid_map)]
    return "\n".join([*parts, "", "#endif", ""])


if __name__ == "__main__":
    TARGET.write_text(header())
