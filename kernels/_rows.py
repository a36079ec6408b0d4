"""Rows of logits: what a quality measurement asks of them. Exponentials are ours, sums are in double and in one order,
so every backend gives the same bits.

A row of logits x stands for the distribution ``exp(x) / sum(exp(x))``. ``-inf`` is an impossible token. A row that has
NaN or a logit above 2**100, or none above -2**100, is no distribution: its numbers are NaN, its tokens -1; nothing is
raised, so that a caller can say which rows they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import kernels
from kernels import _library
from kernels._library import KernelError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Targets = Sequence[int] | npt.NDArray[np.integer[Any]]

TOP_LIMIT = 128
"""The most of a row's largest logits that can be asked for."""

_DIVERGENCE = np.dtype(
    [
        ("kl", np.float64),
        ("reverse_kl", np.float64),
        ("log_sum", np.float64, 2),
        ("nll", np.float64, 2),
        ("top", np.int32, 2),
        ("shared", np.int32),
        ("reserved", np.int32),
    ]
)


class RowScores(NamedTuple):
    """Of n rows: arrays of shape (n,), or (n, top_k).

    ``log_sum``: float64, ln(sum(exp(logits))), within 1.2e-8. ``nll``: float64, -ln(probability of the target) in
    nats, +inf for an impossible one; NaN without targets. ``top``: int32, columns of the largest logits, the largest
    first and of equals the lower column first. ``top_log_probability``: float64, their natural log-probabilities.
    """

    log_sum: Float64Array
    nll: Float64Array
    top: Int32Array
    top_log_probability: Float64Array


class RowDivergences(NamedTuple):
    """Of n positions by a reference p and a candidate q: arrays of shape (n,); divergences in nats.

    ``kl``: float64, sum(p (ln p - ln q)). ``reverse_kl``: sum(q (ln q - ln p)). Both are at least 0, exactly 0 for
    equal rows, and infinite where one allows what is impossible for the other. Errors are below 2e-8 + 1e-7 of the
    value, and usually below 1e-9.
    ``reference_log_sum``, ``log_sum``, ``reference_nll``, ``nll``: float64, the bits that :func:`score_rows` gives.
    ``shift``: float64, the target's probability under q less that under p (NaN without targets).
    ``reference_top``, ``top``: int32, the most likely token. ``agree``: bool, whether it is the same.
    ``overlap``: float64, which share of the top_k most likely tokens is the same for both.
    """

    kl: Float64Array
    reverse_kl: Float64Array
    reference_log_sum: Float64Array
    log_sum: Float64Array
    reference_nll: Float64Array
    nll: Float64Array
    shift: Float64Array
    reference_top: Int32Array
    top: Int32Array
    agree: npt.NDArray[np.bool_]
    overlap: Float64Array


def _logits(array: npt.NDArray[Any], what: str) -> tuple[int, int]:
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != np.float32:
        found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}".strip()
        raise KernelError("bad_array", f"{what} must be float32 with two dimensions, not {found}.")
    n_rows, n_cols = array.shape
    if not 0 < n_cols < 1 << 31:
        raise KernelError("bad_shape", f"{what} must have at least one column, and fewer than 2**31.")
    if not array.flags.aligned or (n_rows and n_cols > 1 and array.strides[1] != array.itemsize):
        raise KernelError("bad_array", f"{what} must be aligned, and the logits of a row contiguous.")
    return n_rows, n_cols


def _targets(targets: Targets | None, n_rows: int, n_cols: int) -> Int32Array | None:
    if targets is None:
        return None
    given = np.asarray(targets)
    if given.shape != (n_rows,) or (n_rows and given.dtype.kind not in "iu"):
        raise KernelError("bad_array", f"targets must be {n_rows} integers, not {given.dtype} {given.shape}.")
    wrong = np.flatnonzero((given < 0) | (given >= n_cols))
    if wrong.size:
        row, target = int(wrong[0]), int(given[wrong[0]])
        message = f"The target {target} of row {row} is not one of {n_cols} tokens."
        raise KernelError("bad_target", message, row=row, column=target)
    return np.ascontiguousarray(given, np.int32)


def _top_k(top_k: int, n_cols: int) -> int:
    if not 1 <= top_k <= TOP_LIMIT:
        raise KernelError("bad_shape", f"top_k must be from 1 to {TOP_LIMIT}, not {top_k}.")
    return min(top_k, n_cols)


