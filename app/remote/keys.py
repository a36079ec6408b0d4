"""The keys of servers: each in the system's keyring, under the server's origin, so that no other server gets it."""

from __future__ import annotations

import re

from app import secret_store
from app.remote.address import origin
from converter.spec import QuenchError

KEY = re.compile(r"[\x21-\x7e]{1,4096}")
"""What an Authorization header can carry."""


def check(secret: str) -> str:
    """A key without the spaces around it; ``QuenchError`` ``bad_key`` for what is none. The error does not hold it."""
    secret = secret.strip()
    if secret and not KEY.fullmatch(secret):
        raise QuenchError(
            "bad_key",
            "This is not a key.",
            "A key is one word of letters, digits and signs.",
            "Copy it whole, without line breaks.",
        )
    return secret


def find(url: str) -> str:
    """The key that is kept for a server, or an empty string."""
    secret = (secret_store.read(_entry(url)) or "").strip()
    return secret if KEY.fullmatch(secret) else ""


def keep(url: str, secret: str) -> str:
    """Keep a key, or forget it if it is empty. Returns why it could not be kept, or an empty string."""
    return secret_store.keep(_entry(url), check(secret))


def _entry(url: str) -> str:
    return f"server {origin(url)}"


__all__ = ["check", "find", "keep"]
