"""Every message survives the pipe, one line each, and nothing else is taken for a message."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
import pytest

from app import protocol
from converter.spec import QuenchError

COMMANDS = typing.get_args(protocol.Command)
EVENTS = list(typing.get_args(protocol.Event))


def example(kind: Any) -> Any:
    """Some value of a type, made of awkward scalars: newlines, non-ASCII text, numbers beyond 32 bits."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return example(arguments[0])
    if origin is tuple:
        return (example(arguments[0]), example(arguments[0]))
    if origin is dict:
        return {"key\nß": example(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{field.name: example(hints[field.name]) for field in msgspec.structs.fields(kind)})
    return {str: "a\nb\u2028ü\x00", bytes: b"\xff\0\n", int: 1 << 45, float: 1.5, bool: True, typing.Any: "x"}[kind]


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_commands_survive_the_pipe(kind: type[msgspec.Struct]) -> None:
    message = example(kind)
    line = protocol.encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert protocol.decode_command(line) == message


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_events_survive_the_pipe(kind: type[msgspec.Struct]) -> None:
    message = example(kind)
    line = protocol.encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert protocol.decode_event(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello\n",
        b"{}\n",
        b'{"message":"nope"}\n',
        b'{"message":"stop","request":"1"}\n',
        b"[1]\n",
        b"\xff\n",
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        protocol.decode_command(line)
    with pytest.raises(msgspec.MsgspecError):
        protocol.decode_event(line)


def test_an_error_keeps_its_words_and_status_across_the_pipe() -> None:
    error = QuenchError("no_space", "Too little space.", "3 GiB free", "Delete something.", exit_status=4)
    received = protocol.decode_event(protocol.encode(protocol.failed(error, 7)))
    assert isinstance(received, protocol.Failed)
    assert received.request == 7
    again = received.to_error()
    assert again.as_dict() == error.as_dict()
    assert again.exit_status == 4


def test_half_characters_become_replacement_characters_and_not_an_error() -> None:
    name = "/models/\udcff\ud83d\ude00 ü.gguf"  # a byte that is no UTF-8, and a smile in two halves
    message = protocol.Load(name, protocol.LoadOptions())
    assert protocol.decode_command(protocol.encode(message)) == protocol.Load(
        "/models/\ufffd\U0001f600 ü.gguf", protocol.LoadOptions()
    )
