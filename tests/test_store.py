"""The store keeps conversations through crashes, finds words in them, and refuses what it does not know."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from app.store import MIGRATIONS, VOTES, Draft, Store, Vote
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


# ---- branches --------------------------------------------------------------------------------------------------


def shown(store: Store, conversation: int) -> list[str]:
    return [row.content for row in store.messages(conversation)]


def test_a_store_of_the_first_version_becomes_a_tree_with_nothing_lost(tmp_path: Path) -> None:
    path = tmp_path / "quench.db"
    database = sqlite3.connect(path)
    database.executescript((Path(__file__).parent / "data/store_v1.sql").read_text())
    database.close()
    store = Store(path)
    assert shown(store, 1) == ["What is the capital of France?", "Paris.", "And of Italy?", "Ro"]
    assert [row.parent for row in store.messages(1)] == [None, 1, 3, 5]
    assert [row.alternatives for row in store.messages(1)] == [(1,), (3,), (5,), (6,)]
    assert (store.messages(1)[1].stats, store.messages(1)[3].partial) == ({"tokens": 2}, True)
    assert store.messages(2) == []
    assert [row.id for row in store.conversations()] == [1, 2]
    store.undelete(3)
    assert [row.id for row in store.conversations()] == [1, 2]  # deleted long ago, and gone
    assert [hit.message for hit in store.search("capital")] == [1]
    assert store.search("secret") == []
    store.add_message(1, "user", "Thanks.")
    assert shown(store, 1)[-2:] == ["Ro", "Thanks."]
    store.close()


def test_an_alternative_begins_a_branch_and_choosing_goes_back_to_the_last_written(store: Store) -> None:
    talk = store.create_conversation("t", "m").id
    first = store.add_message(talk, "user", "France?")
    store.add_message(talk, "assistant", "Paris")
    store.add_message(talk, "user", "sure?")
    other = store.add_alternative(first, "user", "Italy?")
    assert shown(store, talk) == ["Italy?"]
    rome = store.add_message(talk, "assistant", "Rome")
    again = store.add_alternative(rome, "assistant", "Roma")
    assert shown(store, talk) == ["Italy?", "Roma"]
    assert [row.alternatives for row in store.messages(talk)] == [(first, other), (rome, again)]
    store.choose(first)
    assert shown(store, talk) == ["France?", "Paris", "sure?"]
    store.choose(rome)
    assert shown(store, talk) == ["Italy?", "Rome"]
    assert len(store.all_messages(talk)) == 6


def test_hidden_messages_are_passed_over_and_come_back_where_they_were(store: Store) -> None:
    talk = store.create_conversation("t", "m").id
    ids = [store.add_message(talk, role, text) for role, text in zip("uaua", "1234", strict=True)]
    store.hide_messages(ids[:2])
    assert shown(store, talk) == ["3", "4"]
    assert store.messages(talk)[0].parent is None
    assert store.search("1") == [] and store.conversations("1") == []
    store.unhide_messages(ids[:2])
    assert shown(store, talk) == ["1", "2", "3", "4"]
    store.hide_messages(ids[1:])
    assert store.head(talk) == ids[0]
    store.add_message(talk, "assistant", "5")
    assert store.purge() == 0
    assert shown(store, talk) == ["1", "5"]
    assert [row.content for row in store.all_messages(talk)] == ["1", "5"]
    store.unhide_messages(ids)
    assert shown(store, talk) == ["1", "5"]


def test_purge_keeps_what_follows_a_hidden_message_and_what_was_deleted_later(store: Store) -> None:
    talk = store.create_conversation("t", "m").id
    ids = [store.add_message(talk, "user", text) for text in "12345"]
    store.hide_messages([ids[1], ids[2], ids[4]])
    assert store.purge(before=1.0) == 0
    store.unhide_messages([ids[4]])
    assert shown(store, talk) == ["1", "4", "5"]
    store.hide_messages([ids[4]])
    store.purge()
    store.unhide_messages(ids)
    assert shown(store, talk) == ["1", "4"]


def test_a_message_removed_for_good_leaves_no_hole(store: Store) -> None:
    talk = store.create_conversation("t", "m").id
    ids = [store.add_message(talk, "user", text) for text in "123"]
    store.delete_message(ids[2])
    store.delete_message(ids[0])
    assert shown(store, talk) == ["2"]
    store.add_message(talk, "user", "4")  # may take the number of the one that is gone
    assert shown(store, talk) == ["2", "4"]


def test_pieces_of_an_answer_are_read_searched_after_a_new_start_and_replaced_by_the_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "quench.db")
    talk = store.create_conversation("t", "m").id
    answer = store.add_message(talk, "assistant", "Once ", partial=True)
    for text in ("upon ", "a ", "zebra"):
        store.append_text(answer, text)
    assert shown(store, talk) == ["Once upon a zebra"]
    other = Store(tmp_path / "quench.db")  # a second window gathers them while the answer goes on
    store.append_text(answer, ", the")
    assert shown(store, talk) == shown(other, talk) == ["Once upon a zebra, the"]
    assert [hit.message for hit in other.search("zebra")] == [answer]
    store.update_message(answer, "Once upon a zebra, the end.")
    assert shown(other, talk) == ["Once upon a zebra, the end."]
    store.close()
    other.close()


_WRITER = """
import sys
from pathlib import Path
from app.store import Store
store = Store(Path(sys.argv[1]))
answer = store.add_message(store.create_conversation("t", "m").id, "assistant", "", partial=True)
n = 0
while True:
    store.append_text(answer, f"w{n} ")
    print(n, flush=True)
    n += 1
