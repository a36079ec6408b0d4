"""Plan against truth: what was said before loading, and what the chat worker truly took with a full context.

    python -m tests.bench.memory MODEL.gguf [...]

Each model in several contexts and cache types, with and without flash attention. The truth is the weights in the file
and the anonymous memory of the worker's process after a prompt that fills its context.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from app.child import Child
from app.memory_messages import Memory, MemoryPlan, in_words
from app.protocol import ChatMessage, Count, Counted, Failed, Generate, Load, Loaded, LoadOptions, Replied
from app.protocol import Sampling as How

CASES = (
    LoadOptions(context=1024, threads=1),
    LoadOptions(context=2048, threads=1),
    LoadOptions(context=2048, threads=1, kv_type="q8_0"),
    LoadOptions(context=2048, threads=1, kv_type="q4_0"),
    LoadOptions(context=2048, threads=1, flash_attention="off"),
)


class Row(NamedTuple):
    """One load; ``error`` is why there is no truth, if there is none."""

    path: str
    options: LoadOptions
    plan: MemoryPlan | None
    memory: Memory | None
    error: str = ""

    @property
    def real(self) -> int:
        return self.memory.weights + self.memory.anonymous if self.memory is not None else 0

    @property
    def ratio(self) -> float:
        return self.plan.total / self.real if self.plan is not None and self.real else 0.0


def measure(path: str, options: LoadOptions) -> Row:
    """Load ``path``, fill its context, and compare."""
    with Child("chat") as child:
        child.send(Load(path, options))
        plan: MemoryPlan | None = None
        text = "bear and lamp " * options.context
        for event in child.events():
            if isinstance(event, Failed):
                return Row(path, options, plan, None, f"{event.title} {event.detail}".splitlines()[0])
            if isinstance(event, Loaded):
                plan = event.plan
                child.send(Count(1, (), "bear and lamp " * 100))
            elif isinstance(event, Counted):
                words = (options.context - 90) * 100 // max(1, event.tokens)
                text = "bear and lamp " * words
                child.send(Generate(2, (ChatMessage("user", text),), How(temperature=0, max_tokens=4)))
            elif isinstance(event, Replied):
                return Row(path, options, plan, event.memory)
    return Row(path, options, plan, None, "the worker ended")


def line(row: Row) -> str:
    """A row of the table."""
    o = row.options
    head = f"| {Path(row.path).stem} | {o.context} | {o.kv_type} | {'no' if o.flash_attention == 'off' else 'yes'} "
    if row.plan is None or row.memory is None:
        return f"{head}| {row.error} |"
    p, m = row.plan, row.memory
    parts = ((p.weights, m.weights), (p.repacked, m.repacked), (p.kv, m.kv), (p.compute, m.compute))
    told = " | ".join(f"{mib(plan)} / {mib(real)}" for plan, real in parts)
    return f"{head}| {told} | {in_words(p.total)} / {in_words(row.real)} | {row.ratio:.3f} |"


HEADER = (
    "| model | context | cache | flash | weights | repacked | KV | compute | total, plan / truth | ratio |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def mib(count: int) -> str:
    return f"{count / (1 << 20):.1f}"


def main(paths: list[str]) -> None:
    print(HEADER)
    for path in paths:
        for options in CASES:
            print(line(measure(path, options)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
