"""The order of many prompts, and models that are made for a comparison."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import pytest

from app.compare import batches, recipes
from converter.recipes import RECIPES
from converter.spec import QuenchError


@pytest.mark.parametrize(("prompts", "models", "batch"), [(7, 3, 2), (5, 2, 1), (4, 4, 99), (1, 2, 3)])
def test_every_model_answers_every_prompt_once_after_the_reference(prompts: int, models: int, batch: int) -> None:
    taken = list(batches.steps(prompts, models, batch))
    assert Counter((step.prompt, step.model) for step in taken) == Counter(product(range(prompts), range(models)))
    asked: set[int] = set()
    waiting: set[int] = set()
    for step in taken:
        if step.model == 0:
            asked.add(step.prompt)
            waiting.add(step.prompt)
        assert step.prompt in asked and len(waiting) <= batch
        if step.last:
            waiting.clear()
    assert not waiting
    changes = sum(a.model != b.model for a, b in pairwise(taken))
    assert changes < models * -(-prompts // batch)


def test_a_batch_is_what_the_disk_has_room_for() -> None:
    assert batches.batch_size(150_000, 256, 1 << 30) == 6 and batches.batch_size(150_000, 8000, 1 << 20) == 1
    assert 0 < batches.room(Path("/")) <= batches.MOST_DISK


def test_a_recipe_stands_behind_its_source_unless_that_is_a_file(tmp_path: Path) -> None:
    assert recipes.split("/models/pocket=Q4_K_M") == ("/models/pocket", "Q4_K_M")
    assert recipes.split(recipes.with_recipe("/m/a=b", "Q2_K")) == ("/m/a=b", "Q2_K")
    for path in ("/models/pocket", "/models/pocket=Q4_K_X", "=Q2_K", "server:desk/qwen"):
        assert recipes.split(path) == (path, "")
    real = tmp_path / "odd=Q2_K"
    real.write_text("")
    assert recipes.split(str(real)) == (str(real), "")
    assert set(recipes.choices()) < set(RECIPES) and recipes.choices()[0] == "BF16"
    assert not [name for name in recipes.choices() if RECIPES[name].needs_imatrix]


def test_a_made_file_is_called_after_its_source_and_made_anew_when_that_changes(tmp_path: Path) -> None:
    source = tmp_path / "Gemma-BF16.gguf"
    source.write_bytes(b"one")
    first = recipes.place(str(source), "Q4_K_M")
    assert first.name == "Gemma-Q4_K_M.gguf" and first == recipes.place(str(source), "Q4_K_M")
    source.write_bytes(b"other")
    assert recipes.place(str(source), "Q4_K_M") != first
    inside = recipes.place(str(tmp_path), "Q2_K")
    (tmp_path / "config.json").write_text("{}")
    assert recipes.place(str(tmp_path), "Q2_K") != inside and inside.name == f"{tmp_path.name}-Q2_K.gguf"
    with pytest.raises(QuenchError, match="not there"):
        recipes.place(str(tmp_path / "gone"), "Q2_K")


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    made = []
    for number in range(4):
        path = recipes.folder() / str(number) / "a.gguf"
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
        made.append(path)
    recipes.used(made[1])
    assert recipes.trim({made[0]}, 250) == [made[2], made[3]]
    assert [path.exists() for path in made] == [True, True, False, False] and not made[2].parent.exists()
    assert recipes.trim((), 250) == []
