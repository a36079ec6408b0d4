"""Task files line by line: our own form, and those of GSM8K, MMLU, ARC and HumanEval, told apart by their keys.

Our own form, one JSON object a line (``kind`` and what follows it are optional):

- ``category``, ``prompt``, ``answer``: text, or a list of texts of which each is right;
- ``kind``: ``contains`` (the answer stands in the reply as whole words), ``exact`` (it is the whole reply), ``number``
  (the last number of the reply has its value), ``json`` (the reply is this value), ``choice`` (of ``choices`` the
  right one is likelier than the others) or ``code`` (see ``tests``);
- ``cased``: upper and lower case are told apart; ``max_tokens`` of a reply;
- ``choices``: texts, one of which is the answer. They are listed with letters and the letters are compared, unless
  ``letters`` is false: then the texts themselves are, each relative to its length;
- ``tests``: Python that defines ``check(candidate)``, with ``entry_point`` the name of the function asked for;
- ``needle``, ``depth``, ``characters``, ``seed``: the prompt is asked about ``characters`` of prose that comes with
  the program, with the sentence ``needle`` at ``depth`` (0 to 1) of it.

The first line's keys say which form a file has; a line of another form is an error, with its number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.quality import needles
from converter.spec import QuenchError

CONTAINS, EXACT, NUMBER, JSON, CHOICE, CODE = "contains", "exact", "number", "json", "choice", "code"
KINDS = (CONTAINS, EXACT, NUMBER, JSON, CHOICE, CODE)

MAX_LINE = 1 << 20
MAX_PROMPT = 200_000
MAX_ANSWER = 20_000
MAX_CATEGORY = 60
MAX_CATEGORIES = 200
MAX_CHOICES = 26
MAX_REPLY = 4096
"""Bounds of what a line may ask for: characters, and tokens of a reply."""

REPLY_TOKENS = {CONTAINS: 48, EXACT: 48, NUMBER: 48, JSON: 128, CHOICE: 0, CODE: 512}
REASONED_TOKENS = 384
"""Tokens of a reply that works its way to a number."""

HINT = (
    'Each line is one task: {"category": "...", "prompt": "...", "answer": "..."}, '
    "or a line of GSM8K, MMLU, ARC or HumanEval."
)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Task:
    """One question. ``answer`` is what the reply must have, be or do, ``also`` other right answers.

    ``choices`` are what is compared, ``right`` the place of the right one, ``measure`` what counts: ``acc``, the
    likeliest, or ``acc_norm``, the likeliest relative to its number of characters, as lm-evaluation-harness calls
    them. ``tests`` and ``entry_point`` belong to ``code``, whose ``prompt`` is the beginning of a program. ``hidden``
    is the sentence that ``prompt`` hides, if it hides one.
    """

    category: str
    prompt: str
    answer: str
    kind: str = CONTAINS
    also: tuple[str, ...] = ()
    cased: bool = False
    choices: tuple[str, ...] = ()
    right: int = -1
    measure: Literal["", "acc", "acc_norm"] = ""
    tests: str = ""
    entry_point: str = ""
    max_tokens: int = REPLY_TOKENS[CONTAINS]
    hidden: needles.Hidden | None = field(default=None, repr=False)

    @property
    def expected(self) -> str:
        """The right answer in words."""
        return " / ".join((self.answer, *self.also))


class _BadLineError(Exception):
    """What is wrong with a line, in words."""


def read_tasks(file: Path, content: str, most: int) -> list[Task]:
    """All tasks of a file's text, in order.

    Raises:
        QuenchError: ``bad_task`` with the number of the first bad line, ``too_many_tasks`` for more than ``most``.
    """
    tasks: list[Task] = []
    form = ""
    categories: set[str] = set()
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        if len(tasks) == most:
            raise QuenchError("too_many_tasks", "The file has too many tasks.", f"{file}: more than {most}.")
        try:
            value = _object(line)
            form = form or _form(value)
            if form != "own" and _form(value) != form:
                raise _BadLineError(f"the lines before it have the form of {form}, this one has not")
            task = _FORMS[form](value)
            categories.add(task.category)
            if len(categories) > MAX_CATEGORIES:
                raise _BadLineError(f"more than {MAX_CATEGORIES} categories")
        except _BadLineError as error:
            raise QuenchError("bad_task", "A line is no task.", f"{file}, line {number}: {error}", HINT) from error
        tasks.append(task)
    return tasks


def _object(line: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise _BadLineError(f"it has {len(line)} characters; the limit is {MAX_LINE}")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLineError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _BadLineError("it is not an object")
    return value


def _form(value: dict[str, Any]) -> str:
    keys = set(value)
    if {"task_id", "prompt", "test", "entry_point"} <= keys:
        return "HumanEval"
    if "question" in keys and "answerKey" in keys:
        return "ARC"
    if {"question", "choices", "answer"} <= keys:
        return "MMLU"
    if {"question", "answer"} <= keys:
        return "GSM8K"
    return "own"


# ---- the forms -------------------------------------------------------------------------------------------------


def _own(value: dict[str, Any]) -> Task:
    category = _text(value, "category", MAX_CATEGORY) if "category" in value else "all"
    prompt = _text(value, "prompt", MAX_PROMPT)
    kind = value.get("kind", CONTAINS)
    if kind not in KINDS:
        raise _BadLineError(f"the kind {kind!r} is none of {', '.join(KINDS)}")
    cased = value.get("cased", False)
    if not isinstance(cased, bool):
        raise _BadLineError("'cased' is neither true nor false")
    if kind == CODE:
        return _program(category, value, prompt, _text(value, "tests", MAX_PROMPT), value.get("answer", ""))
    hidden = _hidden(value, prompt) if "needle" in value else None
    if hidden is not None:
        prompt = hidden.prompt()
    answers = [json.dumps(_required(value, "answer"), ensure_ascii=False)] if kind == JSON else _answers(value)
    answer, also = answers[0], tuple(answers[1:])
    if kind == NUMBER and not all(_is_number(each) for each in (answer, *also)):
        raise _BadLineError("'answer' is no number")
    if kind == CHOICE:
        choices = _choices(value.get("choices"))
        if also or choices.count(answer) != 1:
            raise _BadLineError("'answer' is not exactly one of the choices")
        letters = value.get("letters", True)
        if not isinstance(letters, bool):
            raise _BadLineError("'letters' is neither true nor false")
        return (_by_letter if letters else _by_text)(category, prompt, choices, choices.index(answer))
    limit = _reply_tokens(value, kind)
    return Task(category, prompt, answer, kind, also, cased, max_tokens=limit, hidden=hidden)


def _gsm8k(value: dict[str, Any]) -> Task:
    question, answer = _text(value, "question", MAX_PROMPT), _text(value, "answer", MAX_ANSWER)
    _, marked, number = answer.rpartition("####")
    if not marked or not _is_number(number):
        raise _BadLineError("'answer' does not end with #### and a number")
    prompt = f"{question.strip()}\nWork it out step by step. End with the answer as a number."
    return Task("GSM8K", prompt, number.strip(), NUMBER, max_tokens=REASONED_TOKENS)


def _mmlu(value: dict[str, Any]) -> Task:
    choices = _choices(value["choices"])
    answer = value["answer"]
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS:
        answer = LETTERS.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise _BadLineError(f"'answer' is neither the letter nor the index of one of {len(choices)} choices")
    subject = str(value.get("subject") or "MMLU").replace("_", " ").strip()[:MAX_CATEGORY] or "MMLU"
    return _by_letter(subject, _text(value, "question", MAX_PROMPT), choices, answer)


def _arc(value: dict[str, Any]) -> Task:
    question, listed = value["question"], value.get("choices")
    if isinstance(question, dict):
        stem, listed = question.get("stem"), question.get("choices")
    else:
        stem = question
    if not isinstance(stem, str) or not stem.strip() or len(stem) > MAX_PROMPT:
        raise _BadLineError("'question' has no text")
    if isinstance(listed, dict):
        texts, labels = listed.get("text"), listed.get("label")
    elif isinstance(listed, list) and all(isinstance(each, dict) for each in listed):
        texts, labels = [each.get("text") for each in listed], [each.get("label") for each in listed]
    else:
        raise _BadLineError("'choices' has no texts and labels")
    choices, key = _choices(texts), value["answerKey"]
    if not isinstance(labels, list) or len(labels) != len(choices) or labels.count(key) != 1:
        raise _BadLineError(f"'answerKey' {key!r} is not the label of exactly one choice")
    return _by_text("ARC", stem, choices, labels.index(key))


def _humaneval(value: dict[str, Any]) -> Task:
    solution = value.get("canonical_solution", "")
    return _program("HumanEval", value, _text(value, "prompt", MAX_PROMPT), _text(value, "test", MAX_PROMPT), solution)


_FORMS: dict[str, Callable[[dict[str, Any]], Task]] = {
    "own": _own,
    "GSM8K": _gsm8k,
    "MMLU": _mmlu,
    "ARC": _arc,
    "HumanEval": _humaneval,
}


# ---- pieces ----------------------------------------------------------------------------------------------------


def _by_letter(category: str, prompt: str, choices: tuple[str, ...], right: int) -> Task:
    """The choices are listed, and the letters before them compared: MMLU's way, where every choice is one token."""
    letters = tuple(LETTERS[: len(choices)])
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    asked = f"{prompt.strip()}\n{listed}\nAnswer with the letter alone."
    answer = f"{letters[right]}. {choices[right]}"
    return Task(category, asked, answer, CHOICE, choices=letters, right=right, measure="acc", max_tokens=0)


