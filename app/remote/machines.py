"""Other machines that compute a part of a model, each by llama.cpp's RPC worker: their names, and how they are.

Nothing here is private: neither side proves who it is, and nothing is encrypted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from converter.spec import QuenchError

DEFAULT_PORT = 50052
MAX_MACHINES = 15
"""The engine has room for sixteen devices; one may be this machine's own."""

PROTOCOL = (7, 0)
"""The engine's version; it takes no other major one, and no newer minor one."""

READY, BUSY, UNREACHABLE, OTHER_PROGRAM, OTHER_VERSION = (
    "ready",
    "busy",
    "unreachable",
    "other_program",
    "other_version",
)

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class Machine(msgspec.Struct, frozen=True):
    """How a machine was when it was asked.

    ``state`` is ``ready``; ``busy``: it takes the connection and says nothing; ``unreachable``; ``other_program``: what
    answers there speaks otherwise; ``other_version``: another release's worker. ``detail`` says why, ``version`` is
    the worker's, ``devices`` how many it computes on, ``free`` and ``total`` their memory in bytes as it reports it (a
    worker that computes on a processor reports all memory as free).
    """

    endpoint: str
    state: str
    detail: str = ""
    version: str = ""
    devices: int = 0
    free: int = 0
    total: int = 0


def check_endpoint(text: str) -> str:
    """``host:port`` as the engine takes it; :data:`DEFAULT_PORT` where none is given.

    Raises:
        QuenchError: ``bad_machine`` for what is none. The engine knows names and IPv4 addresses only.
    """
    given = text.strip()
    host, colon, number = given.partition(":")
    port = int(number) if re.fullmatch(r"[0-9]{1,5}", number) else (-1 if colon else DEFAULT_PORT)
    if not _is_host(host) or not 1 <= port <= 65535:
        raise QuenchError(
            "bad_machine",
            "This is not the address of a machine.",
            repr(given[:100]),
            f"It looks like 10.0.0.5:{DEFAULT_PORT} or workshop.local:{DEFAULT_PORT}: a name or an IPv4 address, and "
            "the port that its RPC worker listens on.",
            exit_status=2,
        )
    return f"{host.lower()}:{port}"


def check_endpoints(text: str) -> tuple[str, ...]:
    """Several, separated by commas, each once; errors as :func:`check_endpoint`."""
    found = tuple(dict.fromkeys(check_endpoint(part) for part in text.split(",") if part.strip()))
    if not found or len(found) > MAX_MACHINES:
        raise QuenchError(
            "bad_machine", f"Name one to {MAX_MACHINES} machines.", text[:200], "HOST:PORT,HOST:PORT", exit_status=2
        )
    return found


def _is_host(host: str) -> bool:
    """A name, or a whole IPv4 address: of digits alone the system would make one, 10.0.0.5 of 10.5."""
    if not _HOST.fullmatch(host):
        return False
    try:
        return not re.fullmatch(r"[0-9.]+", host) or bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False


def problem(found: Iterable[Machine]) -> QuenchError | None:
    """What keeps these machines from being used, in words; None if nothing does."""
    bad = [machine for machine in found if machine.state != READY]
    if not bad:
        return None
    first = bad[0]
    title, hint = _PROBLEMS[first.state]
    detail = "\n".join(f"{machine.endpoint}: {machine.detail}" for machine in bad)
    return QuenchError(f"machine_{first.state}", title.format(first.endpoint), detail, hint)


def lost(found: Iterable[Machine], reason: str) -> QuenchError:
    """The error of an engine that lost one of its machines; ``found`` is which of them are there a moment later. Where
    all are, one has broken off the connection, and nothing says which."""
    every = list(found)
    gone = [machine for machine in every if machine.state == UNREACHABLE]
    if gone:
        names, verb = " and ".join(machine.endpoint for machine in gone), "stopped answering"
        hint = "Look whether its RPC worker still runs and its network is up, then load the model again."
    else:
        names, verb = " or ".join(machine.endpoint for machine in every), "broke off the connection"
        hint = "Its RPC worker was started again, or ran out of memory. Load the model again, or give it fewer layers."
    return QuenchError(
        "machine_lost",
        f"The machine {names} {verb}.",
        "\n".join([*(f"{machine.endpoint}: {machine.detail}" for machine in gone), reason]).strip(),
        f"{hint} What was written so far is kept. The model can also be loaded on this machine alone.",
        exit_status=5,
    )


_PROBLEMS = {
    UNREACHABLE: (
        "The machine {0} cannot be reached.",
        "Start llama.cpp's RPC worker there (ggml-rpc-server), and look at name, port and firewall. Without it the "
        "model can be loaded on this machine alone.",
    ),
    BUSY: (
        "The machine {0} is busy, or no RPC worker.",
        "A worker serves one model at a time: end what uses it, or take another machine. If nothing does, look at the "
        "port.",
    ),
    OTHER_PROGRAM: (
        "What answers at {0} is no RPC worker.",
        "Look at the port: llama.cpp's RPC worker listens on 50052 unless told otherwise.",
    ),
    OTHER_VERSION: (
        "The RPC worker at {0} is of another version.",
        f"This engine speaks version {PROTOCOL[0]}.{PROTOCOL[1]}. Build the worker from the same release of llama.cpp.",
    ),
}


__all__ = [
    "BUSY",
    "DEFAULT_PORT",
    "MAX_MACHINES",
    "OTHER_PROGRAM",
    "OTHER_VERSION",
    "READY",
    "UNREACHABLE",
    "Machine",
    "check_endpoint",
    "check_endpoints",
    "lost",
    "problem",
]
