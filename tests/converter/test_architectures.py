"""Families: keys, names, shapes, row order and rotary settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from converter import QuenchError, open_model
from converter.architectures import FAMILIES
from converter.sources import SourceModel
from converter.sources.naming import WeightCount, size_label, take_apart, title
from tests.converter.folders import bpe_tokenizer, tokenizer_size, write_folder, write_json

KINDS = ("llama", "mistral", "qwen2", "qwen3")
VOCABULARY = tokenizer_size(bpe_tokenizer())


def make(folder: Path, kind: str, **changes: Any) -> dict[str, np.ndarray]:
    _, tensors = write_folder(folder, kind, vocab_size=VOCABULARY, dtype="F32", **changes)
    write_json(folder / "tokenizer.json", bpe_tokenizer())
    return tensors


def values(model: SourceModel) -> dict[str, Any]:
    return {entry.key: entry.value for entry in model.metadata}


def rows(model: SourceModel, name: str) -> np.ndarray:
    found = next(t for t in model.tensors if t.name == name)
    return found.rows(0, found.n_rows)


@pytest.mark.parametrize("kind", KINDS)
def test_names_equal_the_package(kind: str, tmp_path: Path) -> None:
    """Every checkpoint name becomes what gguf-py's map makes of it."""
    tensors = make(tmp_path, kind)
    with open_model(tmp_path) as model:
        found = {t.source_name: t.name for t in model.tensors if t.source_name in tensors}
        architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == model.info.architecture)
    names = gguf.get_tensor_name_map(architecture, 2)
    assert found == {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in tensors}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_rules_are_known_to_the_package(family: Any) -> None:
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, 1)
    known, made = set(), set()
    for rule in family.tensors:
        views = rule.view if isinstance(rule.view, tuple) else (rule.view,)
        # Parameters without a module of their own: llama.cpp's converter writes a dot before what they are.
        source = rule.source.replace("{i}", "0").replace("experts.{e}", "experts").replace(".dt_bias", ".dt_proj.bias")
        source = source.replace(".expert_bias", ".expert_bias.bias")
        source = re.sub(r"_bias$", ".bias", source).replace(".norms.{e}", "")  # a row for each head
        found = names.get_name(source, try_suffixes=(".weight", ".bias"))
        found = found or names.get_name(source.removeprefix("model."), try_suffixes=(".weight", ".bias"))
        found = found or names.get_name(f"{source}.weight", try_suffixes=(".weight",))
        target = rule.target.replace("{i}", "0")
        same = found is not None and target in (found, f"{found}.weight")
        some = any(view is not None and (view.at or view.keep or view.rows) for view in views)
        if not same and (rule.packed is not None or some):
            continue  # a part of a fused tensor, whose name in the package is that of the whole or none
        made.add(target)
        known.add(target if same else found)
    # Forms of a tensor that the package's table has no name for give what another form gives.
    assert made == known - {None}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_a_family(kind: str, tmp_path: Path) -> None:
    make(tmp_path, kind)
    with open_model(tmp_path) as model:
        found, info = values(model), model.info
    prefix = "llama" if kind in ("llama", "mistral") else kind
    head = 32 if kind == "qwen3" else 16
    expected: dict[str, Any] = {
        "general.architecture": prefix,
        "general.type": "model",
        f"{prefix}.block_count": 2,
        f"{prefix}.embedding_length": 64,
        f"{prefix}.feed_forward_length": 160,
        f"{prefix}.attention.head_count": 4,
        f"{prefix}.attention.head_count_kv": 2,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5 if prefix == "llama" else 1e-6,
        f"{prefix}.context_length": {"llama": 131072, "qwen3": 40960}.get(kind, 32768),
        f"{prefix}.rope.freq_base": {"llama": 5e5, "mistral": 1e4}.get(kind, 1e6),
    }
    if kind != "qwen2":
        expected |= {f"{prefix}.attention.{n}_length": head for n in ("key", "value")}
    if prefix == "llama":
        expected |= {"llama.rope.dimension_count": head, "llama.vocab_size": VOCABULARY}
    if kind == "qwen2":
        scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 32768}
        expected |= {f"qwen2.rope.scaling.{k}": v for k, v in scaling.items()}
    own = {k: v for k, v in found.items() if k.startswith(f"{prefix}.") or k in expected}
    assert own == expected
    assert (info.heads, info.kv_heads, info.key_length) == (4, 2, head)
    assert info.tied_embeddings == (kind in ("qwen2", "qwen3"))


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_row_order_makes_the_two_rotations_agree(kind: str, tmp_path: Path) -> None:
    """Rotating halves of the checkpoint's heads equals rotating neighbours of ours: the same attention scores."""
    tensors = make(tmp_path, kind, attention_bias=kind == "llama")
    with open_model(tmp_path) as model:
        query, key = rows(model, "blk.1.attn_q.weight"), rows(model, "blk.1.attn_k.weight")
        biases = (rows(model, "blk.1.attn_q.bias")[0], rows(model, "blk.1.attn_k.bias")[0]) if kind == "llama" else None
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((2, 64))
    layer = "model.layers.1.self_attn"

    def scores(q: np.ndarray, k: np.ndarray, rotate: Any) -> list[float]:
        q, k = q.reshape(4, 16), k.reshape(2, 16)
        return [float(rotate(q[h], 5.0) @ rotate(k[h // 2], 2.0)) for h in range(4)]

    def of(names: str) -> tuple[np.ndarray, np.ndarray]:
        bias = [tensors[f"{layer}.{n}_proj.bias"] if biases else 0 for n in names]
        q, k = (tensors[f"{layer}.{n}_proj.weight"] for n in names)
        return q @ x + bias[0], k @ y + bias[1]

    ours = (query @ x + (biases[0] if biases else 0), key @ y + (biases[1] if biases else 0))
    np.testing.assert_allclose(scores(*ours, rotate_pairs), scores(*of("qk"), rotate_halves), rtol=1e-5)


def angles(position: float) -> np.ndarray:
    return position * 10000.0 ** (-np.arange(8) / 8)


def rotate_halves(head: np.ndarray, position: float) -> np.ndarray:
    a, b, t = head[:8], head[8:], angles(position)
    return np.concatenate([a * np.cos(t) - b * np.sin(t), b * np.cos(t) + a * np.sin(t)])


def rotate_pairs(head: np.ndarray, position: float) -> np.ndarray:
    a, b, t = head[0::2], head[1::2], angles(position)
    return np.stack([a * np.cos(t) - b * np.sin(t), b * np.cos(t) + a * np.sin(t)], 1).ravel()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_keeps_its_row_order(kind: str, tmp_path: Path) -> None:
    tensors = make(tmp_path, kind)
    with open_model(tmp_path) as model:
        for n in "qkv":
            np.testing.assert_array_equal(
                rows(model, f"blk.0.attn_{n}.weight"), tensors[f"model.layers.0.self_attn.{n}_proj.weight"]
            )


def test_llama3_frequency_factors(tmp_path: Path) -> None:
    """Against the definition, in float64: 1 below the short wavelength, the factor above the long one."""
    make(tmp_path, "llama", head_dim=64, num_attention_heads=2, num_key_value_heads=1)
    with open_model(tmp_path) as model:
        assert model.tensors[0].name == "rope_freqs.weight" and model.tensors[0].type == "F32"
        factors = model.tensors[0].rows(0, 1)[0]
    expected = []
    for i in range(0, 64, 2):
        wavelength = 2 * np.pi * 500000.0 ** (i / 64)
        share = min(max((8192 / wavelength - 1.0) / (4.0 - 1.0), 0.0), 1.0)
        expected.append(1 / ((1 - share) / 32.0 + share))
    np.testing.assert_allclose(factors, expected, rtol=2e-5)
    assert factors[0] == 1.0 and factors[-1] == 32.0 and len(set(factors.tolist())) > 2


ROPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "newer form": (
        {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}, "rope_scaling": None}, {"freq_base": 5.0},
    ),
    "older form": ({"rope_theta": 7.0, "rope_scaling": None}, {"freq_base": 7.0}),
    "default base": ({"rope_theta": None, "rope_scaling": None}, {"freq_base": 10000.0}),
    "linear": (
        {"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2}},
        {"freq_base": 7.0, "scaling.type": "linear", "scaling.factor": 2.0},
    ),
    "yarn": (
        {
            "rope_scaling": None,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 9.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "attention_factor": 1.2, "original_max_position_embeddings": 4096,
            },
        },
        {
            "freq_base": 9.0, "scaling.type": "yarn", "scaling.factor": 8.0, "scaling.original_context_length": 4096,
            "scaling.yarn_attn_factor": 1.2, "scaling.yarn_beta_fast": 32.0, "scaling.yarn_beta_slow": 1.0,
        },
    ),
    "yarn without the original context": (
        {"rope_theta": 9.0, "rope_scaling": {"type": "yarn", "factor": 8.0}, "max_position_embeddings": 2048},
        {"freq_base": 9.0, "scaling.type": "yarn", "scaling.factor": 8.0, "scaling.original_context_length": 2048},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_rotary_settings(name: str, tmp_path: Path) -> None:
    changes, expected = ROPES[name]
    make(tmp_path, "llama", **changes)
    with open_model(tmp_path) as model:
        found = values(model)
        assert model.tensors[0].name == "token_embd.weight" or model.tensors[0].name != "rope_freqs.weight"
    rope = {k.removeprefix("llama.rope."): v for k, v in found.items() if k.startswith("llama.rope.")}
    assert rope == expected | {"dimension_count": 16}


def test_defaults_where_the_config_is_silent(tmp_path: Path) -> None:
    make(tmp_path, "llama", num_key_value_heads=2, rms_norm_eps=None, max_position_embeddings=None, rope_scaling=None)
    with open_model(tmp_path) as model:
        found = values(model)
    assert found["llama.attention.layer_norm_rms_epsilon"] == 1e-6 and found["llama.context_length"] == 2048


def test_a_missing_head_is_told(tmp_path: Path) -> None:
    make(tmp_path, "llama", tie_word_embeddings=True)
    config = (
        (tmp_path / "config.json").read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    )
    (tmp_path / "config.json").write_text(config)
    with open_model(tmp_path) as model:
        assert model.info.tied_embeddings
        assert any("lm_head" in note for note in model.info.notes)


def test_a_stored_head_is_kept_although_tied(tmp_path: Path) -> None:
    make(tmp_path, "qwen3", tie_word_embeddings=False)
    config = (
        (tmp_path / "config.json").read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    )
    (tmp_path / "config.json").write_text(config)
    with open_model(tmp_path) as model:
        assert "output.weight" in {t.name for t in model.tensors} and not model.info.tied_embeddings


def test_a_window_shorter_than_the_context_is_told(tmp_path: Path) -> None:
    make(tmp_path / "a", "mistral")
    make(tmp_path / "b", "mistral", sliding_window=None)
    make(tmp_path / "c", "qwen2", sliding_window=100)
    with open_model(tmp_path / "a") as a, open_model(tmp_path / "b") as b, open_model(tmp_path / "c") as c:
        assert any("4096" in note for note in a.info.notes)
        assert not any("looks back" in note for note in (*b.info.notes, *c.info.notes))


@pytest.mark.parametrize("name", ["MambaForCausalLM", "WhisperForConditionalGeneration", "Nonsense"])
def test_others_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make(tmp_path, "llama", architectures=[name])
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "unknown_architecture" and name in caught.value.detail


def test_sampling_and_card(tmp_path: Path) -> None:
    make(tmp_path, "qwen2")
    write_json(
        tmp_path / "generation_config.json",
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "do_sample": True, "min_p": None},
    )
    card = '---\nlicense: apache-2.0\nlanguage:\n- en\n- "no"\ntags: [chat, tiny]\npipeline_tag: text-generation\n---\n'
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    with open_model(tmp_path) as model:
        found = values(model)
    sampling = {k.removeprefix("general.sampling."): v for k, v in found.items() if "sampling" in k}
    assert sampling == {"temp": 0.7, "top_k": 20, "top_p": 0.8, "penalty_repeat": 1.05}
    assert found["general.license"] == "apache-2.0" and found["general.languages"] == ["en", "no"]
    assert found["general.tags"] == ["chat", "tiny", "text-generation"]


NAMES = [
    "Qwen2.5-0.5B-Instruct", "Llama-3.2-1B-Instruct", "meta-llama/Meta-Llama-3-8B", "Mistral-7B-Instruct-v0.3",
    "pocket",
    "Qwen3-4B-128k", "bloom-7b1", "TinyLlama-1.1B-Chat-v1.0", "my model", "SmolLM-135M", "./local", "x-small-2B-lora",
    "Hermes-2-Pro-Llama-3-8B-Q4_K_M", "gpt2-xl", "a--b", "phi-3-mini-4k-instruct", "-", "7B",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parameters", [5_246_208, 494_032_768, 1_100_048_384, 8_030_261_248])
def test_names_are_taken_apart_as_by_the_package(name: str, parameters: int) -> None:
    full, organization, base, finetune, version, size = gguf.Metadata.get_model_id_components(name, parameters)
    ours = take_apart(name, parameters)
    assert (ours.full, ours.organization, ours.base, ours.finetune, ours.version, ours.size) == (
        full, organization, base, finetune, version, size,
    )  # fmt: skip
    assert title(full or "") == gguf.Metadata.id_to_title(full or "")


@pytest.mark.parametrize(
    "count", [1, 999, 1000, 5_246_208, 99_499_999, 494_032_768, 8_030_261_248, 7 * 10**11, 2 * 10**12]
)
def test_size_labels_equal_the_package(count: int) -> None:
    assert size_label(WeightCount(count, count)) == gguf.size_label(count, count, 0, 0)
    assert size_label(WeightCount(count, count // 3, count // 12, 8)) == gguf.size_label(
        count, count // 3, count // 12, 8
    )
