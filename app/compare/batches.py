"""In which order many prompts go through several models, and how many at once: the reference's file takes disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_DISK = 8 << 30
_SHARE = 4
"""The part of the free disk that files of probabilities may take: one in so many bytes."""


@dataclass(frozen=True)
class Step:
    """One model answers one prompt, and then scores the reference's answer. ``last``: the files of its batch can go."""

    prompt: int
    model: int
    last: bool


def room(folder: Path) -> int:
    """Bytes that the files of one batch may take."""
    return min(MOST_DISK, shutil.disk_usage(folder).free // _SHARE)


def batch_size(vocabulary: int, max_tokens: int, bytes_free: int) -> int:
    """Prompts of a batch: for each the reference's log-probabilities wait on the disk, 4 bytes a token and word."""
    return max(1, bytes_free // max(1, 4 * vocabulary * max_tokens))


def steps(prompts: int, models: int, batch: int) -> Iterator[Step]:
    """Batch by batch, in it model by model, so that each is loaded once a batch; the reference (0) always first.

    A batch of 1 takes all models prompt by prompt: the order for models that are all loaded.
    """
    for start in range(0, prompts, max(1, batch)):
        these = range(start, min(prompts, start + max(1, batch)))
        for model in range(models):
            for prompt in these:
                yield Step(prompt, model, model == models - 1 and prompt == these[-1])


__all__ = ["MOST_DISK", "Step", "batch_size", "room", "steps"]
