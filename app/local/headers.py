"""What headers said, from start to start: a small database that can be deleted at any time without loss.

It is no part of the store: the reading process writes it, thousands of rows at a time, and must never make the window
wait for its own database. Whatever is wrong with it, headers are read again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec

from app.local.entry import Listed

VERSION = 1
"""Counts up whenever a :class:`Listed` means something else than before."""

_decoder = msgspec.msgpack.Decoder(Listed)
_encoder = msgspec.msgpack.Encoder()
_BATCH = 500
_TABLE = "CREATE TABLE IF NOT EXISTS headers (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, data BLOB NOT NULL)"


class HeaderCache:
    """Descriptions by path and stamp. ``close`` writes what is still waiting."""

    def __init__(self, file: Path) -> None:
        self._database = _opened(file)
        self._rows: dict[str, tuple[str, bytes]] = {}
        self._waiting: list[tuple[str, str, bytes]] = []
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                for path, stamp, data in self._database.execute("SELECT path, stamp, data FROM headers"):
                    self._rows[path] = (stamp, data)

    def get(self, path: str, stamp: str) -> Listed | None:
        """What was said of ``path`` when it had this stamp."""
        row = self._rows.get(path)
        if row is None or row[0] != stamp:
            return None
        try:
            return _decoder.decode(row[1])
        except msgspec.MsgspecError:
            return None

    def put(self, path: str, stamp: str, listed: Listed) -> None:
        try:
            row = (path, stamp, _encoder.encode(listed))
            row[1].encode()
        except UnicodeEncodeError:  # a name that is no UTF-8: read again every time
            return
        self._rows[path] = row[1:]
        self._waiting.append(row)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def keep_only(self, paths: set[str]) -> None:
        """Forget what is no longer there."""
        self.flush()
        gone = [path for path in self._rows if path not in paths]
        for path in gone:
            del self._rows[path]
        if gone:
            self._write("DELETE FROM headers WHERE path = ?", [(path,) for path in gone])

    def flush(self) -> None:
        rows, self._waiting = self._waiting, []
        if rows:
            self._write("INSERT OR REPLACE INTO headers(path, stamp, data) VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        self.flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _write(self, statement: str, rows: list[tuple[str, str, bytes]] | list[tuple[str]]) -> None:
        if self._database is None:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error:
            # A full disk, another window that writes now: what is not kept is read again.
            return


def _opened(file: Path) -> sqlite3.Connection | None:
    """The database, emptied if another version wrote it and made anew if it is damaged; None if that is impossible."""
    for _ in range(2):
        database = None
        try:
            database = sqlite3.connect(file, timeout=0.2)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # losing it costs reading again
            with database:
                if int(database.execute("PRAGMA user_version").fetchone()[0]) != VERSION:
                    database.execute("DROP TABLE IF EXISTS headers")
                    database.execute(f"PRAGMA user_version = {VERSION}")
                database.execute(_TABLE)
                database.execute("SELECT path, stamp, data FROM headers LIMIT 1").fetchone()
            return database
        except sqlite3.OperationalError:
            if database is not None:
                database.close()
            return None
        except sqlite3.DatabaseError:
            if database is not None:
                database.close()
            with contextlib.suppress(OSError):
                file.unlink()
    return None
