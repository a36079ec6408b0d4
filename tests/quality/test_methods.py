"""The arithmetic of other engines' methods, against definitions and formulas that are written out here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from app.quality.methods import activations, awq, grids, hqq
from app.quality.methods.gptq import gptq
from app.quality.methods.grids import IntGrid

Matrix = npt.NDArray[np.float32]


def weights(rows: int = 48, columns: int = 320, seed: int = 1) -> Matrix:
    """With heavy tails, as trained ones have."""
    return (np.random.default_rng(seed).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)


def inputs(tokens: int = 400, columns: int = 320) -> Matrix:
    """Columns that go together, a few of them large."""
    random = np.random.default_rng(2)
    mixed = random.standard_normal((tokens, columns)) @ (
        np.eye(columns) + 0.06 * random.standard_normal((columns, columns))
    )
    mixed[:, (3, 77)] *= 15
    return mixed.astype(np.float32)


def product_error(found: Matrix, own: Matrix, x: Matrix) -> float:
    return float(np.square(x.astype(np.float64) @ (found - own).T).sum())


def test_eight_bit_floats_are_the_nearest_of_all_there_are() -> None:
    """All codes by the format's definition: sign, four bits of exponent with bias 7, three of mantissa."""
    table = np.array(
        [
            (code % 8) / 8 * 2.0**-6 if code < 8 else (1 + code % 8 / 8) * 2.0 ** (code // 8 - 7)
            for code in range(127)  # 127 is NaN
        ]
    )
    random = np.random.default_rng(0)
    values = np.concatenate(
        [table, (table[1:] + table[:-1]) / 2, 2.0 ** random.uniform(-12, 9, 2000), [0.0, 448.0, 460.0, 1e6]]
    )
    away = np.abs(values[:, None] - table)
    nearest = away == away.min(axis=1, keepdims=True)
    even = nearest & (np.arange(127) % 2 == 0)
    codes = np.where(nearest.sum(axis=1) > 1, even.argmax(axis=1), nearest.argmax(axis=1))
    both = np.concatenate([values, -values]).astype(np.float32)
    assert np.array_equal(grids.e4m3(both), np.concatenate([table[codes], -table[codes]]).astype(np.float32))


def test_normal_float_is_its_definition() -> None:
    """Quantiles of a normal distribution, seven below and eight above zero, scaled to 1 (QLoRA's own offset)."""
    end = 0.9677083
    above = [NormalDist().inv_cdf(p) for p in np.linspace(end, 0.5, 9)[:-1]]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(end, 0.5, 8)[:-1]]
    expected = np.sort([*below, 0.0, *above]) / max(above)
    assert np.allclose(grids.NF4, expected, atol=1e-6)
    own = weights(4, 160)
    found = grids.nf4(own).reshape(-1, 64)
    most = np.abs(own.reshape(-1, 64)).max(axis=1, keepdims=True)
    choices = np.abs(own.reshape(-1, 64, 1) / most[:, :, None] - grids.NF4).argmin(axis=2)
    assert np.array_equal(found, grids.NF4[choices] * most)


@pytest.mark.parametrize("grid", [IntGrid(8), IntGrid(8, 128), IntGrid(4, 0, zero=True), IntGrid(4, 128, zero=True)])
def test_whole_numbers_are_within_half_a_step(grid: IntGrid) -> None:
    """Of each group, also of a shorter last one; and no more levels than the bits allow."""
    own = weights()
    own[5, 128:256] = 0
    found = grid.matrix(own)
    size = grid.size or own.shape[1]
    for start in range(0, own.shape[1], size):
        part, back = own[:, start : start + size], found[:, start : start + size]
        low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        wide = (high - low) if grid.zero else 2 * np.abs(part).max(axis=1)
        step = wide / ((1 << grid.bits) - (1 if grid.zero else 2))
        # A 16-bit scale is off by a part in 2048, and a rounded zero moves both ends by half a step.
        limit = step * ((1 if grid.zero else 0.5) + (1 << grid.bits) / 2048)
        assert (np.abs(part - back).max(axis=1) <= limit + 1e-12).all()
        assert max(len(np.unique(row)) for row in back) <= 1 << grid.bits
    assert not found[5, 128:256].any()


def test_more_bits_and_smaller_groups_are_never_worse() -> None:
    own = weights(64, 512)

    def error(grid: IntGrid) -> float:
        return float(np.square(grid.matrix(own) - own, dtype=np.float64).sum())

    errors = [error(IntGrid(bits, 128, zero=True)) for bits in range(2, 9)]
    assert all(one > 2.5 * other for one, other in pairwise(errors))
    sized = [error(IntGrid(4, size, zero=True)) for size in (0, 256, 128, 64, 32)]
    assert sized == sorted(sized, reverse=True)
    assert float(np.abs(hqq.hqq(own, size=64) - own).mean()) < float(
        np.abs(IntGrid(4, 64, zero=True).matrix(own) - own).mean()
    )


