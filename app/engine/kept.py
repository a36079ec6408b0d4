"""A conversation's place in the context, kept on disk by :mod:`app.prompt_files` and taken back from there."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app import prompt_files
from app.engine.native import lib
from converter.identity import content_id
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.engine.model import Model

LEAST = 64
"""Tokens: fewer are computed sooner than a file is read."""


class Keeper:
    """Keeps what ``model`` holds of the conversation it is at, ``limit`` bytes of all conversations at most."""

    def __init__(self, model: Model, limit: int) -> None:
        self._model = model
        self._limit = limit
        self._conversation = ""
        self._saved: list[int] = []
        self._made_by = ""

    @property
    def due(self) -> bool:
        """Is there something that is not on disk yet?"""
        held = self._model.held.tokens
        return bool(self._limit and self._conversation and len(held) >= LEAST and held != self._saved)

    def turn_to(self, conversation: str, prompt: Sequence[int]) -> None:
        """The next prompt is of ``conversation``: keep what is held of the one before, and take back what is kept of
        this one if it has more of ``prompt`` than the context has."""
        if conversation == self._conversation or not self._limit:
            return
        if self.due:
            self.save()
        self._conversation, self._saved = conversation, []
        kept = prompt_files.find(conversation, self.made_by()) if conversation else None
        if kept is None or _common(kept.tokens, prompt) < _common(self._model.held.tokens, prompt) + LEAST:
            return
        path = prompt_files.checked(conversation, kept)
        if path is not None and self._take_back(path, list(kept.tokens)):
            self._saved = list(kept.tokens)

    def save(self) -> bool:
        """Keep what is held now; False if that was not possible."""
        held = list(self._model.held.tokens)
        context = self._model.native_context
        size = int(lib.llama_state_seq_get_size(context, 0))
        array = (ctypes.c_int32 * len(held))(*held)

        def write(path: Path) -> bool:
            return bool(lib.llama_state_seq_save_file(context, str(path).encode(), 0, array, len(held)))

        self._saved = held
        return prompt_files.keep(self._conversation, self.made_by(), held, write, size=size, limit=self._limit)

    def made_by(self) -> str:
        """A digest of everything that what is held depends on: model, cache, context, adapters, engine."""
        model = self._model
        if not self._made_by:
            try:
                self._made_by = content_id(model.path)
            except QuenchError:
                self._made_by = model.path
        adapters = [(each.path, each.scale, Path(each.path).stat().st_mtime_ns) for each in model.adapters]
        options = msgspec.structs.astuple(msgspec.structs.replace(model.options, threads=0))
        facts = (self._made_by, version("llama-cpp-python"), model.context, options, adapters)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def _take_back(self, path: Path, tokens: list[int]) -> bool:
        held = self._model.held
        held.clear()
        room = (ctypes.c_int32 * (held.size + 1))()
        count = ctypes.c_size_t()
        read = lib.llama_state_seq_load_file(
            self._model.native_context, str(path).encode(), 0, room, held.size, ctypes.byref(count)
        )
        if not read or room[: count.value] != tokens:
            held.clear()
            return False
        held.tokens[:] = tokens
        return True


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


__all__ = ["LEAST", "Keeper"]
