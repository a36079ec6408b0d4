"""Types of tensors against llama.cpp's own choice, and what the list of recipes says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from converter.recipes import (
    COPY,
    RECIPES,
    UNWRITTEN,
    Overrides,
    checked,
    converted_type,
    recipe,
    resolve,
    rule_counts,
    types,
)
from converter.sources.base import RecipeHints
from converter.spec import QuenchError

from .llama_quantize import chosen_types, synthetic


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str = "F16"


@dataclass(frozen=True)
class Model:
    """A model's outline. ``width`` is the embedding's, ``wide`` the feed-forward's."""

    architecture: str = "llama"
    layers: int = 6
    heads: int = 4
    kv_heads: int = 4
    experts: int = 0
    tied: bool = False
    fused: bool = False
    width: int = 256
    wide: int = 512

    @property
    def hints(self) -> RecipeHints:
        return RecipeHints(self.architecture, self.layers, self.heads, self.kv_heads, self.experts)

    def tensors(self) -> list[Tensor]:
        shapes: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (512, self.width))]
        shapes += [("output_norm.weight", (self.width,))]
        if not self.tied:
            shapes.append(("output.weight", (512, self.width)))
        for layer in range(self.layers):
            shapes += [(f"blk.{layer}.{name}", shape) for name, shape in self._layer()]
        return [Tensor(name, shape, "F32" if len(shape) == 1 else "F16") for name, shape in shapes]

    def _layer(self) -> list[tuple[str, tuple[int, ...]]]:
        square, up, down = (self.width, self.width), (self.wide, self.width), (self.width, self.wide)
        parts: list[tuple[str, tuple[int, ...]]] = [("attn_norm.weight", (self.width,))]
        if self.fused:
            parts += [("attn_qkv.weight", (3 * self.width, self.width)), ("attn_qkv.bias", (3 * self.width,))]
        else:
            parts += [(f"attn_{part}.weight", square) for part in "qkv"]
        parts.append(("attn_output.weight", square))
        if self.experts:
            many = (self.experts,)
            parts += [("ffn_gate_inp.weight", (self.experts, self.width))]
            parts += [("ffn_gate_exps.weight", many + up), ("ffn_up_exps.weight", many + up)]
            parts += [("ffn_down_exps.weight", many + down)]
        else:
            parts += [("ffn_gate.weight", up), ("ffn_up.weight", up), ("ffn_down.weight", down)]
        return parts


MODELS = {
    "small": Model(),
    "40 layers, gqa 4": Model(layers=40, heads=8, kv_heads=2),
    "qwen2 tied": Model("qwen2", layers=24, heads=14, kv_heads=2, tied=True),
    "qwen2, rows not of 256": Model("qwen2", layers=24, heads=14, kv_heads=2, tied=True, width=224, wide=304),
    "rows not of 32": Model(layers=5, width=200, wide=240),
    "qwen3, gqa 8": Model("qwen3", layers=36, heads=16, kv_heads=2),
    "mixtral": Model(layers=32, heads=8, kv_heads=2, experts=8),
    "16 experts": Model(layers=24, heads=8, kv_heads=8, experts=16),
    "70B": Model(layers=80, heads=64, kv_heads=8),
    "65B": Model(layers=80, heads=8, kv_heads=8),
    "80 layers of qwen2": Model("qwen2", layers=80, heads=8, kv_heads=8),
    "80 layers, 8 experts": Model(layers=80, heads=8, kv_heads=2, experts=8),
    "falcon": Model("falcon", layers=32, heads=8, kv_heads=1, fused=True),
    "one layer": Model(layers=1),
    "seventeen layers": Model(layers=17, heads=12, kv_heads=4),
}

EVERY = {**RECIPES, **UNWRITTEN}
FIXED = [name for name in RECIPES if name != "auto"]
DECIDED = [*FIXED, *(name for name in UNWRITTEN if name != "Q1_0")]
"""Q1_0 has no type to fall back to: llama.cpp gives up where its blocks do not fit."""


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("synthetic")

    def make(model: Model) -> Path:
        path = folder / f"{abs(hash(model))}.gguf"
        if not path.exists():
            tensors = [(tensor.name, tensor.shape) for tensor in model.tensors()]
            synthetic(
                path,
                model.architecture,
                tensors,
                layers=model.layers,
                heads=model.heads,
                kv_heads=model.kv_heads,
                experts=model.experts,
                embedding=model.width,
            )
        return path

    return make


