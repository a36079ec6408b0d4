"""Looks into model files for the inspect window: long values, tokens of a text, a rendered chat template.

Lives as long as the window; what a hostile file breaks is only this process. Vocabularies stay loaded: a text is split
at every keystroke.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.inspect_messages import (
    ITEM_CHARACTERS,
    METADATA_BYTES,
    PAGE,
    PAGE_CHARACTERS,
    PREVIEW_CHARACTERS,
    PREVIEW_ITEMS,
    PROMPT_LIMIT,
    TEXT_LIMIT,
    MetadataEntry,
    MetadataRead,
    PromptPart,
    ReadMetadata,
    ReadValue,
    RenderTemplate,
    SplitText,
    TemplateRendered,
    TextSplit,
    TokenPiece,
    ValueRead,
)
from app.protocol import ChatMessage, Event, failed
from app.workers.runtime import Connection
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.sources.gguf_header import Header

_KEPT = 2
"""Vocabularies that stay loaded: the model's, and one that it is compared with."""
_SPECIAL = re.compile(r"<[^<>\s]{1,60}>|\[[A-Z_]{2,40}\]")
"""How special tokens look where no vocabulary can say which they are."""


class Splitter(Protocol):
    """A vocabulary, the engine's or a folder's."""

    words: str
    size: int

    def split(self, text: str, special: bool, ends: bool) -> list[TokenPiece]: ...

    def named(self) -> dict[str, str]: ...

    def close(self) -> None: ...


def serve(connection: Connection) -> None:
    """Answer ReadMetadata, ReadValue, SplitText and RenderTemplate until the parent leaves."""
    vocabularies = _Vocabularies()
    for command in connection.commands():
        if not isinstance(command, ReadMetadata | ReadValue | SplitText | RenderTemplate):
            continue
        try:
            connection.send(_answer(vocabularies, command))
        except QuenchError as error:
            connection.send(failed(error, command.request))
        except OSError as error:
            trouble = QuenchError("unreadable", "The file cannot be read.", str(error), "Check that it is still there.")
            connection.send(failed(trouble, command.request))


def _answer(vocabularies: _Vocabularies, command: ReadMetadata | ReadValue | SplitText | RenderTemplate) -> Event:
    if isinstance(command, ReadMetadata):
        return _metadata(command)
    if isinstance(command, ReadValue):
        return _page(command)
    if isinstance(command, RenderTemplate):
        return _rendered(vocabularies, command)
    vocabulary = vocabularies.get(command.path)
    pieces = vocabulary.split(command.text[:TEXT_LIMIT], command.special, command.ends)
    return TextSplit(command.request, tuple(pieces), vocabulary.size, vocabulary.words)


# ---- values ----


def _header(path: str) -> Header:
    from converter.sources.files import ByteFile
    from converter.sources.gguf_header import read_header

    file = ByteFile(Path(path))
    try:
        return read_header(file)
    finally:
        file.close()


def _metadata(command: ReadMetadata) -> MetadataRead:
    from converter.sources.gguf_header import STRING, VALUE_TYPES

    header = _header(command.path)
    entries: list[MetadataEntry] = []
    size = 0
    for key, entry in header.values.items():
        kind = VALUE_TYPES[entry.type][0]
        items, value = entry.count, header.preview(key, PREVIEW_ITEMS, PREVIEW_CHARACTERS)
        if entry.item_type is not None:
            kind = f"{kind} {VALUE_TYPES[entry.item_type][0]}"
            whole = items <= PREVIEW_ITEMS and not any(map(_is_long, value))
            value = [item if isinstance(item, bool | int) else _item(item, kind) for item in value]
        elif entry.type == STRING:
            items = len(bytes(header.data[entry.start : entry.stop]).decode("utf-8", "replace"))
            whole = len(value) == items
        else:
            whole = True
            value = _item(value, kind) if isinstance(value, float) else value
        size += len(key) + (sum(len(str(item)) for item in value) if isinstance(value, list) else len(str(value))) + 64
        if size > METADATA_BYTES:
            break
        entries.append(MetadataEntry(key, kind, items, value, whole))
    return MetadataRead(command.request, tuple(entries), len(header.values) - len(entries))


def _is_long(item: object) -> bool:
    return isinstance(item, str | bytes) and (isinstance(item, bytes) or len(item) > ITEM_CHARACTERS)


def _page(command: ReadValue) -> ValueRead:
    from converter.sources.gguf_header import STRING, VALUE_TYPES

    header = _header(command.path)
    entry = header.values.get(command.key)
    if entry is None:
        raise QuenchError("no_such_key", "The file has no such key any more.", command.key[:200], "Inspect it again.")
    start = max(0, command.start)
    kind = VALUE_TYPES[entry.type][0]
    if entry.item_type is not None:
        items = header.items(command.key, start, PAGE)
        name = f"{kind} {VALUE_TYPES[entry.item_type][0]}"
        return ValueRead(command.request, name, start, entry.count, tuple(_item(item, name) for item in items))
    if entry.type == STRING:
        text = bytes(header.data[entry.start : entry.stop]).decode("utf-8", "replace")
        return ValueRead(command.request, kind, start, len(text), (text[start : start + PAGE_CHARACTERS],))
    return ValueRead(command.request, kind, 0, 1, (_item(header.value(command.key), kind),))


