"""Each finished file of a conversion, loaded once by the engine in a worker before the job says done."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

Expected = Callable[[], tuple[tokenizer_check.Encoded, str]]
"""Texts with the source's tokens of them, and a sentence why there are none."""


class Answer(NamedTuple):
    """What the engine said: a token, its tokens of the texts, or what was wrong."""

    token: int | None
    tokens: tuple[tuple[int, ...], ...] = ()
    error: QuenchError | None = None


def try_outputs(result: ConversionResult, stopped: Callable[[], bool], source: str = "") -> ConversionResult:
    """``result`` with what the engine said of each output, and where its tokenizer and that of ``source`` part.

    Raises ``QuenchError`` ``output_unusable`` when the engine cannot load a file or dies of it; the file stays where it
    is. ``stopped`` ends the trials: what is not tried is said to be so.
    """
    expected = functools.cache(lambda: _expected(source) if source else ([], ""))
    outputs = []
    for output in result.outputs:
        checked = _tried(output, output.checked or Checked(0), expected, stopped)
        outputs.append(msgspec.structs.replace(output, checked=checked))
    return msgspec.structs.replace(result, outputs=tuple(outputs))


def _expected(source: str) -> tuple[tokenizer_check.Encoded, str]:
    """Texts and the source's tokens of them, or a sentence why there are none."""
    try:
        return tokenizer_check.source_tokens(source), ""
    except QuenchError as error:
        return [], f"Tokenizers not compared: {error.title} {error.detail}".strip()


def _tried(output: OutputDone, done: Checked, expected: Expected, stopped: Callable[[], bool]) -> Checked:
    if stopped():
        return _noted(done, "Not loaded: the job was stopped before.")
    free = hardware.memory_available()
    if free < output.bytes + _ROOM:
        note = f"Not loaded: the engine would need {output.bytes + _ROOM:,} bytes of memory, {free:,} are free."
        return _noted(done, note)
    answer = _ask(output.path, expected, stopped)
    encoded, note = expected()
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


def _noted(done: Checked, note: str) -> Checked:
    return msgspec.structs.replace(done, note=f"{note} {done.note}".strip())


def _ask(path: str, expected: Expected, stopped: Callable[[], bool]) -> Answer:
    """What the engine says of a file: it took too long or was stopped where there is no token.

    The source's tokenizer, which takes its time, runs while the worker gets ready.
    """
    tokens: tuple[tuple[int, ...], ...] = ()
    with Child("trial") as child:
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
            child.send(TryModel(path, tuple(text for text, _ in expected()[0])))
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
