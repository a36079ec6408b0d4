"""How sure the model was of each token that it wrote: recorded beside the reply, for a walk over its logits.

The walk is the kernels' (a token's probability among all, and the largest); where they cannot be used nothing is
recorded. In ``auto`` the first tokens decide: where the walk takes more than 0.5 % of the time, which it does in small
models alone, it ends there, and the probabilities can be computed afterwards just as quickly.
"""

from __future__ import annotations

import ctypes
import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from app.chat_messages import ALTERNATIVES, AUTOMATIC, COST_LIMIT, NEVER

_TRIAL = 8  # tokens after which ``auto`` decides


class Choice(NamedTuple):
    """A token with its probability, and the likeliest tokens with theirs."""

    token: int
    probability: float
    top: tuple[tuple[int, float], ...]


class Recorder:
    """Takes the logits of every token that was chosen. ``choices`` is None if they are not recorded (any more)."""

    def __init__(self, vocabulary: int, mode: str) -> None:
        self.choices: list[Choice] | None = None
        self._automatic = mode == AUTOMATIC
        self._spent = 0.0
        self._begun = 0.0
        if mode == NEVER:
            return
        import kernels

        try:
            self._scorer = kernels.RowScorer(vocabulary, min(ALTERNATIVES, vocabulary))
        except kernels.KernelError:
            return
        self.choices = []

    def add(self, token: int, logits: npt.NDArray[np.float32]) -> None:
        """Record ``token``, chosen from ``logits`` (vocabulary,)."""
        if self.choices is None:
            return
        start = time.perf_counter()
        self._begun = self._begun or start
        log_sum, top = self._scorer(logits)
        values = [(column, math.exp(float(logits[column]) - log_sum)) for column in top if column >= 0]
        self.choices.append(Choice(token, math.exp(float(logits[token]) - log_sum), tuple(values)))
        self._spent += time.perf_counter() - start
        if self._automatic and len(self.choices) == _TRIAL:
            whole = time.perf_counter() - self._begun
            if self._spent > COST_LIMIT * whole * _TRIAL / (_TRIAL - 1):
                self.choices = None


class LogitsView:
    """The logits of the last decoded token as an array, without making a new one for every token."""

    def __init__(self, context: Any, vocabulary: int) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._address = 0
        self._view: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def now(self) -> npt.NDArray[np.float32]:
        """(vocabulary,) float32, valid until the next decode."""
        from app.engine.native import lib

        pointer = lib.llama_get_logits_ith(self._context, -1)
        if not pointer:
            raise RuntimeError("the engine gave no logits")
        address = ctypes.addressof(pointer.contents)
        if address != self._address:
            self._address = address
            self._view = np.ctypeslib.as_array(pointer, (self._vocabulary,))
        return self._view


__all__ = ["Choice", "LogitsView", "Recorder"]
