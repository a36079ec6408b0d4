"""LoRA adapters on Pocket. The oracle is the merged model: weights changed by numpy, written by gguf-py."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from app.adapter_messages import Adapter
from app.engine.model import Model
from app.protocol import ChatMessage, LoadOptions, Sampling
from converter import open_model
from converter.spec import QuenchError
from tests.lora_files import ALPHA, RANK, TARGETS, pairs, write_adapter

OPTIONS = LoadOptions(threads=1, context=256, kv_type="f32", flash_attention="off")


def merged(source, target, changes, scale):
    """The model with ``scale * alpha / rank * B A`` added to its matrices, everything else as it was."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name in changes:
            a, b = changes[tensor.name]
            values = values + (scale * ALPHA / RANK) * (b @ a)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values.astype(np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(target)


@pytest.fixture(scope="module")
def base(pocket_gguf):
    return str(pocket_gguf("F32"))


@pytest.fixture(scope="module")
def model(base):
    with Model.load(base, OPTIONS) as loaded:
        yield loaded


@pytest.fixture
def plain(model):
    yield model
    model.use_adapters(())


def logits(model):
    tokens = model.prompt_tokens(model.render([ChatMessage("user", "What is the capital of France?")]))
    return np.array(model.window_logits(tokens, 0))


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_an_adapter_computes_what_the_merged_model_does(plain, base, tmp_path, scale):
    # Without the embedding: the engine adapts what it takes from it, while the tied output matrix stays.
    changes = pairs(base, TARGETS[:3])
    path = write_adapter(tmp_path / "a.gguf", changes)
    before = logits(plain)
    assert plain.use_adapters((Adapter(path, scale),)) == (Adapter(path, scale),)
    found = logits(plain)
    assert np.abs(found - before).max() > 0.1
    with Model.load(merged(base, tmp_path / "merged.gguf", changes, scale), OPTIONS) as other:
        expected = logits(other)
    spread = expected.max() - expected.min()
    assert np.abs(found - expected).max() < 1e-4 * spread


def test_the_scale_is_live_and_zero_is_none(plain, base, tmp_path):
    path = write_adapter(tmp_path / "a.gguf", pairs(base, TARGETS[:3]))
    before = logits(plain)
    seen = []
    for scale in (1.0, 0.25, 0.0):
        plain.use_adapters((Adapter(path, scale),))
        seen.append(logits(plain))
    assert np.abs(seen[0] - seen[1]).max() > 0.01
    np.testing.assert_array_equal(seen[2], before)
    plain.use_adapters(())
    np.testing.assert_array_equal(logits(plain), before)


def test_an_answer_after_a_change_reuses_nothing(plain, base, tmp_path):
    path = write_adapter(tmp_path / "a.gguf", pairs(base, TARGETS[:3]))
    tokens = plain.prompt_tokens(plain.render([ChatMessage("user", "What is the capital of France?")]))
    greedy = Sampling(temperature=0, max_tokens=4)

    def reused():
        return list(plain.generate(tokens, greedy))[-1].stats.prompt_reused

    reused()
    assert reused() == len(tokens) - 1
    plain.use_adapters((Adapter(path, 1.0),))
    assert reused() == 0
    plain.use_adapters((Adapter(path, 1.0),))
    assert reused() == len(tokens) - 1  # no change at all
    plain.use_adapters((Adapter(path, 0.9),))
    assert reused() == 0


def test_every_matrix_and_several_adapters(plain, base, tmp_path):
    with open_model(base) as opened:
        names = [t.name for t in opened.info.tensors if len(t.shape) == 2 and t.name != "token_embd.weight"]
    first = write_adapter(tmp_path / "all.gguf", pairs(base, names))
    second = write_adapter(tmp_path / "other.gguf", pairs(base, TARGETS[:1], seed=2))
    plain.use_adapters((Adapter(first, 0.1),))
    one = logits(plain)
    plain.use_adapters((Adapter(first, 0.1), Adapter(second, 1.0)))
    both = logits(plain)
    assert np.isfinite(both).all()
    assert np.abs(one - both).max() > 1e-3


def test_an_embedding_that_is_the_output_matrix_too_is_refused(plain, base, tmp_path):
    """The engine would abort in the next decode."""
    path = write_adapter(tmp_path / "a.gguf", pairs(base, TARGETS[3:]))
    with pytest.raises(QuenchError, match="output matrix"):
        plain.use_adapters((Adapter(path, 1.0),))


GARBAGE = {
    "no file of this kind": lambda path, changes: path.write_bytes(b"garbage" * 100),
    "a model": lambda path, changes: write_adapter(path, changes, kind="model"),
    "another kind of adapter": lambda path, changes: write_adapter(path, changes, lora="something"),
    "another architecture": lambda path, changes: write_adapter(path, changes, architecture="qwen2"),
    "no number": lambda path, changes: write_adapter(path, changes, alpha=math.nan),
    "half a pair": lambda path, changes: write_adapter(path, {"blk.0.attn_q.weight": (changes["x"][0], None)}),
    "no tensors": lambda path, changes: write_adapter(path, {}),
    "a tensor the model has not": lambda path, changes: write_adapter(path, {"blk.99.attn_q.weight": changes["x"]}),
    "another shape": lambda path, changes: write_adapter(
        path, {"blk.0.attn_q.weight": (np.zeros((4, 32), np.float32), np.zeros((256, 4), np.float32))}
    ),
    "other ranks": lambda path, changes: write_adapter(
        path, {"blk.0.attn_q.weight": (np.zeros((4, 256), np.float32), np.zeros((256, 8), np.float32))}
    ),
    "cut short": lambda path, changes: path.write_bytes(
        Path(write_adapter(path, {"blk.0.attn_q.weight": changes["x"]})).read_bytes()[:-64]
    ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_adapter_for_the_model_is_refused_and_nothing_changes(plain, base, tmp_path, name):
    good = write_adapter(tmp_path / "good.gguf", pairs(base, TARGETS[:1]))
    plain.use_adapters((Adapter(good, 1.0),))
    before = logits(plain)
    bad = tmp_path / "bad.gguf"
    x = pairs(base, TARGETS[:1])["blk.0.attn_q.weight"]
    GARBAGE[name](bad, {"x": x, "blk.0.attn_q.weight": x})
    with pytest.raises(QuenchError) as caught:
        plain.use_adapters((Adapter(good, 1.0), Adapter(str(bad), 1.0)))
    assert caught.value.code in {"bad_adapter", "adapter_mismatch", "not_gguf", "truncated", "bad_header"}
    np.testing.assert_array_equal(logits(plain), before)


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e6])
def test_a_scale_that_is_none_is_refused(plain, base, tmp_path, scale):
    good = write_adapter(tmp_path / "good.gguf", pairs(base, TARGETS[:1]))
    with pytest.raises(QuenchError, match="scale"):
        plain.use_adapters((Adapter(good, scale),))


def test_a_missing_file_is_said_to_be_missing(plain, tmp_path):
    with pytest.raises(QuenchError) as caught:
        plain.use_adapters((Adapter(str(tmp_path / "none.gguf")),))
    assert caught.value.code == "not_found"
