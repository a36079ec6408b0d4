"""The worker of one loaded model: it answers conversations and scores answers. One request at a time, in order.

``Stop`` and ``Cancel`` act at once, also while a long prompt is computed: the reading thread sees them first and
interrupts the engine. A request that comes while another one is served waits for its turn.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from app import hardware
from app.adapter_messages import AdaptersSet, SetAdapters
from app.chat_messages import GuessedAhead, Likely, TokenChoice, TokenChoices
from app.compare import scoring
from app.constraints import grammar_of
from app.context_messages import ContextFitted
from app.engine import dry
from app.engine.ahead import Costs, Guesser
from app.engine.drafting import Drafting
from app.engine.kept import Keeper
from app.engine.model import Extras, Generated, Model, Stats
from app.engine.overflow import Fitted, fitted
from app.engine.spread import Guard
from app.engine.text import choice_texts
from app.marks import THOUGHT, THOUGHT_END, without_thought
from app.memory_messages import does_not_fit
from app.protocol import (
    Cancel,
    Command,
    Complete,
    Count,
    Counted,
    Generate,
    Load,
    Loaded,
    Loading,
    Replied,
    Score,
    Stop,
    Tokens,
    failed,
)
from app.quality.probe import PROBE
from app.workers.runtime import Connection, Throttle, leave, stopped
from converter.spec import Cancelled, QuenchError

TOKENS_PER_SECOND = 20
"""Most Tokens events a second."""
TOKENS_BY_ALL_CORES = 5
"""The same where every core computes: each event, with what is drawn for it, then takes the engine's own time."""

OUTPUTS = 16
"""Rows of logits at once; scoring goes in such steps."""

_IDLE = 1.0  # seconds after an answer until it is kept on disk
_LONG = 3600.0
_HEARTBEAT = 1.0  # seconds without a Tokens event after which one comes anyway, with the memory
_LOADING_PER_SECOND = 10
_GRAMMAR_SECONDS = 30.0
"""The longest that a constraint may take for one token; the engine cannot be interrupted there, only ended."""
_GRAMMAR_STOPPED = 1.0  # the same once the person has pressed Stop
_GRAMMAR_MEMORY = 4 << 30
_CHOICES_AT_ONCE = 1000


def serve(connection: Connection) -> None:
    """Serve until the parent says Cancel or goes away. Errors of one request are answered, the next one works."""
    worker = _Worker(connection)
    connection.intercept(worker.urgent)
    try:
        while not connection.cancelled.is_set():
            command = connection.poll(worker.patience)
            if command is not None:
                worker.handle(command)
            else:
                worker.idle()
        worker.idle()
    finally:
        worker.close()


