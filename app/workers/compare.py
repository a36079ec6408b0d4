"""Two models compared tensor by tensor, in a process of its own: it maps both, and dies alone if one is cut short."""

from __future__ import annotations

from app.protocol import CompareModels
from app.workers.runtime import Connection


def serve(connection: Connection) -> None:
    """Answer one :class:`CompareModels`: ``Compared`` and ``Progress`` events, then ``ComparisonDone``.

    A cancel raises ``converter.spec.Cancelled`` out of here, what cannot be read ``QuenchError``.
    """
    from app import kernel_check
    from converter.comparing import compare

    for command in connection.commands():
        if isinstance(command, CompareModels):
            kernel_check.report(connection.send)
            compare(
                command.first, command.second, connection.send, connection.cancelled.is_set, threads=command.threads
            )
            return
