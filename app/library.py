"""Models on this machine: which paths are models, how they are called, and what their headers say. No Qt.

Only headers are read, which never runs code. The parts are in :mod:`app.local`.
"""

from __future__ import annotations

from app.local.entry import FileFact, Listed
from app.local.listing import broken, describe, file_bytes, shorten
from app.local.names import BUNDLED, base_name, file_title, in_folder, makes_vectors, type_in_name, type_label
from app.local.places import default_folders, hub_cache
from app.local.walk import candidates, is_gguf, is_model_folder

__all__ = [
    "BUNDLED",
    "FileFact",
    "Listed",
    "base_name",
    "broken",
    "candidates",
    "default_folders",
    "describe",
    "file_bytes",
    "file_title",
    "hub_cache",
    "in_folder",
    "is_gguf",
    "is_model_folder",
    "makes_vectors",
    "shorten",
    "type_in_name",
    "type_label",
]
