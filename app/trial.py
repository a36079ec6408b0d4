"""Each finished file of a conversion, loaded once by the engine in a worker before the job says done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from app import hardware
from app.child import Child
from app.protocol import ModelTried, TryModel
from converter.spec import Checked, ConversionResult, OutputDone, QuenchError

SECONDS = 120.0
"""The longest that a trial may take; a file on a slow disk is not held up for longer."""
_ROOM = 1 << 30
"""Free memory beside the file's own size without which it is not loaded."""
_NOT_OURS = frozenset({"unsupported_architecture", "not_generative", "no_memory", "context_failed"})
"""What an engine may say of a file that was written well."""

_POLL = 0.2


def try_outputs(result: ConversionResult, stopped: Callable[[], bool]) -> ConversionResult:
    """``result`` with what the engine said of each output.

    Raises ``QuenchError`` ``output_unusable`` when the engine cannot load a file or dies of it; the file stays where it
    is. ``stopped`` ends the trials: what is not tried is said to be so.
    """
    outputs = tuple(msgspec.structs.replace(output, checked=_tried(output, stopped)) for output in result.outputs)
    return msgspec.structs.replace(result, outputs=outputs)


def _tried(output: OutputDone, stopped: Callable[[], bool]) -> Checked:
    done = output.checked or Checked(0)
    if stopped():
        return msgspec.structs.replace(done, note="Not loaded: the job was stopped before.")
    free = hardware.memory_available()
    if free < output.bytes + _ROOM:
        note = f"Not loaded: the engine would need {output.bytes + _ROOM:,} bytes of memory, {free:,} are free."
        return msgspec.structs.replace(done, note=note)
    try:
        token = _ask(output.path, stopped)
    except QuenchError as error:
        if error.code in _NOT_OURS:
            return msgspec.structs.replace(done, note=f"Not tried: {error.title}")
        raise QuenchError(
            "output_unusable",
            "The finished file cannot be used by the engine.",
            f"{Path(output.path).name}: {error.title} {error.detail}".strip(),
            "The file was kept, but do not rely on it. Convert again; if that does not help, check disk and memory.",
            exit_status=error.exit_status,
        ) from error
    if token is None:
        return msgspec.structs.replace(done, note="Not tried: loading took too long, or the job was stopped.")
    return msgspec.structs.replace(done, token=token)


def _ask(path: str, stopped: Callable[[], bool]) -> int | None:
    """The token that the engine answers with; None when it took too long or was stopped."""
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
            child.send(TryModel(path))
            for _ in child.events():
                pass
            end = child.wait()
        finally:
            over.set()
            watcher.join()
        if isinstance(child.terminal, ModelTried):
            return child.terminal.token
        if gave_up.is_set():
            return None
        if end.error is not None:
            raise end.error
        return None