"""


def test_every_piece_that_was_written_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "quench.db"
    child = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 3000:  # past several checkpoints
            break
    os.kill(child.pid, signal.SIGKILL)
    told = [int(line) for line in child.stdout.read().split()]
    child.wait()
    child.stdout.close()
    store = Store(path)
    [answer] = store.messages(store.conversations()[0].id)
    words = answer.content.split()
    assert words == [f"w{n}" for n in range(len(words))]
    assert len(words) >= max([3000, *told]) + 1
    store.close()


def test_search_finds_words_in_every_branch_and_marks_them(store: Store) -> None:
    talk = store.create_conversation("Fruit", "m").id
    first = store.add_message(talk, "user", "Which oranges make\nmarmalade?")
    store.add_alternative(first, "user", "Which plums?")
    [hit] = store.search("marma orange")
    assert (hit.conversation, hit.title, hit.message, hit.role) == (talk, "Fruit", first, "user")
    assert [text for text, found in hit.parts if found] == ["oranges", "marmalade"]
    assert "".join(text for text, _ in hit.parts) == "Which oranges make\nmarmalade?"
    store.delete(talk)
    assert store.search("marmalade") == []
    assert store.search("  ") == []


def test_the_newest_hits_come_first_and_no_more_than_asked_for(store: Store) -> None:
    talk = store.create_conversation("t", "m").id
    ids = [store.add_message(talk, "user", f"heron {n}") for n in range(30)]
    assert [hit.message for hit in store.search("heron", limit=5)] == ids[:-6:-1]


def test_drafts_are_kept_apart_and_forgotten_when_empty(store: Store) -> None:
    talk = store.create_conversation("t", "m").id
    store.keep_draft(None, "new")
    store.keep_draft(talk, "words", (("a.txt", "file"),))
    store.keep_draft(talk, "an edit", message_id=7)
    store.keep_draft(talk, "more words")
    assert store.draft(None) == Draft("new")
    assert store.draft(talk) == Draft("more words", (("a.txt", "file"),))
    assert store.draft(talk, 7) == Draft("an edit")
    store.keep_draft(talk, "")
    assert store.draft(talk) == Draft("", (("a.txt", "file"),))
    store.keep_draft(talk, "", ())
    store.keep_draft(None, "")
    assert store.draft(talk) == store.draft(None) == Draft()
    store.delete(talk)
    store.purge()
    assert store.draft(talk, 7) == Draft()


# ---- votes -----------------------------------------------------------------------------------------------------


def test_votes_are_kept_by_their_two_models_and_can_be_taken_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "quench.db")
    cast = [
        Vote(
            "one", "/m/big.gguf", "/m/small.gguf", f"Prompt {number}\n", "code", choice, number % 2 == 0, 100.0 + number
        )
        for number, choice in enumerate(("model", "reference", "tie", "skip"))
    ]
    ids = [store.add_vote(vote) for vote in cast]
    store.add_vote(Vote("two", "/m/big.gguf", "/m/other.gguf", "?", "other", "tie", True))
    store.remove_vote(ids[1])
    store.close()
    store = Store(tmp_path / "quench.db")
    kept = store.votes("/m/big.gguf", "/m/small.gguf")
    assert [msgspec.structs.replace(vote, id=0) for vote in kept] == [cast[0], *cast[2:]]
    assert [vote.id for vote in kept] == [ids[0], *ids[2:]]
    assert store.votes("/m/small.gguf", "/m/big.gguf") == []
    (other,) = store.votes("/m/big.gguf", "/m/other.gguf")
    assert other.created > 1e9 and other.test == "two"
    store.close()


def test_a_store_from_before_votes_gets_them_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "quench.db"
    database = sqlite3.connect(path)
    for step in MIGRATIONS[: MIGRATIONS.index(VOTES)]:
        database.executescript(step)
    database.execute(f"PRAGMA user_version = {MIGRATIONS.index(VOTES)}")
    database.execute("INSERT INTO models VALUES ('/m/a.gguf', 1.0)")
    database.commit()
    database.close()
    store = Store(path)
    assert store.known_models() == ["/m/a.gguf"] and store.votes("a", "b") == []
    assert store.add_vote(Vote("t", "a", "b", "?", "other", "tie", False)) == 1
    store.close()
