"""Error feedback against a GPTQ in numpy, in double and by the inverse as the paper has it; decoded by gguf-py."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import kernels
from kernels import _library
from tests.kernels import oracle
from tests.kernels.cases import bf16_bits

Floats = npt.NDArray[np.float64]
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")

# The bytes of a block that hold codes, and what they are filled with to mean 0 (or the least code) and one more.
CODES: dict[str, list[tuple[slice, int, int]]] = {
    "Q2_K": [(slice(16, 80), 0x00, 0x55)],
    "Q3_K": [(slice(0, 32), 0xFF, 0xFF), (slice(32, 96), 0x00, 0x55)],
    "Q4_K": [(slice(16, 144), 0x00, 0x11)],
    "Q5_K": [(slice(16, 48), 0x00, 0x00), (slice(48, 176), 0x00, 0x11)],
    "Q6_K": [(slice(0, 128), 0x00, 0x11), (slice(128, 192), 0xAA, 0xAA)],
    "Q4_0": [(slice(2, 18), 0x88, 0x99)],
    "Q4_1": [(slice(4, 20), 0x00, 0x11)],
    "Q5_0": [(slice(2, 6), 0xFF, 0xFF), (slice(6, 22), 0x00, 0x11)],
    "Q5_1": [(slice(4, 8), 0x00, 0x00), (slice(8, 24), 0x00, 0x11)],
    "Q8_0": [(slice(2, 34), 0x00, 0x01)],
}
RANGES = {
    "Q2_K": (0, 3), "Q3_K": (-4, 3), "Q4_K": (0, 15), "Q5_K": (0, 31), "Q6_K": (-32, 31),
    "Q4_0": (-8, 7), "Q4_1": (0, 15), "Q5_0": (-16, 15), "Q5_1": (0, 31), "Q8_0": (-127, 127),
}  # fmt: skip


def inputs(n: int, seed: int = 3) -> Floats:
    """The covariance of inputs that go together, some columns larger than others."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((4 * n, n // 4)) @ random.standard_normal((n // 4, n))
    x += random.standard_normal((4 * n, n))
    x *= np.exp(0.7 * random.standard_normal(n))
    return x.T @ x / (4 * n)


def matrix(rows: int, n: int, seed: int = 4) -> npt.NDArray[np.float32]:
    return (0.05 * np.random.default_rng(seed).standard_normal((rows, n))).astype(np.float32)


def decoded(qtype: str, blocks: npt.NDArray[np.uint8]) -> Floats:
    return gguf.dequantize(blocks, gguf.GGMLQuantizationType[qtype]).astype(np.float64)


def scales_of(qtype: str, blocks: npt.NDArray[np.uint8], n: int) -> tuple[Floats, Floats]:
    """What code 0 and one more mean in each column, by gguf-py: (rows, n) values and steps."""
    size = kernels.block_size(qtype).bytes
    values = []
    for more in (False, True):
        filled = blocks.reshape(-1, size).copy()
        for place, zero, one in CODES[qtype]:
            filled[:, place] = one if more else zero
        values.append(decoded(qtype, filled.reshape(blocks.shape)))
    return values[0], values[1] - values[0]


