"""One conversion, in a process of its own: a crash or a kill costs the window one red card and a retry."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from app import trial
from app.protocol import Convert
from app.workers.runtime import Connection
from converter.spec import ConversionResult, Paused, Progress


def serve(connection: Connection) -> None:
    """Answer one :class:`Convert`: ``Planned``, ``TensorDone`` and ``Progress`` events, then ``ConversionResult``.

    Before them comes ``KernelsChecked`` if this is the first use of the kernels and a backend is wrong here.
    A cancel or a pause raises ``converter.spec.Cancelled`` out of here, a refusal ``QuenchError``: the runtime turns
    them into the last message. What stays for a later run, the converter's journal says. Before the result is sent the
    engine has loaded each output once.
    """
    from app import kernel_check
    from converter.pipeline import convert

    for command in connection.commands():
        if isinstance(command, Convert):
            kernel_check.report(connection.send)
            stopped, paused = connection.cancelled.is_set, connection.paused.is_set
            if not command.spec.check:
                convert(command.spec, connection.send, stopped, paused=paused)
                return
            with trial.Trial(command.spec.source, connection.cancelled.is_set) as tried:
                finish = partial(_tried, connection, tried)
                convert(command.spec, connection.send, stopped, paused=paused, written=tried.get_ready, finish=finish)
            return


def _tried(connection: Connection, tried: trial.Trial, result: ConversionResult) -> ConversionResult:
    """The result with what the engine says of each output. ``Paused`` if that is left for later."""
    names = ", ".join(Path(output.path).name for output in result.outputs)
    connection.send(Progress(result.read_bytes, result.read_bytes, 0.0, None, 0, f"Trying {names}"))
    result = tried.of(result)
    if connection.paused.is_set():
        raise Paused
    return result
