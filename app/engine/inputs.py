"""What goes into a model's products: how large it is, and what would come out if it were rounded first.

The eval callback is asked before each operation and told after it. Where each operation is computed by itself, the
numbers that a product is about to read lie there when it is asked: they are replaced, and put back when the product is
done, since others may read them too. It holds for products on the processor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine import tensors
from app.engine.capture import bare_name
from app.engine.native import lib
from converter.spec import QuenchError

Floats = npt.NDArray[np.float32]
Change = Callable[[Floats], Floats]
"""Takes inputs (tokens, columns) and gives others of this shape; what it is given must not be written to."""


@dataclass
class Size:
    """Of the input of a matrix, a number a column: ``most`` the largest |x|, ``total`` the sum of |x|, ``squares`` of
    x^2, over ``rows`` tokens. ``source`` is what the engine calls the input."""

    most: Floats
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    source: str
    rows: int = 0


class Inputs:
    """Give :attr:`callback` to a context; say with :meth:`measured` or :meth:`changed` what to do, and after each
    decode call :meth:`check`.

    Attributes:
        sizes: what :meth:`measured` found, by the name of the matrix.
        leaders: by the name of a matrix, the first one that was multiplied with the same numbers.

    The callback runs inside native code, where nothing may be raised: an error is kept, everything after it is ignored,
    and :meth:`check` raises it.
    """

    def __init__(self) -> None:
        self._plain, _ = tensors.check()
        self._error: BaseException | None = None
        self._watched: frozenset[str] = frozenset()
        self._changes: Mapping[str, Change] = {}
        self._kept: tuple[Any, Floats] | None = None
        self._sources: dict[int, str] = {}
        self.sizes: dict[str, Size] = {}
        self.leaders: dict[str, str] = {}
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._receive)

    @contextmanager
    def measured(self, names: Collection[str]) -> Iterator[None]:
        """Until the block ends, add up the sizes of these matrices' inputs, from zero."""
        self.sizes, self.leaders, self._sources = {}, {}, {}
        self._watched = frozenset(names)
        try:
            yield
        finally:
            self._watched = frozenset()

    @contextmanager
    def changed(self, changes: Mapping[str, Change]) -> Iterator[None]:
        """Until the block ends, compute the products of these matrices with changed inputs."""
        self._changes = changes
        try:
            yield
        finally:
            self._changes = {}

    def check(self) -> None:
        """After a decode call: raise what went wrong. ``QuenchError`` ``not_finite``, ``not_in_memory``."""
        error, self._error = self._error, None
        self._sources, self._kept = {}, None
        if error is not None:
            raise error

    def _receive(self, address: int, ask: bool, _data: int | None) -> bool:
        if self._error is not None:
            return not ask
        try:
            node = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))[0]
            if self._changes:
                self._change(node, before=ask)
                return True
            wanted = bool(self._watched) and self._watches(node)
            if wanted and not ask:
                self._measure(node)
            return wanted or not ask
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; check() raises it
            self._error = error
        return True

    def _watches(self, node: Any) -> bool:
        """Whether it is a product of one of the watched matrices, as a plain one, with numbers in 32 bits."""
        if node.op != self._plain or node.src[1][0].type != tensors.F32 or node.src[0][0].ne[2] != 1:
            return False
        return bare_name(node.src[0][0].name) in self._watched

    def _measure(self, node: Any) -> None:
        name, source = bare_name(node.src[0][0].name), node.src[1]
        self.leaders[name] = self._sources.setdefault(ctypes.addressof(source[0]), name)
        rows = tensors.array(source, np.float32)
        sizes = np.abs(rows.reshape(-1, rows.shape[-1]))
        squares = np.square(sizes, dtype=np.float64).sum(axis=0)
        if not np.isfinite(squares).all():
            raise QuenchError(
                "not_finite",
                "The model computes numbers that are not finite.",
                f"In the input of {name}.",
                "The file may be damaged; try the full-precision one.",
            )
        columns = sizes.shape[1]
        entry = self.sizes.get(name)
        if entry is None:
            label = source[0].name.decode("utf-8", "replace")
            entry = Size(np.zeros(columns, np.float32), np.zeros(columns), np.zeros(columns), label)
            self.sizes[name] = entry
        np.maximum(entry.most, sizes.max(axis=0), out=entry.most)
        entry.total += sizes.sum(axis=0, dtype=np.float64)
        entry.squares += squares
        entry.rows += len(sizes)

    def _change(self, node: Any, *, before: bool) -> None:
        if not before:
            if self._kept is not None:
                view, numbers = self._kept
                view[...], self._kept = numbers, None
            return
        if node.op != self._plain:
            return
        change = self._changes.get(bare_name(node.src[0][0].name))
        if change is None:
            return
        source = node.src[1]
        if source[0].type != tensors.F32 or not tensors.in_memory(source):
            raise QuenchError(
                "not_in_memory",
                "Inputs of this model cannot be rounded.",
                "They are not in 32 bits in ordinary memory.",
                "Measure with all layers on the processor.",
            )
        view = tensors.array(source, np.float32)
        numbers = view.copy()
        view[...] = change(numbers.reshape(-1, numbers.shape[-1])).reshape(numbers.shape)
        self._kept = (view, numbers)


__all__ = ["Change", "Inputs", "Size"]
