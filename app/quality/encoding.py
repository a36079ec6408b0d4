"""Tensors of a source in other types, made when they are asked for, or put by with error feedback."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from typing import Self

import numpy as np

import kernels
from app import paths
from app.quality.encoded import Encoded
from converter import imatrix, recipes
from converter.encode import encode, energy, load
from converter.sources.base import SourceModel, SourceTensor

KEPT_BYTES = 512 << 20
"""Encoded tensors that are kept to be used again."""


class Encoder:
    """Tensors of a source in other types, made when they are asked for; and the error that each type makes."""

    def __init__(self, source: SourceModel, importance: imatrix.Imatrix | None) -> None:
        self.architecture = architecture = source.info.architecture
        self._importance = importance
        self._made: OrderedDict[tuple[str, str, bool], Encoded] = OrderedDict()
        self._bytes = 0
        self.tensors = {
            tensor.name: tensor for tensor in source.tensors if not recipes.unquantizable(architecture, tensor)
        }

    def fitted(self, name: str, kind: str) -> str:
        """The type that this tensor's rows allow in place of ``kind``."""
        return recipes.fitting(kind, self.tensors[name].n_cols)

    def bytes(self, name: str, kind: str) -> int:
        tensor = self.tensors[name]
        return tensor.n_rows * kernels.row_bytes(kind, tensor.n_cols)

    def encoded(self, name: str, kind: str, *, refined: bool = False) -> Encoded:
        """The tensor in this type."""
        key = (name, kind, refined)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        found = self._encode(self.tensors[name], kind, refined=refined)[0]
        self._made[key] = found
        self._bytes += found.data.nbytes
        while self._bytes > KEPT_BYTES and len(self._made) > 1:
            self._bytes -= self._made.popitem(last=False)[1].data.nbytes
        return found

    def error(self, name: str, kind: str) -> float:
        """sum w (x - y)^2 / sum w x^2 over the tensor, w its columns' importance."""
        return self._encode(self.tensors[name], kind)[1]

    def _encode(self, tensor: SourceTensor, kind: str, *, refined: bool = False) -> tuple[Encoded, float]:
        weights = self._importance.for_tensor(tensor.name, tensor.shape) if self._importance is not None else None
        stacks = tensor.n_rows // tensor.shape[-2] if len(tensor.shape) > 2 else 1
        rows = tensor.n_rows // stacks
        parts, away, whole = [], 0.0, 0.0
        for stack in range(stacks):
            importance = None if weights is None else np.ascontiguousarray(weights[min(stack, len(weights) - 1)])
            start = stack * rows
            slab = load(tensor, start, start + rows)
            errors, weighted, sums = (np.zeros(rows) for _ in range(3))
            energy(slab, importance, sums)
            blocks = encode(
                kind, slab, tensor, start, importance=importance, refined=refined, errors=errors, weighted=weighted
            )
            parts.append(blocks)
            away += float((errors if importance is None else weighted).sum())
            whole += float(sums.sum())
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Encoded(tensor.name, tensor.shape, kind, data), away / whole if whole > 0 else 0.0


class Spool:
    """Encoded tensors in a file without a name, mapped where they are used."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-")  # noqa: SIM115 - closed on leaving
        self._places: dict[tuple[str, str], tuple[int, Encoded]] = {}
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, part: Encoded) -> None:
        """Keep a tensor. OSError where the disk is full."""
        self._file.seek(self._end)
        self._file.write(part.data.data)
        self._file.flush()
        shape = part.data.shape
        mapped = np.memmap(self._file, np.uint8, "r", self._end, shape)
        self._places[part.name, part.type] = (self._end, Encoded(part.name, part.shape, part.type, mapped))
        self._end += part.data.nbytes

    def get(self, name: str, kind: str) -> Encoded | None:
        found = self._places.get((name, kind))
        return None if found is None else found[1]
