"""What config.json says beyond sizes: variants that the engine does not run, and values that only look settled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import QuenchError, open_model
from converter.architectures import find_family, metadata, parameters
from converter.sources import SourceModel
from tests.converter.folders import bpe_tokenizer, join, safetensors, scattered, tokenizer_size, write_json

VOCABULARY = tokenizer_size(bpe_tokenizer())
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}
COHERE2_SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, 16),
    "model.norm.weight": (16,),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (16, 16),
    "model.layers.0.self_attn.v_proj.weight": (16, 16),
    "model.layers.0.self_attn.o_proj.weight": (16, 16),
    "model.layers.0.mlp.gate_proj.weight": (24, 16),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 24),
}


def make(folder: Path, cls: str, shapes: dict[str, tuple[int, ...]], **changes: Any) -> dict[str, np.ndarray]:
    """A folder of one layer with weights of these shapes; ``changes`` go into config.json."""
    write_json(folder / "config.json", {"architectures": [cls], **SIZES, **changes})
    write_json(folder / "tokenizer.json", bpe_tokenizer())
    tensors = {name: scattered(shape, number) for number, (name, shape) in enumerate(shapes.items())}
    (folder / "model.safetensors").write_bytes(join(*safetensors(tensors, "F32")))
    return tensors


def key(model: SourceModel, name: str) -> Any:
    return next((entry.value for entry in model.metadata if entry.key.endswith(name)), None)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "BLOOM with other residuals": (
        "BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}, "what comes out of its norms"
    ),
    "GPT-NeoX without biases": ("GPTNeoXForCausalLM", {"attention_bias": False}, "has no biases"),
    "GPT-NeoX with another function": ("GPTNeoXForCausalLM", {"hidden_act": "relu"}, "computes 'relu'"),
    "Falcon with ALiBi": ("FalconForCausalLM", {"alibi": True}, "ALiBi"),
    "Falcon with biases": ("FalconForCausalLM", {"bias": True}, "biases"),
    "Falcon one after the other": ("FalconForCausalLM", {"parallel_attn": False}, "one after the other"),
    "MPT with a scale": ("MPTForCausalLM", {"attn_config": {"softmax_scale": 0.5}}, "a number of its own"),
    "MPT with a prefix": ("MPTForCausalLM", {"attn_config": {"prefix_lm": True}}, "both directions"),
    "MPT with scaled logits": ("MPTForCausalLM", {"logit_scale": "inv_sqrt_d_model"}, "scales its logits"),
    "MPT with RMS norms": ("MPTForCausalLM", {"norm_type": "low_precision_rmsnorm"}, "centre"),
    "StarCoder unscaled": ("GPTBigCodeForCausalLM", {"scale_attn_weights": False}, "scale its attention"),
    "Phi with norms": ("PhiForCausalLM", {"qk_layernorm": True}, "normalises its queries"),
    "OLMoE with groups": ("OlmoeForCausalLM", {"num_key_value_heads": 2}, "groups its heads"),
    "OLMoE clipped": ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "clips"),
    "OLMoE normalised": ("OlmoeForCausalLM", {"norm_topk_prob": True}, "add up to one"),
    "Command R with few layers": ("CohereForCausalLM", {"use_qk_norm": True}, "normalises its queries"),
    "Command R untied": ("CohereForCausalLM", {"tie_word_embeddings": False}, "not the embedding"),
    "Command R7B untied": ("Cohere2ForCausalLM", {"tie_word_embeddings": False}, "not the embedding"),
    "Nemotron gated": ("NemotronForCausalLM", {"hidden_act": "silu"}, "computes 'silu'"),
    "SmolLM3 that always rotates": ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 2}, "every fourth"),
    "SmolLM3 with its own list": ("SmolLM3ForCausalLM", {"no_rope_layers": [0]}, "every fourth"),
    "SmolLM3 with a window": ("SmolLM3ForCausalLM", {"use_sliding_window": True, "sliding_window": 8}, "window"),
    "Gemma in both directions": ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "both directions"),
    "Gemma untied": ("GemmaForCausalLM", {"tie_word_embeddings": False}, "not the embedding"),
    "Gemma with another function": ("GemmaForCausalLM", {"hidden_activation": "silu"}, "computes 'silu'"),
    "Gemma 2 without a cap": ("Gemma2ForCausalLM", {"final_logit_softcapping": None}, "no final_logit_softcapping"),
    "Gemma 2 with another scale": ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 224}, "of 224, not of 256"),
    "Gemma 2 27B with the head's": ("Gemma2ForCausalLM", {"num_hidden_layers": 46}, "of 256, not of 4"),
    "Gemma 3 27B with the head's": ("Gemma3ForCausalLM", {"num_hidden_layers": 62}, "of 256, not of 4"),
    "Gemma 3 with a cap": ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, "limits the scores"),
    "Gemma 3 with yarn": (
        "Gemma3ForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "only some of its layers"
    ),
    "Gemma 3 with stretched windows": (
        "Gemma3ForCausalLM", {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "layers with a window"
    ),
    "StarCoder 2 without biases": ("Starcoder2ForCausalLM", {"use_bias": False}, "has no biases"),
    "StarCoder 2 with wide heads": ("Starcoder2ForCausalLM", {"head_dim": 8, "num_key_value_heads": 4}, "not as wide"),
    "StarCoder 2 with another function": ("Starcoder2ForCausalLM", {"hidden_act": "silu"}, "computes 'silu'"),
    "StableLM with wide heads": ("StableLmForCausalLM", {"head_dim": 8}, "not as wide"),
    "StableLM with another function": ("StableLmForCausalLM", {"hidden_act": "gelu"}, "computes 'gelu'"),
    "Phi-3.5-MoE without biases": ("PhiMoEForCausalLM", {"num_key_value_heads": 2}, "no biases"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_variant_that_the_engine_does_not_run_is_refused(name: str, tmp_path: Path) -> None:
    """In words, before a weight file is looked for."""
    cls, changes, words = REFUSED[name]
    write_json(tmp_path / "config.json", {"architectures": [cls], **SIZES, **changes})
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "unsupported_variant" and words in caught.value.detail


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        ("MPTForCausalLM", {"attn_config": 3}),
        ("MPTForCausalLM", {"expansion_ratio": 2.5}),
        ("MPTForCausalLM", {"attn_config": {"kv_n_heads": "many"}}),
        ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 3}),
        ("FalconForCausalLM", {"ffn_hidden_size": -1}),
        ("BloomForCausalLM", {"seq_length": 1e9}),
        ("GPTBigCodeForCausalLM", {"n_inner": "wide"}),
        ("GraniteMoeForCausalLM", {"shared_intermediate_size": -3}),
        ("OlmoForCausalLM", {"hidden_size": 18}),
        ("Gemma2ForCausalLM", {"sliding_window_pattern": "LG"}),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": "high"}),
        ("Gemma3ForCausalLM", {"layer_types": ["full_attention"] * 3}),
        ("Gemma3ForCausalLM", {"query_pre_attn_scalar": []}),
    ],
)
def test_nonsense_is_refused(cls: str, changes: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"architectures": [cls], **SIZES, **changes})
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"num_kv_heads": 4}, 1),
        ({"model_type": "RefinedWebModel", "n_head": 4}, 1),
        ({"multi_query": False}, 4),
        ({"model_type": "RefinedWeb", "n_head_kv": 2}, 2),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ({"new_decoder_architecture": True}, 4),
    ],
)
def test_falcons_heads_of_keys(changes: dict[str, Any], expected: int) -> None:
    """One in the 7B layout, although its configs may say otherwise."""
    config = {"architectures": ["FalconForCausalLM"], **SIZES, **changes}
    assert parameters(find_family(config), config).sizes.kv_heads == expected


def test_zero_biases_are_left_out(tmp_path: Path) -> None:
    shapes = {**COHERE2_SHAPES, "model.layers.0.self_attn.q_proj.bias": (16,)}
    tensors = make(tmp_path, "Cohere2ForCausalLM", shapes)
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "unknown_tensor" and "q_proj.bias" in caught.value.detail
    tensors["model.layers.0.self_attn.q_proj.bias"][:] = 0
    (tmp_path / "model.safetensors").write_bytes(join(*safetensors(tensors, "F32")))
    with open_model(tmp_path) as model:
        assert len(model.tensors) == len(COHERE2_SHAPES)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"sliding_window_pattern": 4}, None),
        ({"layer_types": ["sliding_attention"]}, None),
        ({"sliding_window_pattern": 1}, [False]),
        ({"layer_types": ["full_attention"]}, [False]),
    ],
)
def test_layers_with_a_window_are_listed_where_the_engine_assumes_others(
    changes: dict[str, Any], expected: list[bool] | None, tmp_path: Path
) -> None:
    make(tmp_path, "Cohere2ForCausalLM", COHERE2_SHAPES, **changes)
    with open_model(tmp_path) as model:
        assert key(model, "sliding_window_pattern") == expected
        assert key(model, "attention.sliding_window") == 4096


def test_an_output_matrix_is_made_where_the_engine_wants_one(tmp_path: Path) -> None:
    """OLMo 2 with a shared embedding: the engine's code has no other way to run it."""
    shapes = {name: shape for name, shape in COHERE2_SHAPES.items() if "input_layernorm" not in name} | {
        "model.layers.0.self_attn.q_norm.weight": (16,),
        "model.layers.0.self_attn.k_norm.weight": (16,),
        "model.layers.0.post_attention_layernorm.weight": (16,),
        "model.layers.0.post_feedforward_layernorm.weight": (16,),
    }
    tensors = make(tmp_path, "Olmo2ForCausalLM", shapes, tie_word_embeddings=True)
    with open_model(tmp_path) as model:
        output = next(tensor for tensor in model.tensors if tensor.name == "output.weight")
        np.testing.assert_array_equal(output.rows(0, VOCABULARY), tensors["model.embed_tokens.weight"])
    make(tmp_path, "Olmo2ForCausalLM", shapes)
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "missing_tensor" and "lm_head.weight" in caught.value.detail


