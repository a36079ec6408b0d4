"""One prompt through several models: who answers when, who scores whom, and what happens when one of them dies."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from PySide6.QtCore import QObject, Signal

from app import hardware, paths
from app.compare import recipes
from app.compare.align import alike, common_prefix
from app.compare.results import UNSCORABLE, Column, make_column
from app.protocol import ChatMessage, Complete, Failed, Replied, Sampling, Scored, ScoredToken, Tokens
from app.remote.address import is_remote
from app.ui.compare_making import Making, expected_bytes, made_file
from app.ui.context import Context
from app.ui.engines import DEAD, Engine
from converter.spec import QuenchError

WAITING, MAKING, LOADING, ANSWERING, ANSWERED, SCORING, READY, TIMING, DONE, FAILED, STOPPED = (
    "waiting",
    "making",
    "loading",
    "answering",
    "answered",
    "scoring",
    "ready",
    "timing",
    "done",
    "failed",
    "stopped",
)
_OVER = {DONE, FAILED, STOPPED}
_ALIVE = {MAKING, LOADING, ANSWERING, ANSWERED, SCORING}
_UNKNOWN_OVERHEAD = 256 << 20
TIMED_TOKENS = 32
"""Tokens of the run that measures a model's speed by itself."""


@dataclass
class Part:
    """One column's share of a run. ``file`` is what its engine opens: ``path`` itself, or what was made for it.

    ``scored`` is over the reference's answer, for the reference itself too, or ``unscored`` says why a served model is
    not; ``own`` over this model's own answer. ``timed`` is a run in which nothing else computed.
    """

    index: int
    path: str
    file: str = ""
    state: str = WAITING
    text: str = ""
    replied: Replied | None = None
    scored: Scored | None = None
    own: Scored | None = None
    unscored: QuenchError | None = None
    timed: Replied | None = None
    error: QuenchError | None = None
    engine: Engine | None = None
    request: int = 0
    own_request: int = -1
    making: Making | None = None

    @property
    def speed(self) -> Replied | None:
        """Where its speed comes from: the run by itself where there was one."""
        return self.timed or self.replied

    def tokens(self) -> tuple[str, ...] | None:
        """The tokens of its own answer; None where nobody tells them."""
        found = self.own or (self.scored if self.index == 0 else None)
        return tuple(token.text for token in found.tokens) if found is not None else None


def memory_plan(context: Context, models: list[str]) -> tuple[bool, int, int]:
    """Can all models be loaded together? Returns (yes, bytes still needed, bytes available)."""
    available = hardware.memory_available()
    settings = context.settings
    needed = 0
    for path in dict.fromkeys(path for path in models if not is_remote(path)):
        engine = context.engines.find(made_file(path))
        if engine is not None and engine.loaded is not None:
            continue
        source, recipe = recipes.split(path)
        size = expected_bytes(context, path)
        info = context.library.entry(source)
        if info is not None and recipe:
            info = msgspec.structs.replace(info, kind="gguf", tensors=(), bytes=size)
        if info is not None:
            needed += hardware.fits(info, settings.context, settings.kv_type, available).total
        elif size:
            needed += size + _UNKNOWN_OVERHEAD
    return needed <= 0.8 * available, needed, available


