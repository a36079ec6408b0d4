"""From a reference that computes to answers that are kept: which coding its states need, and rows of logits again.

A :class:`Recorder` is given to the reference before it is loaded. On the first tokens it finds out what the engine does
with the final hidden state, and takes the smallest coding whose logits are the engine's own to within ``EXACT`` nats;
where none comes within ``TOLERATED``, or the graph ends in a way that is not known, it refuses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import kernels
from app import hardware, paths
from app.engine.head import Head, HeadCapture, Shape, unknown
from app.engine.model import Model
from app.quality import matrices
from app.quality.codings import CODINGS, Bytes, Floats, usable
from app.quality.divergence import Logits, Rows, Tokens, first_scored, score, scored_per_window
from app.quality.fingerprint import Check, Extent, Facts, Fingerprint, SavedAnswer, Writer, base_file_bytes, digest_of
from app.quality.odds import Layout, Odds, sample
from app.quality.subject import Subject
from app.quality.texts import Window
from converter.spec import QuenchError

EXACT = 1e-7
TOLERATED = 1e-5
"""Mean divergence of the logits of kept states from the engine's, in nats: wanted, and the most that is accepted."""

PROBE_TOKENS = 64
SIZE_SHARE = 1 / 30
"""The largest part of a base file of llama-perplexity's that a fingerprint may be where it can be that small."""

FILLED = 0.995
"""How much of that the records may fill: the facts come on top."""

SMALL_MATRIX = 8 << 20
LAYOUTS = tuple(Layout(min(kept, 128), kept) for kept in (384, 256, 192, 128, 96, 64, 48, 32, 24, 12))
"""Of a position's sampled odds: the first that there is room for, or the last."""


class Recorder:
    """Give :attr:`capture` to the model ``path`` when it is loaded, :meth:`settle` once, then use the rest.

    ``shape``, ``coding`` and ``check`` are known after :meth:`settle`. Everything computes on ``threads`` threads (0:
    all cores).
    """

    coding: str
    check: Check
    shape: Shape

    def __init__(self, path: str, threads: int) -> None:
        self.path = path
        self.capture = HeadCapture()
        self._threads = threads or hardware.physical_cores()
        self._head: Head | None = None

    @property
    def settled(self) -> bool:
        return self._head is not None

    def settle(self, model: Model, window: Window) -> None:
        """Find the coding on the beginning of ``window``; raises QuenchError ``unknown_head``."""
        tokens = window.tokens[:PROBE_TOKENS]
        with self.listening():
            logits = model.window_logits(tokens, 0).copy()
        states = self.capture.take()
        shape = self.capture.shape
        if shape is None or states.shape != (len(tokens), shape.width) or shape.vocabulary != model.vocabulary:
            raise unknown("Its final states are not one a token.")
        matrix = matrices.read(self.path, shape)
        if matrix is None:
            raise unknown(f"{shape.name} in the file is not the matrix that the engine uses.")
        self.shape = shape
        self._head = Head(shape, matrix, self.capture.steps, self.capture.bias, self._threads)
        try:
            self.coding, self.check = self._choose(states, logits)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def listening(self) -> Iterator[None]:
        """What the model decodes in here is kept for :meth:`states`."""
        self.capture.on = True
        try:
            yield
        finally:
            self.capture.on = False

    def states(self, logits: Logits) -> Bytes:
        """The coded states that just gave ``logits`` of the scored positions (one more was asked for).

        Raises:
            QuenchError: ``unknown_head`` when they do not give these logits: the first row is compared.
        """
        states = self.capture.take()[:-1]
        if len(states) != len(logits):
            raise unknown("Its final states are not one a token.")
        coded = CODINGS[self.coding].encode(states)
        again = self._product(CODINGS[self.coding].decode(coded[:1], self.shape.width))
        found = kernels.compare_rows(logits[:1], again)
        if not found.kl[0] <= 10 * TOLERATED:
            raise unknown(f"Its states do not give its logits: the odds are {found.kl[0]:.2g} nats apart.")
        return coded

    def rows(self, coded: Bytes, right: Tokens) -> Rows:
        """Logits and facts of coded states."""
        logits = self._product(CODINGS[self.coding].decode(coded, self.shape.width))
        return score(logits, right, keep=False, threads=self._threads)

    def matrix(self) -> Bytes:
        """The output matrix as the reference's file has it."""
        found = matrices.read(self.path, self.shape)
        if found is None:
            raise unknown("The reference's file changed meanwhile.")
        return found

    def close(self) -> None:
        if self._head is not None:
            self._head.close()
            self._head = None

    def _product(self, states: Floats) -> Logits:
        assert self._head is not None
        return self._head.logits(states)

    def _choose(self, states: Floats, logits: Logits) -> tuple[str, Check]:
        """The smallest coding that is exact, else the best one."""
        best: tuple[str, Check] | None = None
        for name, coding in sorted(CODINGS.items(), key=lambda each: each[1].bytes / each[1].block):
            if not usable(name, states):
                continue
            again = self._product(coding.decode(coding.encode(states), states.shape[1]))
            kld = float(kernels.compare_rows(logits, again).kl.mean())
            check = Check(kld, float(np.abs(again - logits).max()))
            if kld <= EXACT:
                return name, check
            if kld == kld and (best is None or kld < best[1].kld):  # noqa: PLR0124 - NaN is not equal to itself
                best = name, check
        if best is None or best[1].kld > TOLERATED:
            apart = "are no numbers" if best is None else f"are {best[1].kld:.2g} nats apart"
            raise unknown(f"Its final states times {self.shape.name} do not give its logits: the odds {apart}.")
        return best


