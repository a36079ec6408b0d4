"""How sure two models are of the same answer, token by token: the reference's file and the comparison.

The file: ``QSCR``, then uint32 version, tokens n and vocabulary v, then n int32 tokens, then n*v float32 natural
log-probabilities, row-major; all little-endian. It lives as long as a comparison and never leaves the machine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from app.protocol import Alternative, ScoredToken
from converter.spec import QuenchError

_HEADER = struct.Struct("<4sIII")
_MAGIC, _VERSION = b"QSCR", 1
_ALTERNATIVES = 5
_BLOCK_ROWS = 16  # rows of a wide vocabulary that are worked on at once, to stay in the caches

Floats = npt.NDArray[np.floating]
Text = Callable[[int], str]


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural log-probabilities of each row, computed in float64. Shape (rows, vocabulary)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def write_reference(
    path: str, answer: Sequence[int], blocks: Iterable[tuple[int, npt.NDArray[np.float32]]], vocabulary: int, text: Text
) -> tuple[ScoredToken, ...]:
    """Write the reference's log-probabilities of ``answer`` to ``path`` (whole or absent) and describe its tokens.

    ``blocks`` are (index of the first token, logits) in order, as :meth:`app.engine.model.Model.answer_logits` gives.

    Raises:
        QuenchError: ``no_space`` when the file cannot be written.
    """
    part = Path(path + ".part")
    scored: list[ScoredToken] = []
    try:
        with part.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, _VERSION, len(answer), vocabulary))
            file.write(np.asarray(answer, "<i4").tobytes())
            for at, rows in _small(blocks):
                logs = log_softmax(rows)
                file.write(logs.astype("<f4").tobytes())
                for row, token in zip(logs, answer[at : at + len(rows)], strict=True):
                    top = _top(row, text)
                    scored.append(ScoredToken(text(token), float(np.exp(row[token])), 0.0, True, top, top))
        part.replace(path)
    except OSError as error:
        raise QuenchError(
            "no_space",
            "The reference's probabilities could not be written.",
            str(error),
            "Free some disk space.",
            exit_status=4,
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return tuple(scored)


def probabilities(
    answer: Sequence[int], blocks: Iterable[tuple[int, npt.NDArray[np.float32]]], text: Text
) -> tuple[ScoredToken, ...]:
    """How probable each token of ``answer`` was, and what else was; ``blocks`` as in :func:`write_reference`."""
    scored: list[ScoredToken] = []
    for at, rows in _small(blocks):
        logs = log_softmax(rows)
        for row, token in zip(logs, answer[at : at + len(rows)], strict=True):
            scored.append(ScoredToken(text(token), float(np.exp(row[token])), 0.0, True, _top(row, text), ()))
    return tuple(scored)


def read_header(file: BinaryIO, path: str) -> tuple[list[int], int]:
    """(tokens, vocabulary) of a reference file; QuenchError ``bad_reference`` if it is none."""
    start = file.read(_HEADER.size)
    if len(start) == _HEADER.size:
        magic, version, count, vocabulary = _HEADER.unpack(start)
        size = Path(path).stat().st_size
        if magic == _MAGIC and version == _VERSION and size == _HEADER.size + 4 * count * (1 + vocabulary):
            return np.frombuffer(file.read(4 * count), "<i4").tolist(), vocabulary
    raise QuenchError(
        "bad_reference", "The reference's probabilities cannot be used.", path, "Run the comparison again."
    )


def compare(
    path: str, answer: Sequence[int], blocks: Iterable[tuple[int, npt.NDArray[np.float32]]], vocabulary: int, text: Text
) -> tuple[ScoredToken, ...]:
    """Score ``answer`` against the reference file ``path``: KL divergence from the reference for each token.

    KLD = sum over the vocabulary of p_ref * (ln p_ref - ln p_candidate), in nats and in float64.

    Raises:
        QuenchError: ``bad_reference``; ``different_tokens`` when the two models do not share tokens.
    """
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115 - closed below; opened apart to tell its errors from others
    except OSError as error:
        raise QuenchError(
            "bad_reference", "The reference's probabilities cannot be read.", str(error), "Run the comparison again."
        ) from error
    scored: list[ScoredToken] = []
    with file:
        tokens, width = read_header(file, path)
        if tokens != list(answer) or width != vocabulary:
            raise QuenchError(
                "different_tokens",
                "These two models split text into different tokens.",
                f"The reference has {len(tokens)} tokens of a vocabulary of {width}, "
                f"the candidate {len(answer)} of {vocabulary}.",
                "Compare files that were made from the same model.",
            )
        for at, rows in _small(blocks):
            logs = log_softmax(rows)
            count = len(rows)
            reference = np.frombuffer(file.read(4 * count * width), "<f4").reshape(count, width).astype(np.float64)
            divergence = (np.exp(reference) * (reference - logs)).sum(axis=1)
            agree = reference.argmax(axis=1) == logs.argmax(axis=1)
            for index, token in enumerate(answer[at : at + count]):
                scored.append(
                    ScoredToken(
                        text(token),
                        float(np.exp(logs[index, token])),
                        # Rounding of the float32 file can put a zero a hair below zero.
                        max(0.0, float(divergence[index])),
                        bool(agree[index]),
                        _top(logs[index], text),
                        _top(reference[index], text),
                    )
                )
    return tuple(scored)


def first_divergence(tokens: Sequence[ScoredToken]) -> int:
    """Index of the first token where the two would have gone apart, or -1."""
    return next((index for index, token in enumerate(tokens) if not token.agree), -1)


def _small(
    blocks: Iterable[tuple[int, npt.NDArray[np.float32]]],
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    for at, rows in blocks:
        for start in range(0, len(rows), _BLOCK_ROWS):
            yield at + start, rows[start : start + _BLOCK_ROWS]


def _top(logs: npt.NDArray[np.float64], text: Text) -> tuple[Alternative, ...]:
    count = min(_ALTERNATIVES, len(logs))
    best = np.argpartition(logs, -count)[-count:]
    best = best[np.argsort(-logs[best], kind="stable")]
    return tuple(Alternative(text(int(token)), float(np.exp(logs[token]))) for token in best)


__all__ = ["compare", "first_divergence", "log_softmax", "probabilities", "read_header", "write_reference"]