def _pointer(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _check(status: int) -> None:
    if status != _library.OK:
        raise KernelError("refused", f"The kernel library refused the call with status {status}.")


def _score(
    logits: Float32Array, targets: Targets | None, top_k: int, out: Float32Array | None, backend: str | None
) -> RowScores:
    n_rows, n_cols = _logits(logits, "logits")
    right = _targets(targets, n_rows, n_cols)
    top = np.empty((n_rows, _top_k(top_k, n_cols)), np.int32)
    scores = np.empty((n_rows, 2), np.float64)
    if n_rows:
        status = _library.library().quench_score_rows(
            kernels._current(backend),
            logits.ctypes.data,
            logits.strides[0],
            n_rows,
            n_cols,
            _pointer(right),
            top.shape[1],
            scores.ctypes.data,
            scores.nbytes,
            top.ctypes.data,
            top.nbytes,
            _pointer(out),
            0 if out is None else out.nbytes,
            ctypes.byref(_library.Report()),
        )
        _check(status)
    return RowScores(scores[:, 0].copy(), scores[:, 1].copy(), top, np.empty((0, 0)))


def score_rows(
    logits: Float32Array, targets: Targets | None = None, *, top_k: int = 1, backend: str | None = None
) -> RowScores:
    """Log-softmax facts of each row of ``logits``: normalizer, the target's surprise, the most likely tokens.

    ``logits``: float32 (n, vocabulary); logits of a row are contiguous, rows may be any distance apart. ``targets``: n
    integers, columns of ``logits``, or None. ``top_k``: how many of the largest, 1 to 128; not more than there are
    columns are given. ``backend`` names one for this call alone.
    Raises :class:`KernelError`: ``bad_array``, ``bad_shape``, ``bad_target`` (with row and, as column, the target),
    ``unknown_backend``.
    """
    found = _score(logits, targets, top_k, None, backend)
    # Rows that are no distribution have the column -1 and the sum NaN.
    values = np.take_along_axis(logits, found.top, axis=1).astype(np.float64)
    return found._replace(top_log_probability=values - found.log_sum[:, None])


class RowScorer:
    """:func:`score_rows` for one row at a time, again and again, without the price of fresh arrays and checks.

    ``n_cols`` logits a row, ``top_k`` of the largest. Raises :class:`KernelError` as :func:`score_rows` does.
    """

    def __init__(self, n_cols: int, top_k: int, *, backend: str | None = None) -> None:
        self._shape = (n_cols,)
        self._top = np.empty(_top_k(top_k, n_cols), np.int32)
        self._scores = np.empty((1, 2), np.float64)
        self._function = _library.library().quench_score_rows
        self._before = (kernels._current(backend),)
        self._after = (
            4 * n_cols, 1, n_cols, None, len(self._top), self._scores.ctypes.data, self._scores.nbytes,
            self._top.ctypes.data, self._top.nbytes, None, 0, ctypes.byref(_library.Report()),
        )  # fmt: skip

    def __call__(self, row: Float32Array) -> tuple[float, list[int]]:
        """``log_sum`` and the columns of the largest logits of ``row``, float32 (n_cols,), contiguous. A row that is no
        distribution has the sum NaN and columns of -1."""
        if row.shape != self._shape or row.dtype != np.float32 or not row.flags.c_contiguous:
            raise KernelError("bad_array", f"the row must be {self._shape[0]} float32, not {row.dtype} {row.shape}.")
        _check(self._function(*self._before, row.ctypes.data, *self._after))
        return float(self._scores[0, 0]), self._top.tolist()


def log_softmax(rows: Float32Array, out: Float32Array | None = None, *, backend: str | None = None) -> Float32Array:
    """Natural log-probabilities of each row of logits, computed in float64 and rounded once: float32 (n, vocabulary).

    ``rows``: as ``logits`` of :func:`score_rows`. ``out``: float32 of the same shape, contiguous, to be reused; it is
    returned, and may be ``rows`` itself. ``-inf`` stays. Raises :class:`KernelError` as :func:`score_rows` does.
    """
    shape = _logits(rows, "rows")
    values: Float32Array = kernels._output(out, shape, np.float32)
    if values is not rows and np.may_share_memory(values, rows) and np.shares_memory(values, rows):
        same_place = values.ctypes.data == rows.ctypes.data and values.strides == rows.strides
        if not same_place:
            raise KernelError("bad_array", "out must be the rows themselves or apart from them.")
    _score(rows, None, 1, values, backend)
    return values


def compare_rows(
    reference: Float32Array,
    candidate: Float32Array,
    targets: Targets | None = None,
    *,
    top_k: int = 5,
    backend: str | None = None,
) -> RowDivergences:
    """How far the ``candidate``'s odds are from the ``reference``'s, position by position, in one walk over both.

    ``reference``, ``candidate``: float32 (n, vocabulary), as ``logits`` of :func:`score_rows`, of the same shape.
    ``targets``: n integers, or None. ``top_k``: over how many tokens ``overlap`` goes, 1 to 128; a smaller vocabulary
    makes it smaller. ``backend`` names one for this call alone.
    Raises :class:`KernelError`: ``bad_array``, ``bad_shape``, ``bad_target``, ``unknown_backend``.
    """
    n_rows, n_cols = _logits(reference, "reference")
    if _logits(candidate, "candidate") != (n_rows, n_cols):
        raise KernelError("bad_shape", f"{candidate.shape} logits of the candidate against {reference.shape}.")
    right = _targets(targets, n_rows, n_cols)
    count = _top_k(top_k, n_cols)
    found = np.empty(n_rows, _DIVERGENCE)
    if n_rows:
        status = _library.library().quench_compare_rows(
            kernels._current(backend),
            reference.ctypes.data,
            reference.strides[0],
            candidate.ctypes.data,
            candidate.strides[0],
            n_rows,
            n_cols,
            _pointer(right),
            count,
            found.ctypes.data,
            found.nbytes,
            ctypes.byref(_library.Report()),
        )
        _check(status)
    log_sums, nlls, tops = (np.ascontiguousarray(found[name].T) for name in ("log_sum", "nll", "top"))
    return RowDivergences(
        kl=found["kl"].copy(),
        reverse_kl=found["reverse_kl"].copy(),
        reference_log_sum=log_sums[0],
        log_sum=log_sums[1],
        reference_nll=nlls[0],
        nll=nlls[1],
        shift=np.exp(-nlls[1]) - np.exp(-nlls[0]),
        reference_top=tops[0],
        top=tops[1],
        agree=tops[0] == tops[1],
        overlap=found["shared"] / count,
    )
