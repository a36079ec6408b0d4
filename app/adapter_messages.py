"""LoRA adapters on a loaded model: GGUF files whose part in every answer can be turned up and down."""

from __future__ import annotations

import msgspec


class Adapter(msgspec.Struct, frozen=True):
    """A GGUF adapter and its scale: 1 is as it was trained, 0 leaves it out."""

    path: str
    scale: float = 1.0


class SetAdapters(msgspec.Struct, frozen=True, tag_field="message", tag="set_adapters"):
    """Use exactly these adapters from now on (worker ``chat``); :class:`AdaptersSet`, or Failed and all is as before.

    No reload: scales act at the next answer, for which the conversation is computed again.
    """

    request: int
    adapters: tuple[Adapter, ...]


class AdaptersSet(msgspec.Struct, frozen=True, tag_field="message", tag="adapters_set"):
    """Answer to :class:`SetAdapters`; what is in use now."""

    request: int
    adapters: tuple[Adapter, ...]


__all__ = ["Adapter", "AdaptersSet", "SetAdapters"]
