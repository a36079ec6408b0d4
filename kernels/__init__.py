"""Quantize and dequantize rows of weights: the Python face of the bundled C library.

The bytes are GGUF's and equal llama.cpp's own quantizers'. Calls release the GIL and share no state, so threads may
split the rows; the bytes do not depend on how. Importing needs nothing beyond the standard library and numpy, and
loads the C library only at the first call.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels import _library
from kernels._dot import activations, dot
from kernels._feedback import DAMPING, FEEDBACK_TYPES, Feedback, feedback, quantize_with_feedback
from kernels._library import KernelError
from kernels._rows import RowDivergences, RowScorer, RowScores, compare_rows, log_softmax, score_rows

__all__ = [
    "DAMPING",
    "FEEDBACK_TYPES",
    "READABLE",
    "TYPES",
    "BlockSize",
    "Feedback",
    "KernelError",
    "RowDivergences",
    "RowScorer",
    "RowScores",
    "activations",
    "active",
    "backends",
    "bench",
    "block_size",
    "compare_rows",
    "cpu",
    "dequantize",
    "dot",
    "energy",
    "feedback",
    "library_file",
    "log_softmax",
    "note",
    "quantize",
    "quantize_with_feedback",
    "row_bytes",
    "score_rows",
    "select",
    "selftest",
    "threads_file",
]

TYPES: dict[str, int] = {
    "F32": 0,
    "F16": 1,
    "BF16": 30,
    "Q8_0": 8,
    "Q6_K": 14,
    "Q5_K": 13,
    "Q5_1": 7,
    "Q5_0": 6,
    "Q4_K": 12,
    "Q4_1": 3,
    "Q4_0": 2,
    "IQ4_NL": 20,
    "IQ4_XS": 23,
    "Q3_K": 11,
    "Q2_K": 10,
}
"""Names of the types that can be written and read, with their GGUF numbers."""

READABLE: dict[str, int] = {
    **TYPES,
    "IQ2_XXS": 16,
    "IQ2_XS": 17,
    "IQ3_XXS": 18,
    "IQ1_S": 19,
    "IQ3_S": 21,
    "IQ2_S": 22,
    "IQ1_M": 29,
    "TQ1_0": 34,
    "TQ2_0": 35,
    "MXFP4": 39,
    "NVFP4": 40,
    "Q1_0": 41,
    "Q2_0": 42,
}
"""All of :data:`TYPES`, and those that :func:`dequantize` alone knows: a GGUF file may hold them as a source."""

Source = Literal["float32", "float16", "bf16"]
Finite = Literal["error", "allow"]
Float32Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_ROW_TYPES = {"float32": (np.dtype(np.float32), 0), "float16": (np.dtype(np.float16), 1), "bf16": (np.dtype("u2"), 30)}
_chosen: str | None = None


class BlockSize(NamedTuple):
    """How many weights a block holds, and how many bytes it takes."""

    weights: int
    bytes: int


# ---- backends ----


@functools.cache
def _names() -> tuple[str, ...]:
    names: list[str] = []
    while (name := _library.library().quench_backend(len(names))) is not None:
        names.append(name.decode())
    return tuple(names)


def backends() -> list[str]:
    """Names of the implementations that this processor can run, best first. ``reference`` is always the last."""
    return list(_names())


def _index(name: str) -> int:
    try:
        return _names().index(name)
    except ValueError:
        known = ", ".join(_names())
        raise KernelError("unknown_backend", f"There is no kernel backend {name!r} here. Available: {known}.") from None


def active() -> str:
    """The backend that calls use: the selected one, else the one that ``QUENCH_KERNELS`` names, else the best.

    ``QUENCH_KERNELS=metal`` without a usable device is a ``RuntimeWarning`` with :func:`note`, and the best one.
    Raises :class:`KernelError` (``unknown_backend``) if ``QUENCH_KERNELS`` names none.
    """
    name = _chosen or os.environ.get("QUENCH_KERNELS") or _names()[0]
    if name == "metal" and name not in _names() and (reason := note()) is not None:
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return _names()[0]
    return _names()[_index(name)]


def _current(backend: str | None) -> int:
    return _index(active() if backend is None else backend)


def select(name: str | None) -> str:
    """Use the backend ``name`` from now on in this process; None goes back to the default. Returns the active name.

    Raises :class:`KernelError` (``unknown_backend``) for a name that is not in :func:`backends`; the choice stays.
    """
    global _chosen  # noqa: PLW0603 - the one setting of a process
    if name is not None:
        _index(name)
    _chosen = name
    return active()


def note() -> str | None:
    """Why a backend that the library was built with does not compute here, as a sentence; None if nothing is amiss.

    Asks a graphics device to prove itself, once, which may take a second.
    """
    text: bytes | None = _library.library().quench_note()
    return None if text is None else text.decode(errors="replace")


def library_file() -> Path:
    """The C library that is used. Raises :class:`KernelError` (``no_library``)."""
    return _library.file()


def threads_file() -> Path | None:
    """The library of threads that wait adaptively, to be loaded before the engine; None where there is none.

    It stands before GNU's OpenMP runtime for the engine's graphs (``src/threads/openmp.c``). Linux only.
    """
    return _library.threads_file()


def cpu() -> str:
    """The processor's name and, in brackets, the instruction sets that matter to the kernels."""
    text = ctypes.create_string_buffer(256)
    _library.library().quench_cpu(text, len(text))
    return text.value.decode(errors="replace")


