"""How tasks are asked and answers judged.

A question goes through the model's chat template and is answered greedily; of choices the likeliest counts. A model
without a template is asked in plain text after three examples (``Question: ... Answer: ...``), and its answer ends
where the next question would begin: such a model continues texts, and would otherwise not know that it was asked.

Texts are compared after normalising (Unicode NFKC, case folded unless the task says otherwise, white space as one
space); ``contains`` finds whole words only, so that 5 is not found in 15. Choices are judged as lm-evaluation-harness
does: ``acc`` takes the likeliest, ``acc_norm`` the likeliest relative to its number of characters.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from app.engine.greedy import greedy
from app.engine.likelihood import likelihoods
from app.engine.model import Model
from app.protocol import ChatMessage
from app.quality import code_run
from app.quality.task_forms import CHOICE, CODE, CONTAINS, EXACT, JSON, NUMBER, Task
from converter.spec import QuenchError

CHAT, PLAIN = "chat", "plain"
"""Ways to ask: by the model's template, or as plain text with examples."""

SMALL_MODEL = 64 << 20
"""Bytes of weights below which one thread writes faster: a step is so short that threads mostly wait for each other."""

KEPT_TEXT = 2000
"""Characters of an answer that are kept until the end of the run."""

EXAMPLES = (
    ("What colour is a ripe lemon? Answer with one word.", "Yellow"),
    ("What is 2 + 3? Answer with the number alone.", "5"),
    ("Which word means the opposite of hot?", "Cold"),
)

_CODE_QUESTION = (
    "Complete this Python function. Reply with the whole function in one code block and nothing else.\n\n"
    "```python\n{prompt}\n```"
)
_TOP_LEVEL = ("\ndef ", "\nclass ", "\n#", "\nif ", "\nprint", "\n@", "\n```")
"""Where the body of a function that was begun is over (as in the HumanEval paper, and two more)."""


@dataclass(frozen=True)
class Chosen:
    """Places of the likeliest choice, and of the likeliest relative to its number of characters."""

    raw: int
    normalised: int


@dataclass(frozen=True)
class Graded:
    """One model's answer to one task: right or wrong, in words, and of choices which."""

    right: bool
    text: str
    choice: Chosen | None = None


def form(model: Model) -> str:
    """How ``model`` is asked: ``CHAT``, or ``PLAIN`` where it has no chat template."""
    return CHAT if model.template else PLAIN


def fitting(model: Model, tasks: Sequence[Task]) -> list[Task]:
    """Those of ``tasks`` that fit into the model's context with their answers."""
    return [task for task in tasks if _fits(model, task)]


def _fits(model: Model, task: Task) -> bool:
    try:
        prompt = len(_prompt_tokens(model, task))
    except QuenchError as error:
        if error.code == "context_full":  # so long that it is not even split into tokens
            return False
        raise
    longest = max((len(tokens) for tokens in _choice_tokens(model, task)), default=task.max_tokens)
    return prompt + longest <= model.context


def grade(model: Model, tasks: Sequence[Task], stopped: Callable[[], bool]) -> list[Graded]:
    """Answer ``tasks``, ``model.sequences`` at a time, and say which answers are right. In the order of ``tasks``.

    Raises:
        QuenchError: ``context_full`` for a task that does not fit, ``decode_failed``; ``code_not_here`` where programs
            cannot be run.
        converter.spec.Cancelled: ``stopped`` became true, or the model was interrupted.
    """
    threads = model.threads
    if model.memory().weights < SMALL_MODEL:
        model.set_threads(1)
    try:
        # Answers of a like length side by side: a batch is as slow as its longest.
        order = sorted(range(len(tasks)), key=lambda index: tasks[index].max_tokens)
        chosen = [index for index in order if tasks[index].kind == CHOICE]
        written = [index for index in order if tasks[index].kind != CHOICE]
        found = dict(zip(chosen, _choose(model, [tasks[i] for i in chosen], stopped), strict=True))
        replies = dict(zip(written, _write(model, [tasks[i] for i in written], stopped), strict=True))
    finally:
        model.set_threads(threads)
    for index, reply in replies.items():
        found[index] = judge(tasks[index], reply, stopped)
    return [found[index] for index in range(len(tasks))]