# ---- for a while ---------------------------------------------------------------------------------------------------


class StateStore:
    """States of some windows in a file without a name, which is gone even if the process is killed."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._file = tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-")  # noqa: SIM115 - closed in close()
        self._known: dict[int, tuple[int, int, Tokens]] = {}

    def keep(self, place: int, rows: Rows, coded: Bytes | None) -> None:
        assert coded is not None
        start = self._file.seek(0, 2)
        self._file.write(coded.data)
        self._known[place] = (start, len(coded), rows.right)

    def rows(self, place: int) -> Rows:
        start, count, right = self._known[place]
        width = CODINGS[self._recorder.coding].row_bytes(self._recorder.shape.width)
        self._file.seek(start)
        data = np.frombuffer(self._file.read(count * width), np.uint8)
        return self._recorder.rows(data.reshape(count, width), right)

    def close(self) -> None:
        self._file.close()


# ---- for good ------------------------------------------------------------------------------------------------------


class Scribe:
    """Writes a fingerprint window by window while the reference computes. ``finish`` or ``abandon`` it."""

    def __init__(self, recorder: Recorder, path: Path, context: int, embed: str = "auto") -> None:
        self._recorder = recorder
        self._writer = Writer(path)
        self._context = context
        self._embed = embed
        self._texts: list[str] = []
        self._windows: list[tuple[int, int]] = []
        self._layout: Layout | None = None
        self._embedded = embed == "always"

    def keep(self, window: Window, rows: Rows, coded: Bytes) -> None:
        """One more window: its rows, and their states as :meth:`Recorder.states` gave them."""
        if window.text not in self._texts:
            self._texts.append(window.text)
        if not self._windows:
            small = self._recorder.matrix().nbytes <= SMALL_MATRIX
            self._embedded = self._embed == "always" or (self._embed == "auto" and small)
            if not self._embedded:
                self._layout = room_for_odds(self._recorder.shape.vocabulary, self._context, coded.shape[1])
        self._writer.put(np.asarray(window.tokens, "<i4").tobytes())
        self._writer.put(coded)
        if self._layout is not None:
            self._writer.put(sample(rows, self._layout, len(self._windows)).tobytes())
        self._windows.append((self._texts.index(window.text), window.place))

    def finish(self, reference: Subject, answers: Sequence[SavedAnswer], asked: str, program: str) -> int:
        """Put the file in its place; its size in bytes."""
        assert reference.vocabulary is not None
        recorder, writer = self._recorder, self._writer
        if not self._windows:
            raise QuenchError("nothing_scored", "No window was scored.", "", "Choose a text, or more minutes.")
        matrix = recorder.matrix()
        digest = digest_of(matrix)
        inside = writer.put_aligned(matrix.reshape(-1)) if self._with_matrix(matrix.nbytes) else Extent()
        bias = recorder.capture.bias
        placed = writer.put_aligned(bias.astype("<f4").tobytes()) if bias is not None else Extent()
        facts = Facts(
            program=program,
            name=reference.name,
            content=reference.content,
            type=reference.type,
            model_bytes=reference.bytes,
            tokens_per_second=reference.tokens_per_second,
            memory=reference.memory,
            size=reference.vocabulary.size,
            pieces=reference.vocabulary.pieces,
            probe=reference.vocabulary.probe,
            context=self._context,
            texts=tuple(self._texts),
            windows=tuple(self._windows),
            shape=recorder.shape,
            steps=recorder.capture.steps,
            coding=recorder.coding,
            matrix_digest=digest,
            check=recorder.check,
            top=self._layout.top if self._layout is not None else 0,
            tail=self._layout.tail if self._layout is not None else 0,
            matrix=inside,
            bias=placed,
            asked=asked,
            answers=tuple(answers),
        )
        matrices.remember(digest, reference.path)
        return writer.finish(facts)

    def _with_matrix(self, size: int) -> bool:
        """Inside if it is small, or if the file is then still small and not mostly matrix; or as asked for."""
        if self._embedded or self._embed == "never":
            return self._embedded
        positions = len(self._windows) * scored_per_window(self._context)
        states = positions * CODINGS[self._recorder.coding].row_bytes(self._recorder.shape.width)
        records = self._writer.written
        limit = base_file_bytes(self._recorder.shape.vocabulary, positions) * SIZE_SHARE
        return records + size <= 0.98 * limit and size <= 2 * states

    def abandon(self) -> None:
        self._writer.abandon()


def room_for_odds(vocabulary: int, context: int, state_bytes: int) -> Layout:
    """As many sampled odds of a position as leave it within the size beside a state of ``state_bytes``; where the state
    alone is too large for that, an eighth of it."""
    tokens = 4 * context / scored_per_window(context)
    room = FILLED * SIZE_SHARE * base_file_bytes(vocabulary, 1) - tokens - state_bytes
    if room < LAYOUTS[-1].dtype.itemsize:
        room = state_bytes / 8
    return next((layout for layout in LAYOUTS if layout.dtype.itemsize <= room), LAYOUTS[-1])


class SavedReference:
    """A fingerprint in the place of a reference: rows of each of its windows.

    ``exact``: by states and the output matrix, which was found in ``matrix_from``; else by sampled odds.
    """

    def __init__(self, saved: Fingerprint, candidates: Sequence[str], threads: int) -> None:
        self.saved = saved
        self.facts = facts = saved.facts
        self.windows = [saved.window(place) for place in range(len(saved))]
        matrix, self.matrix_from = saved.matrix(), saved.path
        if matrix is not None and digest_of(matrix) != facts.matrix_digest:
            matrix = None  # cannot be: the checksum was right
        if matrix is None:
            beside = sorted(str(each) for each in Path(saved.path).parent.glob("*.gguf"))[:64]
            matrix, self.matrix_from = matrices.find(facts.shape, facts.matrix_digest, [*candidates, *beside])
        self._threads = threads or hardware.physical_cores()
        self._head: Head | None = None
        if matrix is not None:
            self._head = Head(facts.shape, matrix, facts.steps, saved.bias(), self._threads)

    @property
    def exact(self) -> bool:
        return self._head is not None

    def rows(self, place: int) -> Rows | Odds:
        """The reference's odds at the scored positions of window ``place``."""
        window, facts = self.windows[place], self.facts
        right = np.asarray(window.tokens[first_scored(facts.context) + 1 :], np.int64)
        if self._head is None:
            assert facts.layout is not None
            return Odds(facts.layout, self.saved.odds(place), right)
        states = CODINGS[facts.coding].decode(self.saved.states(place), facts.shape.width)
        return score(self._head.logits(states), right, keep=False, threads=self._threads)

    def close(self) -> None:
        if self._head is not None:
            self._head.close()
            self._head = None
        self.saved.close()


__all__ = ["Recorder", "SavedReference", "Scribe", "StateStore", "room_for_odds"]
