"""What goes into a model's matrices: sums of squared activations, gathered by the engine's eval callback.

The same numbers as llama-imatrix's, to the last bit: each column's squares are added row by row in single precision,
one row after the other, experts in the order in which the tool walks them (first choice of all tokens, then second).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.engine import tensors
from app.engine.native import lib
from converter.spec import QuenchError

Floats = npt.NDArray[np.float32]

_FEWEST_ROWS = 16
"""Smaller products are passed over, as the tool does: they are not the text's but the engine's own."""

_OUTPUT = "output.weight"


class Watcher(Protocol):
    """What a context shows its operations to: a ``ggml_backend_sched_eval_callback``."""

    callback: Any


@dataclass
class Sums:
    """Of one matrix, or of a stack of experts: ``squares`` float32 (matrices, columns), ``counts`` int64 of rows.

    ``counts`` has one number for plain matrices and one an expert for stacks that are reached through a router.
    """

    squares: Floats
    counts: npt.NDArray[np.int64]


@dataclass
class Capture:
    """Give :attr:`callback` to a context; after each decode call :meth:`check`, then read :attr:`sums`.

    A decode call that was interrupted has added a part of its rows: :meth:`take_back` forgets them.

    ``output``: also the output matrix. The callback runs inside native code, where nothing may be raised: an error is
    kept, everything after it is ignored, and :meth:`check` raises it.
    """

    output: bool = False
    sums: dict[str, Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._plain, self._indirect = tensors.check()
        self._error: BaseException | None = None
        self._squared: tuple[int, Floats] | None = None
        self._before: dict[str, Sums | None] = {}
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._receive)

    def check(self) -> None:
        """Keep what was added, or raise what went wrong. ``QuenchError`` ``not_finite`` for NaN or infinity."""
        self._squared = None
        self._before.clear()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def take_back(self) -> None:
        """Make :attr:`sums` what they were at the last :meth:`check`."""
        self._squared = None
        for name, before in self._before.items():
            if before is None:
                del self.sums[name]
            else:
                self.sums[name] = before
        self._before.clear()

    def _receive(self, address: int, ask: bool, _data: int | None) -> bool:
        if self._error is not None:
            return not ask
        try:
            tensor = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))[0]
            if ask:
                return self._wants(tensor)
            if tensor.op == self._indirect:
                self._add_experts(tensor)
            else:
                self._add(tensor)
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; check() raises it
            self._error = error
        return True

    def _wants(self, tensor: tensors.Tensor) -> bool:
        if tensor.op == self._indirect:
            return True
        if tensor.op != self._plain:
            return False
        rows = tensor.src[1][0]
        if rows.type != tensors.F32 or rows.ne[1] < _FEWEST_ROWS:
            return False
        name = bare_name(tensor.src[0][0].name)
        return name.startswith("blk.") or (self.output and name == _OUTPUT)

    def _add(self, product: tensors.Tensor) -> None:
        weight, name = product.src[0][0], bare_name(product.src[0][0].name)
        squares = self._squares(product.src[1])
        inner, outer = weight.ne[2], weight.ne[3]
        columns = squares.shape[-1]
        entry = self._entry(name, inner * outer, columns, 1)
        for i3 in range(squares.shape[0]):
            for i2 in range(squares.shape[1]):
                total = entry.squares[(i3 % outer) * inner + i2 % inner]
                total[:] = _added(total, squares[i3, i2])
        _check_finite(name, entry.squares)
        rows = squares.shape[0] * squares.shape[1] * squares.shape[2]
        entry.counts += rows // (inner * outer)

    def _add_experts(self, product: tensors.Tensor) -> None:
        name = bare_name(product.src[0][0].name)
        experts = int(product.src[0][0].ne[2])
        activations = tensors.array(product.src[1], np.float32)[0]  # (tokens, choices or 1, columns)
        chosen = tensors.array(product.src[2], np.int32)[0, 0]  # (tokens, choices)
        entry = self._entry(name, experts, activations.shape[-1], experts)
        for choice in range(chosen.shape[1]):
            rows = activations[:, choice % activations.shape[1]]
            for expert in np.unique(chosen[:, choice]).tolist():
                if not 0 <= expert < experts:
                    raise QuenchError("engine_changed", "The engine chose an expert that is not there.", name, "")
                mine = rows[chosen[:, choice] == expert]
                entry.squares[expert] = _added(entry.squares[expert], mine * mine)
                entry.counts[expert] += len(mine)
        _check_finite(name, entry.squares)

    def _squares(self, rows: tensors.Pointer) -> Floats:
        """Squared activations. Queries, keys and values share theirs: the last are kept within a decode call."""
        address = ctypes.addressof(rows[0])
        if self._squared is None or self._squared[0] != address:
            values: Floats = tensors.array(rows, np.float32)
            self._squared = (address, values * values)
        return self._squared[1]

    def _entry(self, name: str, matrices: int, columns: int, counts: int) -> Sums:
        entry = self.sums.get(name)
        if name not in self._before:
            self._before[name] = None if entry is None else Sums(entry.squares.copy(), entry.counts.copy())
        if entry is None:
            entry = Sums(np.zeros((matrices, columns), np.float32), np.zeros(counts, np.int64))
            self.sums[name] = entry
        if entry.squares.size == matrices * columns:
            entry.squares = entry.squares.reshape(matrices, columns)
        else:
            raise QuenchError(
                "bad_imatrix",
                "The importance matrix to go on with is another model's.",
                f"{name} has {entry.squares.shape}, the model {(matrices, columns)}.",
                "Start a new one.",
            )
        if entry.counts.size != counts:
            # A single count stands for all experts in files of the older format.
            entry.counts = np.full(counts, entry.counts.max(), np.int64)
        return entry


def _added(total: Floats, squares: Floats) -> Floats:
    """``total`` plus the rows of ``squares`` (not used again by the caller where it has one row), in order."""
    if not len(squares):
        return total
    # numpy adds along the first axis row after row, which is the order that the figures are defined by.
    result: Floats = np.add.reduce(np.concatenate([total[None], squares]), axis=0)
    return result


def _check_finite(name: str, squares: Floats) -> None:
    if not np.isfinite(squares).all():
        raise QuenchError(
            "not_finite",
            "The model computes numbers that are not finite.",
            f"In the input of {name}.",
            "The file may be damaged; try the full-precision one.",
        )


def bare_name(name: bytes) -> str:
    """``blk.0.attn_k.weight`` of ``CUDA0#blk.0.attn_k.weight#0``, which is what a copy on a device is called."""
    text = name.decode("utf-8", "replace")
    return text.split("#")[1] if "#" in text else text


__all__ = ["Capture", "Sums", "Watcher", "bare_name"]
