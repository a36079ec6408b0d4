"""Plans against truth. The oracle of the header's formula is the engine's dry load, that of the plan a real worker."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from app import hardware
from app.engine.dry import plan_load
from app.memory_plan import cache_of, repacked_bytes
from app.protocol import LoadOptions
from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import QuenchError
from tests.bench import memory as bench

STEP = 0.02 * (1 << 20)  # the engine says its buffers in hundredths of a MiB


def header_of(path):
    file = ByteFile(path)
    try:
        return read_header(file)
    finally:
        file.close()


def small(path, architecture, keys, tensors):
    """A GGUF file of zeros: enough for the engine to lay it out. Shapes are row-major."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(64)
    for key, value in keys.items():
        full = f"{architecture}.{key}"
        if isinstance(value, list):
            writer.add_array(full, value)
        elif isinstance(value, float):
            writer.add_float32(full, value)
        else:
            writer.add_uint32(full, value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def attention(layers, **more):
    """Keys and tensors of a Llama-like model."""
    width, heads, kv_heads, head, forward = 64, 4, 2, 16, 96
    keys = {
        "block_count": layers,
        "context_length": 4096,
        "embedding_length": width,
        "feed_forward_length": forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": head,
        **more,
    }
    tensors = {"token_embd.weight": (64, width), "output_norm.weight": (width,), "output.weight": (64, width)}
    for layer in range(layers):
        tensors |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.attn_q.weight": (heads * head, width),
            f"blk.{layer}.attn_k.weight": (kv_heads * head, width),
            f"blk.{layer}.attn_v.weight": (kv_heads * head, width),
            f"blk.{layer}.attn_output.weight": (width, heads * head),
            f"blk.{layer}.ffn_norm.weight": (width,),
            f"blk.{layer}.ffn_gate.weight": (forward, width),
            f"blk.{layer}.ffn_up.weight": (forward, width),
            f"blk.{layer}.ffn_down.weight": (width, forward),
        }
    return keys, tensors


def llama(folder):
    return small(folder / "llama.gguf", "llama", *attention(3))


def gemma2(folder):
    """Every second layer sees a window of 300 tokens."""
    keys, tensors = attention(4, **{"attention.sliding_window": 300})
    keys |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    for layer in range(4):
        tensors[f"blk.{layer}.post_attention_norm.weight"] = (64,)
        tensors[f"blk.{layer}.post_ffw_norm.weight"] = (64,)
    del tensors["output.weight"]
    return small(folder / "gemma2.gguf", "gemma2", keys, tensors)


def mamba(folder):
    width, inner, state, taps, rank = 64, 128, 16, 4, 4
    keys = {
        "block_count": 3,
        "context_length": 4096,
        "embedding_length": width,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": taps,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    tensors = {"token_embd.weight": (64, width), "output_norm.weight": (width,), "output.weight": (64, width)}
    for layer in range(3):
        tensors |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.ssm_in.weight": (2 * inner, width),
            f"blk.{layer}.ssm_conv1d.weight": (inner, taps),
            f"blk.{layer}.ssm_conv1d.bias": (inner,),
            f"blk.{layer}.ssm_x.weight": (rank + 2 * state, inner),
            f"blk.{layer}.ssm_dt.weight": (inner, rank),
            f"blk.{layer}.ssm_dt.bias": (inner,),
            f"blk.{layer}.ssm_a": (inner, state),
            f"blk.{layer}.ssm_d": (inner,),
            f"blk.{layer}.ssm_out.weight": (width, inner),
        }
    return small(folder / "mamba.gguf", "mamba", keys, tensors)


