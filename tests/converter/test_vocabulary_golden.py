"""Whole vocabularies against what llama.cpp's own converter made of them (tests/golden/make_vocabulary_facts.py)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from converter.architectures import find_family
from converter.architectures.base import Family
from converter.vocabulary import entries, outline
from tests.converter.folders import CONFIGS
from tests.converter.golden_vocabularies import CASES, write_case
from tests.converter.test_architectures_golden import comparable

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "golden" / "vocabulary_facts.json").read_text(encoding="utf-8")
)


def family(vocabulary: str) -> Family:
    """A family of which only the habits with vocabularies matter."""
    return dataclasses.replace(find_family(CONFIGS["llama"]), vocabulary=vocabulary)


@pytest.mark.parametrize("name", CASES)
def test_a_vocabulary_becomes_what_llama_cpp_makes_of_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    size = write_case(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    found = {entry.key: entry for entry in entries(tmp_path, family(case.family), config, size)}
    recorded = RECORDED[name]
    assert set(found) - set(case.ours) == set(recorded) - set(case.ours)
    for key, (types, value) in recorded.items():
        if key in case.ours:
            continue
        entry = found[key]
        assert [entry.type, *([entry.item_type] if entry.item_type else [])] == types, key
        if key == "tokenizer.ggml.pre" and value == "?":
            assert entry.value == case.splits
        else:
            assert comparable(entry.value, "FLOAT32" in types) == value, key
    seen = outline(tmp_path, family(case.family))
    assert seen.model == found["tokenizer.ggml.model"].value
    assert seen.problems == []


def test_every_vocabulary_is_recorded() -> None:
    assert set(RECORDED) == set(CASES)
