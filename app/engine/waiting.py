"""How long the engine's threads look for work before they go to sleep. To be settled before the library is loaded.

The threads of one computation meet some hundreds of times a token. One that sleeps at once must be woken each time,
which takes microseconds; one that goes on looking holds a core that other programs want, and with them the very thread
that it waits for. Looking for about as long as waking takes is never much worse than the better of the two: on a quiet
machine as fast as looking for ever, on a busy one nearly as fast as sleeping (``python -m tests.bench.waiting``).
"""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping

ROUNDS = {"x86_64": 300, "amd64": 300}
"""Looks by processor: about 8 microseconds on a Zen 1. Elsewhere nothing was measured, and threads sleep at once."""


def settle(environment: MutableMapping[str, str] = os.environ, machine: str = "") -> None:
    """Say it to the OpenMP runtimes that this process loads later. What the environment says already is left alone.

    GNU's libgomp follows ``GOMP_SPINCOUNT``, all others ``OMP_WAIT_POLICY``.
    """
    if environment.get("OMP_WAIT_POLICY", "passive").lower() != "passive":
        return
    environment["OMP_WAIT_POLICY"] = "passive"
    rounds = ROUNDS.get((machine or platform.machine()).lower())
    if rounds is not None:
        environment.setdefault("GOMP_SPINCOUNT", str(rounds))
