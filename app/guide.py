"""Which recipe? From the hardware, the use and the size of a model to an answer with its reason. Pure.

Below four bits what is lost grows quickly, most of all in small models, so that a smaller model at four bits is the
better use of the same memory. Work that must be exact wants five bits or six; on a processor each token reads the whole
file, so smaller is faster. The bits are the recipes' own (:data:`converter.recipes.RECIPES`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converter.recipes import RECIPES

GIB = 1 << 30

LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
"""From the largest."""

CHAT, EXACT, LONG, SERVING = "chat", "exact", "long", "serving"
PROCESSOR, GRAPHICS = "processor", "graphics"

SMALL, LARGE = 3e9, 30e9
"""Parameters below which a model suffers more from rounding, and above which it suffers less."""

CONTEXTS: Mapping[str, int] = {CHAT: 4096, EXACT: 8192, LONG: 32768, SERVING: 16384}
"""Tokens that the cache is counted for."""

WANTED: Mapping[tuple[str, str], tuple[str, str, str]] = {
    (CHAT, PROCESSOR): ("Q6_K", "Q4_K_M", "Q4_K_M"),
    (CHAT, GRAPHICS): ("Q8_0", "Q5_K_M", "Q4_K_M"),
    (EXACT, PROCESSOR): ("Q8_0", "Q6_K", "Q5_K_M"),
    (EXACT, GRAPHICS): ("Q8_0", "Q8_0", "Q6_K"),
    (LONG, PROCESSOR): ("Q6_K", "Q4_K_M", "Q4_K_M"),
    (LONG, GRAPHICS): ("Q8_0", "Q5_K_M", "Q4_K_M"),
    (SERVING, PROCESSOR): ("Q6_K", "Q4_K_M", "Q4_K_M"),
    (SERVING, GRAPHICS): ("Q8_0", "Q5_K_M", "Q4_K_M"),
}
"""What is wanted by use and hardware, of a small, a usual and a large model, if memory were no matter."""

IMPORTANCE_BELOW = "Q5_K_M"
"""The first step of the ladder from which an importance matrix is worth its minutes."""

SHARE = 0.9
"""Of the memory that may be used."""


@dataclass(frozen=True)
class Question:
    """``memory``: bytes that the model may take; ``hardware`` and ``use`` as above; ``parameters`` of the model."""

    memory: int
    hardware: str
    use: str
    parameters: float


@dataclass(frozen=True)
class Advice:
    """``recipe`` is empty where none fits. ``bytes`` of the file, ``cache`` of the context; ``fitted``: Fit to size
    gains most here. ``reason`` are sentences; ``elsewhere`` what another engine is better at, or empty."""

    recipe: str
    importance: bool
    bytes: int
    cache: int
    fitted: bool
    reason: str
    elsewhere: str = ""


def advise(question: Question) -> Advice:
    """The answer. ValueError for a question that is none."""
    if question.memory <= 0 or question.parameters <= 0 or (question.use, question.hardware) not in WANTED:
        raise ValueError(f"no question: {question}")
    place = (question.parameters >= SMALL) + (question.parameters >= LARGE)
    wanted = WANTED[question.use, question.hardware][place]
    context = CONTEXTS[question.use]
    cache = round(context * cache_per_token(question.parameters))
    room = SHARE * question.memory - cache
    steps = LADDER[LADDER.index(wanted) :]
    recipe = next((step for step in steps if file_bytes(step, question.parameters) <= room), "")
    elsewhere = _elsewhere(question)
    if not recipe:
        largest = max(0.0, room) * 8 / RECIPES["Q4_K_M"].bits / 1e9
        reason = (
            f"Not even {LADDER[-1]} fits with {context:,} tokens of context. "
            + (f"A model of at most {largest:.1f} billion parameters fits as Q4_K_M." if largest >= 0.1 else
               "The context alone takes the memory: choose a shorter one.")
        )  # fmt: skip
        return Advice("", False, 0, cache, False, reason, elsewhere)
    low = LADDER.index(recipe) > LADDER.index("Q4_K_M")
    return Advice(
        recipe=recipe,
        importance=LADDER.index(recipe) >= LADDER.index(IMPORTANCE_BELOW),
        bytes=file_bytes(recipe, question.parameters),
        cache=cache,
        fitted=recipe != wanted or low,
        reason=_reason(question, wanted, recipe, low=low),
        elsewhere=elsewhere,
    )


def file_bytes(recipe: str, parameters: float) -> int:
    """About what a file of this recipe takes."""
    return round(parameters * RECIPES[recipe].bits / 8)


def cache_per_token(parameters: float) -> float:
    """Bytes of a 16-bit cache a token, about: 128 KiB for 8 billion parameters with grouped queries, and with the root
    of the size (Llama 3 of 1, 8 and 70 billion: 32, 128 and 320 KiB)."""
    return float(131072 * (parameters / 8e9) ** 0.5)


def _reason(question: Question, wanted: str, recipe: str, *, low: bool) -> str:
    kind = "small" if question.parameters < SMALL else "large" if question.parameters >= LARGE else "usual"
    why = {
        CHAT: "For chat",
        EXACT: "For code, mathematics and facts, where a wrong token counts,",
        LONG: "For long documents, whose context takes memory too,",
        SERVING: "For several users, whose contexts take memory too,",
    }[question.use]
    size = {
        "small": "a small model keeps more bits, since it suffers more from rounding",
        "usual": "more bits are hard to notice",
        "large": "a large model bears it well",
    }[kind]
    words = [f"{why} {wanted} is the step to take: {size}."]
    if question.hardware == PROCESSOR and wanted == recipe:
        words.append("On a processor each token reads the whole file, so that a larger one would be slower.")
    if recipe != wanted:
        words.append(f"It does not fit here, {recipe} does.")
    if low and question.parameters < LARGE:
        smaller = question.parameters * RECIPES[recipe].bits / RECIPES["Q4_K_M"].bits / 1e9
        words.append(
            f"Below four bits answers get weaker: a model of {smaller:.1f} billion parameters as Q4_K_M takes as much, "
            "and is the better choice if there is one."
        )
    return " ".join(words)


def _elsewhere(question: Question) -> str:
    if question.use == SERVING and question.hardware == GRAPHICS:
        return (
            "For many users at once on a graphics card, vLLM with FP8, AWQ or GPTQ weights answers more of them in the "
            "same time. Quench reads such files, and makes none."
        )
    return ""


__all__ = [
    "CHAT", "CONTEXTS", "EXACT", "GIB", "GRAPHICS", "LADDER", "LONG", "PROCESSOR", "SERVING", "Advice", "Question",
    "advise", "cache_per_token", "file_bytes",
]  # fmt: skip
