"""Texts to measure on: the bundled slices and a person's own files, cut into windows of tokens.

A text is plain (``.txt``, ``.md``; control words in it stay letters) or a list of conversations (``.jsonl``, one a
line), which the reference's own chat template renders and whose special tokens are parsed as such. The windows are
llama-perplexity's: the whole text is tokenized once, cut into pieces of ``context`` tokens, a rest is left out, and
the first token of a window becomes the beginning-of-text token if the model wants one.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from app.protocol import ChatMessage
from converter.spec import QuenchError
from resources import path as resource

LANGUAGES = ("german", "french", "spanish", "italian", "portuguese", "russian", "chinese", "japanese")

BUNDLED: dict[str, str] = {
    "prose": "texts/prose.txt",
    "technical": "texts/technical.txt",
    "code": "texts/code.txt",
    "mathematics": "texts/mathematics.txt",
    "dialogue": "texts/dialogue.jsonl",
    "data": "texts/data.txt",
    **{language: f"texts/{language}.txt" for language in LANGUAGES},
}
"""Slices that come with the program, in the order in which they are shown."""

DEFAULT = tuple(name for name in BUNDLED if name not in LANGUAGES)
"""What is measured on where nothing else is said: most models are made for one language or two."""

GROUPS = {"languages": LANGUAGES}
"""Names that stand for several slices."""

CALIBRATION: dict[str, str] = {
    f"calibration-{name}": f"calibration/{name}.{kind}"
    for name, kind in (
        ("prose", "txt"),
        ("technical", "txt"),
        ("code", "txt"),
        ("mathematics", "txt"),
        ("data", "txt"),
        ("languages", "txt"),
        ("dialogue", "jsonl"),
        ("tools", "jsonl"),
    )
}
"""What importance matrices are made from: kept apart from the slices above, which judge the result."""

MAX_BYTES = 64 << 20
MAX_LINE = 1 << 20
MIN_WINDOWS = 2
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}

Conversation = tuple[ChatMessage, ...]


class Tokenizer(Protocol):
    """What is needed of a model to cut a text (``app.engine.model.Model`` has it)."""

    @property
    def bos(self) -> int: ...
    @property
    def adds_bos(self) -> bool: ...
    def tokenize(self, text: str, *, special: bool, add_special: bool) -> list[int]: ...
    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str: ...


@dataclass(frozen=True)
class Text:
    """A text ready to be tokenized; exactly one of ``plain`` and ``conversations`` is not empty."""

    name: str
    plain: str = ""
    conversations: tuple[Conversation, ...] = ()


@dataclass(frozen=True)
class Window:
    """``context`` tokens of one text, its ``place``-th such piece from 0.

    ``tokens`` begin with the beginning-of-text token where the model wants one.
    """

    text: str
    tokens: tuple[int, ...]
    place: int = 0


def questions() -> dict[str, list[str]]:
    """``demo``: the questions that reference and candidates answer in a report; ``suggestions``: for an empty chat."""
    data: dict[str, list[str]] = json.loads(resource("texts/questions.json").read_text("utf-8"))
    return data


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` with the slices of a group in its place, each slice once."""
    found: list[str] = []
    for name in names:
        found += [each for each in GROUPS.get(name, (name,)) if each not in BUNDLED or each not in found]
    return tuple(found)


def is_bundled(name: str) -> bool:
    """Whether ``name`` comes with the program: a slice, a group of them, or a calibration text; else it is a file."""
    return name in BUNDLED or name in GROUPS or name in CALIBRATION


def load(names: Iterable[str]) -> list[Text]:
    """Read bundled slices and groups by name and files by path; names of files are made unique.

    QuenchError for a bad one.
    """
    texts: list[Text] = []
    taken: set[str] = set()
    for name in expand(names):
        text = _load_one(name)
        label, number = text.name, 2
        while label in taken:
            label, number = f"{text.name} ({number})", number + 1
        taken.add(label)
        texts.append(Text(label, text.plain, text.conversations))
    if not texts:
        raise QuenchError(
            "no_text", "There is no text to measure on.", "", "Choose a bundled text or a file of your own."
        )
    return texts


def _load_one(name: str) -> Text:
    bundled = BUNDLED.get(name) or CALIBRATION.get(name)
    if bundled:
        return _parse(name, resource(bundled))
    return _parse(Path(name).stem, Path(name))


def _parse(label: str, file: Path) -> Text:
    content = read_text(file)
    if file.suffix.lower() == ".jsonl":
        return Text(label, conversations=_conversations(file, content))
    if not content.strip():
        raise QuenchError("empty_text", "The text is empty.", str(file), "Choose a file with text in it.")
    return Text(label, plain=content)


_NAMES = (
    f"Check the path. The bundled texts are called {', '.join(DEFAULT)} and, by language, {', '.join(LANGUAGES)}, "
    "or languages for all of these."
)


