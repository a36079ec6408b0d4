"""Dot products of quantized rows with a vector of floats, as the engine computes them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from kernels import _library
from kernels._library import KernelError

_ALIGNMENT = 64


def _vector(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if not isinstance(x, np.ndarray) or x.ndim != 1 or x.dtype != np.float32:
        found = f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}".strip()
        raise KernelError("bad_array", f"x must be a float32 vector, not {found}.")
    return np.require(x, requirements=["C", "A"])


def _activation_size(qtype: str, n_cols: int) -> int:
    size = ctypes.c_size_t()
    if _library.library().quench_activations_size(kernels.READABLE[qtype], n_cols, ctypes.byref(size)) != _library.OK:
        raise KernelError("no_dot", f"Rows of {qtype} can be decoded but not multiplied as they are.")
    return size.value


def _prepared(qtype: str, x: npt.NDArray[Any], n_cols: int) -> npt.NDArray[np.uint8]:
    size = _activation_size(qtype, n_cols) if n_cols else 0
    if x.shape != (size,) or not x.flags.c_contiguous or x.ctypes.data % _ALIGNMENT:
        message = f"Activations for {qtype} rows of {n_cols} columns are what kernels.activations returns: {size} bytes"
        raise KernelError("bad_array", f"{message}, not {x.shape}.")
    return x


def activations(qtype: str, x: npt.NDArray[np.float32], *, backend: str | None = None) -> npt.NDArray[np.uint8]:
    """The vector as :func:`dot` multiplies rows of ``qtype`` with it: quantized, once for any number of rows.

    ``x``: float32 (n_cols,), finite; ``n_cols`` is whole blocks of ``qtype``. Super-blocks go with Q8_K, the types with
    blocks of 32 with Q8_0 or Q8_1, F32, F16 and BF16 with the floats themselves. The bytes' layout is private to this
    version. Raises :class:`KernelError`: ``unknown_type``, ``no_dot``, ``bad_shape``, ``bad_array``, ``not_finite``
    (with the column).
    """
    vector = _vector(x)
    kernels.row_bytes(qtype, vector.size)
    size = _activation_size(qtype, vector.size)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    planes = buffer[start : start + size]
    report = _library.Report()
    status = _library.library().quench_activations(
        kernels._current(backend),
        kernels.READABLE[qtype],
        vector.ctypes.data,
        vector.size,
        planes.ctypes.data,
        planes.nbytes,
        ctypes.byref(report),
    )
    if status == _library.NOT_FINITE:
        message = f"The value in column {report.column} of x is not a finite number."
        raise KernelError("not_finite", message, column=report.column)
    if status != _library.OK:
        raise KernelError("refused", f"The kernel library refused the call with status {status}.")
    return planes


def dot(
    qtype: str,
    blocks: npt.NDArray[np.uint8],
    x: npt.NDArray[np.float32] | npt.NDArray[np.uint8],
    *,
    out: npt.NDArray[np.float32] | None = None,
    backend: str | None = None,
) -> npt.NDArray[np.float32]:
    """Dot products of rows of blocks with ``x``: float32 (n_rows,), a matrix times a vector.

    ``blocks``: uint8 (n_rows, row_bytes(qtype, n_cols)), contiguous. ``x``: float32 (n_cols,), finite; it is quantized
    first, as the engine does, so the result carries that rounding too: about 0.4 % of the products' size, not of the
    sum. Where one vector meets several matrices or threads, pass what :func:`activations` returns instead. ``out``:
    float32 (n_rows,), contiguous, to be reused; it is returned. The result does not depend on the backend, nor on how
    rows are split over calls. ``backend`` names one for this call alone.

    Raises :class:`KernelError`: ``unknown_type``, ``unknown_backend``, ``no_dot``, ``bad_shape``, ``bad_array``,
    ``not_finite`` (with the column).
    """
    block = kernels.block_size(qtype)
    if (
        not isinstance(blocks, np.ndarray)
        or blocks.dtype != np.uint8
        or blocks.ndim != 2
        or not blocks.flags.c_contiguous
    ):
        found = f"{getattr(blocks, 'dtype', type(blocks).__name__)} {getattr(blocks, 'shape', '')}".strip()
        raise KernelError("bad_array", f"blocks must be contiguous uint8 with two dimensions, not {found}.")
    n_rows, width = blocks.shape
    n_cols = width // block.bytes * block.weights
    if isinstance(x, np.ndarray) and x.dtype == np.uint8:
        planes = _prepared(qtype, x, n_cols)
    else:
        vector = _vector(x)
        n_cols = vector.size
        planes = activations(qtype, vector, backend=backend)
    if width == 0 or width != kernels.row_bytes(qtype, n_cols):
        raise KernelError("bad_array", f"Rows of {width} bytes are not {n_cols} weights of {qtype}.")
    sums: npt.NDArray[np.float32] = kernels._output(out, (n_rows,), np.float32)
    index = kernels._current(backend)
    if n_rows == 0:
        return sums
    status = _library.library().quench_dot(
        index,
        kernels.READABLE[qtype],
        blocks.ctypes.data,
        blocks.nbytes,
        n_rows,
        n_cols,
        planes.ctypes.data,
        planes.nbytes,
        sums.ctypes.data,
        sums.nbytes,
    )
    if status != _library.OK:
        raise KernelError("refused", f"The kernel library refused the call with status {status}.")
    return sums
