"""Where Quench keeps things. ``QUENCH_HOME`` puts all of it under one folder (tests, portable installs).

Every folder is made on asking; ``QuenchError`` ``no_home`` if it cannot be.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from converter.spec import QuenchError


def _data_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "Quench"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Quench"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "quench"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QuenchError(
            "no_home",
            "The data folder cannot be made.",
            f"{folder}: {error.strerror or error}.",
            "Choose another one with QUENCH_HOME, or make the folder and allow writing in it.",
            exit_status=4 if error.errno == errno.ENOSPC else 3,
        ) from error
    return folder


def home() -> Path:
    """The data folder: ``QUENCH_HOME``, else the platform's place for an application's data. Created."""
    override = os.environ.get("QUENCH_HOME")
    return _made(Path(override).expanduser().absolute() if override else _data_folder())


def cache() -> Path:
    """Files that can be deleted at any time without loss. Created."""
    return _made(home() / "cache")


def jobs() -> Path:
    """One folder a job, with its pinned arguments. Created."""
    return _made(home() / "jobs")


def models() -> Path:
    """Where finished models go unless told otherwise: a folder that people find. Created."""
    return _made(home() / "models" if os.environ.get("QUENCH_HOME") else Path.home() / "Quench")


def logs() -> Path:
    """Logs of workers and crashes. Created."""
    return _made(home() / "logs")


def settings_file() -> Path:
    """The settings, one JSON file."""
    return home() / "settings.json"


def database() -> Path:
    """The SQLite store."""
    return home() / "quench.db"