class _Worker:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._model: Model | None = None
        self._lock = threading.Lock()
        self._stopped: set[int] = set()
        self._current: int | None = None
        self._left_out: dict[str, int] = {}
        self._keeper: Keeper | None = None
        self._drafting: Drafting | None = None

    @property
    def patience(self) -> float:
        """Seconds without a request after which there is time for :meth:`idle`."""
        return _IDLE if self._keeper is not None and self._keeper.due else _LONG

    def idle(self) -> None:
        """Nothing is asked, or it is all over: keep what the context holds."""
        if self._keeper is not None and self._keeper.due:
            self._keeper.save()

    def close(self) -> None:
        if self._drafting is not None:
            self._drafting.close()
            self._drafting = None
        if self._model is not None:
            self._model.close()
            self._model = None

    # ---- in the reading thread

    def urgent(self, command: Command) -> bool:
        """Stop and Cancel; True if the command is used up."""
        if isinstance(command, Stop):
            with self._lock:
                self._stopped.add(command.request)
                if self._current == command.request:
                    self._interrupt()
            return True
        if isinstance(command, Cancel):
            self._connection.cancelled.set()
            with self._lock:
                self._interrupt()
        return False

    def _interrupt(self) -> None:
        if self._model is not None:
            self._model.interrupt()

    # ---- in the serving thread

    def handle(self, command: Command) -> None:
        if isinstance(command, Load):
            self._load(command)
            return
        if not isinstance(command, (Generate, Complete, Score, Count, SetAdapters)):
            raise QuenchError("usage", "The chat worker cannot do this.", type(command).__name__, "", exit_status=2)
        with self._lock:
            self._current = command.request
        try:
            if isinstance(command, Generate | Complete):
                self._generate(command)
            elif isinstance(command, Count):
                self._count(command)
            elif isinstance(command, SetAdapters):
                used = self._loaded().use_adapters(command.adapters)
                self._connection.send(AdaptersSet(command.request, used))
            else:
                self._score(command)
        except QuenchError as error:
            self._connection.send(failed(error, command.request))
        except Cancelled:
            if not self._connection.cancelled.is_set():
                self._connection.send(failed(stopped(), command.request))
        finally:
            with self._lock:
                self._current = None
                self._stopped.discard(command.request)

    def _load(self, command: Load) -> None:
        """A model that cannot be loaded ends the worker: there is nothing that it could do without one."""
        start = time.perf_counter()
        self.close()
        throttle = Throttle(_LOADING_PER_SECOND)

        def progress(fraction: float) -> bool:
            if throttle.ready():
                self._connection.send(Loading(fraction))
            return not self._connection.cancelled.is_set()

        plan = dry.plan_load(
            command.path, command.options, outputs=OUTPUTS, replaces=command.replaces, ratio=command.ratio
        )
        if not plan.fits and not command.anyway:
            raise does_not_fit(plan, Path(command.path).name)
        options = msgspec.structs.replace(command.options, context=plan.context)
        if options.machines:
            options = msgspec.structs.replace(options, gpu_layers=plan.layers)
            Guard(options.machines, self._machine_lost)
        model = Model.load(command.path, options, progress, outputs=OUTPUTS, anyway=command.anyway)
        with self._lock:
            self._model = model
        self._keeper = Keeper(model, command.prompt_cache) if command.prompt_cache > 0 else None
        self._drafting = Drafting(model)
        seconds = time.perf_counter() - start
        self._connection.send(Loading(1.0))
        self._connection.send(
            Loaded(
                command.path,
                model.description,
                model.parameters,
                model.context,
                model.context_trained,
                model.threads,
                seconds,
                model.memory(),
                model.template is not None,
                model.defaults,
                plan,
            )
        )

    def _machine_lost(self, error: QuenchError) -> None:
        """The engine is about to abort, or will at the next token. Called from a thread of the library's."""
        if self._connection.cancelled.is_set():
            self._connection.send(self._connection.ending())
            leave(0)
        self._connection.send(failed(error))
        leave(error.exit_status)

    def _loaded(self) -> Model:
        if self._model is None:
            raise QuenchError("not_loaded", "No model is loaded.", "", "Load a model first.", exit_status=2)
        return self._model

    def _cancelled(self, request: int) -> bool:
        return request in self._stopped or self._connection.cancelled.is_set()

    def _prompt(self, model: Model, command: Generate | Complete) -> tuple[Fitted, Extras, str]:
        """The prompt, what else is asked of the reply, and the conversation that it belongs to."""
        if isinstance(command, Complete):
            tokens = model.prompt_tokens(command.prompt)
            return Fitted(tokens, 0, None, -1, command.prompt), Extras(probabilities=command.probabilities), ""
        messages = command.messages
        grammar = grammar_of(command.constraint)
        if command.continue_last and (not messages or messages[-1].role != "assistant"):
            raise QuenchError("usage", "There is no answer to go on with.", "", "", exit_status=2)
        if command.tools and not model.chat_template().knows_tools():
            raise QuenchError(
                "no_tools",
                "The model's chat template knows no tools.",
                "What is offered would never be read.",
                "Ask without tools, or take a model that was made for them.",
            )
        written = messages[-1].content if command.continue_last else ""
        prompt = self._fit(model, command)
        extras = _extras(grammar, prompt.text, written, command.probabilities)._replace(keep=prompt.keep)
        return prompt, extras, command.conversation

    def _generate(self, command: Generate | Complete) -> None:
        model = self._loaded()
        start = time.perf_counter()
        request = command.request
        reporter = _Reporter(self._connection, model, request, lambda: self._cancelled(request))
        last: Generated | None = None
        with reporter:  # also while a prompt is made: the parent takes long silence for a hang
            try:
                ahead = self._ahead(command)
                prompt, extras, conversation = self._prompt(model, command)
                extras = extras._replace(ahead=ahead)
                if self._keeper is not None:
                    self._keeper.turn_to(conversation, prompt.tokens)
                before = time.perf_counter() - start
                steps = model.generate(
                    prompt.tokens, command.sampling, extras=extras, cancelled=lambda: self._cancelled(request)
                )
                for last in steps:
                    reporter.add(last)
            except Cancelled:  # while older turns were being summed up
                if self._connection.cancelled.is_set():
                    raise
        if last is None or last.stats is None:
            self._connection.send(_replied(request, Stats("cancelled", 0, 0, 0, 0, 0, 0), 0, model))
            return
        if last.stats.shifted:
            self._tell_fit(request, prompt, shifted=last.stats.shifted)
        self._tell_choices(request, last.stats, reporter.characters)
        self._connection.send(_replied(request, last.stats, before, model))

    def _ahead(self, command: Generate | Complete) -> tuple[Guesser, Costs] | None:
        """Who guesses; the first time a draft model is loaded and the machine measured."""
        assert self._drafting is not None
        name = command.draft if isinstance(command, Generate) else ""
        if name and self._keeper is not None and not self._drafting.knows(name):
            self._keeper.turn_to("", ())  # measuring empties the context
        return self._drafting.find(name, lambda part: not self._cancelled(command.request))

    def _tell_choices(self, request: int, stats: Stats, shown: int) -> None:
        """The recorded probabilities of the tokens whose text was shown."""
        if stats.choices is None:
            return
        model = self._loaded()
        texts = choice_texts([model.shown(choice.token) for choice in stats.choices], shown)
        choices = [
            TokenChoice(
                text,
                _rounded(choice.probability),
                tuple(Likely(model.detokenize([token], special=True), _rounded(part)) for token, part in choice.top),
            )
            for text, choice in zip(texts, stats.choices, strict=False)
        ]
        for at in range(0, len(choices), _CHOICES_AT_ONCE):
            self._connection.send(TokenChoices(request, tuple(choices[at : at + _CHOICES_AT_ONCE])))

    def _fit(self, model: Model, command: Generate) -> Fitted:
        """The prompt, without old turns where they do not fit; the parent is told which."""

        def summarising(count: int) -> None:
            self._connection.send(ContextFitted(command.request, count, summarising=True))

        prompt = fitted(
            model,
            command.messages,
            overflow=command.overflow,
            most=command.sampling.max_tokens,
            continue_last=command.continue_last,
            left_out=self._left_out.get(command.conversation, 0),
            summary=command.summary,
            on_summary=summarising,
            cancelled=lambda: self._cancelled(command.request),
            tools=command.tools,
        )
        self._left_out = {command.conversation: prompt.left_out}
        if prompt.left_out:
            self._tell_fit(command.request, prompt)
        return prompt

    def _tell_fit(self, request: int, prompt: Fitted, *, shifted: int = 0) -> None:
        self._connection.send(ContextFitted(request, prompt.left_out, prompt.summary, shifted=shifted))

    def _count(self, command: Count) -> None:
        model = self._loaded()
        prompt = model.prompt_tokens(model.render(command.messages))
        tokens = model.continuation_tokens(command.text)
        self._connection.send(Counted(command.request, len(tokens), len(prompt), model.context))

    def _score(self, command: Score) -> None:
        model = self._loaded()
        if self._keeper is not None:
            self._keeper.turn_to("", ())  # what scoring leaves behind belongs to no conversation
        if command.write is not None and command.against is not None:
            raise QuenchError("usage", "At most one of write and against can be given.", "", "", exit_status=2)
        prompt = model.prompt_tokens(model.render(command.messages)) if command.messages else model.opening_tokens()
        answer = model.continuation_tokens(command.answer)
        blocks = model.answer_logits(prompt, answer, cancelled=lambda: self._cancelled(command.request))

        def text(token: int) -> str:
            return model.detokenize([token], special=True)

        bounds = False
        if command.write is not None:
            probe = model.tokenize(PROBE, special=True, add_special=False)
            tokens = scoring.write_reference(
                command.write, answer, blocks, model.vocabulary, text, prompt=prompt, probe=probe
            )
        elif command.against is None:
            tokens = scoring.probabilities(answer, blocks, text)
        else:
            tokens, bounds = scoring.compare(command.against, answer, blocks, model.vocabulary, text)
        self._connection.send(scoring.summary(command.request, tokens, bounds=bounds))


