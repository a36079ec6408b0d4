"""Messages about serving (a part of :mod:`app.protocol`, which lists them all).

The worker ``serve`` speaks HTTP and nothing else. What it is asked it passes up as the commands that the model's own
worker takes (``Generate``, ``Complete``, :class:`Embed`, ``Stop``), and what that one answers comes down to it
unchanged: the parent is a relay. So a request from the network never reaches the process that has the model.
"""

from __future__ import annotations

import msgspec


class StartServing(msgspec.Struct, frozen=True, tag_field="message", tag="start_serving"):
    """Listen (worker ``serve``); answered by :class:`Serving` or ``Failed``.

    ``host`` other than this machine itself needs a ``token``. ``port`` 0: any free one. ``model`` is the name that is
    listed; ``embeds``: it makes vectors, not text; ``temperature`` ... are used where a request names none. It may hold
    a secret, which it does not print.
    """

    host: str
    port: int
    model: str
    token: str = ""
    embeds: bool = False
    context: int = 0
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0

    def __repr__(self) -> str:
        return f"StartServing(host={self.host!r}, port={self.port}, model={self.model!r})"


class Serving(msgspec.Struct, frozen=True, tag_field="message", tag="serving"):
    """Requests are taken at ``url`` (the base of the API) from now on."""

    url: str


class Served(msgspec.Struct, frozen=True, tag_field="message", tag="served"):
    """So many requests were answered since the start, ``refused`` were not let in; ``open`` are being answered."""

    answered: int
    refused: int
    open: int


class Embed(msgspec.Struct, frozen=True, tag_field="message", tag="embed"):
    """Turn texts into vectors (worker ``embed``); answered by :class:`Embedded` or ``Failed``."""

    request: int
    texts: tuple[str, ...]


class Embedded(msgspec.Struct, frozen=True, tag_field="message", tag="embedded"):
    """Answer to :class:`Embed`. ``vectors`` are float32 (n_texts, width), little-endian, each of length 1.

    ``tokens`` of each text; ``cut`` are the places of texts that were longer than the model's context.
    """

    request: int
    vectors: bytes
    width: int
    tokens: tuple[int, ...]
    cut: tuple[int, ...] = ()
