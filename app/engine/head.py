"""The last step of a model, apart from it: from the final hidden states to the logits.

A :class:`HeadCapture` watches the graph of a model that computes: it keeps what goes into the product with the output
matrix, and reads from the graph itself what is done to the product afterwards (a bias, scaling, soft-capping). A
:class:`Head` does the same to kept states, without the model. The graph is the authority, not the metadata: whatever
stands in it that is not known here is an error, never a wrong number.
"""

from __future__ import annotations

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

import kernels
from app.engine import tensors
from app.engine.capture import bare_name
from app.engine.native import lib
from converter.spec import QuenchError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MATRICES: Final = ("output.weight", "token_embd.weight")
"""What an output matrix is called; the second where the embedding serves as one."""

MAX_STEPS: Final = 8
_BLOCK: Final = 1 << 20
"""Weights that are decoded at a time: 4 MiB."""


class Step(msgspec.Struct, frozen=True):
    """One thing that is done to the logits: ``scale`` (times ``factor``), ``tanh``, or ``bias`` (plus the head's)."""

    kind: str
    factor: float = 1.0


class Shape(msgspec.Struct, frozen=True):
    """An output matrix: ``vocabulary`` rows of ``width`` weights of the GGML type number ``type``, called ``name``."""

    name: str
    type: int
    width: int
    vocabulary: int


def unknown(detail: str) -> QuenchError:
    return QuenchError(
        "unknown_head",
        "This model's answers cannot be saved in a small file.",
        detail,
        "Measure with the model itself as the reference.",
    )


class HeadCapture:
    """Give :attr:`callback` to a context; after each decode call :meth:`take` what went into the output matrix.

    Only what is decoded while :attr:`on` is kept. ``shape``, ``steps`` and ``bias`` (float32 (vocabulary,) or None)
    are known after the first such call.
    """

    def __init__(self) -> None:
        tensors.check()
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._receive)
        self.on = False
        self.shape: Shape | None = None
        self.steps: tuple[Step, ...] = ()
        self.bias: Floats | None = None
        self._rows: list[Floats] = []
        self._found: list[Step] = []
        self._last = 0
        self._error: BaseException | None = None

    def take(self) -> Floats:
        """The states of the wanted positions since the last call, float32 (n, width), owned by the caller.

        Raises:
            QuenchError: ``unknown_head``: the graph ends in another way; ``engine_changed``.
        """
        error, self._error = self._error, None
        rows, self._rows = self._rows, []
        self._last = 0
        if error is not None:
            raise error
        if not rows:
            raise unknown("Its last step is no product with an output matrix.")
        self.steps = tuple(self._found)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _receive(self, address: int, ask: bool, _data: int | None) -> bool:
        if not self.on or self._error is not None:
            return not ask
        try:
            tensor = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))[0]
            if not ask:
                if tensor.src[1][0].ne[1]:
                    self._rows.append(tensors.array(tensor.src[1], np.float32)[0, 0].copy())
                return True
            return self._asked(tensor, address)
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; take() raises it
            self._error = error
        return not ask

    def _asked(self, tensor: tensors.Tensor, address: int) -> bool:
        """Whether this is the product; what comes after it is written down on the way."""
        plain, _ = tensors.check()
        if tensor.op == plain and bare_name(tensor.src[0][0].name) in MATRICES:
            weight, rows = tensor.src[0][0], tensor.src[1][0]
            if rows.type != tensors.F32 or rows.ne[2] * rows.ne[3] != 1 or weight.ne[2] * weight.ne[3] != 1:
                raise unknown("The product with the output matrix has more than two dimensions.")
            self.shape = Shape(bare_name(weight.name), weight.type, weight.ne[0], weight.ne[1])
            self._last, self._found = address, []
            return True
        if self._last and tensor.src[0] and ctypes.addressof(tensor.src[0][0]) == self._last:
            self._found.append(self._step(tensor))
            if len(self._found) > MAX_STEPS:
                raise unknown("Too much is done to the logits.")
            self._last = address
        return False

    def _step(self, tensor: tensors.Tensor) -> Step:
        name = _library().ggml_op_name(tensor.op).decode()
        assert self.shape is not None
        if name == "SCALE":
            factor, shift = np.frombuffer(bytes(tensor.op_params), np.float32)[:2].tolist()
            if shift == 0.0:
                return Step("scale", factor)
        elif name == "UNARY" and _library().ggml_unary_op_name(tensor.op_params[0]) == b"TANH":
            return Step("tanh")
        elif name == "ADD" and not any(step.kind == "bias" for step in self._found):
            other = tensor.src[1][0]
            if other.type == tensors.F32 and tuple(other.ne) == (self.shape.vocabulary, 1, 1, 1):
                self.bias = tensors.array(tensor.src[1], np.float32).reshape(-1).copy()
                return Step("bias")
        raise unknown(f"The engine does {name} to the logits, which is not known here.")


