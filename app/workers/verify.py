"""The worker that reads whole files and compares them with what they should be.

``VerifyModels`` is answered by ``Status`` messages and a ``VerifyResult``. What was found good is remembered, so that a
paused run goes on where it was.
"""

from __future__ import annotations

import time

from app import paths
from app.local.listing import Lister
from app.local.sums import Sums
from app.local.verify import verify
from app.local.walk import Walk
from app.protocol import Status, VerifyModels, VerifyResult
from app.workers.runtime import Connection, Throttle
from converter.spec import QuenchError


def serve(connection: Connection) -> None:
    """Take one command, send its result."""
    for command in connection.commands():
        if not isinstance(command, VerifyModels):
            raise QuenchError(
                "bad_message", "This worker only verifies.", f"It was sent {type(command).__name__}.", exit_status=1
            )
        connection.send(_verified(connection, command))
        return


def _verified(connection: Connection, command: VerifyModels) -> VerifyResult:
    throttle = Throttle(10)
    start = begin = time.monotonic()

    def progress(done: int, total: int, name: str) -> None:
        if throttle.ready() or done == total:
            took = time.monotonic() - begin
            left = took * (total - done) / done if done and took > 1 else None
            connection.send(Status(name, done, total, left))

    connection.send(Status("looking for models", 0, 0))
    lister = Lister()
    models = [lister.describe(candidate) for candidate in Walk().candidates(command.places)]
    begin = time.monotonic()
    sums = Sums(paths.home() / "sums.db")
    try:
        files = tuple(verify(models, sums, since=command.since, progress=progress, stopped=connection.cancelled.is_set))
    finally:
        sums.close()
    return VerifyResult(files, sum(file.bytes for file in files), time.monotonic() - start)
