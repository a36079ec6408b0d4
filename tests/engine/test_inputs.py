"""Inputs of Pocket's products: how large they are, and products of changed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.engine.capture import Capture
from app.engine.grafts import Grafts
from app.engine.inputs import Inputs
from app.engine.model import Model
from app.protocol import LoadOptions
from converter import open_model
from converter.sources.base import SourceTensor

TEXT = "The fox counted the trees at the edge of the forest: one, two, three, and then a fourth behind the river. " * 2
OPTIONS = LoadOptions(context=128, threads=1)
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NAMES = [f"blk.{layer}.{role}.weight" for layer in range(6) for role in ROLES]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs()


@pytest.fixture(scope="module")
def model(pocket_gguf: Callable[[str], Path], inputs: Inputs) -> Iterator[Model]:
    with Model.load(str(pocket_gguf("BF16")), OPTIONS, repack=False, capture=inputs) as loaded:
        yield loaded


def window(model: Model) -> list[int]:
    return model.tokenize(TEXT, special=False, add_special=True)[:48]


def logits_of(model: Model, inputs: Inputs) -> npt.NDArray[np.float32]:
    found = model.window_logits(window(model), 0).copy()
    inputs.check()
    return found


@dataclass
class Doubled:
    """A BF16 tensor times two, which is exact."""

    own: SourceTensor

    def __post_init__(self) -> None:
        self.shape, self.type = self.own.shape, self.own.type
        self.n_rows, self.row_bytes = self.own.n_rows, self.own.row_bytes

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        rows = 2 * self.own.rows(start, stop)
        return (rows.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def test_sizes_are_those_of_the_importance_matrix(
    model: Model, inputs: Inputs, pocket_gguf: Callable[[str], Path]
) -> None:
    with inputs.measured(NAMES):
        logits_of(model, inputs)
    capture = Capture()
    with Model.load(str(pocket_gguf("BF16")), OPTIONS, repack=False, capture=capture) as other:
        other.window_logits(window(model), 0)
        capture.check()
    assert set(inputs.sizes) == set(NAMES)
    for name in NAMES:
        size = inputs.sizes[name]
        np.testing.assert_allclose(size.squares, capture.sums[name].squares[0], rtol=1e-4)
        assert size.rows == 48
        # sum x^2 lies between what one token and what all with the largest |x| would give, and so does the sum of |x|.
        assert (size.squares <= 48 * np.square(size.most.astype(float)) * (1 + 1e-5)).all()
        assert (size.squares >= np.square(size.most.astype(float)) * (1 - 1e-5)).all()
        assert (np.square(size.total) <= 48 * size.squares * (1 + 1e-5)).all()
        assert (np.square(size.total) >= size.squares * (1 - 1e-5)).all()
    assert inputs.leaders["blk.2.attn_v.weight"] == inputs.leaders["blk.2.attn_k.weight"] == "blk.2.attn_q.weight"
    assert inputs.leaders["blk.2.ffn_down.weight"] == "blk.2.ffn_down.weight"
    assert "norm" in inputs.sizes["blk.2.attn_q.weight"].source
    assert "norm" not in inputs.sizes["blk.2.ffn_down.weight"].source


def test_a_change_reaches_its_own_product_alone(
    model: Model, inputs: Inputs, pocket_gguf: Callable[[str], Path]
) -> None:
    """Twice the input is twice the weights, to the last bit; keys and values still read what the norm has made."""
    own = logits_of(model, inputs)
    with inputs.changed({name: lambda x: x for name in NAMES}):
        np.testing.assert_array_equal(logits_of(model, inputs), own)
    changed = ("blk.0.attn_q.weight", "blk.3.ffn_gate.weight", "blk.5.ffn_down.weight")
    with inputs.changed({name: lambda x: 2 * x for name in changed}):
        found = logits_of(model, inputs)
    assert np.abs(found - own).max() > 0.1
    grafts = Grafts(model)
    with open_model(pocket_gguf("BF16")) as file:
        parts = {tensor.name: Doubled(tensor) for tensor in file.tensors if tensor.name in changed}
        with grafts.replaced(parts):
            np.testing.assert_array_equal(found, logits_of(model, inputs))
    np.testing.assert_array_equal(logits_of(model, inputs), own)


def test_what_goes_wrong_in_a_change_is_told_after_the_call(model: Model, inputs: Inputs) -> None:
    def broken(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        raise ArithmeticError("no such input")

    own = logits_of(model, inputs)
    with inputs.changed({NAMES[0]: broken}), pytest.raises(ArithmeticError, match="no such input"):
        logits_of(model, inputs)
    np.testing.assert_array_equal(logits_of(model, inputs), own)
