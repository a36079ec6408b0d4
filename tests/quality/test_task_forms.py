"""Task files of every form, well made and malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.quality import tasks
from app.quality.task_forms import Task
from converter.spec import QuenchError

OWN = {"category": "c", "prompt": "2+2?", "answer": "4"}
GSM8K = {"question": "Ann has 3 pens and buys 4. How many?", "answer": "She has 3 + 4 = <<3+4=7>>7.\n#### 1,007"}
MMLU = {"question": "Which is red?", "subject": "high_school_colours", "choices": ["sky", "blood", "snow"], "answer": 1}
ARC = {
    "id": "x",
    "question": {"stem": "What melts?", "choices": [{"text": "ice", "label": "A"}, {"text": "a rock", "label": "B"}]},
    "answerKey": "B",
}
ARC_HF = {"question": "What melts?", "choices": {"text": ["ice", "a rock"], "label": ["1", "2"]}, "answerKey": "1"}
HUMANEVAL = {
    "task_id": "T/0",
    "prompt": "def inc(x):\n    '''Add one.'''\n",
    "entry_point": "inc",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}


def read(tmp_path: Path, *lines: Any) -> list[Task]:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n", "utf-8")
    return tasks.load(str(file), run_code=True)


def test_gsm8k(tmp_path: Path) -> None:
    (task,) = read(tmp_path, GSM8K)
    assert (task.category, task.kind, task.answer) == ("GSM8K", "number", "1,007")
    assert task.prompt.startswith("Ann has 3 pens") and task.max_tokens > 100


def test_mmlu_compares_letters(tmp_path: Path) -> None:
    one, two = read(tmp_path, MMLU, MMLU | {"answer": "C"})
    assert (one.category, one.choices, one.right, one.measure) == ("high school colours", ("A", "B", "C"), 1, "acc")
    assert "A. sky\nB. blood\nC. snow" in one.prompt
    assert two.right == 2 and two.expected == "C. snow"


@pytest.mark.parametrize(("line", "right"), [(ARC, 1), (ARC_HF, 0)])
def test_arc_compares_the_answers_themselves(tmp_path: Path, line: Any, right: int) -> None:
    (task,) = read(tmp_path, line)
    assert (task.prompt, task.choices, task.right) == ("What melts?", ("ice", "a rock"), right)
    assert task.measure == "acc_norm"


def test_humaneval(tmp_path: Path) -> None:
    (task,) = read(tmp_path, HUMANEVAL)
    assert (task.kind, task.entry_point, task.expected) == ("code", "inc", "    return x + 1\n")


def test_own_form(tmp_path: Path) -> None:
    lines = [
        {"prompt": "q", "answer": "a"},
        OWN | {"answer": ["4", "four"], "kind": "exact", "cased": True, "max_tokens": 9},
        OWN | {"kind": "json", "answer": {"a": [1, None]}},
        OWN | {"kind": "choice", "answer": "y", "choices": ["x", "y"]},
        OWN | {"kind": "choice", "answer": "y", "choices": ["x", "y"], "letters": False},
    ]
    found = read(tmp_path, *lines)
    assert found[0] == Task("all", "q", "a")
    assert found[1] == Task("c", "2+2?", "4", "exact", ("four",), cased=True, max_tokens=9)
    assert json.loads(found[2].answer) == {"a": [1, None]}
    assert (found[3].choices, found[3].right, found[3].measure) == (("A", "B"), 1, "acc")
    assert (found[4].choices, found[4].right, found[4].measure) == (("x", "y"), 1, "acc_norm")


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_needle_lies_at_its_depth_and_is_the_same_each_time(tmp_path: Path, depth: float) -> None:
    line = OWN | {"needle": "The code is 77.", "depth": depth, "characters": 30000, "seed": 3}
    (task,) = read(tmp_path, line)
    assert read(tmp_path, line) == [task]
    assert task.prompt.count("The code is 77.") == 1 and task.prompt.endswith("2+2?")
    assert task.prompt.index("The code is 77.") / len(task.prompt) == pytest.approx(depth, abs=0.02)
    (other,) = read(tmp_path, line | {"seed": 4})
    assert other.prompt != task.prompt


BAD: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[]", "not an object"),
    ({"prompt": "x"}, "'answer' is missing"),
    (OWN | {"answer": " "}, "'answer' is missing"),
    (OWN | {"answer": []}, "empty list"),
    (OWN | {"category": 3}, "'category'"),
    (OWN | {"category": "x" * 61}, "'category' has 61"),
    (OWN | {"kind": "guess"}, "none of"),
    (OWN | {"kind": "number", "answer": "many"}, "no number"),
    (OWN | {"cased": "yes"}, "neither true nor false"),
    (OWN | {"max_tokens": 10**9}, "'max_tokens'"),
    (OWN | {"max_tokens": True}, "'max_tokens'"),
    (OWN | {"kind": "choice", "choices": ["4"]}, "no list of 2 to"),
    (OWN | {"kind": "choice", "choices": ["4", "4"]}, "not exactly one"),
    (OWN | {"kind": "choice", "choices": ["5", "6"]}, "not exactly one"),
    (OWN | {"kind": "choice", "choices": ["4", None]}, "a choice is no text"),
    (OWN | {"kind": "code"}, "'tests' is missing"),
    (OWN | {"needle": "n", "depth": 2}, "'depth'"),
    (OWN | {"needle": "n", "characters": 10**9}, "'characters'"),
    (OWN | {"prompt": "x" * 200_001}, "limit is 200000"),
    (" " * (1 << 20) + "{}", "limit is 1048576"),
    (GSM8K | {"answer": "7"}, "####"),
    (GSM8K | {"answer": "#### seven"}, "####"),
    (GSM8K | {"question": None}, "'question'"),
    (MMLU | {"answer": 3}, "'answer'"),
    (MMLU | {"answer": "D"}, "'answer'"),
    (MMLU | {"answer": True}, "'answer'"),
    (MMLU | {"choices": "sky"}, "no list"),
    (ARC | {"answerKey": "E"}, "answerKey"),
    (ARC | {"question": {"stem": "", "choices": []}}, "no text"),
    (ARC | {"question": {"stem": "x", "choices": 3}}, "no texts and labels"),
    (ARC_HF | {"choices": {"text": ["a", "b"], "label": ["1"]}}, "answerKey"),
    (ARC_HF | {"choices": {"text": ["a", "b"], "label": ["1", "1"]}}, "exactly one"),
    (HUMANEVAL | {"entry_point": "f(); import os"}, "no name"),
    (HUMANEVAL | {"test": 5}, "'test'"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_line_is_an_error_with_its_number(tmp_path: Path, line: Any, reason: str) -> None:
    good = next((known for known in (GSM8K, MMLU, ARC, ARC_HF, HUMANEVAL) if _like(line, known)), OWN)
    with pytest.raises(QuenchError) as caught:
        read(tmp_path, good, "", line)
    assert caught.value.code == "bad_task"
    assert "line 3" in caught.value.detail and reason in caught.value.detail


def _like(line: Any, known: dict[str, Any]) -> bool:
    return isinstance(line, dict) and set(line) == set(known)


def test_forms_are_not_mixed(tmp_path: Path) -> None:
    for first, second in ((GSM8K, MMLU), (MMLU, ARC_HF), (HUMANEVAL, OWN)):
        with pytest.raises(QuenchError, match=r".*") as caught:
            read(tmp_path, first, second)
        assert "line 2" in caught.value.detail and "have the form of" in caught.value.detail


def test_an_empty_file_and_too_many_categories(tmp_path: Path) -> None:
    with pytest.raises(QuenchError) as caught:
        read(tmp_path, "", "  ")
    assert caught.value.code == "no_tasks"
    with pytest.raises(QuenchError) as caught:
        read(tmp_path, *({"category": str(i), "prompt": "p", "answer": "a"} for i in range(201)))
    assert "line 201" in caught.value.detail
