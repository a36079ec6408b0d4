"""The pinned engine's source archive, fetched at run time for slow tests; nothing of it is kept in the repository."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest


def unpack(folder: Path, part: str = "") -> Path:
    """Download the archive into ``folder`` and unpack it (only members whose name holds ``part``); returns its root.

    Skips the test, in words, where the package index cannot be reached.
    """
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", wanted]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the engine's source archive cannot be fetched: {done.stderr.strip()[-300:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        members = [member for member in archive.getmembers() if part in member.name]
        # Python 3.11.0 to 3.11.3 have no filter; the archive's checksum is the index's own.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, members, **safely)  # type: ignore[arg-type]
    return next(path for path in folder.iterdir() if path.is_dir())
