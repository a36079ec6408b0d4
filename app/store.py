"""What must survive: conversations, measurements and the list of models. SQLite in WAL mode, migrated step by step.

One connection, used from the thread that made it. Every public method is one transaction, so that a kill at any
moment leaves the last finished one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from converter.spec import QuenchError

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
)


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
    """One message. ``partial``: the reply was still coming when this was written. ``stats``: figures of the reply."""

    id: int
    role: str
    content: str
    stats: dict[str, Any] | None
    partial: bool
    created: float


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
        words = search.split()
        if words:
            match = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
            pattern = "%" + search.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query += (
                " AND (title LIKE ? ESCAPE '\\' OR id IN (SELECT conversation_id FROM messages WHERE id IN"
                " (SELECT rowid FROM message_text WHERE message_text MATCH ?)))"
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

    def pin(self, conversation_id: int, pinned: bool) -> None:
        """Keep a conversation at the top, or not."""
        self._database.execute("UPDATE conversations SET pinned = ? WHERE id = ?", (int(pinned), conversation_id))

    def delete(self, conversation_id: int) -> None:
        """Hide a conversation; :meth:`undelete` brings it back until :meth:`purge`."""
        self._database.execute("UPDATE conversations SET deleted = 1 WHERE id = ?", (conversation_id,))

    def undelete(self, conversation_id: int) -> None:
        """Undo :meth:`delete`."""
        self._database.execute("UPDATE conversations SET deleted = 0 WHERE id = ?", (conversation_id,))

    def purge(self) -> int:
        """Remove deleted conversations for good; returns how many."""
        with self._transaction() as database:
            return database.execute("DELETE FROM conversations WHERE deleted = 1").rowcount

    def messages(self, conversation_id: int) -> list[StoredMessage]:
        """The messages in order."""
        rows = self._database.execute(
            "SELECT id, role, content, stats, partial, created FROM messages WHERE conversation_id = ? ORDER BY id",
            (conversation_id,),
        )
        return [
            StoredMessage(r[0], r[1], r[2], msgspec.json.decode(r[3]) if r[3] else None, bool(r[4]), r[5]) for r in rows
        ]

    def add_message(
        self, conversation_id: int, role: str, content: str, stats: dict[str, Any] | None = None, partial: bool = False
    ) -> int:
        """Append a message and return its id."""
        now = time.time()
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO messages(conversation_id, role, content, stats, partial, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (conversation_id, role, content, _json(stats), int(partial), now),
            )
            database.execute("UPDATE conversations SET updated = ? WHERE id = ?", (now, conversation_id))
        return int(cursor.lastrowid or 0)

    def update_message(
        self, message_id: int, content: str, stats: dict[str, Any] | None = None, partial: bool = False
    ) -> None:
        """Replace a message's text and figures."""
        self._database.execute(
            "UPDATE messages SET content = ?, stats = ?, partial = ? WHERE id = ?",
            (content, _json(stats), int(partial), message_id),
        )

    def delete_message(self, message_id: int) -> None:
        """Remove one message."""
        self._database.execute("DELETE FROM messages WHERE id = ?", (message_id,))

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

    def latest(self, model_path: str, kind: str) -> Measurement | None:
        """The newest result of one kind, or ``None``."""
        return next(iter(self.measurements(model_path, kind)), None)


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


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
