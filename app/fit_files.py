"""What the steps of a fit leave in its work folder, for a run that goes on. Knows no Qt."""

from __future__ import annotations

from pathlib import Path

from app.fit_messages import STEPS

REFERENCE, COSTS, PLAN, BLOCKS, MADE = "reference.gguf", "costs.json", "plan.json", "blocks.gguf", "made"
"""The model in 16 or 32 bits, what probes have found, the chosen types, the tensors that were rounded with error
feedback, and that the file is written. The importance matrix has the name that it will have in the end."""


def finished(work: Path) -> float | None:
    """How much of a fit (0 to 1) lies finished in its work folder, by number of steps; None if nothing."""
    made = ((4, PLAN), (2, "*.imatrix.gguf"), (1, REFERENCE))  # each is made from those behind it
    return next((number / len(STEPS) for number, name in made if any(work.glob(name))), None)


__all__ = ["BLOCKS", "COSTS", "MADE", "PLAN", "REFERENCE", "finished"]
