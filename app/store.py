"""What must survive: conversations, measurements and the list of models. SQLite in WAL mode, migrated step by step.

One connection, used from the thread that made it. Every public method is one transaction, so that a kill at any
moment leaves the last finished one.
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from app.branches import Branches
from app.chat_messages import Constraint
from converter.spec import QuenchError

_TREE = """
    ALTER TABLE messages ADD COLUMN parent INTEGER;
    ALTER TABLE messages ADD COLUMN deleted REAL NOT NULL DEFAULT 0;
    ALTER TABLE conversations ADD COLUMN head INTEGER;
    UPDATE messages SET parent = (SELECT max(earlier.id) FROM messages AS earlier
        WHERE earlier.conversation_id = messages.conversation_id AND earlier.id < messages.id);
    UPDATE conversations SET head = (SELECT max(id) FROM messages WHERE conversation_id = conversations.id);
    CREATE TABLE pieces (
        id INTEGER PRIMARY KEY, message_id INTEGER NOT NULL REFERENCES messages(id) ON DELETE CASCADE,
        content TEXT NOT NULL
    );
    CREATE INDEX pieces_by_message ON pieces(message_id, id);
    CREATE TABLE drafts (
        conversation_id INTEGER NOT NULL, message_id INTEGER NOT NULL, content TEXT NOT NULL,
        files TEXT NOT NULL DEFAULT '[]', PRIMARY KEY (conversation_id, message_id)
    );
"""
"""Messages become a tree: ``parent`` is the message before (NULL at a root), a conversation's ``head`` the last message
of the branch that is shown. ``deleted`` is the time of the deletion, 0 for what is there. ``pieces`` holds an answer
in progress behind its message's own text: one short row each time, whatever the answer's length."""

_CHOICES = """
    ALTER TABLE conversations ADD COLUMN held_to TEXT NOT NULL DEFAULT '';
    CREATE TABLE choices (
        message_id INTEGER PRIMARY KEY REFERENCES messages(id) ON DELETE CASCADE, data BLOB NOT NULL
    );
"""
"""``held_to`` is the constraint of a conversation's answers as JSON, empty for none. ``choices`` are the
probabilities of an answer's tokens, apart from the message: they are read only when somebody wants to see them."""

VOTES = """
    CREATE TABLE votes (
        id INTEGER PRIMARY KEY, test TEXT NOT NULL, reference TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
        slice TEXT NOT NULL, choice TEXT NOT NULL, reference_first INTEGER NOT NULL, created REAL NOT NULL
    );
    CREATE INDEX votes_by_models ON votes(reference, model, id);
"""
"""Votes of blind tests, one row each: two models by their paths, and which of them was preferred on a prompt."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE models (path TEXT PRIMARY KEY, added REAL NOT NULL);
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY, title TEXT NOT NULL, model_path TEXT NOT NULL, system TEXT NOT NULL DEFAULT '',
        pinned INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL, updated REAL NOT NULL
    );
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, conversation_id INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        role TEXT NOT NULL, content TEXT NOT NULL, stats TEXT, partial INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL
    );
    CREATE INDEX messages_by_conversation ON messages(conversation_id, id);
    CREATE VIRTUAL TABLE message_text USING fts5(content, content='messages', content_rowid='id');
    CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
        INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TRIGGER messages_gone AFTER DELETE ON messages BEGIN
        INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
    END;
    CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages BEGIN
        INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
        INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY, model_path TEXT NOT NULL, kind TEXT NOT NULL,
        payload TEXT NOT NULL, created REAL NOT NULL
    );
    CREATE INDEX measurements_by_model ON measurements(model_path, kind, created);
    """,
    "ALTER TABLE measurements ADD COLUMN content TEXT NOT NULL DEFAULT '';",
    _TREE,
    _CHOICES,
    VOTES,
)


KEPT_DELETED = 7 * 24 * 3600.0
"""Seconds for which deleted conversations and messages are still in the file."""


