"""How sure a served model is of an answer, token by token: what :mod:`.scoring` is for models of this machine.

A candidate is asked by the reference's own tokens, and must cut the answer as the reference does. A reference is asked
how it cuts the conversation and its answer. Where the likeliest tokens are told and not all, divergences are lower
bounds (:mod:`app.quality.lower_bound`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.compare import reference_file
from app.compare.reference_file import Answer, Reference, Told
from app.compare.scoring import ALTERNATIVES, summary
from app.protocol import Alternative, Score, Scored, ScoredToken
from app.quality.lower_bound import bound, rounding
from app.quality.probe import PROBE
from app.remote.address import host
from app.remote.client import Client
from app.remote.scoring import Position, Scorer
from converter.spec import QuenchError

LARGEST = 1 << 18
"""Tokens of a vocabulary whose size nobody says: more than any has today."""

LONGEST_NAME = 200
"""Characters of a token's name that are kept."""

_WHO_DOES = "llama.cpp's server and vLLM do. Compare its answers by reading."

Ids = npt.NDArray[np.int64]
Logs = npt.NDArray[np.float64]


class ServedScorer:
    """The model ``model`` of a server; ``vocabulary`` is the number of its tokens as the server says it, or 0."""

    def __init__(self, client: Client, model: str, software: str, vocabulary: int) -> None:
        self._client = client
        self._model = model
        self._software = software
        self._vocabulary = vocabulary
        self._scorers: dict[int, Scorer] = {}

    async def score(self, command: Score) -> Scored:
        """Answer ``command``.

        Raises ``QuenchError``: those of :class:`app.remote.scoring.Scorer` (``no_probabilities`` also for a server
        that tells of each word alone, or does not say how it cuts text), ``different_tokens``, and those of
        :mod:`.reference_file`.
        """
        if command.against is None:
            return await self._as_reference(command)
        with reference_file.read(command.against) as reference:
            return await self._as_candidate(command, reference)

    async def _as_reference(self, command: Score) -> Scored:
        scorer = await self._scorer(self._vocabulary)
        prompt = await (scorer.prompt(command.messages) if command.messages else scorer.opening())
        answer = await _cut(scorer, command.answer)
        probe = await scorer.tokenize(PROBE, special=True)
        if prompt is None or answer is None or probe is None:
            raise self._no("It does not say how it cuts a conversation into tokens.")
        if not prompt:
            raise QuenchError("empty_prompt", "The model has no token that begins a text.", "", "Give a prompt too.")
        told = [each async for each in scorer.odds([*prompt, *answer], len(prompt) - 1)] if answer else []
        tokens = tuple(
            ScoredToken(_name(each, token), math.exp(_of(each, token)), 0.0, True, _top(each), _top(each))
            for each, token in zip(told, answer, strict=True)
        )
        if command.write is not None:
            found = (tuple(prompt), tuple(answer), tuple(probe), tokens)
            if self._vocabulary and all(len(each.ids) == self._vocabulary for each in told):
                rows = (_row(each, self._vocabulary)[None] for each in told)
                reference_file.write(command.write, len(answer), self._vocabulary, rows, lambda: Answer(*found))
            else:
                parts = tuple(
                    Told(each.ids.astype("<i4").tobytes(), each.logs.astype("<f8").tobytes()) for each in told
                )
                reference_file.write(
                    command.write, len(answer), self._vocabulary, (), lambda: Answer(*found, told=parts)
                )
        return summary(command.request, tokens)

    async def _as_candidate(self, command: Score, reference: Reference) -> Scored:
        if self._vocabulary and reference.vocabulary not in (0, self._vocabulary):
            raise self._other(f"It has {self._vocabulary} tokens, the reference {reference.vocabulary}.")
        width = reference.vocabulary or self._vocabulary
        scorer = await self._scorer(width)
        known = reference.answer
        probe, answer = await scorer.tokenize(PROBE, special=True), await _cut(scorer, command.answer)
        if probe is None or answer is None:
            raise self._no(
                "It does not say how it cuts text into tokens, so nobody can tell whether they are the same."
            )
        if tuple(probe) != known.probe or tuple(answer) != known.answer:
            raise self._other("It cuts text into other tokens.")
        tokens, bounds = [], False
        asked = scorer.odds([*known.prompt, *known.answer], len(known.prompt) - 1)
        index = 0
        if known.answer:
            async for told in asked:
                kld, first, whole = self._divergence(reference, index, told, width)
                token, theirs = known.answer[index], known.tokens[index]
                probability = math.exp(_of(told, token))
                agree = first == int(told.ids[told.logs.argmax()])
                tokens.append(ScoredToken(theirs.text, probability, kld, agree, _top(told), theirs.top))
                bounds = bounds or not whole
                index += 1
        return summary(command.request, tuple(tokens), bounds=bounds)

    @staticmethod
    def _divergence(reference: Reference, index: int, told: Position, width: int) -> tuple[float, int, bool]:
        """Nats at a position, the reference's first token there, and whether both told everything."""
        loose, all_told = rounding(width or LARGEST), len(told.ids) == width
        if not reference.whole:
            ids, logs = reference.part(index)
            _, theirs, ours = np.intersect1d(ids, told.ids, return_indices=True)
            least = bound(logs[theirs], told.logs[ours], loose, loose) if len(theirs) else 0.0
            return least, int(ids[logs.argmax()]), False
        row = reference.rows(1)[0]
        first = int(row.argmax())
        if all_told:
            return max(0.0, float((np.exp(row) * (row - _row(told, width))).sum())), first, True
        return bound(row[told.ids], told.logs, loose), first, False

    async def _scorer(self, vocabulary: int) -> Scorer:
        """One that has found out how this server is asked."""
        size = vocabulary or LARGEST
        found = self._scorers.get(size)
        if found is None:
            found = Scorer(self._client, self._model, self._software, size)
            try:
                await found.begin()
            except QuenchError as error:
                if error.code == "no_probabilities":
                    raise QuenchError(error.code, error.title, error.detail, _WHO_DOES) from error
                raise
            if not found.asked:
                raise self._no("It tells of each word alone, not what else the model would have said.")
            self._scorers[size] = found
        return found

    def _no(self, why: str) -> QuenchError:
        return QuenchError(
            "no_probabilities",
            "This server does not say how likely a given text is.",
            f"{host(self._client.url)}. {why}",
            _WHO_DOES,
        )

    def _other(self, detail: str) -> QuenchError:
        return QuenchError(
            "different_tokens",
            "The served model splits text into other tokens than the reference.",
            f"{host(self._client.url)}. {detail}",
            "Compare models of the same vocabulary.",
        )


