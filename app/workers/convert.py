"""One conversion, in a process of its own: a crash or a kill costs the window one red card and a retry."""

from __future__ import annotations

from app.protocol import Convert
from app.workers.runtime import Connection


def serve(connection: Connection) -> None:
    """Answer one :class:`Convert`: ``Planned``, ``TensorDone`` and ``Progress`` events, then ``ConversionResult``.

    Before them comes ``KernelsChecked`` if this is the first use of the kernels and a backend is wrong here.
    A cancel or a pause raises ``converter.spec.Cancelled`` out of here, a refusal ``QuenchError``: the runtime turns
    them into the last message. What stays for a later run, the converter's journal says.
    """
    for command in connection.commands():
        if isinstance(command, Convert):
            from app import kernel_check
            from converter.pipeline import convert

            kernel_check.report(connection.send)
            convert(command.spec, connection.send, connection.cancelled.is_set, paused=connection.paused.is_set)
            return
