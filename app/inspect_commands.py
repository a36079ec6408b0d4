"""What ``quench inspect`` asks workers: two models compared, the tokens of a text, a rendered chat template."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from typing import Any

from app import console, tables
from app.child import Child, run_job
from app.commands import Result, absolute, finished, tell_kernels
from app.inspect_messages import RenderTemplate, SplitText, TemplateRendered, TextSplit, Turn
from app.protocol import Command, CompareModels, Event, Failed
from converter.difference import Compared, ComparisonDone, MetadataDifference, TensorDifference
from converter.spec import ModelInfo, Progress, QuenchError

SECONDS = 60.0
"""The longest that a worker may take for an answer."""


def against(options: argparse.Namespace) -> Result:
    """Two models tensor by tensor, in a worker: it maps both, and a file that is cut short ends only that."""
    if options.tokenizer_check or options.pre_tokenizer or options.tokens is not None or options.prompt is not None:
        raise QuenchError(
            "usage",
            "Two models are compared by themselves.",
            "--against takes only --threads and --json.",
            "Ask for the rest in another call.",
            exit_status=2,
        )
    progress = console.Progress()
    metadata: list[MetadataDifference] = []
    tensors: list[TensorDifference] = []

    def show(event: object) -> None:
        tell_kernels(progress, event)
        if isinstance(event, Progress):
            progress.update(f"{console.size(event.rate)}/s  {event.label}", event.done, event.total, event.seconds_left)
        elif isinstance(event, Compared):
            metadata.extend(event.metadata)
            tensors.extend(event.tensors)

    command = CompareModels(absolute(options.path), absolute(options.against), options.threads)
    done = finished(run_job("compare", command, show), ComparisonDone)
    progress.clear()
    return Result(tables.comparison_data(done, metadata, tensors), tables.comparison(done, metadata, tensors))


def answers(info: ModelInfo, text: str | None, question: str | None) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """``tokens`` of ``text`` and the ``prompt`` for ``question``, as JSON and as rows for people."""
    path = absolute(info.path)
    questions: list[Command] = []
    if text is not None:
        questions.append(SplitText(1, path, text))
    if question is not None:
        questions.append(RenderTemplate(2, path, info.chat_template, (Turn("user", question),)))
    data: dict[str, Any] = {}
    rows = []
    for answer in _asked(questions):
        if isinstance(answer, TextSplit):
            data["tokens"] = [
                {"id": piece.id, "spelling": piece.spelling, "bytes": piece.data.hex(), "special": piece.special}
                for piece in answer.tokens
            ]
            told = " ".join(f"{piece.id}:{piece.spelling!r}" for piece in answer.tokens)
            rows.append(("tokens", f"{len(answer.tokens):,}: {told}"))
        elif isinstance(answer, TemplateRendered):
            prompt = "".join(part.text for part in answer.parts)
            special = [part.text for part in answer.parts if part.special]
            data["prompt"] = {
                "text": prompt, "characters": answer.characters, "tokens": answer.tokens, "special": special,
            }  # fmt: skip
            rows.append(("prompt", repr(prompt)))
    return data, rows


def _asked(questions: Sequence[Command]) -> list[Event]:
    """The answers of one worker. Raises the first that is an error, and one of our own for a worker that hangs."""
    found: list[Event] = []
    late = threading.Event()
    with Child("inspect") as child:

        def give_up() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(SECONDS, give_up)
        timer.daemon = True
        timer.start()
        try:
            for question in questions:
                child.send(question)
            for event in child.events():
                if isinstance(event, Failed):
                    raise event.to_error()
                found.append(event)
                if len(found) == len(questions):
                    return found
            error = child.wait().error
        finally:
            timer.cancel()
    if late.is_set() or error is None:
        detail = f"Nothing came back within {SECONDS:.0f} seconds."
        raise QuenchError("too_long", "This takes too long.", detail, "The file may be made to take for ever.")
    raise error