# ---- types ----


def _type(qtype: str) -> int:
    number = READABLE.get(qtype)
    if number is None:
        raise KernelError("unknown_type", f"The kernels know no type {qtype!r}. Known: {', '.join(READABLE)}.")
    return number


def _writable(qtype: str) -> int:
    number = _type(qtype)
    if qtype not in TYPES:
        raise KernelError("read_only", f"{qtype} can be read but not written. Written are: {', '.join(TYPES)}.")
    return number


@functools.cache
def block_size(qtype: str) -> BlockSize:
    """Weights and bytes of one block of ``qtype``. Raises :class:`KernelError` (``unknown_type``)."""
    weights, size = ctypes.c_int32(), ctypes.c_int32()
    _library.library().quench_block(_type(qtype), ctypes.byref(weights), ctypes.byref(size))
    return BlockSize(weights.value, size.value)


def row_bytes(qtype: str, n_cols: int) -> int:
    """Bytes of a row of ``n_cols`` weights, which must be whole blocks: else :class:`KernelError` (``bad_shape``)."""
    block = block_size(qtype)
    if n_cols <= 0 or n_cols % block.weights:
        raise KernelError("bad_shape", f"A row of {n_cols} weights is not whole {qtype} blocks of {block.weights}.")
    return n_cols // block.weights * block.bytes


# ---- arrays ----


def _matrix(array: npt.NDArray[Any], what: str) -> tuple[int, int]:
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise KernelError("bad_array", f"{what} must be a numpy array with two dimensions.")
    if not array.dtype.isnative:
        raise KernelError("bad_array", f"{what} must have the machine's byte order.")
    return array.shape[0], array.shape[1]


