"""Long prompts from few words: a sentence hidden in prose that comes with the program, and a question about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from resources import path as resource

_BEFORE = "Read this text. One sentence in it does not belong there; you will be asked about it.\n\n"
_AFTER = "\n\nThat was the text. "


@dataclass(frozen=True)
class Hidden:
    """What a task hides: arguments of :func:`prompt`, so that it can be hidden in a longer text."""

    question: str
    needle: str
    depth: float
    characters: int
    seed: int

    def prompt(self, characters: int = 0) -> str:
        """The whole question, in ``characters`` of prose (0: as many as it was made for)."""
        return prompt(self.question, self.needle, self.depth, characters or self.characters, self.seed)


def prompt(question: str, needle: str, depth: float, characters: int, seed: int) -> str:
    """``question`` after about ``characters`` of prose, with ``needle`` between two sentences near ``depth`` (0..1).

    The same arguments give the same prompt. ``seed`` says where the prose begins; it begins anew at its end.
    """
    sentences = _sentences()
    at = seed * 7919 % len(sentences)
    chosen: list[str] = []
    length = 0
    while length < characters:
        chosen.append(sentences[at])
        length += len(sentences[at]) + 1
        at = (at + 1) % len(sentences)
    place, passed = 0, 0
    while place < len(chosen) and passed < depth * length:
        passed += len(chosen[place]) + 1
        place += 1
    chosen.insert(place, needle)
    return f"{_BEFORE}{' '.join(chosen)}{_AFTER}{question}"


@lru_cache(1)
def _sentences() -> tuple[str, ...]:
    """The story's sentences, its title and line ends left out."""
    story = resource("texts/prose.txt").read_text("utf-8").split("\n\n", 1)[1]
    words = " ".join(story.split())
    found, start = [], 0
    for end in range(1, len(words) - 1):
        if words[end] == " " and (words[end - 1] in ".!?" or words[end - 2 : end] in ('."', '!"', '?"')):
            found.append(words[start:end])
            start = end + 1
    return (*found, words[start:])


__all__ = ["Hidden", "prompt"]
