"""Likelihoods of many choices at once against numpy on one text's logits, and against transformers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.engine.likelihood import likelihoods
from app.engine.model import Model
from app.protocol import ChatMessage, LoadOptions
from converter.spec import Cancelled, QuenchError
from tests.converter.reference import environment

QUESTIONS = {
    "What is the capital of France?": ("Paris", "Rome", "The capital of France is Paris.", "a long walk by the sea"),
    "What is 8 x 6?": ("8 x 6 = 48.", "8 x 6 = 47.", "48"),
    "Spell the word candle.": tuple("ABCDEFGHIJ"),
    "What is the opposite of hot?": ("cold", "warm"),
}
Question = tuple[list[int], list[list[int]]]


def load(path: Path, sequences: int, outputs: int = 64) -> Model:
    options = LoadOptions(context=256, threads=1)
    return Model.load(str(path), options, outputs=max(outputs, sequences), sequences=sequences)


def questions(model: Model) -> list[Question]:
    return [
        (
            model.prompt_tokens(model.render([ChatMessage("user", asked)])),
            [model.continuation_tokens(choice) for choice in choices],
        )
        for asked, choices in QUESTIONS.items()
    ]


def by_numpy(model: Model, prompt: list[int], choice: list[int]) -> float:
    logits = model.window_logits([*prompt, *choice], len(prompt) - 1)[:-1].astype(np.float64)
    peak = logits.max(axis=1, keepdims=True)
    logs = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    return float(logs[np.arange(len(choice)), choice].sum())


@pytest.mark.parametrize(("sequences", "outputs"), [(8, 64), (3, 3), (1, 1)])
def test_choices_are_as_likely_as_one_by_one(pocket_gguf: Callable[[str], Path], sequences: int, outputs: int) -> None:
    """Three sequences split the ten letters over several rounds; few rows of logits cut the choices themselves."""
    with load(pocket_gguf("BF16"), 1) as model:
        asked = questions(model)
        expected = [[by_numpy(model, prompt, choice) for choice in choices] for prompt, choices in asked]
    with load(pocket_gguf("BF16"), sequences, outputs) as model:
        found = likelihoods(model, asked)
        assert model.used == 0
        assert likelihoods(model, asked[::-1]) == found[::-1] or sequences > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=0.02, rel=2e-3)
    assert np.argmax(found[1]) == 0 and np.argmax(found[0]) == 2


def test_what_cannot_be_asked_is_refused(pocket_gguf: Callable[[str], Path]) -> None:
    with load(pocket_gguf("BF16"), 4) as model:
        with pytest.raises(ValueError, match="no tokens"):
            likelihoods(model, [([5, 6], [[7], []])])
        with pytest.raises(QuenchError) as caught:
            likelihoods(model, [([5] * 250, [[7], [8] * 10])])
        assert caught.value.code == "context_full"
        with pytest.raises(Cancelled):
            likelihoods(model, [([5], [[7]])], cancelled=lambda: True)
        assert likelihoods(model, []) == []


REFERENCE = """
import json, sys, torch, transformers
folder, asked = sys.argv[1], json.load(sys.stdin)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
def likelihood(prompt, choice):
    with torch.no_grad():
        logs = model(torch.tensor([prompt + choice])).logits[0].log_softmax(-1)
    return sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(choice))
print(json.dumps([[likelihood(p, c) for c in choices] for p, choices in asked]))
"""


@pytest.mark.slow
def test_choices_are_as_likely_as_in_transformers(pocket_gguf: Callable[[str], Path], pocket: Path) -> None:
    """Pocket's folder in float32. Ours computes in 16 bits, which moves a choice's sum by some hundredths of a nat."""
    with load(pocket_gguf("F16"), 8) as model:
        asked = questions(model)
        found = likelihoods(model, asked)
    command = [str(environment.python()), "-c", REFERENCE, str(pocket)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    for ours, theirs in zip(found, json.loads(done.stdout), strict=True):
        assert ours == pytest.approx(theirs, abs=0.03, rel=2e-3)
        assert np.argmax(ours) == np.argmax(theirs)
