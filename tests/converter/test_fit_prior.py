"""Types by rule of thumb: within the budget, and no worse than the recipe while the weights are not too wrong."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import converter
from converter import fit_prior, recipes
from converter.spec import QuenchError
from resources import path as resource

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


def model(recipe: str) -> tuple[dict[str, str], dict[str, dict[str, int]], int]:
    """Pocket's types in a recipe, the bytes of every type by gguf-py, and what the recipe takes."""
    with converter.open_model(resource("pocket")) as source:
        found = recipes.types(source.hparams, source.tensors, recipes.recipe(recipe), recipes.Overrides(), "hf")
        matrices = [(tensor, kind) for tensor, (kind, _) in zip(source.tensors, found, strict=True) if kind != "F32"]
        blocks = {kind: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] for kind in TYPES}
        sizes = {
            tensor.name: {kind: tensor.n_elements // block[0] * block[1] for kind, block in blocks.items()}
            for tensor, _ in matrices
        }
    standard = {tensor.name: kind for tensor, kind in matrices}
    return standard, sizes, sum(sizes[name][kind] for name, kind in standard.items())


@pytest.mark.parametrize("recipe", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M"])
def test_no_weights_within_the_doubt_make_it_worse_than_the_recipe(recipe: str) -> None:
    """The least favourable ones; where there is no gain with them, the recipe stays."""
    standard, sizes, budget = model(recipe)
    found = fit_prior.chosen(standard, sizes, budget, 6)
    assert found.keys() == standard.keys() and (found == standard) == (recipe == "Q5_K_M")
    assert sum(sizes[name][kind] for name, kind in found.items()) <= budget
    change = 0.0
    for name, kind in found.items():
        weight = fit_prior.weight(name, 6, tied=True)
        assert weight is not None
        more = weight * (fit_prior.ERRORS[kind] - fit_prior.ERRORS[standard[name]])
        change += more * 2.5 if more > 0 else more / 2.5
    assert change <= 0 and (found == standard or change < 0)


def test_more_room_is_used_and_too_little_is_said() -> None:
    standard, sizes, budget = model("Q4_K_M")
    larger = fit_prior.chosen(standard, sizes, budget + 200_000, 6)
    order = TYPES.index
    assert sum(sizes[name][kind] for name, kind in larger.items()) > budget + 150_000
    assert sum(order(larger[name]) - order(standard[name]) for name in standard) > 0
    with pytest.raises(QuenchError) as caught:
        fit_prior.chosen(standard, sizes, 1000, 6)
    assert caught.value.code == "too_small"


def test_what_the_rule_does_not_know_keeps_its_type() -> None:
    rng = np.random.default_rng(1)
    names = ["blk.0.ssm_in.weight", "blk.1.ffn_down_exps.weight", "blk.1.ffn_down.weight", "output.weight"]
    sizes = {name: dict(zip(TYPES, np.cumsum(rng.integers(1, 9, 6)).tolist(), strict=True)) for name in names}
    sizes["blk.1.ffn_down.weight"]["Q5_1"] = 30  # rows that K-quants do not fit
    found = fit_prior.chosen(dict.fromkeys(names, "Q4_K"), sizes, 10_000, 2)
    assert found == {**dict.fromkeys(names[:3], "Q4_K"), "output.weight": "Q8_0"}
