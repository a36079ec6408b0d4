"""The store keeps conversations through crashes, finds words in them, and refuses what it does not know."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store import MIGRATIONS, Store
from converter.spec import QuenchError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "quench.db")
    yield opened
    opened.close()


def test_messages_come_back_in_order_with_their_figures(store: Store) -> None:
    talk = store.create_conversation("Weather", "/models/a.gguf", "Be brief.")
    store.add_message(talk.id, "user", "Is it raining?")
    reply = store.add_message(talk.id, "assistant", "Ye", partial=True)
    store.update_message(reply, "Yes.", {"tokens": 2, "tokens_per_second": 101.5})
    first, second = store.messages(talk.id)
    assert (first.role, first.content, first.stats, first.partial) == ("user", "Is it raining?", None, False)
    assert (second.content, second.stats, second.partial) == ("Yes.", {"tokens": 2, "tokens_per_second": 101.5}, False)
    assert store.conversation(talk.id).system == "Be brief."


def test_pinned_come_first_then_the_last_used(store: Store) -> None:
    a, b, c = (store.create_conversation(title, "m") for title in "abc")
    store.pin(a.id, True)
    store.add_message(b.id, "user", "hello")
    assert [talk.title for talk in store.conversations()] == ["a", "b", "c"]
    store.delete(b.id)
    assert [talk.title for talk in store.conversations()] == ["a", "c"]
    store.undelete(b.id)
    store.rename(c.id, "d")
    assert [talk.title for talk in store.conversations()] == ["a", "b", "d"]


@pytest.mark.parametrize("text", ["marmalade", "MARMA", 'marmalade" OR "', "orange marmalade", "fruit"])
def test_search_looks_in_titles_and_messages(store: Store, text: str) -> None:
    found = store.create_conversation("Fruit", "m")
    store.create_conversation("Other", "m")
    store.add_message(found.id, "user", 'Which orange for marmalade" OR "jam?')
    assert [talk.id for talk in store.conversations(text)] == [found.id]


@pytest.mark.parametrize("text", ["%", "_", "zebra", "NEAR(", "*", '"'])
def test_search_takes_odd_words_literally(store: Store, text: str) -> None:
    talk = store.create_conversation("Fruit", "m")
    store.add_message(talk.id, "user", "Which orange?")
    assert store.conversations(text) == []


def test_changed_and_deleted_messages_are_not_found_by_their_old_words(store: Store) -> None:
    talk = store.create_conversation("Talk", "m")
    message = store.add_message(talk.id, "user", "walrus")
    store.update_message(message, "heron")
    assert store.conversations("walrus") == []
    assert len(store.conversations("heron")) == 1
    store.delete_message(message)
    assert store.conversations("heron") == []


def test_purge_removes_only_what_was_deleted(store: Store) -> None:
    kept, gone = store.create_conversation("kept", "m"), store.create_conversation("gone", "m")
    store.add_message(gone.id, "user", "secret")
    store.delete(gone.id)
    assert store.purge() == 1
    store.undelete(gone.id)
    assert [talk.id for talk in store.conversations()] == [kept.id]
    assert store.messages(gone.id) == []


def test_latest_measurement_is_the_newest_of_its_kind(store: Store) -> None:
    store.add_measurement("m.gguf", "bench", {"tokens": 1.5})
    store.add_measurement("m.gguf", "bench", {"tokens": 2.5})
    store.add_measurement("m.gguf", "quality", {"kld": 0.1})
    latest = store.latest("m.gguf", "bench")
    assert latest is not None and latest.payload == {"tokens": 2.5}
    assert store.latest("other.gguf", "bench") is None
    assert len(store.measurements()) == 3
    assert len(store.measurements("m.gguf")) == 3
    assert len(store.measurements(kind="quality")) == 1


def test_models_are_remembered_once(store: Store) -> None:
    store.add_model("/a.gguf")
    store.add_model("/a.gguf")
    store.add_model("/b.gguf")
    store.remove_model("/a.gguf")
    assert store.known_models() == ["/b.gguf"]


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.store import Store\n"
        "store = Store(Path(sys.argv[1])); talk = store.create_conversation('t', 'm')\n"
        "reply = store.add_message(talk.id, 'assistant', '', partial=True)\n"
        "for n in range(1000):\n"
        "    store.update_message(reply, 'word ' * n, partial=True); print(n, flush=True)\n"
    )
    path = tmp_path / "quench.db"
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 50:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    store = Store(path)
    (talk,) = store.conversations()
    (message,) = store.messages(talk.id)
    assert message.partial
    assert len(message.content.split()) >= 50
    assert [found.id for found in store.conversations("word")] == [talk.id]
    store.close()


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "quench.db"
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(QuenchError) as caught:
        Store(path)
    assert caught.value.code == "store_newer"
    assert path.read_bytes()[:100][60:64] == before[60:64]  # user_version in the header


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "quench.db"
    path.write_bytes(b"this is not SQLite" * 1000)
    with pytest.raises(QuenchError) as caught:
        Store(path)
    assert caught.value.code == "store_damaged"
    assert path.read_bytes().startswith(b"this is not")
