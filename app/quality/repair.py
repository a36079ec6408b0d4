"""Later matrices put back what earlier ones have moved: at the same bytes, after the types are chosen.

In a quantized model the stream of states that layers add to drifts away from the original's. A part of the drift can be
told from what goes into a layer's last matrix W, so this matrix can take it off again: with the inputs x of the
quantized model and the streams behind W of both, W + M is rounded in place of W, where M x is the best guess at what
the stream lacks (ridge regression; the penalty draws towards W). Layers come in their order, each with all before it as
they then are; of a layer the matrix behind the attention comes first, and what it put back is reckoned off what the
last one finds. As GPTQ in turn with the original's activations as the goal (GPTAQ, Li et al. 2025, arXiv
2504.02692; Qronos, Zhang et al. 2025, arXiv 2505.11695), but the goal is the stream, not the product.

It is as good as the calibration, as error feedback is, so the result is judged beside what it came from.
"""

from __future__ import annotations

import mmap
import queue
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from app import paths
from app.engine.grafts import Grafts, Part
from app.engine.model import Model
from app.engine.residual import Residual, Rows
from app.quality.encoded import Encoded
from app.quality.feedback import SHRINKAGE, Windows
from converter.sources.base import SourceModel, SourceTensor
from converter.spec import Cancelled

Matrix = npt.NDArray[np.float64]

PENALTY = 0.1
"""Of the regression, as a part of the mean square of an input; to which comes the number of inputs a token, since few
tokens show what is not so."""

MOST_LAYERS = 6
"""That are repaired, at most: each takes the calibration text once more through all that is before it."""

SWEEPS = 10
"""Of coordinate descent: there are few matrices here."""

AHEAD = 4
"""Windows that are decoded ahead of their sums, a model."""

ROLES = ("attn_output", "ffn_down")
"""Matrices whose product a layer adds to the stream."""

_ENDS = re.compile(rf"blk\.(\d+)\.({'|'.join(ROLES)})\.weight")


@dataclass
class Sums:
    """Over all tokens, each text counting the same: ``inputs`` x x^T (columns, columns) of the quantized model, and
    ``lack`` x d^T (columns, rows) with d the original's stream less the quantized one."""

    inputs: Matrix
    lack: Matrix
    tokens: int = 0


Streams = Mapping[str, npt.NDArray[np.float32]]
"""The original's stream behind each matrix, (tokens, width)."""


