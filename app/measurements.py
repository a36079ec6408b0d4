"""Results of the lab as they are kept in the store: one payload a model, with what it was measured against."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from app import hardware
from app.measure_messages import BenchResult, MethodsResult, QualityResult, SensitivityResult
from app.store import Store


def keep_quality(store: Store, result: QualityResult, report: str = "") -> None:
    """Store the figures of the reference and of every candidate. ``report`` is the HTML file of this run, if any."""
    for figures in (result.reference, *result.candidates):
        payload: dict[str, Any] = msgspec.to_builtins(figures)
        payload |= {
            "reference": result.reference.path,
            "tokens": result.tokens,
            "context": result.context,
            "texts": list(result.texts),
            "seconds": result.seconds,
            "report": report,
            "machine": hardware.cpu_name(),
            "reference_content": result.reference.content,
            "texts_id": result.texts_id,
            "program": version("quench-studio"),
            "engine": version("llama-cpp-python"),
        }
        store.add_measurement(figures.path, "quality", payload, figures.content)


def keep_bench(store: Store, result: BenchResult) -> None:
    """Store the speed and memory of every model of one run."""
    for model in result.models:
        payload: dict[str, Any] = msgspec.to_builtins(model)
        payload |= {"cpu": result.cpu, "seconds": result.seconds, "automatic": result.automatic}
        store.add_measurement(model.path, "bench", payload, model.content)


def keep_sensitivity(store: Store, result: SensitivityResult) -> None:
    """Store what the tensors of one file cost."""
    payload: dict[str, Any] = msgspec.to_builtins(result)
    payload.pop("message", None)
    store.add_measurement(result.candidate, "sensitivity", payload, result.content)


def sensitivity_of(store: Store, path: str) -> SensitivityResult | None:
    """The newest of a file, None without one that this version can read."""
    found = store.latest(path, "sensitivity")
    try:
        return msgspec.convert(found.payload, SensitivityResult) if found is not None else None
    except msgspec.ValidationError:
        return None


def keep_methods(store: Store, result: MethodsResult) -> None:
    """Store what methods of quantization make of one reference."""
    payload: dict[str, Any] = msgspec.to_builtins(result)
    payload.pop("message", None)
    store.add_measurement(result.reference, "methods", payload, result.content)


def methods_of(store: Store, path: str) -> MethodsResult | None:
    """The newest of a reference, None without one that this version can read."""
    found = store.latest(path, "methods")
    try:
        return msgspec.convert(found.payload, MethodsResult) if found is not None else None
    except msgspec.ValidationError:
        return None