# ---- asking ----------------------------------------------------------------------------------------------------


def question(task: Task, how: str) -> str:
    """What a model is given to read, before a chat template."""
    if task.kind == CODE:
        return _CODE_QUESTION.format(prompt=task.prompt.rstrip()) if how == CHAT else task.prompt
    if how == CHAT:
        return task.prompt
    examples = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in EXAMPLES)
    return f"{examples}Question: {task.prompt}\nAnswer:"


def _prompt_tokens(model: Model, task: Task) -> list[int]:
    if form(model) == CHAT:
        return model.prompt_tokens(model.render([ChatMessage("user", question(task, CHAT))]))
    tokens = model.tokenize(question(task, PLAIN), special=False, add_special=False)
    return [model.bos, *tokens] if model.adds_bos and model.bos >= 0 else tokens


def _choice_tokens(model: Model, task: Task) -> list[list[int]]:
    space = "" if form(model) == CHAT else " "
    return [model.continuation_tokens(space + choice) for choice in task.choices]


def _choose(model: Model, tasks: Sequence[Task], stopped: Callable[[], bool]) -> list[Graded]:
    questions = [(_prompt_tokens(model, task), _choice_tokens(model, task)) for task in tasks]
    found = likelihoods(model, questions, cancelled=stopped)
    return [_picked(task, values) for task, values in zip(tasks, found, strict=True)]


def _picked(task: Task, values: Sequence[float]) -> Graded:
    """The judgement of a choice from ln of the probability of each."""
    places = range(len(values))
    relative = [value / len(choice) for value, choice in zip(values, task.choices, strict=True)]
    choice = Chosen(max(places, key=values.__getitem__), max(places, key=relative.__getitem__))
    taken = choice.normalised if task.measure == "acc_norm" else choice.raw
    return Graded(taken == task.right, task.choices[taken], choice)


def _write(model: Model, tasks: Sequence[Task], stopped: Callable[[], bool]) -> list[str]:
    how = form(model)
    prompts = [_prompt_tokens(model, task) for task in tasks]

    def over(index: int, answer: Sequence[int]) -> bool:
        text = model.detokenize(answer)
        return len(_until_next(tasks[index], text)) < len(text)

    limits = [task.max_tokens for task in tasks]
    answers = greedy(model, prompts, limits, enough=over if how == PLAIN else None, cancelled=stopped)
    texts = [model.detokenize(answer) for answer in answers]
    return texts if how == CHAT else [_until_next(task, text) for task, text in zip(tasks, texts, strict=True)]


def _until_next(task: Task, text: str) -> str:
    """The part of a plain continuation that is the answer."""
    if task.kind == CODE:
        ends: tuple[str, ...] = _TOP_LEVEL
    else:
        ends = ("\nQuestion:",) if task.kind == JSON else ("\nQuestion:", "\n\n")
    lead = len(text) - len(text.lstrip())
    cuts = [at for at in (text.find(end, 0 if task.kind == CODE else lead) for end in ends) if at >= 0]
    return text[: min(cuts)] if cuts else text


# ---- judging ---------------------------------------------------------------------------------------------------


def judge(task: Task, reply: str, stopped: Callable[[], bool] = lambda: False) -> Graded:
    """Whether ``reply`` solves ``task``; of a program also why not."""
    if task.kind == CODE:
        outcome = code_run.run(program(task, reply), stopped)
        note = "" if outcome.passed else f"{outcome.reason}\n\n"
        return Graded(outcome.passed, (note + reply)[:KEPT_TEXT])
    wanted = (task.answer, *task.also)
    right = {
        CONTAINS: lambda: any(contains(reply, answer, cased=task.cased) for answer in wanted),
        EXACT: lambda: bare(reply, cased=task.cased) in {bare(answer, cased=task.cased) for answer in wanted},
        NUMBER: lambda: last_number(reply) in {last_number(answer) for answer in wanted},
        JSON: lambda: same_value(first_value(reply), json.loads(task.answer)),
    }[task.kind]()
    return Graded(bool(right), reply.strip()[:KEPT_TEXT])


