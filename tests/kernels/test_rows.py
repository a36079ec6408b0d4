"""Rows of logits against 80-bit numpy (float64 where there is no wider float), on every backend, and all backends
against each other bit by bit."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import KernelError

BACKENDS = kernels.backends()
SIZES = [1, 2, 31, 32, 33, 63, 64, 65, 1000, 4096, 4097, 32000, 128256, 262144]
SMALL = [size for size in SIZES if size <= 4097]

LOG_SUM_ERROR = 1.2e-8
"""Of ln(sum(exp)), in nats: the exponential's own bound of 1.1e-8, and sums in double."""

Rows = np.ndarray[Any, np.dtype[np.float32]]


def gaussian(size: int, seed: int) -> tuple[Rows, Rows]:
    """A language model's spread, and a candidate as far as a Q4_K one: KL about 0.01."""
    random = np.random.default_rng(seed)
    reference = (random.standard_normal((3, size)) * 3).astype(np.float32)
    return reference, (reference + 0.15 * random.standard_normal((3, size))).astype(np.float32)


def near(size: int, seed: int) -> tuple[Rows, Rows]:
    """KL about 1e-4."""
    random = np.random.default_rng(seed)
    reference = (random.standard_normal((3, size)) * 3 - 8).astype(np.float32)
    return reference, (reference + 0.014 * random.standard_normal((3, size))).astype(np.float32)


