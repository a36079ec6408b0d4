"""Blocks that were made elsewhere, with error feedback: a conversion takes them as they are.

They come as a GGUF file with some of the output's tensors. Each must have the shape and the type that the conversion
plans for it; its error is measured against the source like any other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from converter.sources import open_model
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.planning import Target
    from converter.sources.base import SourceTensor

    Blocks = Mapping[str, SourceTensor]
    """By name of the tensor."""


@contextmanager
def opened(path: str | None) -> Iterator[Blocks]:
    """The tensors of the file; none without one. Raises what opening a source raises."""
    if path is None:
        yield {}
        return
    with open_model(Path(path)) as model:
        yield {tensor.name: tensor for tensor in model.tensors}


def check(blocks: Blocks, targets: list[Target]) -> None:
    """Refuse blocks that are not what is planned: ``QuenchError`` ``bad_blocks``."""
    for target in targets:
        planned = {place.name: (place.shape, place.type) for place in target.layout.tensors}
        for name, tensor in blocks.items():
            found = (tensor.shape, tensor.type)
            if planned.get(name) != found:
                raise QuenchError(
                    "bad_blocks",
                    "The tensors that were made before are not those of this file.",
                    f"{name}: {found[1]} {found[0]}, planned is {planned.get(name, 'none')}.",
                    "Fit the model again.",
                )
