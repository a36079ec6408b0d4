"""Many prompts through several models with nobody there. One computes at a time, so that every speed is its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
from PySide6.QtCore import QObject, Signal

from app import paths
from app.compare import batches, recipes
from app.compare.batches import Step
from app.compare.results import (
    UNSCORABLE,
    Column,
    Comparison,
    Entry,
    aligned,
    make_column,
    names_of,
    short_names,
)
from app.memory_messages import Memory
from app.protocol import ChatMessage, Failed, Replied, Sampling, Scored, Tokens
from app.quality.prompts import Prompt
from app.remote.address import is_remote
from app.ui.compare_making import Making, expected_bytes, made_file
from app.ui.context import Context
from app.ui.engines import Engine
from converter.spec import QuenchError

_LARGE_VOCABULARY = 262_144
"""Words that are reckoned with where the reference's vocabulary is not known."""
_PREFIX = "compare-queue-"


class QueueRun(QObject):
    """A table of prompts and models that fills. The first model is the reference.

    ``answered(prompt, model)`` when a cell is there, ``changed`` when what is being done changed, ``finished`` when
    nothing runs any more: all is done, or :meth:`stop` was called; :meth:`start` goes on then. A model that dies loses
    its answer to that prompt and is loaded again for the next; one that cannot be loaded is left out.
    """

    answered = Signal(int, int)
    changed = Signal()
    finished = Signal()

    def __init__(
        self,
        context: Context,
        models: list[str],
        prompts: list[Prompt],
        sampling: Sampling,
        *,
        together: bool,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.models, self.prompts, self.together = models, prompts, together
        self.rows: list[list[Column | None]] = [[None] * len(models) for _ in prompts]
        self.running = False
        self.doing = ""
        self.fraction = 0.0
        self._context = context
        self.sampling = sampling
        self._folder = paths.cache() / f"{_PREFIX}{os.getpid()}-{id(self):x}"
        self._steps: Iterator[Step] = iter(())
        self._step = Step(0, 0, False)
        self._engines: dict[int, Engine] = {}
        self._given_up: dict[int, QuenchError] = {}
        self._making: Making | None = None
        self._request = 0
        self._text = ""
        self._reply: Replied | None = None
        self._scored: Scored | None = None
        self._unscored = ""
        self._then: Callable[[Scored], None] | None = None
        _clear_left_over()

    # ---- faces

    @property
    def done(self) -> int:
        """Cells that are there."""
        return sum(column is not None for row in self.rows for column in row)

    @property
    def total(self) -> int:
        return len(self.rows) * len(self.models)

    def comparison(self) -> Comparison:
        """What there is so far."""
        entries = (
            Entry(each.prompt, each.slice, tuple(row)) for each, row in zip(self.prompts, self.rows, strict=True)
        )
        return Comparison(tuple(self.models), tuple(entries), greedy=self.sampling.temperature == 0)

    def start(self) -> None:
        """Begin, or go on with what is missing."""
        if self.running:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._context.notify.error(
                QuenchError(
                    "no_space", self.tr("The queue cannot begin."), str(error), self.tr("Free some disk space.")
                )
            )
            return
        self.running = True
        self._given_up.clear()
        for row in self.rows:  # what failed is tried again; without the reference's answer the others have no score
            again = row[0] is not None and bool(row[0].error)
            row[:] = [None if column is None or column.error or again else column for column in row]
        size = 1 if self.together else self._batch()
        self._steps = batches.steps(len(self.rows), len(self.models), size)
        self._next()

    def stop(self) -> None:
        """End after what is there; the answer in progress is dropped."""
        if not self.running:
            return
        engine = self._engines.get(self._step.model)
        request, self._request = self._request, 0
        if engine is not None and request:
            engine.stop(request)
        self._end()

    def close(self) -> None:
        """Let go of everything."""
        self.running = False
        self._drop_making()
        for model in list(self._engines):
            self._release(model)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- steps

    def _batch(self) -> int:
        info = self._context.library.entry(recipes.split(self.models[0])[0])
        vocabulary = info.vocabulary if info is not None and info.vocabulary else _LARGE_VOCABULARY
        return batches.batch_size(vocabulary, self.sampling.max_tokens, batches.room(self._folder))

    def _next(self) -> None:
        """The next step that has something to do."""
        for step in self._steps:
            if not self.together and step.model != self._step.model:
                self._release(self._step.model)
            self._step = step
            row = self.rows[step.prompt]
            missing = row[step.model] is None
            file_wanted = step.model == 0 and None in row and not self._file(step.prompt).exists()
            if missing and step.model in self._given_up:
                self._put(self._failed_column(self._given_up[step.model]))
            elif missing or (file_wanted and (column := row[0]) is not None and column.scored):
                self._begin()
                return
            self._tidy(step)
        self._end()

    def _tidy(self, step: Step) -> None:
        if step.last:
            for file in self._folder.glob("*.logp"):
                file.unlink(missing_ok=True)

    def _begin(self) -> None:
        step, path = self._step, self.models[self._step.model]
        recipe = "" if is_remote(path) else recipes.split(path)[1]
        if recipe and not Path(made_file(path)).is_file():
            self._make(path, recipe)
            return
        self._text, self._reply, self._scored, self._unscored = "", None, None, ""
        engine = self._engine(step.model)
        name = short_names(names_of(self.models))[step.model]
        self._tell(self.tr("{0}, prompt {1} of {2}").format(name, step.prompt + 1, len(self.prompts)))
        column = self.rows[step.prompt][step.model]
        if column is not None:  # answered before a stop; only the file for the others is missing
            self._score(column.text, self._again, write=True)
            return
        self._request = engine.generate(self._messages(), self.sampling)

    def _make(self, path: str, recipe: str) -> None:
        self._tell(self.tr("Making {0}").format(recipe))

        def ready(file: str) -> None:
            self._making = None
            self._begin()

        def failed(error: QuenchError) -> None:
            self._making = None
            self._given_up[self._step.model] = error
            self._put(self._failed_column(error))
            self._go_on()

        keep = {Path(file) for each in self.models if (file := made_file(each))}
        try:
            self._making = Making(
                self._context, path, keep=keep, ready=ready, failed=failed, progress=lambda part: None, parent=self
            )
        except QuenchError as error:
            failed(error)
        except OSError as error:
            failed(QuenchError("unwritable", self.tr("The model cannot be made."), str(error)))

    def _messages(self) -> tuple[ChatMessage, ...]:
        return (ChatMessage("user", self.prompts[self._step.prompt].prompt),)

    def _file(self, prompt: int) -> Path:
        return self._folder / f"{prompt}.logp"

    def _score(self, text: str, then: Callable[[Scored], None], *, write: bool = False, against: bool = False) -> None:
        file = str(self._file(self._step.prompt))
        self._then = then
        self._request = self._engines[self._step.model].score(
            self._messages(), text, write=file if write else None, against=file if against else None
        )

    def _answered(self) -> None:
        """The model has answered: score the reference's answer, and its own where that is another one."""
        step = self._step
        reference = self.rows[step.prompt][0]
        if not self._text.strip():
            self._own_done(None)
        elif step.model == 0:
            self._score(self._text, self._reference_scored, write=True)
        elif reference is not None and reference.scored and self._file(step.prompt).exists():
            self._score(reference.text, self._reference_scored, against=True)
        else:
            self._score_own()

    def _score_own(self) -> None:
        """Its own answer's tokens. A server is not asked for them: it takes a question each."""
        if is_remote(self.models[self._step.model]):
            self._own_done(None)
        else:
            self._score(self._text, self._own_done)

    def _reference_scored(self, event: Scored) -> None:
        self._scored = event
        reference = self.rows[self._step.prompt][0]
        if self._step.model == 0 or (reference is not None and reference.text == self._text):
            self._own_done(event)
        else:
            self._score_own()

    def _own_done(self, own: Scored | None) -> None:
        step, path = self._step, self.models[self._step.model]
        reference = self.rows[step.prompt][0] if step.model else None
        tokens = tuple(token.text for token in own.tokens) if own is not None else None
        mine, common = aligned(reference, self._text, tokens)
        self._put(
            make_column(
                path,
                self._text,
                self._reply,
                self._scored,
                reference=step.model == 0,
                own=mine,
                common=common,
                size=0 if is_remote(path) else expected_bytes(self._context, path),
                unscored=self._unscored or (reference.unscored if reference is not None else ""),
            )
        )
        self._go_on()

    def _again(self, event: Scored) -> None:
        self._go_on()

    def _failed_column(self, error: QuenchError) -> Column:
        column = make_column(self.models[self._step.model], "", None, None, reference=self._step.model == 0)
        return msgspec.structs.replace(column, error=error.title, memory=Memory(0, 0, 0))

    def _put(self, column: Column) -> None:
        self.rows[self._step.prompt][self._step.model] = column
        self.answered.emit(self._step.prompt, self._step.model)

    def _go_on(self) -> None:
        self._request, self._then = 0, None
        self._tidy(self._step)
        if self.running:
            self._next()

    def _end(self) -> None:
        self.running = False
        self._drop_making()
        for model in list(self._engines):
            self._release(model)
        self._tell("")
        self.finished.emit()

    def _drop_making(self) -> None:
        making, self._making = self._making, None
        if making is not None:
            making.let_go()

    def _tell(self, words: str) -> None:
        self.doing, self.fraction = words, self.done / max(1, self.total)
        self.changed.emit()

    # ---- engines

    def _engine(self, model: int) -> Engine:
        file = made_file(self.models[model])
        known = self._context.engines.find(file)
        options = None if known is not None else self._context.settings.load_options()
        engine = self._context.engines.get(file, options, _owner(model))
        if self._engines.get(model) is not engine:
            self._engines[model] = engine
            if sum(each is engine for each in self._engines.values()) == 1:
                engine.tokens.connect(self._on_tokens)
                engine.replied.connect(self._on_replied)
                engine.scored.connect(self._on_scored)
                engine.failed.connect(self._on_failed)
        return engine

    def _release(self, model: int) -> None:
        engine = self._engines.pop(model, None)
        if engine is None:
            return
        if engine not in self._engines.values():
            engine.tokens.disconnect(self._on_tokens)
            engine.replied.disconnect(self._on_replied)
            engine.scored.disconnect(self._on_scored)
            engine.failed.disconnect(self._on_failed)
        self._context.engines.release(engine.path, _owner(model))

    def _mine(self, request: int) -> bool:
        return bool(self._request) and request == self._request and self._engines.get(self._step.model) is self.sender()

    def _on_tokens(self, event: Tokens) -> None:
        if self._mine(event.request):
            self._text += event.text

    def _on_replied(self, event: Replied) -> None:
        if self._mine(event.request):
            self._reply, self._request = event, 0
            self._answered()

    def _on_scored(self, event: Scored) -> None:
        if self._mine(event.request) and self._then is not None:
            then, self._then, self._request = self._then, None, 0
            then(event)

    def _on_failed(self, failure: Failed | QuenchError) -> None:
        engine = self.sender()
        if not self.running or self._engines.get(self._step.model) is not engine:
            return
        if isinstance(failure, Failed):
            if not self._mine(failure.request):
                return
            error = failure.to_error()
            if self._then == self._reference_scored and is_remote(engine.path) and error.code in UNSCORABLE:
                self._unscored, self._request = error.title, 0
                self._score_own()  # the column keeps its answer, without a divergence
                return
        else:
            error = failure
            if engine.loaded is None:
                self._given_up[self._step.model] = error
        if self.rows[self._step.prompt][self._step.model] is None:
            self._put(self._failed_column(error))
        self._go_on()


def _owner(model: int) -> str:
    return f"compare-queue-{model}"


def _clear_left_over() -> None:
    """Remove the files of a queue whose program is gone."""
    for folder in paths.cache().glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


__all__ = ["QueueRun"]