GEMMA_SHAPES = {
    **COHERE2_SHAPES,
    "model.layers.0.post_attention_layernorm.weight": (16,),
    "lm_head.weight": (VOCABULARY, 16),
}


@pytest.mark.parametrize("stored", ["F16", "F32"])
def test_gemmas_norms_are_raised_in_the_type_that_they_are_stored_in(stored: str, tmp_path: Path) -> None:
    """float32, but for float16, as llama.cpp's converter does; and an output matrix that was saved is left out."""
    tensors = make(tmp_path, "GemmaForCausalLM", GEMMA_SHAPES, head_dim=4)
    kind = {"F16": np.float16, "F32": np.float32}[stored]
    tensors = {name: values.astype(kind) for name, values in tensors.items()}
    (tmp_path / "model.safetensors").write_bytes(join(*safetensors(tensors, stored)))
    with open_model(tmp_path) as model:
        found = {tensor.name: tensor.rows(0, tensor.n_rows) for tensor in model.tensors}
    assert len(found) == len(GEMMA_SHAPES) - 1 and "output.weight" not in found
    raised = tensors["model.layers.0.input_layernorm.weight"] + kind(1)
    assert raised.dtype == kind
    np.testing.assert_array_equal(found["blk.0.attn_norm.weight"][0], raised.astype(np.float32))


