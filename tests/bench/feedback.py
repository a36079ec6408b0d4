"""What error feedback gains at the same bytes, kind of text by kind of text, on texts that it was not calibrated on.

Usage: python -m tests.bench.feedback [MODEL.gguf] [--types Q2_K,Q3_K,Q4_K,Q5_K] [--windows 6] [--shrinkage 0.1]
[--damping 0.01] [--thin 1] [--texts NAME_OR_FILE ...]. Prints one JSON object.

All matrices of the layers have one type, the embedding stays as it is. "importance" rounds each to the nearest with the
diagonal of its inputs' covariance as importance, "feedback" with all of it; "guarded" is what the guard keeps, which
sees windows of the calibration texts that no covariance has. Mean divergences from the model itself, in nats. Without a
model it is Pocket. ``--thin 2`` takes every second window of the calibration texts.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import converter
import kernels
from app.engine.covariance import Covariances
from app.engine.grafts import Grafts, Part
from app.engine.model import Model
from app.protocol import LoadOptions
from app.quality import texts as texts_module
from app.quality.divergence import Rows, compare, first_scored, score
from app.quality.feedback import FeedbackEncoder, Options, Windows, calibration, guard, known
from converter import ConversionSpec, open_model
from converter.sources.base import SourceModel
from resources import path as resource

CONTEXT = 512


class Judge:
    """Divergence of the model with other tensors in it, by text."""

    def __init__(self, model: Model, grafts: Grafts, windows: Windows) -> None:
        self._model, self._grafts, self._windows = model, grafts, windows
        self._rows: dict[tuple[str, int], Rows] = {}
        for name, place, window in self._each():
            first = first_scored(len(window))
            self._rows[name, place] = score(self._logits(window).copy(), window[first + 1 :], keep=False)

    def __call__(self, parts: Mapping[str, Part]) -> dict[str, float]:
        found: dict[str, list[float]] = {name: [] for name in self._windows}
        with self._grafts.replaced(parts):
            for name, place, window in self._each():
                found[name].append(float(compare(self._rows[name, place], self._logits(window)).kld.mean()))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _each(self) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        for name, windows in self._windows.items():
            for place, window in enumerate(windows):
                yield name, place, window

    def _logits(self, window: tuple[int, ...]) -> Any:
        return self._model.window_logits(window, first_scored(len(window)))[:-1]


@contextmanager
def reference(path: str | None) -> Iterator[str]:
    if path:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pocket.gguf"
        converter.convert(ConversionSpec(str(resource("pocket")), str(target), ("F32",)))
        yield str(target)


def matrices(source: SourceModel) -> list[str]:
    """Names of the layers' matrices that K-quants take."""
    return [
        tensor.name
        for tensor in source.tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2 and tensor.n_cols % 256 == 0
    ]


def ratios(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    found = {name: after[name] / before[name] for name in before}
    return {**found, "geometric mean": math.exp(sum(map(math.log, found.values())) / len(found))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--types", default="Q2_K,Q3_K,Q4_K,Q5_K")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--texts", nargs="+", default=list(texts_module.BUNDLED))
    parser.add_argument("--thin", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--damping", type=float, default=Options.damping)
    parser.add_argument("--shrinkage", type=float, default=Options.shrinkage)
    arguments = parser.parse_args()
    options = Options(
        damping=arguments.damping, shrinkage=arguments.shrinkage, threads=arguments.threads,
    )  # fmt: skip
    covariances = Covariances()
    loaded = LoadOptions(context=CONTEXT, threads=arguments.threads)
    result: dict[str, Any] = {"cpu": kernels.cpu(), "kernels": kernels.active(), "options": vars(arguments)}
    with (
        reference(arguments.model) as path,
        open_model(path) as source,
        Model.load(path, loaded, repack=False, capture=covariances) as model,
    ):
        grafts = Grafts(model)
        given, strange = known(model, calibration(model, context=CONTEXT))
        thin = {name: windows[:: arguments.thin] for name, windows in given.windows.items()}
        judged = {
            text.name: [w.tokens for w in texts_module.windows(text, model, CONTEXT, arguments.windows)]
            for text in texts_module.load(arguments.texts)
        }
        result["not known, perplexity"] = strange
        result["calibration windows"] = sum(map(len, thin.values()))
        judge, keeper = (Judge(model, grafts, windows) for windows in (judged, given.held))
        for qtype in arguments.types.split(","):
            encoder = FeedbackEncoder(model, covariances, source, thin, options)
            start, busy = time.monotonic(), time.process_time()
            pairs = list(encoder.encode(dict.fromkeys(matrices(source), (qtype,))))
            spent = {"seconds": time.monotonic() - start, "processor seconds": time.process_time() - busy}
            fed, plain = ({part.name: part for part in parts} for parts in zip(*pairs, strict=True))
            guarded = guard(plain, fed, keeper)
            kept = {**plain, **{name: fed[name] for name in guarded.kept}}
            before, after = judge(plain), judge(fed)
            result[qtype] = {
                **spent,
                "importance": before,
                "feedback": after,
                "ratio": ratios(before, after),
                "guard's ratio": ratios(guarded.plain, guarded.fed),
                "guard dropped": guarded.dropped,
                "guarded ratio": ratios(before, judge(kept)) if guarded.dropped else "the same",
            }
    print(json.dumps(rounded(result), indent=1))


def rounded(value: Any) -> Any:
    """Numbers with four digits."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