def _output(out: npt.NDArray[Any] | None, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != np.dtype(dtype):
        found = f"{getattr(out, 'dtype', type(out).__name__)} {getattr(out, 'shape', '')}".strip()
        raise KernelError("bad_array", f"out must be {np.dtype(dtype)} {shape}, not {found}.")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise KernelError("bad_array", "out must be contiguous, aligned and writable.")
    return out


def _row_type(rows: npt.NDArray[Any], source: Source | None) -> int:
    if source is None:
        source = {"float32": "float32", "float16": "float16"}.get(rows.dtype.name)  # type: ignore[assignment]
        if source is None:
            hint = ' (pass source="bf16" for bfloat16 bits)' if rows.dtype.name == "uint16" else ""
            raise KernelError("bad_array", f"Rows must be float32, float16 or bfloat16, not {rows.dtype}{hint}.")
    if source not in _ROW_TYPES:
        raise KernelError("bad_array", f"source must be one of {', '.join(_ROW_TYPES)}, not {source!r}.")
    dtype, number = _ROW_TYPES[source]
    if rows.dtype != dtype:
        raise KernelError("bad_array", f"Rows with source {source!r} must be {dtype}, not {rows.dtype}.")
    return number


def _importance(importance: npt.NDArray[Any] | None, n_cols: int) -> Float32Array | None:
    if importance is None:
        return None
    if not isinstance(importance, np.ndarray) or importance.shape != (n_cols,) or importance.dtype != np.float32:
        found = f"{getattr(importance, 'dtype', type(importance).__name__)} {getattr(importance, 'shape', '')}".strip()
        raise KernelError("bad_importance", f"Importance must be float32 ({n_cols},), not {found}.")
    return np.require(importance, requirements=["C", "A"])


def _errors(squared_error: npt.NDArray[Any] | None, n_rows: int) -> int | None:
    if squared_error is None:
        return None
    usable = isinstance(squared_error, np.ndarray) and squared_error.shape == (n_rows,)
    if not usable or squared_error.dtype != np.float64 or not squared_error.flags.carray:
        raise KernelError(
            "bad_array", f"squared_error and weighted_error must be writable contiguous float64 ({n_rows},)."
        )
    return squared_error.ctypes.data


def _raise(status: int, qtype: str, report: _library.Report) -> None:
    row, column = report.row, report.column
    if status == _library.NOT_FINITE:
        message = f"The weight in row {row}, column {column} is not a finite number."
        raise KernelError("not_finite", message, row=row, column=column)
    if status == _library.OVERFLOW:
        message = f"The weights from row {row}, column {column} are too large for {qtype}'s 16-bit numbers."
        raise KernelError("overflow", message, row=row, column=column)
    if status == _library.BAD_IMPORTANCE:
        message = f"Importance must be finite and not negative; column {column} is not."
        raise KernelError("bad_importance", message, column=column)
    raise KernelError("refused", f"The kernel library refused the call with status {status}.")


# ---- the two calls ----


def quantize(
    qtype: str,
    rows: npt.NDArray[Any],
    importance: npt.NDArray[Any] | None = None,
    *,
    refined: bool = False,
    out: npt.NDArray[Any] | None = None,
    source: Source | None = None,
    finite: Finite = "error",
    squared_error: npt.NDArray[Any] | None = None,
    weighted_error: npt.NDArray[Any] | None = None,
    backend: str | None = None,
) -> Bytes:
    """Quantize rows to blocks of ``qtype``.

    ``rows``: (n_rows, n_cols) float32, float16, or uint16 holding bfloat16 bits with ``source="bf16"``; weights of a
    row are contiguous, rows may be any distance apart (a slice costs no copy). ``n_cols`` is whole blocks.
    ``importance``: float32 (n_cols,), finite and not negative: the weight of each column's squared error; Q8_0 and
    the float types do not use it. ``out``: uint8 (n_rows, row_bytes), contiguous, to be reused; it is returned.
    ``squared_error``: float64 (n_rows,) that receives each row's sum of (weight - decoded weight)^2;
    ``weighted_error``: the same with importance as the factor of each column (without importance, 1).
    ``finite="error"`` refuses NaN, infinity and weights whose block scale overflows 16 bits, by :class:`KernelError`
    with row and column; ``"allow"`` writes what comes out. ``backend`` names one for this call alone.
    ``refined`` looks, after the exact search, for blocks of the same format with a smaller squared error (weighted with
    importance, where given), and keeps the exact block unless the error drops; the bytes do not depend on the backend.
    Types without such a search are written as they are.

    Raises :class:`KernelError`: ``unknown_type``, ``read_only``, ``unknown_backend``, ``bad_shape``, ``bad_array``,
    ``bad_importance``, ``not_finite``, ``overflow``.
    """
    number = _writable(qtype)
    n_rows, n_cols = _matrix(rows, "rows")
    if finite not in ("error", "allow"):
        raise KernelError("bad_array", f"finite must be 'error' or 'allow', not {finite!r}.")
    row_type = _row_type(rows, source)
    width = row_bytes(qtype, n_cols)
    if n_rows and n_cols > 1 and rows.strides[1] != rows.itemsize:
        raise KernelError("bad_array", "The weights of a row must be contiguous; copy the array first.")
    blocks = _output(out, (n_rows, width), np.uint8)
    weights = _importance(importance, n_cols)
    errors = _errors(squared_error, n_rows)
    weighted = _errors(weighted_error, n_rows)
    if n_rows == 0:
        return blocks
    report = _library.Report()
    status = _library.library().quench_quantize(
        _current(backend),
        number,
        row_type,
        rows.ctypes.data,
        rows.strides[0],
        n_rows,
        n_cols,
        None if weights is None else weights.ctypes.data,
        (0 if finite == "error" else _library.ALLOW_NONFINITE) | (_library.REFINED if refined else 0),
        blocks.ctypes.data,
        blocks.nbytes,
        errors,
        weighted,
        ctypes.byref(report),
    )
    if status != _library.OK:
        _raise(status, qtype, report)
    return blocks


def energy(
    rows: npt.NDArray[Any],
    importance: npt.NDArray[Any] | None = None,
    *,
    source: Source | None = None,
    out: npt.NDArray[Any] | None = None,
    backend: str | None = None,
) -> npt.NDArray[np.float64]:
    """Sum of importance * weight^2 (without importance, of weight^2) of each row, float64 (n_rows,).

    What ``weighted_error`` of :func:`quantize` is a part of: the root of their ratio is the relative error. ``rows``,
    ``importance`` and ``source`` as there; a weight that is not finite gives what such sums give. ``out``: float64
    (n_rows,), contiguous; it is returned. Raises :class:`KernelError`: ``unknown_backend``, ``bad_array``,
    ``bad_importance``.
    """
    n_rows, n_cols = _matrix(rows, "rows")
    row_type = _row_type(rows, source)
    if n_rows and n_cols > 1 and rows.strides[1] != rows.itemsize:
        raise KernelError("bad_array", "The weights of a row must be contiguous; copy the array first.")
    weights = _importance(importance, n_cols)
    sums: npt.NDArray[np.float64] = _output(out, (n_rows,), np.float64)
    if n_rows == 0:
        return sums
    status = _library.library().quench_energy(
        _current(backend),
        row_type,
        rows.ctypes.data,
        rows.strides[0],
        n_rows,
        n_cols,
        None if weights is None else weights.ctypes.data,
        sums.ctypes.data,
    )
    if status != _library.OK:
        _raise(status, "rows", _library.Report())
    return sums


def dequantize(
    qtype: str,
    blocks: npt.NDArray[Any],
    n_cols: int,
    *,
    out: npt.NDArray[Any] | None = None,
    backend: str | None = None,
) -> Float32Array:
    """Decode blocks to float32 (n_rows, n_cols).

    ``blocks``: uint8 (n_rows, row_bytes(qtype, n_cols)), contiguous; any bytes are accepted. ``out``: float32
    (n_rows, n_cols), contiguous, to be reused; it is returned. ``backend`` names one for this call alone.
    Raises :class:`KernelError`: ``unknown_type``, ``unknown_backend``, ``bad_shape``, ``bad_array``.
    """
    number = _type(qtype)
    n_rows, found = _matrix(blocks, "blocks")
    width = row_bytes(qtype, n_cols)
    if blocks.dtype != np.uint8 or found != width or not blocks.flags.c_contiguous:
        message = f"{qtype} blocks of {n_cols} columns must be contiguous uint8 ({n_rows}, {width})"
        raise KernelError("bad_array", f"{message}, not {blocks.dtype} {blocks.shape}.")
    values = _output(out, (n_rows, n_cols), np.float32)
    if n_rows == 0:
        return values
    status = _library.library().quench_dequantize(
        _current(backend), number, blocks.ctypes.data, blocks.nbytes, n_rows, n_cols, values.ctypes.data, values.nbytes
    )
    if status != _library.OK:
        _raise(status, qtype, _library.Report())
    return values


# ---- checks on the user's machine ----


def selftest(backend: str | None = None) -> list[dict[str, Any]]:
    """Compare every backend (or the one named) with the reference, and the reference with llama.cpp's checksums.

    ``[{"kernel", "type", "backend", "passed", "detail"}]``; ``detail`` names the first data that came out wrong. Takes
    a second or two. Raises :class:`KernelError` (``unknown_backend``).
    """
    from kernels import _selftest

    if backend is not None:
        _index(backend)
    return _selftest.run(backend)


def bench(
    types: Sequence[str] | None = None,
    *,
    oracle: str | None = None,
    repeats: int = 15,
    samples: Mapping[str, Float32Array] | None = None,
    on_step: Callable[[str, int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Time every backend on one thread and, where the system allows it, one core; rows of ``quench kernels bench``.

    ``[{"kernel", "type", "backend", "data", "weights", "gigabytes_per_second", "million_weights_per_second",
    "oracle_ratio"}]``: medians of ``repeats`` runs, taking turns, on ``weights`` weights; gigabytes are those read and
    written (for dot the blocks alone). ``oracle`` is the path of the engine's ``libggml-base``: ``oracle_ratio`` is its
    time over ours for the same rows, for refined blocks its exact ones; None without it and for dot.
    ``samples``: rows float32 (n, 4096) beside the gaussian ones, by what to call them. ``on_step`` hears what is timed,
    and how many of how many steps are done.
    Raises :class:`KernelError`: ``unknown_type``, ``read_only``, ``no_oracle``.
    """
    from kernels import _bench

    for qtype in types or ():
        _writable(qtype)
    heard = on_step or (lambda label, done, total: None)
    return _bench.run(types, oracle=oracle, repeats=repeats, samples=samples or {}, on_step=heard)
