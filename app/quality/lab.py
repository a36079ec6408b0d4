"""One quality measurement: a reference and its candidates over the same windows of text, then over the same tasks.

Where all models fit into memory together they take each window one after another, and nothing of it is kept. Where
they do not, they are loaded in turn: the reference's logits of a batch of windows wait in a temporary file that has no
name (so it is gone even if the process is killed), and each candidate is set against them. A budget in minutes then
starts with a batch of two windows, whose times say how many more there is time for; the windows are always the same
for all. Windows of several texts come in turns, and those of one in an order drawn by chance, so that a part of a run
is a fair sample of the whole; it ends early when it is as precise as was asked.

A candidate that cannot be loaded or computed, or speaks another vocabulary, is reported and left out; the others go on.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import IO

import msgspec
import numpy as np

from app import hardware, paths
from app.engine.model import Model
from app.engine.native import KV_TYPES
from app.measure_messages import CandidateFailure, CandidateQuality, MeasureQuality, QualityResult, QualityUpdate
from app.protocol import Event, LoadOptions, Status, failed
from app.quality import tasks as graded
from app.quality import texts as texts_module
from app.quality.divergence import (
    LEAST_CLUSTERS,
    Logits,
    Rows,
    TokenValues,
    compare,
    first_scored,
    same,
    score,
    scored_per_window,
)
from app.quality.drift import states_of
from app.quality.passages import describe
from app.quality.subject import Subject, Vocabulary
from app.quality.texts import Window
from app.quality.verdict import Thresholds
from converter.spec import Cancelled, QuenchError

Emit = Callable[[Event], None]
Stopped = Callable[[], bool]

UPDATE_SECONDS = 0.5
STATUS_SECONDS = 0.2
QUICK_REPLICATES = 64

TASK_SHARE = 0.25
"""Of a budget, what is kept for tasks."""

TASK_WEIGHT = 0.1
"""A task's time in windows, until it is known."""

PILOT_WINDOWS = 2
MEMORY_SHARE = 0.6
STORE_BYTES = 8 << 30
MIN_CONTEXT, MAX_CONTEXT = 32, 1 << 17
TASK_GROUP = 16