@pytest.mark.parametrize(("cls", "layers"), [("Gemma2ForCausalLM", 46), ("Gemma3ForCausalLM", 62)])
def test_gemmas_of_27b_scale_by_the_width(cls: str, layers: int) -> None:
    config = {"architectures": [cls], **SIZES, "num_hidden_layers": layers, "query_pre_attn_scalar": 4}
    assert parameters(find_family(config), config).sizes.layers == layers


@pytest.mark.parametrize(
    ("changes", "window", "pattern"),
    [
        ({}, 4096, None),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, 512, None),
        ({"layer_types": ["sliding_attention", "full_attention"]}, 4096, [True, False]),
        ({"sliding_window_pattern": 1}, None, None),
        ({"layer_types": ["full_attention"] * 2}, None, None),
    ],
)
def test_gemma_3s_windows(changes: dict[str, Any], window: int | None, pattern: list[bool] | None) -> None:
    """A file without a width has no layers with a window, whatever the engine assumes elsewhere."""
    config = {"architectures": ["Gemma3ForCausalLM"], **SIZES, "num_hidden_layers": 2, **changes}
    found = {entry.key: entry.value for entry in metadata(parameters(find_family(config), config))}
    assert found.get("gemma3.attention.sliding_window") == window
    assert found.get("gemma3.attention.sliding_window_pattern") == pattern
    assert (found["gemma3.rope.freq_base"], found["gemma3.rope.freq_base_swa"]) == (1e6, 1e4)


STABLELM_12B_SHAPES = {
    **COHERE2_SHAPES,
    "model.norm.bias": (16,),
    "model.layers.0.input_layernorm.bias": (16,),
    "model.layers.0.self_attn.k_proj.weight": (8, 16),
    "model.layers.0.self_attn.v_proj.weight": (8, 16),
    "lm_head.weight": (VOCABULARY, 16),
    **{f"model.layers.0.self_attn.q_layernorm.norms.{head}.weight": (4,) for head in range(4)},
    **{f"model.layers.0.self_attn.k_layernorm.norms.{head}.weight": (4,) for head in range(2)},
}


