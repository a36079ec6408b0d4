"""Candidates of ``quench quality`` that a server has: by a server of the library, or by an address."""

from __future__ import annotations

import argparse
import os

from app.child import SERVER_KEY_VARIABLE
from app.measure_messages import ServedCandidate
from app.remote import address, keys
from converter.spec import QuenchError


def candidates_of(options: argparse.Namespace) -> tuple[ServedCandidate, ...]:
    """Those of the command line: ``server:NAME/MODEL`` among the candidates, and ``--url`` with ``--model``.

    A server of the library is asked with its key from the keyring, that of ``--url`` with the key in
    ``QUENCH_API_KEY``, if there is one. Raises ``QuenchError``: ``no_server``, ``usage``, ``bad_server``, ``bad_key``.
    """
    if options.served and not options.url:
        raise QuenchError(
            "usage", "Say where the model is served.", options.served, "--url U --model NAME", exit_status=2
        )
    named = [_of_library(path) for path in options.candidates if address.is_remote(path)]
    if options.url:
        url = address.check_url(options.url)
        secret = keys.check(os.environ.get(SERVER_KEY_VARIABLE, ""))
        path = address.model_path(address.host(url), options.served or "")
        named.append(ServedCandidate(path, url, options.served or "", secret))
    return tuple({place.path: place for place in named}.values())


def _of_library(path: str) -> ServedCandidate:
    from app import settings

    name, model = address.split_path(path)
    server = address.find(settings.load().servers, name)
    if server is None:
        raise QuenchError(
            "no_server",
            "The library has no server of this name.",
            repr(name),
            "Add it in the window (Library, Add, Server), or give its address: --url U --model NAME.",
            exit_status=2,
        )
    return ServedCandidate(path, server.url, model)


__all__ = ["candidates_of"]