# ---- the product -----------------------------------------------------------------------------------------------


@functools.cache
def _library() -> Any:
    """The functions that tell what a step of the graph is, on top of those of :mod:`app.engine.tensors`."""
    library = tensors.functions()
    for name in ("ggml_op_name", "ggml_unary_op_name"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_int]
    return library


class Head:
    """Products of hidden states with one output matrix, on the processor, in float32.

    States that are what the engine makes of its input (:mod:`app.quality.codings`) give its logits up to the order in
    which float32 numbers are added. A block of weights at a time is decoded and multiplied by numpy's BLAS, which takes
    half the time of the engine's own product with 16-bit weights.

    ``matrix``: its bytes, uint8, as the GGUF file has them (a map of the file will do); kept as long as this object.
    """

    def __init__(self, shape: Shape, matrix: Bytes, steps: tuple[Step, ...], bias: Floats | None, threads: int) -> None:
        types = {number: name for name, number in kernels.READABLE.items()}
        if shape.type not in types:
            raise unknown(f"Its matrix is of the type {shape.type}, which is not known here.")
        size = kernels.row_bytes(types[shape.type], shape.width) * shape.vocabulary
        if matrix.nbytes != size:
            raise ValueError(f"{matrix.nbytes} bytes are not a matrix of {size}")
        self.shape, self.steps = shape, steps
        self._type = types[shape.type]
        self._matrix: Bytes | None = matrix.reshape(shape.vocabulary, -1)
        self._bias = bias
        self._pool = ThreadPoolExecutor(max(1, threads), "product")

    def logits(self, states: Floats) -> Floats:
        """Logits of ``states`` float32 (n, width): float32 (n, vocabulary), owned by the caller."""
        shape = self.shape
        if states.ndim != 2 or states.shape[1] != shape.width:
            raise ValueError(f"states {states.shape} for a matrix of width {shape.width}")
        result = np.empty((len(states), shape.vocabulary), np.float32)
        step = max(1, _BLOCK // shape.width)
        starts = range(0, shape.vocabulary, step)
        for done in [self._pool.submit(self._block, states, result[:, at : at + step], at) for at in starts]:
            done.result()
        return result

    def _block(self, states: Floats, out: Floats, at: int) -> None:
        """The columns of the logits from ``at`` on."""
        assert self._matrix is not None
        weights = kernels.dequantize(self._type, self._matrix[at : at + out.shape[1]], self.shape.width)
        np.matmul(states, weights.T, out=out)
        for step in self.steps:
            if step.kind == "scale":
                out *= np.float32(step.factor)
            elif step.kind == "tanh":
                np.tanh(out, out=out)
            else:
                assert self._bias is not None
                out += self._bias[at : at + out.shape[1]]

    def close(self) -> None:
        """Let go of the matrix; closing twice is no error."""
        self._pool.shutdown()
        self._matrix = None


__all__ = ["MATRICES", "Head", "HeadCapture", "Shape", "Step", "unknown"]
