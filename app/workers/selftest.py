"""The self-test of the kernels, in a process of its own: a backend that this processor cannot run ends only that."""

from __future__ import annotations

from app.protocol import BackendStarted, BackendTested, KernelsTested, RunSelftest
from app.workers.runtime import Connection


def serve(connection: Connection) -> None:
    """Answer one :class:`RunSelftest`."""
    import kernels

    for command in connection.commands():
        if isinstance(command, RunSelftest):
            for backend in command.backends:
                connection.send(BackendStarted(backend))
                connection.send(BackendTested(backend, tuple(kernels.selftest(backend))))
            connection.send(KernelsTested(command.backends))
            return
