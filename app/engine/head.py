"""The last step of a model, apart from it: from the final hidden states to the logits, by the engine's own arithmetic.

A :class:`HeadCapture` watches the graph of a model that computes: it keeps what goes into the product with the output
matrix, and reads from the graph itself what is done to the product afterwards (a bias, scaling, soft-capping). A
:class:`Head` does the same to kept states, without the model. The graph is the authority, not the metadata: whatever
stands in it that is not known here is an error, never a wrong number.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from app.engine import native, tensors
from app.engine.capture import bare_name
from app.engine.native import lib
from converter.spec import QuenchError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MATRICES: Final = ("output.weight", "token_embd.weight")
"""What an output matrix is called; the second where the embedding serves as one."""

MAX_STEPS: Final = 8
_ALIGNMENT: Final = 32
_CPU: Final = 0  # enum ggml_backend_dev_type


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
    """The functions that a small graph needs, on top of those of :mod:`app.engine.tensors`."""
    library = tensors.functions()
    pointer, tensor = ctypes.c_void_p, ctypes.POINTER(tensors.Tensor)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_unary_op_name": (ctypes.c_char_p, [ctypes.c_int]),
        "ggml_new_tensor_1d": (tensor, [pointer, ctypes.c_int, ctypes.c_int64]),
        "ggml_scale_inplace": (tensor, [pointer, tensor, ctypes.c_float]),
        "ggml_tanh_inplace": (tensor, [pointer, tensor]),
        "ggml_add_inplace": (tensor, [pointer, tensor, tensor]),
        "ggml_new_graph": (pointer, [pointer]),
        "ggml_graph_overhead": (ctypes.c_size_t, []),
        "ggml_build_forward_expand": (None, [pointer, tensor]),
        "ggml_backend_init_by_type": (pointer, [ctypes.c_int, ctypes.c_char_p]),
        "ggml_backend_free": (None, [pointer]),
        "ggml_backend_get_device": (pointer, [pointer]),
        "ggml_backend_dev_backend_reg": (pointer, [pointer]),
        "ggml_backend_reg_get_proc_address": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_backend_cpu_buffer_from_ptr": (pointer, [pointer, ctypes.c_size_t]),
        "ggml_backend_buffer_free": (None, [pointer]),
        "ggml_backend_tensor_alloc": (ctypes.c_int, [pointer, tensor, pointer]),
        "ggml_backend_view_init": (ctypes.c_int, [tensor]),
        "ggml_backend_graph_compute": (ctypes.c_int, [pointer, pointer]),
        "ggml_row_size": (ctypes.c_size_t, [ctypes.c_int, ctypes.c_int64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def aligned(size: int) -> Bytes:
    """``size`` bytes of memory at a place that the engine takes."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size]


class Head:
    """Products of hidden states with one output matrix, on the processor.

    ``matrix``: its bytes, uint8, as the GGUF file has them (a map of the file will do); kept as long as this object.
    """

    def __init__(self, shape: Shape, matrix: Bytes, steps: tuple[Step, ...], bias: Floats | None, threads: int) -> None:
        native.start()
        library = _library()
        size = library.ggml_row_size(shape.type, shape.width) * shape.vocabulary
        if matrix.nbytes != size:
            raise ValueError(f"{matrix.nbytes} bytes are not a matrix of {size}")
        self.shape, self.steps = shape, steps
        flat = matrix.reshape(-1)
        if flat.ctypes.data % _ALIGNMENT:
            self._matrix = aligned(size)
            self._matrix[:] = flat
        else:
            self._matrix = flat
        self._bias: Bytes | None = None
        if bias is not None:
            self._bias = aligned(4 * shape.vocabulary)
            self._bias.view(np.float32)[:] = bias
        self._backend = library.ggml_backend_init_by_type(_CPU, None)
        if not self._backend:
            raise unknown("The engine has no processor to compute on.")
        registry = library.ggml_backend_dev_backend_reg(library.ggml_backend_get_device(self._backend))
        set_threads = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        if set_threads:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(set_threads)(self._backend, threads)

    def logits(self, states: Floats) -> Floats:
        """Logits of ``states`` float32 (n, width): float32 (n, vocabulary), owned by the caller."""
        library, shape = _library(), self.shape
        if states.ndim != 2 or states.shape[1] != shape.width:
            raise ValueError(f"states {states.shape} for a matrix of width {shape.width}")
        count = len(states)
        given, result = aligned(4 * states.size), aligned(4 * count * shape.vocabulary)
        given.view(np.float32)[:] = states.reshape(-1)
        memory = (8 + len(self.steps)) * ctypes.sizeof(tensors.Tensor) * 2 + library.ggml_graph_overhead() + 4096
        context = library.ggml_init(tensors.no_memory(memory))
        buffers: list[Any] = []

        def place(tensor: Any, data: Bytes) -> None:
            buffer = library.ggml_backend_cpu_buffer_from_ptr(data.ctypes.data, data.nbytes)
            buffers.append(buffer)
            library.ggml_backend_tensor_alloc(buffer, tensor, data.ctypes.data)

        try:
            weight = library.ggml_new_tensor_2d(context, shape.type, shape.width, shape.vocabulary)
            rows = library.ggml_new_tensor_2d(context, tensors.F32, shape.width, count)
            product = library.ggml_mul_mat(context, weight, rows)
            for tensor, data in ((weight, self._matrix), (rows, given), (product, result)):
                place(tensor, data)
            last = product
            for step in self.steps:
                if step.kind == "scale":
                    last = library.ggml_scale_inplace(context, last, step.factor)
                elif step.kind == "tanh":
                    last = library.ggml_tanh_inplace(context, last)
                else:
                    assert self._bias is not None
                    bias = library.ggml_new_tensor_1d(context, tensors.F32, shape.vocabulary)
                    place(bias, self._bias)
                    last = library.ggml_add_inplace(context, last, bias)
                library.ggml_backend_view_init(last)
            graph = library.ggml_new_graph(context)
            library.ggml_build_forward_expand(graph, last)
            if library.ggml_backend_graph_compute(self._backend, graph) != 0:
                raise RuntimeError("the engine did not compute the product")
        finally:
            for buffer in buffers:
                library.ggml_backend_buffer_free(buffer)
            library.ggml_free(context)
        return result.view(np.float32).reshape(count, shape.vocabulary)

    def close(self) -> None:
        """Give the engine's part back; closing twice is no error."""
        if self._backend:
            _library().ggml_backend_free(self._backend)
            self._backend = None


__all__ = ["MATRICES", "Head", "HeadCapture", "Shape", "Step", "aligned", "unknown"]