def peaked(size: int, seed: int) -> tuple[Rows, Rows]:
    """One token has nearly all probability."""
    reference, candidate = gaussian(size, seed)
    reference[:, size // 2] += 40
    candidate[:, size // 2] += 38
    return reference, candidate


def flat(size: int, seed: int) -> tuple[Rows, Rows]:
    random = np.random.default_rng(seed)
    reference = (random.standard_normal((3, size)) * 0.01).astype(np.float32)
    return reference, reference[:, ::-1].copy()


def equal(size: int, seed: int) -> tuple[Rows, Rows]:
    """All logits of a row are equal, but other ones in each row."""
    columns = np.array([[0.0], [-7.3], [123.456]], np.float32)
    return np.repeat(columns, size, axis=1), np.repeat(columns[::-1], size, axis=1)


def ties(size: int, seed: int) -> tuple[Rows, Rows]:
    random = np.random.default_rng(seed)
    return tuple(random.integers(-3, 4, (3, size)).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def one_and_the_rest(size: int, seed: int) -> tuple[Rows, Rows]:
    """A tail of one value: no rounding averages out."""
    reference, candidate = np.full((3, size), 0.123, np.float32), np.full((3, size), -0.456, np.float32)
    reference[:, -1], candidate[:, 0] = 11.7, 11.9
    return reference, candidate


def alone(size: int, seed: int) -> tuple[Rows, Rows]:
    """One token is possible, all others are not."""
    rows = np.full((3, size), -np.inf, np.float32)
    rows[:, size // 3] = 5.5
    return rows, rows.copy()


def masked(size: int, seed: int) -> tuple[Rows, Rows]:
    """Some tokens are impossible for both."""
    reference, candidate = gaussian(size, seed)
    reference[:, 1::3] = candidate[:, 1::3] = -np.inf
    return reference, candidate


def high(size: int, seed: int) -> tuple[Rows, Rows]:
    reference, candidate = gaussian(size, seed)
    return reference + np.float32(1e4), candidate + np.float32(1e4)


def low(size: int, seed: int) -> tuple[Rows, Rows]:
    reference, candidate = gaussian(size, seed)
    return reference - np.float32(1e4), candidate + np.float32(16)


def steep(size: int, seed: int) -> tuple[Rows, Rows]:
    """Every column is larger than all before: the scale changes all the time, and once from far to near."""
    ramp = np.linspace(-900, 150, size, dtype=np.float32)
    return np.stack([ramp, ramp + 60, ramp * 0.1]), np.stack([ramp * 0.999, ramp + 400, ramp * 0.1])


def denormal(size: int, seed: int) -> tuple[Rows, Rows]:
    random = np.random.default_rng(seed)
    reference = random.standard_normal((3, size)).astype(np.float32)
    candidate = np.nextafter(reference, np.float32(np.inf))
    reference[:, ::5] = np.float32(1e-44)
    candidate[:, ::5] = np.float32(-3e-45)
    return reference, candidate


def wide(size: int, seed: int) -> tuple[Rows, Rows]:
    random = np.random.default_rng(seed)
    return tuple((random.standard_normal((3, size)) * 60).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def lowest(size: int, seed: int) -> tuple[Rows, Rows]:
    """Tokens masked by the lowest float."""
    reference, candidate = gaussian(size, seed)
    reference[:, 1::2] = candidate[:, 1::2] = np.finfo(np.float32).min
    return reference, candidate


KINDS: list[Callable[[int, int], tuple[Rows, Rows]]] = [
    gaussian, near, peaked, flat, equal, ties, one_and_the_rest, alone, masked, high, low, steep, denormal, wide,
    lowest,
]  # fmt: skip


def wide_log_sum(rows: Rows) -> Any:
    x = rows.astype(np.longdouble)
    peak = x.max(axis=1, keepdims=True)
    return (peak + np.log(np.exp(x - peak).sum(axis=1, keepdims=True)))[:, 0]


def wide_kl(reference: Rows, candidate: Rows) -> Any:
    x, y = reference.astype(np.longdouble), candidate.astype(np.longdouble)
    p = x - wide_log_sum(reference)[:, None]
    q = y - wide_log_sum(candidate)[:, None]
    with np.errstate(invalid="ignore"):
        terms = np.exp(p) * (p - q)
    return np.where(np.exp(p) == 0, 0, terms).sum(axis=1)


def kinds_and_sizes() -> list[Any]:
    """The largest vocabularies only for the kinds whose sums they strain; the rest of them are slow."""
    strained = (near, one_and_the_rest, steep)
    return [
        pytest.param(
            kind,
            size,
            id=f"{kind.__name__}-{size}",
            marks=[pytest.mark.slow] if size > 32000 and kind not in strained else [],
        )
        for kind in KINDS
        for size in SIZES
    ]


@pytest.mark.parametrize(("kind", "size"), kinds_and_sizes())
def test_numbers_are_those_of_a_wider_float(kind: Callable[[int, int], tuple[Rows, Rows]], size: int) -> None:
    reference, candidate = kind(size, size)
    targets = np.array([0, size // 2, size - 1])
    log_sum, other = wide_log_sum(reference), wide_log_sum(candidate)
    kl, reverse = wide_kl(reference, candidate), wide_kl(candidate, reference)
    nll = (log_sum - reference[range(3), targets]).astype(np.float64)
    other_nll = (other - candidate[range(3), targets]).astype(np.float64)
    scores = kernels.score_rows(reference, targets, top_k=7)
    found = kernels.compare_rows(reference, candidate, targets)
    tolerance = LOG_SUM_ERROR + 1e-15 * np.abs(log_sum).max()
    assert np.abs(scores.log_sum - log_sum).max() <= tolerance
    np.testing.assert_allclose(scores.nll, nll, rtol=1e-15, atol=tolerance)
    np.testing.assert_allclose(found.nll, other_nll, rtol=1e-15, atol=tolerance)
    np.testing.assert_allclose(found.kl, kl.astype(np.float64), rtol=1e-7, atol=2e-8)
    np.testing.assert_allclose(found.reverse_kl, reverse.astype(np.float64), rtol=1e-7, atol=2e-8)
    np.testing.assert_allclose(found.shift, np.exp(-other_nll) - np.exp(-nll), atol=3e-8)
    assert np.array_equal(scores.log_sum, found.reference_log_sum)
    assert np.array_equal(scores.nll, found.reference_nll)
    assert (scores.nll >= 0).all()
    assert (found.kl >= 0).all() and (found.reverse_kl >= 0).all()

    order = np.argsort(-reference, axis=1, kind="stable")[:, :7]
    assert np.array_equal(scores.top, order)
    expected = np.take_along_axis(reference, order, axis=1) - log_sum[:, None]
    np.testing.assert_allclose(scores.top_log_probability, expected.astype(np.float64), rtol=1e-15, atol=tolerance)
    other_order = np.argsort(-candidate, axis=1, kind="stable")
    assert np.array_equal(found.reference_top, order[:, 0])
    assert np.array_equal(found.top, other_order[:, 0])
    assert np.array_equal(found.agree, order[:, 0] == other_order[:, 0])
    k = min(5, size)
    overlap = [len({*order[i, :k].tolist()} & {*other_order[i, :k].tolist()}) / k for i in range(3)]
    assert found.overlap.tolist() == overlap


def bits(arrays: tuple[Any, ...]) -> list[bytes]:
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all_backends_give_the_same_bits(kind: Callable[[int, int], tuple[Rows, Rows]]) -> None:
    for size in [*SMALL, 32000]:
        reference, candidate = kind(size, size + 1)
        targets = [0, size // 2, size - 1]
        results = [
            (
                *bits(kernels.score_rows(reference, targets, top_k=9, backend=backend)),
                *bits(kernels.compare_rows(reference, candidate, targets, backend=backend)),
                kernels.log_softmax(candidate, backend=backend).tobytes(),
            )
            for backend in BACKENDS
        ]
        assert all(result == results[-1] for result in results), size


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_no_distribution_are_nan_and_leave_their_neighbours_alone(backend: str) -> None:
    reference, candidate = gaussian(5000, 2)
    for bad in (np.nan, np.inf, 1e31):
        for column in (0, 17, 4096, 4999):
            damaged = reference.copy()
            damaged[1, column] = bad
            scores = kernels.score_rows(damaged, [1, 2, 3], top_k=3, backend=backend)
            assert np.isnan(scores.log_sum).tolist() == np.isnan(scores.nll).tolist() == [False, True, False]
            assert scores.top[1].tolist() == [-1, -1, -1]
            assert np.isnan(scores.top_log_probability[1]).all()
            assert np.isnan(kernels.log_softmax(damaged, backend=backend)[1]).all()
            for pair in ((damaged, candidate), (candidate, damaged)):
                found = kernels.compare_rows(*pair, [1, 2, 3], backend=backend)
                assert np.isnan(found.kl).tolist() == np.isnan(found.reverse_kl).tolist() == [False, True, False]
                assert found.overlap[1] == 0 and not found.agree[1]
                good = kernels.compare_rows(pair[0][::2], pair[1][::2], [1, 3], backend=backend)
                assert np.array_equal(found.kl[::2], good.kl)
    nothing = np.full((1, 70), -np.inf, np.float32)
    assert np.isnan(kernels.score_rows(nothing, backend=backend).log_sum).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("column", [0, 5, 63, 64, 4097, 6000])
def test_a_token_that_one_allows_and_the_other_does_not_is_infinite(backend: str, column: int) -> None:
    """Even one of a probability that no float holds; the other direction and the sums stay right."""
    reference, candidate = gaussian(6001, 4)
    reference[:, column] = [2.0, -80.0, -3000.0]
    candidate[:, column] = -np.inf
    found = kernels.compare_rows(reference, candidate, [column] * 3, backend=backend)
    assert np.isposinf(found.kl).all()
    assert np.isposinf(found.nll).all()
    np.testing.assert_allclose(found.reverse_kl, wide_kl(candidate, reference).astype(float), rtol=1e-7, atol=2e-8)
    assert np.array_equal(found.log_sum, kernels.score_rows(candidate, backend=backend).log_sum)
    assert np.isposinf(kernels.compare_rows(candidate, reference, backend=backend).reverse_kl).all()


def test_equal_rows_do_not_diverge() -> None:
    for kind in KINDS:
        reference, _ = kind(5000, 9)
        for candidate in (reference, reference.copy()):
            found = kernels.compare_rows(reference, candidate)
            assert not found.kl.any() and not found.reverse_kl.any(), kind
            assert found.agree.all() and (found.overlap == 1).all()


def test_small_divergences_keep_their_digits() -> None:
    """Means around 1e-4 to 1e-5 relative, over as many tokens as one short window has."""
    random = np.random.default_rng(1)
    for spread, offset in ((3.0, 0.0), (3.0, 7.0), (6.0, 0.0), (0.2, 0.0)):
        reference = (random.standard_normal((120, 4000)) * spread).astype(np.float32)
        candidate = (reference + 0.014 * random.standard_normal((120, 4000)) + offset).astype(np.float32)
        mean = float(wide_kl(reference, candidate).mean())
        assert 3e-5 < mean < 3e-4
        found = kernels.compare_rows(reference, candidate)
        assert found.kl.mean() == pytest.approx(mean, rel=1e-5)
        assert np.abs(found.kl - wide_kl(reference, candidate)).max() < 1e-8


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_exponential_is_good_to_a_tenth_of_a_float(backend: str) -> None:
    """A row (m, m + t) has log_sum m + log1p(e^t), which shows e^t; and a row of one value shows nothing else."""
    t = -np.geomspace(1e-6, 9.0, 20_000)
    for m in (0.0, 0.3, -17.7, 77.7, -199.0, 199.0, 5000.0):
        rows = np.stack([np.full(len(t), m), m + t], axis=1).astype(np.float32)
        exact = rows.astype(np.float64)
        distance = exact[:, 1] - exact[:, 0]
        log_sum = kernels.score_rows(rows, backend=backend).log_sum - exact[:, 0]
        assert np.abs(np.expm1(log_sum) / np.exp(distance) - 1).max() < 1.1e-8 + 4e-16 * abs(m) / np.exp(-9.0)


def test_a_row_of_equal_logits_is_the_logarithm_of_their_count() -> None:
    for size in SIZES:
        found = kernels.score_rows(np.full((1, size), 1.25, np.float32), [0])
        assert found.nll[0] == pytest.approx(math.log(size), abs=LOG_SUM_ERROR)
    assert kernels.score_rows(np.full((1, 1), 3.7, np.float32), [0]).nll[0] == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_softmax_is_rounded_once(backend: str) -> None:
    for kind in (gaussian, masked, high, peaked):
        rows, _ = kind(1003, 6)
        log_sum = kernels.score_rows(rows, backend=backend).log_sum
        wanted = (rows.astype(np.float64) - log_sum[:, None]).astype(np.float32)
        assert np.array_equal(kernels.log_softmax(rows, backend=backend), wanted)
        out = np.empty_like(rows)
        assert kernels.log_softmax(rows, out, backend=backend) is out
        assert np.array_equal(out, wanted)
        assert kernels.log_softmax(rows, rows, backend=backend) is rows
        assert np.array_equal(rows, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal"])
def test_the_largest_are_in_order(backend: str, order: str) -> None:
    random = np.random.default_rng(5)
    rows = random.integers(-50, 50, (2, 3000)).astype(np.float32)
    if order != "random":
        rows = np.sort(rows, axis=1)[:, :: -1 if order == "falling" else 1].copy()
    if order == "equal":
        rows[:] = 1
    rows[0, 100:] = -np.inf
    for k in (1, 64, 128):
        found = kernels.score_rows(rows, top_k=k, backend=backend)
        assert np.array_equal(found.top, np.argsort(-rows, axis=1, kind="stable")[:, :k])
    assert kernels.score_rows(rows[:, :3], top_k=64).top.shape == (2, 3)


def test_rows_may_be_apart_and_backwards() -> None:
    reference, candidate = gaussian(300, 7)
    wanted = kernels.compare_rows(reference, candidate, [1, 2, 3])
    space = np.full((9, 311), np.nan, np.float32)
    space[::3, 4:304] = reference
    turned = candidate[::-1].copy()
    assert bits(kernels.compare_rows(space[::3, 4:304], turned[::-1], [1, 2, 3])) == bits(wanted)
    assert kernels.compare_rows(reference[:0], candidate[:0], []).kl.shape == (0,)
    assert kernels.score_rows(reference[:0], top_k=3).top.shape == (0, 3)


def test_threads_share_nothing() -> None:
    reference, candidate = gaussian(20_000, 8)
    wanted = bits(kernels.compare_rows(reference, candidate, [1, 2, 3]))
    results: list[list[bytes]] = []
    threads = [
        threading.Thread(target=lambda: results.append(bits(kernels.compare_rows(reference, candidate, [1, 2, 3]))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4


GOOD = np.zeros((2, 10), np.float32)
ODD = np.frombuffer(b"x" + bytes(80), np.float32, 20, 1).reshape(2, 10)


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("bad_array", lambda: kernels.score_rows(GOOD.astype(np.float64))),  # type: ignore[arg-type]
        ("bad_array", lambda: kernels.score_rows(GOOD[0])),
        ("bad_array", lambda: kernels.score_rows([[1.0]])),  # type: ignore[arg-type]
        ("bad_array", lambda: kernels.score_rows(GOOD[:, ::2])),
        ("bad_array", lambda: kernels.score_rows(ODD)),
        ("bad_shape", lambda: kernels.score_rows(GOOD[:, :0])),
        ("bad_shape", lambda: kernels.score_rows(GOOD, top_k=0)),
        ("bad_shape", lambda: kernels.score_rows(GOOD, top_k=129)),
        ("bad_array", lambda: kernels.score_rows(GOOD, [1])),
        ("bad_array", lambda: kernels.score_rows(GOOD, [1.0, 2.0])),  # type: ignore[list-item]
        ("bad_target", lambda: kernels.score_rows(GOOD, [1, 10])),
        ("bad_target", lambda: kernels.compare_rows(GOOD, GOOD, [-1, 2])),
        ("bad_target", lambda: kernels.compare_rows(GOOD, GOOD, [1, 2**32])),
        ("bad_shape", lambda: kernels.compare_rows(GOOD, GOOD[:, :9])),
        ("bad_array", lambda: kernels.compare_rows(GOOD, GOOD.astype(np.float16))),  # type: ignore[arg-type]
        ("unknown_backend", lambda: kernels.compare_rows(GOOD, GOOD, backend="abacus")),
        ("bad_array", lambda: kernels.log_softmax(GOOD, np.zeros((2, 9), np.float32))),
        ("bad_array", lambda: kernels.log_softmax(GOOD, GOOD.astype(np.float64))),  # type: ignore[arg-type]
    ],
)
def test_refusals(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(KernelError) as caught:
        call()
    assert caught.value.code == code


def test_a_wrong_target_is_named() -> None:
    with pytest.raises(KernelError, match="target 10 of row 1") as caught:
        kernels.score_rows(GOOD, [1, 10])
    assert (caught.value.row, caught.value.column) == (1, 10)


def test_output_over_half_of_the_input_is_refused() -> None:
    space = np.zeros(25, np.float32)
    with pytest.raises(KernelError, match="apart"):
        kernels.log_softmax(space[:20].reshape(2, 10), space[5:].reshape(2, 10))
