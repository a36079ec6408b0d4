"""The decision guide as a table: what is asked and what is answered."""

from __future__ import annotations

import pytest

from app.guide import (
    CHAT,
    CONTEXTS,
    EXACT,
    GIB,
    GRAPHICS,
    LADDER,
    LONG,
    PROCESSOR,
    SERVING,
    Question,
    advise,
    cache_per_token,
)


@pytest.mark.parametrize(
    ("memory", "hardware", "use", "billions", "recipe"),
    [
        (16, PROCESSOR, CHAT, 8, "Q4_K_M"),
        (16, PROCESSOR, CHAT, 1, "Q6_K"),
        (16, PROCESSOR, EXACT, 8, "Q6_K"),
        (8, PROCESSOR, EXACT, 8, "Q6_K"),  # 6.1 GiB, 1 GiB of cache and a tenth that stays free
        (7, PROCESSOR, EXACT, 8, "Q4_K_M"),  # five bits are 5.31 GiB, and 5.3 are left
        (24, GRAPHICS, EXACT, 8, "Q8_0"),
        (24, GRAPHICS, CHAT, 32, "Q4_K_M"),
        (48, GRAPHICS, EXACT, 70, "Q4_K_M"),
        (32, PROCESSOR, CHAT, 70, "Q2_K"),
        (4, PROCESSOR, CHAT, 8, "Q2_K"),
        (3, PROCESSOR, CHAT, 8, ""),
        (5, PROCESSOR, CHAT, 8, "Q3_K_M"),
        (7, GRAPHICS, LONG, 8, ""),  # 32,768 tokens take 4 GiB
        (12, GRAPHICS, LONG, 8, "Q5_K_M"),
    ],
)
def test_hardware_use_and_size_give_a_recipe(
    memory: int, hardware: str, use: str, billions: float, recipe: str
) -> None:
    found = advise(Question(memory * GIB, hardware, use, billions * 1e9))
    assert found.recipe == recipe
    assert found.bytes + found.cache <= memory * GIB
    assert found.importance == (recipe in ("Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"))
    assert found.reason.endswith(".")


def test_more_memory_is_never_answered_with_fewer_bits() -> None:
    for use in CONTEXTS:
        for hardware in (PROCESSOR, GRAPHICS):
            for billions in (0.5, 3, 8, 32, 70):
                steps = [
                    advise(Question(memory * GIB, hardware, use, billions * 1e9)).recipe for memory in range(1, 97)
                ]
                places = [LADDER.index(step) if step else len(LADDER) for step in steps]
                assert places == sorted(places, reverse=True)


def test_what_does_not_fit_says_which_size_would() -> None:
    found = advise(Question(6 * GIB, PROCESSOR, CHAT, 70e9))
    assert found.recipe == "" and "fits as Q4_K_M" in found.reason
    billions = float(found.reason.split("at most ")[1].split(" ")[0])
    assert advise(Question(6 * GIB, PROCESSOR, CHAT, billions * 0.99e9)).recipe == "Q4_K_M"
    assert "shorter" in advise(Question(GIB, PROCESSOR, LONG, 70e9)).reason


def test_small_files_are_advised_against_and_another_engine_is_named() -> None:
    low = advise(Question(5 * GIB, PROCESSOR, CHAT, 8e9))
    assert "as Q4_K_M takes as much" in low.reason and low.fitted
    many = advise(Question(80 * GIB, GRAPHICS, SERVING, 8e9))
    assert "vLLM" in many.elsewhere and not advise(Question(80 * GIB, GRAPHICS, CHAT, 8e9)).elsewhere


def test_the_cache_is_about_that_of_known_models() -> None:
    """Llama 3.2 1B, 3 8B and 3 70B: layers x KV heads x head size x 2 x 2 bytes."""
    for parameters, layers, heads, width in ((1.24e9, 16, 8, 64), (8.03e9, 32, 8, 128), (70.6e9, 80, 8, 128)):
        assert cache_per_token(parameters) == pytest.approx(4 * layers * heads * width, rel=0.6)


@pytest.mark.parametrize("bad", [(0, PROCESSOR, CHAT, 1e9), (GIB, "abacus", CHAT, 1e9), (GIB, PROCESSOR, CHAT, 0)])
def test_a_question_that_is_none(bad: tuple[int, str, str, float]) -> None:
    with pytest.raises(ValueError, match="no question"):
        advise(Question(*bad))
