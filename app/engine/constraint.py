"""A grammar at work: which token may come next, in the library, after our own check has let the grammar through.

The library ends the process when it is fed a token that its grammar forbids, and with a grammar that it cannot read it
leaves nothing to put into a chain. Both are kept from happening here.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.constraints import grammar
from app.engine import native
from app.engine.native import lib
from converter.spec import QuenchError

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""``llama_token_data``."""


class Candidates:
    """All tokens with their logits, as samplers take them."""

    def __init__(self, vocabulary: int) -> None:
        self._ids = np.arange(vocabulary, dtype=np.int32)
        self._data = self._taken = np.empty(vocabulary, _CANDIDATE)
        self._array = lib.llama_token_data_array()

    def fill(self, logits: npt.NDArray[np.float32]) -> Any:
        """Take the logits (vocabulary,) afresh; a pointer for the library, valid until the next call."""
        return self._take(self._ids, logits)

    def fill_likeliest(self, logits: npt.NDArray[np.float32], count: int) -> tuple[Any, float]:
        """The same with only the ``count`` likeliest, in no order; and the least of their logits."""
        ids = np.argpartition(logits, -count)[-count:].astype(np.int32)
        values = logits[ids]
        return self._take(ids, values), float(values.min())

    def _take(self, ids: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> Any:
        self._taken = taken = self._data[: len(ids)]
        taken["id"], taken["logit"], taken["p"] = ids, logits, 0.0
        self._array.data = self._data.ctypes.data_as(lib.llama_token_data_p)
        self._array.size, self._array.selected, self._array.sorted = len(ids), -1, False
        return ctypes.byref(self._array)

    @property
    def chosen(self) -> int:
        """The token that a chain has selected, -1 if none."""
        at = int(self._array.selected)
        return int(self._array.data[at].id) if 0 <= at < self._array.size else -1

    def possible(self) -> int:
        """The likeliest token that is not ruled out, -1 if all are."""
        best = int(self._taken["logit"].argmax())
        return int(self._taken["id"][best]) if self._taken["logit"][best] > -np.inf else -1

    def left(self) -> tuple[int, float]:
        """How many are not ruled out, and the largest logit of these (-inf for none)."""
        values = self._taken["logit"]
        return int(np.count_nonzero(values > -np.inf)), float(values.max())


class Restriction:
    """Keeps an answer inside a grammar. ``busy_since`` is when the library was last asked, 0 while it is not: a
    grammar can take it very long, and nothing interrupts it then.

    Raises:
        QuenchError: ``bad_grammar`` when the library, or the model's vocabulary, does not take the grammar.
    """

    def __init__(self, vocab: Any, vocabulary: int, text: str, token_of: Callable[[str], int]) -> None:
        self.busy_since = 0.0
        for name in grammar.read(text, limit=grammar.MAX_EXPANDED_TEXT).tokens:
            number = int(name[2:-2]) if name.startswith("<[") else token_of(name)
            if not 0 <= number < vocabulary:
                raise grammar.bad_grammar(f"{name} is no token of this model.")
        native.log.clear()
        self._sampler = lib.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        if not self._sampler:
            raise grammar.bad_grammar(f"The engine does not take it. {native.log.errors()}".strip())
        self._one = lib.llama_token_data_array()
        self._data = lib.llama_token_data()

    def allows(self, token: int) -> bool:
        """May this token come next?"""
        self._data.id, self._data.logit, self._data.p = token, 1.0, 0.0
        self._one.data, self._one.size = ctypes.pointer(self._data), 1
        self._one.selected, self._one.sorted = -1, False
        self.restrict(ctypes.byref(self._one))
        return bool(self._data.logit > -np.inf)

    def restrict(self, candidates: Any) -> None:
        """Rule out every candidate that may not come next."""
        self.busy_since = time.monotonic()
        lib.llama_sampler_apply(self._sampler, candidates)
        self.busy_since = 0.0

    def accept(self, token: int) -> None:
        """Go on after a token; it must be allowed."""
        self.busy_since = time.monotonic()
        lib.llama_sampler_accept(self._sampler, token)
        self.busy_since = 0.0

    def read(self, tokens: Sequence[int]) -> None:
        """Go on after the beginning of an answer that is there already.

        Raises:
            QuenchError: ``not_in_grammar``.
        """
        for token in tokens:
            if not self.allows(token):
                raise QuenchError(
                    "not_in_grammar",
                    "The answer so far does not fit the constraint.",
                    "It cannot be continued under it.",
                    "Answer again, or take the constraint away.",
                    exit_status=2,
                )
            self.accept(token)

    def free(self) -> None:
        lib.llama_sampler_free(self._sampler)


def no_way_on() -> QuenchError:
    """The grammar wants something that no token of the vocabulary can begin."""
    return QuenchError(
        "grammar_dead_end",
        "The answer cannot go on within the constraint.",
        "No token of this model fits what the grammar wants next.",
        "Loosen the grammar there; the model's vocabulary may lack a character.",
    )


__all__ = ["Candidates", "Restriction", "no_way_on"]
