"""What goes wrong between here and a server, in words, each kind with what to do about it. No error holds the key."""

from __future__ import annotations

import errno
import re
import socket
import ssl

import httpx2
import msgspec

from app.remote.address import host
from converter.spec import QuenchError

_DETAIL = 300


class RemoteError(QuenchError):
    """A failure on the way to a server. ``status`` is that of its answer, 0 without one."""

    status = 0


def bad_answer(url: str, detail: str) -> RemoteError:
    """The server answered with what cannot be used."""
    return RemoteError(
        "bad_answer",
        "The server answered with something that cannot be used.",
        f"{host(url)}: {detail}"[:_DETAIL],
        "Check that the address is that of an OpenAI-compatible API; it often ends with /v1.",
    )


def cut_off(url: str) -> RemoteError:
    """The answer stopped in the middle."""
    return RemoteError(
        "connection_lost",
        "The connection to the server broke off.",
        f"{host(url)} ended in the middle of the answer.",
        "Try again. If it comes back, look at the server: it may have run out of memory.",
    )


def too_much(url: str, detail: str) -> RemoteError:
    """An answer that does not end."""
    return RemoteError(
        "endless_answer",
        "The server's answer has no end.",
        f"{host(url)}: {detail}",
        "What came so far is kept. The server ignores how long an answer may be: look at its settings.",
    )


def from_status(url: str, status: int, location: str, body: bytes, secret: str) -> RemoteError:
    """The error that an answer other than 200 stands for."""
    error = _from_status(url, status, location, _said(body, secret), bool(secret))
    error.status = status
    return error


def _from_status(url: str, status: int, location: str, said: str, has_key: bool) -> RemoteError:
    facts = " ".join(part for part in (f"{host(url)}: HTTP {status}.", said) if part)
    if 300 <= status < 400:
        # Never followed: the key and the conversation are for this server alone.
        where = location[:200] if location.isprintable() else ""
        return RemoteError(
            "redirected",
            "The server sends its callers to another address.",
            f"{facts} {where}".strip(),
            "It was not followed. If you trust that address, enter it as the server's.",
        )
    if status in (401, 403):
        if has_key:
            return RemoteError(
                "bad_key", "The server does not accept the key.", facts, "Check the key, and what it is allowed to do."
            )
        return RemoteError("key_needed", "The server wants a key.", facts, "Set its key: Library, Server.")
    if status == 404:
        return RemoteError(
            "not_found",
            "The server does not know this address or this model.",
            facts,
            "Check the address (it often ends with /v1) and look for the server's models again.",
        )
    if status == 413 or (status == 400 and re.search(r"context|too long|exceed", said, re.IGNORECASE)):
        return RemoteError(
            "context_full",
            "The conversation is longer than the server's context.",
            facts,
            "Begin a new chat, or give the server a larger context.",
        )
    if status == 429:
        return RemoteError("rate_limited", "The server asks for a pause.", facts, "Wait a little, then try again.")
    if status == 503:
        return RemoteError(
            "server_busy",
            "The server is not ready.",
            facts,
            "It may still load its model. Try again in a moment.",
        )
    if status >= 500:
        return RemoteError(
            "server_trouble", "The server has a problem.", facts, "Look at the server's own log, then try again."
        )
    return RemoteError("refused", "The server refused the request.", facts, "Its words above say why.")


def from_event(url: str, said: object, secret: str) -> RemoteError:
    """An error that came in the middle of an answer, as JSON."""
    return RemoteError(
        "server_trouble",
        "The server gave up in the middle of the answer.",
        f"{host(url)}: {_words(said, secret)}"[:_DETAIL],
        "What came so far is kept. Look at the server's own log, then try again.",
    )


def _said(body: bytes, secret: str) -> str:
    """What the server says about it: the message of OpenAI's form, or the beginning of a plain text."""
    try:
        return _words(msgspec.json.decode(body), secret)
    except (msgspec.DecodeError, RecursionError):
        text = body[:2000].decode("utf-8", "replace")
        return "" if "<" in text else _clean(text, secret)


def _words(value: object, secret: str) -> str:
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and name in value:
            value = value[name]
    return _clean(value, secret) if isinstance(value, str) else ""


def _clean(text: str, secret: str) -> str:
    """One line, of a bearable length, and without the key (a server may repeat what it was sent)."""
    if secret:
        text = text.replace(secret, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())[:_DETAIL]


def from_transport(url: str, error: Exception, secret: str) -> RemoteError:
    """The error that a request without a whole answer stands for."""
    text = _clean(str(error) or type(error).__name__, secret)
    facts = f"{host(url)}: {text}"
    causes = _causes(error)
    if isinstance(error, httpx2.ProxyError):
        return RemoteError(
            "proxy", "The proxy does not let us through.", facts, "Check HTTPS_PROXY, or put the host into NO_PROXY."
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes) or "CERTIFICATE_VERIFY_FAILED" in text:
        return RemoteError(
            "tls",
            "The connection to the server is not trusted.",
            facts,
            "If the server has a certificate of your own, name the file of its authority in SSL_CERT_FILE. "
            "Check this machine's date too, and that the address should begin with https.",
        )
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        unknown = any(isinstance(cause, socket.gaierror) for cause in causes)
        refused = any(getattr(cause, "errno", None) == errno.ECONNREFUSED for cause in causes)
        detail = "no such host" if unknown else "nobody listens there" if refused else text
        return RemoteError(
            "server_unreachable",
            "The server cannot be reached.",
            f"{host(url)}: {detail}",
            "Check that it runs, that the address is right, and the network between.",
        )
    if isinstance(error, httpx2.TimeoutException):
        return RemoteError(
            "timeout", "The server does not answer.", facts, "It may be busy with others. Try again, or look at it."
        )
    if isinstance(error, httpx2.SSEError):
        return bad_answer(url, text)
    if isinstance(error, httpx2.TransportError):
        return cut_off(url)
    return bad_answer(url, text)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, members of groups too."""
    found: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue and len(found) < 40:
        current = queue.pop(0)
        if current is None or current in found:
            continue
        found.append(current)
        queue += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            queue += current.exceptions
    return found


__all__ = ["RemoteError", "bad_answer", "cut_off", "from_event", "from_status", "from_transport", "too_much"]