def ours(model: Model, name: str, overrides: Overrides | None = None) -> dict[str, str]:
    tensors = model.tensors()
    chosen = types(model.hints, tensors, EVERY[name], overrides, "gguf")
    return {tensor.name: kind for tensor, (kind, _) in zip(tensors, chosen, strict=True)}


@pytest.mark.parametrize("name", DECIDED)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_types_equal_llama_cpp(model: Model, name: str, file_of) -> None:
    assert ours(model, name) == chosen_types(file_of(model), EVERY[name].file_type)


OPTIONS = {
    "rule": ({"rules": [(r"blk\.[0-2]\.ffn_down", "Q8_0")]}, Overrides(((r"blk\.[0-2]\.ffn_down", "Q8_0"),))),
    "values rule": ({"rules": [("attn_v", "Q5_K")]}, Overrides((("attn_v", "Q5_K"),))),
    "first rule wins": (
        {"rules": [("ffn", "Q6_K"), ("ffn_down", "Q8_0")]},
        Overrides((("ffn", "Q6_K"), ("ffn_down", "Q8_0"))),
    ),
    "output": ({"output_type": "Q8_0"}, Overrides(output_type="Q8_0")),
    "embedding": ({"embedding_type": "Q3_K"}, Overrides(embedding_type="Q3_K")),
    "pure": ({"pure": True}, Overrides(pure=True)),
    "leave output": ({"leave_output": True}, Overrides(leave_output=True)),
    "output and rule": (
        {"output_type": "F16", "rules": [("token_embd", "Q4_0"), ("output", "Q5_0")]},
        Overrides((("token_embd", "Q4_0"), ("output", "Q5_0")), output_type="F16"),
    ),
    "pure with rule": ({"pure": True, "rules": [("attn_k", "Q6_K")]}, Overrides((("attn_k", "Q6_K"),), pure=True)),
}


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q8_0", "F16", "Q4_1", "IQ4_NL", "IQ4_XS"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_options_equal_llama_cpp(name: str, option: str, tied: bool, file_of) -> None:
    model = Model(layers=17, heads=12, kv_heads=4, tied=tied)
    theirs, mine = OPTIONS[option]
    assert ours(model, name, checked(mine)) == chosen_types(file_of(model), RECIPES[name].file_type, **theirs)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K_S", "Q4_K_M", *(n for n in EVERY if "IQ" in n)])
@pytest.mark.parametrize(
    "model", [Model(layers=24), MODELS["mixtral"], MODELS["falcon"]], ids=["24 layers", "mixtral", "falcon"]
)
def test_an_importance_matrix_changes_the_same_types(name: str, model: Model, file_of) -> None:
    importance = {"blk.0.ffn_down.weight": np.ones(model.wide, np.float32)}
    theirs = chosen_types(file_of(model), EVERY[name].file_type, importance=importance)
    assert ours(model, name, Overrides(has_imatrix=True)) == theirs


def test_a_rule_shifts_the_layers_that_get_more_bits() -> None:
    """llama.cpp's counters stand still where a rule decides; the shift must be the same (and be seen in the plan)."""
    model = Model(layers=16)
    plain = ours(model, "Q4_K_M")
    ruled = ours(model, "Q4_K_M", Overrides(((r"blk\.[01]\.ffn_down", "Q4_K"),)))
    rich = [name for name, kind in plain.items() if kind == "Q6_K" and "ffn_down" in name]
    shifted = [name for name, kind in ruled.items() if kind == "Q6_K" and "ffn_down" in name]
    assert rich[:2] == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert shifted[:2] == ["blk.2.ffn_down.weight", "blk.3.ffn_down.weight"]


def test_every_exception_has_a_reason_in_words() -> None:
    model = MODELS["mixtral"]
    for tensor, (kind, why) in zip(
        model.tensors(), types(model.hints, model.tensors(), RECIPES["Q4_K_M"]), strict=True
    ):
        if kind != "Q4_K":
            assert len(why.split()) >= 3, tensor.name


