"""Graded tasks by slice: what they are, where they come from, and how two models fare on the same ones.

A task file is JSONL. Besides our own form (:mod:`app.quality.task_forms` says what it looks like) GSM8K's, MMLU's,
ARC's and HumanEval's are read. Tasks run in an order that takes the slices in turns: when time runs out, what was done
is still balanced. How an answer is asked for and judged: :mod:`app.quality.grading`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from app.measure_messages import ChoiceScore, TaskFlip, TaskScore, TaskShift
from app.proportions import mcnemar
from app.quality.grading import SMALL_MODEL, Graded, contains, fitting, form, grade, normalise
from app.quality.task_forms import CODE, HINT, MAX_CATEGORY, Task, read_tasks
from app.quality.texts import read_text
from app.quality.verdict import TaskChange
from converter.spec import QuenchError
from resources import path as resource

POCKET, QUENCH = "pocket", "quench"
BUNDLED = {POCKET: "pocket-tasks.jsonl", QUENCH: "quench-tasks.jsonl"}
"""Sets that come with the program: the first made for the Pocket model, the second for models of 1B and more."""

MAX_TASKS = 100_000
MAX_FLIPS = 200
"""Tasks that are kept for each candidate of those that only one of the two models solved."""

LONGEST_PROMPT, LONGEST_ANSWER = 400, 400
"""Characters that are kept of a task and of an answer to it."""

SEQUENCES = 8
CELLS = 8192
"""Tasks that are answered together, and the tokens of context that all of them together may take."""

LONGEST_TEXT = 1 << 19
"""Characters of prose that a needle is hidden in at most."""

_AROUND = 600
"""Characters of a question with a needle beside its prose, and the end of its last sentence."""

TOKEN_BYTES = 3.0
TURN_TOKENS = 96
"""A low guess of the bytes of a token, and what a template adds to a question: what context to load a model with."""


def load(name: str, *, run_code: bool = False) -> list[Task]:
    """Tasks of a JSONL file (or of ``BUNDLED``), balanced: one of each slice in turns.

    Raises:
        QuenchError: ``bad_task`` for a line that is none, ``no_tasks``, ``too_many_tasks``; ``code_not_allowed`` for
            programs to be run without ``run_code``; the errors of :func:`app.quality.texts.read_text`.
    """
    file = resource(BUNDLED[name]) if name in BUNDLED else Path(name)
    tasks = read_tasks(file, read_text(file, _MISSING), MAX_TASKS)
    if not tasks:
        raise QuenchError("no_tasks", "The file has no tasks in it.", str(file), HINT)
    programs = sum(task.kind == CODE for task in tasks)
    if programs and not run_code:
        raise QuenchError(
            "code_not_allowed",
            "These tasks run programs that the models write.",
            f"{programs} of the {len(tasks)} tasks in {file} can only be judged by running code.",
            "Allow it with --run-code, or “Run what the models write” on the Quality page, if you trust the models "
            "and the tasks. What is locked then, and what is not, is said there.",
            exit_status=2,
        )
    return balanced(tasks)


_MISSING = f"Check the path. The bundled tasks are called {POCKET} and {QUENCH}."


def balanced(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks, one of each category in turns; within a category the order stays."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.category, []).append(task)
    return [task for turn in zip_longest(*groups.values()) for task in turn if task is not None]


def stretched(tasks: Sequence[Task], context: int) -> list[Task]:
    """The same tasks, their needles hidden in so much more text that the longest fill ``context`` tokens.

    None becomes shorter: below 2,000 tokens nothing changes. The slice of one that does says how long it is.
    """
    longest = max((task.hidden.characters for task in tasks if task.hidden is not None), default=0)
    answer = max((task.max_tokens for task in tasks if task.hidden is not None), default=0)
    room = min(int((context - TURN_TOKENS - answer) * TOKEN_BYTES) - _AROUND, LONGEST_TEXT)
    if not longest or room <= longest:
        return list(tasks)
    return [_stretched(task, room / longest, context) for task in tasks]


def _stretched(task: Task, factor: float, context: int) -> Task:
    if task.hidden is None:
        return task
    text = task.hidden.prompt(int(task.hidden.characters * factor))
    return dataclasses.replace(task, prompt=text, category=f"{task.category} of {context:,} tokens"[:MAX_CATEGORY])


# ---- what they need --------------------------------------------------------------------------------------------


def context_needed(tasks: Sequence[Task]) -> int:
    """Tokens of context that should do for the longest task, answer and template included."""
    return max((int(len(t.prompt.encode()) / TOKEN_BYTES) + TURN_TOKENS + t.max_tokens for t in tasks), default=0)


def sequences(context: int) -> int:
    """How many tasks are answered together in contexts of this many tokens."""
    return max(1, min(SEQUENCES, CELLS // max(1, context)))


# ---- counting --------------------------------------------------------------------------------------------------


def scores(tasks: Sequence[Task], answers: Sequence[Graded]) -> dict[str, TaskScore]:
    """Solved tasks by category, of the first ``len(answers)`` tasks."""
    groups: dict[str, list[tuple[Task, Graded]]] = {}
    for task, answer in zip(tasks, answers, strict=False):
        groups.setdefault(task.category, []).append((task, answer))
    return {category: _score(pairs) for category, pairs in groups.items()}


def _score(pairs: Sequence[tuple[Task, Graded]]) -> TaskScore:
    chosen = [(task, answer.choice) for task, answer in pairs if answer.choice is not None]
    choices = None
    if chosen:
        choices = ChoiceScore(
            n=len(chosen),
            acc=sum(choice.raw == task.right for task, choice in chosen),
            acc_norm=sum(choice.normalised == task.right for task, choice in chosen),
            counted=chosen[0][0].measure,
        )
    return TaskScore(len(pairs), sum(answer.right for _, answer in pairs), choices)


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


def shifts(tasks: Sequence[Task], reference: Sequence[bool], candidate: Sequence[bool]) -> dict[str, TaskShift]:
    """By category, what a candidate lost and gained against the reference on the tasks that both were given."""
    groups: dict[str, list[tuple[bool, bool]]] = {}
    for task, before, after in zip(tasks, reference, candidate, strict=False):
        groups.setdefault(task.category, []).append((before, after))
    found = {}
    for category, pairs in groups.items():
        lost = sum(before and not after for before, after in pairs)
        gained = sum(after and not before for before, after in pairs)
        found[category] = TaskShift(len(pairs), lost, gained, mcnemar(lost, gained))
    return found


def flips(tasks: Sequence[Task], reference: Sequence[Graded], candidate: Sequence[Graded]) -> list[TaskFlip]:
    """The tasks that only one of two models solved: what was asked, and both answers. Lost and gained ones in turns,
    as they came, so that a part of them is a fair sample."""
    found: dict[bool, list[TaskFlip]] = {False: [], True: []}
    for task, before, after in zip(tasks, reference, candidate, strict=False):
        if before.right != after.right:
            found[after.right].append(
                TaskFlip(
                    category=task.category,
                    gained=after.right,
                    prompt=shortened(task.prompt, LONGEST_PROMPT),
                    expected=shortened(task.expected, LONGEST_ANSWER),
                    reference=shortened(before.text, LONGEST_ANSWER),
                    candidate=shortened(after.text, LONGEST_ANSWER),
                )
            )
    return [flip for pair in zip_longest(found[False], found[True]) for flip in pair if flip is not None]


def shortened(text: str, most: int) -> str:
    """``text`` in at most ``most`` characters: its middle is left out, since questions stand at the ends."""
    text = text.strip()
    if len(text) <= most:
        return text
    head = (most - 3) // 3
    return f"{text[:head].rstrip()} … {text[len(text) - (most - 3 - head) :].lstrip()}"


__all__ = [
    "BUNDLED",
    "MAX_FLIPS",
    "POCKET",
    "QUENCH",
    "SMALL_MODEL",
    "Graded",
    "Task",
    "balanced",
    "change",
    "contains",
    "context_needed",
    "fitting",
    "flips",
    "form",
    "grade",
    "load",
    "normalise",
    "scores",
    "sequences",
    "shifts",
    "shortened",
    "stretched",
]
