"""Small workers for tests of the process machinery: a few lines of ``serve`` in a process of their own."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

_FRAME = """
import ctypes, os, signal, sys, threading, time
from app.protocol import *
from app.workers import runtime
from converter.spec import Cancelled as Stopped, QuenchError

def serve(connection):
{body}

runtime.run("small", lambda: serve)
"""


def small_worker(folder: Path, body: str) -> list[str]:
    """The command line of a worker whose ``serve(connection)`` has this body."""
    script = folder / "small_worker.py"
    script.write_text(_FRAME.format(body=textwrap.indent(textwrap.dedent(body), "    ")), encoding="utf-8")
    return [sys.executable, str(script)]