def test_a_folder_keeps_vectors_and_norms_in_32_bits() -> None:
    model = Model(experts=8)
    tensors = [Tensor(t.name, t.shape, "BF16") for t in model.tensors()]
    for name in ("F16", "BF16", "auto"):
        chosen = types(model.hints, tensors, RECIPES[name], kind="hf")
        found = {tensor.name: kind for tensor, (kind, _) in zip(tensors, chosen, strict=True)}
        sixteen = "BF16" if name == "auto" else name
        assert found["blk.0.attn_norm.weight"] == found["output_norm.weight"] == "F32"
        assert found["blk.0.ffn_gate_inp.weight"] == "F32"
        assert found["blk.0.attn_q.weight"] == found["token_embd.weight"] == sixteen


def test_auto_is_the_type_of_the_first_matrix() -> None:
    vector, hints = Tensor("a", (4,), "F16"), Model().hints
    tensors = [vector, Tensor("b", (4, 4), "BF16"), Tensor("c", (4, 4), "F16")]
    assert resolve("auto", hints, tensors).name == "BF16"
    assert resolve("auto", hints, [vector, Tensor("b", (4, 4), "F32"), tensors[-1]]).name == "F16"
    assert resolve("AUTO", hints, [Tensor("b", (4, 4), "F32")]).name == "F16"
    scales = replace(hints, half="BF16")
    assert resolve("auto", scales, [vector, Tensor("b", (4, 4), "F32")]).name == "BF16"
    assert resolve("auto", scales, [Tensor("b", (4, 4), "F32"), tensors[-1]]).name == "F16", (
        "a matrix's own comes first"
    )
    assert converted_type(vector, "BF16")[0] == "F32"


@pytest.mark.parametrize(
    "rules", [(("ffn_down", "Q6_K"), (r"blk\.[01]\.", "Q8_0"), ("attn_w", "Q4_K"), ("norm", "F32"))]
)
def test_rules_say_what_they_match_and_what_they_win(rules: tuple[tuple[str, str], ...]) -> None:
    model = Model(layers=4)
    overrides = checked(Overrides(rules))
    counts = [(c.matches, c.wins) for c in rule_counts(model.hints, model.tensors(), RECIPES["Q4_K_M"], overrides)]
    assert counts == [(4, 4), (16, 12), (0, 0), (5, 0)]  # the second loses two to the first and two norms
    plain = rule_counts(model.hints, model.tensors(), RECIPES["F16"], overrides)
    assert [(c.matches, c.wins) for c in plain] == [(4, 0), (16, 0), (0, 0), (5, 0)]


def test_copy_keeps_every_type() -> None:
    tensors = [Tensor("blk.0.attn_v.weight", (4, 256), "Q5_K"), Tensor("token_embd.weight", (4, 256), "IQ3_S")]
    assert recipe("COPY") is COPY
    kinds = [kind for kind, _ in types(Model().hints, tensors, COPY, Overrides((("attn", "Q8_0"),)), "gguf")]
    assert kinds == ["Q5_K", "IQ3_S"]


@pytest.mark.parametrize("name", UNWRITTEN)
def test_types_that_cannot_be_written_name_one_to_take(name: str) -> None:
    with pytest.raises(QuenchError) as caught:
        recipe(f"MOSTLY_{name}")
    assert (caught.value.code, caught.value.exit_status) == ("unwritten_type", 2)
    assert UNWRITTEN[name].instead in caught.value.hint
    assert UNWRITTEN[name].instead in RECIPES


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), (" f16 ", "F16"), ("q3_k", "Q3_K_M"), ("MOSTLY_IQ4_XS", "IQ4_XS"),
        ("LLAMA_FTYPE_MOSTLY_Q4_K_M", "Q4_K_M"), ("ALL_F32", "F32"),
    ],
)  # fmt: skip
def test_names_are_forgiving(given: str, name: str) -> None:
    assert recipe(given).name == name


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(QuenchError) as caught:
        recipe("Q9_K")
    assert (caught.value.code, caught.value.exit_status) == ("unknown_type", 2)
    assert "Q4_K_M" in caught.value.detail
    with pytest.raises(QuenchError, match="mixes, not tensor types") as caught:
        checked(Overrides((("ffn", "Q4_K_M"),)))
    assert caught.value.code == "unknown_type"
    with pytest.raises(QuenchError) as caught:
        checked(Overrides((("ffn_(", "Q4_K"),)))
    assert caught.value.code == "bad_pattern"
