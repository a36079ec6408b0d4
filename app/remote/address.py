"""Servers by name and address, and how their models are called where a local model has a path. Touches no network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from converter.spec import QuenchError

PREFIX = "server:"
MAX_NAME = 40
MAX_URL = 500
MAX_MODEL = 256
MAX_SERVERS = 32
MAX_REMEMBERED = 16 << 10
"""Bytes of names of one server's models that are kept: with all servers together half of what settings may have."""


class Server(msgspec.Struct, frozen=True):
    """A server that the library knows. ``models`` are ids that it listed when it last answered (:func:`remembered`).

    ``name`` is unique and tells its models apart; ``url`` is the base of the API, ``http://127.0.0.1:8080/v1``.
    """

    name: str
    url: str
    models: tuple[str, ...] = ()


def model_path(server: str, model: str) -> str:
    """What stands for a path where a served model is meant: ``server:desk/qwen3:4b``."""
    return f"{PREFIX}{server}/{model}"


def is_remote(path: str) -> bool:
    """Whether ``path`` names a served model and not a file."""
    return path.startswith(PREFIX)


def split_path(path: str) -> tuple[str, str]:
    """(name of the server, id of the model) of what :func:`model_path` made."""
    name, _, model = path.removeprefix(PREFIX).partition("/")
    return name, model


def remembered(models: Iterable[str]) -> tuple[str, ...]:
    """The first of a server's models, as many as may be kept: a server can list any number of any length."""
    kept, size = [], 0
    for model in models:
        size += len(model.encode())
        if size > MAX_REMEMBERED:
            break
        kept.append(model)
    return tuple(kept)


def find(servers: Iterable[Server], name: str) -> Server | None:
    """The server of that name, or None."""
    return next((server for server in servers if server.name == name), None)


def check_name(text: str, taken: Iterable[str] = ()) -> str:
    """A server's name; ``QuenchError`` ``bad_server_name`` for one that cannot be used or is in use."""
    name = " ".join(text.split())
    if not name or len(name) > MAX_NAME or not name.isprintable() or "/" in name or "\\" in name:
        raise QuenchError(
            "bad_server_name",
            "This name cannot be used.",
            repr(text[:80]),
            f"Take up to {MAX_NAME} letters, digits and spaces, without slashes.",
        )
    if name.lower() in {other.lower() for other in taken}:
        raise QuenchError("bad_server_name", "There is a server of this name already.", name, "Choose another name.")
    return name


def check_url(text: str) -> str:
    """The base address of a server's API; ``QuenchError`` ``bad_server`` for what is none.

    ``http://`` is put in front where there is no scheme, and ``/v1`` behind where there is no path: that is where
    every server of this kind has its API.
    """
    given = text.strip()
    if given and "://" not in given:
        given = f"http://{given}"
    given = given.rstrip("/")
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    plain = given.isascii() and given.isprintable() and not set(given) & set(" @?#\\")
    if not good or not plain or len(given) > MAX_URL:
        # A password in an address would be saved and shown with it.
        shown = "" if "@" in text else repr(text[:200])
        raise QuenchError(
            "bad_server",
            "The address of the server is not usable.",
            shown,
            "It looks like http://127.0.0.1:8080/v1 or https://models.example/v1. A key has a field of its own.",
        )
    return given if parts.path else f"{given}/v1"


def origin(url: str) -> str:
    """Scheme, host and port: whom a key is for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def host(url: str) -> str:
    """Host and port as people read them."""
    return urlsplit(url).netloc


def is_loopback(url: str) -> bool:
    """Whether the server is on this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(name: str) -> bool:
    """Whether a host is this machine and nothing else: ``localhost``, 127.x.x.x, ``::1``."""
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def travels_open(url: str) -> bool:
    """Whether what is said to this server, a key included, can be read on the way."""
    return urlsplit(url).scheme == "http" and not is_loopback(url)


def suggested_name(url: str, taken: Iterable[str] = ()) -> str:
    """A free name for a server: its host, with a number if need be."""
    base = (host(url) or "server")[: MAX_NAME - 4]
    used = {name.lower() for name in taken}
    number, name = 1, base
    while name.lower() in used:
        number += 1
        name = f"{base} {number}"
    return name


__all__ = [
    "MAX_MODEL",
    "MAX_SERVERS",
    "PREFIX",
    "Server",
    "check_name",
    "check_url",
    "find",
    "host",
    "is_loopback",
    "is_loopback_host",
    "is_remote",
    "model_path",
    "origin",
    "remembered",
    "split_path",
    "suggested_name",
    "travels_open",
]
