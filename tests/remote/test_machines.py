"""Machines with RPC workers: their addresses, and what is told of whatever answers there. No llama.cpp is needed."""

from __future__ import annotations

import socket
import struct

import pytest

from app.remote import machines
from app.remote.machines import (
    BUSY,
    OTHER_PROGRAM,
    OTHER_VERSION,
    READY,
    UNREACHABLE,
    Machine,
    check_endpoint,
    check_endpoints,
)
from app.remote.messages import AskMachine, MachineTold
from app.remote.rpc import look_at, which_are_there
from converter.spec import QuenchError
from tests.hub.program import quench
from tests.remote.listener import Listener
from tests.remote.talking import Talk

PATIENCE = 0.5


def framed(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def hello(major: int = 7, minor: int = 0) -> bytes:
    return framed(bytes([major, minor, 3, 0]) + bytes(24))


DEVICES = framed(struct.pack("<I", 2))
MEMORY = framed(struct.pack("<2Q", 3 << 30, 4 << 30))


def look(endpoint: str) -> Machine:
    return look_at([endpoint], patience=PATIENCE)[0]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.5:50052", "10.0.0.5:50052"),
        (" Workshop.local ", "workshop.local:50052"),
        ("my_box:1", "my_box:1"),
        ("localhost:65535", "localhost:65535"),
    ],
)
def test_an_address_is_a_name_or_an_ipv4_address_and_a_port(text: str, endpoint: str) -> None:
    assert check_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text",
    ["", ":50052", "host:", "host:0", "host:65536", "host:-1", "host:1x", "::1", "[::1]:50052", "http://host:50052",
     "user@host:1", "a b:1", "-host:1", "host-:1", "10.5:50052", "1:2", "999.1.1.1:5", "host:٣", "h" * 300, "host:1:2",
     "host\n:1", "ho\0st:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(QuenchError) as refused:
        check_endpoint(text)
    assert (refused.value.code, refused.value.exit_status) == ("bad_machine", 2)


def test_several_are_named_once_each_and_not_without_bound() -> None:
    assert check_endpoints("a:1, b ,A:1,") == ("a:1", "b:50052")
    for text in (",", ",".join(f"host{number}" for number in range(16))):
        with pytest.raises(QuenchError, match="one to 15 machines"):
            check_endpoints(text)


def test_a_worker_tells_its_version_and_memory() -> None:
    with Listener(hello(), DEVICES, MEMORY, MEMORY) as worker:
        found = look(worker.endpoint)
        assert found == Machine(worker.endpoint, READY, "", "7.0.3", 2, 6 << 30, 8 << 30)
        # Command, length and that many bytes.
        assert worker.heard[:2] == [b"\xff", bytes([14]) + struct.pack("<Q", 24) + bytes(24)]
        assert worker.heard[3:] == [bytes([11]) + struct.pack("<QI", 4, number) for number in (0, 1)]
    assert machines.problem([found]) is None


@pytest.mark.parametrize(
    ("answers", "options", "state", "words"),
    [
        ((), {"mute": True}, BUSY, "said nothing"),
        ((hello()[:4],), {"mute": True}, BUSY, "said nothing"),
        ((), {}, OTHER_PROGRAM, "hung up"),
        ((), {"greeting": b"SSH-2.0-OpenSSH_9.6\r\n", "mute": True}, OTHER_PROGRAM, "SSH-2.0"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), {}, OTHER_PROGRAM, "It says: HTTP/1.1"),
        ((framed(b"\xff" * 9),), {"mute": True}, OTHER_PROGRAM, "something else"),
        ((struct.pack("<Q", 1 << 63),), {"mute": True}, OTHER_PROGRAM, "something else"),
        ((hello()[:20],), {}, OTHER_PROGRAM, "hung up"),
        ((hello(8, 0),), {}, OTHER_VERSION, "version 8.0.3, this engine 7.0"),
        ((hello(7, 1),), {}, OTHER_VERSION, "version 7.1.3"),
        ((hello(6, 0),), {}, OTHER_VERSION, "version 6.0.3"),
        ((hello(), framed(struct.pack("<I", 0))), {}, OTHER_PROGRAM, "0 devices"),
        ((hello(), framed(struct.pack("<I", 4_000_000_000))), {}, OTHER_PROGRAM, "4000000000 devices"),
        ((hello(), DEVICES, MEMORY), {"mute": True}, BUSY, "said nothing"),
    ],
)  # fmt: skip
def test_whatever_else_answers_is_told_apart(
    answers: tuple[bytes, ...], options: dict[str, object], state: str, words: str
) -> None:
    with Listener(*answers, **options) as other:  # type: ignore[arg-type]
        found = look(other.endpoint)
    assert (found.state, found.devices) == (state, 0)
    assert words in found.detail
    error = machines.problem([found])
    assert error is not None and error.code == f"machine_{state}" and other.endpoint in error.title


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_machine_that_is_not_there_is_said_so() -> None:
    endpoint = closed_port()
    nobody, nameless = look_at([endpoint, "no-such-machine.invalid:50052"])
    assert (nobody.state, nobody.detail) == (UNREACHABLE, "Nothing listens at this port.")
    assert nameless.state == UNREACHABLE and "no machine of this name" in nameless.detail
    error = machines.problem([nobody, nameless])
    assert error is not None and error.title == f"The machine {endpoint} cannot be reached."
    assert nameless.endpoint in error.detail


@pytest.mark.parametrize(
    ("states", "title"),
    [
        ({"a:1": BUSY, "b:2": UNREACHABLE}, "The machine b:2 stopped answering."),
        ({"a:1": UNREACHABLE, "b:2": UNREACHABLE}, "The machine a:1 and b:2 stopped answering."),
        ({"a:1": BUSY, "b:2": BUSY}, "The machine a:1 or b:2 broke off the connection."),
    ],
)
def test_the_machine_that_went_is_named(states: dict[str, str], title: str) -> None:
    error = machines.lost([Machine(endpoint, state) for endpoint, state in states.items()], "why")
    assert (error.code, error.title, error.exit_status) == ("machine_lost", title, 5)
    assert "why" in error.detail


def test_nothing_is_asked_of_one_that_may_be_busy() -> None:
    """A worker that answers somebody who has left writes into a closed connection, and ends."""
    with Listener(mute=True) as busy:
        assert look(busy.endpoint).state == BUSY
        assert [machine.state for machine in which_are_there([busy.endpoint, closed_port()])] == [BUSY, UNREACHABLE]
    assert b"".join(busy.heard) == b"\xff"


def test_the_window_s_worker_asks_many_at_once() -> None:
    talk = Talk()
    with talk.process, Listener(hello(), DEVICES, MEMORY, MEMORY) as worker, Listener(mute=True) as silent:
        talk.send(AskMachine(1, silent.endpoint))
        talk.send(AskMachine(2, worker.endpoint))
        talk.send(AskMachine(3, closed_port()))
        told = {}
        while len(told) < 3:
            answer = talk.until(MachineTold)
            told[answer.request] = answer.machine.state
    assert told == {1: BUSY, 2: READY, 3: UNREACHABLE}
    assert list(told)[-1] == 1  # nobody waited for the one that says nothing


def test_the_command_line_refuses_what_is_no_machine(tmp_path: object) -> None:
    status, data, _ = quench("chat", "model.gguf", "-p", "x", "--rpc", "http://host:1")
    assert (status, data["error"]["code"]) == (2, "bad_machine")
    status, data, _ = quench("chat", "--url", "http://127.0.0.1:9", "-p", "x", "--rpc", "host:1")
    assert (status, data["error"]["title"]) == (2, "A server's model is not loaded here.")
