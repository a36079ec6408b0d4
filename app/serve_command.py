"""``quench serve``: a model of this machine behind an OpenAI-compatible API, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from app import console, edges
from app.child import SERVING_TOKEN_VARIABLE, Child
from app.commands import Result, absolute, machines_of
from app.protocol import Command, Complete, Failed, Generate, Load, Loaded, Loading, LoadOptions, Stop
from app.serving.messages import Embed, Served, Serving, StartServing
from converter.spec import QuenchError

_QUESTIONS = Generate | Complete | Embed | Stop


def serve(options: argparse.Namespace) -> Result:
    """Load, listen, and relay between the two processes. Ctrl-C is how it ends; the result says what was done."""
    from app.serving import guard

    token = options.token or os.environ.get(SERVING_TOKEN_VARIABLE, "")
    guard.check(options.host, token)
    path = absolute(options.model)
    load = LoadOptions(
        context=options.context,
        threads=options.threads,
        kv_type=options.kv,
        gpu_layers=options.gpu_layers,
        machines=machines_of(options),
    )
    began = time.monotonic()
    embeds = makes_vectors(path)
    if embeds and load.machines:
        raise QuenchError("usage", "An embedding model runs on one machine.", path, "Leave out --rpc.", exit_status=2)
    with Child("embed" if embeds else "chat") as model:
        loaded = _load(model, path, load)
        start = StartServing(
            options.host, options.port, Path(path).stem, token, embeds, context=loaded.context,
            temperature=loaded.defaults.temperature, top_k=loaded.defaults.top_k, top_p=loaded.defaults.top_p,
            min_p=loaded.defaults.min_p, repeat_penalty=loaded.defaults.repeat_penalty,
        )  # fmt: skip
        with Child("serve") as web:
            relay = _Relay(model, web)
            with edges.endings(lambda *_: relay.end()):
                relay.run(start)
            model.cancel()
    counts = relay.counts
    data = {
        "url": relay.url,
        "model": start.model,
        "answered": counts.answered,
        "refused": counts.refused,
        "seconds": time.monotonic() - began,
    }
    return Result(data, f"{counts.answered} requests answered, {counts.refused} refused.")


def makes_vectors(path: str) -> bool:
    """Whether a file is an embeddings model; what cannot be read is for the worker to complain of."""
    from app import library

    return library.makes_vectors(library.describe(path))


def _load(model: Child, path: str, options: LoadOptions) -> Loaded:
    progress = console.Progress()
    model.send(Load(path, options))
    try:
        for event in model.events():
            if isinstance(event, Loading):
                progress.update("loading", event.fraction, 1.0)
            elif isinstance(event, Loaded):
                return event
            elif isinstance(event, Failed):
                raise event.to_error()
    finally:
        progress.clear()
    raise model.wait().error or QuenchError("engine_died", "The engine process ended.", exit_status=5)


class _Relay:
    """Carries questions from the web's process to the model's, and answers back: each line has one thread."""

    def __init__(self, model: Child, web: Child) -> None:
        self._model = model
        self._web = web
        self._death: QuenchError | None = None
        self._ended = False
        self.url = ""
        self.counts = Served(0, 0, 0)

    def run(self, start: StartServing) -> None:
        """Until :meth:`end`, with the web's last word on how much it has done; an end before that is an error."""
        self._web.send(start)
        threading.Thread(target=self._answers, name="answers", daemon=True).start()
        for event in self._web.events():
            if isinstance(event, Serving):
                self.url = event.url
                print(f"Serving {start.model} at {event.url}; Ctrl-C ends it.", file=sys.stderr, flush=True)
            elif isinstance(event, Served):
                self.counts = event
            elif isinstance(event, _QUESTIONS):
                self._model.send(event)
            elif isinstance(event, Failed):
                raise event.to_error()
        if self._death is not None or not self._ended:
            died = QuenchError("engine_died", "The serving process ended.", exit_status=5)
            raise self._death or self._web.wait().error or died

    def end(self) -> None:
        """Close up. For a signal's handler: an exception out of one would take what is just being read with it, and
        the line may be just being written to."""
        if not self._ended:
            self._ended = True
            threading.Thread(target=self._web.cancel, name="end", daemon=True).start()

    def _answers(self) -> None:
        for event in self._model.events():
            if isinstance(event, Command):
                self._web.send(event)
        self._death = self._model.wait().error
        self._web.cancel()


__all__ = ["serve"]
