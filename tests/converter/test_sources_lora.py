"""LoRA adapters: merged as the formula says, in the rows' right order, and refused in words where they do not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from converter import ConversionSpec, QuenchError, convert, open_model, plan
from converter.sources import lora
from tests.converter.checkpoints import archive, entries, views_of
from tests.converter.folders import (
    bpe_tokenizer,
    join,
    safetensors,
    scattered,
    tokenizer_size,
    write_folder,
    write_json,
)

VOCABULARY = tokenizer_size(bpe_tokenizer())
Q = "model.layers.0.self_attn.q_proj"
K = "model.layers.1.self_attn.k_proj"
DOWN = "model.layers.1.mlp.down_proj"
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
MATRIX = {"r": 4, "lora_alpha": 8, "peft_type": "LORA", "base_model_name_or_path": "acme/tiny"}


def base(folder: Path, kind: str = "llama", dtype: str = "F32", exact: bool = False, **changes: Any) -> dict[str, Any]:
    """A model folder; with ``exact`` its weights are small whole numbers, so that no sum of them is ever rounded."""
    _, tensors = write_folder(folder, kind, vocab_size=VOCABULARY, dtype=dtype, **changes)
    write_json(folder / "tokenizer.json", bpe_tokenizer())
    if exact:
        tensors = {name: np.rint(values * 4) for name, values in tensors.items()}
        store(folder, tensors, dtype)
    return tensors


def store(folder: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    (folder / "model.safetensors").write_bytes(join(*safetensors(tensors, dtype)))


def halves(tensors: dict[str, np.ndarray], module: str, rank: int = 4, exact: bool = False) -> dict[str, np.ndarray]:
    """``A`` and ``B`` for a module, under the names that PEFT gives them."""
    rows, columns = tensors.get(f"{module}.weight", tensors[f"{EMBEDDING}.weight"]).shape
    a, b = scattered((rank, columns), 11 + rank), scattered((rows, rank), 23 + len(module))
    if exact:
        a, b = np.rint(a), np.rint(b)
    name = f"base_model.model.{module}"
    if module == EMBEDDING:
        a, b = scattered((rank, rows), 5), scattered((columns, rank), 6)
        return {f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b}
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


def adapter(folder: Path, tensors: dict[str, np.ndarray], dtype: str = "F32", **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", {**MATRIX, **config})
    (folder / "adapter_model.safetensors").write_bytes(join(*safetensors(tensors, dtype)))
    return folder


def product(pair: dict[str, np.ndarray]) -> np.ndarray:
    """``B A`` in float64, of either kind of pair."""
    by_kind = {name.split("lora_")[1][:1] + name[-1:]: values.astype(np.float64) for name, values in pair.items()}
    if "eA" in by_kind:
        return (by_kind["eB"] @ by_kind["eA"]).T
    names = sorted(pair)
    return pair[names[1]].astype(np.float64) @ pair[names[0]].astype(np.float64)


def merged(folder: Path, *adapters: Path) -> dict[str, np.ndarray]:
    """What the merged model gives, by Hugging Face's name, as float32 in the GGUF's row order."""
    with open_model(folder) as model, lora.merged(model, [str(path) for path in adapters]) as whole:
        return {t.source_name: t.rows(0, t.n_rows).reshape(t.shape) for t in whole.tensors}


def reference(folder: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same of a folder whose weights were merged beforehand."""
    store(folder, tensors)
    return merged(folder)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("stored", ["safetensors", "bin"])
def test_the_formula(kind: str, stored: str, tmp_path: Path) -> None:
    """Against float64, for a matrix with rotary rows, one without, and the embedding."""
    tensors = base(tmp_path / "m", kind, tie_word_embeddings=False)
    pairs = {module: halves(tensors, module) for module in (Q, K, DOWN, EMBEDDING, HEAD)}
    flat = {name: values for pair in pairs.values() for name, values in pair.items()}
    folder = adapter(tmp_path / "a", flat)
    if stored == "bin":
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(archive(entries(*views_of(flat, "F32"))))
    found = merged(tmp_path / "m", folder)
    for module, pair in pairs.items():
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + 2.0 * product(pair)
    expected = reference(tmp_path / "m", tensors)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_the_bytes_of_a_folder_merged_beforehand(tmp_path: Path) -> None:
    """Whole numbers, so that the order of additions cannot matter: F32 to the byte, and Q8_0 as well."""
    tensors = base(tmp_path / "m", exact=True)
    modules = (Q, K, DOWN)
    pairs = [halves(tensors, module, exact=True) for module in modules]
    folder = adapter(tmp_path / "a", {name: values for pair in pairs for name, values in pair.items()})
    spec = ConversionSpec(str(tmp_path / "m"), str(tmp_path / "out"), ("F32", "Q8_0"), lora=(str(folder),), threads=2)
    result = convert(spec)
    found = [weights(output.path) for output in result.outputs]
    for module, pair in zip(modules, pairs, strict=True):
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + 2 * product(pair)
    store(tmp_path / "m", tensors)
    again = convert(ConversionSpec(str(tmp_path / "m"), str(tmp_path / "plain"), ("F32", "Q8_0")))
    assert found == [weights(output.path) for output in again.outputs]


