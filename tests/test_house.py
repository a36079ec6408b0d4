"""The walls of the house: who may import whom, and what starting costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_python(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-c", program]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_import_contracts_hold() -> None:
    program = "import sys; from importlinter.cli import lint_imports_command; sys.argv[1:] = ['--no-cache']; "
    result = run_python(program + "lint_imports_command()")
    assert result.returncode == 0, result.stdout + result.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("app.cli", ["PySide6", "numpy", "llama_cpp", "gguf", "huggingface_hub"]),
        ("converter", ["numpy", "gguf", "tokenizers", "llama_cpp"]),
        ("app.workers.runtime", ["PySide6", "numpy", "llama_cpp", "gguf"]),
        ("app.ui.application", ["pyqtgraph", "llama_cpp", "gguf", "huggingface_hub", "tokenizers"]),
    ],
)
def test_importing_is_cheap(module: str, forbidden: list[str]) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = run_python(program)
    assert result.returncode == 0, result.stderr
    loaded = result.stdout.split()
    assert [name for name in forbidden if name in loaded] == []


def test_pypas_packaging_is_not_shadowed() -> None:
    result = run_python("import packaging.version; print(packaging.version.Version('1.0'))")
    assert result.stdout.strip() == "1.0", result.stderr