class QualityRun:
    """Runs one :class:`MeasureQuality`. ``emit`` gets updates and status; ``stopped`` is asked before each step.

    ``on_model`` is told of every model that is loaded, so that another thread can interrupt it.
    """

    def __init__(
        self,
        command: MeasureQuality,
        emit: Emit,
        stopped: Stopped,
        on_model: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self._command = command
        self._emit = emit
        self._stopped = stopped
        self._on_model = on_model
        self._start = time.monotonic()
        self._limit = command.minutes * 60 if command.minutes > 0 else 0.0
        self._thresholds = Thresholds(command.pass_kld, command.fail_kld, command.pass_top1)
        self._tasks: list[graded.Task] = []
        self._windows: list[Window] = []
        self._left_out = 0
        self._pieces: dict[int, bytes] = {}
        self._failures: list[CandidateFailure] = []
        self._next_status = 0.0
        self._telling = threading.Lock()
        self._done = 0.0
        self._total = 1.0
        check(command)
        self.reference = Subject(command.reference, -1)
        caches = (*command.kv, *("" for _ in command.candidates))
        self.candidates = [Subject(path, index, caches[index]) for index, path in enumerate(command.candidates)]

    # ---- the whole -------------------------------------------------------------------------------------------

    def run(self) -> QualityResult:
        """Measure.

        Raises:
            QuenchError: a text or the task file is bad; the reference cannot be measured; no candidate could be.
            converter.spec.Cancelled: ``stopped`` became true, or a model was interrupted.
        """
        texts = texts_module.load(self._command.texts)
        if self._command.tasks:
            self._tasks = graded.load(self._command.tasks, run_code=self._command.run_code)
        try:
            self._open(self.reference)
            self._cut(texts)
            if self._fit_together():
                self._together()
            else:
                self._in_turn()
        finally:
            for subject in self._all():
                subject.close()
        return self._result(texts)

    def _cut(self, texts: Sequence[texts_module.Text]) -> None:
        model = self.reference.open_model
        groups = [texts_module.windows(text, model, self._command.context, self._command.chunks) for text in texts]
        self._windows = texts_module.fair_order(groups)
        self._fit_tasks(model)
        self._total = (len(self._windows) + len(self._tasks) * TASK_WEIGHT) * (1 + len(self.candidates))

    def _fit_tasks(self, model: Model) -> None:
        """Leave out tasks that are longer than the model's context, before time goes into anything."""
        given = len(self._tasks)
        self._tasks = graded.fitting(model, self._tasks)
        self._left_out = given - len(self._tasks)
        if given and not self._tasks:
            raise QuenchError(
                "context_full",
                "All tasks are longer than the model's context.",
                f"It holds {model.context} tokens.",
                "Choose other tasks, or a model with a longer context.",
            )

    def _all(self) -> list[Subject]:
        return [self.reference, *self.candidates]

    def _live(self) -> list[Subject]:
        return [subject for subject in self.candidates if subject.error is None]

    def _fit_together(self) -> bool:
        """Whether all candidates fit beside the loaded reference. Weights count twice: a CPU may repack a copy."""
        memory = self.reference.memory
        overhead = max(0, memory.anonymous - memory.weights) + (16 << 20)
        needed = sum(2 * subject.bytes + overhead for subject in self.candidates)
        if self._command.memory_mib > 0:
            return 2 * self.reference.bytes + overhead + needed <= self._command.memory_mib << 20
        return needed <= MEMORY_SHARE * hardware.memory_available()

    # ---- all at once -----------------------------------------------------------------------------------------

    def _together(self) -> None:
        for subject in self.candidates:
            self._try(subject, self._open)
        self._share_cores()
        until = self._deadline(1.0 - TASK_SHARE if self._tasks else 0.97)
        with ThreadPoolExecutor(self._abreast(), "models") as pool:
            for number, window in enumerate(self._windows):
                if number and (time.monotonic() >= until or self._precise()):
                    break
                self._status(f"Scoring window {number + 1} of {len(self._windows)}", number * (1 + len(self._live())))
                rows = self._reference_rows(window)
                self._each(pool, self._live(), partial(self._compare, window, rows))
                self._updates(self._live())
            self._each(pool, [self.reference, *self._live()], self._look_inside)
            for group in self._task_groups():
                if time.monotonic() >= self._deadline(1.0):
                    break
                self._each(pool, [self.reference, *self._live()], partial(self._answer, group))
                self._updates(self._live())

    def _share_cores(self) -> None:
        """Several small candidates take one thread each: side by side they use the cores better than in turns."""
        models = [subject.open_model for subject in self._live()]
        if len(models) > 1 and all(model.memory().weights < graded.SMALL_MODEL for model in models):
            for model in models:
                model.set_threads(1)

    def _precise(self) -> bool:
        """Whether every candidate's mean is known as precisely as was asked."""
        if not self._command.precision:
            return False
        return all(subject.divergence.precise(self._command.precision) for subject in self._live())

    def _abreast(self) -> int:
        """Models that compute at the same time. Together they take no more threads than one was allowed."""
        threads = max((subject.open_model.threads for subject in self._live()), default=1)
        return max(1, (self._command.threads or hardware.physical_cores()) // threads)

    def _each(self, pool: ThreadPoolExecutor, subjects: Sequence[Subject], act: Callable[[Subject], None]) -> None:
        """Do ``act`` for all; when this returns or raises, no model is at work any more."""
        running = [pool.submit(self._try, subject, act) for subject in subjects]
        wait(running)
        for each in running:
            each.result()

    # ---- one after another -----------------------------------------------------------------------------------

    def _in_turn(self) -> None:
        room = max(1, self._store_bytes() // self._row_bytes())
        at = 0
        while at < len(self._windows) and not self._precise():
            pilot = self._limit > 0 and at == 0 and len(self._windows) > PILOT_WINDOWS
            count = min(len(self._windows) - at, PILOT_WINDOWS if pilot else room)
            if self._command.precision:
                count = min(count, max(LEAST_CLUSTERS, at))  # doubling: models are loaded again a few times only
            if self._limit > 0 and at > 0:
                count = min(count, self._affordable(at))
                if count == 0:
                    break
            last = not pilot and (at + count == len(self._windows) or self._limit > 0)
            self._batch(self._windows[at : at + count], with_tasks=last and not self.reference.right)
            at += count
        if not self.reference.right and self._tasks:
            self._batch([], with_tasks=True)

    def _batch(self, windows: Sequence[Window], *, with_tasks: bool) -> None:
        with tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-") as file:
            store = _Store(file, len(windows), scored_per_window(self._command.context), self._vocabulary())
            self._open(self.reference)
            self._on_each(
                self.reference, windows, lambda place, window: store.keep(place, self._reference_rows(window))
            )
            self._look_inside(self.reference)
            if with_tasks:
                self._all_tasks(self.reference)
            self.reference.close()
            for subject in self._live():
                self._try(subject, lambda each: self._one(each, windows, store, with_tasks))
                subject.close()

    def _one(self, subject: Subject, windows: Sequence[Window], store: _Store, with_tasks: bool) -> None:
        self._open(subject)
        self._on_each(subject, windows, lambda place, window: self._compare(window, store.rows(place), subject))
        self._look_inside(subject)
        if with_tasks:
            self._all_tasks(subject)
        self._updates([subject], force=True)

    def _on_each(self, subject: Subject, windows: Sequence[Window], act: Callable[[int, Window], object]) -> None:
        for place, window in enumerate(windows):
            self._status(f"{subject.name}: window {place + 1} of {len(windows)}", self._done + 1)
            act(place, window)
            if subject is not self.reference:
                self._updates([subject])

    def _all_tasks(self, subject: Subject) -> None:
        until = self._deadline(1.0)
        if subject is self.reference and self._limit > 0:
            # Its share of the time for tasks says how many there will be; the candidates take the same ones.
            until = min(until, time.monotonic() + self._limit * TASK_SHARE / (1 + len(self._live())))
        for group in self._task_groups():
            if time.monotonic() >= until:
                break
            if subject is not self.reference and len(subject.right) >= len(self.reference.right):
                break
            self._answer(group, subject)
            if subject is not self.reference:
                self._updates([subject])

    def _affordable(self, seen: int) -> int:
        """How many more windows the budget allows, from the time that the first ones took."""
        share = 1.0 - TASK_SHARE if self._tasks else 0.95
        spent = time.monotonic() - self._start
        left = self._limit * share - spent
        loading = sum(subject.load_seconds for subject in self._all())
        window_seconds = max(1e-3, (spent - loading) / seen)
        return max(0, int((left - loading) / window_seconds))

    def _row_bytes(self) -> int:
        return scored_per_window(self._command.context) * self._vocabulary() * 4

    def _vocabulary(self) -> int:
        assert self.reference.vocabulary is not None
        return self.reference.vocabulary.size

    def _store_bytes(self) -> int:
        return min(STORE_BYTES, shutil.disk_usage(paths.cache()).free // 2)

    # ---- steps -----------------------------------------------------------------------------------------------

    def _open(self, subject: Subject) -> None:
        if subject.model is not None:
            return
        self._status(f"Loading {subject.name}", self._done, force=True)
        cache = subject.kv or LoadOptions().kv_type
        options = LoadOptions(context=self._command.context, threads=self._command.threads, kv_type=cache)
        outputs = self._command.context - first_scored(self._command.context)
        wanted = graded.context_needed(self._tasks)
        model = subject.open(options, outputs, wanted, lambda fraction: not self._stopped(), self._on_model)
        if subject is self.reference:
            subject.vocabulary = subject.vocabulary or Vocabulary.of(model)
        elif self.reference.vocabulary is not None:
            self.reference.vocabulary.check(model, subject.name)

    def _reference_rows(self, window: Window) -> Rows:
        first = first_scored(len(window.tokens))
        rows = score(self._logits(self.reference, window), window.tokens[first + 1 :], keep=False)
        self.reference.divergence.add(window.text, same(rows))
        return rows

    def _compare(self, window: Window, reference: Rows, subject: Subject) -> None:
        values = compare(reference, self._logits(subject, window))
        subject.divergence.add(window.text, values)
        self._remember_pieces(subject.open_model, window, values)

    def _look_inside(self, subject: Subject) -> None:
        """The states after every layer, once."""
        if not subject.states:
            self._check_stopped()
            subject.states = states_of(subject.open_model, self._windows)

    def _remember_pieces(self, model: Model, window: Window, values: TokenValues) -> None:
        """The bytes of tokens that a passage may show, while a model is there that knows them."""
        seen = {*window.tokens, *values.first["token"].tolist(), *values.reference_first["token"].tolist()}
        for token in seen - self._pieces.keys():
            self._pieces[token] = model.piece(token, special=True)

    def _logits(self, subject: Subject, window: Window) -> Logits:
        """Logits of the scored positions: a view, valid until the model's next decode."""
        self._check_stopped()
        return subject.open_model.window_logits(window.tokens, first_scored(len(window.tokens)))[:-1]

    def _task_groups(self) -> Iterator[list[graded.Task]]:
        for at in range(0, len(self._tasks), TASK_GROUP):
            yield self._tasks[at : at + TASK_GROUP]

    def _answer(self, group: Sequence[graded.Task], subject: Subject) -> None:
        self._check_stopped()
        self._status(
            f"Tasks: {len(subject.right)} of {len(self._tasks)} answered by {subject.name}",
            self._done + TASK_WEIGHT * len(group),
        )
        subject.answer(group, self._stopped)

    def _try(self, subject: Subject, act: Callable[[Subject], None]) -> None:
        """Do ``act``; an error of a candidate takes this candidate out, one of the reference ends the run."""
        if subject.error is not None:
            return
        try:
            act(subject)
        except QuenchError as error:
            if subject is self.reference:
                raise
            subject.error = error
            subject.close()
            self._failures.append(
                CandidateFailure(subject.index, subject.path, error.code, error.title, error.detail, error.hint)
            )
            self._emit(failed(error, request=subject.index + 1))

    # ---- telling ---------------------------------------------------------------------------------------------

    def _check_stopped(self) -> None:
        if self._stopped():
            raise Cancelled

    def _deadline(self, share: float) -> float:
        return self._start + self._limit * share if self._limit > 0 else float("inf")

    def _status(self, label: str, done: float, force: bool = False) -> None:
        self._check_stopped()
        with self._telling:
            self._done = min(max(done, self._done), self._total)
            now = time.monotonic()
            if now < self._next_status and not force:
                return
            self._next_status = now + STATUS_SECONDS
            self._emit(Status(label, self._done, self._total, self._seconds_left(now), hardware.anonymous_memory()))

    def _seconds_left(self, now: float) -> float | None:
        spent = now - self._start
        if self._done < 2:
            return None
        left = spent / self._done * (self._total - self._done)
        return min(left, max(0.0, self._limit - spent)) if self._limit > 0 else left

    def _updates(self, subjects: Sequence[Subject], force: bool = False) -> None:
        for subject in subjects:
            now = time.monotonic()
            if subject.error is None and subject.divergence.windows and (force or now >= subject.next_update):
                self._update(subject, self.quality(subject, QUICK_REPLICATES))
                # Figures of a long text take a while: they get at most a twentieth of the time.
                subject.next_update = now + max(UPDATE_SECONDS, 20 * len(subjects) * (time.monotonic() - now))

    def _update(self, subject: Subject, quality: CandidateQuality) -> None:
        self._emit(QualityUpdate(subject.index, subject.divergence.windows, len(self._windows), quality))

    def quality(self, subject: Subject, replicates: int = 256) -> CandidateQuality:
        """Everything known of ``subject`` so far."""
        return subject.quality(self.reference, self._tasks, self._thresholds, replicates)

    def _with_examples(self, subject: Subject, quality: CandidateQuality) -> CandidateQuality:
        """Add what can be read: the worst passages, and the tasks that flipped."""
        passages = describe(subject.divergence.values(), self._windows, self._pieces)
        return msgspec.structs.replace(quality, passages=passages, flips=subject.flips(self.reference, self._tasks))

    def _result(self, texts: Sequence[texts_module.Text]) -> QualityResult:
        measured = [subject for subject in self._live() if subject.divergence.windows]
        if self.candidates and not measured:
            raise next(subject.error for subject in self.candidates if subject.error is not None)
        reference = self.quality(self.reference)
        found = [(subject, self._with_examples(subject, self.quality(subject))) for subject in measured]
        for subject, quality in found:
            self._update(subject, quality)
        return QualityResult(
            reference=reference,
            candidates=tuple(quality for _, quality in found),
            tokens=sum(part.tokens for part in reference.slices.values()),
            context=self._command.context,
            texts=tuple(text.name for text in texts),
            seconds=time.monotonic() - self._start,
            failures=tuple(self._failures),
            tasks_left_out=self._left_out,
        )


def check(command: MeasureQuality) -> None:
    """Refuse a command that makes no sense; QuenchError with exit status 2."""
    problem = ""
    if not MIN_CONTEXT <= command.context <= MAX_CONTEXT:
        problem = f"A window of {command.context} tokens; it must be {MIN_CONTEXT} to {MAX_CONTEXT}."
    elif command.chunks < 0 or command.minutes < 0 or command.memory_mib < 0:
        problem = "Windows, minutes and memory cannot be negative."
    elif len(command.kv) > len(command.candidates) or any(kv and kv not in KV_TYPES for kv in command.kv):
        problem = f"A cache of the type {', '.join(command.kv)}; there are {', '.join(KV_TYPES)}."
    elif not 0 <= command.precision < 1:
        problem = "The precision must be a part of the divergence, from 0 to 1."
    elif not 0 < command.pass_kld <= command.fail_kld or not 0 <= command.pass_top1 <= 1:
        problem = "The limits of the verdict must be 0 < pass <= fail, and a share between 0 and 1."
    if problem:
        raise QuenchError("bad_options", "This cannot be measured.", problem, "", exit_status=2)


class _Store:
    """Logits of the reference for some windows, in a file mapped into memory; the other facts in memory."""

    def __init__(self, file: IO[bytes], windows: int, rows: int, vocabulary: int) -> None:
        self._facts: dict[int, Rows] = {}
        shape = (max(1, windows), rows, vocabulary)
        self._logits = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)

    def keep(self, place: int, rows: Rows) -> None:
        self._logits[place] = rows.logits
        self._facts[place] = Rows(self._logits[place], rows.right, rows.nll)

    def rows(self, place: int) -> Rows:
        return self._facts[place]


__all__ = ["QualityRun", "check"]
