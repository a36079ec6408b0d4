"""llama-perplexity and its like, built from the pinned engine's own sources and kept between runs: oracles of figures.

The build folder is ``QUENCH_TEST_CACHE``, or ``quench-test-cache`` in the system's folder for temporary files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

from converter import open_model
from tests.sdist import unpack

OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "GGML_RPC": "ON",
}

FIGURES = {
    "perplexity": r"Mean PPL\(Q\)",
    "reference_perplexity": r"Mean PPL\(base\)",
    "ln_ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)",
    "kld": r"Mean    KLD",
    "kld_max": r"Maximum KLD",
    "kld_p99_9": r"99\.9%   KLD",
    "kld_p99": r"99\.0%   KLD",
    "kld_p95": r"95\.0%   KLD",
    "kld_median": r"Median  KLD",
    "rms_dp": r"RMS Δp",
    "top1": r"Same top p",
}
"""Our name of a figure: what the tool calls it. ``rms_dp`` and ``top1`` are percentages there."""


ATTEMPTS = 8
"""The tool prints from a thread of its own and sometimes leaves before that has printed the end."""


def cache() -> Path:
    root = os.environ.get("QUENCH_TEST_CACHE") or str(Path(tempfile.gettempdir()) / "quench-test-cache")
    return Path(root) / f"llama-cpp-{version('llama-cpp-python')}"


def build(name: str = "llama-perplexity") -> Path:
    """A tool; built once, which takes some minutes. Skips the test where there is no compiler or no package index."""
    tool = cache() / "build" / "bin" / name
    if tool.exists():
        return tool
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip(f"{name} cannot be built here: cmake or a C++ compiler is missing")
    import fcntl  # not on Windows, where nobody builds it

    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be building the same
        source = _source() / "vendor" / "llama.cpp"
        configure = ["cmake", "-S", str(source), "-B", str(cache() / "build")]
        _build_step([*configure, *(f"-D{key}={value}" for key, value in OPTIONS.items())])
        make = ["cmake", "--build", str(cache() / "build"), "--target", name]
        _build_step([*make, "--parallel", str(os.cpu_count() or 1)])
    return tool


def _build_step(command: list[str]) -> None:
    """Runs a program to its end, or takes all that it has started with it when the test is cut off."""
    with subprocess.Popen(command, start_new_session=True) as running:
        try:
            status = running.wait()
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert status == 0, command


def _source() -> Path:
    folder = cache() / "source"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=cache()) as place:
        unpack(Path(place)).rename(folder)
    return folder


def figures(tool: Path, reference: Path, candidate: Path, text: Path, scratch: Path) -> dict[str, list[float]]:
    """``[value, error]`` (or ``[value]``) of each of ``FIGURES`` as printed by the tool."""
    base = scratch / "base.kld"
    common = ["-f", str(text), "-c", "512", "-b", "512", "-t", "2", "--kl-divergence-base", str(base)]
    if not base.exists():
        _run([str(tool), "-m", str(reference), *common])
    printed = ""
    for _ in range(ATTEMPTS):
        printed = _run([str(tool), "-m", str(candidate), *common, "--kl-divergence"])
        if re.search(rf"^{FIGURES['top1']}\s*:", printed, re.MULTILINE):
            break
    found = {}
    for name, label in FIGURES.items():
        line = re.search(rf"^{label}\s*:\s*(-?[\d.]+)(?: ±\s*([\d.]+))?", printed, re.MULTILINE)
        assert line, f"{label} was not printed:\n{printed[-3000:]}"
        found[name] = [float(value) for value in line.groups() if value is not None]
    return found


def _run(command: list[str]) -> str:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=True)
    return done.stdout + done.stderr


def digest(path: Path) -> str:
    """Of a text its bytes; of a model the bytes of its tensors, since metadata does not change figures."""
    found = hashlib.sha256()
    if path.suffix == ".gguf":
        with open_model(path) as model:
            for tensor in model.tensors:
                found.update(tensor.raw(0, tensor.n_rows).tobytes())
    else:
        found.update(path.read_bytes())
    return found.hexdigest()


def updating() -> bool:
    """Whether ``QUENCH_UPDATE_GOLDEN=1`` asks for the stored print-outs to be written again."""
    return os.environ.get("QUENCH_UPDATE_GOLDEN") == "1"