def weights(path: str) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_no_bit_depends_on_slabs_or_threads(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m", hidden_size=256, intermediate_size=700, dtype="BF16")
    folder = adapter(tmp_path / "a", halves(tensors, DOWN) | halves(tensors, Q), use_dora=False)
    files = []
    for number, threads in enumerate((1, 3)):
        output = tmp_path / f"{number}.gguf"
        convert(ConversionSpec(str(tmp_path / "m"), str(output), ("F32",), lora=(str(folder),), threads=threads))
        files.append(output.read_bytes())
    assert files[0] == files[1]
    with open_model(tmp_path / "m") as model, lora.merged(model, [str(folder)]) as whole:
        for tensor in (t for t in whole.tensors if t.source_name in (f"{DOWN}.weight", f"{Q}.weight")):
            rows = tensor.rows(0, tensor.n_rows)
            for step in (1, 7, 33):
                parts = [tensor.rows(a, min(a + step, len(rows))) for a in range(0, len(rows), step)]
                np.testing.assert_array_equal(np.concatenate(parts), rows)
            assert tensor.raw(3, 5).tobytes() == rows[3:5].tobytes()


SCALES: dict[str, tuple[dict[str, Any], float]] = {
    "alpha over r": ({}, 2.0),
    "rank-stabilized": ({"use_rslora": True}, 4.0),
    "a fraction": ({"lora_alpha": 0.5}, 0.125),
    "rank and alpha of one module": ({"r": 64, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {Q: 32}}, 8.0),
    "rank of a longer name": ({"r": 64, "rank_pattern": {"mlp": 1, "self_attn.q_proj": 4}}, 2.0),
    "not a name's end alone": ({"alpha_pattern": {"_proj": 1, "proj": 1, "model.layers.1": 1}}, 2.0),
    "an expression": ({"alpha_pattern": {r"layers\.[0-3]\.self_attn\.(q|k)_proj": 12}}, 3.0),
    "the first of two": ({"alpha_pattern": {"q_proj": 4, Q: 100}}, 1.0),
    "for a layer with another layout": ({"fan_in_fan_out": True}, 2.0),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales(name: str, tmp_path: Path) -> None:
    config, scale = SCALES[name]
    tensors = base(tmp_path / "m")
    pair = halves(tensors, Q)
    found = merged(tmp_path / "m", adapter(tmp_path / "a", pair, **config))
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"] + scale * product(pair)
    expected = reference(tmp_path / "m", tensors)[f"{Q}.weight"]
    np.testing.assert_allclose(found[f"{Q}.weight"], expected, rtol=1e-5, atol=1e-5)


def test_dora(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    pair = halves(tensors, Q)
    lengths = np.abs(scattered((64,), 9)) + 1
    both = pair | {f"base_model.model.{Q}.lora_magnitude_vector": lengths}
    found = merged(tmp_path / "m", adapter(tmp_path / "a", both, use_dora=True))
    whole = tensors[f"{Q}.weight"] + 2.0 * product(pair)
    tensors[f"{Q}.weight"] = whole * (lengths / np.linalg.norm(whole, axis=1))[:, None]
    expected = reference(tmp_path / "m", tensors)[f"{Q}.weight"]
    np.testing.assert_allclose(found[f"{Q}.weight"], expected, rtol=1e-5, atol=1e-6)


def test_saved_modules_and_biases_replace_the_base(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m", "qwen2", tie_word_embeddings=False)
    pair = halves(tensors, EMBEDDING)
    changed = {
        "model.norm.weight": scattered((64,), 1),
        f"{Q}.bias": scattered((64,), 2),
        "lm_head.weight": scattered((VOCABULARY, 64), 3),
        f"{EMBEDDING}.weight": scattered((VOCABULARY, 64), 4),
    }
    saved = {
        "base_model.model.model.norm.weight": changed["model.norm.weight"],
        f"base_model.model.{Q}.bias": changed[f"{Q}.bias"],
        "base_model.model.lm_head.modules_to_save.default.weight": changed["lm_head.weight"],
        f"base_model.model.{EMBEDDING}.base_layer.weight": changed[f"{EMBEDDING}.weight"],
    }
    found = merged(tmp_path / "m", adapter(tmp_path / "a", saved | pair))
    changed[f"{EMBEDDING}.weight"] = changed[f"{EMBEDDING}.weight"] + 2.0 * product(pair)
    expected = reference(tmp_path / "m", tensors | changed)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_names_of_a_model_without_its_head(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    pair = {name.replace("model.model.", "model."): values for name, values in halves(tensors, Q).items()}
    named = {name.replace(".weight", ".default.weight"): values for name, values in pair.items()}
    found = merged(tmp_path / "m", adapter(tmp_path / "a", named))[f"{Q}.weight"]
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"] + 2.0 * product(pair)
    np.testing.assert_allclose(found, reference(tmp_path / "m", tensors)[f"{Q}.weight"], rtol=1e-5, atol=1e-5)


def test_two_adapters_one_after_the_other(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    first, second = halves(tensors, Q), halves(tensors, Q, 2)
    paths = (adapter(tmp_path / "a", first), adapter(tmp_path / "b", second, r=2))
    found = merged(tmp_path / "m", *paths)[f"{Q}.weight"]
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"] + 2.0 * product(first) + 4.0 * product(second)
    np.testing.assert_allclose(found, reference(tmp_path / "m", tensors)[f"{Q}.weight"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("module", "tied"), [(HEAD, False), (EMBEDDING, False), (EMBEDDING, True)])
def test_output_and_embedding_that_were_one(module: str, tied: bool, tmp_path: Path) -> None:
    """Training changed one of them and left the other, unless it was told to keep them one."""
    tensors = base(tmp_path / "m", "qwen3")
    pair = halves(tensors, module)
    found = merged(tmp_path / "m", adapter(tmp_path / "a", pair, ensure_weight_tying=tied))
    plain = tensors[f"{EMBEDDING}.weight"]
    changed = (plain.astype(np.float64) + 2.0 * product(pair)).astype(np.float32)
    expected = {f"{EMBEDDING}.weight": changed if module == EMBEDDING else plain}
    if not tied:
        expected["lm_head.weight"] = changed if module == HEAD else plain
    assert ("lm_head.weight" in found) == (not tied)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
    result = convert(
        ConversionSpec(str(tmp_path / "m"), str(tmp_path / "o.gguf"), ("F16",), lora=(str(tmp_path / "a"),))
    )
    assert ("output.weight" in result.outputs[0].tensors) == (not tied)


def test_the_plan_and_the_words_in_the_file(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m", dtype="BF16")
    folder = adapter(tmp_path / "my adapter", halves(tensors, Q) | halves(tensors, DOWN))
    plain = ConversionSpec(str(tmp_path / "m"), str(tmp_path / "a.gguf"), ("Q8_0",))
    spec = ConversionSpec(str(tmp_path / "m"), str(tmp_path / "b.gguf"), ("Q8_0",), lora=(str(folder),))
    before, after = (plan(spec.source, one) for one in (plain, spec))
    added = 4 * 4 * sum(sum(tensors[f"{module}.weight"].shape) for module in (Q, DOWN))
    assert after.read_bytes - before.read_bytes == added
    assert after.memory_needed > before.memory_needed
    results = [convert(one) for one in (plain, spec)]
    assert results[1].read_bytes == after.read_bytes
    first, second = (keys(path) for path in (plain.output, spec.output))
    assert second["general.name"] == first["general.name"] == second["general.base_model.0.name"]
    assert second["general.base_model.count"] == 1 and second["quench.lora"] == ["my adapter"]
    assert {k: v for k, v in second.items() if k in first} == first


def keys(path: str) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if name[:5] != "GGUF."}


def test_the_smallest_memory_holds(tmp_path: Path) -> None:
    """No float32 copy of the tensor: what a conversion with an adapter holds does not grow with its rows."""
    code = (
        "import sys, resource\nimport numpy as np\nfrom converter import open_model\n"
        "from converter.sources import lora\n"
        "with open_model(sys.argv[1]) as m, lora.merged(m, [sys.argv[2]]) as w:\n"
        "    t = next(t for t in w.tensors if t.name == 'token_embd.weight'); t.rows(0, 1000)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    for i in range(0, t.n_rows, 1000):\n"
        "        t.rows(i, i + 1000); t.release(i, i + 1000)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    _, tensors = write_folder(tmp_path / "m", "qwen3", vocab_size=200_000)
    folder = adapter(tmp_path / "a", halves(tensors, EMBEDDING))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m"), str(folder)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 * 1024, "KiB more than before, for a tensor of 50,000 in float32"


# --- refusals --------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "another kind": ("unsupported_adapter", {"peft_type": "LOHA"}),
    "no kind": ("unsupported_adapter", {"peft_type": None}),
    "biases of B": ("unsupported_adapter", {"lora_bias": True}),
    "layers twice": ("unsupported_adapter", {"layer_replication": [[0, 2], [1, 3]]}),
    "single tokens": ("unsupported_adapter", {"trainable_token_indices": [1, 2]}),
    "changed base": ("unsupported_adapter", {"init_lora_weights": "pissa_niter_4"}),
    "an odd start": ("unsupported_adapter", {"init_lora_weights": {"a": 1}}),
    "expression that takes for ever": ("unsupported_adapter", {"rank_pattern": {"(a+)+b": 4}}),
    "expression with many repetitions": ("unsupported_adapter", {"rank_pattern": {".*.*.*.*x": 4}}),
    "expression that is none": ("bad_adapter", {"alpha_pattern": {"(q": 4}}),
    "patterns as a list": ("bad_adapter", {"alpha_pattern": ["q"]}),
    "another rank": ("bad_adapter", {"r": 8}),
    "rank as text": ("bad_adapter", {"r": "4"}),
    "no alpha": ("bad_adapter", {"lora_alpha": None}),
    "alpha that is no number": ("bad_adapter", {"lora_alpha": float("nan")}),
    "lengths promised": ("bad_adapter", {"use_dora": True}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_are_refused(name: str, tmp_path: Path) -> None:
    code, config = CONFIGS[name]
    tensors = base(tmp_path / "m")
    refused(tmp_path / "m", adapter(tmp_path / "a", halves(tensors, Q), **config), code)


def refused(folder: Path, path: Path, code: str) -> QuenchError:
    with pytest.raises(QuenchError) as caught:
        plan(str(folder), ConversionSpec(str(folder), str(folder / "o.gguf"), ("F16",), lora=(str(path),)))
    error = caught.value
    assert error.code == code, (error.title, error.detail)
    assert error.title.endswith(".") and error.detail and error.hint.endswith(".")
    return error


def test_modules_that_are_not_there_are_named(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    pair = {name.replace("layers.0", "layers.7"): values for name, values in halves(tensors, Q).items()}
    error = refused(tmp_path / "m", adapter(tmp_path / "a", pair), "adapter_mismatch")
    assert "model.layers.7.self_attn.q_proj" in error.detail and "acme/tiny" in error.hint


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    other = dict(tensors) | {f"{Q}.weight": np.zeros((64, 96), np.float32)}
    error = refused(tmp_path / "m", adapter(tmp_path / "a", halves(other, Q)), "adapter_mismatch")
    assert "[4, 96]" in error.detail and "[4, 64]" in error.detail


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    pair = halves(tensors, Q)
    names = sorted(pair)
    refused(tmp_path / "m", adapter(tmp_path / "a", {names[0]: pair[names[0]]}), "bad_adapter")
    lengths = {f"base_model.model.{Q}.lora_magnitude_vector": np.ones(64, np.float32)}
    refused(tmp_path / "m", adapter(tmp_path / "b", pair | lengths), "bad_adapter")
    refused(tmp_path / "m", adapter(tmp_path / "c", {"x.weight": np.ones(4)}), "bad_adapter")
    twice = pair | {names[0].replace(".weight", ".default.weight"): pair[names[0]]}
    refused(tmp_path / "m", adapter(tmp_path / "d", twice), "bad_adapter")
    bias = pair | {names[1].replace("weight", "bias"): np.ones(64, np.float32)}
    refused(tmp_path / "m", adapter(tmp_path / "e", bias), "unsupported_adapter")


def test_folders_that_are_no_adapters(tmp_path: Path) -> None:
    base(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "m", tmp_path / "empty", "not_an_adapter")
    refused(tmp_path / "m", tmp_path / "nowhere", "not_found")
    refused(tmp_path / "m", tmp_path / "m", "not_an_adapter")
    write_json(tmp_path / "empty" / "adapter_config.json", MATRIX)
    (tmp_path / "empty" / "adapter_model.safetensors").write_bytes(b"123")
    refused(tmp_path / "m", tmp_path / "empty", "truncated")


def test_a_gguf_file_is_no_base(tmp_path: Path) -> None:
    tensors = base(tmp_path / "m")
    convert(ConversionSpec(str(tmp_path / "m"), str(tmp_path / "m.gguf"), ("F16",)))
    folder = adapter(tmp_path / "a", halves(tensors, Q))
    with pytest.raises(QuenchError) as caught:
        plan(
            str(tmp_path / "m.gguf"),
            ConversionSpec(str(tmp_path / "m.gguf"), str(tmp_path / "o.gguf"), ("F16",), lora=(str(folder),)),
        )
    assert caught.value.code == "adapter_mismatch"
