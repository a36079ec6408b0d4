"""What each method makes of a model's weights, put by as the engine takes them, and what it does to inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

import kernels
from app.engine.inputs import Change, Inputs, Size
from app.quality.encoded import Encoded
from app.quality.encoding import Encoder, Spool
from app.quality.methods.table import COVARIANCE, Group, Method
from converter import recipes
from converter.imatrix import Imatrix
from converter.sources.base import SourceModel
from converter.spec import Cancelled

Covariance = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Rounded = tuple[list[Encoded], dict[str, Change]]

Late = Callable[[], bool]

UP = "The time was up."

KEPT_BITS = 16
"""Of a weight that these methods leave alone."""

_LAYER = re.compile(r"(blk\.\d+\.)(.*)\.weight")


def _never() -> bool:
    return False


class Unfit(Exception):  # noqa: N818 - it is no failure: the others go on
    """Why a method cannot be applied to this model, in a sentence."""


@dataclass(frozen=True)
class Made:
    """One method's weights, and what it does to inputs. ``bits`` of the ``weights`` numbers that it rounds, ``rest``
    bytes of all others."""

    parts: dict[str, Encoded]
    changes: dict[str, Change]
    bits: float
    weights: int
    rest: int

    @property
    def bytes(self) -> int:
        return round(self.bits / 8) + self.rest


class Weights:
    """Of one source. ``targets``: matrices in its layers among ``names``, which simulated methods round; recipes round
    what they round in a file."""

    def __init__(self, source: SourceModel, names: Iterable[str], threads: int, stopped: Callable[[], bool]) -> None:
        self._source = source
        self._names = frozenset(names)
        self._encoder = Encoder(source, None)
        self._stopped = stopped
        self._threads = threads
        self._stack = ExitStack()
        self._sizes: dict[str, Size] = {}
        self._leaders: dict[str, str] = {}
        self._made: dict[str, tuple[Spool, list[str], dict[str, Change]]] = {}
        self._unfit: dict[str, str] = {}
        self.targets = [name for name in self._encoder.tensors if _LAYER.match(name) and name in self._names]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def bytes_needed(self, beforehand: int) -> int:
        """Of disk, at the most, with so many methods that are made beforehand."""
        return 4 * (beforehand + 1) * sum(self._encoder.tensors[name].n_elements for name in self.targets)

    def learn(self, found: Inputs) -> None:
        """Take over what was measured of the inputs of :attr:`targets`."""
        self._sizes, self._leaders = found.sizes, found.leaders

    @property
    def odd(self) -> list[str]:
        """Targets that the engine does not multiply with as plain matrices."""
        return [name for name in self.targets if name not in self._leaders]

    def feed(
        self, methods: Sequence[Method], inputs: Iterable[tuple[list[str], Covariance]], late: Late = _never
    ) -> None:
        """Make what needs covariances while these come, matrix by matrix. Once it is ``late`` none of it is made."""
        for method in methods:
            self._made[method.key] = (self._stack.enter_context(Spool()), [], {})
        for names, covariance in inputs:
            for method in methods:
                if self._stopped():
                    raise Cancelled
                if late():
                    self.give_up(methods)
                    return
                if method.key in self._unfit:
                    continue
                try:
                    found = self._rounded(method, names, covariance)
                except kernels.KernelError as error:
                    self._unfit[method.key] = error.message
                else:
                    _keep(found, *self._made[method.key])

    def give_up(self, methods: Sequence[Method]) -> None:
        """There is no time to make these."""
        self._unfit |= {method.key: UP for method in methods if method.key not in self._unfit}

    def floor(self, stack: ExitStack) -> dict[str, Encoded]:
        """The source's own weights in 32 bits; ``stack`` takes the file that they are in."""
        same = Method("", "", "", make=lambda group: (list(group.matrices), None), bits=lambda rows, columns: 0.0)
        return self.make(same, stack).parts

    def make(self, method: Method, stack: ExitStack, late: Late = _never) -> Made:
        """One method's weights; ``stack`` takes the file that they are in.

        Raises:
            Unfit: it cannot be applied, or it is ``late``.
            QuenchError: ``not_finite``, ``overflow`` of a weight.
        """
        if (method.calibrated or method.inputs) and self.odd:
            raise Unfit(f"{self.odd[0]} is no plain matrix to the engine: what goes into it cannot be looked at.")
        if method.recipe:
            return self._by_recipe(method, stack, late)
        if method.key in self._unfit:
            raise Unfit(self._unfit[method.key])
        if method.needs == COVARIANCE:
            spool, names, changes = self._made[method.key]
        else:
            spool, names, changes = stack.enter_context(Spool()), [], {}
            groups = self._groups()
            with ThreadPoolExecutor(self._threads, "methods") as pool:
                for start in range(0, len(groups), self._threads):
                    self._go_on(late)
                    several = groups[start : start + self._threads]
                    for found in pool.map(lambda group: self._rounded(method, group), several):
                        _keep(found, spool, names, changes)
        assert method.bits is not None
        tensors = [self._encoder.tensors[name] for name in names]
        bits = sum(method.bits(tensor.n_rows, tensor.n_cols) for tensor in tensors)
        rest = sum(
            tensor.n_elements * KEPT_BITS // 8 if tensor.name in self._encoder.tensors else tensor.n_bytes
            for tensor in self._source.tensors
            if tensor.name not in names
        )
        return Made(_parts(spool, names, "F32"), changes, bits, sum(each.n_elements for each in tensors), rest)

    # ---- inside ----------------------------------------------------------------------------------------------

    def _groups(self) -> list[list[str]]:
        """Targets by what they are multiplied with."""
        found: dict[str, list[str]] = {}
        for name in self.targets:
            found.setdefault(self._leaders.get(name, name), []).append(name)
        return list(found.values())

    def _rounded(self, method: Method, names: Sequence[str], covariance: Covariance | None = None) -> Rounded:
        tensors = [self._encoder.tensors[name] for name in names]
        size = self._sizes.get(names[0])
        group = Group(
            matrices=[tensor.rows(0, tensor.n_rows) for tensor in tensors],
            most=None if size is None else size.most,
            mean=None if size is None else (size.total / max(1, size.rows)).astype(np.float32),
            covariance=covariance,
            after_norm=size is not None and "norm" in size.source,
            after_product=len(names) == 1 and self._after_product(names[0]),
        )
        assert method.make is not None
        matrices, change = method.make(group)
        parts = [
            Encoded(tensor.name, tensor.shape, "F32", np.ascontiguousarray(matrix, np.float32).view(np.uint8))
            for tensor, matrix in zip(tensors, matrices, strict=True)
        ]
        return parts, {} if change is None else dict.fromkeys(names, change)

    def _after_product(self, name: str) -> bool:
        """Whether factors of this matrix's columns can be put into the rows of another one: what it is multiplied with
        is another product, times a gate, or a mean over values."""
        match = _LAYER.match(name)
        assert match is not None
        layer, role = match[1], match[2]
        if role == "ffn_down":
            return all(f"{layer}{other}.weight" in self._encoder.tensors for other in ("ffn_gate", "ffn_up"))
        values = self._encoder.tensors.get(f"{layer}attn_v.weight")
        return role == "attn_output" and values is not None and values.n_rows == self._encoder.tensors[name].n_cols

    def _go_on(self, late: Late) -> None:
        if self._stopped():
            raise Cancelled
        if late():
            raise Unfit(UP)

    def _by_recipe(self, method: Method, stack: ExitStack, late: Late) -> Made:
        encoder = Encoder(self._source, self._importance()) if method.importance else self._encoder
        source, overrides = self._source, recipes.Overrides(has_imatrix=method.importance)
        chosen = recipes.recipe(method.recipe)
        found = recipes.types(source.hparams, source.tensors, chosen, overrides, source.info.kind)
        kinds = {tensor.name: kind for tensor, (kind, _) in zip(source.tensors, found, strict=True)}
        spool, parts = stack.enter_context(Spool()), {}
        bits, weights = 0, 0
        for name, tensor in encoder.tensors.items():
            self._go_on(late)
            bits += 8 * encoder.bytes(name, kinds[name])
            weights += tensor.n_elements
            if name in self._names and kinds[name] != tensor.type:
                spool.put(encoder.encoded(name, kinds[name]))
                parts[name] = kinds[name]
        rest = sum(tensor.n_bytes for tensor in source.tensors if tensor.name not in encoder.tensors)
        return Made({name: _of(spool, name, kind) for name, kind in parts.items()}, {}, bits, weights, rest)

    def _importance(self) -> Imatrix:
        entries = {name: (size.squares / max(1, size.rows)).astype(np.float32) for name, size in self._sizes.items()}
        return Imatrix("calibration", entries, "", 0)


def _keep(found: Rounded, spool: Spool, names: list[str], changes: dict[str, Change]) -> None:
    parts, more = found
    for part in parts:
        spool.put(part)
        names.append(part.name)
    changes.update(more)


def _parts(spool: Spool, names: Iterable[str], kind: str) -> dict[str, Encoded]:
    return {name: _of(spool, name, kind) for name in names}


def _of(spool: Spool, name: str, kind: str) -> Encoded:
    found = spool.get(name, kind)
    assert found is not None
    return found


__all__ = ["UP", "Made", "Unfit", "Weights"]
