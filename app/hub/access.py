"""How the hub is reached: endpoint, proxy, offline mode, cache and token.

The environment wins over the settings, as for every program of Hugging Face: ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``,
``HF_HOME``, ``HF_HUB_CACHE``, ``HF_TOKEN``, ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``.

The token is never in a struct, a message, a file of ours or a command line. Each process takes it where it lies: from
the environment, the system's keyring, or the file of ``hf auth login``. It is kept under the endpoint's name, so that a
mirror does not get the token of the hub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from app import secret_store
from app.hub.messages import TokenState
from app.library import hub_cache
from app.settings import Settings
from converter.spec import QuenchError

ENDPOINT = "https://huggingface.co"

_TRUE = {"1", "ON", "YES", "TRUE"}
_TOKEN = re.compile(r"[\x21-\x7e]{8,512}")
_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class Access(msgspec.Struct, frozen=True):
    """``from_environment`` names what the environment has decided, so that a settings page can say so."""

    endpoint: str
    offline: bool
    cache: str
    proxy: str
    from_environment: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The endpoint without its scheme: ``huggingface.co``."""
        parts = urlsplit(self.endpoint)
        return parts.netloc.rpartition("@")[2]


def access(settings: Settings) -> Access:
    """What holds now. Raises ``QuenchError`` ``bad_endpoint`` or ``bad_proxy`` for an address that is none."""
    decided = []
    endpoint = settings.hub_endpoint or ENDPOINT
    if given := os.environ.get("HF_ENDPOINT"):
        endpoint = given
        decided.append("endpoint")
    offline = settings.hub_offline
    if given := os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE"):
        offline = given.upper() in _TRUE
        decided.append("offline")
    proxy = settings.hub_proxy
    if given := next((value for name in _PROXY_VARIABLES if (value := os.environ.get(name))), ""):
        proxy = given
        decided.append("proxy")
    if any(os.environ.get(name) for name in ("HF_HUB_CACHE", "HF_HOME", "HUGGINGFACE_HUB_CACHE")):
        decided.append("cache")
    return Access(check_endpoint(endpoint), offline, str(hub_cache()), check_proxy(proxy), tuple(decided))


def check_endpoint(text: str) -> str:
    """An endpoint without the slash at its end; ``QuenchError`` ``bad_endpoint`` if it is no address."""
    given = text.strip().rstrip("/")
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        good = False
    if not good or not given.isprintable() or " " in given or "@" in given:
        raise QuenchError(
            "bad_endpoint",
            "The address of the hub is not usable.",
            without_secrets(repr(text[:200])),
            f"It looks like {ENDPOINT}; leave it empty for the hub itself.",
        )
    return given


def check_proxy(text: str) -> str:
    """A proxy's address, or an empty string; ``QuenchError`` ``bad_proxy`` if it is none."""
    given = text.strip()
    if not given:
        return ""
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        good = parts.scheme in ("http", "https", "socks5", "socks5h") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise QuenchError(
            "bad_proxy",
            "The address of the proxy is not usable.",
            without_secrets(repr(text[:200])),
            "It looks like http://proxy.example:8080.",
        )
    return given


def check_proxy_setting(text: str) -> str:
    """As :func:`check_proxy`, for a value that is going to be saved: no password goes into the settings file."""
    given = check_proxy(text)
    if "@" in given:
        raise QuenchError(
            "bad_proxy",
            "A proxy's password does not belong into the settings file.",
            without_secrets(given),
            "Set HTTPS_PROXY in the environment instead; it is used without being saved.",
        )
    return given


def apply(found: Access) -> None:
    """Make this process's huggingface_hub use it. To be called before that is imported; its children inherit it."""
    environment = {
        "HF_ENDPOINT": found.endpoint,
        "HF_HUB_OFFLINE": "1" if found.offline else "0",
        # Nothing is told about the person or the machine, and nothing else is fetched beside what was asked for.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
    }
    os.environ.update(environment)
    if found.proxy and "proxy" not in found.from_environment:
        os.environ["HTTPS_PROXY"] = os.environ["HTTP_PROXY"] = found.proxy


# ---- the token -------------------------------------------------------------------------------------------------


def token(found: Access) -> str | None:
    """The token for this endpoint, or None. Never to be shown, logged or sent anywhere else."""
    return _find_token(found)[0]


def token_state(found: Access) -> TokenState:
    """Where the token comes from, without the token itself."""
    why = secret_store.trouble()
    return TokenState(_find_token(found)[1], not why, why)


def save_token(found: Access, secret: str) -> TokenState:
    """Keep a token for this endpoint in the system's keyring.

    Where there is no keyring it is used until this program ends, and the answer's ``keeps`` and ``why`` say so: it is
    never written to a file. An empty ``secret`` forgets it. Raises ``QuenchError`` ``bad_token`` for what is no token.
    """
    secret = secret.strip()
    if secret and not _TOKEN.fullmatch(secret):
        raise QuenchError(
            "bad_token",
            "This is not a token.",
            "A token is one word of letters, digits and signs, such as hf_...",
            f"Make one at {found.endpoint}/settings/tokens and copy it whole.",
        )
    why = secret_store.keep(found.host, secret)
    if secret and why:
        os.environ["HF_TOKEN"] = secret  # for this process and the workers that it starts
    elif not secret:
        for name in _TOKEN_VARIABLES:
            os.environ.pop(name, None)
    return TokenState(_find_token(found)[1], not why, why)


def _find_token(found: Access) -> tuple[str | None, str]:
    for name in _TOKEN_VARIABLES:
        if secret := _clean(os.environ.get(name)):
            return secret, "environment"
    if secret := _clean(secret_store.read(found.host)):
        return secret, "keyring"
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() not in _TRUE and (secret := _login_file()):
        return secret, "file"
    return None, ""


def _clean(secret: str | None) -> str | None:
    """A usable token, or None: one with a line break in it would end up in an error message of the HTTP client."""
    secret = (secret or "").strip()
    return secret if _TOKEN.fullmatch(secret) else None


def _login_file() -> str | None:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser()
    try:
        return _clean(file.read_bytes()[:1024].decode("utf-8", "replace"))
    except OSError:
        return None


_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]*@")
_SIGNATURE = re.compile(r"\?[^\s'\"]*")


def without_secrets(text: str, *secrets: str) -> str:
    """``text`` without these secrets, without passwords in addresses and without what follows a ``?`` (signatures)."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _SIGNATURE.sub("", _USER_INFO.sub("***@", text))


__all__ = [
    "ENDPOINT",
    "Access",
    "TokenState",
    "access",
    "apply",
    "check_endpoint",
    "check_proxy",
    "check_proxy_setting",
    "save_token",
    "token",
    "token_state",
    "without_secrets",
]
