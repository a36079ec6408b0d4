"""How a model's vectors of a text become one: what sentence-transformers' files beside the model say.

``modules.json`` lists the steps; the folder of the one called Pooling has a config.json of its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.sources.files import read_json
from converter.spec import QuenchError

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST = 1 << 20
# GGUF's numbers. Older files have a flag for each way, newer ones a name; the first that is set counts.
_FLAGS = (("pooling_mode_mean_tokens", 1), ("pooling_mode_cls_token", 2), ("pooling_mode_lasttoken", 3))
_NAMES = {"mean": 1, "cls": 2, "lasttoken": 3}


def pooling_entries(folder: Path, architecture: str) -> list[MetaEntry]:
    """The key ``<architecture>.pooling_type``, if the files say it. ``QuenchError`` ``unsupported_pooling``."""
    place = _place(folder)
    if place is None:
        return []
    settings = read_json(folder / place / "config.json")
    for flag, number in _FLAGS:
        if settings.get(flag):
            return [MetaEntry(f"{architecture}.pooling_type", number, "UINT32")]
    name = settings.get("pooling_mode")
    if isinstance(name, str) and name in _NAMES:
        return [MetaEntry(f"{architecture}.pooling_type", _NAMES[name], "UINT32")]
    raise QuenchError(
        "unsupported_pooling",
        "The vectors of this model cannot be made.",
        f"{place}/config.json names a way to join the vectors of tokens that the engine does not know.",
        "Known are the mean, the first token and the last one.",
    )


def _place(folder: Path) -> str | None:
    path = folder / "modules.json"
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return None
    try:
        modules: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(str(error)[:80]) from error
    if not isinstance(modules, list):
        raise _damaged("it is not a list")
    for module in modules:
        kind, place = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if isinstance(kind, str) and kind.endswith("Pooling"):
            # A folder's name, and nothing that leads out of the model's own.
            if not isinstance(place, str) or not place or any(sign in place for sign in "/\\:") or place in (".", ".."):
                raise _damaged(f"the place of its Pooling is {str(place)[:40]!r}")
            return place
    return None


def _damaged(reason: str) -> QuenchError:
    return QuenchError(
        "bad_config",
        "The model's modules.json cannot be read.",
        f"{reason}.",
        "Download modules.json again from the model's page.",
    )
