"""Loading, counting and comparing tasks; the counts of Pocket's own come from its description."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from app.engine.model import Model
from app.measure_messages import ChoiceScore, TaskScore, TaskShift
from app.protocol import LoadOptions
from app.quality import tasks
from app.quality.grading import Chosen
from app.quality.tasks import Graded, Task
from app.quality.verdict import TaskChange
from converter.spec import QuenchError
from resources import path


def graded(*right: bool) -> list[Graded]:
    return [Graded(each, "yes" if each else "no") for each in right]


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
    assert tasks.scores(some, graded(True, False, True)) == {"a": TaskScore(2, 2), "b": TaskScore(1, 0)}
    change = tasks.change([True, True, False, True], [True, False, True])
    assert change == TaskChange(n=3, reference=2, candidate=2, lost=1, gained=1)
    assert tasks.change([], [True]) is None


def test_choices_are_counted_both_ways() -> None:
    task = Task("a", "q", "y", "choice", choices=("x", "yyyy"), right=1, measure="acc_norm")
    answers = [Graded(True, "y", Chosen(0, 1)), Graded(True, "y", Chosen(1, 1)), Graded(False, "x", Chosen(0, 0))]
    assert tasks.scores([task] * 3, answers) == {"a": TaskScore(3, 2, ChoiceScore(3, 1, 2, "acc_norm"))}


def test_shifts_have_the_exact_p() -> None:
    """p of McNemar's exact test: 1 of 10 changes for the better is 2 (1 + 10) / 1024; nothing changed is 1."""
    some = [Task("a", "q", "x")] * 10 + [Task("b", "q", "x")] * 2
    before = [True] * 9 + [False] + [True, False]
    after = [False] * 9 + [True] + [True, False]
    assert tasks.shifts(some, before, after) == {
        "a": TaskShift(10, 9, 1, pytest.approx(22 / 1024)),
        "b": TaskShift(2, 0, 0, 1.0),
    }
    # Fewer answers than tasks: only what both did.
    assert tasks.shifts(some, before, after[:3]) == {"a": TaskShift(3, 3, 0, 0.25)}


def test_flips_have_both_answers_cut_to_size() -> None:
    long = "Q" * 50 + "x" * 5000 + "what is it?"
    some = [Task("a", "one", "1"), Task("a", "two", "2", also=("zwei",)), Task("b", long, "3"), Task("b", "four", "4")]
    before = [Graded(True, "it is 1"), Graded(False, ""), Graded(True, "y" * 5000), Graded(True, "4")]
    after = [Graded(False, "it is 9"), Graded(True, "2"), Graded(False, "no"), Graded(True, "4")]
    lost, gained, longest = tasks.flips(some, before, after)
    assert (lost.gained, lost.prompt, lost.expected, lost.reference, lost.candidate) == (
        False, "one", "1", "it is 1", "it is 9")  # fmt: skip
    assert gained.gained and gained.expected == "2 / zwei"
    assert len(longest.prompt) <= 400 and longest.prompt.startswith("QQQ") and longest.prompt.endswith("what is it?")
    assert len(longest.reference) <= 400


def test_context_and_sequences_follow_the_longest_task() -> None:
    assert tasks.context_needed(tasks.load("pocket")) < 512
    assert (tasks.sequences(512), tasks.sequences(2048), tasks.sequences(1 << 20)) == (8, 4, 1)
    assert tasks.context_needed([]) == 0


def test_programs_are_refused_unless_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    line = {"kind": "code", "prompt": "def f():\n", "tests": "def check(f): pass", "entry_point": "f"}
    file.write_text(json.dumps(line), "utf-8")
    with pytest.raises(QuenchError) as caught:
        tasks.load(str(file))
    assert (caught.value.code, caught.value.exit_status) == ("code_not_allowed", 2)
    assert len(tasks.load(str(file), run_code=True)) == 1


@pytest.mark.slow
def test_pocket_solves_what_its_description_says(pocket_gguf: Callable[[str], Path]) -> None:
    """In float32 and one at a time: arithmetic 113, ordering 62, spelling 80, knowledge 150; 16 bits may flip a few."""
    some = tasks.load("pocket")
    with Model.load(str(pocket_gguf("BF16")), LoadOptions(context=512), outputs=8, sequences=8) as model:
        found = tasks.scores(some, tasks.grade(model, some, lambda: False))
    assert found["arithmetic"].correct == pytest.approx(113, abs=4)
    assert found["ordering"].correct == pytest.approx(62, abs=4)
    assert found["spelling"] == TaskScore(80, 80)
    assert found["knowledge"].correct >= 149