class Conversation(msgspec.Struct, frozen=True):
    """A conversation's row. Times are seconds since 1970."""

    id: int
    title: str
    model_path: str
    system: str
    pinned: bool
    created: float
    updated: float


class StoredMessage(msgspec.Struct, frozen=True):
    """One message. ``partial``: the reply was still coming when this was written. ``stats``: figures of the reply.

    ``parent`` is the message before it. ``alternatives`` are the messages that stand at its place in other branches,
    itself among them, oldest first.
    """

    id: int
    role: str
    content: str
    stats: dict[str, Any] | None
    partial: bool
    created: float
    parent: int | None = None
    alternatives: tuple[int, ...] = ()


class NewMessage(msgspec.Struct, frozen=True):
    """A message for :meth:`Store.add_conversation`; ``parent`` is an earlier position in the list, or ``None``."""

    role: str
    content: str
    parent: int | None
    stats: dict[str, Any] | None = None
    partial: bool = False
    created: float = 0.0


class Hit(msgspec.Struct, frozen=True):
    """A message in which the words were found. ``parts`` is its text around them: (text, is it a hit?) each."""

    conversation: int
    title: str
    message: int
    role: str
    parts: tuple[tuple[str, bool], ...]


class Draft(msgspec.Struct, frozen=True):
    """What was written and not sent: the words, and the files (name, content) that go with them."""

    content: str = ""
    files: tuple[tuple[str, str], ...] = ()


class Measurement(msgspec.Struct, frozen=True):
    """One result of the lab: ``kind`` is ``quality`` or ``bench``, ``payload`` its JSON object.

    ``content`` is the id of what was measured, wherever that lies now (:mod:`converter.identity`); empty for a result
    of an earlier version.
    """

    id: int
    model_path: str
    kind: str
    payload: dict[str, Any]
    created: float
    content: str = ""


class Vote(msgspec.Struct, frozen=True):
    """A vote of a blind test. ``test`` tells the votes of one test from others'; ``choice`` is ``model``,

    ``reference``, ``tie`` or ``skip``; ``reference_first``: the reference's answer stood in the first place.
    """

    test: str
    reference: str
    model: str
    prompt: str
    slice: str
    choice: str
    reference_first: bool
    created: float = 0.0
    id: int = 0


