"""The edges of a command: its three streams, whatever state they are in, and the signals that end it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from converter.spec import QuenchError


def complete_streams() -> None:
    """Somebody may start us with closed descriptors: fill them, or the next file that is opened becomes one of them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to fail


def silence_output() -> None:
    """What still waits to be written goes nowhere, or the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def endings(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """While inside, Ctrl-C, ``kill`` and a closed terminal all call ``handler``; what was ignored stays ignored."""
    before: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def system_error(error: OSError) -> QuenchError:
    """What the system refused and nobody nearer to it has put into words."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return QuenchError(
        "no_space" if full else "refused",
        "The disk is full." if full else "The system refused this.",
        str(error),
        "Free some disk space." if full else "Check that the path is right and that you may use it.",
        exit_status=4 if full else 3,
    )


__all__ = ["complete_streams", "endings", "silence_output", "system_error"]
