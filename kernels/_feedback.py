"""Quantization with error feedback: what one column loses, the columns behind it make up for.

The output of a linear layer changes by E X for an error E of its weights and inputs X, so what counts is tr(E C E^T)
with the inputs' covariance C. Plain rounding knows C's diagonal alone, as importance. Here the columns are rounded one
after the other, and after each the weights of those behind it become what is best with the errors made so far: GPTQ
(Frantar et al. 2022, arXiv 2210.17323). Afterwards codes are moved to where it is least while all others stay
(coordinate descent, as in Behdin et al. 2023, arXiv 2309.01885, "QuantEase"). The blocks are plain GGUF blocks.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import kernels
from kernels import _library
from kernels._library import KernelError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

FEEDBACK_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")
"""Types that can be quantized with error feedback."""

DAMPING = 0.01
"""What is added to the diagonal of a covariance, as a part of its mean: the paper's own."""

WORK_ROWS = 64
"""Rows of floats that polishing needs as work space, at least."""

SWEEPS = 3
"""Times that all codes are looked at again. On Pocket's matrices the objective falls by 4 to 10 % in the first, then by
1 to 3, then by less than one."""


class Feedback(NamedTuple):
    """What :func:`quantize_with_feedback` needs to know of a covariance C of n columns.

    ``importance``: float32 (n,), the diagonal of C. ``factor``: float32 (n, n), contiguous, and ``scales``: float64
    (n,): the inverse of C, as damped, is T^T diag(1 / scales) T, where T is unit upper triangular, and ``factor`` -T.
    ``covariance``: float32 (n, n), C as it was damped, for what polishes afterwards.
    """

    importance: Float32Array
    factor: Float32Array
    scales: Float64Array
    covariance: Float32Array


def feedback(
    covariance: npt.NDArray[Any],
    *,
    damping: float = DAMPING,
    shrinkage: float = 0.0,
    dtype: type[np.float32] | type[np.float64] = np.float64,
) -> Feedback:
    """The factors of ``covariance``, (n, n) float32 or float64 and symmetric: sums or means of x x^T, any scale.

    ``damping`` times the mean of the diagonal is added to the diagonal, so that directions which the inputs never took
    keep a cost. ``shrinkage``: which part of everything beside the diagonal is taken away, since in a sample inputs go
    together more than they do; 1 makes plain rounding. ``dtype`` is what is computed in: float64 takes about 28 bytes
    of memory a number of the matrix beside the covariance itself, float32 about 17.

    Raises:
        KernelError: ``bad_array``; ``bad_covariance`` if it is not finite, not symmetric, all zero or not positive
            definite with this damping.
    """
    n, columns = kernels._matrix(covariance, "covariance")
    if n != columns or n == 0 or covariance.dtype not in (np.float32, np.float64):
        message = f"A covariance is a square of float32 or float64, not {covariance.dtype} {covariance.shape}."
        raise KernelError("bad_array", message)
    if not (np.isfinite(damping) and damping >= 0 and 0 <= shrinkage <= 1):
        raise KernelError("bad_covariance", f"A damping of {damping} with a shrinkage of {shrinkage} is none.")
    diagonal = covariance.diagonal()
    importance = diagonal.astype(np.float32)
    mean = float(diagonal.mean(dtype=np.float64))
    if not (np.isfinite(importance).all() and importance.min() >= 0 and np.isfinite(mean)):
        raise KernelError("bad_covariance", "The diagonal of a covariance is finite and not negative.")
    if mean == 0:
        raise KernelError("bad_covariance", "The inputs were all zero: there is no covariance.")
    # A matrix is V D V^T with an upper triangle where it is L D L^T with a lower one, read from its end.
    damped: npt.NDArray[Any] = covariance[::-1, ::-1].astype(dtype, order="C")
    damped *= (1 - shrinkage) / mean
    _check_symmetric(damped)
    damped.reshape(-1)[:: n + 1] = diagonal[::-1] / mean + damping
    kept = (damped[::-1, ::-1] * mean).astype(np.float32)
    try:
        root = np.linalg.cholesky(damped)[::-1, ::-1]
    except np.linalg.LinAlgError as error:
        message = f"The covariance is not positive definite with a damping of {damping}."
        raise KernelError("bad_covariance", message) from error
    del damped
    roots = root.diagonal().copy()
    factor = root / roots
    del root
    _invert(factor)
    negative: Float32Array = np.negative(factor, dtype=np.float32, casting="same_kind")
    if not np.isfinite(negative).all():
        raise KernelError("bad_covariance", "The covariance is not finite, or nearly singular.")
    return Feedback(importance, negative, np.square(roots, dtype=np.float64) * mean, kept)


def _invert(triangle: npt.NDArray[Any], smallest: int = 64) -> None:
    """A unit upper triangle becomes its inverse, in place: of [[A, B], [0, C]] it is [[A', -A' B C'], [0, C']]."""
    n = len(triangle)
    if n <= smallest:
        triangle[:] = np.triu(np.linalg.inv(triangle))
        return
    half = n // 2
    first, last = triangle[:half, :half], triangle[half:, half:]
    _invert(first, smallest)
    _invert(last, smallest)
    triangle[:half, half:] = -(first @ triangle[:half, half:] @ last)


