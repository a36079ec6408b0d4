"""From a slab of a source's rows to the bytes of an output: the converter's only use of the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import kernels
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy.typing as npt

    from converter.sources.base import SourceTensor

BYTES_PER_WEIGHT = 20
"""Memory that one weight of a slab may take while it is worked on: read, gathered, widened and encoded."""

NATIVE: dict[str, tuple[str, kernels.Source]] = {
    "F32": ("<f4", "float32"),
    "F16": ("<f2", "float16"),
    "BF16": ("<u2", "bf16"),
}
"""Types whose rows go into the kernels as they are stored: numpy's name and the kernels' own."""


def writable() -> frozenset[str]:
    """Types that can be made from numbers."""
    return frozenset(kernels.TYPES)


def load(tensor: SourceTensor, start: int, stop: int) -> tuple[npt.NDArray[Any], kernels.Source]:
    """Rows of a tensor as the kernels take them: in their own 16 or 32 bits where they have them, else widened."""
    if tensor.type in NATIVE:
        dtype, source = NATIVE[tensor.type]
        return tensor.raw(start, stop).view(dtype), source
    return tensor.rows(start, stop), "float32"


def encode(
    kind: str,
    slab: tuple[npt.NDArray[Any], kernels.Source],
    tensor: SourceTensor,
    start: int,
    *,
    importance: npt.NDArray[np.float32] | None,
    refined: bool,
    errors: npt.NDArray[np.float64],
    weighted: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.uint8]:
    """A slab from :func:`load` as blocks of ``kind``, uint8 ``(rows, row bytes)``.

    ``errors`` (float64, one a row) receives the sums of squared errors, ``weighted`` those with importance as a factor.
    ``QuenchError`` ``not_finite`` or ``overflow`` names tensor, row and column; ``start`` is the slab's first row.
    """
    rows, source = slab
    try:
        return kernels.quantize(
            kind, rows, importance, refined=refined, source=source, squared_error=errors, weighted_error=weighted
        )
    except kernels.KernelError as error:
        raise _explained(error, kind, tensor, start) from error


def measure(
    kind: str,
    blocks: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.float32],
    *,
    importance: npt.NDArray[np.float32] | None,
    errors: npt.NDArray[np.float64],
    weighted: npt.NDArray[np.float64] | None,
) -> None:
    """The errors of blocks that are there, against ``rows``, as :func:`encode` gives them for those that it makes."""
    squares = np.square(kernels.dequantize(kind, blocks, rows.shape[1]) - rows.astype(np.float64))
    squares.sum(axis=1, out=errors)
    if weighted is not None:
        weighted[:] = squares @ importance


def energy(
    slab: tuple[npt.NDArray[Any], kernels.Source],
    importance: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.float64],
) -> None:
    """Each row's sum of squares, with importance as a factor, into ``out``: what an error is a part of."""
    kernels.energy(slab[0], importance, source=slab[1], out=out)


def _explained(error: kernels.KernelError, kind: str, tensor: SourceTensor, start: int) -> QuenchError:
    name, file, row = tensor.place(start + (error.row or 0))
    where = f"{name} in {file}"
    if error.row is not None and error.column is not None:
        where += f", row {row}, column {error.column}"
    if error.code == "not_finite":
        return QuenchError(
            "not_finite",
            "The model has a weight that is not a number.",
            f"{where}: NaN or infinite.",
            "The file is damaged or the training failed; download it again or take another model.",
        )
    if error.code == "overflow":
        return QuenchError(
            "overflow",
            f"A weight is too large for {kind}.",
            f"{where}: beyond what 16-bit numbers hold.",
            "Choose BF16 or F32, or take another model.",
        )
    return refused(error, f"{where}, to {kind}")


def unusable(error: Exception) -> QuenchError:
    """The error for a person when no kernel can run at all: a wrong name in ``QUENCH_KERNELS``, or no library."""
    if isinstance(error, kernels.KernelError) and error.code == "unknown_backend":
        title = "QUENCH_KERNELS names kernels that this machine cannot run."
        return QuenchError("unknown_backend", title, str(error), "Unset it, or name one of those.", exit_status=2)
    return QuenchError("no_kernels", "The kernels cannot be used.", str(error), "Install Quench again.")


def refused(error: kernels.KernelError, where: str) -> QuenchError:
    """The error for a person behind one of the kernels that has no words of its own."""
    if error.code in ("unknown_backend", "no_library", "bad_library"):
        return unusable(error)
    return QuenchError(
        error.code, "The quantizer refused the weights.", f"{where}: {error}", "Choose another type or option."
    )
