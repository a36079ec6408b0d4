"""What a session makes once, however many processes its tests run in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """What ``make`` returned for a new folder ``name``; the first process makes it while the others wait."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, note = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not note.exists():
            folder.mkdir(exist_ok=True)
            note.write_text(str(make(folder)), "utf-8")
    return Path(note.read_text("utf-8"))
