"""What a matrix is given, and what its model's stream of states is behind it, read by the engine's eval callback."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine import tensors
from app.engine.capture import bare_name
from app.engine.native import lib

Rows = npt.NDArray[np.float32]


class Residual:
    """Give :attr:`callback` to a context, say with :meth:`watch` which matrices, decode, and :meth:`take` what is seen.

    What is behind a matrix is the sum of its product and of something else of the same shape: the stream that the
    layer adds to. Where the product goes another way (through a norm, a bias or a choice of rows first) there is none.
    What comes behind the last of these sums is not computed: the logits of such a decode call are of no use.

    The callback runs inside native code, where nothing may be raised: an error is kept, and :meth:`take` raises it.
    """

    def __init__(self) -> None:
        self._plain, _ = tensors.check()
        self._sum = tensors.addition()
        self._names: frozenset[str] = frozenset()
        self._products: dict[int, str] = {}
        self._left: set[str] = set()
        self._error: BaseException | None = None
        self._inputs: dict[str, list[Rows]] = {}
        self._states: dict[str, list[Rows]] = {}
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._receive)

    def watch(self, names: Collection[str]) -> None:
        """From now on look at these matrices."""
        self._names = frozenset(names)
        self._begin()

    def take(self) -> dict[str, tuple[Rows, Rows]]:
        """Of the decode call before, by matrix: its inputs (rows, columns), and the stream behind it (rows, width); of
        those of which both were seen. Raises what went wrong."""
        error, inputs, states = self._error, self._inputs, self._states
        self._begin()
        if error is not None:
            raise error
        found = {name: (np.concatenate(inputs[name]), np.concatenate(states[name])) for name in states}
        return {name: (rows, behind) for name, (rows, behind) in found.items() if len(rows) == len(behind)}

    def _begin(self) -> None:
        self._error = None
        self._inputs, self._states = {}, {}
        self._products = {}
        self._left = set(self._names)

    def _receive(self, address: int, ask: bool, _data: int | None) -> bool:
        if self._error is not None or not self._names:
            return not ask
        try:
            tensor = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))[0]
            if ask:
                return self._wants(tensor)
            if tensor.op == self._plain:
                self._product(address, tensor)
            else:
                self._behind(tensor)
                return bool(self._left)
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; take() raises it
            self._error = error
        return True

    def _wants(self, tensor: tensors.Tensor) -> bool:
        if tensor.op == self._plain:
            return bare_name(tensor.src[0][0].name) in self._names and tensor.src[1][0].type == tensors.F32
        if tensor.op != self._sum or not self._products or tensor.type != tensors.F32:
            return False
        shapes = [tuple(tensor.src[number][0].ne) for number in range(2)]
        return self._added(tensor) is not None and shapes[0] == shapes[1]

    def _product(self, address: int, tensor: tensors.Tensor) -> None:
        name = bare_name(tensor.src[0][0].name)
        if name not in self._left:  # the next part of a longer batch
            self._products = {}
            self._left = set(self._names)
        self._products[address] = name
        self._inputs.setdefault(name, []).append(_rows(tensor.src[1]))

    def _behind(self, tensor: tensors.Tensor) -> None:
        address = self._added(tensor)
        assert address is not None
        name = self._products.pop(address)
        self._left.discard(name)
        self._states.setdefault(name, []).append(_rows(ctypes.pointer(tensor)))

    def _added(self, tensor: tensors.Tensor) -> int | None:
        """The watched product among the two that are added."""
        sources = (ctypes.addressof(tensor.src[number][0]) for number in range(2))
        return next((address for address in sources if address in self._products), None)


def _rows(pointer: tensors.Pointer) -> Rows:
    rows = tensors.array(pointer, np.float32)
    return np.array(rows.reshape(-1, rows.shape[-1]))


__all__ = ["Residual", "Rows"]