class _Reporter:
    """Tokens events of one reply: coalesced, with the live rate, and at least one a second even when none come."""

    def __init__(self, connection: Connection, model: Model, request: int, stopped: Callable[[], bool]) -> None:
        self._connection = connection
        self._model = model
        self._request = request
        self._stopped = stopped
        self.characters = 0
        alone = model.threads < hardware.logical_cores()
        self._throttle = Throttle(TOKENS_PER_SECOND if alone else TOKENS_BY_ALL_CORES)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._memory = self._now = hardware.anonymous_memory()
        self._looked = time.monotonic()
        self._text = ""
        self._tokens = 0
        self._sent = time.monotonic()
        self._times: deque[tuple[float, int]] = deque()
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        self._thread.join()
        if self._text:
            self._send()

    def add(self, step: Generated) -> None:
        now = time.monotonic()
        with self._lock:
            self._text += step.text
            self.characters += len(step.text)
            self._tokens = step.tokens
            self._times.append((now, step.tokens))
            while now - self._times[0][0] > 1.0 and len(self._times) > 2:
                self._times.popleft()
            if self._text and self._throttle.ready():
                self._send()

    def _heartbeat(self) -> None:
        while not self._done.wait(_HEARTBEAT / 4):
            self._watch_grammar()
            with self._lock:
                if time.monotonic() - self._sent >= _HEARTBEAT:
                    self._send()

    def _watch_grammar(self) -> None:
        """End the process where a constraint keeps the library busy without an end in sight."""
        busy = self._model.grammar_busy()
        limit = _GRAMMAR_STOPPED if self._stopped() else _GRAMMAR_SECONDS
        if busy > limit or (busy > 0 and hardware.anonymous_memory() > self._memory + _GRAMMAR_MEMORY):
            self._connection.send(failed(_grammar_too_slow()))
            leave(_grammar_too_slow().exit_status)

    def _send(self) -> None:
        self._sent = time.monotonic()
        if self._sent - self._looked >= _HEARTBEAT:
            self._looked, self._now = self._sent, hardware.anonymous_memory()
        text, self._text = self._text, ""
        self._connection.send(Tokens(self._request, text, self._tokens, self._rate(), self._model.used, self._now))

    def _rate(self) -> float:
        if len(self._times) < 2:
            return 0.0
        (first, before), (last, after) = self._times[0], self._times[-1]
        return (after - before) / (last - first) if last > first else 0.0