def test_every_head_of_a_large_stablelm_has_its_norm(tmp_path: Path) -> None:
    """The heads' norms become one tensor, a row each, as the engine's code expects them."""
    changes = {"qk_layernorm": True, "use_parallel_residual": True, "num_key_value_heads": 2}
    tensors = make(tmp_path, "StableLmForCausalLM", STABLELM_12B_SHAPES, **changes)
    with open_model(tmp_path) as model:
        assert key(model, "use_parallel_residual") is True and key(model, "rope.dimension_count") == 1
        found = {tensor.name: tensor.rows(0, tensor.n_rows) for tensor in model.tensors}
    for part, heads in (("q", 4), ("k", 2)):
        norms = [tensors[f"model.layers.0.self_attn.{part}_layernorm.norms.{head}.weight"] for head in range(heads)]
        np.testing.assert_array_equal(found[f"blk.0.attn_{part}_norm.weight"], np.stack(norms))


@pytest.mark.parametrize(
    ("missing", "changes"),
    [
        ("q_layernorm.norms.3.weight", {"qk_layernorm": True, "use_parallel_residual": True}),
        ("post_attention_layernorm.weight", {"qk_layernorm": True}),
        ("q_proj.bias", {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}),
        ("lm_head.weight", {"qk_layernorm": True, "use_parallel_residual": True}),
    ],
)
def test_a_stablelm_must_have_what_its_config_says(missing: str, changes: dict[str, Any], tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in STABLELM_12B_SHAPES.items() if not name.endswith(missing)}
    make(tmp_path, "StableLmForCausalLM", shapes, num_key_value_heads=2, **changes)
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "missing_tensor" and missing in caught.value.detail


def test_falcons_context_is_told(tmp_path: Path) -> None:
    config = {"architectures": ["FalconForCausalLM"], **SIZES, "max_position_embeddings": 8192}
    found = parameters(find_family(config), config)
    assert found.family.notes is not None and "8192" in found.family.notes(found)[0]


def test_mpts_slopes(tmp_path: Path) -> None:
    """The exponent of the steepest one, which transformers' own class passes by."""
    shapes = {
        "transformer.wte.weight": (VOCABULARY, 16),
        "transformer.norm_f.weight": (16,),
        "transformer.blocks.0.norm_1.weight": (16,),
        "transformer.blocks.0.norm_2.weight": (16,),
        "transformer.blocks.0.attn.Wqkv.weight": (32, 16),
        "transformer.blocks.0.attn.out_proj.weight": (16, 16),
        "transformer.blocks.0.ffn.up_proj.weight": (64, 16),
        "transformer.blocks.0.ffn.down_proj.weight": (16, 64),
    }
    make(tmp_path, "MPTForCausalLM", shapes, attn_config={"alibi_bias_max": 16, "kv_n_heads": 2})
    with open_model(tmp_path) as model:
        assert key(model, "max_alibi_bias") == 16 and key(model, "head_count_kv") == 2
    make(tmp_path, "MPTForCausalLM", shapes, attn_config={"alibi": False, "kv_n_heads": 2}, learned_pos_emb=False)
    with open_model(tmp_path) as model:
        assert key(model, "max_alibi_bias") == 0.0


def test_starcoder_with_all_heads(tmp_path: Path) -> None:
    """Each head's query, key and value lie together; the engine wants all queries, all keys, all values."""
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, 16),
        "transformer.wpe.weight": (32, 16),
    }
    for name, shape in (
        ("ln_f", (16,)), ("h.0.ln_1", (16,)), ("h.0.ln_2", (16,)), ("h.0.attn.c_attn", (48, 16)),
        ("h.0.attn.c_proj", (16, 16)), ("h.0.mlp.c_fc", (64, 16)), ("h.0.mlp.c_proj", (16, 64)),
    ):  # fmt: skip
        shapes |= {f"transformer.{name}.weight": shape, f"transformer.{name}.bias": shape[:1]}
    tensors = make(tmp_path, "GPTBigCodeForCausalLM", shapes, multi_query=False, n_positions=32)
    with open_model(tmp_path) as model:
        assert key(model, "head_count_kv") == 4
        found = {tensor.name: tensor.rows(0, tensor.n_rows) for tensor in model.tensors}
    heads = np.split(tensors["transformer.h.0.attn.c_attn.weight"], 4)
    expected = np.concatenate([np.split(head, 3)[part] for part in range(3) for head in heads])
    np.testing.assert_array_equal(found["blk.0.attn_qkv.weight"], expected)
