"""Judging answers, by tables; and how a model is asked, with Pocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import converter
from app.engine.model import Model
from app.protocol import LoadOptions
from app.quality import grading, tasks
from app.quality.grading import judge
from app.quality.task_forms import Task


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
        ("答えは東京です。", "東京", True),
        ("一年有12个月", "12", True),
        ("一年有112个月", "12", False),
        ("Зелёная.", "зелёная", True),
    ],
)
def test_contains(reply: str, answer: str, right: bool) -> None:
    assert grading.contains(reply, answer) is right


@pytest.mark.parametrize(
    ("kind", "reply", "answer", "cased", "right"),
    [
        ("exact", " Paris.\n", "paris", False, True),
        ("exact", "Paris it is", "Paris", False, False),
        ("exact", "**“Paris”**", "Paris", False, True),
        ("exact", "```\n11\n```", "11", False, True),
        ("exact", "blue", "BLUE", True, False),
        ("exact", "BLUE", "BLUE", True, True),
        ("exact", "The kettle is on.", "The kettle is on.", True, True),
        ("contains", "blue", "BLUE", True, False),
        ("number", "So 3 + 4 = 7 apples.", "7", False, True),
        ("number", "7 apples, no: 8", "7", False, False),
        ("number", "She pays $1,234.50.", "1234.5", False, True),
        ("number", "It is 1’000", "1000", False, True),
        ("number", "1, 234", "1234", False, False),
        ("number", "The answer is -9.", "-9", False, True),
        ("number", "10-9", "9", False, True),
        ("number", "**18.0**", "18", False, True),
        ("number", "none", "0", False, False),
        ("number", "9" * 5000, "9", False, False),
        ("json", 'Here:\n```json\n{"b": 2, "a": 1.0}\n```', '{"a": 1, "b": 2}', False, True),
        ("json", "[1, 2]", "[2, 1]", False, False),
        ("json", '{"ok": 1}', '{"ok": true}', False, False),
        ("json", '{"a": 1', '{"a": 1}', False, False),
        ("json", "null", "null", False, True),
        ("json", "nothing", "null", False, False),
        ("json", "[" * 100_000, "[]", False, False),
    ],
)
def test_judging(kind: str, reply: str, answer: str, cased: bool, right: bool) -> None:
    assert judge(Task("c", "q", answer, kind, cased=cased), reply).right is right


def test_any_of_several_answers_is_right() -> None:
    task = Task("c", "q", "8", also=("eight",))
    assert judge(task, "Eight.").right and judge(task, "8 legs").right and not judge(task, "18").right


INC = Task(
    "c",
    'import math\n\ndef up(x):\n    """Round up."""\n',
    "",
    "code",
    tests="def check(candidate):\n    assert candidate(1.2) == 2\n    assert candidate(3.0) == 3\n",
    entry_point="up",
)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("```python\ndef up(x):\n    return math.ceil(x)\n```", True),
        ("Sure!\n```python\nimport math\n\ndef up(x: float) -> int:\n    return math.ceil(x)\n```\nDone.", True),
        ("    return math.ceil(x)\n", True),
        ("```\nreturn math.ceil(x)\n```", True),
        ("def up(x):\n    return int(x) + 1", False),
        ("I cannot.", False),
    ],
)
def test_programs_are_put_together_from_what_models_write(reply: str, right: bool) -> None:
    found = judge(INC, reply)
    assert found.right is right
    assert right or found.text.splitlines()[0]  # why not


LINES = [
    {"category": "capitals", "prompt": "What is the capital of France?", "answer": "Paris"},
    {"category": "capitals", "prompt": "What is the capital of Italy?", "answer": "Rome"},
    {
        "category": "which",
        "prompt": "What is the capital of France?",
        "kind": "choice",
        "answer": "The capital of France is Paris.",
        "choices": ["The capital of France is Rome.", "The capital of France is Paris.", "It is a tree."],
        "letters": False,
    },
    {"category": "letters", "prompt": "Which is a colour?", "kind": "choice", "answer": "red", "choices": ["red", "x"]},
]


def load(tmp_path: Path) -> list[Task]:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)), "utf-8")
    return tasks.load(str(file))


def test_kinds_are_mixed_in_one_group(pocket_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    some = load(tmp_path)
    with Model.load(str(pocket_gguf("BF16")), LoadOptions(context=256), outputs=8, sequences=4) as model:
        assert grading.form(model) == grading.CHAT
        found = dict(zip((task.prompt + task.kind for task in some), grading.grade(model, some, bool), strict=True))
        choice = found["What is the capital of France?choice"]
        assert choice.right and choice.text == "The capital of France is Paris." and choice.choice is not None
        assert found["What is the capital of Italy?contains"].right
        assert tasks.fitting(model, [*some, Task("long", "word " * 300, "x"), Task("huge", "x" * 200_000, "x")]) == some


def test_a_model_without_template_is_asked_in_plain_text(pocket_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.gguf"
    spec = converter.ConversionSpec(
        str(pocket_gguf("BF16")), str(bare), ("copy",), remove_kv=("tokenizer.chat_template",)
    )
    converter.convert(spec)
    some = load(tmp_path)
    asked = grading.question(some[0], grading.PLAIN)
    assert asked.count("Question:") == 4 and asked.endswith("Answer:") and "<|im_start|>" not in asked
    with Model.load(str(bare), LoadOptions(context=256), outputs=8, sequences=4) as model:
        assert grading.form(model) == grading.PLAIN
        found = grading.grade(model, some, bool)
    assert len(found) == len(some) and all("Question:" not in each.text for each in found)
