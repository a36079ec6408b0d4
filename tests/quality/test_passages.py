"""The worst stretches of text."""

from __future__ import annotations

import numpy as np
import pytest

from app.quality import divergence as d
from app.quality.passages import WIDTH, describe, worst
from app.quality.texts import Window

CONTEXT = 128
PIECES = {token: f" w{token}".encode() for token in range(50)}


def window(seed: int, spot: int | None) -> tuple[Window, d.TokenValues]:
    """A window of random text; from the scored token ``spot`` on, ten tokens on which the candidate is far off."""
    random = np.random.default_rng(seed)
    tokens = tuple(int(token) for token in random.integers(0, 50, CONTEXT))
    first = d.first_scored(CONTEXT)
    reference = random.standard_normal((d.scored_per_window(CONTEXT), 50)).astype(np.float32)
    candidate = reference.copy()
    if spot is not None:
        candidate[spot : spot + 10] *= -2
    return Window(f"text {seed}", tokens), d.compare(d.score(reference, tokens[first + 1 :]), candidate)


def test_the_worst_stretch_of_each_window_the_worst_window_first() -> None:
    _, values = zip(*[window(1, None), window(2, 20), window(3, 50)], strict=True)
    found = worst(values)
    assert [number for number, _, _ in found] == sorted((1, 2), key=lambda number: -found_mean(values[number]))
    for number, at, mean in found:
        spot = {1: 20, 2: 50}[number]
        assert at <= spot and spot + 10 <= at + WIDTH
        assert mean == pytest.approx(values[number].kld[at : at + WIDTH].mean())


def found_mean(values: d.TokenValues) -> float:
    return max(float(values.kld[at : at + WIDTH].mean()) for at in range(len(values) - WIDTH + 1))


def test_a_passage_says_what_both_models_expected() -> None:
    text, values = window(7, 30)
    passage = describe([values], [text], PIECES)[0]
    assert (passage.text, passage.window, len(passage.tokens)) == ("text 7", 0, WIDTH)
    shown = [f" w{token}" for token in text.tokens[passage.position : passage.position + WIDTH]]
    assert [token.text for token in passage.tokens] == shown
    assert passage.before.endswith(f" w{text.tokens[passage.position - 1]}")
    at = passage.position - d.first_scored(CONTEXT) - 1
    for offset, token in enumerate(passage.tokens):
        assert token.kld == values.kld[at + offset]
        assert token.probability - token.reference_probability == pytest.approx(values.dp[at + offset])
        assert token.first == f" w{values.first['token'][at + offset]}"
        assert token.reference_first == f" w{values.reference_first['token'][at + offset]}"
        assert (token.first == token.reference_first) == bool(values.agree[at + offset])


def test_characters_over_several_tokens_stay_whole() -> None:
    text, values = window(9, 30)
    pieces = {token: "ß".encode()[token % 2 : token % 2 + 1] for token in range(50)}
    tokens = tuple(index % 2 for index in range(CONTEXT))
    passage = describe([values], [Window("german", tokens)], pieces)[0]
    shown = "".join(token.text for token in passage.tokens)
    assert shown.count("ß") >= WIDTH // 2 - 1
    assert describe([values], [text], {})[0].tokens[0].text.startswith("[")


def test_a_candidate_that_is_the_reference_has_no_passage() -> None:
    text, values = window(11, None)
    assert describe([values], [text], PIECES) == ()