def normalise(text: str, *, cased: bool = False) -> str:
    """``text`` as answers are compared: NFKC, case folded unless ``cased``, runs of white space as one space."""
    composed = unicodedata.normalize("NFKC", text)
    return re.sub(r"\s+", " ", composed if cased else composed.casefold()).strip()


def contains(reply: str, answer: str, *, cased: bool = False) -> bool:
    """Whether the normalised ``reply`` has the normalised ``answer`` in it, as whole words where words are spaced."""
    wanted, text = normalise(answer, cased=cased), normalise(reply, cased=cased)
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        end = at + len(wanted)
        begins = at == 0 or not (_spaced(wanted[0]) and _spaced(text[at - 1]))
        if begins and (end == len(text) or not (_spaced(wanted[-1]) and _spaced(text[end]))):
            return True
        at = text.find(wanted, at + 1)
    return False


def _spaced(character: str) -> bool:
    """Whether it belongs to a word whose ends can be seen: Chinese and Japanese put no spaces between theirs."""
    cjk = "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff"
    return (character.isalnum() or character == "_") and not cjk


_WRAPPING = "\"'`*_“”‘’«»„「」 "


def bare(text: str, *, cased: bool = False) -> str:
    """A reply without what people put around an answer: quotation marks, emphasis, a full stop at the end."""
    inner = normalise(text, cased=cased).strip(_WRAPPING)
    return inner.rstrip(".。").strip(_WRAPPING)


_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:[,'’\u00a0\u202f]\d{3})+(?![\d])|\d+)(?:\.\d+)?")


def last_number(text: str) -> Decimal | None:
    """The value of the last number in ``text``, with a comma, apostrophe or narrow space between thousands."""
    found = _NUMBER.findall(unicodedata.normalize("NFC", text))
    if not found:
        return None
    try:
        return Decimal(re.sub(r"[,'’\u00a0\u202f]", "", found[-1].replace("−", "-"))).normalize()
    except InvalidOperation:
        return None


_NOTHING = object()


def first_value(reply: str) -> Any:
    """The first JSON object or array in ``reply``, else the whole of it as JSON; no value that equals another if none.

    Models put their answer into code fences, and words before it.
    """
    decoder = json.JSONDecoder()
    for match in list(re.finditer(r"[\[{]", reply))[:50]:
        try:
            return decoder.raw_decode(reply, match.start())[0]
        except (ValueError, RecursionError):
            continue
    try:
        return json.loads(reply.strip().strip("`").removeprefix("json").strip())
    except (ValueError, RecursionError):
        return _NOTHING


def same_value(one: Any, other: Any) -> bool:
    """JSON equality: 1 is 1.0 but not true, keys in any order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_value(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def program(task: Task, reply: str) -> str:
    """The whole program that judges a ``code`` task: what was begun, what the model wrote, and the tests."""
    fenced = re.search(r"```[a-zA-Z0-9]*\n(.*?)(?:```|\Z)", reply, re.DOTALL)
    written = fenced[1] if fenced else reply
    whole = re.search(rf"^(?:async )?def {re.escape(task.entry_point)}\b", written, re.MULTILINE)
    begun = task.prompt.rstrip() + "\n"
    if not whole and not fenced:
        begun = task.prompt  # a continuation: its first characters belong to the last line
    elif not whole and not re.match(r"[ \t]", written):
        written = "".join(f"    {line}\n" for line in written.splitlines())
    # The first part stays: the function that was begun has its description as a body, and imports stand before it.
    return f"{begun}{written}\n\n{task.tests}\n\ncheck({task.entry_point})\n"


__all__ = [
    "CHAT",
    "PLAIN",
    "Graded",
    "bare",
    "contains",
    "first_value",
    "fitting",
    "form",
    "grade",
    "judge",
    "last_number",
    "normalise",
    "program",
    "question",
    "same_value",
]
