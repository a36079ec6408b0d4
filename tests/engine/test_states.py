"""The states after every layer, against the model's own output computed from the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from app.engine.model import Model
from app.engine.states import hidden_states
from app.protocol import LoadOptions
from app.quality.drift import drift

TEXT = "Once upon a time there was a fox who lived at the edge of a forest and wanted to learn how to count to ten. "


@pytest.fixture(scope="module")
def model(pocket_gguf: Callable[[str], Path]) -> Iterator[Model]:
    with Model.load(str(pocket_gguf("F32")), LoadOptions(context=512, threads=1)) as loaded:
        yield loaded


def test_the_last_state_makes_the_logits(model: Model) -> None:
    """Norm and output matrix applied by numpy, from the file as gguf-py reads it."""
    tokens = model.tokenize(TEXT * 3, special=False, add_special=True)
    states = hidden_states(model, tokens, 20)
    assert states.shape == (6, 20, 256)
    reader = gguf.GGUFReader(model.path)
    weights = {tensor.name: tensor.data for tensor in reader.tensors}
    epsilon = float(reader.fields["llama.attention.layer_norm_rms_epsilon"].contents())
    last = states[-1].astype(np.float64)
    normed = last / np.sqrt((last**2).mean(axis=1, keepdims=True) + epsilon) * weights["output_norm.weight"]
    logits = normed @ weights["token_embd.weight"].astype(np.float64).T
    found = model.window_logits(tokens, len(tokens) - 20)
    np.testing.assert_allclose(found, logits, atol=2e-4 * np.abs(logits).max())


def test_the_models_own_context_stays_as_it_is(model: Model) -> None:
    tokens = model.tokenize(TEXT, special=False, add_special=True)
    before = model.window_logits(tokens, 5).copy()
    held = list(model.held.tokens)
    hidden_states(model, tokens, 4)
    assert list(model.held.tokens) == held
    np.testing.assert_array_equal(model.window_logits(tokens, 5), before)


def test_the_states_of_each_layer_depend_on_it(model: Model, pocket_gguf: Callable[[str], Path]) -> None:
    """A model against itself has no drift; a coarser one has more of it, in every layer."""
    tokens = model.tokenize(TEXT * 2, special=False, add_special=True)
    reference = [hidden_states(model, tokens, 16)]
    assert drift(reference, reference) == (0.0,) * 6
    found = {}
    for kind in ("Q8_0", "Q2_K"):
        with Model.load(str(pocket_gguf(kind)), LoadOptions(context=512, threads=1)) as other:
            candidate = [hidden_states(other, tokens, 16)]
        found[kind] = drift(reference, candidate)
        error = candidate[0][2].astype(np.float64) - reference[0][2]
        assert found[kind][2] == pytest.approx(np.linalg.norm(error) / np.linalg.norm(reference[0][2]), rel=1e-6)
    assert all(0 < fine < coarse / 5 for fine, coarse in zip(found["Q8_0"], found["Q2_K"], strict=True))
    assert drift(reference, []) == ()
