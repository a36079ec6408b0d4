"""The recorded comparisons with llama.cpp's converter and with transformers, and the README's table of them."""

from __future__ import annotations

import pytest

from converter.architectures import FAMILIES
from tests.converter.reference.compare import TYPES, largest
from tests.converter.reference.models import MODELS
from tests.converter.reference.table import README, recorded, written

FACTS = recorded()


def test_the_readme_says_what_was_found() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == written(text), "run python -m tests.converter.reference.table"


def test_every_model_was_compared_and_every_family_has_one() -> None:
    assert list(FACTS) == list(MODELS)
    assert {facts["family"] for facts in FACTS.values()} == {family.title for family in FAMILIES}


@pytest.mark.parametrize("name", FACTS)
def test_a_recorded_comparison_found_nothing_wrong(name: str) -> None:
    facts, model = FACTS[name], MODELS[name]
    assert not facts["problems"]
    assert set(facts["distance"]) == set(TYPES)
    far = {kind for kind, found in facts["distance"].items() if found > largest(model, kind, facts["own"])}
    assert bool(far) == bool(model.engine)
