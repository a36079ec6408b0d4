"""The worker of an embeddings model: it turns texts into vectors. One request at a time, in order."""

from __future__ import annotations

import threading
import time

from app.engine.embedding import Embedder
from app.protocol import Command, Load, Loaded, Loading, Sampling, Stop, failed
from app.serving.messages import Embed, Embedded
from app.workers.runtime import Connection, Throttle
from converter.spec import Cancelled, QuenchError

_LOADING_PER_SECOND = 10


def serve(connection: Connection) -> None:
    """Serve until the parent says Cancel or goes away. A model that cannot be loaded ends the worker."""
    worker = _Worker(connection)
    connection.intercept(worker.urgent)
    try:
        for command in connection.commands():
            worker.handle(command)
    finally:
        worker.close()


class _Worker:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._model: Embedder | None = None
        self._stopped: set[int] = set()
        self._lock = threading.Lock()

    def urgent(self, command: Command) -> bool:
        """Stop; in the reading thread."""
        if isinstance(command, Stop):
            with self._lock:
                self._stopped.add(command.request)
            return True
        return False

    def handle(self, command: Command) -> None:
        if isinstance(command, Load):
            self._load(command)
        elif isinstance(command, Embed):
            self._embed(command)
        else:
            raise QuenchError("usage", "This worker makes vectors only.", type(command).__name__, "", exit_status=2)

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None

    def _load(self, command: Load) -> None:
        start = time.perf_counter()
        self.close()
        throttle = Throttle(_LOADING_PER_SECOND)

        def progress(fraction: float) -> bool:
            if throttle.ready():
                self._connection.send(Loading(fraction))
            return not self._connection.cancelled.is_set()

        model = self._model = Embedder.load(command.path, command.options, progress)
        seconds = time.perf_counter() - start
        self._connection.send(
            Loaded(
                command.path, model.description, model.parameters, model.context, model.context_trained, model.threads,
                seconds, model.memory(), False, Sampling(),
            )
        )  # fmt: skip

    def _embed(self, command: Embed) -> None:
        def cancelled() -> bool:
            return command.request in self._stopped or self._connection.cancelled.is_set()

        try:
            if self._model is None:
                raise QuenchError("not_loaded", "No model is loaded.", "", "Load a model first.", exit_status=2)
            made = self._model.embed(command.texts, cancelled=cancelled)
            vectors = made.vectors.astype("<f4").tobytes()
            self._connection.send(Embedded(command.request, vectors, self._model.width, made.tokens, made.cut))
        except QuenchError as error:
            self._connection.send(failed(error, command.request))
        except Cancelled:
            stopped = QuenchError("cancelled", "Stopped.", "", "", exit_status=130)
            self._connection.send(failed(stopped, command.request))
        finally:
            with self._lock:
                self._stopped.discard(command.request)


__all__ = ["serve"]
