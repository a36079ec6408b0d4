"""Conversations as files: JSON with every branch, Markdown with the branch that is shown. Both are read back.

Files may come from anywhere: they are bounded in size and checked whole before anything is kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from app.store import Conversation, NewMessage, Store
from converter.spec import QuenchError

FORMAT = "quench-conversation"
VERSION = 1
MAX_FILE = 64 << 20
MAX_MESSAGES = 20_000
MAX_TITLE = 200
MAX_NUMBER = 10**18
ROLES = {"user": "You", "assistant": "Model", "system": "System", "tool": "Tool"}

_WORDS = ("model", "stop", "constraint")
_NUMBERS = ("tokens", "tokens_per_second", "first_token", "prompt_tokens", "prompt_reused", "seed")
"""What is taken of an answer's figures."""


class Read(msgspec.Struct, frozen=True):
    """A conversation that a file holds, for :meth:`app.store.Store.add_conversation`."""

    title: str
    model_path: str
    system: str
    messages: list[NewMessage]
    head: int | None


class _Entry(msgspec.Struct):
    id: int
    role: str
    content: str
    parent: int | None = None
    stats: dict[str, Any] | None = None
    partial: bool = False
    created: float = 0.0


class _File(msgspec.Struct):
    format: str
    version: int
    title: str
    messages: list[_Entry]
    model_path: str = ""
    system: str = ""
    head: int | None = None


def as_json(conversation: Conversation, store: Store) -> bytes:
    """A conversation with all branches and figures."""
    rows = store.all_messages(conversation.id)
    entries = [_Entry(row.id, row.role, row.content, row.parent, row.stats, row.partial, row.created) for row in rows]
    made = _File(
        FORMAT, VERSION, conversation.title, entries, conversation.model_path, conversation.system,
        store.head(conversation.id),
    )  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"


def as_markdown(conversation: Conversation, store: Store) -> str:
    """The branch that is shown. A comment that no reader shows stands before each message, so that it can be read back
    to the letter."""
    messages = [(row.role, row.content) for row in store.messages(conversation.id)]
    if conversation.system:
        messages.insert(0, ("system", conversation.system))
    parts = [f"# {conversation.title}\n"]
    for role, content in messages:
        body = _MARKER.sub(lambda found: f"{found[1]}\\{found[2]}", content)
        parts.append(f"<!-- quench:{role} -->\n**{ROLES.get(role, role)}**\n\n{body}\n")
    return "\n".join(parts)


_MARKER = re.compile(r"^(\\*)(<!-- quench:)", re.MULTILINE)
_MESSAGE = re.compile(r"^<!-- quench:([a-z]{1,20}) -->\n\*\*[^\n]{1,40}\*\*\n\n", re.MULTILINE)


def read_file(path: Path) -> Read:
    """Read an exported conversation, JSON or Markdown by its content.

    ``QuenchError``: ``import_unreadable`` (no such file, no permission, no regular file, too large) or ``bad_import``
    (not a conversation, or one that is not consistent; the detail says what).
    """
    try:
        if not path.is_file():
            raise _unreadable(path, "It is no file.")
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(data) > MAX_FILE:
        raise _unreadable(path, f"It is larger than {MAX_FILE >> 20} MiB.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(f"It is not a UTF-8 text: {error.reason} at byte {error.start}.") from error
    return _from_json(text) if text.lstrip().startswith("{") else _from_markdown(text)


def _from_json(text: str) -> Read:
    try:
        found = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, RecursionError) as error:  # a ValidationError is a DecodeError
        raise _bad(str(error)) from error
    if found.format != FORMAT:
        raise _bad(f"Its format is {found.format[:60]!r}, not {FORMAT!r}.")
    if found.version != VERSION:
        raise _bad(f"It has version {found.version}; this program reads version {VERSION}.")
    _check_count(len(found.messages))
    places: dict[int, int] = {}
    for place, entry in enumerate(found.messages):
        if entry.role not in ROLES:
            raise _bad(f"Message {entry.id} has the role {entry.role[:60]!r}.")
        if places.setdefault(entry.id, place) != place:
            raise _bad(f"Two messages have the id {entry.id}.")
    for entry in found.messages:
        if entry.parent is not None and entry.parent not in places:
            raise _bad(f"Message {entry.id} follows {entry.parent}, which is not there.")
    if found.head is not None and found.head not in places:
        raise _bad(f"The shown branch ends with message {found.head}, which is not there.")
    order = _parents_first(found.messages)
    at = {entry.id: place for place, entry in enumerate(order)}
    messages = [
        NewMessage(
            entry.role,
            entry.content,
            None if entry.parent is None else at[entry.parent],
            _figures(entry.stats),
            entry.partial,
            entry.created if 0 <= entry.created < MAX_NUMBER else 0.0,
        )
        for entry in order
    ]
    return Read(
        _title(found.title), found.model_path, found.system, messages, None if found.head is None else at[found.head]
    )


