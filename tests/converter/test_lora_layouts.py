"""Adapters on weights that GGUF stacks, splits, turns or reorders: as if the checkpoint had been merged beforehand.

The checkpoints are those that were recorded from the reference (``architecture_facts.json``). The library itself is the
measure in ``reference/test_adapters.py``; here it is its formulas, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import ConversionSpec, QuenchError, convert, open_model, plan
from converter.sources import lora
from tests.converter.folders import join, safetensors, scattered, write_json
from tests.converter.reference.compare import small_vocabulary
from tests.converter.reference.record import RECORDED

FACTS: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
CONFIG = {"r": 4, "lora_alpha": 8, "peft_type": "LORA"}
PREFIX = "base_model.model."

# Recorded checkpoint -> modules that an adapter changes, of every layout that a family reads in another order.
MODULES = {
    "gpt-2": ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj", "transformer.h.1.mlp.c_proj"),
    "bloom": ("transformer.h.0.self_attention.query_key_value",),
    "deepseek-v2": ("model.layers.0.self_attn.kv_b_proj", "model.layers.1.self_attn.kv_b_proj"),
    "phi-3": ("model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"),
    "falcon-40b": ("transformer.h.1.self_attention.query_key_value",),
    "mixtral": ("model.layers.0.block_sparse_moe.experts.2.w1", "model.layers.1.self_attn.k_proj"),
    "qwen3-moe": ("model.layers.1.mlp.experts.7.down_proj", "model.layers.0.mlp.experts.0.up_proj"),
    "gemma-2": ("model.layers.2.mlp.up_proj", "model.layers.0.self_attn.q_proj"),
}
TURNED = ("c_attn", "c_proj", "c_fc")


def write(folder: Path, name: str, weights: dict[str, np.ndarray]) -> None:
    found = FACTS[name]
    small_vocabulary(found["vocabulary"], folder)
    write_json(folder / "config.json", found["config"])
    (folder / "model.safetensors").write_bytes(join(*safetensors(weights, "F32")))


def weights_of(name: str) -> dict[str, np.ndarray]:
    shapes = FACTS[name]["shapes"]
    return {key: scattered(tuple(shape), seed) for seed, (key, shape) in enumerate(sorted(shapes.items()))}


def adapter(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> str:
    folder.mkdir()
    write_json(folder / "adapter_config.json", {**CONFIG, **config})
    (folder / "adapter_model.safetensors").write_bytes(join(*safetensors(tensors, "F32")))
    return str(folder)


def equal(folder: Path, path: str, expected: Path) -> None:
    """The same tensors, whatever rows are asked for."""
    with open_model(folder) as base, lora.merged(base, [path]) as ours, open_model(expected) as theirs:
        found = {tensor.name: tensor for tensor in ours.tensors}
        assert [t.name for t in theirs.tensors] == list(found)
        for tensor in theirs.tensors:
            own = found[tensor.name]
            numbers = own.rows(0, own.n_rows)
            np.testing.assert_allclose(numbers, tensor.rows(0, tensor.n_rows), rtol=1e-5, atol=1e-5)
            parts = [own.rows(at, min(at + 5, own.n_rows)) for at in range(0, own.n_rows, 5)]
            np.testing.assert_array_equal(np.concatenate(parts), numbers)
            assert sum(own.read_bytes(at, at + 1) for at in range(own.n_rows)) == own.read_bytes(0, own.n_rows)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_a_module(name: str, lengths: bool, tmp_path: Path) -> None:
    weights = weights_of(name)
    write(tmp_path / "model", name, weights)
    pairs: dict[str, np.ndarray] = {}
    for seed, module in enumerate(MODULES[name]):
        turned = module.endswith(TURNED)
        before = weights[f"{module}.weight"].T if turned else weights[f"{module}.weight"]
        a, b = scattered((4, before.shape[1]), 50 + seed), scattered((before.shape[0], 4), 70 + seed)
        pairs |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
        after = before + 2.0 * (b.astype(np.float64) @ a)
        if lengths:
            wanted = np.abs(scattered((before.shape[0],), seed)) + 1
            pairs[f"{PREFIX}{module}.lora_magnitude_vector"] = wanted
            after *= (wanted / np.linalg.norm(after, axis=1))[:, None]
        weights[f"{module}.weight"] = (after.T if turned else after).astype(np.float32)
    write(tmp_path / "expected", name, weights)
    equal(tmp_path / "model", adapter(tmp_path / "adapter", pairs, use_dora=lengths), tmp_path / "expected")


def stacks(experts: int, outputs: int, inputs: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A and B for all experts as the library stacks them, and each expert's update ``(experts, out, in)``."""
    a, b = scattered((4 * experts, inputs), seed), scattered((outputs, 4 * experts), seed + 1)
    down, up = a.reshape(experts, 4, inputs), b.reshape(outputs, 4, experts)
    return a, b, 2.0 * np.einsum("ore,eri->eoi", up.astype(np.float64), down)


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_parameters_of_experts_that_are_stored_apart(name: str, tmp_path: Path) -> None:
    """transformers has one parameter for the gates and ups of all experts, the checkpoint a tensor for each."""
    weights = weights_of(name)
    write(tmp_path / "model", name, weights)
    config = FACTS[name]["config"]
    experts = config.get("num_experts") or config["num_local_experts"]
    home, parts = (
        ("model.layers.0.mlp.experts", ("gate_proj", "up_proj", "down_proj"))
        if name == "qwen3-moe"
        else ("model.layers.0.block_sparse_moe.experts", ("w1", "w3", "w2"))
    )
    rows, columns = weights[f"{home}.0.{parts[0]}.weight"].shape
    a, b, wide = stacks(experts, 2 * rows, columns, 5)
    c, d, narrow = stacks(experts, columns, rows, 9)
    for e in range(experts):
        for part, change in zip(parts, (wide[e, :rows], wide[e, rows:], narrow[e]), strict=True):
            key = f"{home}.{e}.{part}.weight"
            weights[key] = (weights[key] + change).astype(np.float32)
    write(tmp_path / "expected", name, weights)
    inside, outside = f"{PREFIX}model.layers.0.mlp.experts.base_layer", f"{PREFIX}model.layers.0.mlp.experts"
    tensors = {f"{inside}.lora_A.weight": a, f"{inside}.lora_B.weight": b}
    tensors |= {f"{outside}.lora_A.weight": c, f"{outside}.lora_B.weight": d}
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    equal(tmp_path / "model", adapter(tmp_path / "adapter", tensors, target_parameters=names), tmp_path / "expected")


