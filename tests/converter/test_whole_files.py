"""Whole files: every recipe, with and without an importance matrix, from every kernel backend, has llama.cpp's bytes.

The oracle is ``llama_model_quantize`` on the same BF16 file. The best backend is in every run; the others are slow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

import kernels
from converter import convert
from converter.recipes import RECIPES
from converter.spec import ConversionSpec

from .llama_quantize import quantize as llama_quantize
from .test_pipeline import assert_same_tensors, imatrix_of, write_imatrix

QUANTIZED = [name for name in RECIPES if name not in {"auto", "F32", "F16", "BF16"}]
WITHOUT = [name for name in QUANTIZED if not RECIPES[name].needs_imatrix]
PAIRS = [*((name, False) for name in WITHOUT), *((name, True) for name in QUANTIZED)]
BACKENDS = [
    pytest.param(name, marks=[pytest.mark.slow] if place else []) for place, name in enumerate(kernels.backends())
]

Files = Callable[[str, bool], Path]


@pytest.fixture(scope="module")
def source(pocket_gguf: Callable[[str], Path]) -> Path:
    return pocket_gguf("BF16")


@pytest.fixture(scope="module")
def theirs(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """llama.cpp's file of a recipe, made once for all backends."""
    folder = tmp_path_factory.mktemp("theirs")
    entries = imatrix_of(source)

    @functools.cache
    def make(name: str, weighted: bool) -> Path:
        target = folder / f"{name}-{weighted}.gguf"
        llama_quantize(source, target, RECIPES[name].file_type, importance=entries if weighted else None)
        return target

    return make


@pytest.fixture(scope="module")
def ours(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """Our file of a recipe by a backend: all recipes of one are made in one pass."""
    matrix = write_imatrix(tmp_path_factory.mktemp("matrix") / "importance.gguf", imatrix_of(source))

    @functools.cache
    def family(backend: str, weighted: bool) -> dict[str, Path]:
        folder = tmp_path_factory.mktemp(f"ours-{backend}")
        types = tuple(QUANTIZED if weighted else WITHOUT)
        spec = ConversionSpec(str(source), str(folder), types, imatrix=str(matrix) if weighted else None)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("QUENCH_KERNELS", backend)
            result = convert(spec)
        assert result.kernels == backend
        return {output.type: Path(output.path) for output in result.outputs}

    return lambda backend: lambda name, weighted: family(backend, weighted)[name]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "weighted"),
    [
        # Without a matrix the same is asked of Pocket's folder among the quick tests of the pipeline.
        pytest.param(name, weighted, marks=[] if weighted else [pytest.mark.slow], id=f"{name}{'-imatrix' * weighted}")
        for name, weighted in PAIRS
    ],
)
def test_every_recipe_has_llama_cpps_bytes(
    ours: Callable[[str], Files], theirs: Files, name: str, weighted: bool, backend: str
) -> None:
    assert_same_tensors(ours(backend)(name, weighted), theirs(name, weighted))
