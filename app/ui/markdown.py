"""Markdown as data: a text is cut into chunks, a chunk becomes blocks of styled runs. No widgets, no colours.

A streamed answer is only ever re-read from its last open chunk on, so the cost of an update does not grow with the
length of the answer. Inline syntax is read by Qt's own Markdown reader (md4c) in a scratch document; nothing in a
model's output is trusted: HTML stays text, only http and https links survive, pictures become words, nesting and line
lengths are bounded.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any, NamedTuple

from PySide6.QtCore import Qt
from PySide6.QtGui import QTextBlockFormat, QTextCharFormat, QTextDocument, QTextFormat, QTextListFormat, QTextTable

from app.marks import CALL, THOUGHT, THOUGHT_END, bare_calls, calls_at

MAX_LINE = 2_000
"""Characters of one line or paragraph laid out as one piece; longer ones are broken."""
MAX_CHUNK = 6_000
"""A chunk longer than this is closed at the next line, so that the open one stays cheap to read again."""
MAX_NESTING = 6
MAX_LEXED = 20_000
"""Characters of a code block that are coloured as a whole; beyond it the colours are found by pieces."""


class Run(NamedTuple):
    """A stretch of text in one style. ``role`` is a colour's name (``keyword``, ``string``, ``muted`` ...)."""

    text: str
    bold: bool = False
    italic: bool = False
    strike: bool = False
    code: bool = False
    link: str = ""
    role: str = ""


class Block(NamedTuple):
    """One paragraph on the page. ``kind``: paragraph, heading, item, code_head, code, rule, table, fold, label, note.

    ``marker`` is a list item's bullet or number, or the alignment of a table's columns (``lcr``). ``last`` closes a
    code block, ``thought`` is a part of a reasoning section.
    """

    kind: str
    runs: tuple[Run, ...] = ()
    level: int = 0
    marker: str = ""
    quote: int = 0
    rows: tuple[tuple[tuple[Run, ...], ...], ...] = ()
    last: bool = False
    thought: bool = False


class Chunk(NamedTuple):
    """A piece of the source that can be drawn on its own. ``kind``: text, code, rule, think, call.

    ``start``/``end`` are offsets in the text given to :func:`split`; ``body`` is the content without fences, tags or
    indentation (a tool call's with its marks); ``closed`` says that more text cannot change it; ``in_list`` that what
    follows may belong to a list.
    """

    kind: str
    start: int
    end: int
    body: str
    info: str = ""
    indent: int = 0
    closed: bool = True
    in_list: bool = False


