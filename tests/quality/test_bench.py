"""The parts of a speed measurement that can be counted by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from app.engine.model import Model
from app.measure_messages import MeasureBench, ModelBench, SpeedPoint, Spread
from app.quality import bench
from app.quality.subject import read_header
from converter.spec import ModelInfo, TensorInfo


def info(tensors: tuple[TensorInfo, ...], *, tied: bool = False, experts: int = 0, used: int = 0) -> ModelInfo:
    return ModelInfo(
        path="x", kind="gguf", name="x", architecture="llama", parameters=0, layers=1, context_length=1,
        embedding_length=1, heads=1, kv_heads=1, key_length=1, value_length=1, experts=experts, vocabulary=100,
        tokenizer="", pre_tokenizer="", types={}, bytes=0, tensors=tensors,
        metadata={"llama.expert_used_count": used} if used else {}, tied_embeddings=tied,
    )  # fmt: skip


EMBEDDING = TensorInfo("token_embd.weight", (100, 8), "F16", 1600)
HIDDEN = TensorInfo("blk.0.ffn_up.weight", (8, 8), "F16", 128)
OUTPUT = TensorInfo("output.weight", (100, 8), "F16", 1600)
EXPERTS = TensorInfo("blk.0.ffn_up_exps.weight", (8, 8, 8), "F16", 1024)


def test_bytes_of_a_token() -> None:
    assert bench.bytes_per_token(info((EMBEDDING, HIDDEN), tied=True)) == 1600 + 128
    assert bench.bytes_per_token(info((EMBEDDING, HIDDEN, OUTPUT))) == 16 + 128 + 1600
    assert bench.bytes_per_token(info((OUTPUT, EXPERTS), experts=8, used=2)) == 1600 + 256


def test_pocket_reads_all_its_tensors(pocket_gguf: Callable[[str], Path]) -> None:
    """Its embeddings are tied, so a token reads every tensor; sizes by gguf's own reader."""
    path = pocket_gguf("Q4_K_M")
    assert bench.bytes_per_token(read_header(str(path))) == sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)


def test_roofline_counts_the_cache_at_its_mean_length() -> None:
    point = SpeedPoint(100, 1000, 2, Spread(50.0, 40.0, 60.0))
    found = bench.roofline(info((HIDDEN,)), 10.0, point, 1e6)
    assert found.bytes_per_token == 128 + 10 * 1050
    assert found.fraction == pytest.approx(found.bytes_per_token * 50 / 1e6)


def test_spread() -> None:
    assert bench.spread([5.0]) == Spread(5.0, 5.0, 5.0)
    assert bench.spread([float(i) for i in range(11)]) == Spread(5.0, 1.0, 9.0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program drop a file from the page cache")
def test_forgetting_a_file_is_seen_by_the_system(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(os.urandom(3 << 20))
    assert bench.resident_share(file) == pytest.approx(1.0, abs=0.02)
    if not bench.forget_pages(file):
        pytest.skip("the folder for temporary files is itself in memory")
    assert bench.resident_share(file) <= bench.RESIDENT_AT_MOST
    file.read_bytes()
    assert bench.resident_share(file) == pytest.approx(1.0, abs=0.02)


def test_without_a_number_of_threads_the_model_keeps_its_own(pocket_gguf: Callable[[str], Path]) -> None:
    """What the model took when it was loaded stays, and every point says it; a given number wins over that."""
    path = str(pocket_gguf("Q2_K"))
    made: list[Model] = []

    def take(model: Model) -> None:
        made.append(model)
        model.set_threads(3, 5)  # numbers that nothing else here would come to

    def run(threads: tuple[int, ...]) -> ModelBench:
        command = MeasureBench((path,), prompt=16, generate=4, threads=threads, repeat=1)
        return bench.BenchRun(command, lambda event: None, lambda: False, take).run().models[0]

    own = run(())
    assert [point.threads for point in own.prompt] == [5]
    assert [point.threads for point in own.generate] == [3]
    given = run((1, 2))
    assert [point.threads for point in given.generate] == [1, 2]
    assert [point.threads for point in given.prompt] == [1, 2]