def _item(value: object, kind: str) -> str:
    """A value as text: numbers in the fewest digits that give them back, text cut at :data:`ITEM_CHARACTERS`."""
    if isinstance(value, bytes):
        value = value[: 4 * ITEM_CHARACTERS].decode("utf-8", "replace")
    if isinstance(value, float):
        import numpy as np

        return str(np.float32(value)) if kind.endswith("FLOAT32") else repr(value)
    text = str(value)
    return text if len(text) <= ITEM_CHARACTERS else text[:ITEM_CHARACTERS] + "…"


# ---- tokens ----


class _Vocabularies:
    """The vocabularies used last, by path, date and size."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, int, int], Splitter] = {}

    def get(self, path: str) -> Splitter:
        place = Path(path)
        status = place.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        found = self._loaded.pop(key, None)
        if found is None:
            while len(self._loaded) >= _KEPT:
                self._loaded.pop(next(iter(self._loaded))).close()
            found = _Folder(place) if place.is_dir() else _Engine(path)
        self._loaded[key] = found
        return found


class _Engine:
    """A GGUF file's vocabulary, in the engine."""

    words = "llama.cpp"

    def __init__(self, path: str) -> None:
        from app.engine.vocabulary import Vocabulary

        self._vocabulary = Vocabulary(path)
        self.size = self._vocabulary.size

    def split(self, text: str, special: bool, ends: bool) -> list[TokenPiece]:
        use = self._vocabulary
        return [
            TokenPiece(
                token, use.spelling(token)[:ITEM_CHARACTERS], use.data(token)[:ITEM_CHARACTERS], use.is_special(token)
            )
            for token in use.tokens(text, special=special, ends=ends)
        ]

    def named(self) -> dict[str, str]:
        return self._vocabulary.named()

    def close(self) -> None:
        self._vocabulary.close()


class _Folder:
    """A model folder's vocabulary, in the tokenizers library."""

    words = "tokenizers"

    def __init__(self, path: Path) -> None:
        from converter.vocabulary.pieces import FolderTokenizer

        self._tokenizer = FolderTokenizer(path)
        self.size = self._tokenizer.size

    def split(self, text: str, special: bool, ends: bool) -> list[TokenPiece]:
        return [
            TokenPiece(piece.id, piece.spelling[:ITEM_CHARACTERS], piece.data[:ITEM_CHARACTERS], piece.special)
            for piece in self._tokenizer.split(text, special=special, ends=ends)
        ]

    def named(self) -> dict[str, str]:
        return self._tokenizer.named()

    def close(self) -> None:
        return


# ---- chat template ----


def _rendered(vocabularies: _Vocabularies, command: RenderTemplate) -> TemplateRendered:
    """The prompt in pieces: what the vocabulary takes for special tokens apart from the rest."""
    from app.engine.template import ChatTemplate

    vocabulary, note, named = None, "", {}
    try:
        vocabulary = vocabularies.get(command.path)
        named = vocabulary.named()
    except QuenchError as error:
        note = f"Tokens are not counted: {error.title} {error.detail}".strip()
    messages = [ChatMessage(turn.role, turn.content) for turn in command.turns]
    prompt = ChatTemplate(command.source, named).render(messages, add_generation_prompt=command.add_generation_prompt)
    shown = prompt[:PROMPT_LIMIT]
    tokens = -1
    if vocabulary is None:
        parts = _guessed(shown)
    elif len(prompt) > TEXT_LIMIT:
        parts, note = _guessed(shown), f"Tokens are counted up to {TEXT_LIMIT:,} characters."
    else:
        pieces = vocabulary.split(prompt, True, False)
        tokens = len(pieces)
        parts = _apart(shown, [piece.data.decode("utf-8", "replace") for piece in pieces if piece.special])
    return TemplateRendered(command.request, tuple(parts), len(prompt), tokens, note)


def _apart(text: str, names: list[str]) -> list[PromptPart]:
    """``text`` cut at the special tokens that were found in it, in their order."""
    parts = []
    for name in names:
        before, found, after = text.partition(name) if name else (text, "", "")
        if not found:
            continue  # the vocabulary spells it in another way
        if before:
            parts.append(PromptPart(before))
        parts.append(PromptPart(name, True))
        text = after
    return [*parts, PromptPart(text)] if text else parts


def _guessed(text: str) -> list[PromptPart]:
    parts = []
    at = 0
    for found in _SPECIAL.finditer(text):
        if found.start() > at:
            parts.append(PromptPart(text[at : found.start()]))
        parts.append(PromptPart(found[0], True))
        at = found.end()
    return [*parts, PromptPart(text[at:])] if at < len(text) else parts