def _check_symmetric(matrix: npt.NDArray[Any], rows: int = 256) -> None:
    """Row by row band, for want of a second copy. What is not finite is not symmetric either."""
    for start in range(0, len(matrix), rows):
        band, across = matrix[start : start + rows], matrix[:, start : start + rows].T
        if not np.abs(band - across).max() <= 1e-3:
            raise KernelError("bad_covariance", "The covariance is not symmetric, or not finite.")


def quantize_with_feedback(
    qtype: str,
    rows: npt.NDArray[Any],
    given: Feedback,
    *,
    out: npt.NDArray[Any] | None = None,
    source: kernels.Source | None = None,
    squared_error: npt.NDArray[Any] | None = None,
    feedback_error: npt.NDArray[Any] | None = None,
    work: npt.NDArray[Any] | None = None,
    sweeps: int = SWEEPS,
    backend: str | None = None,
) -> kernels.Bytes:
    """Quantize rows to blocks of ``qtype`` (one of :data:`FEEDBACK_TYPES`) with error feedback.

    ``rows``, ``source``, ``out``, ``backend``: as :func:`kernels.quantize` takes them; ``given``: of as many columns.
    Each block is encoded as there with ``given.importance``, from weights corrected by the errors so far; its scales
    stay. Then ``sweeps`` times each code is moved to where e C e^T is least while all others stay, until none moves.
    ``squared_error``: float64 (n_rows,) that receives each row's sum of (weight - decoded weight)^2;
    ``feedback_error``: each row's e C e^T of its errors e with the damped C. ``work``: contiguous float32, to be
    reused, of shape (max(n_rows, 64), n_cols); what it holds is of no use. The bytes do not depend on the backend or on
    which rows come together.

    Raises :class:`KernelError`: ``unknown_type``, ``no_feedback``, ``unknown_backend``, ``bad_shape``, ``bad_array``,
    ``bad_importance``, ``not_finite`` (also where the corrections grow out of bounds), ``overflow``.
    """
    number = kernels._writable(qtype)
    if qtype not in FEEDBACK_TYPES:
        raise KernelError(
            "no_feedback", f"There is no error feedback for {qtype}, only for {', '.join(FEEDBACK_TYPES)}."
        )
    n_rows, n_cols = kernels._matrix(rows, "rows")
    row_type = kernels._row_type(rows, source)
    width = kernels.row_bytes(qtype, n_cols)
    if sweeps < 0:
        raise KernelError("bad_array", f"{sweeps} sweeps are none.")
    if n_rows and n_cols > 1 and rows.strides[1] != rows.itemsize:
        raise KernelError("bad_array", "The weights of a row must be contiguous; copy the array first.")
    importance = kernels._importance(given.importance, n_cols)
    assert importance is not None
    for what, array, shape, dtype in (
        ("factor", given.factor, (n_cols, n_cols), np.float32),
        ("scales", given.scales, (n_cols,), np.float64),
        ("covariance", given.covariance, (n_cols, n_cols), np.float32),
    ):
        if array.shape != shape or array.dtype != dtype or not array.flags.carray:
            message = f"The {what} of {n_cols} columns must be contiguous {np.dtype(dtype)} {shape}"
            raise KernelError("bad_array", f"{message}, not {array.dtype} {array.shape}.")
    blocks = kernels._output(out, (n_rows, width), np.uint8)
    space = kernels._output(work, (max(n_rows, WORK_ROWS), n_cols), np.float32)
    squared = np.empty(n_rows) if squared_error is None else squared_error
    fed = np.empty(n_rows) if feedback_error is None else feedback_error
    squared_address, fed_address = kernels._errors(squared, n_rows), kernels._errors(fed, n_rows)
    if n_rows == 0:
        return blocks
    report = _library.Report()
    status = _library.library().quench_feedback(
        kernels._current(backend),
        number,
        row_type,
        rows.ctypes.data,
        rows.strides[0],
        n_rows,
        n_cols,
        importance.ctypes.data,
        given.factor.ctypes.data,
        given.factor.nbytes,
        given.scales.ctypes.data,
        space.ctypes.data,
        4 * n_rows * n_cols,
        blocks.ctypes.data,
        blocks.nbytes,
        squared_address,
        fed_address,
        ctypes.byref(report),
    )
    if status == _library.OK and sweeps:
        status = _library.library().quench_polish(
            kernels._current(backend),
            number,
            row_type,
            rows.ctypes.data,
            rows.strides[0],
            n_rows,
            n_cols,
            given.covariance.ctypes.data,
            given.covariance.nbytes,
            sweeps,
            space.ctypes.data,
            space.nbytes,
            blocks.ctypes.data,
            blocks.nbytes,
            squared_address,
            fed_address,
        )
    if status != _library.OK:
        kernels._raise(status, qtype, report)
    return blocks