MAKERS = {"llama": llama, "gemma2": gemma2, "mamba": mamba}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("context", "kv_type"), [(512, "f16"), (4096, "f32")])
def test_the_formula_says_what_the_engine_lays_out(tmp_path, name, context, kv_type):
    path = MAKERS[name](tmp_path)
    plan = plan_load(str(path), LoadOptions(context=context, kv_type=kv_type, threads=1), outputs=16)
    cache = cache_of(header_of(path).value, context, kv_type)
    assert cache.exact
    assert cache.kv + cache.state == pytest.approx(plan.kv, abs=STEP)
    assert (cache.state > 0) == (name == "mamba")
    if name == "gemma2":  # two layers of all tokens, two of the window, a batch and the rest of a step
        kept = min(context, -(-(300 + 512) // 256) * 256)
        assert cache.kv == (2 * context + 2 * kept) * 2 * 16 * 2 * (2 if kv_type == "f16" else 4)


def test_pocket_is_planned_to_the_byte(pocket_gguf):
    for kind, kv_type in (("Q8_0", "q8_0"), ("Q4_K_M", "f16")):
        path = pocket_gguf(kind)
        plan = plan_load(str(path), LoadOptions(context=1024, kv_type=kv_type, threads=1), outputs=16)
        assert cache_of(header_of(path).value, 1024, kv_type).kv == pytest.approx(plan.kv, abs=STEP)
        assert plan.architecture == "llama"
        assert plan.total == plan.weights + plan.own


UNSURE = {
    "an architecture with rules of its own": {"general.architecture": "deepseek4", "deepseek4.block_count": 3},
    "no architecture": {},
    "no layers": {"general.architecture": "llama"},
    "a hybrid that does not say which layers": {"general.architecture": "jamba", "jamba.block_count": 4},
    "numbers that are none": {"general.architecture": "llama", "llama.block_count": "many"},
}


@pytest.mark.parametrize("name", UNSURE)
def test_what_the_header_does_not_tell_is_unknown_and_not_a_guess(name):
    assert cache_of(UNSURE[name].get, 4096) is None


def test_a_list_that_was_cut_short_gives_an_upper_bound():
    keys = {
        "general.architecture": "llama",
        "llama.block_count": 12,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
    }
    whole = cache_of((keys | {"llama.attention.head_count_kv": [2, 1] * 6}).get, 1024)
    cut = cache_of((keys | {"llama.attention.head_count_kv": [2, 1] * 4}).get, 1024)
    assert whole.exact and not cut.exact
    assert whole.kv < cut.kv


def test_copies_for_the_processor_follow_its_features():
    tensors = [
        ("token_embd.weight", (64, 256), "Q4_K", 9216),
        ("output.weight", (64, 256), "Q4_K", 9216),
        ("blk.0.ffn_up.weight", (60, 256), "Q4_K", 8640),  # not whole groups of eight rows
        ("blk.0.attn_q.weight", (64, 256), "Q6_K", 13440),
        ("blk.0.attn_norm.weight", (256,), "F32", 1024),
    ]
    assert repacked_bytes(tensors, frozenset()) == 0
    assert repacked_bytes(tensors, frozenset({"avx2"})) == 9216
    assert repacked_bytes(tensors[:1], frozenset({"avx2"})) == 9216  # it is the output matrix too
    assert repacked_bytes(tensors, frozenset({"neon", "dotprod"})) == 9216 + 13440


def test_a_context_that_was_not_asked_for_is_made_to_fit(pocket_gguf, monkeypatch, tmp_path):
    path = str(gemma2(tmp_path))
    free = plan_load(path, LoadOptions(threads=1), outputs=16)
    assert (free.context, free.asked, free.fits) == (4096, 0, True)  # the trained length: less than 8,192
    monkeypatch.setattr(hardware, "memory_available", lambda: free.total - (1 << 20))
    less = plan_load(path, LoadOptions(threads=1), outputs=16)
    assert less.context < 4096
    assert less.asked == 4096
    assert less.fits
    asked = plan_load(path, LoadOptions(threads=1, context=4096), outputs=16)
    assert (asked.context, asked.fits) == (4096, False)
    # What another process gives back counts; so does what was learned.
    assert not plan_load(path, LoadOptions(threads=1, context=256), outputs=16, ratio=50.0).fits


def test_a_long_training_length_is_never_taken_unasked(tmp_path):
    keys, tensors = attention(2, context_length=1 << 20)
    path = small(tmp_path / "long.gguf", "llama", keys, tensors)
    assert plan_load(str(path), LoadOptions(threads=1), outputs=16).context == 8192


def test_what_cannot_be_planned_is_an_error_in_words(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(QuenchError) as caught:
        plan_load(str(broken), LoadOptions(), outputs=16)
    assert caught.value.title


@pytest.mark.slow
def test_plans_are_within_a_tenth_of_the_truth(pocket_gguf, tmp_path):
    """Prints the table; what the worker truly took is its own memory with a full context, and the file's weights."""
    print("\n" + bench.HEADER)
    rows = []
    for kind in ("F16", "Q8_0", "Q4_K_M"):
        for options in bench.CASES:
            row = bench.measure(str(pocket_gguf(kind)), options)
            print(bench.line(row), flush=True)
            rows.append(row)
    assert not [row.error for row in rows if row.error]
    assert all(0.9 <= row.ratio <= 1.1 for row in rows)
