"""Results of a model over time: what stands in one series, and which changes can be told from chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app import history
from app.history import Past
from app.measure_messages import Estimate
from app.store import Store

PAIR = {"value": 0.01, "error": 0.001}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "quench.db")
    yield made
    made.close()


def put(store: Store, value: float = 0.01, **changes: Any) -> None:
    payload = {
        "type": "Q4_K_M",
        "kld": {key: {"value": value, "error": 0.001} for key in ("mean", "median", "p95", "p99", "p99_9", "max")},
        "top1": PAIR,
        "perplexity": PAIR,
        "verdict": "pass",
        "tokens": 510,
        "context": 512,
        "texts": ["prose", "code"],
        "reference": "/m/BF16.gguf",
        "reference_content": "r",
        "machine": "Some CPU",
        "texts_id": "t",
        "program": "0.1.0",
        "engine": "0.3.36",
        "passages": [{"text": "long"}],
    } | changes
    store.add_measurement(payload.pop("path", "/m/Q4_K_M.gguf"), "quality", payload, payload.pop("content", "c"))


def past(windows: list[float], error: float = 0.01) -> Past:
    one = Estimate(1.0, 0.0)
    mean = sum(windows) / max(1, len(windows))
    return Past(0.0, Estimate(mean, error), one, one, 510, "pass", "", "", tuple(windows))


@pytest.mark.parametrize(
    "other",
    [
        {"machine": "Another CPU"},
        {"texts_id": "u"},
        {"context": 1024},
        {"kv": "q8_0"},
        {"reference_content": "s"},
        {"content": "d"},
        {"texts_id": ""},
    ],
)
def test_what_may_not_be_compared_stands_apart(store: Store, other: dict[str, Any]) -> None:
    put(store, 0.010)
    put(store, 0.011)
    put(store, 0.090, **other)
    found = history.of_models(store)
    assert [[result.kld.value for result in series.results] for series in found] == [[0.090], [0.011, 0.010]]
    assert [len(series.changes) for series in found] == [0, 1]


def test_one_series_whatever_the_program_and_wherever_the_file_lies(store: Store) -> None:
    put(store, 0.010, program="0.0.9")
    put(store, 0.011, path="/elsewhere/Q4.gguf", engine="0.3.40")
    (series,) = history.of_models(store)
    assert [(result.program, result.engine) for result in series.results] == [("0.1.0", "0.3.40"), ("0.0.9", "0.3.36")]
    assert series.path == "/elsewhere/Q4.gguf", "where it was seen last"
    assert series.by_content


def test_results_of_an_earlier_version_are_compared_by_the_names_of_their_texts_and_say_so(store: Store) -> None:
    for value in (0.010, 0.011):
        put(store, value, texts_id="", program="", engine="", reference_content="")
    (series,) = history.of_models(store)
    assert not series.by_content
    assert len(series.results) == 2


def test_only_the_models_that_are_asked_for(store: Store) -> None:
    put(store, path="/m/A.gguf", content="a")
    put(store, path="/m/B.gguf", content="b")
    put(store, path="/m/BF16.gguf", content="r")  # the reference itself
    put(store, path="/m/C.gguf", content="c", kld="damaged")
    assert {series.path for series in history.of_models(store)} == {"/m/A.gguf", "/m/B.gguf"}
    assert [series.path for series in history.of_models(store, ["/m/A.gguf"])] == ["/m/A.gguf"]
    assert [series.path for series in history.of_models(store, ["/new/place.gguf"], ["b"])] == ["/m/B.gguf"]
    assert history.of_models(store, ["/m/none.gguf"]) == []


def test_windows_are_compared_in_pairs() -> None:
    """By numpy: a change far below the interval of either is told apart, the same noise without a change is not."""
    random = np.random.default_rng(3)
    old = 0.02 + 0.01 * random.random(60)
    noise = 1e-4 * random.standard_normal(60)
    for move, apart in ((3e-4, True), (0.0, False)):
        new = old + move + noise
        found = history.change(past(old.tolist()), past(new.tolist()))
        assert found.difference.value == pytest.approx(float((new - old).mean()))
        assert found.difference.error == pytest.approx(float((new - old).std(ddof=1)) / math.sqrt(60))
        assert found.apart == apart
    assert not history.change(past(old.tolist()), past(old.tolist())).apart


def test_without_windows_both_intervals_count() -> None:
    found = history.change(past([], 0.003), msgspec.structs.replace(past([], 0.004), kld=Estimate(0.02, 0.004)))
    assert found.difference == Estimate(0.02, pytest.approx(0.005))
    assert found.apart


def test_texts_in_words(store: Store) -> None:
    put(store, texts=["prose", "code", "a/b/c.txt", "data", "german"])
    put(store, texts=["prose", "a/b/c.txt"], content="d")
    other, series = history.of_models(store)
    assert history.texts_in_words(other) == "prose, c"
    assert history.texts_in_words(series) == "5 texts"
