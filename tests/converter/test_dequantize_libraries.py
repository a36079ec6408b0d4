"""Decoders against the quantization libraries themselves, on numbers that no golden file has.

``QUENCH_QUANTIZATION`` may name a Python that has the libraries; else an environment is made once, outside the
repository, from whatever package index pip is configured for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from converter.sources import dequantize
from converter.sources.files import ByteFile
from converter.sources.gathered import file_tensor
from converter.sources.safetensors import read_header
from tests.converter.reference.environment import cache
from tests.converter.test_dequantize import bf16

MAKE = Path(__file__).parent.parent / "golden" / "make_quantized.py"
PACKAGES = ("torch==2.13.0", "transformers==5.24.0", "safetensors", "numpy<3", "accelerate", "pydantic", "loguru")
# Their own requirements want a graphics card or other versions; what is used of them needs none.
BARE = ("bitsandbytes==0.50.2", "compressed-tensors==0.20.1", "aqlm==1.1.7", "autoawq==0.2.7.post3", "auto-gptq==0.7.1",
        "mlx==0.32.4", "mlx-cpu==0.32.4")  # fmt: skip


@pytest.fixture(scope="module")
def libraries() -> Path:
    given = os.environ.get("QUENCH_QUANTIZATION")
    if given:
        return Path(given)
    stamp = sha256(repr((PACKAGES, BARE, sys.version_info[:2])).encode()).hexdigest()[:16]
    target = cache() / f"quantization-{stamp}"
    python = target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (target / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(target)], check=True)
        for packages in (PACKAGES, ("--no-deps", "--only-binary", ":all:", *BARE)):
            command = [str(python), "-m", "pip", "install", "-q", *packages]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"the quantization libraries cannot be installed: {done.stderr.strip()[-300:]}")
        (target / "complete").touch()
    return python


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_weights_of_every_library(seed: int, libraries: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.safetensors"
    command = [str(libraries), str(MAKE), str(seed), str(target)]
    done = subprocess.run(
        command, env=os.environ | {"TORCHDYNAMO_DISABLE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    raw = target.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    settings = json.loads(header["__metadata__"]["settings"])
    assert len(settings) >= 50, done.stdout
    file = ByteFile(target)
    every = read_header(file)
    for case, config in settings.items():
        mine = [replace(t, name=t.name.removeprefix(case + "/")) for t in every if t.name.startswith(case + "/")]
        expected = {t.name.removeprefix("expected/"): t for t in mine if t.name.startswith("expected/")}
        key = "quantization" if case.startswith("mlx") else "quantization_config"
        parts = [t for t in mine if not t.name.startswith("expected/")]
        made = dequantize.recognise(tmp_path, {key: config}).decoded(parts).tensors
        assert [t.name for t in made] == list(expected), case
        for tensor in made:
            rows = file_tensor(tensor, "out")
            wanted = file_tensor(expected[tensor.name], "out").raw(0, rows.n_rows).view(np.uint16)
            assert np.array_equal(bf16(rows.rows(0, rows.n_rows)), wanted), case
    file.close()
