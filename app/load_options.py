"""How a model is loaded."""

from __future__ import annotations

import msgspec


class LoadOptions(msgspec.Struct, frozen=True):
    """How a model is loaded. ``threads`` 0: automatic.

    ``context`` 0: 8,192 tokens or the trained length, whichever is less, and less of it where that does not fit.
    """

    context: int = 0
    threads: int = 0
    gpu_layers: int = 0
    kv_type: str = "f16"
    flash_attention: str = "auto"


__all__ = ["LoadOptions"]
