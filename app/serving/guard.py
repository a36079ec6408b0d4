"""Who may ask: the host that is asked for, pages of browsers, and the token; and how much may be said.

A server on 127.0.0.1 can be reached by every page that the person opens. Two things keep those out. The ``Host`` must
be this machine's own name, which a rebound DNS name is not; and a request that a page of another origin makes carries
``Origin``, which is refused (no answer ever has CORS headers).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app.remote.address import is_loopback_host
from app.serving.forms import MAX_BODY, RefusedError
from converter.spec import QuenchError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MIN_TOKEN = 16
BODY_SECONDS = 30.0


def check(host: str, token: str) -> None:
    """``QuenchError`` ``token_needed`` for a host beyond this machine without a token, ``bad_token`` for a weak one."""
    if token and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise QuenchError(
            "bad_token",
            "This token is too weak.",
            f"It has fewer than {MIN_TOKEN} characters, or some that a header cannot carry.",
            "Take a long random word of letters and digits.",
            exit_status=2,
        )
    if not token and not is_loopback_host(host):
        raise QuenchError(
            "token_needed",
            "Other machines may only use the model with a token.",
            f"{host} can be reached from the network.",
            "Set a token, or serve at 127.0.0.1.",
            exit_status=2,
        )


class Guard:
    """Decides on every request before its body is read."""

    def __init__(self, host: str, token: str) -> None:
        check(host, token)
        self._token = token.encode()
        self._here_only = is_loopback_host(host)

    def let_in(self, scope: Scope) -> None:
        """Raise :class:`RefusedError` for a request that may not be made."""
        headers = _headers(scope)
        host = headers.get(b"host", b"").decode("latin-1")
        if self._here_only and not is_loopback_host(_host_name(host)):
            raise RefusedError(403, "This host name is not served.", code="wrong_host")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin.lower() != f"http://{host}".lower():
            raise RefusedError(403, "Pages of other origins are not served.", code="wrong_origin")
        if scope.get("path") != "/health" and self._token:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise RefusedError(401, "A bearer token is needed.", "authentication_error", "invalid_api_key")
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                raise RefusedError(415, "The body must be application/json.")
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise RefusedError(415, "A compressed body is not read.")
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length[:20]) > MAX_BODY:
                raise _too_large()


async def read_body(receive: Receive) -> bytes:
    """The body of a request, within :data:`MAX_BODY` bytes and :data:`BODY_SECONDS`."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, "The request was not finished.")
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise _too_large()
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise RefusedError(408, "The request did not come to its end.") from error


def _too_large() -> RefusedError:
    return RefusedError(413, f"The body is longer than {MAX_BODY >> 20} MiB.", code="too_large")


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Names in lower case; of several with one name the last, but of ``host`` none: two hosts are no host."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        lower = name.lower()
        found[lower] = b"" if lower == b"host" and lower in found else value
    return found


def _host_name(host: str) -> str:
    """A ``Host`` header without its port: ``[::1]:8080`` -> ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
