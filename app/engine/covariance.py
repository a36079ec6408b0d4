"""How the inputs of a model's matrices go together: sums of x x^T, gathered by the engine's eval callback.

Matrices that are multiplied with the same numbers (queries, keys and values; gate and up) share one sum. Experts are
passed over: each would need a matrix of its own, and a calibration text shows most of them too few tokens to fill it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine import tensors
from app.engine.capture import bare_name
from app.engine.native import lib
from converter.spec import QuenchError

Matrix = npt.NDArray[np.float32] | npt.NDArray[np.float64]

WIDE = 8192
"""Columns from which sums are kept in single precision: half the memory, and their rounding is far below what any
calibration text leaves open."""


@dataclass
class Covariance:
    """Of the input of one or more matrices: ``sums`` (columns, columns) of weight * x x^T, symmetric."""

    sums: Matrix
    rows: int = 0


def sum_bytes(columns: int) -> int:
    """Memory of one sum of so many columns, with the product of a batch that is added to it."""
    return columns * columns * (4 if columns >= WIDE else 8) + 4 * columns * columns


class Covariances:
    """Give :attr:`callback` to a context, say with :meth:`watch` what to gather; after each decode call :meth:`check`.

    Attributes:
        weight: what the products of the next decode calls are multiplied with.
        sums: by the name of the first matrix that is multiplied with them.
        leaders: for every matrix that is watched and was seen, the name under which its sum is; in the order in which
            the engine comes to them.
        columns: of the same matrices.

    The callback runs inside native code, where nothing may be raised: an error is kept, everything after it is ignored,
    and :meth:`check` raises it. Where nothing is watched that is still to come, the rest of the decode call is left
    out: its logits are of no use.
    """

    def __init__(self) -> None:
        self._plain, self._indirect = tensors.check()
        self._error: BaseException | None = None
        self._sources: dict[int, str] = {}
        self._left: set[str] = set()
        self._watched: frozenset[str] = frozenset()
        self._keep = True
        self.weight = 1.0
        self.sums: dict[str, Covariance] = {}
        self.leaders: dict[str, str] = {}
        self.columns: dict[str, int] = {}
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._receive)

    def watch(self, names: Collection[str], *, keep: bool = True) -> None:
        """From now on gather the inputs of these matrices, from zero. Without ``keep`` only learn who shares them."""
        self._watched = frozenset(names)
        self._keep = keep
        self.sums, self.leaders, self.columns = {}, {}, {}
        self._begin()

    def check(self) -> None:
        """After a decode call: raise what went wrong. ``QuenchError`` ``not_finite`` for NaN or infinity."""
        error, self._error = self._error, None
        self._begin()
        if error is not None:
            raise error

    def groups(self, names: Collection[str]) -> Mapping[str, list[str]]:
        """Those of ``names`` that were seen, by the one whose sum they share."""
        found: dict[str, list[str]] = {}
        for name in names:
            if name in self.leaders:
                found.setdefault(self.leaders[name], []).append(name)
        return found

    def _begin(self) -> None:
        self._sources = {}
        self._left = set(self._watched)

    def _receive(self, address: int, ask: bool, _data: int | None) -> bool:
        if self._error is not None:
            return not ask
        try:
            tensor = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))[0]
            if ask:
                return self._wants(tensor)
            self._add(tensor)
            return bool(self._left) or not self._watched
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; check() raises it
            self._error = error
        return True

    def _wants(self, tensor: tensors.Tensor) -> bool:
        if tensor.op != self._plain or tensor.src[1][0].type != tensors.F32:
            return False
        return bare_name(tensor.src[0][0].name) in self._watched and tensor.src[0][0].ne[2] == 1

    def _add(self, product: tensors.Tensor) -> None:
        name, source = bare_name(product.src[0][0].name), ctypes.addressof(product.src[1][0])
        if name not in self._left:
            # The next part of a longer batch: its inputs may lie where others lay.
            self._begin()
        self._left.discard(name)
        leader = self._sources.setdefault(source, name)
        self.leaders[name] = leader
        self.columns[name] = int(product.src[0][0].ne[0])
        if leader != name or not self._keep:
            return
        rows = tensors.array(product.src[1], np.float32)
        rows = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
        with np.errstate(over="ignore", invalid="ignore"):
            products = rows.T @ rows
        if not np.isfinite(np.diagonal(products)).all():
            raise QuenchError(
                "not_finite",
                "The model computes numbers that are not finite.",
                f"In the input of {name}.",
                "The file may be damaged; try the full-precision one.",
            )
        columns = rows.shape[1]
        entry = self.sums.get(name)
        if entry is None:
            zeros: npt.NDArray[Any] = np.zeros((columns, columns), np.float32 if columns >= WIDE else np.float64)
            entry = self.sums[name] = Covariance(zeros)
        if self.weight != 1.0:
            products *= np.float32(self.weight)
        entry.sums += products
        entry.rows += len(rows)


__all__ = ["WIDE", "Covariance", "Covariances", "Matrix", "sum_bytes"]
