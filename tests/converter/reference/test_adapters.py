"""Adapters of every kind of module, written and merged by the ``peft`` library, against ours merged while reading.

pytest -m slow tests/converter/reference/test_adapters.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import open_model
from converter.sources import lora
from tests.converter.reference.compare import Reference
from tests.converter.reference.models import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PLAIN = {"r": 8, "lora_alpha": 24}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERY = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
# Model -> options of LoraConfig: what its modules are called, and what is particular about them.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rotary rows": ("llama", {"target_modules": EVERY}),
    "ranks of their own, rank-stabilized": (
        "llama",
        {
            "target_modules": EVERY,
            "use_rslora": True,
            "rank_pattern": {"v_proj": 3, r"layers\\.1\\.mlp\\.up_proj": 5},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 7},
        },
    ),
    "lengths of rows": ("llama", {"target_modules": EVERY, "use_dora": True}),
    "embedding, output and norms": (
        "llama",
        {
            "target_modules": ["q_proj", "embed_tokens", "lm_head"],
            "modules_to_save": ["norm", "post_attention_layernorm"],
        },
    ),
    "an embedding saved whole": ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "biases": ("qwen2", {"target_modules": ATTENTION, "bias": "all"}),
    "transposed": ("gpt-2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "transposed, with lengths": (
        "gpt-2",
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "transposed, without its name": ("gpt-2", {"target_modules": ["c_attn", "c_proj"]}),
    "three in one, kept": ("phi-3", {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
    "three in one, by head": ("bloom", {"target_modules": ["query_key_value", "dense"]}),
    "three in one, by head, with lengths": ("falcon-40b", {"target_modules": ["query_key_value"], "use_dora": True}),
    "one key for all": ("gpt-bigcode", {"target_modules": ["c_attn", "c_fc"]}),
    "turned and split": ("deepseek-v2", {"target_modules": ["kv_b_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"]}),
    "turned and split, with lengths": ("deepseek-v2", {"target_modules": ["kv_b_proj"], "use_dora": True}),
    "numbers that are changed": ("gemma-2", {"target_modules": EVERY, "modules_to_save": ["input_layernorm"]}),
    "an expert that all share": (
        "qwen2-moe",
        {"target_modules": ["gate_proj", "up_proj", "down_proj", *ATTENTION]},
    ),
    "stacked experts": (
        "qwen3-moe",
        {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
    "half of the stacked experts": (
        "qwen3-moe",
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]},
    ),
    "experts under an older name": (
        "mixtral",
        {"target_modules": ["v_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
    "experts in turn": (
        "gpt-oss",
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
    "a state's projections": ("qwen3.5", {"target_modules": ["in_proj_qkv", "out_proj", "q_proj", "down_proj"]}),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with Reference(tmp_path_factory.mktemp("reference")) as process:
        yield process


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_merges_as_its_library_merges_it(name: str, reference: Reference, tmp_path: Path) -> None:
    model, options = ADAPTERS[name]
    vocabulary, size = reference.vocabulary(MODELS[model].vocabulary)
    folder, adapter, whole = (str(tmp_path / part) for part in ("model", "adapter", "merged"))
    reference.ask("build", name=model, folder=folder, vocabulary=str(vocabulary), size=size)
    reference.ask("adapt", folder=folder, adapter=adapter, merged=whole, config={**PLAIN, **options})
    with open_model(folder) as base, lora.merged(base, [adapter]) as ours, open_model(whole) as theirs:
        found = {tensor.name: tensor for tensor in ours.tensors}
        expected = {tensor.name: tensor for tensor in theirs.tensors}
        before = {tensor.name: tensor for tensor in base.tensors}
        assert found.keys() == expected.keys()
        changed = 0
        for key, tensor in expected.items():
            numbers = found[key].rows(0, found[key].n_rows)
            np.testing.assert_allclose(numbers, tensor.rows(0, tensor.n_rows), rtol=2e-5, atol=2e-6, err_msg=key)
            parts = [found[key].rows(at, min(at + 7, found[key].n_rows)) for at in range(0, found[key].n_rows, 7)]
            np.testing.assert_array_equal(np.concatenate(parts), numbers, err_msg=key)
            old = before.get(key)
            changed += old is None or not np.array_equal(old.rows(0, old.n_rows), numbers)
        assert changed