class Store:
    """The open database. ``QuenchError`` if it cannot be used: ``store_damaged``, ``store_newer``, ``store_locked``
    (another program holds it), ``store_unwritable`` (a read-only folder, a full disk)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise unusable(path, error) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA foreign_keys = ON")
            self._migrate()
            self._gather()
            self._tidy()
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise unusable(path, error) from error
        except QuenchError:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the database; the store cannot be used afterwards."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _migrate(self) -> None:
        version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise QuenchError(
                "store_newer",
                "The database was written by a newer Quench.",
                f"{self._path} has version {version}, this program knows {len(MIGRATIONS)}.",
                "Update Quench, or choose another data folder.",
            )
        for step in range(version, len(MIGRATIONS)):
            # executescript commits what is open, so the whole step carries its own transaction.
            self._database.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[step]} PRAGMA user_version = {step + 1}; COMMIT;"
            )

    def _gather(self) -> None:
        """Put the pieces of answers that a killed program left into their messages."""
        if self._database.execute("SELECT 1 FROM pieces LIMIT 1").fetchone() is None:
            return
        with self._transaction() as database:
            database.execute(f"UPDATE messages SET content = {_CONTENT} WHERE id IN (SELECT message_id FROM pieces)")
            database.execute("DELETE FROM pieces")

    def _tidy(self) -> None:
        """Forget what was deleted long ago. Nothing is written where there is no such thing."""
        before = time.time() - KEPT_DELETED
        found = "SELECT 1 FROM {0} WHERE deleted > 0 AND deleted < ? LIMIT 1"
        if any(self._database.execute(found.format(t), (before,)).fetchone() for t in ("conversations", "messages")):
            self.purge(before)

    # ---- models ------------------------------------------------------------------------------------------------

    def known_models(self) -> list[str]:
        """Paths that a person added, oldest first."""
        return [row[0] for row in self._database.execute("SELECT path FROM models ORDER BY added")]

    def add_model(self, path: str) -> None:
        """Remember a model's path; a second time changes nothing."""
        self._database.execute("INSERT OR IGNORE INTO models(path, added) VALUES (?, ?)", (path, time.time()))

    def remove_model(self, path: str) -> None:
        """Forget a path; the file is not touched."""
        self._database.execute("DELETE FROM models WHERE path = ?", (path,))

    # ---- conversations -----------------------------------------------------------------------------------------

    def conversations(self, search: str = "") -> list[Conversation]:
        """All that are not deleted, pinned first, then the last used; ``search`` looks in titles and messages."""
        query = "SELECT id, title, model_path, system, pinned, created, updated FROM conversations WHERE deleted = 0"
        values: list[str] = []
        match = _match(search)
        if match:
            pattern = "%" + search.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query += (
                " AND (title LIKE ? ESCAPE '\\' OR id IN (SELECT conversation_id FROM messages WHERE"
                " deleted = 0 AND id IN (SELECT rowid FROM message_text WHERE message_text MATCH ?)))"
            )
            values = [pattern, match]
        query += " ORDER BY pinned DESC, updated DESC, id DESC"
        return [
            Conversation(r[0], r[1], r[2], r[3], bool(r[4]), r[5], r[6]) for r in self._database.execute(query, values)
        ]

    def conversation(self, conversation_id: int) -> Conversation:
        """One conversation; ``KeyError`` if there is none."""
        row = self._database.execute(
            "SELECT id, title, model_path, system, pinned, created, updated FROM conversations WHERE id = ?",
            (conversation_id,),
        ).fetchone()
        if row is None:
            raise KeyError(conversation_id)
        return Conversation(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6])

    def create_conversation(self, title: str, model_path: str, system: str = "") -> Conversation:
        """A new, empty conversation."""
        now = time.time()
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO conversations(title, model_path, system, created, updated) VALUES (?, ?, ?, ?, ?)",
                (title, model_path, system, now, now),
            )
        return Conversation(int(cursor.lastrowid or 0), title, model_path, system, False, now, now)

    def rename(self, conversation_id: int, title: str) -> None:
        """Give a conversation another title."""
        self._database.execute("UPDATE conversations SET title = ? WHERE id = ?", (title, conversation_id))

    def set_model(self, conversation_id: int, model_path: str, system: str | None = None) -> None:
        """Remember which model (and system prompt) the conversation uses now."""
        self._database.execute(
            "UPDATE conversations SET model_path = ?, system = coalesce(?, system) WHERE id = ?",
            (model_path, system, conversation_id),
        )

    def hold_to(self, conversation_id: int, constraint: Constraint) -> None:
        """Remember what the answers of a conversation must be."""
        text = _json(constraint) if constraint.kind else ""
        self._database.execute("UPDATE conversations SET held_to = ? WHERE id = ?", (text, conversation_id))

    def held_to(self, conversation_id: int) -> Constraint:
        """What :meth:`hold_to` was given last."""
        row = self._database.execute("SELECT held_to FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
        try:
            return msgspec.json.decode(row[0], type=Constraint) if row and row[0] else Constraint()
        except msgspec.DecodeError:
            return Constraint()

    def pin(self, conversation_id: int, pinned: bool) -> None:
        """Keep a conversation at the top, or not."""
        self._database.execute("UPDATE conversations SET pinned = ? WHERE id = ?", (int(pinned), conversation_id))

    def delete(self, conversation_id: int) -> None:
        """Hide a conversation; :meth:`undelete` brings it back until :meth:`purge`."""
        self._database.execute("UPDATE conversations SET deleted = ? WHERE id = ?", (time.time(), conversation_id))

    def undelete(self, conversation_id: int) -> None:
        """Undo :meth:`delete`."""
        self._database.execute("UPDATE conversations SET deleted = 0 WHERE id = ?", (conversation_id,))

    def purge(self, before: float = math.inf) -> int:
        """Remove what was deleted before that time for good; returns how many conversations."""
        gone = "deleted > 0 AND deleted < ?"
        with self._transaction() as database:
            count = database.execute(f"DELETE FROM conversations WHERE {gone}", (before,)).rowcount
            lost = f"SELECT id FROM messages WHERE {gone}"
            for table, column in (("messages", "parent"), ("conversations", "head")):
                up = f"(SELECT above.parent FROM messages AS above WHERE above.id = {table}.{column})"
                while database.execute(
                    f"UPDATE {table} SET {column} = {up} WHERE {column} IN ({lost})", (before,)
                ).rowcount:
                    pass  # one step up each time, past every message that goes
            database.execute(f"DELETE FROM messages WHERE {gone}", (before,))
            database.execute(
                "DELETE FROM drafts WHERE conversation_id > 0 AND conversation_id NOT IN (SELECT id FROM conversations)"
                " OR message_id > 0 AND message_id NOT IN (SELECT id FROM messages)"
            )
        return count

    def add_conversation(
        self, title: str, model_path: str, system: str, messages: list[NewMessage], head: int | None = None
    ) -> Conversation:
        """A conversation with all its branches at once. ``head``: the position of the last message that is shown."""
        now = time.time()
        ids: list[int] = []
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO conversations(title, model_path, system, created, updated) VALUES (?, ?, ?, ?, ?)",
                (title, model_path, system, now, now),
            )
            made = int(cursor.lastrowid or 0)
            for entry in messages:
                parent = None if entry.parent is None else ids[entry.parent]
                ids.append(self._insert(made, parent, entry, now))
            last = (ids[-1] if ids else None) if head is None else ids[head]
            database.execute("UPDATE conversations SET head = ? WHERE id = ?", (last, made))
        return self.conversation(made)

    # ---- messages: a tree of branches --------------------------------------------------------------------------

    def messages(self, conversation_id: int) -> list[StoredMessage]:
        """The messages of the branch that is shown, in order."""
        head = self._database.execute("SELECT head FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
        branches = self._branches(conversation_id)
        return self._read(branches, branches.path(head[0] if head else None))

    def all_messages(self, conversation_id: int) -> list[StoredMessage]:
        """The messages of all branches, each after its parent."""
        branches = self._branches(conversation_id)
        return self._read(branches, branches.alive())

    def _branches(self, conversation_id: int) -> Branches:
        return Branches(
            self._database.execute(
                "SELECT id, parent, deleted > 0 FROM messages WHERE conversation_id = ? ORDER BY id", (conversation_id,)
            ).fetchall()
        )

    def _read(self, branches: Branches, ids: list[int]) -> list[StoredMessage]:
        rows = self._database.execute(
            f"SELECT id, role, {_CONTENT}, stats, partial, created FROM messages"
            " WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (_json(ids),),
        )
        return [
            StoredMessage(
                r[0], r[1], r[2], msgspec.json.decode(r[3]) if r[3] else None, bool(r[4]), r[5],
                branches.parent(r[0]), branches.alternatives(r[0]),
            )
            for r in rows
        ]  # fmt: skip

    def add_message(
        self, conversation_id: int, role: str, content: str, stats: dict[str, Any] | None = None, partial: bool = False
    ) -> int:
        """Append a message to the branch that is shown and return its id."""
        return self._add(conversation_id, self.head(conversation_id), NewMessage(role, content, None, stats, partial))

    def add_alternative(self, message_id: int, role: str, content: str, partial: bool = False) -> int:
        """Begin a branch: a message at the place of ``message_id``, which stays. Returns its id; it is shown now."""
        conversation, parent = self._database.execute(
            "SELECT conversation_id, parent FROM messages WHERE id = ?", (message_id,)
        ).fetchone()
        return self._add(conversation, parent, NewMessage(role, content, None, None, partial))

    def _add(self, conversation: int, after: int | None, made: NewMessage) -> int:
        now = time.time()
        with self._transaction() as database:
            number = self._insert(conversation, after, made, now)
            database.execute("UPDATE conversations SET updated = ?, head = ? WHERE id = ?", (now, number, conversation))
        return number

    def _insert(self, conversation: int, after: int | None, made: NewMessage, now: float) -> int:
        values = (made.role, made.content, _json(made.stats), int(made.partial), made.created or now)
        cursor = self._database.execute(
            "INSERT INTO messages(conversation_id, parent, role, content, stats, partial, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (conversation, after, *values),
        )
        return int(cursor.lastrowid or 0)

    def append_text(self, message_id: int, text: str) -> None:
        """More text of an answer in progress: it outlives the process from here on. :meth:`update_message` ends it."""
        self._database.execute("INSERT INTO pieces(message_id, content) VALUES (?, ?)", (message_id, text))

    def update_message(
        self, message_id: int, content: str, stats: dict[str, Any] | None = None, partial: bool = False
    ) -> None:
        """Replace a message's text and figures."""
        with self._transaction() as database:
            database.execute("DELETE FROM pieces WHERE message_id = ?", (message_id,))
            database.execute(
                "UPDATE messages SET content = ?, stats = ?, partial = ? WHERE id = ?",
                (content, _json(stats), int(partial), message_id),
            )

    def head(self, conversation_id: int) -> int | None:
        """The last message of the branch that is shown, or ``None`` if it is empty."""
        row = self._database.execute("SELECT head FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
        path = self._branches(conversation_id).path(row[0] if row else None)
        return path[-1] if path else None

    def choose(self, message_id: int) -> None:
        """Show the branch through a message; below it the one that was written last."""
        row = self._database.execute("SELECT conversation_id FROM messages WHERE id = ?", (message_id,)).fetchone()
        if row is not None:
            last = self._branches(row[0]).newest(message_id)
            self._database.execute("UPDATE conversations SET head = ? WHERE id = ?", (last, row[0]))

    def set_head(self, conversation_id: int, message_id: int | None) -> None:
        """Show the branch that ends with this message."""
        self._database.execute("UPDATE conversations SET head = ? WHERE id = ?", (message_id, conversation_id))

    def subtree(self, conversation_id: int, message_id: int) -> list[int]:
        """A message and all that follow it in any branch."""
        return self._branches(conversation_id).below(message_id)

    def hide_messages(self, ids: list[int]) -> None:
        """Delete messages until :meth:`unhide_messages`; what follows them stands after what came before them."""
        self._database.execute(
            "UPDATE messages SET deleted = ? WHERE id IN (SELECT value FROM json_each(?))", (time.time(), _json(ids))
        )

    def unhide_messages(self, ids: list[int]) -> None:
        """Undo :meth:`hide_messages`."""
        self._database.execute(
            "UPDATE messages SET deleted = 0 WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),)
        )

    def delete_message(self, message_id: int) -> None:
        """Remove one message for good; what follows it stands after its parent."""
        with self._transaction() as database:
            for table, column in (("messages", "parent"), ("conversations", "head")):
                database.execute(
                    f"UPDATE {table} SET {column} = (SELECT parent FROM messages WHERE id = ?1) WHERE {column} = ?1",
                    (message_id,),
                )
            database.execute("DELETE FROM messages WHERE id = ?", (message_id,))
            database.execute("DELETE FROM drafts WHERE message_id = ?", (message_id,))

    def search(self, words: str, limit: int = 100) -> list[Hit]:
        """The newest messages, of any branch, that have all the words (or words that begin so)."""
        match = _match(words)
        if not match:
            return []
        found = self._database.execute(
            "SELECT m.id, m.conversation_id, c.title, m.role FROM message_text AS t"
            " JOIN messages AS m ON m.id = t.rowid JOIN conversations AS c ON c.id = m.conversation_id"
            " WHERE t.message_text MATCH ? AND m.deleted = 0 AND c.deleted = 0 ORDER BY m.id DESC LIMIT ?",
            (match, limit),
        ).fetchall()
        # Apart, because it reads a whole message: only for those that are shown.
        around = dict(
            self._database.execute(
                "SELECT rowid, snippet(message_text, 0, char(2), char(3), '…', 16) FROM message_text"
                " WHERE message_text MATCH ? AND rowid IN (SELECT value FROM json_each(?))",
                (match, _json([row[0] for row in found])),
            ).fetchall()
        )
        return [Hit(row[1], row[2], row[0], row[3], _parts(around.get(row[0], ""))) for row in found]

    def keep_choices(self, message_id: int, data: bytes | None) -> None:
        """Keep the probabilities of an answer's tokens, packed; ``None`` forgets those of an earlier text."""
        if data is None:
            self._database.execute("DELETE FROM choices WHERE message_id = ?", (message_id,))
        else:
            self._database.execute("INSERT OR REPLACE INTO choices VALUES (?, ?)", (message_id, data))

    def choices(self, message_id: int) -> bytes | None:
        """What :meth:`keep_choices` was given."""
        row = self._database.execute("SELECT data FROM choices WHERE message_id = ?", (message_id,)).fetchone()
        return row[0] if row else None

    # ---- drafts ------------------------------------------------------------------------------------------------

    def draft(self, conversation_id: int | None, message_id: int = 0) -> Draft:
        """What was written in a conversation (``None``: in a new one), or as another version of a message."""
        row = self._database.execute(
            "SELECT content, files FROM drafts WHERE conversation_id = ? AND message_id = ?",
            (conversation_id or 0, message_id),
        ).fetchone()
        return Draft() if row is None else Draft(row[0], msgspec.json.decode(row[1], type=tuple[tuple[str, str], ...]))

    def keep_draft(
        self,
        conversation_id: int | None,
        content: str,
        files: tuple[tuple[str, str], ...] | None = None,
        message_id: int = 0,
    ) -> None:
        """Keep what was written; ``files`` ``None`` leaves them as they are kept. Nothing at all forgets the draft."""
        key = (conversation_id or 0, message_id)
        with self._transaction() as database:
            if content or files:
                database.execute(
                    "INSERT INTO drafts(conversation_id, message_id, content, files)"
                    " VALUES (?1, ?2, ?3, coalesce(?4, '[]'))"
                    " ON CONFLICT DO UPDATE SET content = ?3, files = coalesce(?4, files)",
                    (*key, content, None if files is None else _json(files)),
                )
            elif files is None:
                database.execute("UPDATE drafts SET content = '' WHERE conversation_id = ? AND message_id = ?", key)
            else:
                database.execute("DELETE FROM drafts WHERE conversation_id = ? AND message_id = ?", key)

    # ---- measurements ------------------------------------------------------------------------------------------

    def add_measurement(self, model_path: str, kind: str, payload: dict[str, Any], content: str = "") -> int:
        """Keep one result and return its id."""
        cursor = self._database.execute(
            "INSERT INTO measurements(model_path, kind, payload, created, content) VALUES (?, ?, ?, ?, ?)",
            (model_path, kind, msgspec.json.encode(payload).decode(), time.time(), content),
        )
        return int(cursor.lastrowid or 0)

    def measurements(self, model_path: str | None = None, kind: str | None = None) -> list[Measurement]:
        """Results, newest first, of one model or all, of one kind or all."""
        rows = self._database.execute(
            "SELECT id, model_path, kind, payload, created, content FROM measurements"
            " WHERE (?1 IS NULL OR model_path = ?1) AND (?2 IS NULL OR kind = ?2) ORDER BY created DESC, id DESC",
            (model_path, kind),
        )
        return [Measurement(r[0], r[1], r[2], msgspec.json.decode(r[3]), r[4], r[5]) for r in rows]

    def outlines(
        self, kind: str, without: Sequence[str], limit: int, *, paths: Sequence[str] = (), contents: Sequence[str] = ()
    ) -> list[Measurement]:
        """The newest ``limit`` results of one kind, newest first, their payloads ``without`` these keys.

        Of the models that lie at ``paths`` or have one of ``contents``; of all where neither is given.
        """
        removed = "".join(f", '$.{key}'" for key in without)
        rows = self._database.execute(
            f"SELECT id, model_path, kind, json_remove(payload{removed}), created, content FROM measurements"
            " WHERE kind = ?1 AND (?2 OR model_path IN (SELECT value FROM json_each(?3))"
            " OR content IN (SELECT value FROM json_each(?4))) ORDER BY created DESC, id DESC LIMIT ?5",
            (kind, not paths and not contents, _json(list(paths)), _json(list(contents)), limit),
        )
        return [Measurement(r[0], r[1], r[2], msgspec.json.decode(r[3]), r[4], r[5]) for r in rows]

    def latest(self, model_path: str, kind: str) -> Measurement | None:
        """The newest result of one kind, or ``None``."""
        return next(iter(self.measurements(model_path, kind)), None)

    # ---- votes -------------------------------------------------------------------------------------------------

    def add_vote(self, vote: Vote) -> int:
        """Keep a vote and return its id."""
        cursor = self._database.execute(
            "INSERT INTO votes(test, reference, model, prompt, slice, choice, reference_first, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                vote.test, vote.reference, vote.model, vote.prompt, vote.slice, vote.choice, int(vote.reference_first),
                vote.created or time.time(),
            ),
        )  # fmt: skip
        return int(cursor.lastrowid or 0)

    def remove_vote(self, vote_id: int) -> None:
        """Take a vote back."""
        self._database.execute("DELETE FROM votes WHERE id = ?", (vote_id,))

    def votes(self, reference: str, model: str) -> list[Vote]:
        """All votes on these two, oldest first."""
        rows = self._database.execute(
            "SELECT test, reference, model, prompt, slice, choice, reference_first, created, id FROM votes"
            " WHERE reference = ? AND model = ? ORDER BY id",
            (reference, model),
        )
        return [Vote(r[0], r[1], r[2], r[3], r[4], r[5], bool(r[6]), r[7], r[8]) for r in rows]


_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNWRITABLE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
}


