"""Where a candidate went wrong: the stretches of text on which it is farthest from the reference, with their words."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from app.measure_messages import Passage, PassageToken
from app.quality.divergence import TokenValues
from app.quality.texts import Window

COUNT = 6
WIDTH = 40
BEFORE = 32
"""Passages, their tokens, and tokens of the text before them."""

Pieces = Mapping[int, bytes]

_CONTINUATION = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that begin no character."""


def worst(values: Sequence[TokenValues], count: int = COUNT, width: int = WIDTH) -> list[tuple[int, int, float]]:
    """The stretches with the largest mean KLD, at most one of each window: (window, first scored token, mean)."""
    found = []
    for number, window in enumerate(values):
        means = _running_mean(window.kld, width)
        at = int(np.argmax(means))
        found.append((number, at, float(means[at])))
    found.sort(key=lambda item: (-item[2], item[0]))
    return [item for item in found[:count] if item[2] > 0]


def describe(values: Sequence[TokenValues], windows: Sequence[Window], pieces: Pieces) -> tuple[Passage, ...]:
    """The worst stretches of ``values``, the worst first.

    ``windows`` are those that ``values`` belong to, in order. ``pieces`` has the bytes of every token of them; a token
    that it lacks is shown by its number.
    """
    passages = []
    for number, at, mean in worst(values):
        window, scored = windows[number], values[number]
        width = min(WIDTH, len(scored))
        position = len(window.tokens) - len(scored) + at
        start = max(0, position - BEFORE)
        texts = _texts([_piece(pieces, token) for token in window.tokens[start : position + width]])
        tokens = _tokens(texts[position - start :], scored, at, pieces)
        passages.append(Passage(window.text, window.place, position, mean, "".join(texts[: position - start]), tokens))
    return tuple(passages)


def _tokens(texts: Sequence[str], values: TokenValues, at: int, pieces: Pieces) -> tuple[PassageToken, ...]:
    return tuple(
        PassageToken(
            text=text,
            kld=float(values.kld[place]),
            reference_probability=math.exp(-float(values.reference_nll[place])),
            probability=math.exp(-float(values.nll[place])),
            reference_first=_one(pieces, int(values.reference_first["token"][place])),
            reference_first_probability=float(values.reference_first["probability"][place]),
            first=_one(pieces, int(values.first["token"][place])),
            first_probability=float(values.first["probability"][place]),
        )
        for place, text in enumerate(texts, start=at)
    )


def _running_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    width = min(width, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: npt.NDArray[np.float64] = (sums[width:] - sums[:-width]) / width
    return means


def _piece(pieces: Pieces, token: int) -> bytes:
    return pieces.get(token, f"[{token}]".encode())


def _one(pieces: Pieces, token: int) -> str:
    return _piece(pieces, token).decode("utf-8", "replace")


def _texts(pieces: Sequence[bytes]) -> list[str]:
    """What each token adds to the text: a character that is spread over tokens belongs to the one that completes it.

    Of characters that the cut goes through, at either end, nothing is shown.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found, begun = [], False
    for piece in pieces:
        rest = piece if begun else piece.lstrip(_CONTINUATION)
        begun = begun or bool(rest)
        found.append(decoder.decode(rest))
    return found