def read_text(file: Path, missing: str = _NAMES) -> str:
    """The whole of a UTF-8 file of at most ``MAX_BYTES``; QuenchError that says what is wrong with it.

    ``missing`` is the hint where it cannot be read at all.
    """
    try:
        if file.is_dir():
            raise QuenchError("bad_text", "This is a folder, not a text.", str(file), "Choose a .txt or .jsonl file.")
        size = file.stat().st_size
        if not file.is_file():
            raise QuenchError("bad_text", "This is no file.", str(file), "Choose a .txt or .jsonl file.")
        if size > MAX_BYTES:
            raise QuenchError(
                "text_too_large",
                "The text is too large.",
                f"{file} has {size} bytes; the limit is {MAX_BYTES}.",
                "Cut a part out of it: a few hundred thousand characters are plenty.",
            )
        data = file.read_bytes()
    except OSError as error:
        raise QuenchError(
            "text_unreadable",
            "The text could not be read.",
            f"{file}: {error.strerror or error}",
            missing,
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise QuenchError(
            "text_not_utf8",
            "The text is not UTF-8.",
            f"{file}, line {line}: byte 0x{data[error.start]:02x} at {error.start} does not belong to UTF-8.",
            "Save it as UTF-8 in a text editor. Binary files and PDFs cannot be measured on.",
        ) from error


def _conversations(file: Path, content: str) -> tuple[Conversation, ...]:
    found = [
        _conversation(file, number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()
    ]
    if not found:
        raise QuenchError("empty_text", "The file has no conversation in it.", str(file), _LINE_HINT)
    return tuple(found)


_LINE_HINT = 'Each line is one conversation: {"messages": [{"role": "user", "content": "..."}, ...]}.'


def _conversation(file: Path, number: int, line: str) -> Conversation:
    def bad(reason: str) -> QuenchError:
        return QuenchError(
            "bad_conversation", "A line is no conversation.", f"{file}, line {number}: {reason}", _LINE_HINT
        )

    if len(line) > MAX_LINE:
        raise bad(f"it has {len(line)} characters; the limit is {MAX_LINE}")
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad(f"not JSON ({error})") from error
    if isinstance(value, dict):
        value = value.get("messages", value.get("conversations"))
    if not isinstance(value, list) or not value:
        raise bad("there is no list of messages")
    messages: list[ChatMessage] = []
    for entry in value:
        if not isinstance(entry, dict):
            raise bad("a message is not an object")
        role = entry.get("role", entry.get("from"))
        words = entry.get("content", entry.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            raise bad(f"the role {role!r} is not one of system, user, assistant")
        if not isinstance(words, str):
            raise bad("a message has no text")
        messages.append(ChatMessage(ROLES[role], words))
    return tuple(messages)


def tokenize(text: Text, model: Tokenizer) -> list[int]:
    """All tokens of ``text`` in ``model``'s vocabulary, as the model would see it."""
    if not text.conversations:
        return model.tokenize(text.plain, special=False, add_special=True)
    rendered = "".join(model.render(talk, add_generation_prompt=False) for talk in text.conversations)
    return model.tokenize(rendered, special=True, add_special=True)


def windows(text: Text, model: Tokenizer, context: int = 512, chunks: int = 0) -> list[Window]:
    """Windows of ``text``: all that are whole, or the first ``chunks``.

    Raises QuenchError ``text_too_short`` below ``MIN_WINDOWS * context`` tokens (the reference tool's own minimum).
    """
    tokens = tokenize(text, model)
    needed = MIN_WINDOWS * context
    if len(tokens) < needed:
        raise QuenchError(
            "text_too_short",
            "The text is too short to measure on.",
            f"“{text.name}” has {len(tokens)} tokens for this model; {needed} are needed with windows of {context}.",
            "Take a longer text (about four characters make a token), add more files, or use a smaller window.",
        )
    count = len(tokens) // context
    if chunks > 0:
        count = min(count, chunks)
    cut = [tokens[index * context : (index + 1) * context] for index in range(count)]
    if model.adds_bos and model.bos >= 0:
        cut = [[model.bos, *window[1:]] for window in cut]
    return [Window(text.name, tuple(window), place) for place, window in enumerate(cut)]


def identity(windows: Sequence[Window]) -> str:
    """What tells these windows from others: their tokens, and the texts that they are from."""
    digest = hashlib.blake2b(digest_size=16)
    for window in windows:
        digest.update(f"{window.text}\0{len(window.tokens)}\0".encode())
        digest.update(array("i", window.tokens).tobytes())
    return digest.hexdigest()


def fair_order(groups: Sequence[Sequence[Window]]) -> list[Window]:
    """Windows of all texts in turns, those of a text in an order drawn by chance, the same at every run.

    Whatever part of them is measured is a sample of each whole text, not of how it begins.
    """
    shuffled = []
    for group in groups:
        drawn = list(group)
        random.Random(len(drawn)).shuffle(drawn)
        shuffled.append(drawn)
    return interleave(shuffled)


def interleave(groups: Sequence[Sequence[Window]]) -> list[Window]:
    """Windows of all texts in turns, so that a part of the run is a fair sample of the whole."""
    return [window for turn in zip_longest(*groups) for window in turn if window is not None]
