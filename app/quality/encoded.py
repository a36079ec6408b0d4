"""A tensor that was quantized and not written: what grafts need of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Encoded:
    """A tensor in another type, in memory: ``data`` are its blocks, uint8 (rows, bytes of a row)."""

    name: str
    shape: tuple[int, ...]
    type: str
    data: npt.NDArray[np.uint8]

    @property
    def n_rows(self) -> int:
        return len(self.data)

    @property
    def row_bytes(self) -> int:
        return int(self.data.shape[1])

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self.data[start:stop]
