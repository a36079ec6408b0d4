"""Asking llama.cpp's RPC workers how they are, in their own protocol. No model, no Qt.

The protocol is that of ggml-rpc.cpp in the pinned engine, version 7.0. A request is a byte for the command, eight for
the length of what follows, and that; an answer is eight bytes of length, and that. Numbers are little-endian. The
first request is always ``HELLO``. A worker serves one connection at a time and lets one or two others wait, so that
whoever asks while it computes for somebody hears nothing.

Whoever asks and then goes away without waiting for the answer ends the worker: it writes into a closed connection, and
is not prepared for that. So nothing is asked of one that may be busy. First comes a knock, one byte that is no
``HELLO``: a worker that is free hangs up on it at once and goes on with the next; one that is busy does so much later,
and writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

from app.remote.machines import BUSY, OTHER_PROGRAM, OTHER_VERSION, PROTOCOL, READY, UNREACHABLE, Machine

CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 4.0

_KNOCK = b"\xff"
_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
_CAPABILITIES = bytes(24)  # other ways to carry the bytes than TCP: none
_VERSION = struct.Struct("<4B24x")
_MAX_DEVICES = 64


class _UnreachableError(Exception):
    """There is no connection; the words say why."""


class _OtherProgramError(Exception):
    """What came is no answer of an RPC worker."""


async def look(endpoint: str, *, patience: float = ANSWER_SECONDS) -> Machine:
    """Ask a machine how it is. Never raises for what goes wrong there; it takes at most a few seconds.

    ``patience``: seconds to wait for an answer after the connection stands.
    """
    try:
        async with _connected(endpoint) as (reader, writer):
            await _knock(reader, writer, patience)
        async with _connected(endpoint) as (reader, writer), asyncio.timeout(patience):
            return await _ask(endpoint, reader, writer)
    except _UnreachableError as error:
        return Machine(endpoint, UNREACHABLE, str(error))
    except TimeoutError:
        return Machine(endpoint, BUSY, f"It took the connection, and said nothing for {patience:.0f} seconds.")
    except _OtherProgramError as error:
        return Machine(endpoint, OTHER_PROGRAM, str(error))
    except (asyncio.IncompleteReadError, OSError):
        return Machine(endpoint, OTHER_PROGRAM, "It hung up without an answer.")


async def _takes_connections(endpoint: str) -> Machine:
    """Whether something is there at all; nothing is said. ``busy`` if so."""
    try:
        async with _connected(endpoint):
            return Machine(endpoint, BUSY)
    except _UnreachableError as error:
        return Machine(endpoint, UNREACHABLE, str(error))


@contextlib.asynccontextmanager
async def _connected(endpoint: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    except TimeoutError as error:
        raise _UnreachableError(f"No answer in {CONNECT_SECONDS:.0f} seconds.") from error
    except socket.gaierror as error:
        raise _UnreachableError(f"There is no machine of this name: {error.strerror}.") from error
    except ConnectionRefusedError as error:  # asyncio's own words list what it tried
        raise _UnreachableError("Nothing listens at this port.") from error
    except OSError as error:
        raise _UnreachableError(f"{error.strerror or type(error).__name__}.") from error
    try:
        yield reader, writer
    finally:
        writer.close()


async def _knock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> None:
    """Come back when the other end has hung up."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(patience):
            writer.write(_KNOCK)
            said = await reader.read(40)
            if said:
                raise _OtherProgramError(_words(said))


def look_at(endpoints: Iterable[str], *, patience: float = ANSWER_SECONDS) -> list[Machine]:
    """:func:`look` at all of them at once, for code that has no event loop."""
    return _at_once([look(endpoint, patience=patience) for endpoint in endpoints])


def which_are_there(endpoints: Iterable[str]) -> list[Machine]:
    """Only whether something takes connections: ``busy`` or ``unreachable``. For machines that somebody uses."""
    return _at_once([_takes_connections(endpoint) for endpoint in endpoints])


def _at_once(questions: list[Coroutine[Any, Any, Machine]]) -> list[Machine]:
    async def everywhere() -> list[Machine]:
        return await asyncio.gather(*questions)

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(everywhere())
    finally:
        loop.close()  # not asyncio.run: that waits for names that are still being looked up


async def _ask(endpoint: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Machine:
    answer = await _request(reader, writer, _HELLO, _CAPABILITIES, _VERSION.size)
    major, minor, patch, _ = struct.unpack("<4B", answer[:4])
    version = f"{major}.{minor}.{patch}"
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        wanted = f"{PROTOCOL[0]}.{PROTOCOL[1]}"
        return Machine(endpoint, OTHER_VERSION, f"It speaks version {version}, this engine {wanted}.", version)
    (devices,) = struct.unpack("<I", await _request(reader, writer, _DEVICE_COUNT, b"", 4))
    if not 1 <= devices <= _MAX_DEVICES:
        raise _OtherProgramError(f"It says that it has {devices} devices.")
    free = total = 0
    for number in range(devices):
        memory = await _request(reader, writer, _DEVICE_MEMORY, struct.pack("<I", number), 16)
        free, total = (before + more for before, more in zip((free, total), struct.unpack("<2Q", memory), strict=True))
    return Machine(endpoint, READY, "", version, devices, min(free, 1 << 62), min(total, 1 << 62))


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: int, data: bytes, length: int
) -> bytes:
    writer.write(struct.pack("<BQ", command, len(data)) + data)
    with contextlib.suppress(ConnectionError):  # what it said before it hung up is worth reading
        await writer.drain()
    # A program that speaks first, or in lines, may say less than eight bytes: what it began with is enough.
    head = await reader.read(8)
    while 0 < len(head) < 8 and head == struct.pack("<Q", length)[: len(head)]:
        more = await reader.read(8 - len(head))
        if not more:
            break
        head += more
    if head != struct.pack("<Q", length):
        raise _OtherProgramError(_words(head[:40]) if head else "It hung up without an answer.")
    return await reader.readexactly(length)


def _words(said: bytes) -> str:
    """What another program says, as far as it can be read."""
    text = "".join(character for character in said.decode("ascii", "ignore") if character.isprintable()).strip()
    return f"It says: {text}" if text else "It says something else."


__all__ = ["ANSWER_SECONDS", "CONNECT_SECONDS", "look", "look_at", "which_are_there"]