class Repair:
    """Of ``models``: the original of ``source``, in ordinary memory, once or several times, each loaded with the
    :class:`Residual` beside it as its ``capture``. Windows are spread over them.

    ``ticked`` is called after each window; ``stopped`` is asked then.
    """

    def __init__(
        self, models: Sequence[tuple[Model, Residual]], source: SourceModel, windows: Windows,
        stopped: Callable[[], bool] = lambda: False, ticked: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._engines: queue.SimpleQueue[tuple[Model, Residual, Grafts]] = queue.SimpleQueue()
        for model, residual in models:
            self._engines.put((model, residual, Grafts(model)))
        self._count = len(models)
        self._tensors = {tensor.name: tensor for tensor in source.tensors}
        self._windows = [(1 / len(windows_), window) for windows_ in windows.values() for window in windows_]
        self._stopped = stopped
        self._ticked = ticked

    def run(self, parts: Mapping[str, Part], fed: Collection[str]) -> list[Encoded]:
        """``parts``: all tensors as they are rounded, by name; ``fed``: those of them that may be rounded anew.

        Returns those that were, in their types. Raises what the engine says, OSError where the disk is full; Cancelled
        where ``stopped`` became true.
        """
        now = dict(parts)
        found: list[Encoded] = []
        layers = stages(fed)
        with tempfile.TemporaryFile(dir=paths.cache(), prefix="quench-") as file:
            streams = self._streams([name for names in layers for name in names], file)
            for layer in layers:
                names = [name for name in layer if name in streams]
                if names:
                    made = self._layer(names, now, streams)
                    found += made
                    now |= {part.name: part for part in made}
        return found

    def _layer(self, names: Sequence[str], parts: Mapping[str, Part], streams: Streams) -> list[Encoded]:
        """One or two matrices of a layer, in the engine's order."""
        sums, across = self._gather(names, parts, streams)
        found: list[Encoded] = []
        for name in names:
            if found:
                change = _numbers(found[-1], self._tensors[names[0]]) - _numbers(
                    parts[names[0]], self._tensors[names[0]]
                )
                sums[name].lack -= across @ change.astype(np.float64).T
            found += self._rounded(name, parts[name], sums[name])
        return found

    def _streams(self, names: Sequence[str], file: Any) -> dict[str, npt.NDArray[np.float32]]:
        """The original's stream behind each of ``names``, of all windows one after the other; mapped from ``file``."""
        streams: dict[str, npt.NDArray[np.float32]] = {}
        total = sum(len(window) for _, window in self._windows)
        end = at = 0
        for seen in self._decoded(names, {}):
            for name, (_, states) in seen.items():
                if name not in streams and at == 0:
                    shape = (total, states.shape[1])
                    streams[name] = np.memmap(file, np.float32, "w+", end, shape)
                    end += -(-streams[name].nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
                streams[name][at : at + len(states)] = states
            at += len(next(iter(seen.values()))[0]) if seen else 0
        return streams

    def _gather(
        self, names: Sequence[str], parts: Mapping[str, Part], streams: Streams
    ) -> tuple[dict[str, Sums], Matrix]:
        """Of each matrix; and the sum of the last one's inputs times the first one's."""
        sums: dict[str, Sums] = {}
        across: Matrix = np.zeros((0, 0))
        at = 0
        for (share, _), seen in zip(self._windows, self._decoded(names, parts), strict=True):
            weight = np.float32(share)
            first, last = seen[names[0]][0], seen[names[-1]][0]
            if at == 0:
                across = np.zeros((last.shape[1], first.shape[1]))
                for name in names:
                    columns, width = (array.shape[1] for array in seen[name])
                    sums[name] = Sums(np.zeros((columns, columns)), np.zeros((columns, width)))
            for name in names:
                inputs, states = seen[name]
                sums[name].inputs += weight * (inputs.T @ inputs)
                sums[name].lack += weight * (inputs.T @ (streams[name][at : at + len(states)] - states))
                sums[name].tokens += len(states)
            if len(names) > 1:
                across += weight * (last.T @ first)
            at += len(first)
        return sums, across

    def _decoded(self, names: Sequence[str], parts: Mapping[str, Part]) -> Iterator[dict[str, tuple[Rows, Rows]]]:
        """What is seen of ``names`` in each window, with ``parts`` in the model."""

        def one(window: Sequence[int]) -> dict[str, tuple[Rows, Rows]]:
            if self._stopped():
                raise Cancelled
            model, residual, grafts = engine = self._engines.get()
            residual.watch(names)
            try:
                with grafts.replaced(parts):
                    model.window_logits(window, 0)
                return residual.take()
            finally:
                residual.watch(())
                self._engines.put(engine)

        with ThreadPoolExecutor(self._count, "repair") as pool:
            for start in range(0, len(self._windows), AHEAD * self._count):
                for seen in pool.map(one, (window for _, window in self._windows[start : start + AHEAD * self._count])):
                    yield seen
                    self._ticked()

    def _rounded(self, name: str, part: Any, sums: Sums) -> list[Encoded]:
        """The matrix anew; nothing where its numbers do not allow it."""
        tensor = self._tensors[name]
        rows = tensor.rows(0, tensor.n_rows)
        wanted = aim(rows, _numbers(part, tensor), sums)
        try:
            given = kernels.feedback(sums.inputs, shrinkage=SHRINKAGE)
            blocks = kernels.quantize_with_feedback(part.type, wanted, given, sweeps=SWEEPS)
        except kernels.KernelError as error:
            if error.code not in ("bad_covariance", "not_finite", "overflow"):
                raise
            return []
        return [Encoded(name, tensor.shape, part.type, blocks)]


def _numbers(part: Any, tensor: SourceTensor) -> npt.NDArray[np.float32]:
    """What its blocks stand for."""
    return kernels.dequantize(part.type, np.ascontiguousarray(part.raw(0, part.n_rows)), tensor.n_cols)


def stages(names: Collection[str]) -> list[list[str]]:
    """Which of ``names`` are repaired, layer by layer in the engine's order; layers as evenly as can be."""
    layers: dict[int, list[str]] = {}
    for role in ROLES:
        for name in names:
            match = _ENDS.fullmatch(name)
            if match is not None and match[2] == role:
                layers.setdefault(int(match[1]), []).append(name)
    ends = [layers[layer] for layer in sorted(layers)]
    count = min(MOST_LAYERS, len(ends))
    return [ends[(number + 1) * len(ends) // count - 1] for number in range(count)]


def aim(rows: npt.NDArray[np.float32], now: npt.NDArray[np.float32], sums: Sums) -> npt.NDArray[np.float32]:
    """What to round in place of ``rows`` (n, columns), which are ``now`` in the model that ``sums`` were made with."""
    columns = len(sums.inputs)
    penalty = (PENALTY + columns / sums.tokens) * float(np.trace(sums.inputs)) / columns
    # The stream lacks d with `now` in it, so it lacks d + (now - rows) x with the original's rows.
    lack = sums.lack + sums.inputs @ (now - rows).astype(np.float64).T
    regular = sums.inputs + penalty * np.eye(columns)
    return (rows + np.linalg.solve(regular, lack).T).astype(np.float32)


__all__ = ["Repair", "Sums", "aim", "stages"]
