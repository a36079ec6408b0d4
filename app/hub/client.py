"""huggingface_hub on an HTTP client of ours: it waits so long and reads so much, and says in words what went wrong.

Every request that huggingface_hub makes goes through :meth:`HubClient.send`. There offline mode is enforced, time-outs
are set (the library's own listing calls have none), answers are counted while they are read, and each failure becomes a
:class:`app.hub.errors.HubError`, which the library's own retries (with sleeps that nothing interrupts) let pass.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2

from app.hub import errors
from app.hub.access import Access, token, without_secrets
from converter.spec import Cancelled, QuenchError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 20.0
ANSWER_LIMIT = 48 << 20
"""Bytes of answers, decoded, that one question may bring."""
REQUEST_LIMIT = 120
"""Requests that one question may take, pages and redirects included."""
_QUICK_TRIES = 3
_QUICK_PAUSE = 0.5

LIBRARY = "quench"


@dataclass
class _Budget:
    requests: int
    bytes: int


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextlib.contextmanager
def question(what: str, requests: int = REQUEST_LIMIT, answer: int = ANSWER_LIMIT) -> Iterator[None]:
    """While inside, so many requests and bytes of answers and no more; an answer of an odd shape becomes an error.

    Raises ``QuenchError`` ``bad_answer`` for both.
    """
    mark = _budget.set(_Budget(requests, answer))
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise errors.bad_answer(what, f"{type(error).__name__}: {str(error)[:120]}") from error
    finally:
        _budget.reset(mark)


class HubClient(httpx2.Client):
    """The client behind huggingface_hub. ``stopped`` is looked at between tries.

    ``failures`` is what reading the body of a stream may raise.
    """

    failures = (httpx2.TransportError, httpx2.DecodingError)

    def __init__(
        self, access: Access, stopped: Callable[[], bool] = lambda: False, stall: float = READ_TIMEOUT
    ) -> None:
        super().__init__(follow_redirects=True, timeout=httpx2.Timeout(CONNECT_TIMEOUT, read=stall))
        self._access = access
        self._stopped = stopped
        self._limits = {"connect": CONNECT_TIMEOUT, "read": stall, "write": stall, "pool": None}

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request; raise :class:`HubError` for anything but an answer below 400.

        A request whose body is read at once is tried again briefly if that is worth it; streams are not.
        """
        if self._access.offline:
            raise errors.offline()
        request.extensions = {**request.extensions, "timeout": dict(self._limits)}
        tries = 1 if stream else _QUICK_TRIES
        for attempt in range(tries):
            try:
                return self._once(request, stream, options)
            except errors.HubError as error:
                last = attempt == tries - 1 or not error.transient or error.wait > 5 or error.code == "no_network"
                if last or self._stopped():
                    raise
                pause = max(error.wait, _QUICK_PAUSE * 2**attempt)
                # Never set: it only waits. Somebody who wants this to end sooner ends the process.
                threading.Event().wait(pause * (0.5 + random.random() / 2))
        raise AssertionError  # the last attempt returns or raises

    def _once(self, request: httpx2.Request, stream: bool, options: dict[str, Any]) -> httpx2.Response:
        budget = _budget.get()
        if budget is not None:
            budget.requests -= 1
            if budget.requests < 0:
                raise errors.bad_answer(request.url.host, "it goes on for ever")
        try:
            response = super().send(request, stream=True, **options)
        except (httpx2.TransportError, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
            raise errors.from_transport(error, request, self._access.proxy) from error
        try:
            if response.status_code >= 400:
                raise errors.from_status(response, request)
            if stream:
                return response
            return self._whole(response, budget)
        except httpx2.TransportError as error:
            raise errors.from_transport(error, request, self._access.proxy) from error
        except httpx2.DecodingError as error:
            raise errors.bad_answer(request.url.host, str(error)) from error
        finally:
            if not stream or response.status_code >= 400:
                response.close()

    @staticmethod
    def _whole(response: httpx2.Response, budget: _Budget | None) -> httpx2.Response:
        """The same response with its body in memory, if that stays within the budget."""
        left = budget.bytes if budget is not None else ANSWER_LIMIT
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > left:
                raise errors.bad_answer(response.url.host, f"it is longer than {left >> 20} MiB")
        if budget is not None:
            budget.bytes -= len(body)
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in ("content-encoding", "transfer-encoding", "content-length")
        ]
        if response.request.method == "HEAD" and "content-length" in response.headers:
            headers.append(("content-length", response.headers["content-length"]))
        whole = httpx2.Response(
            response.status_code,
            headers=headers,
            content=bytes(body) if response.request.method != "HEAD" else None,
            request=response.request,
            extensions={key: value for key, value in response.extensions.items() if key != "network_stream"},
            history=response.history,
        )
        return whole


class Hub:
    """A way to the hub for one process, with our limits and the person's token."""

    def __init__(self, access: Access, client: HubClient, secret: str | None) -> None:
        self.access = access
        self.client = client
        self._secret = secret

    @functools.cached_property
    def api(self) -> HfApi:
        """huggingface_hub's own; a download does not need it."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.access.endpoint, token=self.credentials, library_name=LIBRARY)

    @property
    def credentials(self) -> str | bool:
        """What huggingface_hub's functions take as ``token``: False keeps them from looking for one themselves."""
        return self._secret or False

    @property
    def signed_in(self) -> bool:
        return self._secret is not None

    def headers(self) -> dict[str, str]:
        """Headers of a plain request to the hub. They hold the token: httpx drops it when it is led elsewhere."""
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = build_hf_headers(token=self.credentials, library_name=LIBRARY)
        # A compressed answer has neither a length nor ranges.
        headers["accept-encoding"] = "identity"
        return headers

    def address(self, repo: str, path: str, revision: str) -> str:
        """Where a file of a repository is fetched."""
        from huggingface_hub import hf_hub_url

        address: str = hf_hub_url(repo, path, revision=revision, endpoint=self.access.endpoint)
        return address

    def close(self) -> None:
        self.client.close()


def connect(access: Access, stopped: Callable[[], bool] = lambda: False, stall: float = READ_TIMEOUT) -> Hub:
    """Make huggingface_hub ready in this process; no request is made yet.

    Raises ``QuenchError`` ``proxy`` for a proxy that cannot be used, and ``tls`` for a certificate file that cannot.
    """
    from app.hub.access import apply

    apply(access)
    import huggingface_hub

    try:
        client = HubClient(access, stopped, stall)
    except (ImportError, ValueError) as error:  # SOCKS without its package; a scheme that is none
        raise QuenchError(
            "proxy",
            "The proxy cannot be used.",
            f"{without_secrets(access.proxy)}: {without_secrets(str(error))}"[:300],
            "Give it as http://host:port, in Settings or in HTTPS_PROXY.",
        ) from error
    except OSError as error:
        raise QuenchError(
            "tls",
            "The certificates of this machine cannot be read.",
            str(error)[:300],
            "Check the file that SSL_CERT_FILE names.",
        ) from error
    huggingface_hub.set_client_factory(lambda: client)
    return Hub(access, client, None if access.offline else token(access))


def check_stopped(stopped: Callable[[], bool]) -> None:
    """Raise ``Cancelled`` if somebody wants this to end."""
    if stopped():
        raise Cancelled


__all__ = ["ANSWER_LIMIT", "LIBRARY", "Hub", "HubClient", "check_stopped", "connect", "question"]
