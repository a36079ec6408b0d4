"""One model loaded once and asked for one token, in a process of its own: what a bad file can break is only that."""

from __future__ import annotations

import numpy as np

from app.engine.model import Model
from app.engine.vocabulary import vocabulary_tokens
from app.hardware import physical_cores
from app.protocol import LoadOptions, ModelTried, Tokenized, TryModel
from app.workers.runtime import Connection
from converter.spec import QuenchError

_CONTEXT = 256
_TEXT = "Hello"


def serve(connection: Connection) -> None:
    """Answer one :class:`TryModel`; see there. ``QuenchError`` as :meth:`Model.load`; ``decode_failed`` for an answer
    that is no choice between tokens."""
    for command in connection.commands():
        if isinstance(command, TryModel):
            if command.texts:
                connection.send(Tokenized(tuple(vocabulary_tokens(command.path, command.texts))))
            connection.send(ModelTried(-1 if command.vocabulary_only else _first_token(command.path)))
            return


def _first_token(path: str) -> int:
    # Threads are named so that no time goes into finding how many are best.
    options = LoadOptions(context=_CONTEXT, threads=physical_cores())
    with Model.load(path, options, outputs=1, repack=False) as model:
        tokens = model.tokenize(_TEXT, special=False, add_special=True)[-8:] or [0]
        logits = model.window_logits(tokens, len(tokens) - 1)[0]
        if not np.isfinite(logits).all():
            raise QuenchError(
                "decode_failed",
                "The model computes something that is no number.",
                f"{int(np.count_nonzero(~np.isfinite(logits)))} of {len(logits)} logits after {_TEXT!r}.",
                "",
            )
        return int(np.argmax(logits))