def _by_text(category: str, prompt: str, choices: tuple[str, ...], right: int) -> Task:
    """The model does not see the choices; each is compared as the answer itself: ARC's way."""
    return Task(
        category, prompt.strip(), choices[right], CHOICE, choices=choices, right=right, measure="acc_norm", max_tokens=0
    )


def _program(category: str, value: dict[str, Any], prompt: str, tests: str, solution: Any) -> Task:
    name = _text(value, "entry_point", 200)
    if not name.isidentifier():
        raise _BadLineError("'entry_point' is no name of a function")
    if not isinstance(solution, str) or len(solution) > MAX_ANSWER:
        raise _BadLineError("the solution is no text, or too long")
    limit = _reply_tokens(value, CODE)
    return Task(
        category, prompt, solution or f"passes {name}'s tests", CODE, tests=tests, entry_point=name, max_tokens=limit
    )


def _hidden(value: dict[str, Any], question: str) -> needles.Hidden:
    needle, depth = _text(value, "needle", 1000), value.get("depth", 0.5)
    characters, seed = value.get("characters", 4000), value.get("seed", 0)
    if not isinstance(depth, int | float) or isinstance(depth, bool) or not 0 <= depth <= 1:
        raise _BadLineError("'depth' is not between 0 and 1")
    for key, number in (("characters", characters), ("seed", seed)):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_PROMPT:
            raise _BadLineError(f"{key!r} is not between 0 and {MAX_PROMPT}")
    return needles.Hidden(question, needle, float(depth), characters, seed)


