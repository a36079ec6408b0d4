"""One conversion, in a process of its own: a crash or a kill costs the window one red card and a retry."""

from __future__ import annotations

from pathlib import Path

from app import trial
from app.protocol import Convert
from app.workers.runtime import Connection
from converter.spec import ConversionEvent, ConversionResult, Progress


def serve(connection: Connection) -> None:
    """Answer one :class:`Convert`: ``Planned``, ``TensorDone`` and ``Progress`` events, then ``ConversionResult``.

    Before them comes ``KernelsChecked`` if this is the first use of the kernels and a backend is wrong here.
    A cancel or a pause raises ``converter.spec.Cancelled`` out of here, a refusal ``QuenchError``: the runtime turns
    them into the last message. What stays for a later run, the converter's journal says. Before the result is sent the
    engine has loaded each output once.
    """

    def send(event: ConversionEvent) -> None:
        if not isinstance(event, ConversionResult):  # which ends the job, and is sent when the engine has tried it
            connection.send(event)

    for command in connection.commands():
        if isinstance(command, Convert):
            from app import kernel_check
            from converter.pipeline import convert

            kernel_check.report(connection.send)
            result = convert(command.spec, send, connection.cancelled.is_set, paused=connection.paused.is_set)
            if command.spec.check:
                names = ", ".join(Path(output.path).name for output in result.outputs)
                connection.send(Progress(result.read_bytes, result.read_bytes, 0.0, None, 0, f"Trying {names}"))
                result = trial.try_outputs(result, lambda: connection.cancelled.is_set() or connection.paused.is_set())
            connection.send(result)
            return
