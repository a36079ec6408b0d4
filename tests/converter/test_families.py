"""What the recorded architectures do not show: layers left out, packed experts, refusals, the files beside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from converter import ConversionSpec, QuenchError, convert, open_model
from tests.converter.folders import join, safetensors, scattered, write_json
from tests.converter.reference.compare import small_vocabulary
from tests.converter.reference.record import RECORDED, write_recorded

FACTS: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))


def make(folder: Path, name: str, more: dict[str, list[int]] | None = None, **changes: Any) -> Path:
    """A recorded folder with further weights and with changes in its config.json."""
    facts = FACTS[name]
    write_recorded(folder, facts["vocabulary"], {**facts["config"], **changes}, {**facts["shapes"], **(more or {})})
    return folder


def refused(folder: Path) -> QuenchError:
    with pytest.raises(QuenchError) as caught, open_model(folder):
        pass
    return caught.value


def test_layers_that_predict_further_ahead_are_left_out(tmp_path: Path) -> None:
    later = {
        name.replace("layers.1.", "layers.2."): shape
        for name, shape in FACTS["deepseek-v3"]["shapes"].items()
        if "layers.1." in name
    }
    later |= {"model.layers.2.eh_proj.weight": [64, 128], "model.layers.2.shared_head.norm.weight": [64]}
    with open_model(make(tmp_path / "more", "deepseek-v3", later)) as model:
        names = [tensor.name for tensor in model.tensors]
        assert any("ahead" in note for note in model.info.notes)
    assert names == [name for name, *_ in FACTS["deepseek-v3"]["tensors"]]
    # Where no layer may follow, one is a mistake.
    error = refused(make(tmp_path / "llama", "internlm3", {"model.layers.2.mlp.up_proj.weight": [96, 64]}))
    assert error.code == "unknown_tensor" and "model.layers.2.mlp.up_proj.weight" in error.detail


HALF = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def test_experts_in_four_bits_are_kept_as_they_are(tmp_path: Path) -> None:
    """Open Compute Project's definition of MXFP4 says what the numbers are, the gguf package what the file holds."""
    facts = FACTS["gpt-oss"]
    folder = tmp_path / "model"
    vocabulary = small_vocabulary("tiny", folder)
    assert vocabulary == facts["config"]["vocab_size"]
    write_json(folder / "config.json", {**facts["config"], "quantization_config": {"quant_method": "mxfp4"}})
    tensors, kinds, numbers = {}, {}, {}
    for seed, (name, shape) in enumerate(facts["shapes"].items()):
        values = scattered(tuple(shape), seed)
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = values
            continue
        experts, columns, rows = shape
        blocks = (np.abs(scattered((experts, rows, columns // 32, 16), seed)) * 127).astype(np.uint8)
        scales = (np.abs(scattered((experts, rows, columns // 32), seed + 99)) * 3 + 120).astype(np.uint8)
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        kinds |= {f"{name}_blocks": "U8", f"{name}_scales": "U8"}
        codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(experts, rows, columns // 32, 32)
        signed = np.where(codes & 8, -HALF[codes & 7], HALF[codes & 7])
        numbers[name] = (signed * np.exp2(scales.astype(np.float32) - 127)[..., None]).reshape(experts, rows, columns)
    (folder / "model.safetensors").write_bytes(join(*safetensors(tensors, dtypes=kinds)))
    output = tmp_path / "out.gguf"
    convert(ConversionSpec(str(folder), str(output), ("F16",)))
    reader = gguf.GGUFReader(output)
    found = {tensor.name: tensor for tensor in reader.tensors}
    file_type = reader.get_field("general.file_type")
    assert file_type is not None and file_type.contents() == gguf.LlamaFileType.MOSTLY_MXFP4_MOE
    for layer in range(2):
        both = numbers[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
        down = numbers[f"model.layers.{layer}.mlp.experts.down_proj"]
        for part, expected in (("gate", both[:, 0::2]), ("up", both[:, 1::2]), ("down", down)):
            tensor = found[f"blk.{layer}.ffn_{part}_exps.weight"]
            assert tensor.tensor_type == gguf.GGMLQuantizationType.MXFP4
            assert np.array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), expected)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deepseek-v2", {"num_hidden_layers": 27}),  # a lite model by its layers, with compressed queries
        ("deepseek-v2", {"q_lora_rank": None}),
        ("deepseek-v3", {"moe_layer_freq": 2}),
        ("glm4", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}}),
        ("gpt-oss", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gpt-oss", {"swiglu_limit": 5.0}),
        ("llama-4", {"attention_chunk_size": 4096}),
        ("llama-4", {"no_rope_layers": [1, 1, 0, 1]}),
        ("llama-4", {"use_qk_norm": False}),
        ("mistral-3", {"text_config": {**FACTS["mistral-3"]["config"]["text_config"], "model_type": "mistral4"}}),
        ("internlm2", {"bias": True}),
        ("minicpm", {"num_experts": 8}),
        ("minicpm3", {"scale_depth": 1.0}),
        ("exaone4", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
        ("ernie", {"use_bias": True}),
        ("ernie-moe", {"moe_layer_end_index": 1}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"hidden_act": "relu"}),
        ("nomic-bert", {"moe_every_n_layers": 2}),
        ("qwen3.5", {"linear_value_head_dim": 32}),
        ("qwen3.5", {"head_dim": 16}),
        ("t5", {"num_decoder_layers": 3}),
        ("t5", {"feed_forward_proj": "gated-silu"}),
    ],
)  # fmt: skip
def test_what_the_engine_would_run_wrongly_is_refused(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    error = refused(make(tmp_path / "model", name, **changes))
    assert error.code == "unsupported_variant" and error.detail


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, 2),
        ({"pooling_mode": "lasttoken"}, 3),
    ],
)
def test_how_vectors_become_one(settings: dict[str, Any], number: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "bert")
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""},
               {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]  # fmt: skip
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", settings)
    with open_model(folder) as model:
        assert {entry.key: entry.value for entry in model.metadata}["bert.pooling_type"] == number


@pytest.mark.parametrize("place", ["../1_Pooling", "/etc", "..", "", 3, None, "a\\b", "C:x"])
def test_the_files_beside_a_model_lead_nowhere_else(place: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "bert")
    write_json(folder / "modules.json", [{"type": "x.Pooling", "path": place}])
    with open_model(folder) as model, pytest.raises(QuenchError) as caught:
        list(model.metadata)
    assert caught.value.code == "bad_config"


def test_an_unknown_way_to_join_vectors_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "bert")
    write_json(folder / "modules.json", [{"type": "x.Pooling", "path": "p"}])
    (folder / "p").mkdir()
    write_json(folder / "p" / "config.json", {"pooling_mode": "max"})
    with open_model(folder) as model, pytest.raises(QuenchError) as caught:
        list(model.metadata)
    assert caught.value.code == "unsupported_pooling"
