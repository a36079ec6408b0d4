"""Experts that a checkpoint stores as one tensor although its architecture stores each by itself, taken apart again.

MLX stacks an expert layer's matrices as ``...switch_mlp.<name>`` ``(experts, out, in)``; the names that the model had
before are those of transformers' checkpoints. Source of the names: mlx-lm's model classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.sources.stored import RowReader, StoredTensor
from converter.sources.types import BY_NAME
from converter.sources.views import contiguous_strides

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LIMIT = 4096
_STACK = re.compile(r"(.*\.(mlp|block_sparse_moe|feed_forward))\.switch_mlp\.(gate|up|down)_proj\.weight")
_NUMBERED = {"gate": "w1", "up": "w3", "down": "w2"}
"""What a part is called where the parts have numbers."""
_FILTER = re.compile(r".*\.conv\.conv\.weight")


def taken_apart(stored: Sequence[StoredTensor]) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors with stacks replaced by what they hold, and for each part the name of its stack."""
    result: list[StoredTensor] = []
    origins: dict[str, str] = {}
    for tensor in stored:
        found = _STACK.fullmatch(tensor.name)
        if found is None or len(tensor.shape) != 3 or not 0 < tensor.shape[0] <= _LIMIT:
            result.append(_turned_filter(tensor))
            continue
        home, block, part = found.groups()
        name = f"{part}_proj" if block == "mlp" else _NUMBERED[part]
        for number in range(tensor.shape[0]):
            one = _matrix(tensor, number, f"{home}.experts.{number}.{name}.weight")
            origins[one.name] = tensor.name
            result.append(one)
    return result, origins


def _turned_filter(tensor: StoredTensor) -> StoredTensor:
    """MLX has the filter of a convolution as ``(channels, length, 1)``, others as ``(channels, 1, length)``."""
    if tensor.strides is None and _FILTER.fullmatch(tensor.name) and len(tensor.shape) == 3 and tensor.shape[2] == 1:
        return replace(tensor, shape=(tensor.shape[0], 1, tensor.shape[1]))
    return tensor


def _matrix(stack: StoredTensor, number: int, name: str) -> StoredTensor:
    shape = stack.shape[1:]
    if stack.reader is not None:
        return replace(stack, name=name, shape=shape, reader=_SomeRows(stack.reader, number * shape[0]))
    steps = stack.strides or contiguous_strides(stack.shape)
    item = BY_NAME[stack.dtype].bytes if stack.dtype in BY_NAME else 0  # what no architecture takes is refused there
    strides = None if stack.strides is None else steps[1:]
    one = replace(stack, name=name, shape=shape, strides=strides, n_bytes=stack.n_bytes // stack.shape[0])
    return replace(one, offset=stack.offset + number * steps[0] * item)


class _SomeRows:
    """Rows of a reader from a first one on."""

    def __init__(self, reader: RowReader, first: int) -> None:
        self._reader, self._first = reader, first

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._reader.read(self._first + start, self._first + stop)

    def read_bytes(self, start: int, stop: int) -> int:
        return self._reader.read_bytes(self._first + start, self._first + stop)
