"""Files of a reference's saved answers (``.qref``), as far as a name and the first bytes tell."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MAGIC: Final = b"QREF"
SUFFIX: Final = ".qref"


def is_fingerprint(path: str) -> bool:
    """Whether ``path`` is meant as a fingerprint: by its name, or by its first bytes."""
    if path.lower().endswith(SUFFIX):
        return True
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


__all__ = ["MAGIC", "SUFFIX", "is_fingerprint"]