def test_what_a_matrix_takes() -> None:
    """Bits a weight, by hand."""
    shape = (512, 1024)
    each = {
        8 + 16 / 1024: IntGrid(8).total_bits(*shape),
        8 + 16 / 128: IntGrid(8, 128).total_bits(*shape),
        4 + 20 / 1024: IntGrid(4, 0, zero=True).total_bits(*shape),
        4 + 20 / 128: IntGrid(4, 128, zero=True).total_bits(*shape),
        4 + 32 / 64: hqq.hqq_bits(*shape),
        4.5: grids.nf4_bits(*shape),
        8 + 32 / 1024: grids.row_bits(*shape),
    }
    for expected, found in each.items():
        assert found / (512 * 1024) == pytest.approx(expected)


@pytest.mark.parametrize("size", [0, 64, 96, 128])
def test_error_feedback_is_the_plain_formula(size: int) -> None:
    """Frantar et al., algorithm 1 without its blocks: the inverse, its upper Cholesky factor, column by column."""
    own, x, grid = weights(16), inputs(), IntGrid(4, size, zero=True)
    covariance = x.astype(np.float64).T @ x
    damped = covariance + 0.01 * covariance.diagonal().mean() * np.eye(len(covariance))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest, expected = own.astype(np.float64), np.empty(own.shape)
    for column in range(own.shape[1]):
        if column % (size or own.shape[1]) == 0:
            group = rest[:, column : column + (size or own.shape[1])]
            low, high = np.minimum(group.min(axis=1), 0), np.maximum(group.max(axis=1), 0)
            scale = ((high - low) / 15).astype(np.float16).astype(np.float64)
            zero = np.clip(np.rint(-low / scale), 0, 15)
        codes = np.clip(np.rint(rest[:, column] / scale) + zero, 0, 15)
        expected[:, column] = (codes - zero) * scale
        error = (rest[:, column] - expected[:, column]) / upper[column, column]
        rest[:, column:] -= np.outer(error, upper[column, column:])
    found = gptq(own, kernels.feedback(covariance, damping=0.01), grid)
    # In float32 a few roundings fall otherwise, and the columns behind make up for them.
    assert (np.abs(found - expected) < 1e-4).mean() > 0.97
    ours, theirs = product_error(found, own, x), product_error(expected.astype(np.float32), own, x)
    assert ours == pytest.approx(theirs, rel=0.02)
    assert ours < 0.6 * product_error(grid.matrix(own), own, x)


def test_large_inputs_keep_their_weights_more_exact() -> None:
    """AWQ: the product errs less than with plain rounding, still less with ranges cut off, and factors are shared."""
    own, other, x, grid = weights(), weights(24, seed=4), inputs(), IntGrid(4, 128, zero=True)
    covariance = x.astype(np.float64).T @ x
    scale = awq.factors([own, other], np.abs(x).mean(axis=0), covariance, grid)
    assert scale.shape == (320,) and scale[3] > np.median(scale) and scale[77] > np.median(scale)
    plain = product_error(grid.matrix(own), own, x)
    scaled = product_error(awq.awq(own, scale, covariance, grid, cut=False), own, x)
    cut = product_error(awq.awq(own, scale, covariance, grid), own, x)
    assert cut < scaled < plain
    nothing = awq.awq(own, np.ones(320, np.float32), covariance, grid, cut=False)
    assert np.array_equal(nothing, grid.matrix(own))


def test_smoothing_changes_no_product() -> None:
    own, x = weights(), inputs()
    by = activations.smoothing([own], np.abs(x).max(axis=0))
    assert np.allclose((x / by) @ (own * by).T, x @ own.T, atol=1e-3)
    expected = np.sqrt(np.abs(x).max(axis=0) / np.abs(own).max(axis=0))
    assert by == pytest.approx(expected, rel=1e-5)
    rounded = activations.rowwise_int8(x / by) @ activations.rowwise_int8(own * by).T
    plain = activations.rowwise_int8(x) @ activations.rowwise_int8(own).T
    exact = x.astype(np.float64) @ own.T
    assert np.square(rounded - exact).sum() < np.square(plain - exact).sum()


def test_columns_with_outliers_are_not_rounded() -> None:
    x = inputs()
    x[:, 10:] *= 5.9 / np.abs(x[:, 10:]).max()
    out = (np.abs(x) >= 6).any(axis=0)
    assert 0 < out.sum() < 10
    found = activations.without_outliers(x)
    assert np.array_equal(found[:, out], x[:, out])
    step = np.where(np.abs(x) < 6, np.abs(x), 0).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - x)[:, ~out] <= step / 2 + 1e-6).all() and (found != x)[:, ~out].any()


@pytest.mark.parametrize(
    "act", [hqq.hqq, grids.nf4, grids.scaled_e4m3, activations.rowwise_int8, activations.without_outliers,
            IntGrid(4, 128, zero=True).matrix]
)  # fmt: skip
def test_zeros_stay_zeros_and_all_is_finite(act: Callable[[Matrix], Matrix]) -> None:
    own = np.zeros((3, 192), np.float32)
    own[1] = 0.5
    own[2, 7] = 1e4
    found = act(own)
    assert found.dtype == np.float32 and np.isfinite(found).all() and not found[0].any()
    assert found[2, 7] == pytest.approx(own[2, 7], rel=0.05) and found[1] == pytest.approx(own[1], rel=0.05)
