"""Weights of another file inside a loaded model: the logits that a file with these weights gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import converter
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.protocol import LoadOptions
from converter import ConversionSpec, open_model

TEXT = "Once upon a time there was a fox who lived at the edge of a forest and wanted to learn how to count to ten. "
ONE = LoadOptions(context=256, threads=1)


@pytest.fixture(scope="module")
def model(pocket_gguf: Callable[[str], Path]) -> Iterator[Model]:
    with Model.load(str(pocket_gguf("BF16")), ONE, repack=False) as loaded:
        yield loaded


def logits_of(model: Model) -> np.ndarray:
    tokens = model.tokenize(TEXT, special=False, add_special=True)
    return model.window_logits(tokens, 4).copy()


@pytest.mark.parametrize(
    "rules",
    [
        (("blk.3.ffn_down", "Q3_K"),),
        (("token_embd", "Q4_K"), ("blk.0.attn_v", "Q6_K"), ("blk.5.ffn_gate", "Q2_K")),
    ],
    ids=["one", "embedding and output too"],
)
def test_a_graft_computes_as_a_file_with_these_weights(
    model: Model, pocket: Path, pocket_gguf: Callable[[str], Path], tmp_path: Path, rules: tuple[tuple[str, str], ...]
) -> None:
    """The oracle is the engine itself on a file that was converted with these types."""
    target = tmp_path / "mixed.gguf"
    spec = ConversionSpec(str(pocket), str(target), ("Q8_0",), tensor_types=rules)
    converter.convert(spec)
    with Model.load(str(target), ONE, repack=False) as other:
        expected = logits_of(other)
    own = logits_of(model)
    grafts = Grafts(model)
    with open_model(target) as file:
        before = {tensor.name: tensor for tensor in open_model(pocket_gguf("BF16")).tensors}
        parts = {tensor.name: tensor for tensor in file.tensors if tensor.type != before[tensor.name].type}
        assert set(parts) <= set(grafts.shapes) and {part.type for part in parts.values()} > {kind for _, kind in rules}
        with grafts.replaced(parts):
            np.testing.assert_array_equal(logits_of(model), expected)
    np.testing.assert_array_equal(logits_of(model), own)


def test_grafts_end_with_an_error_too(model: Model, pocket_gguf: Callable[[str], Path]) -> None:
    own = logits_of(model)
    grafts = Grafts(model)
    with open_model(pocket_gguf("Q2_K")) as file, ExitStack() as stack:
        part = next(tensor for tensor in file.tensors if tensor.name == "blk.1.ffn_up.weight")
        stack.enter_context(pytest.raises(ZeroDivisionError))
        with grafts.replaced({part.name: part}):
            assert not np.array_equal(logits_of(model), own)
            raise ZeroDivisionError
    np.testing.assert_array_equal(logits_of(model), own)


def test_what_is_no_weight_of_the_model_is_refused(model: Model, pocket_gguf: Callable[[str], Path]) -> None:
    grafts = Grafts(model)
    with open_model(pocket_gguf("Q2_K")) as file:
        part = next(tensor for tensor in file.tensors if tensor.name == "blk.1.ffn_up.weight")
        for name in ("blk.9.ffn_up.weight", "blk.1.ffn_down.weight"):
            with pytest.raises(ValueError, match="not a weight"), grafts.replaced({name: part}):
                pass
