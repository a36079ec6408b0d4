"""Graded tasks: a question in the model's chat template, a greedy answer, right if it contains what it must.

A task file is JSONL with ``prompt``, ``answer`` (must be contained in the reply) and ``category``. Answers are compared
after normalising (Unicode NFKC, case folded, white space as one space) and only as whole words, so that 5 is not found
in 15. Tasks run in an order that takes the categories in turns: when time runs out, what was done is still balanced.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from app.engine.greedy import greedy
from app.engine.model import Model
from app.measure_messages import TaskScore
from app.protocol import ChatMessage
from app.quality.texts import read_text
from app.quality.verdict import TaskChange
from converter.spec import QuenchError
from resources import path as resource

POCKET = "pocket"
MAX_TOKENS = 48
MAX_TASKS = 100_000

SMALL_MODEL = 64 << 20
"""Bytes of weights below which one thread writes faster: a step is so short that threads mostly wait for each other."""


@dataclass(frozen=True)
class Task:
    category: str
    prompt: str
    answer: str


def load(name: str) -> list[Task]:
    """Tasks of a JSONL file (or ``pocket``), balanced: one of each category in turns. QuenchError for a bad line."""
    file = resource("pocket-tasks.jsonl") if name == POCKET else Path(name)
    tasks = [
        _task(file, number, line)
        for number, line in enumerate(read_text(file, _MISSING).split("\n"), start=1)
        if line.strip()
    ]
    if not tasks:
        raise QuenchError("no_tasks", "The file has no tasks in it.", str(file), _HINT)
    if len(tasks) > MAX_TASKS:
        raise QuenchError("too_many_tasks", "The file has too many tasks.", f"{len(tasks)}; at most {MAX_TASKS}.")
    return balanced(tasks)


_MISSING = f"Check the path. The bundled tasks are called {POCKET}."
_HINT = 'Each line is one task: {"category": "...", "prompt": "...", "answer": "..."}.'


def _task(file: Path, number: int, line: str) -> Task:
    def bad(reason: str) -> QuenchError:
        return QuenchError("bad_task", "A line is no task.", f"{file}, line {number}: {reason}", _HINT)

    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise bad("it is not an object")
    category = value.get("category", "all")
    for key, text in (("category", category), ("prompt", value.get("prompt")), ("answer", value.get("answer"))):
        if not isinstance(text, str) or not text.strip():
            raise bad(f"{key!r} is missing or no text")
    return Task(category, value["prompt"], value["answer"])


def balanced(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks, one of each category in turns; within a category the order stays."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.category, []).append(task)
    return [task for turn in zip_longest(*groups.values()) for task in turn if task is not None]


def normalise(text: str) -> str:
    """``text`` as answers are compared: NFKC, case folded, runs of white space as one space."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def contains(reply: str, answer: str) -> bool:
    """Whether the normalised ``reply`` has the normalised ``answer`` in it as whole words."""
    wanted = normalise(answer)
    if not wanted:
        return False
    before = r"(?<!\w)" if wanted[0].isalnum() else ""
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, normalise(reply)) is not None


def scores(tasks: Sequence[Task], right: Sequence[bool]) -> dict[str, TaskScore]:
    """Solved tasks by category, of the first ``len(right)`` tasks."""
    counts: dict[str, tuple[int, int]] = {}
    for task, solved in zip(tasks, right, strict=False):
        n, correct = counts.get(task.category, (0, 0))
        counts[task.category] = (n + 1, correct + int(solved))
    return {category: TaskScore(n, correct) for category, (n, correct) in counts.items()}


def change(reference: Sequence[bool], candidate: Sequence[bool]) -> TaskChange | None:
    """Both models on the tasks that both were given; None if there are none."""
    pairs = list(zip(reference, candidate, strict=False))
    if not pairs:
        return None
    return TaskChange(
        n=len(pairs),
        reference=sum(before for before, _ in pairs),
        candidate=sum(after for _, after in pairs),
        lost=sum(before and not after for before, after in pairs),
        gained=sum(after and not before for before, after in pairs),
    )


def grade(model: Model, tasks: Sequence[Task], stopped: Callable[[], bool]) -> list[bool]:
    """Answer ``tasks`` greedily, ``model.sequences`` at a time, and say which answers are right."""
    prompts = [model.prompt_tokens(model.render([ChatMessage("user", task.prompt)])) for task in tasks]
    threads = model.threads
    if model.memory().weights < SMALL_MODEL:
        model.set_threads(1)
    try:
        answers = list(greedy(model, prompts, MAX_TOKENS, cancelled=stopped))
    finally:
        model.set_threads(threads)
    return [contains(model.detokenize(answer), task.answer) for task, answer in zip(tasks, answers, strict=True)]