_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])(?:\s+|$)")
_INLINE_CALL = "[TOOL_CALLS]"  # this one may follow the words in their line
_HEADING = re.compile(r"^ {0,3}#{1,6}(?:\s|$)")
_RULE = re.compile(r"^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$")
# Qt keeps its own structure in the text as these characters; a reply must not forge them. The rest are invisible
# controls and the bidirectional overrides that make code read differently from what it is.
_REPLACED = (0x0000, 0xFFFC, 0xFDD0, 0xFDD1, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_FORBIDDEN = dict.fromkeys(_REPLACED, "\ufffd") | {0x2028: "\n", 0x2029: "\n", 0x0B: "\n", 0x0C: "\n"}


def clean(text: str) -> str:
    """The text with line ends made ``\\n`` and characters that a document must not hold replaced."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_FORBIDDEN)


def with_open_thought(text: str) -> str:
    """Some templates open the thinking section in the prompt, so the reply holds only its end: put the start back."""
    end = THOUGHT_END.search(text)
    if end and not THOUGHT.search(text, 0, end.start()):
        return "<think>\n" + text
    return text


# ---- cutting ------------------------------------------------------------------------------------------------------


def split(text: str, *, plain: bool = False, in_list: bool = False, whole: bool = False) -> list[Chunk]:
    """Cut ``text`` into chunks that are drawn one by one; only the last may be open.

    With ``plain`` only code fences are seen, everything else is text as it was typed. ``in_list`` goes on after a
    chunk that said so. ``whole``: the text is a message from its beginning, which may be a tool call without a mark.
    """
    chunks: list[Chunk] = []
    position = 0
    while position < len(text):
        chunk = _next(text, position, in_list, plain, whole)
        if chunk is None:
            break
        in_list = bool(chunk.kind == "text" and _ITEM.match(chunk.body)) or (in_list and chunk.indent > 0)
        chunks.append(chunk._replace(in_list=in_list))
        position = chunk.end
    return chunks


def _next(text: str, start: int, in_list: bool, plain: bool, whole: bool) -> Chunk | None:
    while True:
        line, after = _line(text, start, 2 * MAX_LINE)
        if line.strip():
            break
        if after >= len(text) and not text.endswith("\n", start):
            return None
        if after == start:
            return None
        start = after
        if start >= len(text):
            return None
    fence = _FENCE.match(line)
    if fence and (after < len(text) or text.endswith("\n")):
        return _code(text, start, after, fence, in_list)
    if not plain:
        lead = start + len(line) - len(line.lstrip(" \t"))
        if THOUGHT.match(text, lead):
            return _think(text, start, lead)
        calls = calls_at(text, lead)
        if calls is None and whole and not text[:lead].strip():
            calls = bare_calls(text)
        if calls is not None:
            return Chunk("call", start, calls.end, text[lead : calls.end], closed=calls.closed)
        if _RULE.match(line) and after <= len(text) and text[start:after].endswith("\n"):
            return Chunk("rule", start, after, "")
    return _text(text, start, in_list, plain)


def _line(text: str, start: int, limit: int = sys.maxsize) -> tuple[str, int]:
    """The line from ``start`` on, cut after ``limit`` characters, and where the next one (or its rest) begins."""
    last = min(len(text), start + limit)
    end = text.find("\n", start, last)
    return (text[start:last], last) if end < 0 else (text[start:end], end + 1)


def _code(text: str, start: int, body_start: int, fence: re.Match[str], in_list: bool) -> Chunk:
    margin, mark, info = fence.group(1).expandtabs(4), fence.group(2), fence.group(3).strip()
    indent = 1 if in_list and margin else 0
    closing = re.compile(rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
    lines: list[str] = []
    position = body_start
    while position < len(text):
        line, after = _line(text, position)
        if closing.match(line) and (after < len(text) or text.endswith("\n")):
            return Chunk("code", start, after, "\n".join(lines), info, indent)
        if after >= len(text) and re.match(rf"^[ \t]*{re.escape(mark[0])}+$", line):
            break  # the closing fence is on its way: not a line of code
        lines.append(_dedent(line, len(margin)))
        position = after
    return Chunk("code", start, len(text), "\n".join(lines), info, indent, closed=False)


def _think(text: str, start: int, lead: int) -> Chunk:
    opening = THOUGHT.match(text, lead)
    body_start = opening.end() if opening else lead
    end = THOUGHT_END.search(text, body_start)
    if end is None:
        return Chunk("think", start, len(text), text[body_start:].strip(), closed=False)
    after = end.end() + len(text[end.end() : end.end() + 40]) - len(text[end.end() : end.end() + 40].lstrip(" \t"))
    after += 1 if text[after : after + 1] == "\n" else 0
    return Chunk("think", start, after, text[body_start : end.start()].strip())


def _dedent(line: str, width: int) -> str:
    lead = len(line) - len(line.lstrip(" \t"))
    return line[min(lead, width) :]


def _text(text: str, start: int, in_list: bool, plain: bool) -> Chunk:
    first, _ = _line(text, start, 2 * MAX_LINE)
    nature = "plain" if plain else _nature(first)
    margin = len(first) - len(first.lstrip(" "))
    indent = 1 if in_list and margin >= 2 and nature not in {"item", "plain"} else 0
    lines: list[str] = []
    size = 0
    position = start
    blank = False
    while position < len(text):
        line, after = _line(text, position, 2 * MAX_LINE)
        whole = after < len(text) or text.endswith("\n")
        if len(line) > MAX_LINE:
            if lines:
                return Chunk("text", start, position, "\n".join(lines), indent=indent)
            cut = line.rfind(" ", MAX_LINE // 2, MAX_LINE) + 1 or MAX_LINE
            return Chunk("text", start, position + cut, line[:cut], indent=indent)
        if not line.strip():
            if not whole:
                break
            if nature != "item":
                return Chunk("text", start, after, "\n".join(lines), indent=indent)
            blank = True
            lines.append("")
            position = after
            continue
        call = -1 if plain else line.find(_INLINE_CALL)
        if call > 0 or (call == 0 and lines):
            lines += [line[:call]] if call else []
            return Chunk("text", start, position + call, "\n".join(lines).rstrip("\n"), indent=indent)
        if lines and (whole or not _FENCE.match(line)) and _breaks(line, nature, blank):
            return Chunk("text", start, position, "\n".join(lines).rstrip("\n"), indent=indent)
        blank = False
        lines.append(_dedent(line, margin) if indent else line)
        size += len(line)
        position = after
        closes = not plain and whole and len(lines) == 1 and _HEADING.match(line)
        if closes or (size > MAX_CHUNK and whole):
            return Chunk("text", start, position, "\n".join(lines), indent=indent)
    return Chunk("text", start, len(text), "\n".join(lines).rstrip("\n"), indent=indent, closed=False)


def _nature(line: str) -> str:
    """What a chunk is that begins with this line: item, table, quote or prose."""
    bare = line.lstrip()
    if _ITEM.match(line):
        return "item"
    return "table" if bare.startswith("|") else "quote" if bare.startswith(">") else "prose"


def _breaks(line: str, nature: str, blank: bool) -> bool:
    """Does this line begin something new, so that the chunk of this nature before it is closed?"""
    if _FENCE.match(line):
        return True
    if nature == "plain":
        return False
    if _HEADING.match(line) or THOUGHT.match(line.lstrip(" \t")) or CALL.match(line.lstrip(" \t")):
        return True
    if nature == "item":
        if line.startswith((" ", "\t")):
            return False
        return (blank or line.startswith(("|", ">"))) and not _ITEM.match(line)
    if nature == "table":
        return "|" not in line
    begins = _nature(line)
    return begins not in {"prose", nature}


# ---- reading ------------------------------------------------------------------------------------------------------


class _Inert(QTextDocument):
    """A document that loads nothing: a picture's address is otherwise read, from the disk too."""

    def loadResource(self, kind: int, name: Any) -> Any:
        return None


_FEATURES = QTextDocument.MarkdownFeature.MarkdownDialectGitHub | QTextDocument.MarkdownFeature.MarkdownNoHTML
_BOLD = 600
_BULLETS = {QTextListFormat.Style.ListDisc, QTextListFormat.Style.ListCircle, QTextListFormat.Style.ListSquare}
_IMAGE_ALT = QTextFormat.Property.ImageAltText
_QUOTE = QTextFormat.Property.BlockQuoteLevel
_CODE_LANGUAGE = QTextFormat.Property.BlockCodeLanguage
_CODE_FENCE = QTextFormat.Property.BlockCodeFence


@lru_cache(maxsize=1)
def _scratch() -> _Inert:
    document = _Inert()
    document.setUndoRedoEnabled(False)
    return document


_PROSE = re.compile(r"[^\W\d_](?:[^\W_]|[,;.!?'\"()\u2013-\u201d\u2026-]| (?! ))*")


def parse(source: str, *, open_end: bool = False) -> list[Block]:
    """Blocks of one text chunk. With ``open_end`` unfinished emphasis and code at the end are closed for the eye."""
    if _PROSE.fullmatch(source) and "www." not in source.lower():
        return [Block("paragraph", (Run(source.rstrip(" ")),))]  # nothing in it means more than it says
    document = _scratch()
    document.setMarkdown(_prepare(settle(source) if open_end else source), _FEATURES)
    tables = [frame for frame in document.rootFrame().childFrames() if isinstance(frame, QTextTable)]
    blocks: list[Block] = []
    block = document.begin()
    while block.isValid():
        table = next((t for t in tables if t.firstPosition() <= block.position() <= t.lastPosition()), None)
        if table is not None:
            blocks.append(Block("table", rows=_rows(table), marker=_sides(table)))
            block = document.findBlock(table.lastPosition()).next()
            continue
        runs = _runs(block)
        read = _block(block, block.blockFormat(), runs)
        if read.runs or read.kind == "rule":
            blocks.append(read)
        block = block.next()
    document.clear()
    return blocks


def _block(block: Any, form: QTextBlockFormat, runs: tuple[Run, ...]) -> Block:
    quote = min(form.intProperty(_QUOTE), MAX_NESTING)
    if form.hasProperty(QTextFormat.Property.BlockTrailingHorizontalRulerWidth):
        return Block("rule")
    if form.headingLevel():
        return Block("heading", runs, level=form.headingLevel(), quote=quote)
    items = block.textList()
    if form.hasProperty(_CODE_LANGUAGE) or form.hasProperty(_CODE_FENCE) or form.nonBreakableLines():
        level = min(items.format().indent(), MAX_NESTING) if items else 0
        return Block("code", tuple(Run(r.text, code=True) for r in runs), level=level, quote=quote)
    if items:
        bullet = items.format().style() in _BULLETS
        marker = "•" if bullet else items.itemText(block)
        if form.marker() == QTextBlockFormat.MarkerType.Checked:
            marker = "☑"
        elif form.marker() == QTextBlockFormat.MarkerType.Unchecked:
            marker = "☐"
        return Block("item", runs, level=min(items.format().indent(), MAX_NESTING), marker=marker, quote=quote)
    level = min(form.indent(), MAX_NESTING)
    return Block("paragraph", runs, level=level, quote=quote)


def _rows(table: QTextTable) -> tuple[tuple[tuple[Run, ...], ...], ...]:
    return tuple(
        tuple(_runs(table.cellAt(row, column).firstCursorPosition().block()) for column in range(table.columns()))
        for row in range(table.rows())
    )


def _sides(table: QTextTable) -> str:
    """The alignment of each column as a letter: l, c or r."""
    row = min(1, table.rows() - 1)  # Qt's reader leaves the heading as it is
    flags = [table.cellAt(row, i).firstCursorPosition().blockFormat().alignment() for i in range(table.columns())]
    return "".join(
        "r" if flag & Qt.AlignmentFlag.AlignRight else "c" if flag & Qt.AlignmentFlag.AlignHCenter else "l"
        for flag in flags
    )


def _runs(block: Any) -> tuple[Run, ...]:
    runs: list[Run] = []
    iterator = block.begin()
    while not iterator.atEnd():
        fragment = iterator.fragment()
        form = fragment.charFormat()
        runs.append(_image(form) if form.isImageFormat() else _run(fragment.text(), form))
        iterator += 1
    return tuple(run for run in runs if run.text)


def _run(text: str, form: QTextCharFormat) -> Run:
    link = form.anchorHref() if form.isAnchor() else ""
    return Run(
        text,
        bold=form.fontWeight() >= _BOLD,
        italic=form.fontItalic(),
        strike=form.fontStrikeOut(),
        code=form.fontFixedPitch(),
        link=link if safe_link(link) else "",
    )


def _image(form: QTextCharFormat) -> Run:
    """A picture as words: it is never loaded; a web address can be opened by hand."""
    address = form.toImageFormat().name()
    words = str(form.property(_IMAGE_ALT) or "").strip() or address
    return Run(f"[{words}]", italic=True, role="muted", link=address if safe_link(address) else "")


def safe_link(address: str) -> bool:
    """Only addresses of the web may be opened from a model's words."""
    return address.lower().startswith(("http://", "https://")) and len(address) <= 2_000


_NESTED = re.compile(r"^(?:[ \t]*(?:>|(?:[-*+]|\d{1,9}[.)])(?=[ \t])))+", re.MULTILINE)
_MARK = re.compile(r"[ \t]*(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))")
_DEEP = re.compile(r"^[ \t]{25,}", re.MULTILINE)
_LATEX = re.compile(
    r"(`+)(?:(?!\1).)+?\1|\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|(?<![\\$\w])\$(?=[^\s$])[^$\n`]*?(?<=[^\s\\$])\$(?![\d$])",
    re.DOTALL,
)
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def _prepare(source: str) -> str:
    source = _NESTED.sub(_shallow, source)
    source = _DEEP.sub(" " * 24, source)
    return _LATEX.sub(_keep_formula, source) if "$" in source or "\\" in source else source


def _shallow(match: re.Match[str]) -> str:
    marks = _MARK.findall(match.group())
    return match.group() if len(marks) <= MAX_NESTING else "".join(marks[:MAX_NESTING]) + " "


def _keep_formula(match: re.Match[str]) -> str:
    """A formula is shown as it was written: every mark in it is escaped. Inline code is left alone."""
    if match.group(1):
        return match.group()
    return _PUNCTUATION.sub(r"\\\1", match.group())


def settle(source: str) -> str:
    """Close what the stream has not closed yet, so that half a ``**word`` does not flash its asterisks."""
    line = source.rsplit("\n", 1)[-1]
    if line.count("`") % 2:
        return source + "`" if line.rstrip() != line or not line.endswith("`") else source[:-1]
    bare = re.sub(r"`[^`]*`", "", line)
    if bare.count("**") % 2:
        return source.rstrip("* ") + ("**" if not bare.rstrip("* ").endswith("**") and bare.rstrip("* ") else "")
    return source


# ---- code ---------------------------------------------------------------------------------------------------------

_ROLES = (
    # pygments' token path prefix -> the role of our colour table; the first match wins
    ("Token.Comment", "comment"),
    ("Token.Keyword.Type", "type"),
    ("Token.Keyword", "keyword"),
    ("Token.Operator.Word", "keyword"),
    ("Token.Literal.String", "string"),
    ("Token.Literal.Number", "number"),
    ("Token.Name.Function", "function"),
    ("Token.Name.Class", "type"),
    ("Token.Name.Builtin", "function"),
    ("Token.Name.Decorator", "function"),
    ("Token.Name.Tag", "keyword"),
    ("Token.Name.Attribute", "type"),
    ("Token.Name.Constant", "number"),
    ("Token.Generic.Deleted", "deleted"),
    ("Token.Generic.Inserted", "string"),
    ("Token.Generic.Heading", "keyword"),
)


@lru_cache(maxsize=256)
def _role(token: Any) -> str:
    path = str(token)
    return next((role for prefix, role in _ROLES if path.startswith(prefix)), "")


@lru_cache(maxsize=32)
def _lexer(language: str) -> Any:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def highlight(code: str, language: str) -> list[tuple[Run, ...]]:
    """The lines of ``code`` as coloured runs; an unknown language is left plain. Lines are cut at ``MAX_LINE``."""
    lexer = _lexer(language.lower()) if language and len(language) < 30 else None
    if lexer is None:
        return [_plain(piece) for line in code.split("\n") for piece in _pieces(line)]
    lines: list[tuple[Run, ...]] = []
    line: list[Run] = []
    for token, value in lexer.get_tokens(code):
        role = _role(token)
        for index, part in enumerate(value.split("\n")):
            if index:
                lines.append(tuple(line))
                line = []
            if part:
                if line and line[-1].role == role:
                    line[-1] = line[-1]._replace(text=line[-1].text + part)
                else:
                    line.append(Run(part, code=True, role=role))
    lines.append(tuple(line))
    if any(len(part) > MAX_LINE for part in code.split("\n")):
        return [_plain(piece) for line_text in code.split("\n") for piece in _pieces(line_text)]
    return lines


def _plain(text: str) -> tuple[Run, ...]:
    return (Run(text, code=True),) if text else ()


def _pieces(line: str) -> list[str]:
    return [line[i : i + MAX_LINE] for i in range(0, len(line), MAX_LINE)] or [""]


class CodeColours:
    """Colours of a code block that is still being written: only the last stretch is read again.

    Whole lines far above the end keep what they were given; when the block closes, a block of a sensible size is read
    once more as a whole, which mends strings and comments that the stretches cut.
    """

    STRETCH = 8

    def __init__(self, language: str) -> None:
        self.language = language
        self._done: list[tuple[Run, ...]] = []
        self._taken = 0

    def lines(self, code: str, *, closed: bool) -> list[tuple[Run, ...]]:
        if closed and len(code) <= MAX_LEXED:
            return highlight(code, self.language)
        rest = code[self._taken :]
        while rest.count("\n") > 2 * self.STRETCH:
            head = "\n".join(rest.split("\n", self.STRETCH)[: self.STRETCH])
            self._done += highlight(head, self.language)
            self._taken += len(head) + 1
            rest = code[self._taken :]
        return self._done + highlight(rest, self.language)
