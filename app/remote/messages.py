"""Messages about servers (a part of :mod:`app.protocol`, which lists them all), and the structs in them.

A model of a server is chatted with by the same messages as a local one: ``Connect`` takes the place of ``Load``.
"""

from __future__ import annotations

import msgspec

from app.remote.machines import Machine


class ServedModel(msgspec.Struct, frozen=True):
    """A model as its server lists it. What the server does not say is 0 or empty: ``context`` in tokens, ``vocabulary``
    in tokens, ``bytes`` of its weights, ``type`` as ``Q4_K_M``."""

    id: str
    context: int = 0
    vocabulary: int = 0
    bytes: int = 0
    type: str = ""


class ServerState(msgspec.Struct, frozen=True):
    """A server that has answered: what runs there (``llama.cpp``, ``vLLM``, ``Ollama`` ... or empty), and its models.

    ``seconds`` is how long the answer took; ``key`` where the key came from: ``given``, ``keyring`` or empty for none.
    """

    software: str
    models: tuple[ServedModel, ...]
    seconds: float
    key: str = ""


class Connect(msgspec.Struct, frozen=True, tag_field="message", tag="connect"):
    """Talk to a model of a server from now on (worker ``server``); answered by :class:`Loaded` or :class:`Failed`.

    ``model`` empty: the first that it lists. ``secret`` empty: the key that the keyring has for this server.
    ``silence`` is how many seconds without a byte end an answer. It may hold a secret, which it does not print.
    """

    url: str
    model: str = ""
    secret: str = ""
    silence: float = 600.0

    def __repr__(self) -> str:
        return f"Connect(url={self.url!r}, model={self.model!r})"


class AskServer(msgspec.Struct, frozen=True, tag_field="message", tag="ask_server"):
    """Which models a server has (worker ``server``); answered by :class:`ServerTold`. ``secret`` as in Connect."""

    request: int
    url: str
    secret: str = ""

    def __repr__(self) -> str:
        return f"AskServer(request={self.request}, url={self.url!r})"


class KeepKey(msgspec.Struct, frozen=True, tag_field="message", tag="keep_key"):
    """Keep a server's key in the system's keyring, or forget it (worker ``server``); answered by :class:`KeyTold`."""

    request: int
    url: str
    secret: str

    def __repr__(self) -> str:
        return f"KeepKey(request={self.request}, url={self.url!r})"


class AskMachine(msgspec.Struct, frozen=True, tag_field="message", tag="ask_machine"):
    """How a machine with an RPC worker is (worker ``server``); answered by :class:`MachineTold`, whatever is wrong."""

    request: int
    endpoint: str


class MachineTold(msgspec.Struct, frozen=True, tag_field="message", tag="machine_told"):
    """Answer to :class:`AskMachine`."""

    request: int
    machine: Machine


class ServerTold(msgspec.Struct, frozen=True, tag_field="message", tag="server_told"):
    """Answer to :class:`AskServer`."""

    request: int
    state: ServerState


class KeyTold(msgspec.Struct, frozen=True, tag_field="message", tag="key_told"):
    """Answer to :class:`KeepKey`. ``kept``: it is in the keyring (or gone from it); if not, ``why``."""

    request: int
    kept: bool
    why: str = ""
