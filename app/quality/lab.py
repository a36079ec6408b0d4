"""One quality measurement: a reference and its candidates over the same windows of text, then over the same tasks.

Where all models fit into memory together they take each window one after another, and nothing of it is kept. Where
they do not, they are loaded in turn: what the reference answered waits in a temporary file that has no name (so it is
gone even if the process is killed), and each candidate is set against it. That are final hidden states, a few kilobytes
a token, where these give the logits again, else the logits themselves, a batch of windows at a time. A budget in
minutes then starts with a batch of two windows, whose times say how many more there is time for; the windows are always
the same for all. Windows of several texts come in turns, and those of one in an order drawn by chance, so that a part
of a run is a fair sample of the whole; it ends early when it is as precise as was asked.

The reference may be a fingerprint (:mod:`app.quality.references`): nothing of it is loaded then.

Every finished window and group of tasks goes into a journal (:mod:`app.quality.journal`). A run of the same command
that finds one takes these values from it, in the same order, and computes what is missing.

A candidate that cannot be loaded or computed, or speaks another vocabulary, is reported and left out; the others go on.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from app import hardware, paths
from app.engine.loading import check_file
from app.engine.model import Model
from app.engine.native import KV_TYPES
from app.files import refuse_output
from app.fingerprint_files import is_fingerprint
from app.measure_messages import (
    CandidateFailure,
    CandidateQuality,
    FingerprintUse,
    MeasureQuality,
    QualityResult,
    QualityUpdate,
)
from app.protocol import Event, LoadOptions, Status, failed
from app.quality import tasks as graded
from app.quality import texts as texts_module
from app.quality.divergence import LEAST_CLUSTERS, Logits, Rows, TokenValues, first_scored, scored_per_window
from app.quality.drift import states_of
from app.quality.grading import Graded
from app.quality.journal import IN_TURN, TOGETHER, Progress, identity_of, identity_of_model
from app.quality.limits import MAX_CONTEXT, MIN_CONTEXT
from app.quality.odds import Odds
from app.quality.passages import describe
from app.quality.references import EMBED, Reference, Store, compare
from app.quality.subject import Subject, Vocabulary, read_header
from app.quality.texts import Window
from app.quality.verdict import Thresholds
from converter.identity import content_id
from converter.spec import Cancelled, QuenchError

if TYPE_CHECKING:
    from app.quality.served import ServedSubject

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
        self._side: Reference | None = None
        self._progress: Progress | None = None
        self._context = command.context
        self._texts: Sequence[texts_module.Text] = ()
        caches = (*command.kv, *("" for _ in command.candidates))
        self.candidates = [subject_of(command, index, caches[index]) for index in range(len(command.candidates))]

    # ---- the whole -------------------------------------------------------------------------------------------

    def run(self) -> QualityResult:
        """Measure.

        Raises:
            QuenchError: a text or the task file is bad; the reference cannot be measured; no candidate could be.
            converter.spec.Cancelled: ``stopped`` became true, or a model was interrupted.
        """
        saved = is_fingerprint(self._command.reference)
        texts = texts_module.load(self._command.texts) if self._command.texts or not saved else []
        self._texts = texts
        if self._command.tasks and (self._local() or self._command.fingerprint or not self.candidates):
            self._tasks = graded.load(self._command.tasks, run_code=self._command.run_code)
        self._status("Reading the reference's answers" if saved else "Looking at the reference", 0, force=True)
        self._side = side = Reference(self._command, self.reference)
        self._context = side.context
        self._tasks = graded.stretched(self._tasks, self._needle_length())
        self._progress = kept = Progress(self._command)
        try:
            for subject in self._local():  # before minutes go into the reference
                self._try(subject, lambda each: check_file(each.path))
            self._refuse_nothing()
            in_turn = kept.way == IN_TURN  # its values were compared with answers that had waited: go on so
            if not saved and (in_turn or not self._fit_by_size()):
                side.expect_turns()
            self._open_reference(texts)
            side.begin()
            in_turn = in_turn or not self._fit_together()
            self._go_on(IN_TURN if in_turn else TOGETHER)
            if in_turn:
                self._in_turn()
            else:
                self._together()
            used = side.finish(self._tasks)
            result = self._result(used)
            kept.finished()
        finally:
            kept.close()
            for subject in self._all():
                subject.close()
            side.close()
        return msgspec.structs.replace(result, notes=tuple(kept.notes))

    @property
    def kept(self) -> Progress:
        """The journal of the run."""
        assert self._progress is not None
        return self._progress

    def _go_on(self, way: str) -> None:
        """Tie the journal to what is measured now, and take up what it has."""
        for subject in self._all():
            if not subject.is_served:  # what a server has may change behind its name: nothing of it is kept
                subject.content = subject.content or content_id(subject.path)
            role = "reference" if subject is self.reference else subject.kv
            subject.identity = identity_of_model(subject.path, subject.content, role)
        identity = identity_of(self._command, self.reference.identity, self._windows, self._tasks)
        groups = -(-len(self._tasks) // TASK_GROUP)
        self.kept.bind(identity, way, (len(self._windows) + groups) * len(self._all()))
        self._start -= self.kept.spent
        if self.kept.notes:
            self._status(self.kept.notes[-1], self._done, force=True)

    def _open_reference(self, texts: Sequence[texts_module.Text]) -> None:
        """Load the reference if it is a model, and cut the texts by its vocabulary, or by a candidate's of the same."""
        speaker = self.reference
        if self.side.saved is None:
            self._open(speaker)
        elif texts:
            for speaker in self._local():
                self._try(speaker, self._open)
                if speaker.error is None:
                    break
        self._windows = self.side.cut(texts, speaker.model)
        if speaker.model is not None:
            self._fit_tasks(speaker.model)
        self._tasks = self.side.known_tasks(self._tasks)
        self._total = (len(self._windows) + len(self._tasks) * TASK_WEIGHT) * (1 + len(self.candidates))

    def _needle_length(self) -> int:
        """Tokens that hidden sentences may lie in: the window that was asked for, as far as the model was trained."""
        if not any(task.hidden is not None for task in self._tasks):
            return 0
        named = self.candidates[0].path if self.side.saved is not None and self.candidates else self.reference.path
        return min(self._context, read_header(named).context_length or self._context)

    @property
    def side(self) -> Reference:
        """The reference's side of the run."""
        assert self._side is not None
        return self._side

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

    def _computing(self) -> list[Subject]:
        """The models of the run that are loaded, of those that go on."""
        return [subject for subject in self._all() if subject.error is None and subject.model is not None]

    def _live(self) -> list[Subject]:
        return [subject for subject in self.candidates if subject.error is None]

    def _local(self) -> list[Subject]:
        """The candidates that this machine computes."""
        return [subject for subject in self.candidates if not subject.is_served]

    def _fit_together(self) -> bool:
        """Whether all candidates fit beside the loaded reference. Weights count twice: a CPU may repack a copy. Other
        machines take one model at a time."""
        if self._command.machines:
            return not self._local()
        memory = self.reference.memory
        overhead = max(0, memory.anonymous - memory.weights) + (16 << 20)
        needed = sum(2 * subject.bytes + overhead for subject in self._local())
        if self._command.memory_mib > 0:
            held = 0 if self.side.saved is not None else 2 * self.reference.bytes + overhead
            return held + needed <= self._command.memory_mib << 20
        return needed <= MEMORY_SHARE * hardware.memory_available()

    def _fit_by_size(self) -> bool:
        """As :meth:`_fit_together`, as far as can be told before the reference is loaded."""
        if self._command.machines:
            return not self._local()
        needed = 2 * sum(subject.bytes for subject in [self.reference, *self._local()])
        if self._command.memory_mib > 0:
            return needed <= self._command.memory_mib << 20
        return needed <= MEMORY_SHARE * hardware.memory_available()

    # ---- all at once -----------------------------------------------------------------------------------------

    def _together(self) -> None:
        for subject in self.candidates:
            self._try(subject, self._open)
        self._refuse_nothing()
        self._share_cores()
        until = self._deadline(1.0 - TASK_SHARE if self._tasks else 0.97)
        with ThreadPoolExecutor(self._abreast(), "models") as pool:
            for number in range(len(self._windows)):
                if number and (self._precise() or (time.monotonic() >= until and not self._kept_from(number))):
                    break
                self._status(f"Scoring window {number + 1} of {len(self._windows)}", number * (1 + len(self._live())))
                waiting = [subject for subject in self._live() if not self._recall(number, subject)]
                if waiting or self.side.writes or not self._recall(number, self.reference):
                    rows = self._reference_rows(number)
                    self._each(pool, waiting, partial(self._compare, number, rows))
                self._updates(self._live())
            self._each(pool, self._computing(), self._look_inside)
            for group in self._task_groups():
                late = time.monotonic() >= self._deadline(1.0)
                if late and not all(self._kept_answers(group, subject) for subject in self._computing()):
                    break
                self._each(pool, self._computing(), partial(self._answer, group))
                self._updates(self._live())

    def _share_cores(self) -> None:
        """Several small candidates take one thread each: side by side they use the cores better than in turns."""
        models = [subject.open_model for subject in self._live() if not subject.is_served]
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
        threads = max((subject.open_model.threads for subject in self._live() if not subject.is_served), default=1)
        return max(1, (self._command.threads or hardware.physical_cores()) // threads)

    def _each(self, pool: ThreadPoolExecutor, subjects: Sequence[Subject], act: Callable[[Subject], None]) -> None:
        """Do ``act`` for all; when this returns or raises, no model is at work any more. Servers need no core here."""
        with ThreadPoolExecutor(max(1, len(self.candidates) - len(self._local())), "servers") as servers:
            running = [(servers if each.is_served else pool).submit(self._try, each, act) for each in subjects]
            wait(running)
        for each in running:
            each.result()

    # ---- one after another -----------------------------------------------------------------------------------

    def _in_turn(self) -> None:
        room = len(self._windows)
        if self.side.saved is None and not self.side.keeps_states:
            room = max(1, self._store_bytes() // self._row_bytes())
        at = 0
        while at < len(self._windows) and not self._precise():
            pilot = self._limit > 0 and at == 0 and len(self._windows) > PILOT_WINDOWS
            count = min(len(self._windows) - at, PILOT_WINDOWS if pilot else room)
            if self._command.precision:
                count = min(count, max(LEAST_CLUSTERS, at))  # doubling: models are loaded again a few times only
            if self._limit > 0 and at > 0:
                count = min(count, max(self._affordable(at), self._kept_from(at)))
                if count == 0:
                    break
            last = not pilot and (at + count == len(self._windows) or self._limit > 0)
            self._batch(range(at, at + count), with_tasks=last and not self._asked())
            at += count
        if self._tasks and not self._asked():
            self._batch(range(0), with_tasks=True)

    def _asked(self) -> bool:
        """Whether the candidates that are still there were asked the tasks; without any that can be, the reference."""
        asked = [subject for subject in self._live() if not subject.is_served] or [self.reference]
        return any(subject.right for subject in asked)

    def _batch(self, numbers: range, *, with_tasks: bool) -> None:
        """Some windows by all models, one model after another."""
        store = self.side.store(numbers.start, len(numbers)) if self.side.saved is None else None
        try:
            if store is not None:
                self._open(self.reference)
                self._on_each(self.reference, numbers, partial(self._ask_reference, store))
                self._look_inside(self.reference)
                if with_tasks:
                    self._all_tasks(self.reference)
                self.reference.close()
            for subject in self._live():
                self._try(subject, lambda each: self._one(each, numbers, store, with_tasks))
                subject.close()
        finally:
            if store is not None:
                store.close()

    def _one(self, subject: Subject, numbers: range, store: Store | None, with_tasks: bool) -> None:
        def act(number: int) -> None:
            if self._recall(number, subject):
                missing = store is None and self.reference.divergence.windows == number
                if missing and not self._recall(number, self.reference):
                    self._reference_rows(number)
                return
            rows = self._reference_rows(number) if store is None else store.rows(number)
            self._compare(number, rows, subject)

        self._open(subject)
        self._on_each(subject, numbers, act)
        if not subject.is_served:
            self._look_inside(subject)
            if with_tasks:
                self._all_tasks(subject)
        self._updates([subject], force=True)

    def _ask_reference(self, store: Store, number: int) -> None:
        """Put the reference's answer by, where a candidate is still to be set against it."""
        needed = any(not self._has(number, subject) for subject in self._live())
        if needed or self.side.writes or not self._recall(number, self.reference):
            self._reference_rows(number, store)

    def _on_each(self, subject: Subject, numbers: range, act: Callable[[int], object]) -> None:
        for place, number in enumerate(numbers):
            self._status(f"{subject.name}: window {place + 1} of {len(numbers)}", self._done + 1)
            act(number)
            if subject is not self.reference:
                self._updates([subject])

    def _all_tasks(self, subject: Subject) -> None:
        until = self._deadline(1.0)
        if subject is self.reference and self._limit > 0:
            # Its share of the time for tasks says how many there will be; the candidates take the same ones.
            until = min(until, time.monotonic() + self._limit * TASK_SHARE / (1 + len(self._live())))
        for group in self._task_groups():
            if time.monotonic() >= until and not self._kept_answers(group, subject):
                break
            asked = len(self.reference.right) if self.side.saved is None else len(self._tasks)
            if subject is not self.reference and len(subject.right) >= asked:
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
        return scored_per_window(self._context) * self._vocabulary() * 4

    def _vocabulary(self) -> int:
        assert self.reference.vocabulary is not None
        return self.reference.vocabulary.size

    def _store_bytes(self) -> int:
        return min(STORE_BYTES, shutil.disk_usage(paths.cache()).free // 2)

    # ---- steps -----------------------------------------------------------------------------------------------

    def _open(self, subject: Subject) -> None:
        if subject.is_served:
            self._connect(cast("ServedSubject", subject))
            return
        if subject.model is not None:
            return
        self._status(f"Loading {subject.name}", self._done, force=True)
        cache = subject.kv or LoadOptions().kv_type
        options = LoadOptions(
            context=self._context, threads=self._command.threads, kv_type=cache, machines=self._command.machines
        )
        outputs = self._context - first_scored(self._context)
        wanted = graded.context_needed(self._tasks)
        model = subject.open(options, outputs, wanted, lambda fraction: not self._stopped(), self._on_model)
        if subject is self.reference:
            subject.vocabulary = subject.vocabulary or Vocabulary.of(model)
            if len(self._local()) < len(self.candidates) and not self._pieces:
                self._pieces = {token: model.piece(token, special=True) for token in range(model.vocabulary)}
        elif self.reference.vocabulary is not None:
            self.reference.vocabulary.check(model, subject.name)

    def _connect(self, subject: ServedSubject) -> None:
        assert self.reference.vocabulary is not None
        self._status(f"Connecting to {subject.name}", self._done, force=True)
        subject.connect(self.reference.vocabulary, self._texts, self._windows, self._pieces, self._stopped)

    def _reference_logits(self, window: Window) -> Logits:
        return self._logits(self.reference, window)

    def _compare(self, number: int, reference: Rows | Odds, subject: Subject) -> None:
        window = self._windows[number]
        if subject.is_served:
            self._ask(window, reference, cast("ServedSubject", subject))
            return
        values = compare(reference, self._logits(subject, window), threads=subject.open_model.threads)
        self.kept.keep_window(subject.identity, number, values)
        subject.divergence.add(window.text, values)
        self._remember_pieces(subject.open_model, window, values)

    def _ask(self, window: Window, reference: Rows | Odds, subject: ServedSubject) -> None:
        def tell(done: int, total: int) -> None:
            self._status(f"{subject.name}: token {done} of {total} of a window", self._done)

        subject.divergence.add(window.text, subject.score(window, reference, self._stopped, tell))

    def _reference_rows(self, number: int, store: Store | None = None) -> Rows | Odds:
        seen = self.reference.divergence.windows
        rows = self.side.rows(number, self._reference_logits, store)
        if self.reference.divergence.windows > seen:
            self.kept.keep_window(self.reference.identity, number, self.reference.divergence.values()[-1])
        return rows

    def _has(self, number: int, subject: Subject) -> bool:
        scored = scored_per_window(self._context)
        return self.kept.window(subject.identity, number, scored) is not None

    def _kept_from(self, number: int) -> int:
        """How many windows from ``number`` on cost nothing any more."""
        found = number
        while found < len(self._windows) and all(self._has(found, each) for each in [self.reference, *self._live()]):
            found += 1
        return found - number

    def _kept_answers(self, group: Sequence[graded.Task], subject: Subject) -> list[Graded]:
        """The next answers of ``subject`` that an interrupted run has kept; empty if it has none."""
        return self.kept.answers(subject.identity, len(subject.answers), len(group)) or []

    def _recall(self, number: int, subject: Subject) -> bool:
        """Take a window's values from the journal of an interrupted run; whether they were there."""
        window = self._windows[number]
        values = self.kept.window(subject.identity, number, scored_per_window(self._context))
        if values is None:
            return False
        subject.divergence.add(window.text, values)
        if subject.model is not None and subject is not self.reference:
            self._remember_pieces(subject.open_model, window, values)
        return True

    def _look_inside(self, subject: Subject) -> None:
        """The states after every layer, once. A fingerprint has none to compare with."""
        if not subject.states and self.side.saved is None:
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
        place = len(subject.answers)
        known = self._kept_answers(group, subject)
        if known:
            subject.asked = subject.asked or graded.form(subject.open_model)
            subject.answers += known
            return
        subject.answer(group, self._stopped)
        self.kept.keep_answers(subject.identity, place, subject.answers[place:])

    def _try(self, subject: Subject, act: Callable[[Subject], object]) -> None:
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
        """Add what is told once: the worst passages, the tasks that flipped, every window's mean."""
        values = subject.divergence.values()
        known = quality.top1 is not None and bool(self._pieces)
        return msgspec.structs.replace(
            quality,
            passages=describe(values, self._windows, self._pieces) if known else (),
            flips=subject.flips(self.reference, self._tasks),
            kld_by_window=tuple(float(window.kld.mean()) for window in values),
        )

    def _refuse_nothing(self) -> None:
        """The error of a candidate when none is left, and no answers of the reference are wanted for themselves."""
        if self.candidates and not self._live() and not self.side.writes:
            raise next(subject.error for subject in self.candidates if subject.error is not None)

    def _result(self, used: FingerprintUse | None) -> QualityResult:
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
            context=self._context,
            texts=tuple(dict.fromkeys(window.text for window in self._windows)),
            seconds=time.monotonic() - self._start,
            failures=tuple(self._failures),
            tasks_left_out=self._left_out,
            fingerprint=used,
            texts_id=texts_module.identity(self._windows),
        )


def subject_of(command: MeasureQuality, index: int, kv: str) -> Subject:
    """The candidate ``index``: a file, or what a server has."""
    path = command.candidates[index]
    place = next((place for place in command.served if place.path == path), None)
    if place is None:
        return Subject(path, index, kv)
    from app.quality.served import ServedSubject  # with all that speaks HTTP

    return ServedSubject(place, index, command.served_top)


def check(command: MeasureQuality) -> None:
    """Refuse a command that makes no sense, QuenchError with exit status 2, and outputs as ``refuse_output``."""
    problem = ""
    saved = is_fingerprint(command.reference)
    if not (MIN_CONTEXT <= command.context <= MAX_CONTEXT or (saved and command.context == 0)):
        problem = f"A window of {command.context} tokens; it must be {MIN_CONTEXT} to {MAX_CONTEXT}."
    elif command.chunks < 0 or command.minutes < 0 or command.memory_mib < 0:
        problem = "Windows, minutes and memory cannot be negative."
    elif len(command.kv) > len(command.candidates) or any(kv and kv not in KV_TYPES for kv in command.kv):
        problem = f"A cache of the type {', '.join(command.kv)}; there are {', '.join(KV_TYPES)}."
    elif not 0 <= command.precision < 1:
        problem = "The precision must be a part of the divergence, from 0 to 1."
    elif not 0 < command.pass_kld <= command.fail_kld or not 0 <= command.pass_top1 <= 1:
        problem = "The limits of the verdict must be 0 < pass <= fail, and a share between 0 and 1."
    elif saved and command.fingerprint:
        problem = "Answers are saved of a model, not of answers that were saved."
    elif saved and command.texts and command.candidates and len(command.served) == len(set(command.candidates)):
        problem = "A server cannot cut other texts for saved answers: leave the texts out."
    elif command.served_top < 0 or not {place.path for place in command.served} <= set(command.candidates):
        problem = "Of a server's odds the number must not be negative, and every server must be a candidate."
    elif command.fingerprint_matrix not in EMBED:
        problem = f"The output matrix is saved {', '.join(EMBED)}."
    if problem:
        raise QuenchError("bad_options", "This cannot be measured.", problem, "", exit_status=2)
    inputs = (command.reference, *command.candidates, *command.texts, command.tasks or "")
    for output in (command.report, command.fingerprint):
        if output:
            refuse_output(Path(output), (each for each in inputs if each))


__all__ = ["QualityRun", "check"]
