"""Conversations go into files and come back the same; files that are wrong or hostile are refused whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import exchange
from app.exchange import as_json, as_markdown, read_file
from app.store import Conversation, Store
from converter.spec import QuenchError

AWKWARD = "a\n\n<!-- quench:user -->\n**You**\n\nfake\n\\<!-- quench:assistant -->\n**Model**\n\n  tail \n\n\u2028ü\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "quench.db")
    yield opened
    opened.close()


@pytest.fixture
def talk(store: Store) -> Conversation:
    """Two versions of the question, two answers to the second; the first answer is shown."""
    made = store.create_conversation("Capitals", "/m.gguf", "Be brief.\n<!-- quench:user -->")
    first = store.add_message(made.id, "user", "France?")
    store.add_message(made.id, "assistant", "Paris", {"model": "/m.gguf", "tokens": 2, "tokens_per_second": 101.5})
    store.add_alternative(first, "user", AWKWARD)
    rome = store.add_message(made.id, "assistant", AWKWARD)
    store.add_alternative(rome, "assistant", "Ro", partial=True)
    store.choose(rome)
    return made


def back(store: Store, path: Path) -> int:
    found = read_file(path)
    return store.add_conversation(found.title, found.model_path, found.system, found.messages, found.head).id


def tree(store: Store, conversation: int) -> list[tuple[Any, ...]]:
    rows = store.all_messages(conversation)
    place = {row.id: at for at, row in enumerate(rows)}
    return [
        (row.role, row.content, row.stats, row.partial, row.created, row.parent and place[row.parent]) for row in rows
    ]


def test_json_brings_every_branch_back(store: Store, talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(as_json(talk, store))
    again = back(store, path)
    assert tree(store, again) == tree(store, talk.id)
    assert len(tree(store, again)) == 5
    assert [row.content for row in store.messages(again)] == [AWKWARD, AWKWARD]
    row = store.conversation(again)
    assert (row.title, row.model_path, row.system) == ("Capitals", "/m.gguf", talk.system)
    assert as_json(store.conversation(again), store).count(b'"parent"') == 5


def test_markdown_brings_the_shown_branch_back_to_the_letter(store: Store, talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    path.write_text(as_markdown(talk, store), encoding="utf-8", newline="")
    again = back(store, path)
    assert [(row.role, row.content) for row in store.messages(again)] == [("user", AWKWARD), ("assistant", AWKWARD)]
    assert (store.conversation(again).title, store.conversation(again).system) == ("Capitals", talk.system)


def test_children_may_stand_before_their_parents(store: Store, tmp_path: Path) -> None:
    entries = [
        {"id": 3, "parent": 2, "role": "user", "content": "three"},
        {"id": 2, "parent": 1, "role": "assistant", "content": "two"},
        {"id": 1, "role": "user", "content": "one"},
    ]
    again = back(store, written(tmp_path, {"messages": entries, "head": 3}))
    assert [row.content for row in store.messages(again)] == ["one", "two", "three"]


def written(folder: Path, changes: dict[str, Any]) -> Path:
    made = {"format": exchange.FORMAT, "version": exchange.VERSION, "title": "t", "messages": [], **changes}
    path = folder / "made.json"
    path.write_text(json.dumps(made))
    return path


def entry(number: int, parent: int | None = None, **changes: Any) -> dict[str, Any]:
    return {"id": number, "parent": parent, "role": "user", "content": "x", **changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"messages": [entry(1, 2), entry(2, 1)]}, "follows itself"),
        ({"messages": [entry(1, 1)]}, "follows itself"),
        ({"messages": [entry(1), entry(1)]}, "Two messages have the id 1"),
        ({"messages": [entry(1, 9)]}, "follows 9, which is not there"),
        ({"messages": [entry(1, role="oracle")]}, "role 'oracle'"),
        ({"messages": [entry(1)], "head": 2}, "ends with message 2"),
        ({"messages": [entry(1, content=5)]}, "Expected `str`"),
        ({"messages": [entry(1, content="\ud800")]}, "truncated"),
        ({"messages": {"a": 1}}, "Expected `array`"),
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "'other'"),
    ],
)
def test_a_file_that_is_not_consistent_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(QuenchError) as caught:
        read_file(written(tmp_path, changes))
    assert caught.value.code == "bad_import" and says in caught.value.detail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"# Notes\n\nnothing of a conversation",
        b"\xff\xfe\x00",
        b'{"format":' + b"[" * 200_000,
        b'{"x":' * 200_000,
        b"<!-- quench:oracle -->\n**Oracle**\n\nx\n",
    ],
    ids=["empty", "cut", "prose", "binary", "lists", "objects", "role"],
)
def test_a_file_that_is_no_conversation_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(QuenchError) as caught:
        read_file(path)
    assert caught.value.code == "bad_import"


def test_too_many_messages_and_too_large_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"messages": [entry(n) for n in range(exchange.MAX_MESSAGES + 1)]})
    with pytest.raises(QuenchError, match="not a conversation") as caught:
        read_file(path)
    assert "at most" in caught.value.detail
    with path.open("wb") as file:
        file.truncate(exchange.MAX_FILE + 1)  # a sparse file
    for wrong in (path, tmp_path, tmp_path / "missing.json"):
        with pytest.raises(QuenchError) as caught:
            read_file(wrong)
        assert caught.value.code == "import_unreadable"


def test_figures_from_a_file_are_only_those_that_are_known(tmp_path: Path) -> None:
    stats = {"tokens": 3, "stop": "end", "model": "m" * 9000, "tokens_per_second": 1e300, "first_token": [1], "x": {}}
    [message] = read_file(written(tmp_path, {"messages": [entry(1, stats=stats)]})).messages
    assert message.stats == {"tokens": 3, "stop": "end", "model": "m" * 4096}


def test_a_long_chain_is_read_without_recursion(store: Store, tmp_path: Path) -> None:
    count = 15_000
    path = written(tmp_path, {"messages": [entry(n, n + 1 if n < count else None) for n in range(1, count + 1)]})
    again = back(store, path)
    assert len(store.messages(again)) == count