def test_parameters_that_are_stored_turned(tmp_path: Path) -> None:
    """gpt-oss keeps its experts' matrices as (in, out), gate and up in turn."""
    weights = weights_of("gpt-oss")
    write(tmp_path / "model", "gpt-oss", weights)
    key = "model.layers.1.mlp.experts.gate_up_proj"
    experts, inputs, outputs = weights[key].shape
    a, b, change = stacks(experts, outputs, inputs, 3)
    # The library takes the second dimension for that of the input.
    weights[key] = (weights[key] + change.transpose(0, 2, 1)).astype(np.float32)
    write(tmp_path / "expected", "gpt-oss", weights)
    module = f"{PREFIX}model.layers.1.mlp.experts"
    tensors = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    path = adapter(tmp_path / "adapter", tensors, target_parameters=["1.mlp.experts.gate_up_proj"])
    equal(tmp_path / "model", path, tmp_path / "expected")


def test_a_conversion_reads_what_its_plan_says(tmp_path: Path) -> None:
    weights = weights_of("gpt-2")
    write(tmp_path / "model", "gpt-2", weights)
    module = "transformer.h.0.attn.c_attn"
    inputs, outputs = weights[f"{module}.weight"].shape
    pair = {
        f"{PREFIX}{module}.lora_A.weight": scattered((4, inputs), 1),
        f"{PREFIX}{module}.lora_B.weight": scattered((outputs, 4), 2),
    }
    path = adapter(tmp_path / "adapter", pair, fan_in_fan_out=True)
    files = []
    for threads in (1, 3):
        output = tmp_path / f"{threads}.gguf"
        spec = ConversionSpec(str(tmp_path / "model"), str(output), ("Q8_0",), lora=(path,), threads=threads)
        assert convert(spec).read_bytes == plan(spec.source, spec).read_bytes
        files.append(output.read_bytes())
    assert files[0] == files[1]


# What is wrong with updates of parameters -> settings, names (after the prefix) and shapes, the error's code.
MODULE = "model.layers.0.mlp.experts"
BROKEN: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "not among the targets": (
        {"target_parameters": ["router.weight"]},
        {"lora_A.weight": (48, 128), "lora_B.weight": (512, 48)},
        "adapter_mismatch",
    ),
    "no list": ({"target_parameters": "x"}, {"lora_A.weight": (4, 4), "lora_B.weight": (4, 4)}, "bad_adapter"),
    "one half": ({"target_parameters": ["experts.down_proj"]}, {"lora_A.weight": (48, 128)}, "bad_adapter"),
    "fewer rows than experts": (
        {"target_parameters": ["experts.down_proj"]},
        {"lora_A.weight": (4, 256), "lora_B.weight": (128, 4)},
        "bad_adapter",
    ),
    "another rank": (
        {"target_parameters": ["experts.down_proj"]},
        {"lora_A.weight": (96, 256), "lora_B.weight": (128, 96)},
        "bad_adapter",
    ),
    "another width": (
        {"target_parameters": ["experts.down_proj"]},
        {"lora_A.weight": (48, 64), "lora_B.weight": (128, 48)},
        "adapter_mismatch",
    ),
    "parameters in an unknown order": (
        {"target_parameters": ["experts.down_proj", "experts.scale"]},
        {"lora_A.weight": (48, 256), "lora_B.weight": (128, 48)},
        "unsupported_adapter",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    config, shapes, code = BROKEN[name]
    write(tmp_path / "model", "qwen3-moe", weights_of("qwen3-moe"))
    tensors = {f"{PREFIX}{MODULE}.{part}": scattered(shape, 1) for part, shape in shapes.items()}
    path = adapter(tmp_path / "adapter", tensors, **config)
    with pytest.raises(QuenchError) as caught:
        plan(
            str(tmp_path / "model"),
            ConversionSpec(str(tmp_path / "model"), str(tmp_path / "o"), ("F16",), lora=(path,)),
        )
    assert caught.value.code == code, caught.value
