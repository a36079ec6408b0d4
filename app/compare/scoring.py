"""How sure two models are of the same answer, token by token, where the engine here computes it.

The reference's side is kept in a :mod:`.reference_file`. The same of a served model is :mod:`.served`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from app.compare import reference_file
from app.compare.reference_file import Answer, Part
from app.protocol import Alternative, Scored, ScoredToken
from app.quality.lower_bound import bound, rounding
from converter.spec import QuenchError

ALTERNATIVES = 5
_BLOCK_ROWS = 16  # rows of a wide vocabulary that are worked on at once, to stay in the caches

Blocks = Iterable[tuple[int, npt.NDArray[np.float32]]]
"""(index of the first token, logits) in order, as :meth:`app.engine.model.Model.answer_logits` gives."""
Logs = npt.NDArray[np.float64]
Text = Callable[[int], str]


def log_softmax(logits: npt.NDArray[np.float32]) -> Logs:
    """Natural log-probabilities of each row, computed in float64. Shape (rows, vocabulary)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def write_reference(
    path: str,
    answer: Sequence[int],
    blocks: Blocks,
    vocabulary: int,
    text: Text,
    *,
    prompt: Sequence[int] = (),
    probe: Sequence[int] = (),
) -> tuple[ScoredToken, ...]:
    """Write the reference's log-probabilities of ``answer`` to ``path`` (whole or absent) and describe its tokens.

    ``prompt`` are the tokens before it, ``probe`` those of :data:`app.quality.probe.PROBE`: a server is asked by them.

    Raises:
        QuenchError: ``no_space`` when the file cannot be written.
    """
    scored: list[ScoredToken] = []

    def rows() -> Iterator[Logs]:
        for at, block in _small(blocks):
            logs = log_softmax(block)
            yield logs
            for row, token in zip(logs, answer[at : at + len(logs)], strict=True):
                top = _top(row, text)
                scored.append(ScoredToken(text(token), float(np.exp(row[token])), 0.0, True, top, top))

    def last() -> Answer:
        return Answer(tuple(prompt), tuple(answer), tuple(probe), tuple(scored))

    reference_file.write(path, len(answer), vocabulary, rows(), last)
    return tuple(scored)


def probabilities(answer: Sequence[int], blocks: Blocks, text: Text) -> tuple[ScoredToken, ...]:
    """How probable each token of ``answer`` was, and what else was."""
    scored: list[ScoredToken] = []
    for at, rows in _small(blocks):
        logs = log_softmax(rows)
        for row, token in zip(logs, answer[at : at + len(rows)], strict=True):
            scored.append(ScoredToken(text(token), float(np.exp(row[token])), 0.0, True, _top(row, text), ()))
    return tuple(scored)


def compare(
    path: str, answer: Sequence[int], blocks: Blocks, vocabulary: int, text: Text
) -> tuple[tuple[ScoredToken, ...], bool]:
    """Score ``answer`` against the reference file ``path``: KL divergence from the reference for each token.

    KLD = sum over the vocabulary of p_ref * (ln p_ref - ln p_candidate), in nats and in float64. Of a reference that
    told only its likeliest tokens it is a lower bound (:mod:`app.quality.bounds`); returns whether it is.

    Raises:
        QuenchError: ``bad_reference``; ``different_tokens`` when the two models do not share tokens.
    """
    scored: list[ScoredToken] = []
    with reference_file.read(path) as reference:
        known = reference.answer
        if known.answer != tuple(answer) or reference.vocabulary not in (0, vocabulary):
            raise QuenchError(
                "different_tokens",
                "These two models split text into different tokens.",
                f"The reference has {reference.count} tokens of a vocabulary of {reference.vocabulary}, "
                f"the candidate {len(answer)} of {vocabulary}.",
                "Compare files that were made from the same model.",
            )
        for at, rows in _small(blocks):
            logs = log_softmax(rows)
            if reference.whole:
                divergence, first = _whole(reference.rows(len(rows)), logs)
            else:
                divergence, first = _bounds([reference.part(at + row) for row in range(len(rows))], logs)
            best = logs.argmax(axis=1)
            for index, token in enumerate(answer[at : at + len(rows)]):
                scored.append(
                    ScoredToken(
                        text(token),
                        float(np.exp(logs[index, token])),
                        # Rounding of the float32 file can put a zero a hair below zero.
                        max(0.0, float(divergence[index])),
                        bool(first[index] == best[index]),
                        _top(logs[index], text),
                        known.tokens[at + index].top,
                    )
                )
        return tuple(scored), not reference.whole


def _whole(reference: Logs, logs: Logs) -> tuple[Logs, npt.NDArray[np.int64]]:
    """Divergences of rows (n, vocabulary), and the reference's first tokens."""
    return (np.exp(reference) * (reference - logs)).sum(axis=1), reference.argmax(axis=1)


def _bounds(told: Sequence[Part], logs: Logs) -> tuple[Logs, npt.NDArray[np.int64]]:
    """The same where the reference told a part of each position."""
    loose = rounding(logs.shape[1])
    least = [bound(each.logs, row[_inside(each.ids, len(row))], 0.0, loose)
             for each, row in zip(told, logs, strict=True)]  # fmt: skip
    return np.array(least), np.array([each.ids[each.logs.argmax()] for each in told])


def _inside(ids: npt.NDArray[np.int64], vocabulary: int) -> npt.NDArray[np.int64]:
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise QuenchError(
            "different_tokens",
            "These two models split text into different tokens.",
            f"The reference told of a token beyond the candidate's {vocabulary}.",
            "Compare models of the same vocabulary.",
        )
    return ids


def first_divergence(tokens: Sequence[ScoredToken]) -> int:
    """Index of the first token where the two would have gone apart, or -1."""
    return next((index for index, token in enumerate(tokens) if not token.agree), -1)


def summary(request: int, tokens: tuple[ScoredToken, ...], *, bounds: bool = False) -> Scored:
    """The answer to :class:`app.protocol.Score`; ``bounds``: the divergences are lower bounds."""
    count = max(1, len(tokens))
    return Scored(
        request,
        tokens,
        sum(token.kld for token in tokens) / count,
        sum(token.agree for token in tokens) / count if tokens else 1.0,
        first_divergence(tokens),
        bounds,
    )


def _small(blocks: Blocks) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    for at, rows in blocks:
        for start in range(0, len(rows), _BLOCK_ROWS):
            yield at + start, rows[start : start + _BLOCK_ROWS]


def _top(logs: Logs, text: Text) -> tuple[Alternative, ...]:
    count = min(ALTERNATIVES, len(logs))
    best = np.argpartition(logs, -count)[-count:]
    best = best[np.argsort(-logs[best], kind="stable")]
    return tuple(Alternative(text(int(token)), float(np.exp(logs[token]))) for token in best)


__all__ = [
    "ALTERNATIVES", "compare", "first_divergence", "log_softmax", "probabilities", "summary", "write_reference",
]  # fmt: skip