def _replied(request: int, stats: Stats, before: float, model: Model) -> Replied:
    """``before``: seconds for template and tokens, which a person waits for like for everything else."""
    computed = stats.prompt_tokens - stats.prompt_reused
    return Replied(
        request,
        stats.stop,
        stats.tokens,
        stats.rate,
        before + stats.first_token,
        stats.prompt_tokens,
        stats.prompt_reused,
        computed / stats.prompt_seconds if stats.prompt_seconds > 0 else 0.0,
        model.used,
        model.memory(),
        stats.seed,
        GuessedAhead(*stats.ahead) if stats.ahead is not None else None,
    )


def _extras(grammar: str, prompt: str, written: str, probabilities: str) -> Extras:
    """``prompt`` may end with the beginning of a reasoning section, ``written`` may be in the middle of one."""
    opened = THOUGHT.search(prompt[-60:].rstrip()) if not THOUGHT_END.search(prompt[-60:]) else None
    thinking = opened is not None and prompt.rstrip().endswith(opened.group())
    thinking = thinking or THOUGHT.match(written.lstrip()) is not None
    if thinking and THOUGHT_END.search(written) is None:
        return Extras(grammar, "", True, probabilities)
    return Extras(grammar, without_thought(written), False, probabilities)


def _rounded(probability: float) -> float:
    """Four digits: nobody reads more, and they travel and are kept."""
    return float(f"{probability:.4g}")


def _grammar_too_slow() -> QuenchError:
    return QuenchError(
        "grammar_too_slow",
        "The constraint takes the engine too long.",
        "It allows so many ways to go on that the engine came to no end, and had to be ended.",
        "Simplify the grammar: two alternatives should not begin alike. Then answer again.",
    )


__all__ = ["OUTPUTS", "TOKENS_PER_SECOND", "serve"]
