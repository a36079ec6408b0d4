"""The engine's tensors from outside: a mirror of ``struct ggml_tensor``, checked against the library before it is used.

The library has no functions for a tensor's operation, sources, sizes and strides, which an eval callback needs. The
layout is that of the pinned version (ggml.h); :func:`check` builds tensors with the library itself and compares every
field that is read, so another layout is a refusal in words and never a wrong number.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.bindings import lib
from converter.spec import QuenchError

_DIMS, _SOURCES, _NAME = 4, 10, 64
F32, I32 = 0, 26
"""Numbers of ``enum ggml_type``."""

_OBJECT_BYTES = 32
"""What the library adds to a tensor in a context's memory (``struct ggml_object``)."""


class Tensor(ctypes.Structure):
    """``struct ggml_tensor``: ``ne`` elements and ``nb`` bytes of stride by dimension, the innermost first."""


Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * _DIMS),
    ("nb", ctypes.c_size_t * _DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * _SOURCES),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _NAME),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
)

Pointer = Any  # ctypes.POINTER(Tensor), which has no static type


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@functools.cache
def functions() -> Any:
    """The functions of ggml, found through the engine's own library: another load could be a second copy of it."""
    engine = lib._lib
    pointer, tensor = ctypes.c_void_p, ctypes.POINTER(Tensor)
    i64, size = ctypes.c_int64, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_init": (pointer, [_InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_2d": (tensor, [pointer, ctypes.c_int, i64, i64]),
        "ggml_new_tensor_3d": (tensor, [pointer, ctypes.c_int, i64, i64, i64]),
        "ggml_mul_mat": (tensor, [pointer, tensor, tensor]),
        "ggml_mul_mat_id": (tensor, [pointer, tensor, tensor, tensor]),
        "ggml_get_rows": (tensor, [pointer, tensor, tensor]),
        "ggml_add": (tensor, [pointer, tensor, tensor]),
        "ggml_view_2d": (tensor, [pointer, tensor, i64, i64, size, size]),
        "ggml_set_name": (tensor, [tensor, ctypes.c_char_p]),
        "ggml_get_name": (ctypes.c_char_p, [tensor]),
        "ggml_get_data": (pointer, [tensor]),
        "ggml_nbytes": (size, [tensor]),
        "ggml_nrows": (i64, [tensor]),
        "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
        "ggml_tensor_overhead": (size, []),
        "ggml_backend_buffer_is_host": (ctypes.c_bool, [pointer]),
        "ggml_backend_tensor_get": (None, [tensor, pointer, size, size]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(engine, name)
        function.restype, function.argtypes = result, arguments
    return engine


def _unknown(detail: str) -> QuenchError:
    return QuenchError(
        "engine_changed",
        "The engine's tensors are laid out in another way.",
        detail,
        "Install the version of llama-cpp-python that Quench is made for.",
    )


@functools.cache
def check() -> tuple[int, int]:
    """The numbers of the operations MUL_MAT and MUL_MAT_ID. ``QuenchError`` ``engine_changed`` for another layout."""
    try:
        library = functions()
    except AttributeError as error:
        raise _unknown(str(error)) from error
    expected = ctypes.sizeof(Tensor) + _OBJECT_BYTES
    if library.ggml_tensor_overhead() != expected:
        raise _unknown(f"A tensor takes {library.ggml_tensor_overhead()} bytes, not {expected}.")
    context = library.ggml_init(_InitParams(1 << 16, None, False))
    try:
        problem = _compare(library, context)
        if problem:
            raise _unknown(problem)
        weight = library.ggml_new_tensor_2d(context, F32, 32, 8)
        rows = library.ggml_new_tensor_2d(context, F32, 32, 16)
        experts = library.ggml_new_tensor_3d(context, F32, 32, 8, 4)
        spread = library.ggml_new_tensor_3d(context, F32, 32, 1, 16)
        ids = library.ggml_new_tensor_2d(context, I32, 2, 16)
        plain = library.ggml_mul_mat(context, weight, rows)
        indirect = library.ggml_mul_mat_id(context, experts, spread, ids)
        for product, sources in ((plain, (weight, rows)), (indirect, (experts, spread, ids))):
            if [_address(product[0].src[i]) for i in range(len(sources))] != [_address(source) for source in sources]:
                raise _unknown("The sources of a product are not where they should be.")
        names = [library.ggml_op_name(product[0].op) for product in (plain, indirect)]
        if names != [b"MUL_MAT", b"MUL_MAT_ID"]:
            raise _unknown(f"Products are called {names}.")
        return int(plain[0].op), int(indirect[0].op)
    finally:
        library.ggml_free(context)


def no_memory(size: int) -> Any:
    """Parameters for ``ggml_init``: a context of ``size`` bytes for tensors whose numbers lie elsewhere."""
    return _InitParams(size, None, True)


@functools.cache
def lookup() -> int:
    """The number of the operation GET_ROWS, which takes rows of a matrix by their numbers."""
    return _operation("GET_ROWS", [(F32, 32, 8), (I32, 4, 1)])


@functools.cache
def addition() -> int:
    """The number of the operation ADD."""
    return _operation("ADD", [(F32, 32, 8), (F32, 32, 8)])


def _operation(name: str, shapes: list[tuple[int, int, int]]) -> int:
    """Its number in the library, as seen when it is applied to tensors of these types and shapes.

    QuenchError if that is another operation, or if it has its sources elsewhere.
    """
    check()
    library = functions()
    context = library.ggml_init(_InitParams(1 << 14, None, False))
    try:
        sources = [library.ggml_new_tensor_2d(context, *shape) for shape in shapes]
        found = getattr(library, f"ggml_{name.lower()}")(context, *sources)[0]
        if library.ggml_op_name(found.op) != name.encode() or any(
            _address(found.src[number]) != _address(source) for number, source in enumerate(sources)
        ):
            raise _unknown(f"{name} is done in another way.")
        return int(found.op)
    finally:
        library.ggml_free(context)


def in_memory(pointer: Pointer) -> bool:
    """Whether a tensor's numbers lie in the process's own memory."""
    return bool(functions().ggml_backend_buffer_is_host(pointer[0].buffer))


def _address(tensor: Pointer) -> int | None:
    return ctypes.cast(tensor, ctypes.c_void_p).value


def _compare(library: Any, context: Any) -> str:
    """What differs between a tensor that the library made and its mirror; empty if nothing does."""
    whole = library.ggml_new_tensor_3d(context, F32, 40, 6, 3)
    library.ggml_set_name(whole, b"CPU#blk.0.name#0")
    part = library.ggml_view_2d(context, whole, 8, 5, 40 * 4, 64)
    found, view = whole[0], part[0]
    facts = {
        "type": (found.type, F32),
        "sizes": (tuple(found.ne), (40, 6, 3, 1)),
        "strides": (tuple(found.nb), (4, 160, 960, 2880)),
        "name": (found.name, library.ggml_get_name(whole)),
        "data": (found.data, library.ggml_get_data(whole)),
        "bytes": (found.ne[0] * found.ne[1] * found.ne[2] * 4, library.ggml_nbytes(whole)),
        "rows": (found.ne[1] * found.ne[2], library.ggml_nrows(whole)),
        "view": (_address(view.view_src), _address(whole)),
        "offset": (view.view_offs, 64),
        "view's strides": (tuple(view.nb)[:2], (4, 160)),
        "view's data": (view.data, found.data + 64),
    }
    return " ".join(f"{name}: {mine!r}, not {true!r}." for name, (mine, true) in facts.items() if mine != true)


def array(pointer: Pointer, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A tensor's numbers, outermost dimension first, as they lie in memory (strides kept; a view where it can be).

    The array must not outlive the callback. From a device's own memory the bytes are copied first.
    """
    tensor = pointer[0]
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    library = functions()
    if library.ggml_backend_buffer_is_host(tensor.buffer):
        # The strided span, end to end: enough for a view of anything inside it.
        span = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
        memory: Any = (ctypes.c_ubyte * span).from_address(tensor.data)
    else:
        memory = (ctypes.c_ubyte * library.ggml_nbytes(pointer))()
        library.ggml_backend_tensor_get(pointer, memory, 0, len(memory))
    return np.ndarray(shape, dtype, memory, 0, strides)


__all__ = [
    "F32",
    "I32",
    "Pointer",
    "Tensor",
    "addition",
    "array",
    "check",
    "functions",
    "in_memory",
    "lookup",
    "no_memory",
]
