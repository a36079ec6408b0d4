"""How a model is loaded."""

from __future__ import annotations

import msgspec


class LoadOptions(msgspec.Struct, frozen=True):
    """How a model is loaded. ``threads`` 0: automatic.

    ``context`` 0: 8,192 tokens or the trained length, whichever is less, and less of it where that does not fit.
    ``machines`` (``host:port``) compute the last layers by their RPC workers; ``gpu_layers`` is then how many of the
    layers are not this machine's processor's, 0: by how much memory each machine has.
    """

    context: int = 0
    threads: int = 0
    gpu_layers: int = 0
    kv_type: str = "f16"
    flash_attention: str = "auto"
    machines: tuple[str, ...] = ()


__all__ = ["LoadOptions"]
