"""Greedy answers to many short prompts at once: one sequence each, all of them in every decode call.

A small model spends its time on calls, not on arithmetic: eight answers in one call cost little more than one. The
token chosen can differ from a lone reply where two are almost equally likely, since sums are taken in another order;
a comparison must therefore use the same batches for all its models, which it does by using the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from app.engine.model import Model, Part, never
from converter.spec import Cancelled, QuenchError

Enough = Callable[[int, Sequence[int]], bool]


def greedy(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    *,
    enough: Enough | None = None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[list[int]]:
    """The most likely continuation of each prompt, in order: up to ``max_tokens`` tokens, without the one that ends it.

    ``model.sequences`` prompts run together; load the model with several. ``max_tokens`` is one number or one for each
    prompt. ``enough(index, answer)`` may end an answer after any of its tokens. The context is empty afterwards.

    Raises:
        QuenchError: ``empty_prompt``, ``context_full`` (a prompt and its answer do not fit), ``decode_failed``.
        converter.spec.Cancelled: ``cancelled`` became true, or :meth:`Model.interrupt` was called.
    """
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
    for prompt, limit in zip(prompts, limits, strict=True):
        check_fits(model, prompt, limit)
    for at in range(0, len(prompts), model.sequences):
        some = slice(at, at + model.sequences)
        shifted = None if enough is None else lambda index, answer, at=at: enough(at + index, answer)
        yield from _together(model, prompts[some], limits[some], shifted, cancelled)


def check_fits(model: Model, prompt: Sequence[int], answer: int) -> None:
    """QuenchError ``empty_prompt`` or ``context_full`` unless ``prompt`` and ``answer`` tokens fit into the context."""
    if not prompt:
        raise QuenchError("empty_prompt", "There is nothing to answer.", "The prompt has no tokens.", "")
    if len(prompt) + answer > model.context:
        raise QuenchError(
            "context_full",
            "A question is longer than the model's context.",
            f"{len(prompt)} tokens and {answer} of an answer do not fit into {model.context}.",
            "Use a larger window, or leave the long question out.",
        )


def _together(
    model: Model,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    enough: Enough | None,
    cancelled: Callable[[], bool],
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    model.forget()
    tokens: list[int] = []
    for parts in fill(list(enumerate(prompts)), model.batch_capacity):
        tokens += model.next_tokens(parts)
    live = list(range(len(prompts)))
    while live:
        if cancelled():
            raise Cancelled
        going = []
        for index, token in zip(live, tokens, strict=True):
            if model.is_end(token):
                continue
            answers[index].append(token)
            if len(answers[index]) < limits[index] and not (enough and enough(index, answers[index])):
                going.append((index, token))
        live = [index for index, _ in going]
        if live:
            steps = [Part(i, len(prompts[i]) + len(answers[i]) - 1, [token], True) for i, token in going]
            tokens = model.next_tokens(steps)
    model.forget()
    return answers


def fill(texts: Sequence[tuple[int, Sequence[int]]], capacity: int) -> Iterator[list[Part]]:
    """``texts`` (each a sequence's number and its tokens from position 0 on) cut into decode calls of at most
    ``capacity`` tokens; the token after each is wanted."""
    parts: list[Part] = []
    room = capacity
    for sequence, prompt in texts:
        at = 0
        while at < len(prompt):
            piece = prompt[at : at + room]
            parts.append(Part(sequence, at, piece, at + len(piece) == len(prompt)))
            at += len(piece)
            room -= len(piece)
            if room == 0:
                yield parts
                parts, room = [], capacity
    if parts:
        yield parts


__all__ = ["check_fits", "fill", "greedy"]
