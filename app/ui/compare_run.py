"""One prompt through several models: who answers when, who scores whom, and what happens when one of them dies."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from app import hardware, paths
from app.protocol import ChatMessage, Failed, Replied, Sampling, Scored, Tokens
from app.remote.address import is_remote
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.engines import DEAD, Engine
from converter.spec import QuenchError

WAITING, LOADING, ANSWERING, ANSWERED, SCORING, DONE, FAILED, STOPPED = (
    "waiting",
    "loading",
    "answering",
    "answered",
    "scoring",
    "done",
    "failed",
    "stopped",
)
_AT_WORK = {ANSWERING, SCORING}
_OVER = {DONE, FAILED, STOPPED}
_UNKNOWN_OVERHEAD = 256 << 20


@dataclass
class Part:
    """One column's share of a run. ``scored`` is over the reference's answer, for the reference itself too."""

    index: int
    path: str
    state: str = WAITING
    text: str = ""
    replied: Replied | None = None
    scored: Scored | None = None
    error: QuenchError | None = None
    engine: Engine | None = None
    request: int = 0


def memory_plan(context: Context, models: list[str]) -> tuple[bool, int, int]:
    """Can all models be loaded together? Returns (yes, bytes still needed, bytes available)."""
    available = hardware.memory_available()
    settings = context.settings
    needed = 0
    for path in dict.fromkeys(path for path in models if not is_remote(path)):
        engine = context.engines.find(path)
        if engine is not None and engine.loaded is not None:
            continue
        info = context.library.entry(path)
        if info is not None:
            needed += hardware.fits(info, settings.context, settings.kv_type, available).total
        else:
            with contextlib.suppress(OSError):
                needed += Path(path).stat().st_size + _UNKNOWN_OVERHEAD
    return needed <= 0.8 * available, needed, available


class ComparisonRun(QObject):
    """Answers and scores of one prompt. The first model is the reference.

    ``changed(index)`` when a column's state changed, ``text(index, piece)`` with new words, ``finished`` once nothing
    runs any more (again after a :meth:`retry`). Columns that died do not hold up the others.
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
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.parts = [Part(index, path) for index, path in enumerate(models)]
        self.prompt = prompt
        self.together = together
        self._context = context
        self._messages = (ChatMessage("user", prompt),)
        self._sampling = sampling
        self._stopping = False
        self._file = paths.cache() / f"compare-{id(self):x}.logp"
        self._heard: list[Engine] = []

    @property
    def running(self) -> bool:
        return any(part.state not in _OVER for part in self.parts)

    def start(self) -> None:
        """Begin: all columns, or the reference alone."""
        self._advance()

    def stop(self) -> None:
        """End all columns; what they said stays."""
        self._stopping = True
        for part in self.parts:
            if part.state in {ANSWERING, SCORING} and part.engine is not None:
                part.engine.stop(part.request)
            if part.state in {WAITING, ANSWERED, SCORING, LOADING} or (part.state == ANSWERING and not part.text):
                self._set(part, STOPPED)
        self._after()

    def retry(self, index: int) -> None:
        """Load a column's model again and let it do what it has not done."""
        part = self.parts[index]
        if part.state not in {FAILED, STOPPED}:
            return
        self._stopping = False
        part.error = None
        if part.replied is None:
            part.text = ""
        if index == 0:
            for other in self.parts[1:]:
                if other.state in _OVER and other.scored is None and other.error is None:
                    self._set(other, WAITING)
        self._set(part, WAITING)
        self._advance()

    def close(self) -> None:
        """Let go of the engines and of the file with the reference's probabilities."""
        for engine in self._heard:
            self._unhear(engine)
        self._heard.clear()
        for part in self.parts:
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
        elif waiting and not any(part.state in {LOADING, ANSWERING, ANSWERED, SCORING} for part in self.parts):
            self._begin(waiting[0])

    def _begin(self, part: Part) -> None:
        part.engine = self._engine(part)
        if part.replied is not None:
            self._set(part, ANSWERED)
            self._try_score(part)
            return
        self._set(part, LOADING if part.engine.loaded is None else ANSWERING)
        part.request = part.engine.generate(self._messages, self._sampling)

    def _engine(self, part: Part) -> Engine:
        settings = self._context.settings
        known = self._context.engines.find(part.path)
        options = settings.load_options()
        engine = self._context.engines.get(part.path, None if known is not None else options, _owner(part))
        if engine not in self._heard:
            self._heard.append(engine)
            engine.tokens.connect(self._on_tokens)
            engine.replied.connect(self._on_replied)
            engine.scored.connect(self._on_scored)
            engine.failed.connect(self._on_failed)
            engine.loading.connect(self._on_loading)
            engine.state_changed.connect(self._on_state)
        return engine

    def _try_score(self, part: Part) -> None:
        """Score the reference's answer with this model, once there is what it needs."""
        reference = self.parts[0]
        if is_remote(part.path) or is_remote(reference.path):
            self._set(part, DONE)  # a server tells no probabilities of a text that it was sent
        elif not reference.text.strip() and reference.state in _OVER | {ANSWERED}:
            self._set(part, DONE)
        elif part is reference:
            self._score(part, write=str(self._file))
        elif reference.scored is not None:
            self._score(part, against=str(self._file))
        elif reference.state in {FAILED, STOPPED}:
            self._set(part, DONE)

    def _score(self, part: Part, write: str | None = None, against: str | None = None) -> None:
        self._set(part, SCORING)
        part.request = part.engine.score(self._messages, self.parts[0].text, write=write, against=against)

    def _after(self) -> None:
        """A column came to an end: free it where one goes after another, and let the next begin."""
        if not self.together:
            for part in self.parts:
                if part.state in _OVER:
                    self._release(part)
        self._advance()
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
        self._context.engines.release(part.path, _owner(part))

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
        part.replied = event
        if self._stopping or event.stop == "cancelled":
            self._set(part, STOPPED)
            self._after()
            return
        self._set(part, ANSWERED)
        self._try_score(part)
        if part.state in _OVER:
            self._after()

    def _on_scored(self, event: Scored) -> None:
        part = self._part(event.request)
        if part is None or part.state in _OVER:
            return
        part.scored = event
        self._set(part, DONE)
        if part.index == 0:
            for other in self.parts[1:]:
                if other.state == ANSWERED:
                    self._try_score(other)
        self._after()

    def _on_failed(self, failure: Failed | QuenchError) -> None:
        engine = self.sender()
        if isinstance(failure, Failed):
            part = self._part(failure.request)
            hit = [part] if part is not None else []
        else:
            hit = [part for part in self.parts if part.engine is engine]
        self._fail(hit, failure.to_error() if isinstance(failure, Failed) else failure)

    def _fail(self, hit: list[Part], error: QuenchError) -> None:
        """These columns end here; a reference that fails leaves the others with their answers."""
        for part in hit:
            if part.state not in _OVER:
                part.error = error
                self._set(part, FAILED)
        reference = self.parts[0]
        if reference in hit and reference.state == FAILED:
            for other in self.parts[1:]:
                if other.state == ANSWERED:
                    self._set(other, DONE)
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
                self._set(part, ANSWERING)


def _owner(part: Part) -> str:
    return f"compare-{part.index}"


def summary(part: Part, bytes_on_disk: int | None) -> list[tuple[str, str]]:
    """A column's figures as (key, text): kld, top1, speed, memory, size. A dash where there is none."""
    scored, replied = part.scored, part.replied
    relative = scored if part.index else None
    return [
        ("kld", fmt.significant(relative.mean_kld, 3) if relative is not None else fmt.DASH),
        ("top1", fmt.percent(relative.top1) if relative is not None else fmt.DASH),
        ("speed", fmt.tokens_per_second(replied.tokens_per_second) if replied is not None else fmt.DASH),
        ("memory", fmt.size(replied.memory.anonymous or None) if replied is not None else fmt.DASH),
        ("size", fmt.size(bytes_on_disk)),
    ]
