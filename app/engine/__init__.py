"""The engine: llama.cpp through its low-level functions. What it answers is in :mod:`app.engine.model`."""

from app.engine import waiting

waiting.prepare()  # before any neighbour loads the library, whose threads ask once
