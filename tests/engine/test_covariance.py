"""Covariances of the inputs of Pocket's matrices: their diagonal is the importance matrix, what is shared is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import converter
from app.engine.capture import Capture
from app.engine.covariance import Covariances, sum_bytes
from app.engine.model import Model
from app.protocol import LoadOptions
from converter import ConversionSpec
from converter.spec import QuenchError

TEXT = "The fox counted the trees at the edge of the forest: one, two, three, and then a fourth behind the river. " * 3
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NAMES = [f"blk.{layer}.{role}.weight" for layer in range(6) for role in ROLES]
OPTIONS = LoadOptions(context=256, threads=1)


@pytest.fixture(scope="module")
def covariances() -> Covariances:
    return Covariances()


@pytest.fixture(scope="module")
def model(pocket_gguf: Callable[[str], Path], covariances: Covariances) -> Iterator[Model]:
    with Model.load(str(pocket_gguf("BF16")), OPTIONS, repack=False, capture=covariances) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def window(model: Model) -> list[int]:
    return model.tokenize(TEXT, special=False, add_special=True)[:96]


def test_the_diagonal_is_that_of_the_importance_matrix(
    model: Model, covariances: Covariances, window: list[int], pocket_gguf: Callable[[str], Path]
) -> None:
    """The oracle are the sums that llama-imatrix's own numbers come from, gathered by another module."""
    covariances.watch(NAMES)
    model.window_logits(window, 0)
    covariances.check()
    capture = Capture()
    with Model.load(str(pocket_gguf("BF16")), OPTIONS, repack=False, capture=capture) as other:
        other.window_logits(window, 0)
        capture.check()
    assert set(covariances.leaders) == set(NAMES)
    for name in NAMES:
        found = covariances.sums[covariances.leaders[name]]
        np.testing.assert_allclose(np.diagonal(found.sums), capture.sums[name].squares[0], rtol=1e-4)
        np.testing.assert_array_equal(found.sums, found.sums.T)
        assert found.rows == len(window) and found.sums.dtype == np.float64
        assert np.linalg.eigvalsh(found.sums)[0] > -1e-5 * np.trace(found.sums)


def test_matrices_with_the_same_input_share_it(model: Model, covariances: Covariances, window: list[int]) -> None:
    covariances.watch(NAMES, keep=False)
    model.window_logits(window, 0)
    covariances.check()
    assert covariances.sums == {}
    groups = sorted(
        sorted(name.removesuffix(".weight") for name in group) for group in covariances.groups(NAMES).values()
    )
    shared = (["attn_k", "attn_q", "attn_v"], ["attn_output"], ["ffn_down"], ["ffn_gate", "ffn_up"])
    assert groups == [[f"blk.{layer}.{role}" for role in group] for layer in range(6) for group in shared]
    assert covariances.columns["blk.2.ffn_down.weight"] == 768 and sum_bytes(768) == 12 * 768 * 768


def test_sums_add_up_with_their_weights_and_only_of_what_is_watched(
    model: Model, covariances: Covariances, window: list[int]
) -> None:
    name = "blk.1.attn_output.weight"
    sums = []
    for weights in ((1.0,), (0.5, 2.0)):
        covariances.watch([name])
        for weight in weights:
            covariances.weight = weight
            model.window_logits(window, 0)
            covariances.check()
        covariances.weight = 1.0
        assert set(covariances.sums) == {name}
        sums.append(covariances.sums[name].sums)
    np.testing.assert_allclose(sums[1], 2.5 * sums[0], rtol=1e-6, atol=1e-9)


def test_nothing_watched_leaves_the_logits_alone(model: Model, covariances: Covariances, window: list[int]) -> None:
    covariances.watch(())
    before = model.window_logits(window, 8).copy()
    covariances.watch(NAMES[:7])
    model.window_logits(window, 0)
    covariances.check()
    covariances.watch(())
    np.testing.assert_array_equal(model.window_logits(window, 8), before)


def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path, pocket: Path) -> None:
    """A norm's weight is broken, so that everything behind it is."""
    target = tmp_path / "broken.gguf"
    converter.convert(ConversionSpec(str(pocket), str(target), ("F32",)))
    import gguf

    norm = next(tensor for tensor in gguf.GGUFReader(str(target)).tensors if tensor.name == "blk.2.attn_norm.weight")
    with target.open("r+b") as file:
        file.seek(norm.data_offset)
        file.write(np.full(256, 3e38, np.float32).tobytes())
    covariances = Covariances()
    with Model.load(str(target), OPTIONS, repack=False, capture=covariances) as broken:
        covariances.watch(["blk.2.attn_q.weight"])
        broken.window_logits(list(range(20, 60)), 0)
        with pytest.raises(QuenchError) as caught:
            covariances.check()
    assert caught.value.code == "not_finite" and "blk.2.attn_q" in caught.value.detail
