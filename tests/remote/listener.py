"""Something that listens on a port of this machine and says what a test wants, in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

KNOCK = b"\xff"


class Listener:
    """Hangs up on a knock, as an RPC worker does. Else answers each connection's request number n with ``answers[n]``,
    then hangs up, or with ``mute`` says no more. ``heard`` is everything that it was told.

    ``greeting`` is said at once, before anything is asked. Without answers it is mute from the first word on.
    """

    def __init__(self, *answers: bytes, mute: bool = False, greeting: bytes = b"") -> None:
        self._answers, self._mute, self._greeting = answers, mute, greeting
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.heard: list[bytes] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                self._open.append(connection)
                with contextlib.suppress(OSError):
                    self._speak(connection)

    def _speak(self, connection: socket.socket) -> None:
        connection.sendall(self._greeting)
        for answer in self._answers or (b"",):
            asked = connection.recv(4096)
            self.heard.append(asked)
            if asked == KNOCK and self._answers:
                connection.shutdown(socket.SHUT_WR)
                return
            connection.sendall(answer)
        if not self._mute:
            connection.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for each in (self._socket, *self._open):
            with contextlib.suppress(OSError):  # wakes the thread; some are shut down already
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (self._socket, *self._open):
            each.close()
