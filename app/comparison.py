"""The same prompts answered by several models, and how far each is from the first on the first one's answers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from app import paths
from app.memory_messages import Memory
from app.protocol import ChatMessage, LoadOptions, Sampling, ScoredToken
from app.sessions import ChatSession


class Column(msgspec.Struct, frozen=True):
    """One model's answer. ``kld`` (nats), ``top1`` and ``tokens`` are over the reference's answer, teacher-forced;

    ``first_divergence`` is the first of its tokens where this model would greedily have gone elsewhere, or -1.
    """

    path: str
    text: str
    first_divergence: int
    kld: float
    top1: float
    tokens_per_second: float
    first_token: float
    memory: Memory
    tokens: tuple[ScoredToken, ...] = ()


def compare(
    models: Sequence[str],
    prompts: Sequence[str],
    *,
    max_tokens: int = 256,
    context: int = 0,
    threads: int = 0,
    on_step: Callable[[str, float, float], None] = lambda label, done, total: None,
) -> list[list[Column]]:
    """Ask every model every prompt greedily; the first model is the reference. Returns one list of columns a prompt.

    Models run one after another, so speeds are solo speeds. Raises QuenchError as :class:`ChatSession` does.
    """
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    options = LoadOptions(context=context, threads=threads)
    answers: list[list[Column]] = [[] for _ in prompts]
    with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="compare-") as folder:
        for index, path in enumerate(models):
            on_step(Path(path).name, index, len(models))
            with ChatSession(path, options) as session:
                for number, prompt in enumerate(prompts):
                    scores = str(Path(folder) / f"reference-{number}.logp")
                    messages = (ChatMessage("user", prompt),)
                    reply = session.generate(messages, sampling)
                    if index == 0:
                        scored = session.score(messages, reply.text, write=scores)
                    else:
                        scored = session.score(messages, answers[number][0].text, against=scores)
                    column = Column(
                        path,
                        reply.text,
                        scored.first_divergence if index else -1,
                        scored.mean_kld,
                        scored.top1,
                        reply.end.tokens_per_second,
                        reply.end.first_token,
                        reply.end.memory,
                        scored.tokens,
                    )
                    answers[number].append(column)
    return answers
