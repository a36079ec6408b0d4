"""Row energies against numpy in float64, and the same bits from every backend."""

from __future__ import annotations

import numpy as np
import pytest

import kernels

SHAPES = [(1, 1), (3, 7), (2, 256), (4, 8192), (2, 8200), (1, 20_001), (0, 32)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("source", ["float32", "float16", "bf16"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
def test_energy_is_the_weighted_sum_of_squares(shape: tuple[int, int], source: str, weighted: bool) -> None:
    random = np.random.default_rng(4)
    wide = random.standard_normal(shape, np.float32)
    if source == "bf16":
        rows = (wide.view(np.uint32) >> 16).astype(np.uint16)
        wide = (rows.astype(np.uint32) << 16).view(np.float32)
    else:
        rows = wide.astype(source)
    importance = random.random(shape[1], np.float32) if weighted else None
    factors = np.ones(shape[1]) if importance is None else importance.astype(np.float64)
    found = {
        name: kernels.energy(rows, importance, source=source, backend=name)  # type: ignore[arg-type]
        for name in kernels.backends()
    }
    expected = factors * rows.astype(np.float64) ** 2 if source != "bf16" else factors * wide.astype(np.float64) ** 2
    for name, sums in found.items():
        np.testing.assert_allclose(sums, expected.sum(axis=1), rtol=1e-12, err_msg=name)
        assert sums.tobytes() == found["reference"].tobytes(), name


def test_rows_may_be_any_distance_apart() -> None:
    whole = np.random.default_rng(5).standard_normal((6, 64), np.float32)
    out = np.empty(3)
    assert kernels.energy(whole[::2, 8:40], out=out) is out
    np.testing.assert_allclose(out, (whole[::2, 8:40].astype(np.float64) ** 2).sum(axis=1), rtol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    rows = np.zeros((2, 8), np.float32)
    for wrong in (
        lambda: kernels.energy(rows.astype(np.float64)),
        lambda: kernels.energy(rows, np.ones(7, np.float32)),
        lambda: kernels.energy(rows, out=np.empty(3)),
        lambda: kernels.energy(rows.T),
    ):
        with pytest.raises(kernels.KernelError) as caught:
            wrong()
        assert caught.value.code in {"bad_array", "bad_importance"}
