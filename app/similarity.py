"""How alike texts are: cosines of their vectors, and the texts that people give. No Qt, no engine."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_TEXTS = 500
"""Texts that are compared at once: a table of more is looked at by nobody."""
MAX_BYTES = 4 << 20


def lines(text: str) -> tuple[str, ...]:
    """The texts of a file or a field, one a line, empty lines left out.

    Raises ``QuenchError`` ``no_texts`` and ``too_many_texts``.
    """
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise QuenchError(
            "no_texts", "There are no texts.", "No line has words.", "Give one text a line.", exit_status=2
        )
    if len(found) > MOST_TEXTS:
        raise QuenchError(
            "too_many_texts",
            "These are too many texts for one table.",
            f"{len(found)} lines; at most {MOST_TEXTS} are compared.",
            "Take a part of them.",
            exit_status=2,
        )
    return found


def read(path: str | Path) -> str:
    """A text file within :data:`MAX_BYTES`; ``QuenchError`` ``bad_texts`` for what is none."""
    place = Path(path)
    try:
        if not place.is_file():
            raise _bad(place, "It is no file.")
        with place.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _bad(place, error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise _bad(place, f"It is longer than {MAX_BYTES >> 20} MiB.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(place, "It is not a UTF-8 text.") from error


def unpack(vectors: bytes, width: int) -> npt.NDArray[np.float32]:
    """The vectors of :class:`app.serving.messages.Embedded`, float32 (n_texts, width)."""
    import numpy as np

    return np.frombuffer(vectors, "<f4").reshape(-1, width)


def cosines(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosine similarity of each text with each, (n, n), from vectors of length 1; between -1 and 1."""
    import numpy as np

    wide = vectors.astype(np.float64)
    return np.clip(wide @ wide.T, -1.0, 1.0)


def pairs(table: npt.NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """(similarity, first, second) of every pair, the most alike first."""
    count = len(table)
    found = [(float(table[a, b]), a, b) for a in range(count) for b in range(a + 1, count)]
    return sorted(found, key=lambda pair: (-pair[0], pair[1], pair[2]))


def as_csv(
    texts: Sequence[str], table: npt.NDArray[np.float64], rows: Sequence[int] | None = None, separator: str = ","
) -> str:
    """The table with the texts as its head and its first column; ``rows`` in this order, all of them if not given."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(["", *texts])
    for row in range(len(texts)) if rows is None else rows:
        writer.writerow([texts[row], *(f"{value:.6f}" for value in table[row])])
    return out.getvalue()


def _bad(path: Path, why: str) -> QuenchError:
    return QuenchError("bad_texts", "The texts cannot be read.", f"{path}: {why}", "Give a text file, one text a line.")


__all__ = ["MOST_TEXTS", "as_csv", "cosines", "lines", "pairs", "read", "unpack"]
