"""The reference's side of a quality run: a model that computes, or a fingerprint that was saved of one.

Whatever it is, :meth:`Reference.rows` gives the odds that candidates are set against, window by window. A model's
answers can be written down on the way, into a file for good or into one that lasts as long as the run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from app import hardware, paths
from app.fingerprint_files import is_fingerprint
from app.measure_messages import FingerprintUse, MeasureQuality
from app.quality import divergence, odds, texts
from app.quality import tasks as graded
from app.quality.codings import Bytes
from app.quality.divergence import Logits, Rows, TokenValues, first_scored, same, score, scored_per_window
from app.quality.fingerprint import Fingerprint, SavedAnswer, base_file_bytes, find
from app.quality.grading import Chosen, Graded
from app.quality.odds import Odds
from app.quality.recording import Recorder, SavedReference, Scribe, StateStore
from app.quality.subject import Subject
from app.quality.texts import Window
from converter.spec import QuenchError

EMBED = ("auto", "always", "never")


def compare(reference: Rows | Odds, candidate: Logits, *, threads: int = 1) -> TokenValues:
    """Per-token divergence of a candidate's logits, as :func:`app.quality.divergence.compare` with its errors."""
    if isinstance(reference, Odds):
        return odds.compare(reference, candidate)
    return divergence.compare(reference, candidate, threads=threads)


class Store(Protocol):
    """Where rows of the reference wait for candidates that are loaded later; windows by their number in the run."""

    def keep(self, number: int, rows: Rows, coded: Bytes | None) -> None: ...
    def rows(self, number: int) -> Rows | Odds: ...
    def close(self) -> None: ...


