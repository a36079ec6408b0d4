"""Squared and weighted errors: those of the floats that the engine decodes, in double, from every backend the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import bf16_bits, from_bf16

TYPES = list(kernels.TYPES)
Doubles = npt.NDArray[np.float64]

# Rows in blocks: short ones of which a tile holds many, odd counts, and rows of several tiles of the library.
SHAPES = {"short": (67, 3), "odd": (5, 17), "one": (1, 1), "long": (2, 37)}


def made(qtype: str, shape: str, seed: int = 0) -> tuple[Any, Any]:
    """Rows and importance. Rows of 32-weight blocks and of single weights become longer than a tile of 8192 as well."""
    n_rows, n_blocks = SHAPES[shape]
    per_block = kernels.block_size(qtype).weights
    if shape == "long":
        n_blocks = n_blocks * 256 // per_block + (per_block < 256)
    elif per_block == 1:
        n_blocks *= 31
    rng = np.random.default_rng([seed, n_rows, n_blocks])
    rows = rng.standard_normal((n_rows, n_blocks * per_block), np.float32) * np.float32(0.02)
    importance = np.exp(rng.standard_normal(rows.shape[1])).astype(np.float32)
    importance[::5] = 0
    return rows, importance


def wanted(qtype: str, rows: Any, importance: Any, blocks: Any) -> tuple[Doubles, Doubles]:
    """From numpy, in double, with the engine's decoder."""
    decoded = oracle.dequantize(qtype, blocks, rows.shape[1])
    squares = (rows.astype(np.float64) - decoded.astype(np.float64)) ** 2
    weight = np.ones(rows.shape[1]) if importance is None else importance.astype(np.float64)
    return squares.sum(axis=1), (squares * weight).sum(axis=1)


def measured(
    qtype: str, rows: Any, importance: Any, backend: str, source: kernels.Source | None = None
) -> tuple[Any, Doubles, Doubles]:
    plain, weighted = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    blocks = kernels.quantize(
        qtype, rows, importance, source=source, squared_error=plain, weighted_error=weighted, backend=backend
    )
    return blocks, plain, weighted


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("qtype", TYPES)
def test_errors_are_those_of_the_decoded_rows(qtype: str, shape: str, weighted: bool) -> None:
    rows, importance = made(qtype, shape)
    importance = importance if weighted else None
    blocks, *first = measured(qtype, rows, importance, kernels.backends()[0])
    expected = wanted(qtype, rows, importance, blocks)
    for found, right in zip(first, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=0)
    for backend in kernels.backends()[1:]:
        _, *other = measured(qtype, rows, importance, backend)
        assert np.array_equal(first, other)


@pytest.mark.parametrize("qtype", ["F16", "BF16", "Q8_0", "Q4_1", "IQ4_XS", "Q6_K"])
@pytest.mark.parametrize("shape", ["short", "long"])
def test_errors_do_not_depend_on_what_lies_around_a_row(qtype: str, shape: str) -> None:
    rows, importance = made(qtype, shape)
    wide = np.full((2 * len(rows), rows.shape[1] + 24), np.nan, np.float32)
    wide[::2, 8 : 8 + rows.shape[1]] = rows
    apart = wide[::2, 8 : 8 + rows.shape[1]]
    for backend in kernels.backends():
        _, *together = measured(qtype, rows, importance, backend)
        _, *spread = measured(qtype, apart, importance, backend)
        assert np.array_equal(together, spread)
        _, *backwards = measured(qtype, rows[::-1], importance, backend)
        assert np.array_equal(together, np.asarray(backwards)[:, ::-1])
        for index in (0, len(rows) - 1):
            _, *alone = measured(qtype, rows[index : index + 1], importance, backend)
            assert np.array_equal(np.asarray(together)[:, index : index + 1], alone)


@pytest.mark.parametrize("qtype", ["F32", "F16", "Q8_0", "Q5_0", "IQ4_NL", "Q3_K"])
@pytest.mark.parametrize("shape", ["odd", "long"])
def test_errors_count_from_narrow_rows_as_they_are(qtype: str, shape: str) -> None:
    rows, importance = made(qtype, shape)
    half, brain = rows.astype(np.float16), bf16_bits(rows)
    sources: list[tuple[Any, Any, kernels.Source]] = [
        (half, half.astype(np.float32), "float16"),
        (brain, from_bf16(brain), "bf16"),
    ]
    for narrow, floats, source in sources:
        for backend in kernels.backends():
            blocks, *found = measured(qtype, narrow, importance, backend, source)
            for one, right in zip(found, wanted(qtype, floats, importance, blocks), strict=True):
                np.testing.assert_allclose(one, right, rtol=1e-12, atol=0)


def test_errors_of_weights_that_are_no_numbers_are_no_numbers() -> None:
    rows, _ = made("Q8_0", "odd")
    rows[1, 3], rows[3, 70] = np.nan, np.inf
    for backend in kernels.backends():
        errors = np.zeros(5)
        kernels.quantize("Q8_0", rows, finite="allow", squared_error=errors, backend=backend)
        assert np.isfinite(errors).tolist() == [True, False, True, False, True]
