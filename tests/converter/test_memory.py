"""The memory cap holds: the most anonymous memory of a conversion, seen from inside a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converter.sources.gguf import open_gguf
from tests.bench.models import Shape, write_model
from tests.converter.llama_quantize import synthetic

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell anonymous memory apart")

MIB = 1 << 20

CONVERT = """
import sys, threading
from converter import ConversionSpec, convert
source, target, types, cap = sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4])
peak, over = 0, threading.Event()

def look():
    global peak
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            peak = max(peak, int(line.split()[1]) * 1024)

def watch():
    while not over.wait(0.002):
        look()

threading.Thread(target=watch, daemon=True).start()
convert(ConversionSpec(source, target, tuple(types), threads=2, memory_mib=cap, allow_requantize=True))
over.set()
look()
print(peak)
"""


def peak_of(source: Path, target: Path, types: str, cap: int) -> int:
    """Bytes of anonymous memory at the worst moment."""
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, str(source), str(target), types, str(cap)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return int(done.stdout)


@pytest.mark.slow  # stacked experts are such tensors among the quick tests
def test_a_folder_whose_tensors_are_larger_than_the_cap(tmp_path: Path) -> None:
    """The embedding has 31 MiB in two bytes a weight, the file 153 MiB; permuted rows and a vocabulary come on top."""
    shape = Shape(hidden=512, inner=1536, layers=16, heads=8, kv_heads=2)
    parameters = write_model(tmp_path / "model", shape)
    assert 2 * parameters > 140 * MIB
    for types, cap in (("Q4_K_M", 52), ("F32", 52), ("Q4_K_M,Q8_0,F16", 56)):
        target = tmp_path / types.replace(",", "-")
        target.mkdir()
        assert peak_of(tmp_path / "model", target, types, cap) < cap * MIB
        for path in target.iterdir():
            path.unlink()


@pytest.mark.parametrize("kind", ["F16", "F32", "Q8_0"])
def test_stacked_experts_larger_than_the_cap(tmp_path: Path, kind: str) -> None:
    """Eight experts of 4096 rows in one tensor: 34 MiB of Q8_0 to 128 MiB of float32."""
    source = synthetic(
        tmp_path / "experts.gguf",
        "llama",
        [("token_embd.weight", (4096, 1024)), ("blk.0.ffn_up_exps.weight", (8, 4096, 1024))],
        layers=1,
        heads=8,
        kv_heads=8,
        experts=8,
        kind="F16",
    )
    assert np.prod(open_gguf(source).tensors[1].shape) * 4 == 128 * MIB
    if kind != "F16":
        peak_of(source, tmp_path / "other.gguf", kind, 0)
        source = tmp_path / "other.gguf"
    assert peak_of(source, tmp_path / "out.gguf", "Q6_K", 40) < 40 * MIB
