"""Where Quench keeps things. ``QUENCH_HOME`` puts all of it under one folder (tests, portable installs)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _data_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "Quench"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Quench"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "quench"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
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
