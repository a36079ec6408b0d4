"""Checksums of whole files that were read once: what a file was, so that a later look can tell whether it still is."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

_TABLE = """CREATE TABLE IF NOT EXISTS sums (
    path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, modified INTEGER NOT NULL,
    sha256 TEXT NOT NULL, checked REAL NOT NULL
)"""


class Sum(NamedTuple):
    """``sha256`` of a file of so many bytes, changed last at ``modified`` (ns), read at ``checked`` (s since 1970)."""

    bytes: int
    modified: int
    sha256: str
    checked: float


class Sums:
    """The sums that are remembered, in a database file. One that cannot be used remembers nothing."""

    def __init__(self, file: Path) -> None:
        self._database: sqlite3.Connection | None = None
        with contextlib.suppress(sqlite3.Error):
            self._database = sqlite3.connect(file, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(_TABLE)

    def get(self, path: str) -> Sum | None:
        if self._database is None:
            return None
        try:
            row = self._database.execute(
                "SELECT bytes, modified, sha256, checked FROM sums WHERE path = ?", (path,)
            ).fetchone()
        except (sqlite3.Error, UnicodeEncodeError):
            return None
        return Sum(*row) if row is not None else None

    def put(self, path: str, size: int, modified: int, sha256: str) -> None:
        if self._database is None:
            return
        with contextlib.suppress(sqlite3.Error, UnicodeEncodeError):
            self._database.execute(
                "INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?)", (path, size, modified, sha256, time.time())
            )

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
