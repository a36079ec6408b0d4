"""``quench embed``: how alike the lines of a file are to an embeddings model."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from app import console, similarity
from app.child import Child
from app.commands import Result, absolute
from app.protocol import Failed, Load, Loaded, Loading, LoadOptions
from app.serving.messages import Embed, Embedded
from converter.spec import Cancelled, QuenchError

SHOWN = 20
"""Pairs in the table for people."""


def embed(options: argparse.Namespace) -> Result:
    """Vectors of every line, and their cosines."""
    text = sys.stdin.read(similarity.MAX_BYTES) if options.text == "-" else similarity.read(options.text)
    texts = similarity.lines(text)
    path = absolute(options.model)
    began = time.monotonic()
    with Child("embed") as child:
        child.send(Load(path, LoadOptions(context=options.context, threads=options.threads)))
        child.send(Embed(1, texts))
        try:
            loaded, made = _wait(child)
        except KeyboardInterrupt:
            child.kill()
            raise Cancelled from None
    table = similarity.cosines(similarity.unpack(made.vectors, made.width))
    data: dict[str, Any] = {
        "model": path,
        "dimensions": made.width,
        "context": loaded.context,
        "texts": list(texts),
        "tokens": list(made.tokens),
        "cut": list(made.cut),
        "similarity": [[round(float(value), 6) for value in row] for row in table],
        "seconds": time.monotonic() - began,
    }
    rows = [(f"{value:.4f}", _short(texts[a]), _short(texts[b])) for value, a, b in similarity.pairs(table)[:SHOWN]]
    return Result(data, console.table(("similarity", "text", "text"), rows))


def _wait(child: Child) -> tuple[Loaded, Embedded]:
    progress = console.Progress()
    loaded: Loaded | None = None
    for event in child.events():
        if isinstance(event, Loading):
            progress.update("loading", event.fraction, 1.0)
        elif isinstance(event, Loaded):
            progress.clear()
            loaded = event
        elif isinstance(event, Failed):
            progress.clear()
            raise event.to_error()
        elif isinstance(event, Embedded) and loaded is not None:
            return loaded, event
    raise child.wait().error or QuenchError("engine_died", "The engine process ended.", exit_status=5)


def _short(text: str) -> str:
    return text if len(text) <= 48 else text[:47] + "…"


__all__ = ["embed"]
