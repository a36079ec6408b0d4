"""A candidate that a server has: connected to instead of loaded, and scored by the odds that the server tells.

All network is in a thread of its own with an event loop, so that a stop takes hold whatever is waited for. What goes
wrong on the way costs this candidate alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from app.measure_messages import CandidateQuality, ServedCandidate, Told
from app.quality import verdict
from app.quality.bounds import compare, is_whole, logits_of
from app.quality.divergence import Rows, TokenValues, first_scored
from app.quality.odds import Odds
from app.quality.passages import Pieces
from app.quality.probe import PROBE
from app.quality.references import compare as compare_whole
from app.quality.subject import Subject, Vocabulary
from app.quality.tasks import Task
from app.quality.texts import Text, Window
from app.remote import address, keys
from converter.spec import Cancelled, QuenchError

if TYPE_CHECKING:
    from app.remote.client import Client
    from app.remote.scoring import Position, Scorer

TICK = 0.05
"""Seconds between looks whether a stop was asked for."""

CLOSING = 2.0
"""Seconds that hanging up may take."""

CHARACTERS_A_TOKEN = 16
"""Of a text, how much is sent to be cut: more than its first window has."""

TAIL = 8
"""Tokens at the end of a part of a text that may be cut otherwise than in the whole."""

T = TypeVar("T")
Stopped = Callable[[], bool]


class ServedSubject(Subject):
    """One served model in a quality run; :meth:`connect` takes the place of ``open``. It has no engine here."""

    is_served = True

    def __init__(self, place: ServedCandidate, index: int, top: int = 0) -> None:
        super().__init__(place.path, index)
        self.name = address.split_path(place.path)[1] or place.model or address.host(place.url)
        self._place = place
        self._top = top
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._scorer: Scorer | None = None
        self._software = ""
        self._asked = self._requests = self._width = 0
        self._seconds = 0.0
        self._whole = True

    @property
    def bytes(self) -> int:
        """Size of its weights as the server says it, 0 if it does not."""
        return self.saved_bytes

    def connect(
        self,
        vocabulary: Vocabulary,
        texts: Sequence[Text],
        windows: Sequence[Window],
        pieces: Pieces,
        stopped: Stopped,
    ) -> None:
        """Find the model and how its server tells odds; see that it cuts text as the reference does.

        ``pieces`` are the bytes of the reference's tokens, empty where they are not known. Raises ``QuenchError``:
        ``other_vocabulary`` and those of :class:`app.remote.scoring.Scorer`; ``Cancelled`` once ``stopped``.
        """
        if self._scorer is None:
            self._loop = loop = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(loop,), name="network", daemon=True).start()
            self._wait(self._open(vocabulary, texts, windows, pieces), stopped)

    def score(
        self, window: Window, reference: Rows | Odds, stopped: Stopped, on_token: Callable[[int, int], None]
    ) -> TokenValues:
        """The figures of one window; ``on_token`` hears how many of its scored tokens are done."""
        assert self._scorer is not None
        start, before = time.monotonic(), self._scorer.requests
        told: list[Position] = []
        count = len(window.tokens) - 1 - first_scored(len(window.tokens))
        try:
            self._wait(self._gather(window, told), stopped, lambda: on_token(len(told), count))
        finally:
            self._requests += self._scorer.requests - before
            self._seconds += time.monotonic() - start
        if is_whole(told, self._width):
            return compare_whole(reference, logits_of(told, self._width))
        self._whole = False
        return compare(reference, told, self._width)

    def close(self) -> None:
        """Hang up; what was found out stays."""
        loop, self._loop, client, self._client, self._scorer = self._loop, None, self._client, None, None
        if loop is not None:
            if client is not None:
                concurrent.futures.wait((asyncio.run_coroutine_threadsafe(client.close(), loop),), CLOSING)
            loop.call_soon_threadsafe(loop.stop)

    def quality(
        self, reference: Subject, tasks: Sequence[Task], thresholds: verdict.Thresholds, replicates: int
    ) -> CandidateQuality:
        found = super().quality(reference, tasks, thresholds, replicates)
        summary = self.divergence.summary(replicates)
        told = Told(
            software=self._software,
            asked=self._asked,
            missing=0.0 if self._whole else summary.missing,
            whole=self._whole,
            hidden=summary.hidden,
            requests=self._requests,
            seconds=self._seconds,
        )
        return msgspec.structs.replace(found, told=told)

    # ---- inside

    def _wait(self, work: Coroutine[Any, Any, T], stopped: Stopped, on_tick: Callable[[], None] = lambda: None) -> T:
        """Let the loop do ``work``; ``Cancelled`` as soon as it is not wanted any more."""
        assert self._loop is not None
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                done, _ = concurrent.futures.wait((running,), TICK)
                if done:
                    return running.result()
                on_tick()
                if stopped():
                    raise Cancelled
        except BaseException:
            running.cancel()
            raise

    async def _open(
        self,
        vocabulary: Vocabulary,
        texts: Sequence[Text],
        windows: Sequence[Window],
        pieces: Pieces,
    ) -> None:
        from app.remote.client import Client, pick
        from app.remote.scoring import Scorer

        place = self._place
        if not place.url:
            raise QuenchError(
                "no_server",
                "This server is not in the library any more.",
                "",
                "Add it again under the same name: Library, Add, Server.",
            )
        url = address.check_url(place.url)
        secret = keys.check(place.secret) or await asyncio.to_thread(keys.find, url)
        self._client = client = Client(url, secret, place.silence)
        state = await client.look()
        model = pick(state, place.model, url)
        self.name, self.type = model.id, model.type or model.id
        self.saved_bytes, self._software, self._width = model.bytes, state.software, vocabulary.size
        if model.vocabulary not in (0, vocabulary.size):
            raise _other(f"{model.id} has {model.vocabulary} tokens, the reference {vocabulary.size}.")
        scorer = Scorer(client, model.id, state.software, vocabulary.size, top=self._top, pieces=pieces)
        await scorer.begin()
        self._asked = scorer.asked
        await _check_cuts(scorer, vocabulary, texts, windows)
        self._scorer = scorer

    async def _gather(self, window: Window, told: list[Position]) -> None:
        assert self._scorer is not None
        async for position in self._scorer.odds(window.tokens, first_scored(len(window.tokens))):
            told.append(position)  # noqa: PERF401 - it is looked at while it grows


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _check_cuts(scorer: Scorer, vocabulary: Vocabulary, texts: Sequence[Text], windows: Sequence[Window]) -> None:
    """``QuenchError`` ``other_vocabulary`` unless the server cuts a hard text, and the beginnings of those that are
    measured, into the same tokens."""
    found = await scorer.tokenize(PROBE, special=True)
    if found is None:
        if scorer.tells_tokens:
            return  # and they are compared as they come
        raise _other("The server does not say how it cuts text into tokens, so this cannot be known.")
    if tuple(found) != vocabulary.probe:
        raise _other("It cuts text into other tokens.")
    beginnings = {window.text: window.tokens for window in windows if window.place == 0}
    for text in texts:
        tokens = beginnings.get(text.name, ())
        if not text.plain or not tokens:
            continue
        found = await scorer.tokenize(text.plain[: CHARACTERS_A_TOKEN * len(tokens)], special=False) or []
        common = min(len(tokens), len(found) - TAIL)
        if tuple(found[1:common]) != tokens[1:common]:
            raise _other(f"It cuts the text “{text.name}” into other tokens.")


def _other(detail: str) -> QuenchError:
    return QuenchError(
        "other_vocabulary",
        "The served model has another vocabulary than the reference.",
        detail,
        "Serve a file that was made from the same model.",
    )


__all__ = ["ServedSubject"]
