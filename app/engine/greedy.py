"""Greedy answers to many short prompts at once: one sequence each, all of them in every decode call.

A small model spends its time on calls, not on arithmetic: eight answers in one call cost little more than one. The
token chosen can differ from a lone reply where two are almost equally likely, since sums are taken in another order;
a comparison must therefore use the same batches for all its models, which it does by using the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from app.engine.model import Model, Part, never
from converter.spec import Cancelled, QuenchError


def greedy(
    model: Model, prompts: Sequence[Sequence[int]], max_tokens: int, *, cancelled: Callable[[], bool] = never
) -> Iterator[list[int]]:
    """The most likely continuation of each prompt, in order: up to ``max_tokens`` tokens, without the one that ends it.

    ``model.sequences`` prompts run together; load the model with several. The context is empty afterwards.

    Raises:
        QuenchError: ``empty_prompt``, ``context_full`` (a prompt and its answer do not fit), ``decode_failed``.
        converter.spec.Cancelled: ``cancelled`` became true, or :meth:`Model.interrupt` was called.
    """
    for prompt in prompts:
        _check(model, prompt, max_tokens)
    for at in range(0, len(prompts), model.sequences):
        yield from _together(model, prompts[at : at + model.sequences], max_tokens, cancelled)


def _check(model: Model, prompt: Sequence[int], max_tokens: int) -> None:
    if not prompt:
        raise QuenchError("empty_prompt", "There is nothing to answer.", "The prompt has no tokens.", "")
    if len(prompt) + max_tokens > model.context:
        raise QuenchError(
            "context_full",
            "A question is longer than the model's context.",
            f"{len(prompt)} tokens and {max_tokens} of an answer do not fit into {model.context}.",
            "Use a larger window, or leave the long question out.",
        )


def _together(
    model: Model, prompts: Sequence[Sequence[int]], max_tokens: int, cancelled: Callable[[], bool]
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    model.forget()
    tokens: list[int] = []
    for parts in _fill(prompts, model.batch_capacity):
        tokens += model.next_tokens(parts)
    live = list(range(len(prompts)))
    for count in range(max_tokens):
        if cancelled():
            raise Cancelled
        going = [(index, token) for index, token in zip(live, tokens, strict=True) if not model.is_end(token)]
        for index, token in going:
            answers[index].append(token)
        live = [index for index, _ in going]
        if not live or count + 1 == max_tokens:
            break
        tokens = model.next_tokens([Part(index, len(prompts[index]) + count, [token], True) for index, token in going])
    model.forget()
    return answers


def _fill(prompts: Sequence[Sequence[int]], capacity: int) -> Iterator[list[Part]]:
    """The prompts cut into decode calls of at most ``capacity`` tokens."""
    parts: list[Part] = []
    room = capacity
    for index, prompt in enumerate(prompts):
        at = 0
        while at < len(prompt):
            piece = prompt[at : at + room]
            parts.append(Part(index, at, piece, at + len(piece) == len(prompt)))
            at += len(piece)
            room -= len(piece)
            if room == 0:
                yield parts
                parts, room = [], capacity
    if parts:
        yield parts


__all__ = ["greedy"]
