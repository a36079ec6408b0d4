"""Files that ship with Quench: the Pocket model, evaluation texts, task sets, icons."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """The bundled file or folder ``name`` (with ``/`` between parts); ``FileNotFoundError`` if it does not ship."""
    found = _ROOT.joinpath(*name.split("/"))
    if not found.exists():
        raise FileNotFoundError(f"{name} is not among the bundled resources")
    return found
