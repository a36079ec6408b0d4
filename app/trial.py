"""Each finished file of a conversion, loaded once by the engine in a worker before the job says done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from app import hardware, tokenizer_check
from app.child import Child
from app.protocol import ModelTried, Tokenized, TryModel
from converter.spec import Checked, ConversionResult, OutputDone, QuenchError

SECONDS = 120.0
"""The longest that a trial may take; a file on a slow disk is not held up for longer."""
_ROOM = 1 << 30
"""Free memory beside the file's own size without which it is not loaded."""
_NOT_OURS = frozenset({"unsupported_architecture", "not_generative", "no_memory", "context_failed"})
"""What an engine may say of a file that was written well."""

_POLL = 0.2


class Answer(NamedTuple):
    """What the engine said: a token, its tokens of the texts, or what was wrong."""

    token: int | None
    tokens: tuple[tuple[int, ...], ...] = ()
    error: QuenchError | None = None


def try_outputs(result: ConversionResult, stopped: Callable[[], bool], source: str = "") -> ConversionResult:
    """As :meth:`Trial.of`, without anything made ready before."""
    with Trial(source, stopped) as trial:
        return trial.of(result)


class Trial:
    """A trial of outputs of a conversion of ``source`` (empty: its tokenizer is not compared). A context manager.

    ``stopped`` ends it: what is not tried is said to be so.
    """

    def __init__(self, source: str, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._expected = _Expected(source)
        self._waiting: Child | None = None

    def get_ready(self) -> None:
        """Start what takes its time, beside whatever else is to be done before the outputs are there."""
        self._expected.begin()
        if self._waiting is None:
            self._waiting = Child("trial")

    def of(self, result: ConversionResult) -> ConversionResult:
        """``result`` with what the engine said of each output, and where its tokenizer and that of the source part.

        Raises ``QuenchError`` ``output_unusable`` when the engine cannot load a file or dies of it; the file stays
        where it is.
        """
        self._expected.begin()
        outputs = []
        for output in result.outputs:
            checked = self._tried(output, output.checked or Checked(0))
            outputs.append(msgspec.structs.replace(output, checked=checked))
        return msgspec.structs.replace(result, outputs=tuple(outputs))

    def _tried(self, output: OutputDone, done: Checked) -> Checked:
        if self._stopped():
            return _noted(done, "Not loaded: the job was stopped before.")
        free = hardware.memory_available()
        if free < output.bytes + _ROOM:
            note = f"Not loaded: the engine would need {output.bytes + _ROOM:,} bytes of memory, {free:,} are free."
            return _noted(done, note)
        child, self._waiting = self._waiting or Child("trial"), None
        answer = _ask(child, output.path, self._expected, self._stopped)
        encoded, note = self._expected.get()
        done = msgspec.structs.replace(done, note=note)
        if answer.tokens:
            found = tokenizer_check.compared(encoded, answer.tokens)
            done = msgspec.structs.replace(done, tokenizer=found, note=tokenizer_check.in_words(found))
        if answer.token is not None:
            return msgspec.structs.replace(done, token=answer.token)
        error = answer.error
        if error is None:
            return _noted(done, "Not tried: loading took too long, or the job was stopped.")
        if error.code in _NOT_OURS:
            return _noted(done, f"Not tried: {error.title}")
        raise QuenchError(
            "output_unusable",
            "The finished file cannot be used by the engine.",
            f"{Path(output.path).name}: {error.title} {error.detail}".strip(),
            "The file was kept, but do not rely on it. Convert again; if that does not help, check disk and memory.",
            exit_status=error.exit_status,
        ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting is not None:
            self._waiting.kill()
            self._waiting.close()
        self._expected.close()


class _Expected:
    """Texts with the source's tokens of them, and a sentence why there are none; found in a thread of its own."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(1, "expected tokens")
        self._found: Future[tuple[tokenizer_check.Encoded, str]] | None = None

    def begin(self) -> None:
        if self._found is None:
            self._found = self._pool.submit(self._find)

    def get(self) -> tuple[tokenizer_check.Encoded, str]:
        self.begin()
        assert self._found is not None
        return self._found.result()

    def close(self) -> None:
        # Not waited for: nobody needs it any more, and a large vocabulary takes seconds.
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _find(self) -> tuple[tokenizer_check.Encoded, str]:
        try:
            return (tokenizer_check.source_tokens(self._source) if self._source else []), ""
        except QuenchError as error:
            return [], f"Tokenizers not compared: {error.title} {error.detail}".strip()


def _noted(done: Checked, note: str) -> Checked:
    return msgspec.structs.replace(done, note=f"{note} {done.note}".strip())


def _ask(child: Child, path: str, expected: _Expected, stopped: Callable[[], bool]) -> Answer:
    """What the engine says of a file: it took too long or was stopped where there is no token. Ends the child."""
    tokens: tuple[tuple[int, ...], ...] = ()
    with child:
        over = threading.Event()
        gave_up = threading.Event()

        def watch() -> None:
            until = time.monotonic() + SECONDS
            while not over.wait(_POLL):
                if stopped() or time.monotonic() > until:
                    gave_up.set()
                    child.kill()
                    return

        watcher = threading.Thread(target=watch, name="trial", daemon=True)
        watcher.start()
        try:
            child.send(TryModel(path, tuple(text for text, _ in expected.get()[0])))
            for event in child.events():
                if isinstance(event, Tokenized):
                    tokens = event.tokens
            end = child.wait()
        finally:
            over.set()
            watcher.join()
        if isinstance(child.terminal, ModelTried):
            return Answer(child.terminal.token, tokens)
        return Answer(None, tokens, None if gave_up.is_set() else end.error)
