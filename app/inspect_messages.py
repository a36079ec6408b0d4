"""What the inspect window asks of a model file, and what it is answered (worker ``inspect``).

Every question has a ``request`` number and one answer: the message that it names, or ``Failed`` with that number.
"""

from __future__ import annotations

from typing import Any

import msgspec

TEXT_LIMIT = 20_000
"""Characters of a text that is split into tokens."""
PAGE = 1000
"""Items of a list in one answer, at most."""
PAGE_CHARACTERS = 64_000
"""Characters of a text in one answer, at most."""
METADATA_BYTES = 8 << 20
"""Characters of keys and values in one answer, at most."""
PREVIEW_ITEMS, PREVIEW_CHARACTERS = 8, 2000
"""How much of a list or text comes with its key."""
ITEM_CHARACTERS = 500
"""Characters of an item that are sent; the rest is cut."""
PROMPT_LIMIT = 200_000
"""Characters of a rendered prompt that are sent; the rest is cut."""


class ReadValue(msgspec.Struct, frozen=True, tag_field="message", tag="read_value"):
    """A page of a long metadata value of a GGUF file: items of a list from ``start`` on, or characters of a text."""

    request: int
    path: str
    key: str
    start: int = 0


class ValueRead(msgspec.Struct, frozen=True, tag_field="message", tag="value_read"):
    """``items`` from ``start`` on of ``total``; of a text, one item with its characters from ``start`` on."""

    request: int
    type: str
    start: int
    total: int
    items: tuple[str, ...]


class SplitText(msgspec.Struct, frozen=True, tag_field="message", tag="split_text"):
    """The tokens of ``text`` in a model's vocabulary; no weights are read.

    ``special``: names of special tokens in the text become these. ``ends``: with what the model puts in front and
    behind.
    """

    request: int
    path: str
    text: str
    special: bool = True
    ends: bool = True


class TokenPiece(msgspec.Struct, frozen=True):
    """A token: its number, how the vocabulary spells it, the bytes that it stands for, whether it is a special one."""

    id: int
    spelling: str
    data: bytes
    special: bool


class TextSplit(msgspec.Struct, frozen=True, tag_field="message", tag="text_split"):
    """``vocabulary`` is how many tokens the model has; ``tokenizer`` says what split the text."""

    request: int
    tokens: tuple[TokenPiece, ...]
    vocabulary: int
    tokenizer: str


class Turn(msgspec.Struct, frozen=True):
    """A message of the sample conversation."""

    role: str
    content: str


class RenderTemplate(msgspec.Struct, frozen=True, tag_field="message", tag="render_template"):
    """A conversation as the model's chat template writes it. ``source`` is the template,
    None for the one that is used where a model has none."""

    request: int
    path: str
    source: str | None
    turns: tuple[Turn, ...]
    add_generation_prompt: bool = True


class PromptPart(msgspec.Struct, frozen=True):
    """A piece of a prompt: ordinary text, or the text of one special token."""

    text: str
    special: bool = False


class TemplateRendered(msgspec.Struct, frozen=True, tag_field="message", tag="template_rendered"):
    """``parts`` joined are the prompt, cut after :data:`PROMPT_LIMIT` of its ``characters``.

    ``tokens`` is how many tokens that is, -1 where the vocabulary cannot be asked; ``note`` says why.
    """

    request: int
    parts: tuple[PromptPart, ...]
    characters: int
    tokens: int = -1
    note: str = ""


class ReadMetadata(msgspec.Struct, frozen=True, tag_field="message", tag="read_metadata"):
    """Every key of a GGUF file with its type and the beginning of its value; answered by :class:`MetadataRead`."""

    request: int
    path: str


class MetadataEntry(msgspec.Struct, frozen=True):
    """``type`` is a GGUF type name (``UINT32``, ``ARRAY STRING`` ...); ``items`` of a list, characters of a text, else
    1. ``whole``: ``value`` is all of it. A list's value is a list; text that is no UTF-8 has U+FFFD in it."""

    key: str
    type: str
    items: int
    value: Any
    whole: bool


class MetadataRead(msgspec.Struct, frozen=True, tag_field="message", tag="metadata_read"):
    """``left_out`` keys of an absurdly long header are not listed."""

    request: int
    entries: tuple[MetadataEntry, ...]
    left_out: int = 0
