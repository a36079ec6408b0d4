"""What stands in a message: its text as blocks that the transcript writes. Knows no document and no widget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from app.marks import Call, bare_calls, calls_at
from app.ui.markdown import Block, Chunk, CodeColours, Run, clean, highlight, parse, split, with_open_thought

Translate = Callable[[str], str]

MAX_SHOWN = 400_000
"""Characters of one message that are drawn; the whole text stays in the store."""
FOLDED_LINES = 24
"""A file in a question that is longer than this is folded."""
CALL_SHOWN = 8_000
"""Characters of a tool call's arguments that are drawn."""
WHOLE_ROWS = 8
"""A streamed table longer than this grows by whole rows: its layout is done anew for every change."""


class Entry(NamedTuple):
    """A message to show. ``place`` is (position, count) among its versions; ``unfinished`` if it can be continued;
    ``seed`` is the one that an answer was drawn with, -1 for none; ``json``: the answer was held to a JSON schema."""

    key: int
    role: str
    text: str
    name: str = ""
    note: str = ""
    place: tuple[int, int] = (1, 1)
    unfinished: bool = False
    seed: int = -1
    json: bool = False


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
    seed: int = -1
    json: bool = False
    call: str = ""  # where its last tool call stands, as in the links of the card
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
    if chunk.kind == "call":
        return _call(chunk, message, tr, offset, final=final)
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
    if message.seed >= 0 and not message.streaming:
        runs.append(Run(" · " if runs else "", role="muted"))
        runs.append(Run(tr("seed {0}").format(message.seed), role="muted", link=f"quench:seed/{message.key}/0"))
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


def _call(chunk: Chunk, message: Message, tr: Translate, offset: int, *, final: bool) -> list[Block]:
    """A card for each tool call: its name, its arguments, and what a person can do with it. Nothing is ever run."""
    found = calls_at(chunk.body, 0) or bare_calls(chunk.body)
    calls = found.calls if found is not None else (Call("", chunk.body),)
    blocks: list[Block] = []
    for index, call in enumerate(calls):
        title = tr("Tool call: {0}").format(call.name) if call.name else tr("Tool call")
        runs = [Run(title, bold=True)]
        if final or call.name:
            runs.append(Run("\u2002" + tr("not run"), role="muted"))
            for words, verb in ((tr("Copy"), "callcopy"), (tr("Answer as the tool"), "tool")):
                runs += [Run("    "), Run(words, link=f"quench:{verb}/{message.key}/{offset}.{index}")]
        else:
            runs.append(Run("\u2002" + tr("being written …"), role="muted"))
        blocks.append(Block("code_head", tuple(runs)))
        shown = call.arguments[:CALL_SHOWN]
        body = [Block("code", line) for line in highlight(shown, "json" if call.name else "")]
        more = len(call.arguments) - len(shown)
        if more:
            words = tr("{0} more characters are not shown; Copy has them all").format(f"{more:n}")
            body.append(Block("code", (Run(words, code=True, role="comment"),)))
        body[-1] = body[-1]._replace(last=True)
        blocks += body
    return blocks


def call_of(message: Message, place: str) -> Call | None:
    """The tool call that a link of its card stands for: ``place`` is offset.index."""
    offset, _, index = place.partition(".")
    chunks = split(message.shown[int(offset) :], whole=offset == "0")
    if not chunks or chunks[0].kind != "call":
        return None
    found = calls_at(chunks[0].body, 0) or bare_calls(chunks[0].body)
    return found.calls[int(index)] if found is not None and int(index) < len(found.calls) else None


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


JSON_BEGINS = ("{", "[", '"')
JSON_FENCE = "```json\n"
"""No line of a JSON text can close this."""


def shown_of(text: str, json: bool = False) -> str:
    """What is drawn of a message's text; ``json``: as code, not as Markdown, if it begins like JSON."""
    if json and text.lstrip().startswith(JSON_BEGINS):
        return JSON_FENCE + clean(text[:MAX_SHOWN])
    return with_open_thought(clean(text[:MAX_SHOWN]))
