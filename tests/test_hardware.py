"""The machine and the memory plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from app import hardware
from app.child import worker_environment
from converter.spec import ModelInfo, TensorInfo

GIB = 1 << 30

# The shape of an 8-billion-parameter Llama in Q4_K_M.
LARGE = ModelInfo(
    path="/m.gguf", kind="gguf", name="m", architecture="llama", parameters=8_030_261_248, layers=32,
    context_length=131072, embedding_length=4096, heads=32, kv_heads=8, key_length=128, value_length=128, experts=0,
    vocabulary=128256, tokenizer="gpt2", pre_tokenizer="llama-bpe", types={"Q4_K": 1}, bytes=4_920_734_272,
    tensors=(TensorInfo("all", (1,), "Q4_K", 4_912_898_304),), metadata={"llama.feed_forward_length": 14336},
)  # fmt: skip


def test_the_machine_is_described():
    assert hardware.cpu_name().strip()
    assert 1 <= hardware.physical_cores() <= os.cpu_count()
    assert hardware.default_threads() == hardware.physical_cores()
    assert hardware.memory_total() > GIB // 4
    assert 0 < hardware.memory_available() <= hardware.memory_total()


def test_bandwidth_is_that_of_a_memory():
    assert 0.5e9 < hardware.measure_bandwidth(0.1) < 5e12


def test_no_qt_and_no_engine_are_imported():
    code = "import sys, app.hardware; print([m for m in ('PySide6', 'llama_cpp', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=worker_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_memory_of_a_process_is_the_systems_own_figure():
    block = bytearray(os.urandom(1 << 16)) * 1024  # 64 MiB of our own
    memory = hardware.process_memory()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert memory.anonymous == pytest.approx(int(status["RssAnon"].split()[0]) << 10, rel=0.02)
    assert memory.anonymous > len(block)
    assert memory.anonymous == pytest.approx(hardware.anonymous_memory(), rel=0.02)
    assert memory.peak >= memory.share >= memory.anonymous * 0.9
    assert hardware.process_memory(os.getppid()).peak > 0


def test_a_process_that_is_gone_uses_nothing():
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait(20)
    assert hardware.process_memory(done.pid) == (0, 0, 0)
    assert hardware.anonymous_memory(done.pid) == 0


def test_the_cache_of_a_known_model():
    # 2 (key and value) * 8 heads * 128 * 32 layers * 2 bytes = 128 KiB a token; 1 GiB at 8192 tokens.
    assert hardware.kv_per_token(LARGE) == 128 << 10
    fit = hardware.fits(LARGE, available=64 * GIB)
    assert fit.kv == GIB
    assert fit.weights == 4_912_898_304
    assert fit.total == fit.weights + fit.kv + fit.compute
    assert 100 << 20 < fit.compute < GIB
    assert hardware.fits(LARGE, kv_type="q8_0", available=64 * GIB).kv == pytest.approx(GIB * 34 / 64)


@pytest.mark.parametrize(("available", "level"), [(64, "good"), (7, "tight"), (5, "no"), (0, "no")])
def test_levels(available, level):
    assert hardware.fits(LARGE, 8192, available=available * GIB).level == level


def test_the_context_that_fits_fits_and_a_little_more_would_not():
    for available in (6.5, 7, 8, 12, 20):
        fit = hardware.fits(LARGE, 8192, available=int(available * GIB))
        if fit.context_that_fits:
            assert hardware.fits(LARGE, fit.context_that_fits, available=fit.available).level == "good"
        if fit.context_that_fits < LARGE.context_length:
            longer = fit.context_that_fits + 256
            assert hardware.fits(LARGE, longer, available=fit.available).level != "good"
    assert hardware.fits(LARGE, available=64 * GIB).context_that_fits == 131072
    assert hardware.fits(LARGE, available=4 * GIB).context_that_fits == 0


def test_a_header_that_says_little_gives_a_plan_all_the_same():
    bare = msgspec.structs.replace(
        LARGE, heads=0, kv_heads=0, key_length=0, value_length=0, layers=0, context_length=0, metadata={}, tensors=()
    )
    fit = hardware.fits(bare, available=64 * GIB)
    assert fit.weights == bare.bytes
    assert fit.kv == 0
    assert fit.level == "good"


def test_the_plan_of_pocket_is_near_the_truth(pocket_gguf):
    """Weights and cache exactly, as the engine reports them after loading."""
    import converter
    from app.engine.model import Model
    from app.protocol import LoadOptions

    path = str(pocket_gguf("Q8_0"))
    with converter.open_model(path) as source:
        fit = hardware.fits(source.info, 1024)
    with Model.load(path, LoadOptions(context=1024, threads=1)) as model:
        memory = model.memory()
    assert fit.kv == memory.kv
    assert fit.weights == pytest.approx(memory.weights, rel=0.01)
