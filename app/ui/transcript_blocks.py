"""What stands in a message: its text as blocks that the transcript writes. Knows no document and no widget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from app.ui.markdown import Block, Chunk, CodeColours, Run, clean, parse, split, with_open_thought

Translate = Callable[[str], str]

MAX_SHOWN = 400_000
"""Characters of one message that are drawn; the whole text stays in the store."""
FOLDED_LINES = 24
"""A file in a question that is longer than this is folded."""
WHOLE_ROWS = 8
"""A streamed table longer than this grows by whole rows: its layout is done anew for every change."""


class Entry(NamedTuple):
    """A message to show. ``place`` is (position, count) among its versions; ``unfinished`` if it can be continued.

    ``mark`` stands above it: a line, and what it unfolds to.
    """

    key: int
    role: str
    text: str
    name: str = ""
    note: str = ""
    place: tuple[int, int] = (1, 1)
    unfinished: bool = False
    mark: tuple[str, str] = ("", "")


@dataclass
class Message:
    """What the transcript knows of one message. ``start`` is where its first block stands in the document."""

    key: int
    role: str
    name: str
    text: str
    note: str = ""
    streaming: bool = False
    shown: str = ""
    place: tuple[int, int] = (1, 1)
    unfinished: bool = False
    mark: tuple[str, str] = ("", "")
    start: int = 0
    open_from: int = 0
    in_list: bool = False
    open: list[tuple[Block, int]] = field(default_factory=list)
    unfolded: set[int] = field(default_factory=set)
    parsed: tuple[tuple[str, bool], list[Block]] | None = None
    colours: dict[int, CodeColours] = field(default_factory=dict)


def blocks_of(chunk: Chunk, message: Message, tr: Translate, *, plain: bool, final: bool) -> list[Block]:
    """The blocks of one chunk. ``plain``: no Markdown (a question); ``final``: nothing will be added to it."""
    if chunk.kind == "rule":
        return [Block("rule")]
    offset = message.open_from + chunk.start
    if chunk.kind == "think":
        return _thought(chunk, message, tr, offset, final=final)
    if chunk.kind == "code":
        return _code(chunk, message, tr, offset, plain=plain, final=final)
    if plain:
        return [Block("paragraph", (Run(chunk.body.replace("\n", "\u2028")),))]
    body = chunk.body
    if not final and body.startswith("|") and body.count("\n") > WHOLE_ROWS:
        body = body[: body.rindex("\n")]
    blocks = _parsed(message, body, final)
    if chunk.indent:
        blocks = [block._replace(level=block.level + chunk.indent) for block in blocks]
    return blocks


MARK = -1
"""The place of a message's mark among its folds."""


def mark_blocks(message: Message) -> list[Block]:
    """What stands above a message: a rule and a line, which may unfold."""
    line, text = message.mark
    if not line:
        return []
    if not text:
        return [Block("rule"), Block("note", (Run(line, role="muted"),))]
    unfolded = MARK in message.unfolded
    head = Run(f"{'▾' if unfolded else '▸'} {line}", role="muted", link=f"quench:fold/{message.key}/{MARK}")
    blocks = [Block("rule"), Block("fold", (head,))]
    if unfolded:
        blocks.append(Block("paragraph", (Run(text.replace("\n", "\u2028")),), thought=True))
    return blocks


def note_block(message: Message, tr: Translate, *, last: bool) -> Block | None:
    """The line under a message: its versions, its note, and how to go on with an answer that was cut short."""
    runs: list[Run] = []
    at, count = message.place
    if count > 1:
        before, after = f"quench:previous/{message.key}/0", f"quench:next/{message.key}/0"
        runs.append(Run("‹\u2002", bold=True, link=before) if at > 1 else Run("‹\u2002", role="muted"))
        runs.append(Run(f"{at:n} / {count:n}", role="muted"))
        runs.append(Run("\u2002›", bold=True, link=after) if at < count else Run("\u2002›", role="muted"))
    parts = [message.note] if message.note else []
    if len(message.text) > MAX_SHOWN:
        parts.append(tr("{0} more characters are not shown").format(f"{len(message.text) - MAX_SHOWN:n}"))
    if parts:
        runs.append(Run(("\u2003" if runs else "") + " · ".join(parts), role="muted"))
    if message.unfinished and last:
        runs.append(Run("\u2003" if runs else "", role="muted"))
        runs.append(Run(tr("Continue"), link=f"quench:continue/{message.key}/0"))
    return Block("note", tuple(run for run in runs if run.text)) if runs else None


def _parsed(message: Message, body: str, final: bool) -> list[Block]:
    if message.parsed is None or message.parsed[0] != (body, final):
        message.parsed = ((body, final), parse(body, open_end=not final))
    return message.parsed[1]


def _thought(chunk: Chunk, message: Message, tr: Translate, offset: int, *, final: bool) -> list[Block]:
    unfolded = offset in message.unfolded
    words = len(chunk.body.split())
    if not words and final:
        return []
    text = tr("Thought, {0} words") if final else tr("Thinking … {0} words")
    head = f"{'▾' if unfolded else '▸'} {text.format(f'{words:n}')}"
    blocks = [Block("fold", (Run(head, role="muted", link=f"quench:fold/{message.key}/{offset}"),))]
    if unfolded:
        for inner in split(chunk.body):
            if inner.kind == "text":
                blocks += [block._replace(thought=True) for block in parse(inner.body)]
            else:
                lines = "\u2028".join(inner.body.split("\n"))
                blocks.append(Block("paragraph", (Run(lines, code=True),), thought=True))
    return blocks


def _code(chunk: Chunk, message: Message, tr: Translate, offset: int, *, plain: bool, final: bool) -> list[Block]:
    language = chunk.info.split(" ")[0].strip("{}.") if chunk.info else ""
    title = chunk.info.split(" ", 1)[1] if plain and " " in chunk.info else language or tr("text")
    lines = chunk.body.count("\n") + 1
    folded = plain and lines > FOLDED_LINES and offset not in message.unfolded
    runs = [Run(title[:80] + "    ", role="muted")]
    if plain and lines > FOLDED_LINES:
        text = tr("Show {0} lines").format(lines) if folded else tr("Fold")
        runs.append(Run(text, link=f"quench:fold/{message.key}/{offset}"))
        runs.append(Run("    "))
    runs.append(Run(tr("Copy"), link=f"quench:copy/{message.key}/{offset}"))
    head = Block("code_head", tuple(runs), level=chunk.indent, last=folded)
    if folded:
        return [head]
    if final and offset not in message.colours:
        coloured = CodeColours(language).lines(chunk.body, closed=True)
    else:
        coloured = message.colours.setdefault(offset, CodeColours(language)).lines(chunk.body, closed=final)
    body = [Block("code", runs_of, level=chunk.indent) for runs_of in coloured]
    if final and body:
        body[-1] = body[-1]._replace(last=True)
    return [head, *body]


def shown_of(text: str) -> str:
    """What is drawn of a message's text."""
    return with_open_thought(clean(text[:MAX_SHOWN]))