class Reference:
    """See the module. ``subject`` is the reference as the run knows it; ``windows`` are known after :meth:`cut`.

    Raises:
        QuenchError: those of :class:`app.quality.fingerprint.Fingerprint` and its ``Writer``; ``other_context``.
    """

    def __init__(self, command: MeasureQuality, subject: Subject) -> None:
        self._command = command
        self.subject = subject
        self.windows: list[Window] = []
        self.saved: SavedReference | None = None
        self._places: list[int] = []
        self._recorder: Recorder | None = None
        self._scribe: Scribe | None = None
        self._threads = command.threads or hardware.physical_cores()
        self.context = command.context
        if is_fingerprint(command.reference):
            self._open_saved()
        elif command.fingerprint:
            self._recorder = self._record()
            self._scribe = Scribe(
                self._recorder, Path(command.fingerprint), command.context, command.fingerprint_matrix
            )

    def cut(self, given: Sequence[texts.Text], tokenizer: texts.Tokenizer | None) -> list[Window]:
        """The windows of the run: of the ``given`` texts, or of a fingerprint's where there are none."""
        command = self._command
        if given and tokenizer is not None:
            groups = [texts.windows(text, tokenizer, self.context, command.chunks) for text in given]
            self.windows = texts.fair_order(groups)
            if self.saved is not None:
                self._places = find(self.saved.windows, self.windows)
        elif self.saved is not None:
            windows = self.saved.windows
            self._places = [number for number, window in enumerate(windows) if not 0 < command.chunks <= window.place]
            self.windows = [self.saved.windows[place] for place in self._places]
        return self.windows

    def expect_turns(self) -> None:
        """Say, before the model is loaded, that its answers will have to wait for candidates."""
        if self.saved is None and self._recorder is None:
            self._recorder = self._record()

    def begin(self) -> None:
        """The model is loaded and the windows are cut: find out how its states are kept.

        Raises:
            QuenchError: ``unknown_head`` if they cannot be, and a fingerprint was asked for.
        """
        if self._recorder is None or self._recorder.settled:
            return
        try:
            self._recorder.settle(self.subject.open_model, self.windows[0])
        except QuenchError as error:
            if self._scribe is not None or error.code != "unknown_head":
                raise
            self._recorder = None  # logits have to wait instead, which only takes more room

    def rows(self, number: int, logits: Callable[[Window], Logits], store: Store | None = None) -> Rows | Odds:
        """The reference's odds in window ``number``; ``logits`` lets the model compute them, and ``store`` keeps them.

        Logits are valid until the model's next decode.
        """
        window = self.windows[number]
        if self.saved is not None:
            found = self.saved.rows(self._places[number])
            if self.subject.divergence.windows == number:
                self.subject.divergence.add(window.text, same(found.nll))
            return found
        right = window.tokens[first_scored(len(window.tokens)) + 1 :]
        coded = None
        if self._recorder is None:
            rows = score(logits(window), right, keep=False, threads=self._threads)
        else:
            with self._recorder.listening():
                rows = score(logits(window), right, keep=False, threads=self._threads)
            coded = self._recorder.states(rows.logits)
        if self._scribe is not None:
            assert coded is not None
            self._scribe.keep(window, rows, coded)
        if store is not None:
            store.keep(number, rows, coded)
        self.subject.divergence.add(window.text, same(rows.nll))
        return rows

    @property
    def writes(self) -> bool:
        """Whether answers are saved for good: then all are needed, whatever candidates were compared with already."""
        return self._scribe is not None

    @property
    def keeps_states(self) -> bool:
        """Whether what waits for candidates is small."""
        return self._recorder is not None

    def store(self, first: int, count: int) -> Store:
        """Room for the windows from ``first`` on."""
        if self._recorder is not None:
            return StateStore(self._recorder)
        assert self.subject.vocabulary is not None
        return _LogitStore(first, count, scored_per_window(self.context), self.subject.vocabulary.size)

    def known_tasks(self, tasks: list[graded.Task]) -> list[graded.Task]:
        """Those of ``tasks`` that a fingerprint has the reference's answers to, or all if it has none."""
        if self.saved is None:
            return tasks
        answers = {answer.task: answer for answer in self.saved.facts.answers}
        known = [task for task in tasks if _task_id(task) in answers]
        found = [answers[_task_id(task)] for task in known]
        self.subject.answers += [
            Graded(answer.right, answer.reply, Chosen(*answer.choice) if answer.choice is not None else None)
            for answer in found
        ]
        self.subject.asked = self.saved.facts.asked
        return known or tasks

    def finish(self, tasks: Sequence[graded.Task]) -> FingerprintUse | None:
        """Put a fingerprint that was asked for in its place; what was written, or what was used."""
        if self._scribe is not None:
            assert self._command.fingerprint is not None
            answers = [_saved_answer(task, answer) for task, answer in zip(tasks, self.subject.answers, strict=False)]
            self._scribe.finish(self.subject, answers, self.subject.asked, version("quench-studio"))
            self._scribe = None
            with Fingerprint(self._command.fingerprint) as written:
                return _use(written, written.facts.matrix.length > 0, self._command.fingerprint, written=True)
        if self.saved is not None:
            return _use(self.saved.saved, self.saved.exact, self.saved.matrix_from, written=False)
        return None

    def close(self) -> None:
        """Give everything back; a file that was not finished is gone."""
        if self._scribe is not None:
            self._scribe.abandon()
        if self._recorder is not None:
            self._recorder.close()
        if self.saved is not None:
            self.saved.close()

    # ---- inside

    def _record(self) -> Recorder:
        recorder = Recorder(self._command.reference, self._command.threads)
        self.subject.capture = recorder.capture
        return recorder

    def _open_saved(self) -> None:
        command, subject = self._command, self.subject
        saved = Fingerprint(command.reference)
        facts = saved.facts
        if command.context not in (0, facts.context):
            saved.close()
            raise QuenchError(
                "other_context",
                "The reference's answers were saved with another window.",
                f"Windows of {command.context} tokens were asked for; the file has windows of {facts.context}.",
                f"Leave the window out, or choose {facts.context}.",
                exit_status=2,
            )
        self.context = facts.context
        self.saved = SavedReference(saved, command.candidates, command.threads)
        subject.name, subject.type, subject.content = facts.name, facts.type, facts.content
        subject.saved_bytes, subject.memory = facts.model_bytes, facts.memory
        subject.tokens_per_second, subject.vocabulary = facts.tokens_per_second, facts.vocabulary


def _use(saved: Fingerprint, exact: bool, matrix: str, *, written: bool) -> FingerprintUse:
    facts = saved.facts
    base = base_file_bytes(facts.size, len(saved) * facts.scored)
    return FingerprintUse(
        saved.path, saved.size, base, written, facts.name, exact, matrix if exact else "", facts.check.kld
    )


def _saved_answer(task: graded.Task, answer: Graded) -> SavedAnswer:
    choice = (answer.choice.raw, answer.choice.normalised) if answer.choice is not None else None
    return SavedAnswer(_task_id(task), answer.right, answer.text, choice)


def _task_id(task: graded.Task) -> bytes:
    return hashlib.blake2b(repr(task).encode(), digest_size=16).digest()


class _LogitStore:
    """Logits of the reference for some windows, in a file mapped into memory; the other facts in memory."""

    def __init__(self, first: int, windows: int, rows: int, vocabulary: int) -> None:
        self._first = first
        self._facts: dict[int, Rows] = {}
        self._file = tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-")  # noqa: SIM115 - closed in close()
        shape = (max(1, windows), rows, vocabulary)
        self._logits = np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape)

    def keep(self, number: int, rows: Rows, coded: Bytes | None) -> None:
        place = number - self._first
        self._logits[place] = rows.logits
        self._facts[number] = Rows(self._logits[place], rows.right, rows.nll)

    def rows(self, number: int) -> Rows:
        return self._facts[number]

    def close(self) -> None:
        self._file.close()


__all__ = ["EMBED", "Reference", "Store", "compare"]
