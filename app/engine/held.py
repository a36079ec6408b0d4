"""What a model's context holds: which tokens, which of them a new prompt can reuse, and how room is made when full.

One sequence (number 0). Tokens are in the engine's memory and in :attr:`Held.tokens`, position by position.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from app.engine import native
from app.engine.native import DECODE_ABORTED, DECODE_NO_SLOT, DECODE_OK, lib
from converter.spec import Cancelled, QuenchError


class Held:
    """The tokens of sequence 0 of ``context``, which has room for ``size`` and takes ``step`` of them a decode call."""

    def __init__(self, model: Any, context: Any, size: int, step: int) -> None:
        self.tokens: list[int] = []
        self.size = size
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._window = int(lib.llama_model_n_swa(model))
        self._step = step
        self._one = (ctypes.c_int32 * 1)()
        self._batch_of_one = lib.llama_batch_get_one(self._one, 1)

    @property
    def full(self) -> bool:
        """Whether not one more token fits."""
        return len(self.tokens) >= self.size

    def reuse(self, tokens: Sequence[int]) -> int:
        """Keep what is in common with ``tokens`` and forget the rest; returns how many those are.

        Never all of them: the last one gives the logits.
        """
        common = 0
        for ours, theirs in zip(self.tokens, tokens[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        if self._window > 0 and int(lib.llama_memory_seq_pos_min(self._memory, 0)) > max(0, common - self._window):
            common = 0  # cells that a sliding window still needs are gone
        self.forget_after(common)
        return len(self.tokens)

    def forget_after(self, count: int) -> None:
        """Keep the first ``count`` tokens; all are dropped where the model cannot go back."""
        if count == 0 or not lib.llama_memory_seq_rm(self._memory, 0, count, -1):
            self.clear()
        else:
            del self.tokens[count:]

    def clear(self) -> None:
        """Forget everything."""
        lib.llama_memory_clear(self._memory, True)
        self.tokens.clear()

    def feed(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> bool:
        """Compute ``tokens`` behind what is held, logits for the last one; False when it was cancelled on the way."""
        for at in range(0, len(tokens), self._step):
            if cancelled():
                return False
            part = tokens[at : at + self._step]
            array = (ctypes.c_int32 * len(part))(*part)
            if not self._decode(lib.llama_batch_get_one(array, len(part))):
                return False
            self.tokens.extend(part)
        return True

    def advance(self, token: int) -> bool:
        """Compute one token; False when it was interrupted."""
        self._one[0] = token
        if not self._decode(self._batch_of_one):
            return False
        self.tokens.append(token)
        return True

    def make_room(self, keep: int, cancelled: Callable[[], bool]) -> int:
        """Drop the older half of what stands behind the first ``keep`` tokens; returns how many went.

        Where the model can move positions nothing is computed again; where it cannot, what stays is computed anew.
        0 if there is nothing to drop or it was cancelled.
        """
        drop = (len(self.tokens) - keep) // 2
        if keep < 0 or drop < 1:
            return 0
        rest = [*self.tokens[:keep], *self.tokens[keep + drop :]]
        if lib.llama_memory_can_shift(self._memory) and lib.llama_memory_seq_rm(self._memory, 0, keep, keep + drop):
            lib.llama_memory_seq_add(self._memory, 0, keep + drop, -1, -drop)
            self.tokens[:] = rest
            return drop
        self.clear()
        return drop if self.feed(rest, cancelled) else 0

    def failed(self, code: int) -> NoReturn:
        """Raise for a decode call that answered ``code``; what is held is unknown now and forgotten."""
        self.clear()
        if code == DECODE_ABORTED:
            raise Cancelled
        if code == DECODE_NO_SLOT:
            raise context_full(f"The context has {self.size} tokens.")
        raise QuenchError(
            "decode_failed",
            "The engine could not compute this.",
            f"Code {code}. {native.log.errors()}".strip(),
            "Load the model again. If it happens again, the file may be damaged.",
        )

    def _decode(self, batch: Any) -> bool:
        code = lib.llama_decode(self._context, batch)
        if code == DECODE_ABORTED:
            self.forget_after(len(self.tokens))
            return False
        if code != DECODE_OK:
            self.failed(code)
        return True


def context_full(detail: str, hint: str = "") -> QuenchError:
    """The error for a conversation that does not fit; ``hint`` in place of the usual advice."""
    return QuenchError(
        "context_full",
        "The conversation is longer than the model's context.",
        detail,
        hint
        or "Load the model with a larger context, let old turns be left out (Settings, When full), or start a new "
        "conversation.",
    )


__all__ = ["Held", "context_full"]
