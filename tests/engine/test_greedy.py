"""Many greedy answers at once against the same answers one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.engine.greedy import greedy
from app.engine.model import Model
from app.protocol import ChatMessage, LoadOptions, Sampling
from converter.spec import Cancelled, QuenchError

QUESTIONS = (
    "What is the capital of France?",
    "Spell the word candle.",
    "What is 8 x 6?",
    "What is the opposite of hot?",
    "Who are you?",
    "What is quantization?",
    "What sound does a duck make?",
    "Hello!",
    "What is the plural of mouse?",
    "What is a young cow called?",
)


def load(path: Path, sequences: int, context: int = 256) -> Model:
    return Model.load(str(path), LoadOptions(context=context), outputs=sequences, sequences=sequences)


def prompts(model: Model) -> list[list[int]]:
    return [model.prompt_tokens(model.render([ChatMessage("user", question)])) for question in QUESTIONS]


@pytest.mark.parametrize(
    "sequences", [4, pytest.param(1, marks=pytest.mark.slow), pytest.param(16, marks=pytest.mark.slow)]
)
def test_answers_are_those_of_single_replies(pocket_gguf: Callable[[str], Path], sequences: int) -> None:
    path = pocket_gguf("BF16")
    with load(path, 1) as model:
        alone = []
        for prompt in prompts(model):
            steps = model.generate(prompt, Sampling(temperature=0.0, max_tokens=40))
            alone.append("".join(step.text for step in steps))
    with load(path, sequences) as model:
        together = [model.detokenize(answer) for answer in greedy(model, prompts(model), 40)]
    assert together == alone
    assert "Paris" in together[0]


def test_answers_end_at_the_limit(pocket_gguf: Callable[[str], Path]) -> None:
    with load(pocket_gguf("BF16"), 4) as model:
        whole = list(greedy(model, prompts(model), 40))
        cut = list(greedy(model, prompts(model), 5))
        assert cut == [answer[:5] for answer in whole]
        assert model.used == 0


def test_prompts_longer_than_a_decode_call_are_cut(pocket_gguf: Callable[[str], Path]) -> None:
    """Two prompts of 700 tokens do not fit into one call of 1024."""
    with load(pocket_gguf("BF16"), 2, context=800) as model:
        words = model.tokenize("Once upon a time there was a fox. " * 80, special=False, add_special=False)[:700]
        both = list(greedy(model, [words, words[:650]], 12))
        assert [next(iter(greedy(model, [prompt], 12))) for prompt in (words, words[:650])] == both


def test_what_does_not_fit_is_refused(pocket_gguf: Callable[[str], Path]) -> None:
    with load(pocket_gguf("BF16"), 2) as model:
        with pytest.raises(QuenchError) as caught:
            list(greedy(model, [[5] * 250], 7))
        assert caught.value.code == "context_full"
        with pytest.raises(QuenchError) as caught:
            list(greedy(model, [[5], []], 7))
        assert caught.value.code == "empty_prompt"


def test_it_stops_when_asked(pocket_gguf: Callable[[str], Path]) -> None:
    with load(pocket_gguf("BF16"), 4) as model, pytest.raises(Cancelled):
        list(greedy(model, prompts(model), 40, cancelled=lambda: True))