def _parents_first(messages: list[_Entry]) -> list[_Entry]:
    """The messages with each after its parent, otherwise in their order; a circle is refused."""
    following: dict[int | None, list[_Entry]] = {}
    for entry in messages:
        following.setdefault(entry.parent, []).append(entry)
    place = {entry.id: at for at, entry in enumerate(messages)}
    if all(entry.parent is None or place[entry.parent] < place[entry.id] for entry in messages):
        return messages
    order = list(following.get(None, ()))
    for entry in order:  # grows while it is walked
        order.extend(following.get(entry.id, ()))
    if len(order) < len(messages):
        lost = next(entry for entry in messages if entry.id not in {each.id for each in order})
        raise _bad(f"Message {lost.id} follows itself over others.")
    return order


def _figures(stats: dict[str, Any] | None) -> dict[str, Any] | None:
    """Only what is known, of the right type and a sane size."""
    found = stats or {}
    kept: dict[str, Any] = {}
    for name in _WORDS:
        if isinstance(found.get(name), str):
            kept[name] = found[name][:4096]
    for name in _NUMBERS:
        value = found.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_NUMBER:
            kept[name] = value
    return kept or None


def _from_markdown(text: str) -> Read:
    text = text.replace("\r\n", "\n")
    heads = list(_MESSAGE.finditer(text))
    if not heads:
        raise _bad("There is no message in it; only Markdown that was saved here can be read back.")
    _check_count(len(heads))
    first = text[: heads[0].start()].strip()
    system = ""
    messages: list[NewMessage] = []
    for place, head in enumerate(heads):
        end = heads[place + 1].start() - 1 if place + 1 < len(heads) else len(text)
        body = text[head.end() : max(end - 1, head.end())]
        content = re.sub(r"^(\\*)\\(<!-- quench:)", r"\1\2", body, flags=re.MULTILINE)
        if head[1] not in ROLES:
            raise _bad(f"A message has the role {head[1]!r}.")
        if head[1] == "system" and place == 0:
            system = content
        else:
            messages.append(NewMessage(head[1], content, len(messages) - 1 if messages else None))
    return Read(_title(first.removeprefix("#")), "", system, messages, None)


def _title(text: str) -> str:
    return " ".join(text.split())[:MAX_TITLE] or "Conversation"


def _check_count(count: int) -> None:
    if count > MAX_MESSAGES:
        raise _bad(f"It has {count} messages; at most {MAX_MESSAGES} are read.")


def _bad(detail: str) -> QuenchError:
    title = "The file is not a conversation that can be read."
    return QuenchError(
        "bad_import", title, detail, "Choose a JSON or Markdown file that was saved from a conversation."
    )


def _unreadable(path: Path, why: str) -> QuenchError:
    title = "The file cannot be read."
    return QuenchError("import_unreadable", title, f"{path.name}: {why}", "Choose another file.")
