"""What goes wrong between here and the hub, in words, each kind with what to do about it."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from app.hub.access import without_secrets
from converter.spec import QuenchError

if TYPE_CHECKING:
    import httpx2

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may well succeed a little later."""

_DETAIL = 300


class HubError(QuenchError):
    """A failure on the way to the hub. ``transient``: worth another try, after ``wait`` seconds if the server says.

    ``status`` is that of the answer, 0 without one.
    """

    def __init__(
        self, code: str, title: str, detail: str = "", hint: str = "", *, transient: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(code, title, detail, hint)
        self.transient = transient
        self.wait = wait
        self.status = 0


def offline() -> HubError:
    """Offline mode is on, and something was asked that only the hub knows."""
    return HubError(
        "offline",
        "Offline mode is on.",
        "Only what is on this machine is used; everything local works.",
        "Switch offline mode off in Settings, or unset HF_HUB_OFFLINE.",
    )


def bad_answer(what: str, detail: str) -> HubError:
    """The hub, or something between, answered with what cannot be used."""
    return HubError(
        "bad_answer",
        "The hub answered with something that cannot be used.",
        f"{what}: {detail}"[:_DETAIL],
        "Check the endpoint in Settings; a proxy or a login page of the network may stand between.",
    )


def from_status(response: httpx2.Response, asked: httpx2.Request) -> HubError:
    """The error that an answer with status 400 and above stands for; ``asked`` is the request before redirects."""
    error = _from_status(response, asked)
    error.status = response.status_code
    return error


def _from_status(response: httpx2.Response, asked: httpx2.Request) -> HubError:
    status = response.status_code
    code = response.headers.get("x-error-code", "")
    secret = asked.headers.get("authorization", "").removeprefix("Bearer ")
    said = without_secrets(response.headers.get("x-error-message", ""), secret).strip()[:_DETAIL]
    repo = repo_of(str(asked.url))
    page = f"{asked.url.scheme}://{asked.url.netloc.decode('ascii', 'replace')}"
    facts = " ".join(part for part in (f"{repo or asked.url.host}:", f"HTTP {status}.", said) if part)
    signed_in = bool(secret)
    if signed_in and code != "RepoNotFound" and re.search("invalid (credentials|username or password)", said, re.I):
        return HubError(
            "bad_token",
            "The hub does not accept the token.",
            facts,
            f"It may have expired or been revoked: make a new one at {page}/settings/tokens.",
        )
    if code == "GatedRepo":
        return _gated(repo, page, facts, signed_in)
    if "disabled" in said.lower() and status == 403:
        return HubError(
            "disabled",
            "The hub has disabled this model.",
            facts,
            "Its page says why; look for another copy of the model.",
        )
    if code == "RevisionNotFound":
        return HubError(
            "revision_not_found", "The model has no such revision.", facts, "Leave --revision out, or check its page."
        )
    if code == "EntryNotFound":
        return HubError("file_not_found", "The model has no such file.", f"{facts} {_file_of(asked)}".strip(), "")
    if response.history and response.url.netloc != asked.url.netloc and status in (400, 401, 403, 404, 410):
        # Where the bytes lie one needs a signature, which ages: the hub gives a new one.
        return HubError("hub_down", "The hub's storage refused.", facts, "Try again in some minutes.", transient=True)
    if status in (401, 404) and (repo or code == "RepoNotFound"):
        return _missing(repo, page, facts, signed_in)
    if status == 403:
        return HubError(
            "forbidden",
            "The hub does not let you see this.",
            facts,
            "The token may lack the right to read it: check its permissions on the hub.",
        )
    if status == 429:
        wait = retry_after(response)
        later = f"in {wait:.0f} seconds" if wait else "in a few minutes"
        hint = f"Try again {later}." + ("" if signed_in else " With a token the hub allows more requests.")
        return HubError("rate_limited", "The hub asks for a pause.", facts, hint, transient=True, wait=wait)
    if status in RETRIED:
        return HubError(
            "hub_down",
            "The hub has a problem at the moment.",
            facts,
            "Try again in some minutes.",
            transient=True,
            wait=retry_after(response),
        )
    return HubError(
        "refused_by_hub", "The hub refused the request.", facts, "Check the endpoint in Settings, then try again."
    )


def _gated(repo: str, page: str, facts: str, signed_in: bool) -> HubError:
    where = f"{page}/{repo}"
    if signed_in:
        return HubError(
            "gated",
            "Your account has not been given access to this model.",
            facts,
            f"Accept its licence at {where}; if you have, its owner still has to agree.",
        )
    return HubError(
        "gated",
        "This model's licence must be accepted first.",
        facts,
        f"Sign in and accept it at {where}, then set a token: in Settings, or as HF_TOKEN.",
    )


def _missing(repo: str, page: str, facts: str, signed_in: bool) -> HubError:
    if signed_in:
        return HubError(
            "repo_not_found",
            "The hub has no such model.",
            facts,
            "Check the spelling; if the model is private, the token must belong to somebody who may read it.",
        )
    return HubError(
        "repo_not_found",
        "The hub has no such public model.",
        facts,
        f"Check the spelling. If it is private, set a token ({page}/settings/tokens) in Settings or as HF_TOKEN.",
    )


def retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait, 0 if it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return min(86400.0, float(limit.reset_in_seconds))
    text = response.headers.get("retry-after", "").strip()
    return min(86400.0, float(text)) if text.isdigit() and len(text) < 10 else 0.0


def from_transport(error: Exception, asked: httpx2.Request, proxy: str) -> HubError:
    """The error that a request without an answer stands for."""
    import httpx2

    secret = asked.headers.get("authorization", "").removeprefix("Bearer ")
    text = without_secrets(str(error) or type(error).__name__, secret)[:_DETAIL]
    host = asked.url.netloc.decode("ascii", "replace")
    facts = f"{host}: {text}"
    causes = list(_causes(error))
    if isinstance(error, httpx2.ProxyError) or (
        proxy and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
    ):
        return HubError(
            "proxy",
            "The proxy does not let us through.",
            f"{without_secrets(proxy)} to {facts}",
            "Check the proxy in Settings or in HTTPS_PROXY, and its name and password.",
            transient=not isinstance(error, httpx2.ProxyError),
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes) or "CERTIFICATE_VERIFY_FAILED" in text:
        return HubError(
            "tls",
            "The connection to the hub is not trusted.",
            facts,
            "A proxy or virus scanner may stand between with a certificate of its own: name its file in SSL_CERT_FILE. "
            "Check this machine's date too.",
        )
    if isinstance(error, httpx2.TimeoutException):
        return HubError(
            "timeout", "The hub does not answer.", facts, "Check the network, then try again.", transient=True
        )
    if isinstance(error, httpx2.ConnectError):
        unknown = any(isinstance(cause, socket.gaierror) for cause in causes) or _is_name_error(text)
        away = any(getattr(cause, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH) for cause in causes)
        title = "There is no network." if unknown or away else "The hub cannot be reached."
        return HubError(
            "no_network",
            title,
            facts,
            "Check the network and the endpoint in Settings. What is on this machine can be used meanwhile.",
            transient=True,
        )
    if isinstance(error, httpx2.TransportError):
        return HubError("connection_lost", "The connection to the hub broke off.", facts, "Try again.", transient=True)
    return bad_answer(host, text)


def _is_name_error(text: str) -> bool:
    return bool(re.search(r"name resolution|name or service not known|nodename nor servname|getaddrinfo", text, re.I))


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found and len(found) < 20:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def repo_of(address: str) -> str:
    """``org/name`` of an address of the hub's API or of a file of a model; empty if it names none."""
    path = urlsplit(address).path
    found = re.match(r"/api/models/([^/]+/[^/]+|[^/]+)", path) or re.match(r"/((?:[^/]+/)?[^/]+)/resolve/", path)
    name = unquote(found[1]) if found else ""
    return re.sub(r"/(revision|tree|resolve)$", "", name)


def _file_of(asked: httpx2.Request) -> str:
    _, mark, rest = asked.url.path.partition("/resolve/")
    return unquote(rest.partition("/")[2])[:200] if mark else ""
