"""Guessing ahead: the same text as without, whoever guesses and however badly; made only where it gains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from app.engine.ahead import (
    MOST,
    RETRY,
    Costs,
    Draft,
    Guesser,
    Lookup,
    Outcome,
    can_go_back,
    check_draft,
    measure_costs,
)
from app.engine.model import Model
from app.engine.reply import Extras
from app.protocol import ChatMessage, LoadOptions, Sampling
from converter import ConversionSpec, convert
from converter.spec import QuenchError
from tests.converter.test_families import make

FREE = Costs((1.0, 1.0, 1.0, 1.0))
"""A machine on which eight tokens take as long as one."""
FAIR = Costs((1.0, 1.3, 1.8, 2.8))
DEAR = Costs((1.0, 2.0, 4.0, 8.0))
GREEDY = Sampling(temperature=0.0, max_tokens=48)
DRAWN = Sampling(seed=11, max_tokens=48)

Gguf = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(pocket_gguf: Gguf) -> Iterator[Model]:
    with Model.load(str(pocket_gguf("Q8_0")), LoadOptions(threads=1), outputs=16) as made:
        yield made


class Parrot:
    """Guesses from a text that it knows beforehand, as far as it is told to be right."""

    def __init__(self, text: Sequence[int], wrong_every: int = 0) -> None:
        self._text, self._wrong = list(text), wrong_every
        self._at = 0

    def begin(self, tokens: Sequence[int]) -> None:
        self._at = 0

    def add(self, token: int) -> None:
        self._at += 1

    def guess(self, most: int) -> list[int]:
        found = self._text[self._at : self._at + most]
        return [5 if self._wrong and (self._at + n) % self._wrong == 0 else token for n, token in enumerate(found)]


def written(
    model: Model, prompt: str, sampling: Sampling, guesser: Guesser | None = None, costs: Costs = FREE
) -> tuple[str, str, Outcome | None]:
    """The text of a reply, how it ended, and how guesses did."""
    model.forget()
    tokens = model.prompt_tokens(prompt)
    extras = Extras(ahead=(guesser, costs)) if guesser is not None else Extras()
    steps = list(model.generate(tokens, sampling, extras=extras))
    stats = steps[-1].stats
    assert stats is not None
    assert [step.tokens for step in steps[:-1]] == list(range(1, len(steps)))
    return "".join(step.text for step in steps), stats.stop, stats.ahead


def tokens_of(model: Model, prompt: str, sampling: Sampling) -> list[int]:
    model.forget()
    start = model.prompt_tokens(prompt)
    for _ in model.generate(start, sampling):
        pass
    return model.held.tokens[len(start) :]


def prompt_of(model: Model, text: str) -> str:
    return model.render([ChatMessage("user", text)])


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, Sampling(seed=3, max_tokens=40, repeat_penalty=1.2)])
@pytest.mark.parametrize("wrong_every", [0, 1, 3])
def test_the_text_is_the_same_however_well_somebody_guesses(model: Model, sampling: Sampling, wrong_every: int) -> None:
    prompt = prompt_of(model, "Tell me about a bear.")
    plain, stop, nothing = written(model, prompt, sampling)
    assert nothing is None and plain
    truth = tokens_of(model, prompt, sampling)
    text, end, outcome = written(model, prompt, sampling, Parrot(truth, wrong_every), FAIR)
    assert (text, end) == (plain, stop)
    assert outcome is not None and outcome.guessed > 0
    assert outcome.right <= outcome.guessed
    if wrong_every == 0:
        assert outcome.right >= len(truth) // 2
    if wrong_every == 1:
        assert outcome.right == 0
        assert outcome.guessed <= 24 + 2 * (len(truth) // RETRY)  # it gives up, and tries again now and then


def test_what_is_held_afterwards_is_what_was_computed(model: Model) -> None:
    """The next turn goes on from the cache as if nothing had been guessed."""
    prompt = prompt_of(model, "Tell me about a bear.")
    truth = tokens_of(model, prompt, GREEDY)
    first, _, _ = written(model, prompt, GREEDY, Parrot(truth, 4))
    again = [ChatMessage("user", "Tell me about a bear."), ChatMessage("assistant", first)]
    turn = model.prompt_tokens(model.render([*again, ChatMessage("user", "And then?")]))
    kept = list(model.generate(turn, GREEDY))
    assert kept[-1].stats is not None and kept[-1].stats.prompt_reused >= len(model.prompt_tokens(prompt))
    model.forget()
    fresh = list(model.generate(turn, GREEDY))
    assert "".join(step.text for step in kept) == "".join(step.text for step in fresh)


def test_repetition_is_found_in_the_text_itself(model: Model) -> None:
    question = ChatMessage("user", "What is the capital of France?")
    answer = ChatMessage("assistant", written(model, model.render([question]), GREEDY)[0])
    prompt = model.render([question, answer, question])
    plain, _, _ = written(model, prompt, GREEDY)
    assert plain.split()[:3] == answer.content.split()[:3]
    text, _, outcome = written(model, prompt, GREEDY, Lookup())
    assert text == plain
    assert outcome is not None and 0 < outcome.right <= outcome.guessed


def test_a_smaller_model_guesses(model: Model, pocket_gguf: Gguf) -> None:
    prompt = prompt_of(model, "What is the capital of France?")
    plain, _, _ = written(model, prompt, GREEDY)
    with Model.load(str(pocket_gguf("Q4_K_M")), LoadOptions(threads=1), outputs=1) as draft:
        check_draft(model, draft)
        text, _, outcome = written(model, prompt, GREEDY, Draft(draft))
    assert text == plain
    assert outcome is not None and outcome.right > 0


@pytest.mark.parametrize(
    ("sampling", "stop"),
    [
        (Sampling(temperature=0.0, max_tokens=3), "max_tokens"),
        (Sampling(temperature=0.0, max_tokens=400, stop=("bear",)), "stop_string"),
    ],
)
def test_limits_hold_in_the_middle_of_guesses(model: Model, sampling: Sampling, stop: str) -> None:
    prompt = prompt_of(model, "Tell me about a bear.")
    truth = tokens_of(model, prompt, GREEDY)
    plain = written(model, prompt, sampling)
    assert plain[1] == stop
    assert written(model, prompt, sampling, Parrot(truth))[:2] == plain[:2]


def test_a_full_context_ends_where_it_would(pocket_gguf: Gguf) -> None:
    endless = Sampling(temperature=0.0, max_tokens=10_000)
    with Model.load(str(pocket_gguf("Q8_0")), LoadOptions(context=256, threads=1), outputs=16) as small:
        prompt = "la la " * 58
        plain = written(small, prompt, endless)
        assert written(small, prompt, endless, Lookup())[:2] == plain[:2]


def test_where_it_cannot_gain_hardly_anything_is_guessed(model: Model) -> None:
    prompt = prompt_of(model, "Tell me about a bear.")
    truth = tokens_of(model, prompt, GREEDY)
    _, _, outcome = written(model, prompt, GREEDY, Parrot(truth), DEAR)
    assert outcome is not None
    assert outcome.guessed <= 2 * (len(truth) // RETRY + 1)
    assert outcome.hoped == 1.0


def test_costs_are_measured_and_weighed(model: Model) -> None:
    costs = measure_costs(model)
    assert model.used == 0
    assert all(seconds > 0 for seconds in costs.seconds)
    assert FREE.best(MOST, 0.9)[0] == MOST
    assert FREE.gain(3, 0.5) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert DEAR.best(MOST, 0.99) == (0, 1.0)
    assert Costs((1.0, 1.1, 1.3, 4.0)).best(MOST, 0.9)[0] == 3
    assert Costs((1.0, 1.0, 1.0, 1.0), guess=1.0).gain(1, 1.0) == pytest.approx(1.0)
    assert [DEAR.of(tokens) for tokens in (1, 2, 3, 6, 8, 16)] == [1, 2, 3, 6, 8, 16]


def test_the_latest_and_longest_occurrence_is_followed() -> None:
    lookup = Lookup()
    lookup.begin([1, 2, 3, 9, 9, 1, 2, 3, 7, 7, 2, 3])
    assert lookup.guess(3) == [7, 7, 2]
    lookup.add(4)
    assert lookup.guess(3) == []
    lookup.begin([4, 2, 3, 5, 6, 8, 2, 3])
    assert lookup.guess(9) == [5, 6, 8, 2, 3]  # nothing is left of the text before
    lookup.begin([])
    assert lookup.guess(4) == []


def test_foreign_vocabularies_are_refused(model: Model, tmp_path: Path) -> None:
    assert can_go_back(model)
    source = make(tmp_path / "gpt-2", "gpt-2")
    file = tmp_path / "gpt-2.gguf"
    convert(ConversionSpec(str(source), str(file), ("F32",), check=False))
    with Model.load(str(file), LoadOptions(threads=1), outputs=1) as other, pytest.raises(QuenchError) as caught:
        check_draft(model, other)
    assert caught.value.code == "other_vocabulary"
    assert "gpt-2.gguf" in caught.value.detail