def _required(value: dict[str, Any], key: str) -> Any:
    if key not in value:
        raise _BadLineError(f"{key!r} is missing or no text")
    return value[key]


def _text(value: dict[str, Any], key: str, most: int) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text.strip():
        raise _BadLineError(f"{key!r} is missing or no text")
    if len(text) > most:
        raise _BadLineError(f"{key!r} has {len(text)} characters; the limit is {most}")
    return text


def _answers(value: dict[str, Any]) -> list[str]:
    answers = value.get("answer")
    if not isinstance(answers, list):
        return [_text(value, "answer", MAX_ANSWER)]
    if not answers:
        raise _BadLineError("'answer' is an empty list")
    return [_text({"answer": each}, "answer", MAX_ANSWER) for each in answers]


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CHOICES:
        raise _BadLineError(f"'choices' is no list of 2 to {MAX_CHOICES}")
    if not all(isinstance(each, str) and each.strip() and len(each) <= MAX_ANSWER for each in value):
        raise _BadLineError("a choice is no text, or too long")
    return tuple(value)


def _reply_tokens(value: dict[str, Any], kind: str) -> int:
    tokens = value.get("max_tokens", REPLY_TOKENS[kind])
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= MAX_REPLY:
        raise _BadLineError(f"'max_tokens' is not between 1 and {MAX_REPLY}")
    return tokens


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text.replace(",", "").strip()))
    except ValueError:
        return False


__all__ = ["CHOICE", "CODE", "CONTAINS", "EXACT", "HINT", "JSON", "NUMBER", "Task", "read_tasks"]