class ComparisonRun(QObject):
    """Answers and scores of one prompt. The first model is the reference. With ``given`` nobody answers: the models
    score that text as it stands by itself.

    ``changed(index)`` when a column's state changed, ``text(index, piece)`` with new words, ``finished`` once nothing
    runs any more (again after a :meth:`retry`). Columns that died do not hold up the others. Where models answered at
    once, each is timed by itself afterwards.
    """

    changed = Signal(int)
    text = Signal(int, str)
    figures = Signal(int, object)
    loading = Signal(int, float)
    finished = Signal()

    def __init__(
        self,
        context: Context,
        models: list[str],
        prompt: str,
        sampling: Sampling,
        *,
        together: bool,
        given: str = "",
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.parts = [Part(index, path, made_file(path)) for index, path in enumerate(models)]
        self.prompt = prompt
        self.given = given
        self.together = together
        self._context = context
        self._messages = () if given else (ChatMessage("user", prompt),)
        self._sampling = sampling
        self._stopping = False
        self._file = paths.cache() / f"compare-{id(self):x}.logp"
        self._heard: list[Engine] = []
        if given:
            for part in self.parts:
                part.text = given

    @property
    def running(self) -> bool:
        return any(part.state not in _OVER for part in self.parts)

    def columns(self) -> tuple[Column | None, ...]:
        """What there is now, for a document; None for a model that has said nothing."""
        return tuple(self._column(part) for part in self.parts)

    def _column(self, part: Part) -> Column | None:
        if not part.text or (part.replied is None and not self.given):
            return None
        reference = self.parts[0]
        theirs, own = alike(reference.text, reference.tokens(), part.text, part.tokens())
        why = part.unscored or reference.unscored
        return make_column(
            part.path,
            part.text,
            part.speed,
            part.scored,
            reference=part.index == 0,
            own=own,
            common=common_prefix(theirs, own),
            speed_alone=part.timed is not None or not self.together or not self._shares(part),
            size=0 if is_remote(part.path) else expected_bytes(self._context, part.path),
            unscored=why.title if why is not None else "",
        )

    def start(self) -> None:
        """Begin: all columns, or the reference alone."""
        self._advance()

    def stop(self) -> None:
        """End all columns; what they said stays."""
        self._stopping = True
        for part in self.parts:
            if part.state in {ANSWERING, SCORING, TIMING} and part.engine is not None:
                part.engine.stop(part.request)
            if part.state in {READY, TIMING}:
                self._set(part, DONE)  # only its speed is missing
            if part.state in {WAITING, MAKING, ANSWERED, SCORING, LOADING} or (
                part.state == ANSWERING and not part.text
            ):
                self._drop_making(part)
                self._set(part, STOPPED)
        self._after()

    def retry(self, index: int) -> None:
        """Load a column's model again and let it do what it has not done."""
        part = self.parts[index]
        if part.state not in {FAILED, STOPPED}:
            return
        self._stopping = False
        part.error = None
        if part.replied is None and not self.given:
            part.text = ""
        if index == 0:
            for other in self.parts[1:]:
                if other.state in _OVER and other.scored is None and other.error is None:
                    self._set(other, WAITING)
        self._set(part, WAITING)
        self._advance()

    def close(self) -> None:
        """Let go of the engines, of models that are being made, and of the file with the reference's probabilities."""
        for engine in self._heard:
            self._unhear(engine)
        self._heard.clear()
        for part in self.parts:
            self._drop_making(part)
            self._release(part)
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    # ---- steps -------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Start whatever can start now."""
        if self._stopping:
            return
        waiting = [part for part in self.parts if part.state == WAITING]
        if self.together:
            for part in waiting:
                self._begin(part)
        elif waiting and not any(part.state in _ALIVE for part in self.parts):
            self._begin(waiting[0])

    def _begin(self, part: Part) -> None:
        source, recipe = ("", "") if is_remote(part.path) else recipes.split(part.path)
        if recipe and not Path(made_file(part.path)).is_file():
            self._make(part, source)
            return
        part.file = made_file(part.path)
        if recipe:
            recipes.used(Path(part.file))
        part.engine = self._engine(part)
        if part.replied is not None or self.given:
            self._set(part, ANSWERED)
            self._go_on(part)
            if part.state in _OVER:
                self._after()
            return
        self._set(part, LOADING if part.engine.loaded is None else ANSWERING)
        part.request = part.engine.generate(self._messages, self._sampling)

    def _make(self, part: Part, source: str) -> None:
        self._set(part, MAKING)

        def ready(file: str) -> None:
            part.making = None
            self._begin(part)

        def failed(error: QuenchError) -> None:
            part.making = None
            self._fail([part], error)

        def progress(fraction: float) -> None:
            self.loading.emit(part.index, fraction)

        keep = {Path(each.file) for each in self.parts if each.file}
        try:
            part.making = Making(
                self._context, part.path, keep=keep, ready=ready, failed=failed, progress=progress, parent=self
            )
        except QuenchError as error:
            self._fail([part], error)
        except OSError as error:
            title = self.tr("The model cannot be made.")
            self._fail([part], QuenchError("unwritable", title, str(error), self.tr("Free some disk space.")))

    def _drop_making(self, part: Part) -> None:
        making, part.making = part.making, None
        if making is not None:
            making.let_go()

    def _engine(self, part: Part) -> Engine:
        settings = self._context.settings
        known = self._context.engines.find(part.file)
        options = settings.load_options()
        engine = self._context.engines.get(part.file, None if known is not None else options, _owner(part))
        if engine not in self._heard:
            self._heard.append(engine)
            engine.tokens.connect(self._on_tokens)
            engine.replied.connect(self._on_replied)
            engine.scored.connect(self._on_scored)
            engine.failed.connect(self._on_failed)
            engine.loading.connect(self._on_loading)
            engine.state_changed.connect(self._on_state)
        return engine

    def _go_on(self, part: Part) -> None:
        """What an answered column does next: score the reference's answer, then its own, then wait to be timed."""
        reference = self.parts[0]
        silent = part.unscored is not None or reference.unscored is not None
        if part.scored is None and not silent and reference.text.strip():
            if part is reference:
                self._score(part, reference.text, write=str(self._file))
                return
            if reference.scored is not None:
                self._score(part, reference.text, against=str(self._file))
                return
            if reference.state not in {FAILED, STOPPED}:
                self._set(part, ANSWERED)  # until the reference has been scored
                return
        elif part.scored is None and not silent and reference.state not in _OVER | {ANSWERED, READY, TIMING}:
            return  # it has not said a word yet
        if part.scored is not None and part.text == reference.text:
            part.own = part.scored
        if part.own is None and not self.given and self._wants_own(part):
            self._score(part, part.text)
            part.own_request = part.request
            return
        self._set(part, READY if self._shares(part) and part.timed is None else DONE)

    def _wants_own(self, part: Part) -> bool:
        """Whether its own answer's tokens are told by nothing else. A server is not asked: it takes a question each."""
        return bool(part.text.strip()) and part.index > 0 and not is_remote(part.path)

    def _shares(self, part: Part) -> bool:
        """Whether it answered while others did, so that its speed is not its own."""
        here = {each.file for each in self.parts if not is_remote(each.path)}
        return self.together and not self.given and not is_remote(part.path) and len(here) > 1

    def _score(self, part: Part, text: str, write: str | None = None, against: str | None = None) -> None:
        if part.engine is None:
            part.engine = self._engine(part)
        self._set(part, SCORING if part.engine.loaded is not None else LOADING)
        part.request = part.engine.score(self._messages, text, write=write, against=against)

    def _time(self, part: Part) -> None:
        """Answer once more with nothing else at work, from a context that knows nothing of the prompt."""
        if part.engine is None or part.engine.state == DEAD or part.replied is None:
            self._set(part, DONE)
            return
        short = Sampling(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, max_tokens=1)
        part.engine.pass_on(Complete(0, "\n", short))
        length = max(1, min(TIMED_TOKENS, part.replied.tokens))
        timed = msgspec.structs.replace(self._sampling, max_tokens=length)
        self._set(part, TIMING)
        part.request = part.engine.generate(self._messages, timed)

    def _after(self) -> None:
        """A column came to an end: free it where one goes after another, and let the next begin."""
        if not self.together:
            for part in self.parts:
                if part.state in _OVER:
                    self._release(part)
        self._advance()
        ready = [part for part in self.parts if part.state == READY]
        while ready and all(part.state in _OVER | {READY} for part in self.parts):
            self._time(ready.pop(0))
        if not self.running:
            self.finished.emit()

    def _set(self, part: Part, state: str) -> None:
        if part.state != state:
            part.state = state
            self.changed.emit(part.index)

    def _release(self, part: Part) -> None:
        if part.engine is None:
            return
        engine, part.engine = part.engine, None
        if not any(other.engine is engine for other in self.parts) and engine in self._heard:
            self._heard.remove(engine)
            self._unhear(engine)
        self._context.engines.release(part.file, _owner(part))

    def _unhear(self, engine: Engine) -> None:
        engine.tokens.disconnect(self._on_tokens)
        engine.replied.disconnect(self._on_replied)
        engine.scored.disconnect(self._on_scored)
        engine.failed.disconnect(self._on_failed)
        engine.loading.disconnect(self._on_loading)
        engine.state_changed.disconnect(self._on_state)

    # ---- what the engines say ----------------------------------------------------------------------------------

    def _part(self, request: int) -> Part | None:
        engine = self.sender()
        return next((p for p in self.parts if p.engine is engine and p.request == request and request), None)

    def _on_tokens(self, event: Tokens) -> None:
        part = self._part(event.request)
        if part is None or part.state not in {LOADING, ANSWERING}:
            return
        self._set(part, ANSWERING)
        part.text += event.text
        self.text.emit(part.index, event.text)
        self.figures.emit(part.index, event)

    def _on_replied(self, event: Replied) -> None:
        part = self._part(event.request)
        if part is None or part.state in _OVER:
            return
        if part.state == TIMING:
            self._timed(part, event)
            return
        part.replied = event
        if self._stopping or event.stop == "cancelled":
            self._set(part, STOPPED)
            self._after()
            return
        self._set(part, ANSWERED)
        self._go_on(part)
        self._wake_others(part)
        self._after()

    def _timed(self, part: Part, event: Replied) -> None:
        for other in self.parts:
            if other.file == part.file and other.state in {READY, TIMING}:  # two columns of one model
                other.timed = event
                self._set(other, DONE)
        self._after()

    def _on_scored(self, event: Scored) -> None:
        part = self._part(event.request)
        if part is None or part.state in _OVER:
            return
        if event.request == part.own_request:
            part.own = event
        else:
            part.scored = event
        self._go_on(part)
        self._wake_others(part)
        self._after()

    def _wake_others(self, part: Part) -> None:
        """Whoever has waited for the reference goes on."""
        if part.index == 0:
            for other in self.parts[1:]:
                if other.state == ANSWERED:
                    self._go_on(other)

    def _on_failed(self, failure: Failed | QuenchError) -> None:
        engine = self.sender()
        if isinstance(failure, Failed):
            part = self._part(failure.request)
            if part is not None and part.state == SCORING and is_remote(part.path) and failure.code in UNSCORABLE:
                self._leave_unscored(part, failure.to_error())
                return
            hit = [part] if part is not None else []
        else:
            hit = [part for part in self.parts if part.engine is engine]
        self._fail(hit, failure.to_error() if isinstance(failure, Failed) else failure)

    def _leave_unscored(self, part: Part, why: QuenchError) -> None:
        """A server that does not tell how likely the answer is: the column keeps its own, without a divergence."""
        part.unscored = why
        self._go_on(part)
        self._wake_others(part)
        self._after()

    def _fail(self, hit: list[Part], error: QuenchError) -> None:
        """These columns end here; a reference that fails leaves the others with their answers."""
        for part in hit:
            if part.state in {READY, TIMING}:
                self._set(part, DONE)  # all was said before; only its speed by itself is missing
            elif part.state not in _OVER:
                part.error = error
                self._set(part, FAILED)
        reference = self.parts[0]
        if reference in hit and reference.state == FAILED:
            self._wake_others(reference)
        if hit:
            self._after()

    def _on_loading(self, fraction: float) -> None:
        engine = self.sender()
        for part in self.parts:
            if part.engine is engine and part.state == LOADING:
                self.loading.emit(part.index, fraction)

    def _on_state(self) -> None:
        engine = self.sender()
        for part in self.parts:
            if part.engine is not engine:
                continue
            if part.state == LOADING and engine.loaded is not None and engine.state != DEAD:
                self._set(part, ANSWERING if part.replied is None and not self.given else SCORING)


def part_of(column: Column, index: int) -> Part:
    """A part that is done, of an answer that was made elsewhere."""
    part = Part(index, column.path, column.path, DONE, column.text)
    count, rate, first = len(column.own), column.tokens_per_second, column.first_token
    part.replied = Replied(0, "end", count, rate, first, 0, 0, 0.0, 0, column.memory)
    part.timed = part.replied if column.speed_alone else None
    if column.scored:
        part.scored = Scored(0, column.tokens, column.kld, column.top1, column.first_divergence, column.bounds)
    elif column.unscored:
        part.unscored = QuenchError("no_probabilities", column.unscored)
    if index and not is_remote(column.path):
        tokens = tuple(ScoredToken(text, 1.0, 0.0, True, (), ()) for text in column.own)
        part.own = Scored(0, tokens, 0.0, 1.0, -1)
    return part


def _owner(part: Part) -> str:
    return f"compare-{part.index}"
