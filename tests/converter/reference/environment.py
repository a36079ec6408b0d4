"""The reference's environment: made once, with a stamp, outside the repository.

``QUENCH_REFERENCE`` may name a Python that has the packages of :data:`PACKAGES`, and ``QUENCH_LLAMA_SDIST`` an
unpacked source archive of the engine, to save making them. pip takes torch from wherever it is configured to look; the
CPU build is enough.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.sdist import unpack

PACKAGES = ("torch==2.13.0", "transformers==5.24.0", "peft==0.21.2", "mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-lm==0.32.2",
            "safetensors", "sentencepiece", "protobuf", "numpy<3", "pyyaml", "requests", "tqdm")  # fmt: skip


_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # before a test gets a home of its own


def cache() -> Path:
    """Where environments of tests are kept."""
    return _ROOT / "quench-tests"


def sources() -> Path:
    """llama.cpp in the pinned engine's source archive. Skips the test where it cannot be fetched."""
    given = os.environ.get("QUENCH_LLAMA_SDIST")
    if given:
        return Path(given) / "vendor" / "llama.cpp"
    target = cache() / f"llama-cpp-python-{version('llama-cpp-python')}"
    if not target.is_dir():
        scratch = _fresh(target)
        unpack(scratch, "/vendor/llama.cpp/").rename(target)
        shutil.rmtree(scratch)
    return target / "vendor" / "llama.cpp"


def python() -> Path:
    """The reference's interpreter. Skips the test where its packages cannot be had."""
    given = os.environ.get("QUENCH_REFERENCE")
    if given:
        return Path(given)
    stamp = sha256(repr((PACKAGES, sys.version_info[:2])).encode()).hexdigest()[:16]
    target = cache() / f"reference-{stamp}"
    if not (target / "complete").is_file():
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        command = [str(_interpreter(target)), "-m", "pip", "install", "-q", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(target, ignore_errors=True)
            pytest.skip(f"torch and transformers cannot be installed: {done.stderr.strip()[-300:]}")
        (target / "complete").touch()
    return _interpreter(target)


def _interpreter(target: Path) -> Path:
    return target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _fresh(target: Path) -> Path:
    scratch = target.with_name(target.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch
