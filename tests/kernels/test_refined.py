"""Refined blocks: the same format and size, never a larger error in any block, the same bytes from every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import KINDS, Case, Floats, cases, from_bf16
from tests.kernels.test_oracle import trained_tensors

# RMSE against the oracle's over Pocket's matrices, without importance and with one that is drawn for each matrix: as
# measured, with a margin of a fifth of the gain.
BOUNDS = {
    "Q2_K": (0.911, 0.967),
    "Q3_K": (0.964, 0.986),
    "Q4_K": (0.982, 0.983),
    "Q5_K": (0.963, 0.957),
    "Q6_K": (0.955, 0.956),
}
REFINED = list(BOUNDS)


def block_errors(
    qtype: str, blocks: npt.NDArray[np.uint8], rows: Floats, importance: Floats | None
) -> npt.NDArray[np.float64]:
    """Weighted squared error of each block, from the engine's own decoder, in double."""
    decoded = oracle.dequantize(qtype, blocks, rows.shape[1]).astype(np.float64)
    errors: npt.NDArray[np.float64] = np.square(rows - decoded)
    if importance is not None:
        errors *= importance
    return errors.reshape(-1, kernels.block_size(qtype).weights).sum(axis=1)


def assert_never_worse(case: Case, seed: int = 0) -> int:
    """Returns how many blocks of the case were changed."""
    rows, importance = case.data(seed)
    exact = oracle.quantize(case.qtype, rows, importance)
    wanted: npt.NDArray[np.uint8] | None = None
    for backend in kernels.backends():
        found = kernels.quantize(case.qtype, rows, importance, refined=True, finite="allow", backend=backend)
        wanted = found if wanted is None else wanted
        assert np.array_equal(found, wanted), f"{backend} {case}"
    assert wanted is not None
    changed = (wanted != exact).reshape(-1, kernels.block_size(case.qtype).bytes).any(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        before = block_errors(case.qtype, exact, rows, importance)[changed]
        after = block_errors(case.qtype, wanted, rows, importance)[changed]
    assert (after < before).all(), case
    assert np.isfinite(after).all(), case
    return int(changed.sum())


@pytest.mark.parametrize("qtype", REFINED)
def test_no_block_is_worse(qtype: str) -> None:
    changed = dict.fromkeys(KINDS, 0)
    for case in cases(qtype, 2_000):
        changed[case.kind] += assert_never_worse(case)
    assert changed["zero"] == 0
    assert all(changed[kind] > 0 for kind in ("gaussian", "laplace", "student", "uniform", "positive", "f16", "bf16"))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("qtype", REFINED)
def test_no_block_of_many_is_worse(qtype: str) -> None:
    for seed in range(1, 4):
        assert sum(assert_never_worse(case, seed) for case in cases(qtype, 30_000)) > 1000


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("qtype", REFINED)
def test_trained_matrices_lose_error(qtype: str, weighted: bool, pocket: Path) -> None:
    before = after = 0.0
    for count, bits in enumerate(trained_tensors(pocket)):
        rows = from_bf16(bits[:64])
        importance: Floats | None = None
        if weighted:
            importance = np.exp(np.random.default_rng(count).standard_normal(rows.shape[1])).astype(np.float32)
        errors = np.empty(len(rows))
        blocks = kernels.quantize(qtype, rows, importance, refined=True, weighted_error=errors)
        after += errors.sum()
        assert np.isclose(errors.sum(), block_errors(qtype, blocks, rows, importance).sum())
        before += block_errors(qtype, oracle.quantize(qtype, rows, importance), rows, importance).sum()
    ratio = np.sqrt(after / before)
    print(f"{qtype} {'with' if weighted else 'without'} importance: {ratio:.4f}")
    assert ratio < BOUNDS[qtype][weighted]


@pytest.mark.parametrize("qtype", REFINED)
def test_rows_are_refined_alone(qtype: str) -> None:
    """Tiles cross rows and are padded: neither changes a block."""
    rows, importance = Case(qtype, "mixed_blocks", "uniform", 37, 3).data()
    together = kernels.quantize(qtype, rows, importance, refined=True)
    alone = [kernels.quantize(qtype, row[None], importance, refined=True)[0] for row in rows]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("qtype", ["F16", "Q8_0", "Q4_0", "IQ4_NL"])
def test_types_without_a_refinement_keep_their_bytes(qtype: str) -> None:
    rows, importance = Case(qtype, "gaussian", "uniform", 3, 256 // kernels.block_size(qtype).weights).data()
    assert np.array_equal(
        kernels.quantize(qtype, rows, importance, refined=True), kernels.quantize(qtype, rows, importance)
    )
