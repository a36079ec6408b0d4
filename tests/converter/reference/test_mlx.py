"""Folders that mlx-lm wrote, with experts stacked and bits mixed, or of 16 bits: the numbers are the library's.

pytest -m slow tests/converter/reference/test_mlx.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converter import ConversionSpec, convert, open_model
from tests.converter.reference.compare import Reference
from tests.converter.reference.models import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIXED = {"": 4, "switch_mlp.down_proj": 6, "layers.1.self_attn": 8, "switch_mlp.gate_proj": 3, "embed_tokens": 0}
# Model -> what mlx-lm calls the stacks of its experts, by GGUF's names.
FOLDERS = {
    "qwen3-moe": "model.layers.{i}.mlp.switch_mlp.{part}_proj.weight",
    "qwen2-moe": "model.layers.{i}.mlp.switch_mlp.{part}_proj.weight",
    "mixtral": "model.layers.{i}.block_sparse_moe.switch_mlp.{part}_proj.weight",
    "glm-4.5": "model.layers.{i}.mlp.switch_mlp.{part}_proj.weight",
    "olmoe": "model.layers.{i}.mlp.switch_mlp.{part}_proj.weight",
    "lfm2-moe": "model.layers.{i}.feed_forward.switch_mlp.{part}_proj.weight",
    "qwen3": "",
}
PLAIN = {"ffn_down.weight": "mlp.down_proj.weight", "attn_output.weight": "self_attn.o_proj.weight"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with Reference(tmp_path_factory.mktemp("reference")) as process:
        yield process


@pytest.mark.parametrize("bits", [MIXED, {}], ids=["mixed", "16 bits"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_mlx_has_its_numbers(name: str, bits: dict[str, int], reference: Reference, tmp_path: Path) -> None:
    vocabulary, size = reference.vocabulary(MODELS[name].vocabulary)
    folder, output = tmp_path / "model", tmp_path / "mlx"
    reference.ask("build", name=name, folder=str(folder), vocabulary=str(vocabulary), size=size)
    answer = reference.ask("mlx", folder=str(folder), output=str(output), bits=bits)
    expected = np.load(answer["weights"])
    with open_model(output) as model, open_model(folder) as original:
        assert {t.name for t in model.tensors} == {t.name for t in original.tensors}
        compared = 0
        for tensor in model.tensors:
            theirs = _named(tensor.name, FOLDERS[name])
            if theirs in expected:
                found = tensor.rows(0, tensor.n_rows).reshape(tensor.shape)
                np.testing.assert_allclose(found, expected[theirs], rtol=1e-5, atol=1e-6, err_msg=tensor.name)
                compared += 1
        experts = sum("_exps." in tensor.name for tensor in model.tensors)
        assert compared > experts and (experts > 0) == bool(FOLDERS[name])
    result = convert(ConversionSpec(str(output), str(tmp_path / "out.gguf"), ("F16",)))
    assert result.outputs[0].checked is not None


def _named(target: str, stacks: str) -> str:
    """mlx-lm's name of what a GGUF tensor holds in the same order; empty for the others."""
    parts = target.split(".", 2)
    if parts[0] != "blk":
        return "model.embed_tokens.weight" if target == "token_embd.weight" else ""
    if "_exps." in parts[2]:
        return stacks.format(i=parts[1], part=parts[2].split("_")[1])
    return f"model.layers.{parts[1]}.{PLAIN[parts[2]]}" if parts[2] in PLAIN else ""
