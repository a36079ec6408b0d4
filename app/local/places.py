"""Where models lie on this machine: our own folder, the Hugging Face cache, and the folders of other programs.

Nothing is copied from another program's folder and nothing in it is changed: its models are referred to. A place that
does not exist costs one look.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

import resources
from app import paths

BUNDLED, OWN, FOLDER, ADDED, HUB = "bundled", "own", "folder", "added", "hub"
LM_STUDIO, OLLAMA, GPT4ALL, JAN = "lmstudio", "ollama", "gpt4all", "jan"

TITLES = {
    BUNDLED: "Quench", OWN: "Quench", FOLDER: "your folder", ADDED: "added by hand", HUB: "Hugging Face cache",
    LM_STUDIO: "LM Studio", OLLAMA: "Ollama", GPT4ALL: "GPT4All", JAN: "Jan",
}  # fmt: skip
FOREIGN = frozenset({LM_STUDIO, OLLAMA, GPT4ALL, JAN})
"""Places that another program looks after: it has to be told when a file goes, and may fetch it again."""

MAX_SETTINGS_BYTES = 1 << 20


class Place(msgspec.Struct, frozen=True):
    """A folder (or a single model) to look into, and whose it is."""

    kind: str
    root: str


def hub_cache() -> Path:
    """The Hugging Face cache, as huggingface_hub finds it (``HF_HUB_CACHE``, ``HF_HOME``, XDG, home)."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _written(cache)
    if home := os.environ.get("HF_HOME"):
        return _written(home) / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (_written(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def _written(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def default_folders() -> tuple[str, ...]:
    """Where models are looked for without being told and that are there: our outputs, the Hugging Face cache, and the
    folders of other programs."""
    return tuple(place.root for place in _without_being_told() if place.kind != BUNDLED and Path(place.root).is_dir())


def all_places(folders: Iterable[str] = (), known: Iterable[str] = ()) -> tuple[Place, ...]:
    """Everything to look into, whether it is there or not. ``folders`` and ``known`` are a person's own.

    The first place that a model is found in is its place.
    """
    own = [Place(FOLDER, str(Path(folder).expanduser())) for folder in folders]
    single = [Place(ADDED, path) for path in known]
    return tuple(dict.fromkeys([*_without_being_told(), *own, *single]))


def _without_being_told() -> list[Place]:
    try:
        home = Path.home()
    except RuntimeError:  # no home folder at all
        home = Path("/nonexistent")
    return [
        Place(BUNDLED, str(resources.path("pocket"))),
        Place(OWN, str(paths.models())),
        Place(HUB, str(hub_cache())),
        *(Place(LM_STUDIO, str(folder)) for folder in _lm_studio(home)),
        *(Place(OLLAMA, str(folder)) for folder in _ollama(home)),
        Place(GPT4ALL, str(_local_data(home) / "nomic.ai" / "GPT4All")),
        Place(JAN, str(_data(home) / "Jan" / "data" / "llamacpp" / "models")),
    ]


def _lm_studio(home: Path) -> list[Path]:
    """Its usual folders, the earlier first version's too, and the one that was chosen in its settings."""
    homes = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    found = [folder / "models" for folder in homes]
    for folder in homes:
        chosen = _settings(folder / "settings.json").get("downloadsFolder")
        if isinstance(chosen, str) and "\0" not in chosen and len(chosen) < 4096:
            place = Path(chosen)
            # Not the disk itself: a damaged setting must not make us look through everything.
            if place.is_absolute() and place != Path(place.anchor) and place not in found:
                found.append(place)
    return found


def _settings(file: Path) -> dict[str, Any]:
    """Another program's settings; empty if there are none or they make no sense."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if file.is_file() and file.stat().st_size <= MAX_SETTINGS_BYTES:
            value = json.loads(file.read_bytes())
            return value if isinstance(value, dict) else {}
    return {}


def _ollama(home: Path) -> list[Path]:
    """``OLLAMA_MODELS``, else a person's own folder and that of the system's service."""
    if chosen := os.environ.get("OLLAMA_MODELS"):
        return [_written(chosen)]
    system = [Path("/usr/share/ollama/.ollama/models")] if sys.platform == "linux" else []
    return [home / ".ollama" / "models", *system]


def _local_data(home: Path) -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    return _data(home)


def _data(home: Path) -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")


def is_bundled(path: str | os.PathLike[str]) -> bool:
    """Whether this is the model that comes with Quench, or something inside its folder, through whatever links."""
    real, pocket = os.path.realpath(path), os.path.realpath(resources.path("pocket"))
    return real == pocket or real.startswith(pocket + os.sep)


def holds_bundled(path: str | os.PathLike[str]) -> bool:
    """Whether the bundled model lies inside of ``path``, so that deleting that would take it along."""
    real, pocket = os.path.realpath(path), os.path.realpath(resources.path("pocket"))
    return is_bundled(path) or pocket.startswith(real.rstrip(os.sep) + os.sep)
