"""Grading, by a table; the counts of Pocket's own tasks come from their description."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from app.engine.model import Model
from app.measure_messages import TaskScore
from app.protocol import LoadOptions
from app.quality import tasks
from app.quality.tasks import Task
from app.quality.verdict import TaskChange
from converter.spec import QuenchError
from resources import path


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("8 x 6 = 48.", "= 48.", True),
        ("8 x 6 = 480.", "= 48.", False),
        ("8 x 6 = 148.", "= 48.", False),
        ("169.", "69.", False),
        ("It is 69.", "69.", True),
        ("The capital of Peru is  LIMA\n.", "Lima", True),
        ("Limassol", "Lima", False),
        ("It bleats loudly", "bleats", True),
        ("apple,\n  bridge,  cloud.", "apple, bridge, cloud.", True),
        ("bridge, apple, cloud.", "apple, bridge, cloud.", False),
        ("ﬁne", "fine", True),
        ("STRASSE", "straße", True),
        ("a.b", "a+b", False),
        ("", "x", False),
        ("anything", " ", False),
        ("(yes)", "yes", True),
        ("f-l-o-w-e-r.", "f-l-o-w-e-r.", True),
    ],
)
def test_contains(reply: str, answer: str, right: bool) -> None:
    assert tasks.contains(reply, answer) is right


def test_every_reference_of_pockets_tasks_is_graded_right() -> None:
    """Each reference sentence has its own answer in it, and (with few exceptions) not that of the next task."""
    lines = [json.loads(line) for line in path("pocket-tasks.jsonl").read_text("utf-8").splitlines()]
    assert all(tasks.contains(line["reference"], line["answer"]) for line in lines)
    others = sum(tasks.contains(one["reference"], two["answer"]) for one, two in pairwise(lines))
    assert others < len(lines) / 20


def test_pockets_tasks_by_category() -> None:
    assert Counter(task.category for task in tasks.load("pocket")) == {
        "arithmetic": 150,
        "ordering": 100,
        "spelling": 80,
        "knowledge": 150,
    }


def test_categories_come_in_turns() -> None:
    loaded = tasks.load("pocket")
    assert [task.category for task in loaded[:8]] == ["arithmetic", "ordering", "spelling", "knowledge"] * 2
    assert Counter(task.category for task in loaded[:320]) == Counter(dict.fromkeys(Counter(
        task.category for task in loaded), 80))  # fmt: skip
    mixed = [Task("a", "1", "x"), Task("a", "2", "x"), Task("b", "3", "x"), Task("a", "4", "x")]
    assert [task.prompt for task in tasks.balanced(mixed)] == ["1", "3", "2", "4"]


def test_scores_and_change_count_what_both_did() -> None:
    some = [Task(name, "q", "a") for name in "abab"]
    assert tasks.scores(some, [True, False, True]) == {"a": TaskScore(2, 2), "b": TaskScore(1, 0)}
    change = tasks.change([True, True, False, True], [True, False, True])
    assert change == TaskChange(n=3, reference=2, candidate=2, lost=1, gained=1)
    assert tasks.change([], [True]) is None


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "bad_task"),
        ("[]", "bad_task"),
        ('{"prompt": "x"}', "bad_task"),
        ('{"prompt": "x", "answer": " "}', "bad_task"),
        ('{"prompt": "x", "answer": "y", "category": 3}', "bad_task"),
        ("", "no_tasks"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, line: str, code: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(line + "\n", "utf-8")
    with pytest.raises(QuenchError) as caught:
        tasks.load(str(file))
    assert caught.value.code == code


def test_a_file_without_categories_is_one_category(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"prompt": "2+2?", "answer": "4"}\n', "utf-8")
    assert tasks.load(str(file)) == [Task("all", "2+2?", "4")]


def test_pocket_solves_what_its_description_says(pocket_gguf: Callable[[str], Path]) -> None:
    """In float32 and one at a time: arithmetic 113, ordering 62, spelling 80, knowledge 150; 16 bits may flip a few."""
    some = tasks.load("pocket")
    with Model.load(str(pocket_gguf("BF16")), LoadOptions(context=512), outputs=8, sequences=8) as model:
        found = tasks.scores(some, tasks.grade(model, some, lambda: False))
    assert found["arithmetic"].correct == pytest.approx(113, abs=4)
    assert found["ordering"].correct == pytest.approx(62, abs=4)
    assert found["spelling"] == TaskScore(80, 80)
    assert found["knowledge"].correct >= 149
