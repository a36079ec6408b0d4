"""The bundled set: every line valid and unique, and every answer that can be computed computed again."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import Counter
from typing import Any

import pytest

from app.quality import tasks
from app.quality.grading import judge
from resources import path

LINES: list[dict[str, Any]] = [json.loads(line) for line in path("quench-tasks.jsonl").read_text("utf-8").splitlines()]
NAMES: dict[str, Any] = {each.__name__: each for each in (len, list, map, max, range, reversed, sorted, str)}


def test_slices_and_counts() -> None:
    languages = dict.fromkeys(
        ("German", "French", "Spanish", "Italian", "Portuguese", "Chinese", "Japanese", "Russian"), 8
    )
    needles = {"needle 1/4": 8, "needle 1/2": 8, "needle 3/4": 8}
    assert Counter(line["category"] for line in LINES) == {
        "arithmetic": 48, "knowledge": 52, "ordering": 36, "instructions": 40, "JSON": 30, "code reading": 36,
        **languages, **needles,
    }  # fmt: skip
    loaded = tasks.load("quench")
    assert len(loaded) == len(LINES) == 330
    assert len({task.prompt for task in loaded}) == 330
    assert {task.kind for task in loaded} == {"contains", "exact", "number", "json", "choice"}
    assert tasks.context_needed(loaded) <= 2048


@pytest.mark.parametrize("category", ["arithmetic", "ordering", "instructions", "JSON"])
def test_computed_answers_are_right(category: str) -> None:
    checked = [line for line in LINES if line["category"] == category and "check" in line]
    assert len(checked) >= {"arithmetic": 48, "ordering": 22, "instructions": 20, "JSON": 12}[category]
    for line in checked:
        value = eval(line["check"], {"__builtins__": NAMES})
        answers = line["answer"] if category == "ordering" else [line["answer"]]
        assert value == answers[0] if category != "arithmetic" else str(value) == line["answer"], line


def test_programs_print_what_is_expected() -> None:
    for line in LINES:
        if line["category"] != "code reading":
            continue
        code = re.search(r"```python\n(.*)\n```", line["prompt"], re.DOTALL)
        assert code is not None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code[1], {})
        assert printed.getvalue().strip() == line["answer"], line


def test_the_expected_answer_is_graded_right_and_another_wrong() -> None:
    for task in tasks.load("quench"):
        if task.kind == "choice":
            assert task.prompt.count(f"\n{task.expected}\n") == 1
            continue
        for answer in (task.answer, *task.also):
            assert judge(task, answer).right, task
        assert not judge(task, "I do not know.").right, task


def test_the_right_choice_is_not_always_in_the_same_place() -> None:
    places = Counter(task.right for task in tasks.load("quench") if task.kind == "choice")
    assert set(places) == {0, 1, 2, 3} and max(places.values()) < sum(places.values()) / 2


def test_needles_are_asked_for_and_hidden_once() -> None:
    story = path("texts/prose.txt").read_text("utf-8")
    for line in LINES:
        if "needle" in line:
            assert line["answer"] in line["needle"] and line["answer"] not in story
            assert line["answer"] not in line["prompt"]


def test_needles_follow_the_context_and_the_usual_run_stays_as_it_is() -> None:
    """The longest fills the context that was asked for; each keeps its depth, and all but needles stay."""
    usual = tasks.load("quench")
    for context in (512, 1024):
        assert tasks.stretched(usual, context) == usual
    for context in (8192, 32768):
        longer = tasks.stretched(usual, context)
        assert tasks.context_needed(longer) <= context
        hidden = [task for task in longer if task.hidden is not None]
        assert Counter(task.category for task in hidden) == {
            f"needle {depth} of {context:,} tokens": 8 for depth in ("1/4", "1/2", "3/4")
        }
        assert max(len(task.prompt) for task in hidden) > 0.9 * 3 * (context - 150)
        for task in hidden:
            assert task.hidden is not None
            place = task.prompt.index(task.hidden.needle) / len(task.prompt)
            assert place == pytest.approx(task.hidden.depth, abs=0.03)
            assert task.prompt.endswith(task.hidden.question)
        assert [task for task in longer if task.hidden is None] == [task for task in usual if task.hidden is None]