def unusable(path: Path, error: sqlite3.DatabaseError) -> QuenchError:
    """What the database's own error means to a person; also for one that comes up in the middle of the work."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended code without its extension
    if code in _LOCKED:
        return QuenchError(
            "store_locked",
            "Another program holds the conversations database.",
            f"{path}: {error}",
            "Close the other window of Quench, then try again.",
        )
    if code in _UNWRITABLE:
        return QuenchError(
            "store_unwritable",
            "The conversations database cannot be written.",
            f"{path}: {error}",
            "Free some disk space, allow writing in the folder, or choose another one with QUENCH_HOME.",
            exit_status=4 if code == sqlite3.SQLITE_FULL else 3,
        )
    return QuenchError(
        "store_damaged",
        "The conversations database cannot be read.",
        f"{path}: {error}",
        "Move the file away to start with an empty one; it is not deleted.",
    )


_CONTENT = (
    "content || coalesce((SELECT group_concat(p.content, '') FROM (SELECT content FROM pieces"
    " WHERE message_id = messages.id ORDER BY id) AS p), '')"
)
"""A message's text with what has come of an answer in progress."""


def _match(words: str) -> str:
    """All the words, taken literally, each the beginning of one in the text."""
    return " ".join('"' + word.replace('"', '""') + '"*' for word in words.split())


def _parts(snippet: str) -> tuple[tuple[str, bool], ...]:
    """Text with the marks 2 and 3 around hits, as parts."""
    hit, parts = False, []
    for part in re.split("([\2\3])", snippet):
        if part in ("\2", "\3"):
            hit = part == "\2"
        elif part:
            parts.append((part, hit))
    return tuple(parts)


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