async def _cut(scorer: Scorer, text: str) -> list[int] | None:
    """Tokens of ``text`` as it stands after a prompt. Vocabularies that put a space before a text's first word would
    put one into the middle here: a line feed before the text takes it, where it stays a token of its own."""
    feed, fed = await scorer.tokenize("\n", special=False), await scorer.tokenize("\n" + text, special=False)
    plain = await scorer.tokenize(text, special=False)
    if feed is None or fed is None or plain is None:
        return None
    # With a space put in front the feed is two tokens: the space, and itself.
    return fed[len(feed) :] if len(feed) > 1 and fed[: len(feed)] == feed else plain


def _of(told: Position, token: int) -> float:
    """ln of the odds of ``token``, or the most that they can be."""
    place = np.flatnonzero(told.ids == token)
    if len(place):
        return float(told.logs[place[0]])
    missing = max(1.0 - float(np.exp(told.logs).sum()), 2.0**-149)
    return min(float(told.logs.min()), math.log(missing))


def _row(told: Position, width: int) -> Logs:
    row = np.empty(width)
    row[told.ids] = told.logs
    return row


def _name(told: Position, token: int) -> str:
    place: Sequence[int] = np.flatnonzero(told.ids == token).tolist()
    return _called(told, place[0]) if place else f"[{token}]"


def _called(told: Position, place: int) -> str:
    name = told.names[place] if place < len(told.names) else ""
    return name[:LONGEST_NAME] or f"[{int(told.ids[place])}]"


def _top(told: Position) -> tuple[Alternative, ...]:
    best = np.argsort(-told.logs, kind="stable")[:ALTERNATIVES]
    return tuple(Alternative(_called(told, int(place)), math.exp(told.logs[place])) for place in best)


__all__ = ["LARGEST", "ServedScorer"]