def gptq(
    qtype: str, weights: npt.NDArray[np.float32], damped: Floats, zeros: Floats, steps: Floats
) -> tuple[Floats, Floats, Floats]:
    """Decoded weights, what each was rounded from, and how far it was from a tie (in steps), with these scales."""
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    low, high = RANGES[qtype]
    w, found, away = weights.astype(np.float64), np.empty(weights.shape), np.empty(weights.shape)
    for j in range(w.shape[1]):
        code = (w[:, j] - zeros[:, j]) / steps[:, j]
        away[:, j] = np.abs(np.abs(code - np.floor(code)) - 0.5)
        found[:, j] = zeros[:, j] + steps[:, j] * np.clip(np.rint(code), low, high)
        error = (w[:, j] - found[:, j]) / factor[j, j]
        w[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    return found, w, away


def damped(covariance: Floats, damping: float = 0.01, shrinkage: float = 0.0) -> Floats:
    apart = np.diag(np.diagonal(covariance))
    return (
        (1 - shrinkage) * covariance
        + shrinkage * apart
        + damping * np.diagonal(covariance).mean() * np.eye(len(covariance))
    )


@pytest.mark.parametrize("qtype", kernels.FEEDBACK_TYPES)
def test_codes_and_scales_are_those_of_gptq(qtype: str) -> None:
    n = 512 if qtype in K_TYPES else 352
    covariance, weights = inputs(n), matrix(40, n)
    given = kernels.feedback(covariance)
    blocks = kernels.quantize_with_feedback(qtype, weights, given, sweeps=0)
    zeros, steps = scales_of(qtype, blocks, n)
    wanted, corrected, away = gptq(qtype, weights, damped(covariance), zeros, steps)
    ours = decoded(qtype, blocks)
    other = np.abs(ours - wanted) > 0.1 * np.abs(steps)
    rows = np.flatnonzero(other.any(axis=1))
    assert len(rows) <= 4
    for row in rows:
        assert away[row, np.argmax(other[row])] < 1e-3, "the first code that differs is a tie"
    # The engine's own encoder finds these scales in the weights as they were corrected when their block's turn came.
    n_block = kernels.block_size(qtype).weights
    if qtype in K_TYPES or qtype == "Q8_0":
        before = weights.astype(np.float64)
        factor = np.linalg.cholesky(np.linalg.inv(damped(covariance))).T
        same = []
        for start in range(0, n, n_block):
            part = slice(start, start + n_block)
            plain = oracle.quantize(qtype, before[:, part].astype(np.float32), given.importance[part])
            same.append(np.isclose(scales_of(qtype, plain, n_block)[1], steps[:, part], rtol=1e-6).all(axis=1))
            errors = (corrected[:, part] - wanted[:, part]) / np.diagonal(factor)[part]
            before[:, start + n_block :] -= errors @ factor[part, start + n_block :]
        assert np.mean(same) > 0.9


@pytest.mark.parametrize("qtype", kernels.FEEDBACK_TYPES)
def test_the_objective_is_smaller_than_plain_rounding_has_it(qtype: str) -> None:
    covariance, weights = inputs(256), matrix(24, 256)
    given = kernels.feedback(covariance)
    squared, fed = np.empty(24), np.empty(24)
    blocks = kernels.quantize_with_feedback(qtype, weights, given, squared_error=squared, feedback_error=fed)
    away = weights - decoded(qtype, blocks)
    plain = weights - decoded(qtype, kernels.quantize(qtype, weights, given.importance))
    assert np.sum(away @ covariance * away) < 0.5 * np.sum(plain @ covariance * plain)
    np.testing.assert_allclose(squared, np.square(away).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(fed, np.sum(away @ damped(covariance) * away, axis=1), rtol=1e-3)


def polished(codes: Floats, grid: tuple[Floats, Floats], covariance: Floats, w: Floats, qtype: str) -> Floats:
    """The codes after each was moved, in turn, to where e C e^T is least while the others stay."""
    codes, (zeros, steps), (low, high) = codes.copy(), grid, RANGES[qtype]
    slope = (zeros + steps * codes - w) @ covariance
    for j in range(codes.shape[1]):
        move = np.clip(np.rint(codes[:, j] - slope[:, j] / (covariance[j, j] * steps[:, j])), low, high) - codes[:, j]
        codes[:, j] += move
        slope += np.outer(move * steps[:, j], covariance[j])
    return codes


@pytest.mark.parametrize("qtype", kernels.FEEDBACK_TYPES)
def test_codes_move_to_where_the_objective_is_least(qtype: str) -> None:
    """One sweep is that of numpy in double, but for ties; each further one makes the objective smaller, or stays."""
    n = 512 if qtype in K_TYPES else 352
    covariance, weights = inputs(n), matrix(40, n)
    given = kernels.feedback(covariance)
    before = kernels.quantize_with_feedback(qtype, weights, given, sweeps=0)
    zeros, steps = scales_of(qtype, before, n)
    codes = np.rint((decoded(qtype, before) - zeros) / steps)
    wanted = polished(codes, (zeros, steps), damped(covariance), weights.astype(np.float64), qtype)
    after = kernels.quantize_with_feedback(qtype, weights, given, sweeps=1)
    ours = np.rint((decoded(qtype, after) - zeros) / steps)
    assert (wanted != codes).mean() > 0.003
    assert (ours != wanted).any(axis=1).sum() <= 2
    np.testing.assert_array_equal(scales_of(qtype, after, n)[1], steps)
    sums = []
    for sweeps in (0, 1, 2, 8):
        fed = np.empty(40)
        blocks = kernels.quantize_with_feedback(qtype, weights, given, sweeps=sweeps, feedback_error=fed)
        away = weights - decoded(qtype, blocks)
        np.testing.assert_allclose(fed, np.sum(away @ damped(covariance) * away, axis=1), rtol=1e-3)
        sums.append(fed.copy())
    assert all((later <= sooner * (1 + 1e-6)).all() for sooner, later in itertools.pairwise(sums))
    assert sums[-1].sum() < 0.99 * sums[0].sum()


@pytest.mark.parametrize("qtype", kernels.FEEDBACK_TYPES)
def test_inputs_that_do_not_go_together_make_plain_rounding(qtype: str) -> None:
    importance = np.exp(np.random.default_rng(5).standard_normal(256)).astype(np.float32)
    weights = matrix(9, 256)
    weights[3] = 0
    weights[4, :32] = 0
    given = kernels.feedback(np.diag(importance))
    np.testing.assert_array_equal(given.importance, importance)
    ours = kernels.quantize_with_feedback(qtype, weights, given)
    plain = kernels.quantize(qtype, weights, importance)
    if qtype in K_TYPES:
        np.testing.assert_array_equal(ours, plain)
        return
    # Older types keep the codes of their search, or round with a scale that was not rounded itself.
    errors = [np.square(weights - decoded(qtype, blocks)) for blocks in (ours, plain)]
    assert (errors[0] <= errors[1] + 1e-12).all()
    for blocks in (ours, plain):
        steps = scales_of(qtype, blocks, 256)[1]
        np.testing.assert_array_equal(steps, scales_of(qtype, plain, 256)[1])


@pytest.mark.parametrize("qtype", kernels.FEEDBACK_TYPES)
def test_nothing_depends_on_the_backend_or_on_what_comes_together(qtype: str) -> None:
    n = 512 if qtype in K_TYPES else 288
    given = kernels.feedback(inputs(n))
    weights = matrix(37, n)

    def made(rows: npt.NDArray[Any], backend: str | None = None, source: Any = None) -> tuple[bytes, ...]:
        squared, fed = np.empty(len(rows)), np.empty(len(rows))
        blocks = kernels.quantize_with_feedback(
            qtype, rows, given, squared_error=squared, feedback_error=fed, backend=backend, source=source
        )
        return tuple(array.tobytes() for array in (blocks, squared, fed))

    wanted = made(weights, "reference")
    for backend in kernels.backends():
        assert made(weights, backend) == wanted, backend
    parts = [made(weights[start : start + 7]) for start in range(0, 37, 7)]
    assert tuple(b"".join(part) for part in zip(*parts, strict=True)) == wanted
    wide = np.zeros((37, n + 3), np.float32)
    wide[:, :n] = weights
    assert made(wide[:, :n]) == wanted
    half = weights.astype(np.float16)
    assert made(half) == made(half.astype(np.float32))
    bits = bf16_bits(weights)
    assert made(bits, source="bf16") == made((bits.astype(np.uint32) << 16).view(np.float32))


def test_a_covariance_in_single_precision_serves_as_well() -> None:
    covariance, weights = inputs(512), matrix(16, 512)
    errors = []
    for kind in (np.float32, np.float64):
        given = kernels.feedback(covariance.astype(kind), dtype=kind)
        away = weights - decoded("Q4_K", kernels.quantize_with_feedback("Q4_K", weights, given))
        errors.append(np.sum(away @ covariance * away))
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_the_factors_make_up_the_covariance() -> None:
    covariance = inputs(200)
    given = kernels.feedback(covariance, damping=0.02, shrinkage=0.3)
    assert not np.tril(given.factor, -1).any()
    np.testing.assert_array_equal(np.diagonal(given.factor), -1)
    triangle = -given.factor.astype(np.float64)
    inverse = triangle.T / given.scales @ triangle
    np.testing.assert_allclose(inverse @ damped(covariance, 0.02, 0.3), np.eye(200), atol=1e-4)


def test_all_shrunk_away_is_plain_rounding() -> None:
    given = kernels.feedback(inputs(256), shrinkage=1.0)
    plain = kernels.quantize("Q4_K", matrix(5, 256), given.importance)
    np.testing.assert_array_equal(kernels.quantize_with_feedback("Q4_K", matrix(5, 256), given), plain)


def test_columns_that_were_never_reached_are_rounded_plainly() -> None:
    covariance = inputs(256)
    covariance[40:50] = covariance[:, 40:50] = 0
    given = kernels.feedback(covariance)
    away = matrix(8, 256) - decoded("Q6_K", kernels.quantize_with_feedback("Q6_K", matrix(8, 256), given))
    assert np.abs(away).max() < 0.05


BAD_COVARIANCES: dict[str, tuple[Callable[[], npt.NDArray[Any]], dict[str, Any], str]] = {
    "not a square": (lambda: np.ones((4, 5)), {}, "bad_array"),
    "integers": (lambda: np.eye(4, dtype=np.int64), {}, "bad_array"),
    "empty": (lambda: np.ones((0, 0)), {}, "bad_array"),
    "zero": (lambda: np.zeros((4, 4)), {}, "bad_covariance"),
    "negative": (lambda: np.diag([1.0, -1.0, 1.0]), {}, "bad_covariance"),
    "indefinite": (lambda: np.array([[1.0, 2.0], [2.0, 1.0]]), {}, "bad_covariance"),
    "singular": (lambda: np.ones((8, 8)), {"damping": 0.0}, "bad_covariance"),
    "skew": (lambda: np.array([[1.0, 0.5], [0.1, 1.0]]), {}, "bad_covariance"),
    "NaN": (lambda: np.where(np.eye(4) > 0, 1.0, np.nan), {}, "bad_covariance"),
    "NaN in the diagonal": (lambda: np.diag([1.0, np.nan]), {}, "bad_covariance"),
    "infinite": (lambda: np.diag([1.0, np.inf]), {}, "bad_covariance"),
    "a strange damping": (lambda: np.eye(4), {"damping": -0.1}, "bad_covariance"),
    "a strange shrinkage": (lambda: np.eye(4), {"shrinkage": 1.5}, "bad_covariance"),
}


@pytest.mark.parametrize("case", BAD_COVARIANCES)
def test_what_is_no_covariance_is_refused(case: str) -> None:
    make, options, code = BAD_COVARIANCES[case]
    with pytest.raises(kernels.KernelError) as caught:
        kernels.feedback(make(), **options)
    assert caught.value.code == code


def test_what_cannot_be_quantized_is_refused() -> None:
    given, rows = kernels.feedback(np.eye(256)), matrix(3, 256)
    bad, large = rows.copy(), rows.copy()
    bad[1, 200], large[2, 7] = np.nan, 3e38

    def refused(*arguments: Any, **options: Any) -> kernels.KernelError:
        with pytest.raises(kernels.KernelError) as caught:
            kernels.quantize_with_feedback(*arguments, **options)
        return caught.value

    assert refused("Q9_K", rows, given).code == "unknown_type"
    assert refused("IQ4_NL", rows, given).code == "no_feedback"
    assert refused("Q4_K", rows[:, :128], given).code == "bad_shape"
    assert refused("Q8_0", rows[:, :128], given).code == "bad_importance"
    assert refused("Q4_K", rows.astype(np.float64), given).code == "bad_array"
    assert refused("Q4_K", rows, given._replace(factor=given.factor[:, ::-1])).code == "bad_array"
    assert refused("Q4_K", rows, given._replace(scales=given.scales[:-1])).code == "bad_array"
    assert refused("Q4_K", rows, given, work=np.empty((3, 256))).code == "bad_array"
    assert refused("Q4_K", rows, given._replace(covariance=given.covariance[:-1])).code == "bad_array"
    assert refused("Q4_K", rows, given, sweeps=-1).code == "bad_array"
    assert refused("Q4_K", rows, given, backend="abacus").code == "unknown_backend"
    negative = given._replace(importance=-given.importance)
    assert refused("Q4_K", rows, negative).code == "bad_importance"
    for backend in kernels.backends():
        error = refused("Q4_K", bad, given, backend=backend)
        assert (error.code, error.row, error.column) == ("not_finite", 1, 200)
        error = refused("Q8_0", large, given, backend=backend)
        assert (error.code, error.row, error.column) == ("overflow", 2, 0)
        wild = given.factor.copy()
        wild[0, 32:] = np.inf
        assert refused("Q8_0", rows, given._replace(factor=wild), backend=backend).code == "not_finite"
    assert kernels.quantize_with_feedback("Q4_K", rows[:0], given).shape == (0, 144)


def test_the_c_side_checks_again() -> None:
    """Callers of the C interface get a status where the Python face refuses by itself."""
    given, rows = kernels.feedback(np.eye(256)), matrix(2, 256)
    blocks, work = np.full(2 * 144, 7, np.uint8), np.full((2, 256), 7, np.float32)
    sums, factor = np.full((2, 2), 7.0), given.factor.ctypes.data

    def call(
        *, backend: int = 0, kind: int = 12, row_type: int = 0, n_rows: int = 2, n_cols: int = 256,
        factor: int | None = factor, factor_size: int = 4 << 16, work_size: int = 2048, blocks_size: int = 288,
        importance: npt.NDArray[np.float32] = given.importance,
    ) -> int:  # fmt: skip
        status: int = _library.library().quench_feedback(
            backend, kind, row_type, rows.ctypes.data, 1024, n_rows, n_cols, importance.ctypes.data, factor,
            factor_size, given.scales.ctypes.data, work.ctypes.data, work_size, blocks.ctypes.data, blocks_size,
            sums[0].ctypes.data, sums[1].ctypes.data, ctypes.byref(_library.Report()),
        )  # fmt: skip
        return status

    assert call(backend=99) == _library.BAD_BACKEND
    assert call(kind=20) == call(kind=5) == call(kind=0) == call(row_type=8) == _library.BAD_TYPE
    for shape in ({"n_cols": 128}, {"n_cols": 0}, {"n_rows": -1}, {"n_rows": 1 << 60}, {"n_cols": 1 << 40}):
        assert call(**shape) == _library.BAD_SHAPE, shape
    for buffer in ({"factor": None}, {"factor": given.factor.ctypes.data + 1}, {"factor_size": (4 << 16) - 4},
                   {"factor_size": (4 << 16) + 4}, {"work_size": 2044}, {"blocks_size": 287}):  # fmt: skip
        assert call(**buffer) == _library.BAD_BUFFER, buffer
    assert call(importance=np.full(256, np.nan, np.float32)) == _library.BAD_IMPORTANCE
    assert (blocks == 7).all() and (work == 7).all() and (sums == 7).all()
    assert call() == _library.OK

    space, kept = np.full((64, 256), 7, np.float32), blocks.copy()

    def polish(
        *, backend: int = 0, kind: int = 12, row_type: int = 0, n_rows: int = 2, n_cols: int = 256,
        covariance: int | None = given.covariance.ctypes.data, covariance_size: int = 4 << 16, sweeps: int = 3,
        work_size: int = 4 * 64 * 256, blocks_size: int = 288,
    ) -> int:  # fmt: skip
        status: int = _library.library().quench_polish(
            backend, kind, row_type, rows.ctypes.data, 1024, n_rows, n_cols, covariance, covariance_size, sweeps,
            space.ctypes.data, work_size, blocks.ctypes.data, blocks_size, sums[0].ctypes.data, sums[1].ctypes.data,
        )  # fmt: skip
        return status

    assert polish(backend=99) == _library.BAD_BACKEND
    assert polish(kind=20) == polish(kind=0) == polish(row_type=8) == _library.BAD_TYPE
    assert polish(n_cols=128) == polish(n_rows=-1) == polish(n_cols=1 << 40) == _library.BAD_SHAPE
    for buffer in (
        {"covariance": None},
        {"covariance": given.covariance.ctypes.data + 1},
        {"sweeps": -1},
        {"covariance_size": (4 << 16) - 4},
        {"work_size": 4 * 64 * 256 - 4},
        {"blocks_size": 287},
    ):
        assert polish(**buffer) == _library.BAD_BUFFER, buffer
    assert (space == 7).all() and (blocks == kept).all()
    assert polish() == _library.OK
