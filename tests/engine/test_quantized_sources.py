"""Pocket from quantized checkpoints of every method: the same file as from the decoded weights, and it still speaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import converter
from app.engine.model import Model
from app.protocol import LoadOptions
from tests.quantized import SCHEMES, write_pocket

TEXT = "The capital of France is Paris. A young cow is called a calf, and two and two make four."

# Mean divergence from the unquantized model in nats, at most. Ternary weights that were not trained so say nothing.
LIMITS = {"GPTQ": 0.04, "AWQ": 0.1, "NF4": 0.05, "int8": 0.001, "FP8": 0.005, "compressed-tensors": 0.04}
LIMITS |= {"MLX": 0.005, "HQQ": 0.04, "AQLM": 0.001, "BitNet": None}


def converted(folder: Path, types: tuple[str, ...], out: Path) -> dict[str, Path]:
    spec = converter.ConversionSpec(source=str(folder), output=str(out), types=types, threads=2, memory_mib=160)
    result = converter.convert(spec, lambda event: None, lambda: False)
    return {output.type: Path(output.path) for output in result.outputs}


def tensor_bytes(path: Path) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
    with converter.open_model(path) as model:
        return {t.name: (t.shape, t.type, t.raw(0, t.n_rows).tobytes()) for t in model.tensors}


def log_probabilities(path: Path) -> np.ndarray:
    with Model.load(str(path), LoadOptions(context=256)) as model:
        tokens = model.tokenize(TEXT, special=False, add_special=True)
        logits = model.window_logits(tokens, 0).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("method", SCHEMES)
def test_a_quantized_checkpoint_becomes_what_its_weights_are(
    method: str, pocket_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = write_pocket(tmp_path / "Packed", SCHEMES[method], tmp_path / "Plain")
    with converter.open_model(folder) as model:
        assert not model.info.problems
        assert len(model.info.notes) == 1 and ("lost" in model.info.notes[0] or method == "BitNet")
        with converter.open_model(tmp_path / "Plain") as same:
            assert model.info.parameters == same.info.parameters
        made = converted(folder, ("BF16", "Q8_0"), tmp_path / "out")
    plain = converted(tmp_path / "Plain", ("BF16", "Q8_0"), tmp_path / "plain-out")
    for kind in ("BF16", "Q8_0"):
        assert tensor_bytes(made[kind]) == tensor_bytes(plain[kind])
    limit = LIMITS[method]
    reference = log_probabilities(pocket_gguf("BF16"))
    for kind in ("BF16", "Q8_0"):
        found = log_probabilities(made[kind])
        divergence = (np.exp(reference) * (reference - found)).sum(axis=1).mean()
        assert np.isfinite(found).all()
        assert limit is None or divergence < limit
