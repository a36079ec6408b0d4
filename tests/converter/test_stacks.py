"""Experts stacked as MLX has them give the bytes of the checkpoint that has each by itself.

mlx-lm's own folders are the measure in ``reference/test_mlx.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import QuenchError, open_model
from tests.converter.folders import join, safetensors
from tests.converter.test_lora_layouts import weights_of, write

# Recorded checkpoint -> where its experts are, what a stack's gate, up and down are called there.
STACKED = {
    "qwen3-moe": ("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
    "mixtral": ("block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}),
    "lfm2-moe": ("feed_forward", {"gate": "w1", "up": "w3", "down": "w2"}),
}


def stacked(name: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    block, parts = STACKED[name]
    result = dict(weights)
    for layer in range(8):
        for stack, part in parts.items():
            home = f"model.layers.{layer}.{block}"
            names = [key for key in weights if key.startswith(f"{home}.experts.") and key.endswith(f".{part}.weight")]
            ordered = sorted(names, key=lambda key: int(key.split(".experts.")[1].split(".")[0]))
            if ordered:
                result[f"{home}.switch_mlp.{stack}_proj.weight"] = np.stack([result.pop(key) for key in ordered])
    assert len(result) < len(weights)
    return result


def contents(folder: Path) -> list[tuple[Any, ...]]:
    with open_model(folder) as model:
        return sorted((t.name, t.shape, t.raw(0, t.n_rows).tobytes()) for t in model.tensors)


@pytest.mark.parametrize("name", STACKED)
def test_stacks_are_taken_apart(name: str, tmp_path: Path) -> None:
    weights = weights_of(name)
    write(tmp_path / "apart", name, weights)
    write(tmp_path / "stacked", name, stacked(name, weights))
    assert contents(tmp_path / "stacked") == contents(tmp_path / "apart")


def test_a_filter_that_lies_the_other_way(tmp_path: Path) -> None:
    weights = weights_of("lfm2-moe")
    write(tmp_path / "usual", "lfm2-moe", weights)
    turned = {
        key: values.reshape(values.shape[0], values.shape[2], 1) if key.endswith("conv.conv.weight") else values
        for key, values in weights.items()
    }
    write(tmp_path / "turned", "lfm2-moe", turned)
    assert contents(tmp_path / "turned") == contents(tmp_path / "usual")


def test_a_stack_with_an_expert_too_few_is_named(tmp_path: Path) -> None:
    weights = stacked("qwen3-moe", weights_of("qwen3-moe"))
    key = "model.layers.1.mlp.switch_mlp.up_proj.weight"
    write(tmp_path / "model", "qwen3-moe", {**weights, key: weights[key][:-1]})
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path / "model")
    assert caught.value.code == "missing_tensor" and "experts.11.up_proj" in caught.value.detail


def test_a_stack_that_is_stored_as_integers_is_named(tmp_path: Path) -> None:
    weights = stacked("qwen3-moe", weights_of("qwen3-moe"))
    key = "model.layers.1.mlp.switch_mlp.up_proj.weight"
    header, data = safetensors(weights, "F32")
    write(tmp_path / "model", "qwen3-moe", weights)
    header[key]["dtype"] = "I32"
    (tmp_path / "model" / "model.safetensors").write_bytes(join(header, data))
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path / "model")
    assert caught.value.code == "unsupported_dtype"
